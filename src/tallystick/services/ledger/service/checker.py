"""The continuous check: every total in every book is re-derived from the transfers, over and over, while the book is in use.

A round looks at each book's balance by currency, its accounts' totals, its holds and its newest transfers, and is paced to take
`ROUND_S`; beside it the older transfers are walked through at `OLDER` rows in a turn, and the sums of what was dated back at `DATED`.
With up to `NEWEST` transfers in a book a round looks at all of them. A book with a fault is put in quarantine: it is read as before, and
nothing is written to it until the operator has released it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Final, Literal, get_args
from uuid import UUID

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database, DatabaseError
from tallystick.kernel.problem import Problem
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


#: See `Checker.step`.
Step = Callable[[CheckedBook, Mark, int, int], Awaitable[tuple[Looked, Mark | None]]]


class Stretch(msgspec.Struct, frozen=True):
    """What is to be looked at of a book: from `place` on up to the part `before`, and of its transfers those after the sequence `after` up to
    `upto`.
    """

    book: CheckedBook
    place: Mark
    before: Part | None = None
    after: int = 0
    upto: int = 0


class Walk:
    """Looks at so many `rows` of these in a turn. A statement may be worth several turns, which are sat out then. One that `failed` ends the turn, and
    is tried again in the next: what was not looked at is not behind it.
    """

    def __init__(self, step: Step, stretches: Iterable[Stretch], rows: int) -> None:
        self._step = step
        self._left = deque(stretches)
        self._rows = rows
        self._owed = 0
        self.failed = False

    async def on(self, faults: list[Fault]) -> bool:
        """One turn. Whether the walk has come to its end; what it found wrong is added to `faults`."""
        self._owed = min(self._owed, 0) + self._rows
        self.failed = False
        while self._owed > 0:
            if not self._left:
                return True
            stretch = self._left[0]
            try:
                looked, place = await self._step(stretch.book, stretch.place, stretch.after, stretch.upto)
            except (DatabaseError, Problem) as error:
                telemetry.log.warning("ledger.check.failed", book=stretch.book.id, error=error)
                self.failed = True
                return False
            if place is None or place.part == stretch.before:
                self._left.popleft()
            else:
                self._left[0] = msgspec.structs.replace(stretch, place=place)
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
        self._round: Walk | None = None
        self._history: Walk | None = None
        self._dated: Walk | None = None
        self._began = self._history_began = 0.0
        self.rounds = 0

    async def turn(self) -> list[Fault]:
        """One second's worth of looking. The faults that it found."""
        if self._round is None:
            await self._begin()
        faults: list[Fault] = []
        if self._round is not None:
            if await self._round.on(faults):
                self._end()
            elif self._round.failed:
                # Begun anew: what comes first is looked at once a minute, also while something later can't be.
                self._round = None
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
        newest = [
            Stretch(book, Mark("balance"), "adjustments", max(book.sequence - NEWEST, 0), book.sequence)
            for book in books
        ]
        self._round = Walk(self.step, newest, min(max(rows // ROUND_S + 1, LEAST), MOST))
        if self._history is None:
            older = [
                Stretch(book, Mark("transfers"), "adjustments", 0, book.sequence - NEWEST)
                for book in books
                if book.sequence > NEWEST
            ]
            self._history = Walk(self.step, older, OLDER)
            self._history_began = self._began
        if self._dated is None:
            self._dated = Walk(self.step, [Stretch(book, Mark("adjustments")) for book in books], DATED)

    def _end(self) -> None:
        self._round = None
        self.rounds += 1
        _ROUNDS.inc()
        _ROUND_SECONDS.set(self._seconds() - self._began)

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
