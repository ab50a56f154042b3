"""History: entries, totals as of a sequence, single transfers, and the full verification."""

from __future__ import annotations

from datetime import datetime

from tallystick.chassis.db import Database, Transaction
from tallystick.kernel.ids import AccountId, TransactionId, TransferId
from tallystick.services.ledger.model import EntryRow, State, TransactionRow, Transfer
from tallystick.services.ledger.store.posting import take, transfer_of
from tallystick.services.ledger.store.sql import of_verify, queries


class History:
    async def account_at(self, tx: Transaction, book: int, account: AccountId, sequence: int) -> tuple[int, ...]:
        """Version and the four totals (debits pending and posted, credits pending and posted) after `sequence`."""
        row = await tx.fetchrow(queries.account_at, book, account, sequence)
        return (0, 0, 0, 0, 0) if row is None else tuple(row)

    async def sequence_at(self, tx: Transaction, book: int, at: datetime) -> int:
        sequence: int = await tx.fetchval(queries.sequence_at, book, at)
        return sequence

    async def adjusted_at(self, tx: Transaction, account: AccountId, at: datetime) -> tuple[int, int]:
        """What to add to the account's posted debits and credits as recorded at `at`, to get those effective then."""
        row = await tx.fetchrow(queries.adjusted_at, account, at)
        return (0, 0) if row is None else (row[0], row[1])

    async def transaction(
        self, source: Database | Transaction, book: int, transaction: TransactionId
    ) -> TransactionRow | None:
        row = await source.fetchrow(queries.transactions_of, [book], [transaction])
        return None if row is None else TransactionRow(*row)

    async def entries(self, tx: Transaction, book: int, account: AccountId, before: int, limit: int) -> list[EntryRow]:
        return [EntryRow(*row) for row in await tx.fetch(queries.entries, book, account, before, limit)]

    async def transfer(self, database: Database, book: int, transfer: TransferId) -> State:
        """What is stored about one transfer, as a state without books and accounts."""
        state = State({}, {})
        for row in await database.fetch(queries.known, [book], [transfer]):
            take(row, state)
        return state

    async def between(self, tx: Database | Transaction, book: int, first: int, last: int) -> list[Transfer]:
        return [transfer_of(row) for row in await tx.fetch(queries.between, book, first, last)]

    async def faults(self, tx: Transaction) -> list[str]:
        """All faults in the books, by the queries of `verify.sql`. Empty when all is well. Reads everything."""
        return [f"{query.name}: {row[0]}" for query in of_verify for row in await tx.fetch(query)]
