"""The queries of the continuous check and of quarantine. Faults are texts; there are none if all is well."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from tallystick.chassis.db import Database, Queries, Query, Transaction
from tallystick.services.ledger.model import CheckedBook

queries: Final = Queries.load("tallystick.services.ledger", "check")

#: How many rows were checked, the id of the last one, and the faults.
Slice = tuple[int, UUID | None, list[str]]
#: A sum of what was dated back, as a position: its account, its span (None: after all sums of the account), and its start.
Cell = tuple[UUID | None, str | None, datetime | None]
NO_CELL: Final[Cell] = (None, None, None)


class Checks:
    async def books(
        self, database: Database, *, quarantined: bool | None = None, after: int = 0, limit: int = 1_000_000
    ) -> list[CheckedBook]:
        """All books (None), those in quarantine, or those not in quarantine; by number, after `after`."""
        return [CheckedBook(*row) for row in await database.fetch(queries.books, quarantined, after, limit)]

    async def book(self, database: Database, number: int) -> CheckedBook | None:
        found = await self.books(database, after=number - 1, limit=1)
        return found[0] if found and found[0].id == number else None

    async def balance(self, database: Database, book: int) -> list[str]:
        return [row[0] for row in await database.fetch(queries.balance, book)]

    async def transfers(self, database: Database, book: int, after: int, upto: int) -> list[str]:
        return [row[0] for row in await database.fetch(queries.transfers, book, after, upto)]

    async def accounts(self, database: Database, book: int, after: UUID | None, limit: int) -> Slice:
        return await self._slice(database, queries.accounts, book, after, limit)

    async def holds(self, database: Database, book: int, after: UUID | None, limit: int) -> Slice:
        return await self._slice(database, queries.holds, book, after, limit)

    async def reversals(self, database: Database, book: int, after: UUID | None, limit: int) -> Slice:
        return await self._slice(database, queries.reversals, book, after, limit)

    async def adjustments(self, database: Database, book: int, after: Cell, limit: int) -> tuple[int, Cell, list[str]]:
        """Checks sums of what was dated back. Returns how many rows it read, the next position (no account: the end), and the faults."""
        row = await database.fetchrow(queries.adjustments, book, *after, limit)
        return (0, NO_CELL, []) if row is None else (row[0], (row[1], row[2], row[3]), row[4] or [])

    @staticmethod
    async def _slice(database: Database, query: Query, book: int, after: UUID | None, limit: int) -> Slice:
        row = await database.fetchrow(query, book, after, limit)
        return (0, None, []) if row is None else (row[0], row[1], row[2] or [])

    async def quarantine(self, tx: Transaction, book: int, reason: str, now: datetime) -> CheckedBook | None:
        """Puts the book in quarantine. Returns it, or None if it already was."""
        row = await tx.fetchrow(queries.quarantine, book, reason, now)
        return None if row is None else CheckedBook(*row)

    async def release(self, tx: Transaction, book: int) -> bool:
        """Takes the book out of quarantine. Returns whether it was in it."""
        return await tx.fetchval(queries.release, book) is not None
