"""Exports: everything in a book as of one sequence, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal
from uuid import UUID

import msgspec

from tallystick.chassis.db import Database, Transaction
from tallystick.contracts.ledger.problems import BookNotFound, ExportOutdated
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import AccountRow, BookRow, Category, Chart, TransactionRow, Transfer
from tallystick.services.ledger.service.books import NO_CHART
from tallystick.services.ledger.service.poster import Poster
from tallystick.services.ledger.store import Imports as ImportStore
from tallystick.services.ledger.store import Store

_NOBODY: Final = UUID(int=0)


class Spot(msgspec.Struct, frozen=True):
    """The position of an export: after an account, or after a sequence. `as_of` and `revision` pin it to one state of the book."""

    part: Literal["accounts", "transfers"]
    as_of: int
    revision: int
    account: UUID = _NOBODY
    sequence: int = 0


class Part(msgspec.Struct):
    """A page of an export, and where the next begins. Only the first has `settings`."""

    as_of: int
    next: Spot | None
    settings: tuple[BookRow, Chart, Sequence[Category]] | None = None
    accounts: Sequence[AccountRow] = ()
    transfers: Sequence[Transfer] = ()
    transactions: Sequence[TransactionRow] = ()


class Exports:
    def __init__(self, *, database: Database, store: Store, imports: ImportStore, poster: Poster) -> None:
        self._database = database
        self._store = store
        self._imports = imports
        self._poster = poster

    async def page(self, tenant: str, name: str, spot: Spot | None, limit: int) -> Part:
        """At least one record, and about `limit`. Raises BookNotFound, and ExportOutdated when settings or accounts changed since the first page."""
        number = await self._poster.book(tenant, name)
        async with self._database.transaction(snapshot=True) as tx:
            row = await self._store.book(tx, tenant, name)
            if row is None or (spot is not None and spot.as_of > row.sequence):
                raise BookNotFound
            if spot is None:
                chart, _ = await self._store.chart(tx, number) or (NO_CHART, None)
                categories = list((await self._store.categories(tx, number)).values())
                part = await self._accounts(tx, number, Spot("accounts", row.sequence, row.revision), limit)
                part.settings = (row, chart, categories)
                return part
            if spot.part == "transfers":
                return await self._transfers(tx, number, spot, limit)
            if spot.revision != row.revision:
                raise ExportOutdated
            return await self._accounts(tx, number, spot, limit)

    async def _accounts(self, tx: Transaction, number: int, spot: Spot, limit: int) -> Part:
        found = await self._imports.exported(tx, number, spot.account, spot.as_of, limit + 1)
        if len(found) > limit:
            last: AccountId = found[limit - 1].id
            return Part(spot.as_of, msgspec.structs.replace(spot, account=last), accounts=found[:limit])
        after = msgspec.structs.replace(spot, part="transfers") if spot.as_of else None
        return Part(spot.as_of, after, accounts=found)

    async def _transfers(self, tx: Transaction, number: int, spot: Spot, limit: int) -> Part:
        """A page of transfers. It never splits a transaction."""
        first, last = spot.sequence + 1, min(spot.sequence + limit, spot.as_of)
        around = await self._imports.transaction_around(tx, number, last)
        if around is not None:
            last = around[1]
        transfers = await self._store.between(tx, number, first, last)
        transactions = await self._imports.transactions_between(tx, number, first, last)
        after = msgspec.structs.replace(spot, sequence=last) if last < spot.as_of else None
        return Part(spot.as_of, after, transfers=transfers, transactions=transactions)
