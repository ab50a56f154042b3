"""Statements of accounts, and the explanation of their numbers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database, Transaction
from tallystick.contracts.ledger.messages import MAIN
from tallystick.contracts.ledger.problems import (
    BookOutOfBalance,
    ExplanationOutOfReach,
    HistoryNotKept,
    StatementTooLong,
)
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock, rfc3339
from tallystick.kernel.ids import AccountId
from tallystick.kernel.problem import InvalidRequest
from tallystick.services.ledger.model import (
    AccountRow,
    Checkpoint,
    DatedBack,
    Explanation,
    HeldRow,
    Posted,
    Rule,
    Span,
    Statement,
    Totals,
    explain,
    explanation_fault,
)
from tallystick.services.ledger.service.accounts import Accounts, At
from tallystick.services.ledger.service.books import NO_CHART
from tallystick.services.ledger.store import Store

#: Entries, holds included, of an account in the time of one statement.
MAX_ENTRIES: Final = 1_000_000
#: Entries before and after the instant of an explanation among which closed holds are looked for.
AROUND: Final = 10_000
#: Open holds of one account that are listed.
MAX_HOLDS: Final = 10_000

_INSTANT: Final = timedelta(microseconds=1)


class Place(msgspec.Struct, frozen=True):
    """Where a further page of a statement begins: after the sequence `at`, within the sequences of the first page."""

    first: int
    last: int
    at: int
    page: int


class Statements:
    def __init__(self, *, database: Database, store: Store, clock: Clock, accounts: Accounts) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._accounts = accounts

    async def statement(  # noqa: PLR0917 - what is asked
        self,
        tenant: str,
        account: AccountId | str,
        start: datetime | None,
        end: datetime | None,
        place: Place | None,
        limit: int,
        book: str = MAIN,
    ) -> Statement:
        """What was recorded on the account from `start` (None: its opening) on and before `end` (None: now), `limit` entries of it.

        Raises AccountNotFound; HistoryNotKept for a time before the account was opened or still to come; StatementTooLong;
        BookOutOfBalance when the entries do not lead from the opening to the closing balance.
        """
        now = self._clock.now()
        async with self._database.transaction(snapshot=True) as tx:
            row = await self._accounts.found(tx, tenant, account, book, now)
            span = await self._span(tx, row, start, end, place, now)
            before, opening = await self._posted(tx, row, span.first)
            after, closing = await self._posted(tx, row, span.last)
            if after - before > MAX_ENTRIES:
                raise StatementTooLong("ask for a shorter time", entries=after - before, limit=MAX_ENTRIES)
            debits, credit = await self._store.booked_count(tx, row.id, span.first, span.last)
            at = span.first if place is None else place.at
            lines = await self._store.booked(tx, row.id, at, span.last, limit + 1)
            carried = opening if place is None else (await self._posted(tx, row, at))[1]
        found = Statement(
            account=row,
            span=span,
            as_of=span.last,
            opening=opening,
            closing=closing,
            debits=debits,
            credits=credit,
            lines=lines[:limit],
            carried=carried,
            page=1 if place is None else place.page,
            last_page=len(lines) <= limit,
        )
        _sound(found.fault(), row)
        return found

    async def _span(  # noqa: PLR0917 - what is asked
        self,
        tx: Transaction,
        row: AccountRow,
        start: datetime | None,
        end: datetime | None,
        place: Place | None,
        now: datetime,
    ) -> Span:
        if start is not None and start < row.created_at:
            raise HistoryNotKept("the account was opened later", created_at=rfc3339(row.created_at))
        if end is not None and end > now:
            raise HistoryNotKept(
                "that time is still to come: without an end it is a statement up to now", as_of=row.as_of
            )
        since, until = start or row.created_at, end or now
        if since > until or (start is not None and start == end):
            raise InvalidRequest("a statement begins before it ends")
        if place is not None:
            if not (place.first <= place.at <= place.last <= row.as_of and place.last >= row.created_sequence):
                raise InvalidRequest("not a cursor of this statement")
            return Span(since, until, place.first, place.last)
        first = row.created_sequence if start is None else await self._before(tx, row, since)
        last = row.as_of if end is None else await self._before(tx, row, until)
        return Span(since, until, first, max(first, last))

    async def _before(self, tx: Transaction, row: AccountRow, instant: datetime) -> int:
        """The last sequence that was recorded before the instant."""
        return max(await self._store.sequence_at(tx, row.book, instant - _INSTANT), row.created_sequence)

    async def _posted(self, tx: Transaction, row: AccountRow, sequence: int) -> tuple[int, Posted]:
        version, _, debits, _, credit = await self._store.account_at(tx, row.book, row.id, sequence)
        return version, Posted(debits, credit)

    async def explain(
        self, tenant: str, account: AccountId | str, at: At, limit: int, book: str = MAIN
    ) -> tuple[Explanation, Rule | None]:
        """What makes the account's numbers as of `at`, by its last `limit` entries up to then, and the rule of the chart that it is under. By
        effective time also by the last `limit` of those that were recorded later and count since before.

        Raises AccountNotFound, HistoryNotKept; ExplanationOutOfReach when holds that counted then can't be found; BookOutOfBalance when
        entries and holds do not make the numbers.
        """
        now = self._clock.now()
        present = at == At()
        async with self._database.transaction(snapshot=True) as tx:
            row = await self._accounts.read(tx, tenant, account, at, book)
            back, last = None, row.as_of
            if at.effective is not None:
                last = await self._store.sequence_at(tx, row.book, at.effective)
                back = await self._dated_back(tx, row, at.effective, last, limit)
            entries = await self._store.entries(tx, row.book, row.id, last + 1, limit)
            entries.reverse()
            start = entries[0].sequence - 1 if entries else last
            version, *totals = await self._store.account_at(tx, row.book, row.id, start)
            holds = await self._holds(tx, row, last)
            expired = [one for one in holds if present and one.expires_at is not None and one.expires_at <= now]
            chart, _ = await self._store.chart(tx, row.book) or (NO_CHART, None)
        found = explain(
            row,
            Checkpoint(version, start, Totals(*totals)),
            entries,
            [one for one in holds if one not in expired],
            expired,
            back=back,
        )
        fault = explanation_fault(found)
        if fault is not None and not present and fault.startswith(("pending", "incoming")):
            raise ExplanationOutOfReach("ask for a time nearer to when the holds were made or ended", entries=AROUND)
        _sound(fault, row)
        return found, chart.rule_for(row.path)

    async def _dated_back(
        self, tx: Transaction, row: AccountRow, effective: datetime, last: int, limit: int
    ) -> DatedBack:
        entries = await self._store.dated_back(tx, row.id, effective, last, limit)
        entries.reverse()
        more, debits, credits_ = 0, 0, 0
        if len(entries) == limit:
            first = entries[0].sequence
            more, debits, credits_ = await self._store.dated_back_before(tx, row.id, effective, last, first)
        return DatedBack(last, more, Totals(0, debits, 0, credits_), entries)

    async def _holds(self, tx: Transaction, row: AccountRow, last: int) -> list[HeldRow]:
        """The holds that were open on the account at the sequence `last`, in the order in which they were made."""
        if not (row.debits_pending or row.credits_pending) and row.version == 0:
            return []
        found = await self._store.open_holds(tx, row.book, row.id, last, MAX_HOLDS + 1)
        if len(found) > MAX_HOLDS:
            raise ExplanationOutOfReach("the account has more open holds than one answer lists", holds=MAX_HOLDS)
        listed = [sum(one.remaining for one in found if one.side_on(row.id) == side) for side in ("debit", "credit")]
        if listed[0] < row.debits_pending or listed[1] < row.credits_pending:
            found += await self._store.closed_holds(tx, row.book, row.id, last, AROUND)
            found.sort(key=lambda one: one.sequence)
        return found


def _sound(fault: str | None, row: AccountRow) -> None:
    """Raises BookOutOfBalance, with the place in the log."""
    if fault is not None:
        account = ids.accounts.text(row.id)
        telemetry.log.error("ledger.report.unsound", book=row.book, account=account, fault=fault)
        raise BookOutOfBalance(fault, account=account)
