"""The continuous check: every total in every book is re-derived from the transfers, over and over, while the book is in use.

A round checks each book's balance by currency, its accounts' totals, its holds and reversals and its newest transfers. It is paced to take
`ROUND_S`. In parallel, the older transfers are checked at `OLDER` rows per turn, and the sums of what was dated back at `DATED` rows. If a
book has at most `NEWEST` transfers, every round checks all of them. A book with a fault is put in quarantine: reads go on, and nothing is
written to it until the operator releases it.
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

#: A round is paced to take this many seconds, so that a fault is found within 60 s even if it appears right after its row was checked.
ROUND_S: Final = 40
#: The newest transfers of a book that every round checks.
NEWEST: Final = 250_000
#: Rows that one statement checks.
SLICE: Final = 1000
#: The same for transfers, which are cheap to check together.
TRANSFERS: Final = 5000
#: Rows that one turn (a second) checks at least and at most.
LEAST, MOST = 250, 10_000
#: Older transfers that a turn checks: ten million take three hours.
OLDER: Final = 1000
#: Sums of what was dated back that a turn checks: `NEWEST` of them in a round's time.
DATED: Final = NEWEST // ROUND_S

_ROUNDS = telemetry.counter("ledger_check_rounds", "Rounds of the continuous check that ended")
_ROWS = telemetry.counter("ledger_check_rows", "Rows that the continuous check looked at")
_FAULTS = telemetry.counter("ledger_check_faults", "Faults that the continuous check found")
_ROUND_SECONDS = telemetry.gauge("ledger_check_round_seconds", "How long the last round of the continuous check took")
_HISTORY_SECONDS = telemetry.gauge(
    "ledger_check_history_seconds", "How long the last walk through all older transfers took"
)


class Looked(msgspec.Struct, frozen=True):
    """The result of one statement: how many rows of which book it checked, and their faults."""

    book: int
    rows: int
    faults: list[str]


#: The parts of a book, in the order in which they are checked.
Part = Literal["balance", "accounts", "holds", "reversals", "transfers", "adjustments"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)


class Mark(msgspec.Struct, frozen=True):
    """The position of a book's check: in `part`, after the row with this `id`, or down to this `sequence`. In `adjustments`, `id` is an
    account's, and the position is after its sum over `span` that starts `at`.
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
    """A section of a book to check: from `place` up to the part `before` (None: to the end). Of its transfers, those after the sequence `after`
    up to `upto`.
    """

    book: CheckedBook
    place: Mark
    before: Part | None = None
    after: int = 0
    upto: int = 0


class Walk:
    """Checks stretches at `rows` per turn. A statement may cover the rows of several turns; then the next turns are skipped. If a statement
    fails, the turn ends with `failed` set, and the next turn repeats it.
    """

    def __init__(self, step: Step, stretches: Iterable[Stretch], rows: int) -> None:
        self._step = step
        self._left = deque(stretches)
        self._rows = rows
        self._owed = 0
        self.failed = False

    async def on(self, faults: list[Fault]) -> bool:
        """Does one turn, and adds what it finds to `faults`. Returns whether the walk is complete."""
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
    """`turn` must be called about every second, on one replica."""

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
        """Does one second's worth of checking. Returns the faults found."""
        if self._round is None:
            await self._begin()
        faults: list[Fault] = []
        if self._round is not None:
            if await self._round.on(faults):
                self._end()
            elif self._round.failed:
                # The round starts again, so that its first parts are checked every minute even if a later part can't be.
                self._round = None
        if self._history is not None and await self._history.on(faults):
            self._history = None
            _HISTORY_SECONDS.set(self._seconds() - self._history_began)
        if self._dated is not None and await self._dated.on(faults):
            self._dated = None
        return faults

    async def whole(self, book: int) -> list[str]:
        """Checks all of one book at once. Returns its faults."""
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
        # Accounts count twice, since the balance check reads all of them too.
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
        """Runs one statement of a book's check. Returns its result and the next position (None at the end). The short, most telling parts come
        first; then the transfers after the sequence `after` up to `upto`, newest first; then what was dated back.
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
