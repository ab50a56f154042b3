"""Who may say and hear what on the bus, as NATS subject permissions.

A service may publish its own facts and nobody else's: that is what makes a fact's origin certain. It may create its own
stream but not change it (a changed stream could republish under another service's subject), and read others' streams
only through a consumer that bears its own name, where its charter says that it consumes them.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tallystick.chassis.charter import Charter

#: The service that says what is revoked, and where: everyone listens there.
REVOKES = "identity"
REVOCATIONS = "identity.revocations"


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    """Subjects, with NATS's wildcards; what is not named is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def subject(service: str) -> str:
    """Where a service's facts are published."""
    return f"facts.{service}"


def stream(service: str) -> str:
    """The JetStream stream that keeps them."""
    return f"facts-{service}"


def inbox(service: str) -> str:
    """The prefix of a service's private reply subjects: with NATS's common `_INBOX` each would hear all answers."""
    return f"_INBOX.{service}"


def permissions(charters: Mapping[str, Charter]) -> dict[str, Permissions]:
    """Each service's user."""
    return {name: _of(name, charter) for name, charter in charters.items()}


def _of(name: str, charter: Charter) -> Permissions:
    publish = [
        subject(name),
        f"$JS.API.STREAM.CREATE.{stream(name)}",
        f"$JS.API.STREAM.INFO.{stream(name)}",
    ]
    if name == REVOKES:
        publish.append(REVOCATIONS)
    for source in charter.consumes:
        consumer = f"{stream(source)}.{name}"
        publish += [
            f"$JS.API.STREAM.INFO.{stream(source)}",
            f"$JS.API.CONSUMER.CREATE.{consumer}",
            f"$JS.API.CONSUMER.CREATE.{consumer}.{subject(source)}",
            f"$JS.API.CONSUMER.DURABLE.CREATE.{consumer}",
            f"$JS.API.CONSUMER.INFO.{consumer}",
            f"$JS.API.CONSUMER.DELETE.{consumer}",
            f"$JS.API.CONSUMER.MSG.NEXT.{consumer}",
            f"$JS.ACK.{consumer}.>",
        ]
    return Permissions(publish=tuple(publish), subscribe=(f"{inbox(name)}.>", REVOCATIONS))
