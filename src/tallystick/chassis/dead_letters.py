"""Dead letters, facts that could not be handled: list them, have them handled again, or discard them.

`replay` only asks for it; the service itself handles the letter, within a second or two. So whoever asks, the usual handler runs, in
one transaction with the letter's new state.
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
    """Fact `seq` of `source`, as `consumer` received it (`fact`, raw JSON). `error` has exception types and code places of the last
    failure, never a message.
    """

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
    """At most `limit` letters, oldest first; pass the last one's id as `after` to continue."""
    return [_letter(row) for row in await database.fetch(Q.letters, list(states), after, limit)]


async def count_letters(database: Database, *, states: Sequence[State] = OPEN) -> int:
    """How many there are."""
    return int(await database.fetchval(Q.letters_count, list(states)))


async def replay(database: Database, letters: Sequence[UUID], *, reason: str) -> list[UUID]:
    """Ask for letters to be handled again; returns those that were waiting, which are the ones that will be."""
    return [row["id"] for row in await database.fetch(Q.request_replay, list(letters), reason[:2000])]


async def discard(database: Database, letters: Sequence[UUID], *, reason: str) -> list[UUID]:
    """Decide that letters need not be handled, also those that `replay` was called for. The letters are kept, with the reason. Returns
    those that were open.
    """
    return [row["id"] for row in await database.fetch(Q.discard, list(letters), reason[:2000])]


def _letter(row: Row) -> DeadLetter:
    return DeadLetter(**dict(row.items()))
