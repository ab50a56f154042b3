"""The continuous check: every total in every book is re-derived from the transfers, over and over, while the book is in use.

A round looks at each book's balance by currency, its accounts' totals, its holds and its newest transfers, and is paced to take
`ROUND_S`; beside it the older transfers are walked through at `OLDER` rows in a turn, and the sums of what was dated back at `DATED`.
With up to `NEWEST` transfers in a book a round looks at all of them. A book with a fault is put in quarantine: it is read as before, and
nothing is written to it until the operator has released it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Final, Literal, get_args
from uuid import UUID

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database
from tallystick.services.ledger.model import CheckedBook
from tallystick.services.ledger.store import Checks

#: A round is paced to take this many seconds, so that with the wait for the next one a fault is found within 60 s.
ROUND_S: Final = 40
#: Transfers of a book, from its last one back, that every round looks at.
NEWEST: Final = 250_000
#: Rows that one statement looks at; transfers, of which many together are cheap; and rows that one turn (a second) does at least and at most.
SLICE: Final = 1000
TRANSFERS: Final = 5000
LEAST, MOST = 250, 10_000
#: Older transfers that a turn looks at: ten million are walked through in three hours.
OLDER: Final = 1000
#: Rows that a turn looks at of what was dated back: as many as there are newest transfers, in a round's time.
DATED: Final = NEWEST // ROUND_S

_ROUNDS = telemetry.counter("ledger_check_rounds", "Rounds of the continuous check that ended")
_ROWS = telemetry.counter("ledger_check_rows", "Rows that the continuous check looked at")
_FAULTS = telemetry.counter("ledger_check_faults", "Faults that the continuous check found")
_ROUND_SECONDS = telemetry.gauge("ledger_check_round_seconds", "How long the last round of the continuous check took")
_HISTORY_SECONDS = telemetry.gauge(
    "ledger_check_history_seconds", "How long the last walk through all older transfers took"
)

Walk = AsyncIterator["Looked"]


class Looked(msgspec.Struct, frozen=True):
    """What one statement came to: how many rows of which book, and what is wrong with them."""

    book: int
    rows: int
    faults: list[str]


#: What is looked at of a book, in this order.
Part = Literal["balance", "accounts", "holds", "reversals", "transfers", "adjustments"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)


class Mark(msgspec.Struct, frozen=True):
    """How far a check of a book has come: in `part`, after the row with this id (of the sums of an account, after that over `span` since `at`),
    or down to this sequence.
    """

    part: Part
    id: UUID | None = None
    sequence: int | None = None
    span: str | None = None
    at: datetime | None = None


class Fault(msgspec.Struct, frozen=True):
    book: int
    what: str


class Paced:
    """A walk that looks at so many `rows` in a turn. A statement may be worth several turns, which are sat out then."""

    def __init__(self, walk: Walk, rows: int) -> None:
        self._walk = walk
        self._rows = rows
        self._owed = 0

    async def on(self, faults: list[Fault]) -> bool:
        """One turn. Whether the walk has come to its end; what it found wrong is added to `faults`."""
        self._owed += self._rows
        while self._owed > 0:
            looked = await anext(self._walk, None)
            if looked is None:
                return True
            faults += [Fault(looked.book, what) for what in looked.faults]
            _ROWS.inc(looked.rows)
            _FAULTS.inc(len(looked.faults))
            self._owed -= looked.rows
        return False


class Checker:
    """`turn` is to be called about every second, on one replica."""

    def __init__(self, database: Database, checks: Checks, *, seconds: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._checks = checks
        self._seconds = seconds
        self._round: Paced | None = None
        self._history: Paced | None = None
        self._dated: Paced | None = None
        self._began = self._history_began = 0.0
        self.rounds = 0

    async def turn(self) -> list[Fault]:
        """One second's worth of looking. The faults that it found."""
        if self._round is None:
            await self._begin()
        faults: list[Fault] = []
        if self._round is not None and await self._round.on(faults):
            self._end()
        if self._history is not None and await self._history.on(faults):
            self._history = None
            _HISTORY_SECONDS.set(self._seconds() - self._history_began)
        if self._dated is not None and await self._dated.on(faults):
            self._dated = None
        return faults

    async def whole(self, book: int) -> list[str]:
        """The faults of one book, all of it looked at at once."""
        found = await self._checks.book(self._database, book)
        if found is None:
            return []
        place: Mark | None = Mark("balance")
        faults: list[str] = []
        while place is not None:
            looked, place = await self.step(found, place, 0, found.sequence)
            faults += looked.faults
        return faults

    # ---- rounds -----------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        books = await self._checks.books(self._database, quarantined=False)
        self._began = self._seconds()
        # The accounts twice, since the balance is of all of them.
        rows = sum(min(book.sequence, NEWEST) + 2 * book.accounts + book.holds for book in books)
        newest = self._walk([(book, max(book.sequence - NEWEST, 0)) for book in books])
        self._round = Paced(newest, min(max(rows // ROUND_S + 1, LEAST), MOST))
        if self._history is None:
            self._history = Paced(self._older([(book.id, book.sequence - NEWEST) for book in books]), OLDER)
            self._history_began = self._began
        if self._dated is None:
            self._dated = Paced(self._adjusted(books), DATED)

    def _end(self) -> None:
        self._round = None
        self.rounds += 1
        _ROUNDS.inc()
        _ROUND_SECONDS.set(self._seconds() - self._began)

    async def _walk(self, books: list[tuple[CheckedBook, int]]) -> Walk:
        for book, after in books:
            place: Mark | None = Mark("balance")
            while place is not None and place.part != "adjustments":
                looked, place = await self.step(book, place, after, book.sequence)
                yield looked

    async def _adjusted(self, books: list[CheckedBook]) -> Walk:
        for book in books:
            place: Mark | None = Mark("adjustments")
            while place is not None:
                looked, place = await self.step(book, place, 0, 0)
                yield looked

    async def step(self, book: CheckedBook, place: Mark, after: int, upto: int) -> tuple[Looked, Mark | None]:
        """One statement of the check of a book, and where it goes on: what is short and tells most first, then the transfers after the
        sequence `after` up to `upto`, newest first, then what was dated back.
        """
        part = place.part
        if part == "balance":
            return Looked(book.id, book.accounts, await self._checks.balance(self._database, book.id)), Mark("accounts")
        if part == "transfers":
            last = upto if place.sequence is None else place.sequence
            first = max(last - TRANSFERS, after)
            faults = [] if last <= after else await self._checks.transfers(self._database, book.id, first, last)
            on = Mark(part, sequence=first) if first > after else Mark("adjustments")
            return Looked(book.id, max(last - first, 0), faults), on
        if part == "adjustments":
            rows, (account, span, since), faults = await self._checks.adjustments(
                self._database, book.id, (place.id, place.span, place.at), SLICE
            )
            return Looked(book.id, rows, faults), None if account is None else Mark(
                part, id=account, span=span, at=since
            )
        look = {
            "accounts": self._checks.accounts,
            "holds": self._checks.holds,
            "reversals": self._checks.reversals,
        }[part]
        seen, at, faults = await look(self._database, book.id, place.id, SLICE)
        on = Mark(part, id=at) if seen == SLICE else Mark(PARTS[PARTS.index(part) + 1])
        return Looked(book.id, seen, faults), on

    async def _older(self, books: list[tuple[int, int]]) -> Walk:
        for book, upto in books:
            left = upto
            while left > 0:
                first = max(left - TRANSFERS, 0)
                yield Looked(book, left - first, await self._checks.transfers(self._database, book, first, left))
                left = first
