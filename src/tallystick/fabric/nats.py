"""Who may say and hear what on the bus: what the chassis needs (`chassis.bus.permissions`), granted as the charters say.

A service may publish its own facts and nobody else's: that is what makes a fact's origin certain. It may read the
streams that its charter consumes, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping

from tallystick.chassis import bus
from tallystick.chassis.charter import Charter

#: The service that says what is revoked; everyone listens.
REVOKES = "identity"


def inbox(user: str) -> str:
    """The prefix of a user's private reply subjects: with NATS's common `_INBOX` each would hear all answers."""
    return f"_INBOX.{user}"


def permissions(charters: Mapping[str, Charter]) -> dict[str, bus.Permissions]:
    """Each service's user: subjects, with NATS's wildcards; what is not named is denied."""
    return {
        name: bus.permissions(name, charter.consumes, issues_revocations=name == REVOKES)
        for name, charter in charters.items()
    }
