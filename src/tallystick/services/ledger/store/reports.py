"""What statements, reports and explanations are made of."""

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
        """How many debits and credits that are."""
        row = await tx.fetchrow(of_reports.booked_count, account, first, last)
        return (0, 0) if row is None else (row[0], row[1])

    async def turn(self, tx: Transaction, book: int, sequence: int) -> tuple[datetime | None, datetime | None]:
        """When the sequence was recorded, and when the one after it; None if there is none."""
        row = await tx.fetchrow(of_reports.turn, book, sequence)
        return (None, None) if row is None else (row[0], row[1])

    async def posted_effective(
        self, tx: Transaction, account: AccountId, book: int, upto: tuple[datetime, int], last: int
    ) -> Posted:
        """The account's totals after all that stands up to (effective time, sequence), of what was recorded up to the sequence `last`."""
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
        """What moved the posted balance after (effective time, sequence) and is effective before `end`, of what was recorded up to the sequence
        `last`, in that order. The lines are without their totals: `model.running`.
        """
        rows = await tx.fetch(of_reports.booked_effective, account, book, *after, end, last, limit)
        return [Line(*row) for row in rows]

    async def booked_effective_count(  # noqa: PLR0917 - what is asked
        self, tx: Transaction, account: AccountId, start: datetime, end: datetime, last: int, plain: tuple[int, int]
    ) -> tuple[int, int]:
        """How many debits and credits are effective from `start` on and before `end`. What was not dated back is after and up to the sequences
        `plain`.
        """
        row = await tx.fetchrow(of_reports.booked_effective_count, account, start, end, last, *plain)
        return (0, 0) if row is None else (row[0], row[1])

    async def many_dated_back(  # noqa: PLR0917 - what is asked
        self, tx: Transaction, account: AccountId, start: datetime, end: datetime, last: int, upto: int
    ) -> int:
        """How many entries were dated back to from `start` on and before `end`, counted up to `upto`."""
        count: int = await tx.fetchval(of_reports.many_dated_back, account, start, end, last, upto)
        return count

    async def account_lines(
        self, tx: Transaction, book: int, sequence: int, after: AccountId | None, limit: int
    ) -> list[AccountLine]:
        rows = await tx.fetch(of_reports.account_lines, book, sequence, after, limit)
        return [AccountLine(*row) for row in rows]

    async def group_lines(self, tx: Transaction, book: int, sequence: int, level: int, limit: int) -> list[Group]:
        """As recorded up to the sequence."""
        return [_group(row) for row in await tx.fetch(of_reports.group_lines, book, sequence, level, limit)]

    async def group_lines_effective(
        self, tx: Transaction, book: int, at: datetime, level: int, limit: int
    ) -> list[Group]:
        """As effective at the instant."""
        return [_group(row) for row in await tx.fetch(of_reports.group_lines_effective, book, at, level, limit)]

    async def many_accounts(self, tx: Transaction, book: int, upto: int) -> int:
        count: int = await tx.fetchval(of_reports.many_accounts, book, upto)
        return count

    async def dated_back(
        self, tx: Transaction, account: AccountId, effective: datetime, last: int, limit: int
    ) -> list[EntryRow]:
        """What was recorded after the sequence and is effective by then, newest first."""
        return [EntryRow(*row) for row in await tx.fetch(of_reports.dated_back, account, effective, last, limit)]

    async def dated_back_before(
        self, tx: Transaction, account: AccountId, effective: datetime, last: int, first: int
    ) -> tuple[int, int, int]:
        """How many of those there are before the sequence `first`, their debits and their credits."""
        row = await tx.fetchrow(of_reports.dated_back_before, account, effective, last, first)
        return (0, 0, 0) if row is None else (row[0], row[1], row[2])

    async def open_holds(
        self, tx: Transaction, book: int, account: AccountId, sequence: int, limit: int
    ) -> list[HeldRow]:
        """Those that are open now, as they were at the sequence."""
        return [HeldRow(*row) for row in await tx.fetch(of_reports.open_holds, book, account, sequence, limit)]

    async def closed_holds(
        self, tx: Transaction, book: int, account: AccountId, sequence: int, around: int
    ) -> list[HeldRow]:
        """Those that were open at the sequence and are closed now, among `around` entries before and after it on each side."""
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
