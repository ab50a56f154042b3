"""What a file says about the book and its accounts as a whole. It is applied after all transfers, because it has to fit them, and makes the same
facts as a client's change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from datetime import datetime

import msgspec

from tallystick.chassis.db import CheckViolation, Transaction
from tallystick.chassis.outbox import Outbox
from tallystick.contracts.ledger.messages import (
    AccountRecord,
    BookRecord,
    BookSealed,
    CategoryRecord,
    ChartChanged,
    ChartRecord,
    Record,
)
from tallystick.contracts.ledger.problems import BookNotFound
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.services.ledger.model import (
    BookRow,
    ImportRow,
    NewAccount,
    Unfit,
    account_id,
    called,
    category_of,
    chart_in,
    check_members,
    limit,
    sealed_until,
    was_reserved,
)
from tallystick.services.ledger.service.accounts import account_fact
from tallystick.services.ledger.service.books import NO_CHART, Who, book_fact, settings_of
from tallystick.services.ledger.service.imports.taking import Taking
from tallystick.services.ledger.store import Imports as ImportStore
from tallystick.services.ledger.store import Store


class Wrong(Exception):
    """The import as a whole is impossible."""


class Settings:
    """The settings of one import, in one transaction. Lines that can't be applied are added to `taking` as refused."""

    def __init__(  # noqa: PLR0917 - what it works with
        self,
        tx: Transaction,
        job: ImportRow,
        taking: Taking,
        store: Store,
        imports: ImportStore,
        outbox: Outbox,
        now: datetime,
    ) -> None:
        self._tx = tx
        self._job = job
        self._who: Who = (job.tenant, job.actor, None)
        self._taking = taking
        self._store = store
        self._imports = imports
        self._outbox = outbox
        self._now = now
        self._closing: list[tuple[int, AccountRecord]] = []
        self._book: tuple[int, BookRecord] | None = None
        self._chart: tuple[int, ChartRecord] | None = None
        self._categories: dict[str, tuple[int, CategoryRecord]] = {}
        self._first = True

    async def take(self, records: Sequence[tuple[int, Record]]) -> None:
        """Takes the next records in the file's order; transfers are left out. Raises Wrong."""
        accounts: list[tuple[int, AccountRecord]] = []
        for line, record in records:
            try:
                self._take(line, record)
            except Unfit as no:
                self._taking.refuse(line, no)
            if isinstance(record, AccountRecord):
                accounts.append((line, record))
        if self._book is not None:
            await self._limit(accounts)
        self._closing += [(line, one) for line, one in accounts if one.closed or one.frozen]

    def _take(self, line: int, record: Record) -> None:
        first, self._first = self._first, False
        if isinstance(record, BookRecord):
            if not first:
                raise Unfit(None, "not-first", "a book's own record is the first of its export")
            self._book = line, record
        elif isinstance(record, ChartRecord):
            if self._chart is not None:
                raise Unfit(None, "there-twice", f"line {self._chart[0]} has a chart already")
            self._chart = line, record
        elif isinstance(record, CategoryRecord):
            if record.name in self._categories:
                raise Unfit(
                    "/name", "there-twice", f"line {self._categories[record.name][0]} has this category already"
                )
            self._categories[record.name] = line, record

    async def settle(self) -> None:
        """Applies what was taken. Raises Wrong."""
        for line, one in self._closing:
            await self._fitting(line, self._close(one))
        if self._chart is not None:
            await self._fitting(self._chart[0], self._set_chart(self._chart[1]))
        await self._set_categories()
        if self._book is not None:
            await self._fitting(self._book[0], self._set_book(self._book[1]))
            wanted = self._job.wanted_sequence
            if wanted is not None and self._taking.sequence != wanted and self._job.mode != "valid":
                raise Wrong(f"the book came to sequence {self._taking.sequence} and the export was at {wanted}")

    async def _fitting(self, line: int, work: Awaitable[None]) -> None:
        try:
            await work
        except Unfit as no:
            self._taking.refuse(line, no)

    async def _limit(self, accounts: Sequence[tuple[int, AccountRecord]]) -> None:
        limits = [
            (account_id(self._job.book, called(one)), limit(one.floor, "/floor"), limit(one.ceiling, "/ceiling"))
            for _, one in accounts
            if one.floor is not None or one.ceiling is not None
        ]
        before = await self._imports.as_they_are(self._tx, [own for own, _, _ in limits])
        after = {
            own: msgspec.structs.replace(before[own][1], floor=floor, ceiling=ceiling)
            for own, floor, ceiling in limits
            if own in before
        }
        changed = [one for own, one in after.items() if one != before[own][1]]
        if changed:
            try:
                await self._imports.limit(
                    self._tx, self._job.book, [(one.id, one.floor, one.ceiling) for one in changed]
                )
            except CheckViolation as error:
                raise Wrong(f"an account does not keep its limits after all transfers ({error.constraint})") from None
            await self._tell_of("ledger.account.changed", changed)

    async def _close(self, record: AccountRecord) -> None:
        own = account_id(self._job.book, called(record))
        there = [account for _, account in (await self._imports.as_they_are(self._tx, [own])).values()]
        if record.frozen and await self._store.freeze_account(self._tx, self._job.book, own, self._now):
            await self._tell_of("ledger.account.frozen", there)
        if not record.closed:
            return
        if await self._store.close_account(self._tx, self._job.book, own, self._now):
            await self._tell_of("ledger.account.closed", there)
        else:
            row = await self._store.account(self._tx, self._job.tenant, own, self._now)
            if row is not None and not row.closed:
                raise Unfit("/closed", "account-has-holds", "it can't be closed while something is held on it")

    async def _set_chart(self, record: ChartRecord) -> None:
        present, _ = await self._store.chart(self._tx, self._job.book) or (NO_CHART, None)
        made = chart_in(record, present.version + 1)
        if (made.mode, made.rules) == (present.mode, present.rules):
            return
        async for account, charted in self._store.charted(self._tx, self._job.book):
            if self._book is not None and was_reserved(charted.path):
                continue  # the chart did not apply to them in the exported book either
            fault = made.fault(charted)
            if fault is not None:
                raise Unfit(None, "chart-orphans-accounts", f"{ids.accounts.text(account)}: {fault[0]}")
        await self._store.insert_chart(self._tx, self._job.book, made, self._now)
        row = await self._row()
        said = ChartChanged(book=row.id, name=row.name, version=made.version, mode=made.mode)
        await self._tell("ledger.chart.changed", row, said)

    async def _set_categories(self) -> None:
        there = await self._store.categories(self._tx, self._job.book)
        left = {name: (line, category_of(record, self._now)) for name, (line, record) in self._categories.items()}
        refused = True
        while refused:  # a refused category does not exist for the others: check those again
            known = {**there, **{name: category for name, (_, category) in left.items()}}
            refused = False
            for line, category in list(left.values()):
                try:
                    check_members(category, known)
                except Unfit as no:
                    self._taking.refuse(line, no)
                    del left[category.name]
                    refused = True
        for _, category in left.values():
            await self._store.set_category(self._tx, self._job.book, category)

    async def _set_book(self, record: BookRecord) -> None:
        until = sealed_until(record, self._now)
        row = await self._row()
        changed = msgspec.structs.replace(row, description=record.description, backdating=record.backdating)
        if changed != row:
            await self._store.set_book(self._tx, changed)
            await self._tell("ledger.book.changed", row, settings_of(changed))
        if until is not None and (row.sealed_until is None or row.sealed_until < until):
            await self._store.seal_book(self._tx, self._job.book, until)
            await self._tell("ledger.book.sealed", row, BookSealed(book=row.id, name=row.name, until=rfc3339(until)))

    async def _row(self) -> BookRow:
        row = await self._store.book(self._tx, self._job.tenant, self._job.book_name)
        if row is None:
            raise BookNotFound
        return row

    async def _tell(self, kind: str, row: BookRow, said: msgspec.Struct) -> None:
        await self._outbox.append(self._tx, [book_fact(self._who, kind, row.name, self._now, said)])

    async def _tell_of(self, kind: str, accounts: Sequence[NewAccount]) -> None:
        told = [account_fact(self._who, kind, one, self._job.book, self._now) for one in accounts]
        await self._outbox.append(self._tx, told)
