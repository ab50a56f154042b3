"""The queries behind statements, reports and explanations."""

from __future__ import annotations

from datetime import datetime

from tallystick.chassis.db import Row, Transaction
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import AccountLine, EntryRow, Group, HeldRow, Line, Posted
from tallystick.services.ledger.store.sql import of_reports


class Reports:
    async def booked(self, tx: Transaction, account: AccountId, first: int, last: int, limit: int) -> list[Line]:
        """What moved the posted balance after the sequence `first` up to `last`, oldest first."""
        return [Line(*row) for row in await tx.fetch(of_reports.booked, account, first, last, limit)]

    async def booked_count(self, tx: Transaction, account: AccountId, first: int, last: int) -> tuple[int, int]:
        """The number of debits and of credits among those."""
        row = await tx.fetchrow(of_reports.booked_count, account, first, last)
        return (0, 0) if row is None else (row[0], row[1])

    async def turn(self, tx: Transaction, book: int, sequence: int) -> tuple[datetime | None, datetime | None]:
        """When the sequence and the one after it were recorded; None for one that does not exist."""
        row = await tx.fetchrow(of_reports.turn, book, sequence)
        return (None, None) if row is None else (row[0], row[1])

    async def posted_effective(
        self, tx: Transaction, account: AccountId, book: int, upto: tuple[datetime, int], last: int
    ) -> Posted:
        """The account's posted totals in the order of (effective time, sequence), up to the place `upto`. Counts what was recorded up to `last`."""
        row = await tx.fetchrow(of_reports.posted_effective, account, book, *upto, last)
        return Posted(0, 0) if row is None else Posted(*row)

    async def booked_effective(  # noqa: PLR0917 - what is asked
        self,
        tx: Transaction,
        account: AccountId,
        book: int,
        after: tuple[datetime, int],
        end: datetime,
        last: int,
        limit: int,
    ) -> list[Line]:
        """What moved the posted balance, in the order of (effective time, sequence): after the place `after`, effective before `end`, recorded up
        to the sequence `last`. The lines have no totals; `model.running` adds them.
        """
        rows = await tx.fetch(of_reports.booked_effective, account, book, *after, end, last, limit)
        return [Line(*row) for row in rows]

    async def booked_effective_count(  # noqa: PLR0917 - what is asked
        self, tx: Transaction, account: AccountId, start: datetime, end: datetime, last: int, plain: tuple[int, int]
    ) -> tuple[int, int]:
        """The number of debits and of credits effective from `start` to before `end`, recorded up to `last`. `plain` is the range of sequences (after
        the first, up to the second) of those that were not dated back.
        """
        row = await tx.fetchrow(of_reports.booked_effective_count, account, start, end, last, *plain)
        return (0, 0) if row is None else (row[0], row[1])

    async def many_dated_back(  # noqa: PLR0917 - what is asked
        self, tx: Transaction, account: AccountId, start: datetime, end: datetime, last: int, upto: int
    ) -> int:
        """How many entries are dated back to between `start` and before `end`. Counts at most `upto`."""
        count: int = await tx.fetchval(of_reports.many_dated_back, account, start, end, last, upto)
        return count

    async def account_lines(
        self, tx: Transaction, book: int, sequence: int, after: AccountId | None, limit: int
    ) -> list[AccountLine]:
        rows = await tx.fetch(of_reports.account_lines, book, sequence, after, limit)
        return [AccountLine(*row) for row in rows]

    async def group_lines(self, tx: Transaction, book: int, sequence: int, level: int, limit: int) -> list[Group]:
        """Groups of accounts with their totals as recorded up to the sequence."""
        return [_group(row) for row in await tx.fetch(of_reports.group_lines, book, sequence, level, limit)]

    async def group_lines_effective(
        self, tx: Transaction, book: int, at: datetime, level: int, limit: int
    ) -> list[Group]:
        """Groups of accounts with their totals as effective at the instant."""
        return [_group(row) for row in await tx.fetch(of_reports.group_lines_effective, book, at, level, limit)]

    async def many_accounts(self, tx: Transaction, book: int, upto: int) -> int:
        count: int = await tx.fetchval(of_reports.many_accounts, book, upto)
        return count

    async def dated_back(
        self, tx: Transaction, account: AccountId, effective: datetime, last: int, limit: int
    ) -> list[EntryRow]:
        """Entries recorded after the sequence `last` that are effective by `effective`, newest first."""
        return [EntryRow(*row) for row in await tx.fetch(of_reports.dated_back, account, effective, last, limit)]

    async def dated_back_before(
        self, tx: Transaction, account: AccountId, effective: datetime, last: int, first: int
    ) -> tuple[int, int, int]:
        """The number, the debits and the credits of those entries that were recorded before the sequence `first`."""
        row = await tx.fetchrow(of_reports.dated_back_before, account, effective, last, first)
        return (0, 0, 0) if row is None else (row[0], row[1], row[2])

    async def open_holds(
        self, tx: Transaction, book: int, account: AccountId, sequence: int, limit: int
    ) -> list[HeldRow]:
        """Holds that are open now, as they were at the sequence."""
        return [HeldRow(*row) for row in await tx.fetch(of_reports.open_holds, book, account, sequence, limit)]

    async def closed_holds(
        self, tx: Transaction, book: int, account: AccountId, sequence: int, around: int
    ) -> list[HeldRow]:
        """Holds that were open at the sequence and are closed now. Looks for them among `around` entries before and after it, on each side."""
        return [HeldRow(*row) for row in await tx.fetch(of_reports.closed_holds, book, account, sequence, around)]


def _group(row: Row) -> Group:
    return Group(
        row["kind"],
        row["path"],
        row["currency"],
        row["accounts"],
        int(row["debits_posted"]),
        int(row["credits_posted"]),
    )
