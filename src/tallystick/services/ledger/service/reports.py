"""Trial balance, balance sheet and income statement of a book. Each is checked to balance before it is returned."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database, Transaction
from tallystick.contracts.ledger.problems import BookOutOfBalance, HistoryNotKept, ReportTooLarge
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import AccountId
from tallystick.kernel.problem import InvalidRequest
from tallystick.services.ledger.model import (
    EPOCH,
    AccountLine,
    BookRow,
    Group,
    Income,
    Sheet,
    Total,
    balance_sheets,
    income_statements,
    totals,
    unbalanced,
)
from tallystick.services.ledger.service.accounts import At
from tallystick.services.ledger.service.asof import AsOf, BookAt, check_past
from tallystick.services.ledger.store import Store

#: Most accounts of a book that a report adds up.
MAX_ACCOUNTS: Final = 500_000
#: The same by effective time, which needs a look-up of what was dated back for each account.
MAX_ACCOUNTS_EFFECTIVE: Final = 100_000
#: Most lines of a grouped report.
MAX_GROUPS: Final = 5000

_INSTANT: Final = timedelta(microseconds=1)


class TrialBalance(msgspec.Struct, frozen=True, kw_only=True):
    """Either `accounts` (a page, by id; `more` if others follow) or `groups`. `totals` are over all accounts."""

    book: BookRow
    as_of: int
    totals: Sequence[Total]
    accounts: Sequence[AccountLine] | None
    groups: Sequence[Group] | None
    more: bool


class BalanceSheet(msgspec.Struct, frozen=True, kw_only=True):
    book: BookRow
    as_of: int
    sheets: Sequence[Sheet]


class IncomeStatement(msgspec.Struct, frozen=True, kw_only=True):
    """Covers what was recorded after the sequence `first` up to `as_of`. By effective time, `first` is 0."""

    book: BookRow
    start: datetime
    end: datetime
    first: int
    as_of: int
    statements: Sequence[Income]


class Reports:
    def __init__(self, *, database: Database, store: Store, clock: Clock, as_of: AsOf) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._as_of = as_of

    async def trial_balance(  # noqa: PLR0917 - what is asked
        self, tenant: str, name: str, at: At, level: int | None, after: AccountId | None, limit: int
    ) -> TrialBalance:
        """The accounts with their totals. With a level, accounts whose paths begin with the same `level` segments are summed up as a group.

        Raises BookNotFound, HistoryNotKept, ReportTooLarge, InvalidRequest, and BookOutOfBalance instead of a report that does not balance.
        """
        if at.effective is not None and level is None:
            raise InvalidRequest("by effective time a trial balance is in groups: say a level")
        await self._as_of.number(tenant, name)
        async with self._database.transaction(snapshot=True) as tx:
            book = await self._as_of.book(tx, tenant, name, at, self._clock.now())
            groups = await self._groups(tx, book.row, at.effective or book.sequence, level or 0)
            lines = None
            if level is None:
                lines = await self._store.account_lines(tx, book.row.id, book.sequence, after, limit + 1)
        found = totals(groups)
        _check_balance(unbalanced(found), book)
        return TrialBalance(
            book=book.row,
            as_of=book.sequence,
            totals=found,
            accounts=None if lines is None else lines[:limit],
            groups=groups if lines is None else None,
            more=lines is not None and len(lines) > limit,
        )

    async def balance_sheet(self, tenant: str, name: str, at: At, level: int) -> BalanceSheet:
        """The balance sheet as of `at`, grouped by the first `level` segments of paths. Raises as `trial_balance`."""
        await self._as_of.number(tenant, name)
        async with self._database.transaction(snapshot=True) as tx:
            book = await self._as_of.book(tx, tenant, name, at, self._clock.now())
            groups = await self._groups(tx, book.row, at.effective or book.sequence, level)
        sheets = balance_sheets(groups)
        for sheet in sheets:
            _check_balance(sheet.fault(), book)
        return BalanceSheet(book=book.row, as_of=book.sequence, sheets=sheets)

    async def income_statement(
        self,
        tenant: str,
        name: str,
        start: datetime | None,
        end: datetime | None,
        level: int,
        *,
        effective: bool = False,
    ) -> IncomeStatement:
        """Income and expenses recorded (or effective) from `start` to before `end` (None: up to now). `start` None is the book's opening, or by
        effective time EPOCH, before which nothing is effective. Raises as `trial_balance`; the book has to balance at both ends.
        """
        now = self._clock.now()
        await self._as_of.number(tenant, name)
        async with self._database.transaction(snapshot=True) as tx:
            book = await self._as_of.book(tx, tenant, name, At(), now)
            row = book.row
            for instant in (start, end):
                if effective and instant is not None and instant > now:
                    raise HistoryNotKept("that time is still to come", as_of=row.sequence)
                if not effective and instant is not None:
                    check_past(instant, row, now)
            since, until = start or (EPOCH if effective else row.created_at), end or now
            if since > until or (start is not None and start == end):
                raise InvalidRequest("an income statement begins before it ends")
            first = 0 if start is None else await self._store.sequence_at(tx, row.id, start - _INSTANT)
            last = row.sequence if end is None else await self._store.sequence_at(tx, row.id, end - _INSTANT)
            if effective:
                before = [] if start is None else await self._groups(tx, row, start - _INSTANT, level)
                after = await self._groups(tx, row, row.sequence if end is None else end - _INSTANT, level)
                first, last = 0, row.sequence
            else:
                before = await self._groups(tx, row, first, level)
                after = await self._groups(tx, row, last, level)
        for groups in (before, after):
            _check_balance(unbalanced(totals(groups)), book)
        return IncomeStatement(
            book=row,
            start=since,
            end=until,
            first=first,
            as_of=last,
            statements=income_statements(before, after),
        )

    async def _groups(self, tx: Transaction, row: BookRow, at: int | datetime, level: int) -> list[Group]:
        """The groups' totals as recorded up to the sequence `at`, or as effective at the instant `at`."""
        if row.sequence == 0 or at == 0:
            return []
        most = MAX_ACCOUNTS if isinstance(at, int) else MAX_ACCOUNTS_EFFECTIVE
        if await self._store.many_accounts(tx, row.id, most + 1) > most:
            raise ReportTooLarge("the book has more accounts than a report adds up", accounts=most)
        if isinstance(at, int):
            groups = await self._store.group_lines(tx, row.id, at, level, MAX_GROUPS + 1)
        else:
            groups = await self._store.group_lines_effective(tx, row.id, at, level, MAX_GROUPS + 1)
        if len(groups) > MAX_GROUPS:
            raise ReportTooLarge("ask for a lower level", lines=MAX_GROUPS)
        return groups


def _check_balance(fault: str | None, book: BookAt) -> None:
    """Raises BookOutOfBalance if there is a fault, and logs where it is."""
    if fault is not None:
        telemetry.log.error("ledger.report.unsound", book=book.row.id, sequence=book.sequence, fault=fault)
        raise BookOutOfBalance(fault, book=book.row.name)
