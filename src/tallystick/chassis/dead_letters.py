"""Facts that could not be handled: list them, have them handled again, or decide that they need not be.

Replaying is done by the service itself, within a second or two: this only asks for it. So the same handler runs, in the same transaction
as the letter's new state, whoever asks and from wherever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias
from uuid import UUID

from tallystick.chassis.bus.consumer import Q
from tallystick.chassis.db import Database, Row

State: TypeAlias = Literal["waiting", "requested", "replayed", "discarded"]
OPEN: Final[tuple[State, ...]] = ("waiting", "requested")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Fact `seq` of `source`, as `consumer` got it (`fact`, raw JSON). `error`: types and places of the last failure, never a message."""

    id: UUID
    source: str
    consumer: str
    seq: int
    type: str
    fact: bytes
    error: str
    attempts: int
    state: State
    at: datetime
    ended_at: datetime | None
    reason: str | None


async def list_letters(
    database: Database, *, states: Sequence[State] = OPEN, after: UUID | None = None, limit: int = 100
) -> list[DeadLetter]:
    """Oldest first; give the last one's id as `after` to go on."""
    return [_letter(row) for row in await database.fetch(Q.letters, list(states), after, limit)]


async def count_letters(database: Database, *, states: Sequence[State] = OPEN) -> int:
    """How many there are."""
    return int(await database.fetchval(Q.letters_count, list(states)))


async def replay(database: Database, letters: Sequence[UUID], *, reason: str) -> list[UUID]:
    """Ask for waiting letters to be handled again; returns those that were waiting."""
    return [row["id"] for row in await database.fetch(Q.request_replay, list(letters), reason[:2000])]


async def discard(database: Database, letters: Sequence[UUID], *, reason: str) -> list[UUID]:
    """Decide that open letters need not be handled, also those asked to be handled again; the reason and the letters stay. Returns those
    that were open.
    """
    return [row["id"] for row in await database.fetch(Q.discard, list(letters), reason[:2000])]


def _letter(row: Row) -> DeadLetter:
    return DeadLetter(**dict(row.items()))
