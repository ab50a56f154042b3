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

#: Where identity tells what it takes back (`chassis.auth.revocation`).
REVOCATIONS = "identity.revocations"


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a service's user may publish and subscribe to; everything else is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def permissions(service: str, sources: Iterable[str], *, issues_revocations: bool = False) -> Permissions:
    """What the bus of `service` needs that takes facts from `sources`: its own stream, the others' to read, nothing else.

    By themselves these keep nobody out: NATS does not ask whether a publisher may use the subject where it wants the answer, and the
    server answers there with its own rights. What such an answer can't leave is the account: `fabric.nats` gives each service one.
    Everyone hears of revocations; who issues them says so.
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
