"""Transactions: posted and read as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from tallystick.chassis.db import Database
from tallystick.contracts.ledger.problems import TransactionNotFound
from tallystick.kernel.ids import TransactionId
from tallystick.services.ledger.model import TransactionRow, Transfer
from tallystick.services.ledger.service.asks import Answered, Ask
from tallystick.services.ledger.service.poster import Poster
from tallystick.services.ledger.store import Store


class Transactions:
    def __init__(self, *, database: Database, store: Store, poster: Poster) -> None:
        self._database = database
        self._store = store
        self._poster = poster

    async def post(self, ask: Ask) -> Answered:
        """Posts the transaction; the ask has its header. Returns the result of each transfer. Raises as `Ledger.post`."""
        return await self._poster.post(ask)

    async def get(
        self, tenant: str, book: str, transaction: TransactionId
    ) -> tuple[TransactionRow, Sequence[Transfer]]:
        """A transaction and its transfers, in their order. Raises BookNotFound, TransactionNotFound."""
        number = await self._poster.book(tenant, book)
        row = await self._store.transaction(self._database, number, transaction)
        if row is None:
            raise TransactionNotFound
        return row, await self._store.between(self._database, number, row.first, row.last)
