"""The life of a signing key: `pending -> active -> retiring -> retired`.

A key is published well before it signs, so that nobody receives a token whose key they have not fetched yet. It stays published after it
stops signing, until its last token has expired. `plan` decides what happens when.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

Purpose = Literal["access", "transaction"]
#: Keys have one purpose each: one that signs for the outside never signs for the inside.
PURPOSES: tuple[Purpose, ...] = ("access", "transaction")

State = Literal["pending", "active", "retiring", "retired"]


@dataclass(frozen=True, slots=True)
class Key:
    kid: str
    purpose: Purpose
    state: State
    public_jwk: Mapping[str, Any]
    created_at: datetime
    activated_at: datetime | None = None
    retiring_at: datetime | None = None
    retired_at: datetime | None = None

    @property
    def published(self) -> bool:
        return self.state != "retired"


@dataclass(frozen=True, slots=True)
class Rotation:
    """How long a key signs, and how long it is published before and after that."""

    life: timedelta = timedelta(days=7)
    publish_ahead: timedelta = timedelta(minutes=20)
    """At least twice as long as anyone caches the key set."""
    keep: timedelta = timedelta(minutes=15)
    """At least the longest life of a token, plus the difference between clocks."""


@dataclass(frozen=True, slots=True)
class Create:
    """Make a new key. `state` is `active` only if there is no active or pending key."""

    purpose: Purpose
    state: State


@dataclass(frozen=True, slots=True)
class Move:
    kid: str
    purpose: Purpose
    to: State


Step = Create | Move


def created(kid: str, step: Create, public_jwk: Mapping[str, Any], now: datetime) -> Key:
    """The key that a step asks for."""
    active_since = now if step.state == "active" else None
    return Key(kid, step.purpose, step.state, public_jwk, now, activated_at=active_since)


def plan(keys: Sequence[Key], now: datetime, rotation: Rotation) -> list[Step]:
    """The steps due now. After they are done nothing more is due, so any replica may run this at any time."""
    steps: list[Step] = []
    for purpose in PURPOSES:
        steps.extend(_plan([key for key in keys if key.purpose == purpose], purpose, now, rotation))
    return steps


def _plan(keys: Sequence[Key], purpose: Purpose, now: datetime, rotation: Rotation) -> Iterator[Step]:
    active = next((key for key in keys if key.state == "active"), None)
    pending = next((key for key in keys if key.state == "pending"), None)
    for key in keys:
        if key.state == "retiring" and (key.retiring_at is None or key.retiring_at + rotation.keep <= now):
            yield Move(key.kid, purpose, "retired")
    if active is None:
        yield Move(pending.kid, purpose, "active") if pending else Create(purpose, "active")
        return
    ends = (active.activated_at or active.created_at) + rotation.life
    if pending is None:
        if now >= ends - rotation.publish_ahead:
            yield Create(purpose, "pending")
    elif now >= ends and now >= pending.created_at + rotation.publish_ahead:
        # The old one first: the database too forbids two active keys of one purpose.
        yield Move(active.kid, purpose, "retiring")
        yield Move(pending.kid, purpose, "active")
