"""Books and their charts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from tallystick.chassis.db import Database, Row, Transaction, arguments
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import BookRow, Category, Chart, Charted, CurrencyTotal, Pattern, Rule
from tallystick.services.ledger.store.sql import of_books as queries

#: Accounts that are read at a time.
PAGE: Final = 5000

_rules = msgspec.json.Decoder(list[Rule]).decode
_encode = msgspec.json.Encoder().encode


class Books:
    async def open_main(self, tx: Transaction, tenant: str, now: datetime) -> int:
        number: int = await tx.fetchval(queries.open_main, tenant, now)
        return number

    async def insert_book(  # noqa: PLR0917 - the columns
        self,
        tx: Transaction,
        tenant: str,
        name: str,
        description: str | None,
        backdating: str,
        shard: str,
        now: datetime,
    ) -> bool:
        """False when the tenant has a book of this name."""
        return await tx.fetchval(queries.insert_book, tenant, name, description, backdating, shard, now) is not None

    async def book_named(self, source: Database | Transaction, tenant: str, name: str) -> tuple[int, int] | None:
        """The book's number and its sequence."""
        row = await source.fetchrow(queries.book_named, tenant, name)
        return None if row is None else (row[0], row[1])

    async def book(self, source: Database | Transaction, tenant: str, name: str) -> BookRow | None:
        row = await source.fetchrow(queries.book, tenant, name)
        return None if row is None else _book(row)

    async def books(self, database: Database, tenant: str, after: str | None, limit: int) -> list[BookRow]:
        return [_book(row) for row in await database.fetch(queries.books, tenant, after, limit)]

    async def lock_whole_book(self, tx: Transaction, book: int) -> None:
        """Locks the book so that nobody posts to it or opens an account in it until this transaction ends."""
        await tx.execute(queries.lock_whole_book, book)

    async def set_book(self, tx: Transaction, row: BookRow) -> None:
        await tx.execute(queries.set_book, row.id, row.description, row.backdating)

    async def seal_book(self, tx: Transaction, book: int, until: datetime) -> bool:
        """False when the book is already sealed up to `until` or later."""
        return await tx.fetchval(queries.seal_book, book, until) is not None

    async def categories(self, source: Database | Transaction, book: int) -> dict[str, Category]:
        return {row["name"]: Category(*row) for row in await source.fetch(queries.categories, book)}

    async def set_category(self, tx: Transaction, book: int, category: Category) -> None:
        await tx.execute(
            queries.set_category,
            book,
            category.name,
            list(category.paths),
            list(category.categories),
            category.changed_at,
        )

    async def delete_category(self, tx: Transaction, book: int, name: str) -> bool:
        return await tx.fetchval(queries.delete_category, book, name) is not None

    async def roll_up(self, tx: Transaction, book: int, patterns: Iterable[Pattern]) -> list[CurrencyTotal]:
        rows = [(one.low, one.high, one.regex) for one in patterns]
        return [
            CurrencyTotal(row["currency"], row["accounts"], int(row["debits"]), int(row["credits"]))
            for row in await tx.fetch(queries.roll_up, book, *arguments(rows, 3))
        ]

    async def chart(
        self, source: Database | Transaction, book: int, version: int | None = None
    ) -> tuple[Chart, datetime] | None:
        """The last version of the book's chart (or `version`), and when it was set."""
        row = await source.fetchrow(queries.chart, book, version)
        return None if row is None else (Chart(row["version"], row["mode"], _rules(row["rules"])), row["created_at"])

    async def insert_chart(self, tx: Transaction, book: int, chart: Chart, now: datetime) -> None:
        rules = _encode(chart.rules).decode()
        await tx.execute(queries.insert_chart, book, chart.version, chart.mode, rules, now)

    async def charted(self, tx: Transaction, book: int) -> AsyncIterator[tuple[AccountId, Charted]]:
        """What a chart checks about each open account of the book, in the order of ids."""
        after = UUID(int=0)
        while rows := await tx.fetch(queries.charted, book, after, PAGE):
            for number, *rest in rows:
                yield AccountId(number), Charted(*rest)
            after = rows[-1][0]

    async def extent(self, tx: Transaction, book: int) -> tuple[int, int]:
        """How many accounts the book has, and the highest of their numbers."""
        row = await tx.fetchrow(queries.extent_of_accounts, book)
        return (0, 0) if row is None else (row[0], row[1])

    async def count_accounts(self, tx: Transaction, book: int) -> int:
        count: int = await tx.fetchval(queries.count_accounts, book)
        return count

    async def charted_after(self, tx: Transaction, book: int, number: int) -> list[tuple[AccountId, Charted, bool]]:
        """The same about the first `PAGE` accounts with a higher number, and whether they are closed."""
        rows = await tx.fetch(queries.charted_after, book, number, PAGE)
        return [(AccountId(own), Charted(*rest), closed) for own, *rest, closed in rows]


def _book(row: Row) -> BookRow:
    return BookRow(**dict(row.items()))
