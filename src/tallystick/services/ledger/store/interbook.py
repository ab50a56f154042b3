"""Money between books: what is in flight, and what went through the transit accounts."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from tallystick.chassis.db import Database, Transaction
from tallystick.kernel.ids import TransferId
from tallystick.services.ledger.model import InFlight, InTransit
from tallystick.services.ledger.store.sql import of_interbook as queries

#: The position before the first hold.
FIRST: Final = (UUID(int=0), UUID(int=0))


class Interbook:
    async def in_flight(
        self, database: Database, after: tuple[UUID, UUID], before: datetime, limit: int
    ) -> list[InFlight]:
        """A page of open holds of transfers between books that were recorded `before` an instant. `after` is the last one's (transit, hold)."""
        return [InFlight(*row) for row in await database.fetch(queries.in_flight, *after, before, limit)]

    async def endings(
        self, database: Database, book: int, hold: TransferId
    ) -> list[tuple[str, str | None, str | None]]:
        """Kind, code and metadata of the captures, voids and other transfers on a hold."""
        return [(row[0], row[1], row[2]) for row in await database.fetch(queries.endings, book, hold)]

    async def in_transit(self, source: Database | Transaction, tenant: str | None = None) -> list[InTransit]:
        return [InTransit(*row) for row in await source.fetch(queries.in_transit, tenant)]
