"""Facts between services, on NATS JetStream.

Out: `chassis.outbox` and its relay. In: `Subscription` and `Consumer`. `Bus` is the connection itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tallystick.chassis.bus import streams
from tallystick.chassis.bus.connection import Bus, BusUnavailable
from tallystick.chassis.bus.consumer import Consumer, Subscription
from tallystick.chassis.bus.streams import Hole, StreamSettings
from tallystick.chassis.fact import Delivered

#: The subject on which identity publishes revocations (`chassis.auth.revocation`).
REVOCATIONS = "identity.revocations"


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a service's user may publish and subscribe to. Everything else is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def permissions(service: str, sources: Iterable[str], *, issues_revocations: bool = False) -> Permissions:
    """The permissions that `service` needs to take facts from `sources`: to write its own stream, and to read theirs.

    Alone they protect nothing: a publisher may name any subject for the reply, NATS does not check that, and the server replies there
    with its own rights. But a reply can't leave the account, and `fabric.nats` gives each service its own. Every service may hear of
    revocations; only one with `issues_revocations` may publish them.
    """
    publish = [streams.subject(service), streams.stored_subject(service), streams.create_subject(service)]
    subscribe = [f"_INBOX.{service}.>", REVOCATIONS]
    for source in dict.fromkeys((service, *sorted(sources))):
        publish += [streams.info_subject(source), streams.get_subject(source)]
    subscribe += [streams.stored_subject(source) for source in sorted(set(sources))]
    if issues_revocations:
        publish.append(REVOCATIONS)
    return Permissions(tuple(publish), tuple(subscribe))


__all__ = [
    "REVOCATIONS", "Bus", "BusUnavailable", "Consumer", "Delivered", "Hole", "Permissions", "StreamSettings", "Subscription",
    "permissions",
]  # fmt: skip
