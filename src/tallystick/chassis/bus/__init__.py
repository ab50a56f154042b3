"""Facts between services, on NATS JetStream.

Out: `chassis.outbox` and its relay. In: `Subscription` and `Consumer`. `Bus` is the connection itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tallystick.chassis.bus.connection import Bus, BusUnavailable
from tallystick.chassis.bus.consumer import Consumer, Hole, Subscription
from tallystick.chassis.bus.streams import StreamSettings
from tallystick.chassis.fact import Delivered

REVOCATIONS = "identity.revocations"


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a service's user may publish and subscribe to; everything else is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def permissions(service: str, sources: Iterable[str], *, issues_revocations: bool = False) -> Permissions:
    """What the bus of `service` needs that takes facts from `sources`: its own stream, the others' to read, nothing else.

    A service makes its stream and can't change it: a stream's settings may copy another's content into it (`sources`)
    and publish its own under another's subject (`republish`), and the server does both with its own rights.
    Everyone hears of revocations; who issues them says so.
    """
    own = f"facts-{service}"
    publish = [
        f"facts.{service}",
        f"stored.{service}",
        f"$JS.API.STREAM.CREATE.{own}",
        f"$JS.API.STREAM.INFO.{own}",
        f"$JS.API.DIRECT.GET.{own}",
    ]
    subscribe = [f"_INBOX.{service}.>", REVOCATIONS]
    for source in sorted(set(sources)):
        publish += [f"$JS.API.STREAM.INFO.facts-{source}", f"$JS.API.DIRECT.GET.facts-{source}"]
        subscribe.append(f"stored.{source}")
    if issues_revocations:
        publish.append(REVOCATIONS)
    return Permissions(tuple(publish), tuple(subscribe))


__all__ = [
    "REVOCATIONS", "Bus", "BusUnavailable", "Consumer", "Delivered", "Hole", "Permissions", "StreamSettings", "Subscription",
    "permissions",
]  # fmt: skip
