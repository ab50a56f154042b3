"""Account statements, and explanations of an account's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
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
    EPOCH,
    MICROSECOND,
    AccountRow,
    Checkpoint,
    DatedBack,
    Explanation,
    HeldRow,
    Line,
    Posted,
    Rule,
    Span,
    Statement,
    Totals,
    explain,
    explanation_fault,
    running,
)
from tallystick.services.ledger.service.accounts import Accounts, At
from tallystick.services.ledger.service.books import NO_CHART
from tallystick.services.ledger.store import Store

#: Most entries of an account, holds included, in the period of one statement.
MAX_ENTRIES: Final = 1_000_000
#: An explanation looks for closed holds among this many entries before and after its instant.
AROUND: Final = 10_000
#: Most open holds of one account that are listed.
MAX_HOLDS: Final = 10_000


class Asked(msgspec.Struct, frozen=True):
    """The statement that is asked for: from `start` (None: the beginning) to before `end` (None: the last entry), by effective or by recorded
    time, as of `sequence` (None: the present one).
    """

    start: datetime | None = None
    end: datetime | None = None
    effective: bool = False
    sequence: int | None = None


class Place(msgspec.Struct, frozen=True):
    """Where a further page of the statement of `account` begins: after the entry `at`, given as (time in the statement's order, sequence). `span`,
    `debits` and `credits` are carried over from the first page, which counted the entries.
    """

    account: AccountId
    effective: bool
    span: Span
    at: tuple[datetime, int]
    page: int
    debits: int
    credits: int


class _Page(msgspec.Struct, frozen=True):
    """What is read for a page, in either order. `lines` is one longer than the page if more follow."""

    opening: Posted
    closing: Posted
    debits: int
    credits: int
    lines: list[Line]
    carried: Posted
    reached: Posted


class Statements:
    def __init__(self, *, database: Database, store: Store, clock: Clock, accounts: Accounts) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._accounts = accounts

    async def statement(  # noqa: PLR0917 - what is asked
        self, tenant: str, account: AccountId | str, asked: Asked, place: Place | None, limit: int, book: str = MAIN
    ) -> Statement:
        """A page of `limit` entries of the account that were recorded, or are effective, in the period asked for.

        By effective time it may begin before the account was opened, since transfers can be dated back to then. In either order all pages are as
        of one sequence: what is recorded later is on none of them, even if it is dated back.

        Raises AccountNotFound; HistoryNotKept for a time before the account was opened, or for one still to come (now, or at the sequence asked
        for); StatementTooLong; BookOutOfBalance when the entries do not lead from the opening to the closing balance.
        """
        now = self._clock.now()
        async with self._database.transaction(snapshot=True) as tx:
            row = await self._accounts.found(tx, tenant, account, book, now)
            if place is None:
                span = await self._span(tx, row, asked, now)
            else:
                span = _span_of(asked, place, row)
            read = self._effective if asked.effective else self._recorded
            page = await read(tx, row, span, place, limit)
        if place is None and asked.effective and asked.start is None:
            span = _with_start(span, row, page.lines)
        found = Statement(
            account=row,
            effective=asked.effective,
            span=span,
            opening=page.opening,
            closing=page.closing,
            debits=page.debits,
            credits=page.credits,
            lines=page.lines[:limit],
            carried=page.carried,
            reached=page.reached,
            page=1 if place is None else place.page,
            last_page=len(page.lines) <= limit,
            since=None if place is None else place.at[0],
        )
        _check_sound(found.fault(), row)
        return found

    async def _span(self, tx: Transaction, row: AccountRow, asked: Asked, now: datetime) -> Span:
        """The span of the first page. By effective time without a start it begins at EPOCH, before which nothing is effective."""
        start, end = asked.start, asked.end
        if not asked.effective and any(said is not None and said < row.created_at for said in (start, end)):
            raise HistoryNotKept("the account was opened later", created_at=rfc3339(row.created_at))
        last = await self._accounts.sequence(tx, row, At(asked.sequence), now)
        recorded, following = await self._store.turn(tx, row.book, last)
        # The book's last instant can be ahead of this replica's clock.
        latest = following or (now if recorded is None else max(now, recorded + MICROSECOND))
        if (end or start or latest) > latest:
            raise HistoryNotKept(
                "that time is still to come: without times it is a statement of all that there is"
                if following is None
                else "that time was still to come when the book was at that sequence",
                as_of=last,
            )
        since = start or (EPOCH if asked.effective else row.created_at)
        if since > (end or latest) or (start is not None and start == end):
            raise InvalidRequest("a statement begins before it ends")
        # Without an end it ends right after the book's last transfer, not now: a transfer on its way may still be recorded before now.
        turn = max(since, row.created_at + MICROSECOND, EPOCH if recorded is None else recorded + MICROSECOND)
        until = end or following or turn
        if asked.effective:
            return Span(since, until, 0, last)
        first = row.created_sequence if start is None else await self._before(tx, row, since)
        if end is not None:
            last = await self._before(tx, row, until)
        return Span(since, until, first, max(first, last))

    async def _recorded(self, tx: Transaction, row: AccountRow, span: Span, place: Place | None, limit: int) -> _Page:
        before, opening = await self._posted(tx, row, span.first)
        after, closing = await self._posted(tx, row, span.last)
        carried, at = opening, span.first
        if place is None:
            _check_length(after - before)
            debits, credit = await self._store.booked_count(tx, row.id, span.first, span.last)
        else:
            debits, credit, at = place.debits, place.credits, place.at[1]
            carried = (await self._posted(tx, row, at))[1]
        lines = await self._store.booked(tx, row.id, at, span.last, limit + 1)
        reached = closing
        if len(lines) > limit:
            reached = Posted(lines[limit - 1].debits_posted, lines[limit - 1].credits_posted)
        return _Page(opening, closing, debits, credit, lines, carried, reached)

    async def _effective(self, tx: Transaction, row: AccountRow, span: Span, place: Place | None, limit: int) -> _Page:
        """A page by effective time. Running balances are summed up from the opening balance; the closing balance is looked up independently."""

        async def posted(upto: tuple[datetime, int]) -> Posted:
            return await self._store.posted_effective(tx, row.id, row.book, upto, span.last)

        # Sequences begin at 1, so 0 is before the first entry of an instant.
        begin, end = (max(span.start, EPOCH), 0), (max(span.end, EPOCH), 0)
        at = begin if place is None else place.at
        opening, closing = await posted(begin), await posted(end)
        lines = await self._store.booked_effective(tx, row.id, row.book, at, end[0], span.last, limit + 1)
        if place is None:
            carried = opening
            debits, credit = await self._count(tx, row, begin[0], end[0], span.last)
        else:
            carried, debits, credit = await posted(at), place.debits, place.credits
        lines = running(carried, lines)
        reached = closing
        if len(lines) > limit:
            reached = await posted((lines[limit - 1].effective_at, lines[limit - 1].sequence))
        return _Page(opening, closing, debits, credit, lines, carried, reached)

    async def _count(
        self, tx: Transaction, row: AccountRow, begin: datetime, end: datetime, last: int
    ) -> tuple[int, int]:
        """The number of debits and of credits effective in the period. Raises StatementTooLong."""
        first, upto = [await self._store.sequence_at(tx, row.book, instant - MICROSECOND) for instant in (begin, end)]
        before, after = [(await self._posted(tx, row, sequence))[0] for sequence in (first, upto)]
        _check_length(after - before)
        back = await self._store.many_dated_back(tx, row.id, begin, end, last, MAX_ENTRIES + 1)
        _check_length(after - before + back)
        return await self._store.booked_effective_count(tx, row.id, begin, end, last, (first, upto))

    async def _before(self, tx: Transaction, row: AccountRow, instant: datetime) -> int:
        """The last sequence recorded before the instant; at least that at which the account was opened."""
        return max(await self._store.sequence_at(tx, row.book, instant - MICROSECOND), row.created_sequence)

    async def _posted(self, tx: Transaction, row: AccountRow, sequence: int) -> tuple[int, Posted]:
        version, _, debits, _, credit = await self._store.account_at(tx, row.book, row.id, sequence)
        return version, Posted(debits, credit)

    async def explain(
        self, tenant: str, account: AccountId | str, at: At, limit: int, book: str = MAIN
    ) -> tuple[Explanation, Rule | None]:
        """Explains the account's numbers as of `at` by its last `limit` entries up to then, and names the chart rule that applies to it. By
        effective time, also by the last `limit` entries that were recorded later but dated back to before.

        Raises AccountNotFound, HistoryNotKept; ExplanationOutOfReach when holds that counted then can't be found; BookOutOfBalance when
        entries and holds do not add up to the numbers.
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
        _check_sound(fault, row)
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
        """The holds that were open on the account at the sequence `last`, oldest first."""
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


def _span_of(asked: Asked, place: Place, row: AccountRow) -> Span:
    """The span of the first page. A request for a further page repeats the first request; what it omits stays as it was. Raises InvalidRequest if
    the cursor is not of this statement.
    """
    span, (instant, sequence) = place.span, place.at
    same = (
        row.id == place.account
        and asked.effective == place.effective
        and asked.start in {None, span.start}
        and asked.end in {None, span.end}
        # In recorded order `span.last` is bounded by the end as well, so it may be less than the sequence asked for.
        and (
            asked.sequence is None
            or asked.sequence == span.last
            or (not place.effective and asked.sequence > span.last)
        )
    )
    within = span.start <= instant < span.end if place.effective else span.first <= sequence
    known = sequence <= span.last <= row.as_of and span.last >= row.created_sequence
    if not (same and within and known and place.page > 1):
        raise InvalidRequest("not a cursor of this statement")
    return span


def _with_start(span: Span, row: AccountRow, lines: Sequence[Line]) -> Span:
    """Without a requested start, the span begins when the account was opened, or with the first entry that is dated back to before that. Raises
    HistoryNotKept.
    """
    start = min([row.created_at, *(line.effective_at for line in lines[:1])])
    if start >= span.end:
        raise HistoryNotKept("the account was opened later", created_at=rfc3339(row.created_at))
    return msgspec.structs.replace(span, start=start)


def _check_length(entries: int) -> None:
    """Raises StatementTooLong."""
    if entries > MAX_ENTRIES:
        raise StatementTooLong("ask for a shorter time", entries=entries, limit=MAX_ENTRIES)


def _check_sound(fault: str | None, row: AccountRow) -> None:
    """Raises BookOutOfBalance if there is a fault, and logs where it is."""
    if fault is not None:
        account = ids.accounts.text(row.id)
        telemetry.log.error("ledger.report.unsound", book=row.book, account=account, fault=fault)
        raise BookOutOfBalance(fault, account=account)
