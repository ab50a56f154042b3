"""Ledgers with a bug planted in them: each has to be found out by the first seeds, by an invariant that is meant for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import msgspec
import pytest

from tallystick.chassis.db import CommitUnknown, Transaction
from tallystick.chassis.telemetry import logs
from tallystick.kernel import ids
from tallystick.kernel.ids import AccountId, TransferId
from tallystick.kernel.problem import Upstream
from tallystick.services.ledger.api.transactions import undone
from tallystick.services.ledger.model import (
    Account,
    ApprovalRule,
    Book,
    Command,
    Crossing,
    Due,
    Exchange,
    Header,
    ImportRow,
    Leg,
    Outcome,
    ProposalRow,
    Rejection,
    Signed,
    Stand,
    State,
    Unit,
    arrival,
    ending,
    legs,
    missing,
)
from tallystick.services.ledger.model.demands import demanded
from tallystick.services.ledger.model.limits import most
from tallystick.services.ledger.model.savepoint import Savepoint
from tallystick.services.ledger.service import Answered, Ask, Ledger
from tallystick.services.ledger.service.head import Head
from tallystick.services.ledger.service.imports import Runner
from tallystick.services.ledger.service.imports.runner import monotonic
from tallystick.services.ledger.service.interbook import Interbook
from tallystick.services.ledger.store import Imports as ImportStore
from tallystick.services.ledger.store import Store, Writing
from tallystick.services.ledger.store.sql import of_imports
from tests.simulation.__main__ import shrunk
from tests.simulation.subjects import subjects_of
from tests.simulation.world import USUAL, Shape, simulate

#: Within so many seeds a planted bug has to be found.
BUDGET = 400
#: Runs of postings alone, for what goes wrong with them: there are most of them in these.
ALONE = Shape(subjects=())


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs._process, "threshold", 100)


class ForgetsTheLock(Store):
    """Reads the books where it should lock them."""

    async def lock_books(self, tx: Transaction, books: Any) -> dict[int, Book]:
        return await self.heads(tx, sorted(books))


class ForgetsToCompare(Store):
    """Stores what was decided ahead of the lock whatever became of the books meanwhile."""

    async def save(self, at: Any, writing: Writing, now: Any) -> None:
        writing.books = [(book, None, None, *after) for book, _, _, *after in writing.books]  # type: ignore[misc]
        await super().save(at, writing, now)


class ForgetsToTell(Store):
    """Leaves the row of a hold as it was when it is drawn on without being closed."""

    async def save(self, at: Any, writing: Writing, now: Any) -> None:
        writing.draws = [draw for draw in writing.draws if draw[2] != "capture" or draw[3] == draw[4]]
        await super().save(at, writing, now)


class ForgetsTheIncrease(Store):
    """Holds more on the accounts, and not in the hold."""

    async def save(self, at: Any, writing: Writing, now: Any) -> None:
        writing.draws = [draw for draw in writing.draws if draw[2] != "increase"]
        await super().save(at, writing, now)


class ForgetsTheHeader(Store):
    """Stores the transfers of a transaction alone."""

    async def save(self, at: Any, writing: Writing, now: Any) -> None:
        writing.transactions = []
        await super().save(at, writing, now)


class ForgetsPastDays(Store):
    """Judges what is dated back by what there is today."""

    async def learn_days(self, *_: Any) -> None:
        pass


class ForgetsWhatIsDatedBack(Store):
    """Takes a balance by effective time for what was recorded by then."""

    async def adjusted_at(self, *_: Any) -> tuple[int, int]:
        return 0, 0


class ForgetsWhatHasExpired(Store):
    """Leaves it to the sweep, whoever is refused until then."""

    async def due_holds_of(self, *_: Any) -> list[Due]:
        return []


def with_store(kind: type[Store]) -> Callable[..., Ledger]:
    def make(**parts: Any) -> Ledger:
        return Ledger(**{**parts, "store": kind()})

    return make


def takes_unknown_for_a_failure(**parts: Any) -> Ledger:
    """A COMMIT without an answer did nothing, it thinks: once more, with new ids."""
    ledger = Ledger(**parts)
    post = ledger.poster.post

    async def again(ask: Ask) -> Answered:
        try:
            return await post(ask)
        except CommitUnknown:
            if ask.entry is not None:
                raise
            commands = [msgspec.structs.replace(one, id=ids.transfers.new()) for one in ask.commands]
            answered = await post(msgspec.structs.replace(ask, commands=commands))
            results = [
                msgspec.structs.replace(result, id=one.id)
                for result, one in zip(answered.results, ask.commands, strict=True)
            ]
            return Answered(results, answered.receipt)

    ledger.poster.post = again  # type: ignore[method-assign]
    return ledger


def forgets_links(**parts: Any) -> Ledger:
    """Posts each command of a chain for itself."""
    ledger = Ledger(**parts)
    post = ledger.poster.post

    async def alone(ask: Ask) -> Answered:
        commands = [msgspec.structs.replace(one, linked=False) for one in ask.commands]
        return await post(msgspec.structs.replace(ask, commands=commands))

    ledger.poster.post = alone  # type: ignore[method-assign]
    return ledger


def found(
    make: Callable[..., Ledger], kinds: set[str], record_property: Callable[[str, object], None], shape: Shape = USUAL
) -> None:
    """Fails unless one of these invariants is broken within the budget."""
    for seed in range(1, BUDGET + 1):
        broken = {violation.partition(":")[0] for violation in simulate(seed, make, shape).violations}
        if broken & kinds:
            record_property("found at", seed)
            print(f"found by seed {seed}: {broken}")
            return
    pytest.fail(f"not found by {BUDGET} seeds: the simulation is blind to it")


@pytest.mark.parametrize(
    ("make", "kinds"),
    [
        (with_store(ForgetsTheLock), {"error", "sequence", "order", "rules", "answer"}),
        (with_store(ForgetsToCompare), {"error", "sequence", "order", "rules", "answer"}),
        (with_store(ForgetsToTell), {"hold", "rules"}),
        (takes_unknown_for_a_failure, {"twice", "answer"}),
        (with_store(ForgetsTheIncrease), {"hold"}),
        (with_store(ForgetsTheHeader), {"transaction"}),
        (with_store(ForgetsPastDays), {"past"}),
        (with_store(ForgetsWhatIsDatedBack), {"balance"}),
        (forgets_links, {"chain"}),
    ],
    ids=["lock", "compare", "hold", "unknown", "increase", "header", "past", "dated", "chain"],
)
def test_a_planted_bug_is_found(
    make: Callable[..., Ledger], kinds: set[str], record_property: Callable[[str, object], None]
) -> None:
    found(make, kinds, record_property, ALONE)


def test_a_hold_that_blocks_after_its_time_is_found(record_property: Callable[[str, object], None]) -> None:
    """Twice as many requests as usual: holds end while somebody still wants their money."""
    found(with_store(ForgetsWhatHasExpired), {"blocked"}, record_property, Shape(requests=14, subjects=()))


def most_but_one(debit: Account, credit: Account, asked: int) -> int:
    """Leaves something where there is less than was asked for."""
    amount = most(debit, credit, asked)
    return amount if amount in {asked, 1} else amount - 1


class ForgetsAccounts(Savepoint):
    """What the first ones of a chain did to accounts stays done."""

    def roll_back(self) -> list[Rejection]:
        self._accounts = {}
        return super().roll_back()


def undone_but_one(*args: Any) -> tuple[Header, list[Command]]:
    header, commands = undone(*args)
    return header, commands[:-1] or commands


@pytest.mark.parametrize(
    ("place", "wrong", "kinds"),
    [
        ("tallystick.services.ledger.model.rules.most", most_but_one, {"rules"}),
        ("tallystick.services.ledger.model.rules.Savepoint", ForgetsAccounts, {"error", "totals"}),
        ("tests.simulation.clients.undone", undone_but_one, {"undone"}),
        # Numbers alone say which flush was stored before this one.
        (
            "tallystick.services.ledger.store.posting.secrets.randbits",
            lambda _: 0,
            {"error", "rules", "answer", "totals"},
        ),
        ("tests.simulation.server.posting.refused_before", lambda *_: False, {"answer", "refused and posted"}),
    ],
    ids=["most", "savepoint", "undone", "flush", "refusals"],
)
def test_a_planted_rule_is_found(
    place: str,
    wrong: Any,
    kinds: set[str],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.setattr(place, wrong)
    found(Ledger, kinds, record_property, ALONE)


# ---- money between books --------------------------------------------------------------------------------------------


def arrives_anew(crossing: Crossing, transit: AccountId) -> Command:
    """Another id in each try: who asks again posts again."""
    return msgspec.structs.replace(arrival(crossing, transit), id=ids.transfers.new())


def leaves_whatever_was_said(book: str, crossing: Crossing, _outcome: Outcome, attempt: int = 0) -> Command:
    """Captures also what was refused there."""
    return ending(book, crossing, Outcome(), attempt)


async def takes_silence_for_no(self: Interbook, tenant: str, crossing: Crossing) -> Outcome:
    """No answer: it has not arrived, it thinks."""
    try:
        return await _arrive(self, tenant, crossing)
    except Upstream:
        return Outcome("no_answer")


async def nobody_resumes(*_: Any) -> int:
    """Who is cut off is not helped."""
    return 0


_arrive = Interbook._arrive
OF_INTERBOOK = "tallystick.services.ledger.service.interbook"


@pytest.mark.parametrize(
    ("place", "wrong", "kinds"),
    [
        (f"{OF_INTERBOOK}.arrival", arrives_anew, {"interbook money"}),
        (f"{OF_INTERBOOK}.ending", leaves_whatever_was_said, {"interbook money"}),
        (f"{OF_INTERBOOK}.Interbook._arrive", takes_silence_for_no, {"interbook money"}),
        (f"{OF_INTERBOOK}.Interbook.resume", nobody_resumes, {"interbook ended"}),
    ],
    ids=["anew", "capture", "silence", "resume"],
)
def test_money_between_books_that_is_lost_doubled_or_stuck_is_found(
    place: str,
    wrong: Any,
    kinds: set[str],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.setattr(place, wrong)
    found(Ledger, kinds, record_property)


# ---- the other subjects ---------------------------------------------------------------------------------------------


class ComparesOneBook(Store):
    """Of several books that a flush touches it looks at the first."""

    async def save(self, at: Any, writing: Writing, now: Any) -> None:
        others = [(book, None, None, None, *after) for book, _, _, _, *after in writing.books[1:]]
        writing.books = writing.books[:1] + others  # type: ignore[operator]
        await super().save(at, writing, now)


def unaware_of(**ignored: Any) -> Callable[..., Ledger]:
    """Does not look at something that a book says of itself: it always reads the same there."""

    class Unaware(Store):
        async def lock_books(self, tx: Transaction, books: Any) -> dict[int, Book]:
            return self._without(await super().lock_books(tx, books))

        async def heads(self, source: Any, books: Any) -> dict[int, Book]:
            return self._without(await super().heads(source, books))

        @staticmethod
        def _without(found: dict[int, Book]) -> dict[int, Book]:
            return {number: msgspec.structs.replace(book, **ignored) for number, book in found.items()}

    return with_store(Unaware)


class FreezesWithoutTheLock(Store):
    """Accounts are changed while others post to them: the lock is taken for what is posted alone."""

    async def lock_books(self, tx: Transaction, books: Any) -> dict[int, Book]:
        if isinstance(books, list):
            return {}
        return await super().lock_books(tx, books)


class ForgetsCeilings(Store):
    """What is there may pass them; the schema does not look either."""

    async def load(self, *args: Any) -> State:
        return self._without(await super().load(*args))

    async def learn(self, *args: Any) -> None:
        await super().learn(*args)
        self._without(args[-1])

    @staticmethod
    def _without(state: State) -> State:
        for account in state.accounts.values():
            account.ceiling = None
        return state


class ForgetsWhoCameMeanwhile(Store):
    """Takes the accounts that it compared with a chart for all that there are."""

    async def extent(self, tx: Transaction, book: int) -> tuple[int, int]:
        self.compared = await super().extent(tx, book)
        return self.compared

    async def charted_after(self, *_: Any) -> list[Any]:
        return []

    async def count_accounts(self, *_: Any) -> int:
        return self.compared[0]


class LetsAccountsBeOpened(Store):
    """Locks a book against postings alone."""

    async def lock_whole_book(self, tx: Transaction, book: int) -> None:
        await super().lock_books(tx, [book])


async def whatever_became_of_it(_self: ImportStore, tx: Transaction, job: ImportRow) -> ImportRow | None:
    """Runs an import as it was read, though another one may have got further or to its end."""
    await tx.fetchrow(of_imports.lock_import, job.id)
    return job


async def keeps_what_was_good(self: Runner, job: ImportRow) -> None:
    """What comes before a line that is refused stays there."""
    await self._in_parts(job, monotonic())


def another_each_time(_book: int, _said: str) -> TransferId:
    """A line that is brought again is another one."""
    return ids.transfers.new()


async def learns_more(self: Head, units: Sequence[Unit]) -> dict[int, Stand]:
    """Looks also at the last few transfers, which somebody may ask about next."""
    found = await _learn(self, units)
    for number, book in self.state.books.items():
        for one in await Store().between(self._source, number, max(book.sequence - 2, 1), book.sequence):
            self.state.transfers.setdefault((one.book, one.id), one)
    return found


_learn = Head.learn


def nobody_guards(*_: Any) -> None:
    """In place of a check of the schema."""


def rounded_down(numerator: int, denominator: int, _rounding: str) -> int:
    return numerator // denominator


def spread_from_both(exchange: Exchange) -> list[Leg]:
    """Keeps the spread back, and gives it to the buyer too."""
    found = legs(exchange)
    kept = sum(leg.amount for leg in found if leg.role == "spread")
    return [msgspec.structs.replace(leg, amount=leg.amount + kept) if leg.role == "buy" else leg for leg in found]


def one_is_enough(rules: Sequence[ApprovalRule], decisions: Iterable[Signed]) -> int:
    return max(missing(rules, decisions) - 1, 0)


def never_too_late(self: ProposalRow, _now: datetime) -> ProposalRow:
    return self


def asks_of_the_first(state: State, unit: Unit) -> tuple[ApprovalRule, ...]:
    """A large amount in small transfers is a small one."""
    return demanded(state, msgspec.structs.replace(unit, commands=unit.commands[:1]))


RULES = "tallystick.services.ledger.model.rules"
GUARDS = "tests.simulation.server.posting"
OF_IMPORTS = "tallystick.services.ledger"


def test_what_a_seed_found_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stays a seed that finds it, and is never larger. How small it gets is the seed's luck: one of some needs nothing but its subject."""
    monkeypatch.setattr(f"{OF_INTERBOOK}.Interbook.resume", nobody_resumes)
    seeds = (seed for seed in range(1, BUDGET) if len(subjects_of(seed)) > 1)
    finding = (seed for seed in seeds if any("ended" in each for each in simulate(seed).violations))
    for seed in islice(finding, 8):
        shape = shrunk(seed, Shape(subjects=subjects_of(seed)))
        assert simulate(seed, shape=shape).violations
        assert shape.clients * shape.requests < USUAL.clients * USUAL.requests
        if shape.subjects == ("interbook",):
            return
    pytest.fail("none of them could do without the other subjects")


@pytest.mark.parametrize(
    ("kinds", "make", "patches"),
    [
        ({"error", "sequence", "order", "rules", "answer"}, with_store(ComparesOneBook), {}),
        ({"error"}, unaware_of(sealed_until=None), {}),
        ({"seal"}, unaware_of(sealed_until=None), {f"{GUARDS}.check_sealed": nobody_guards}),
        ({"rules", "ceiling"}, with_store(ForgetsCeilings), {f"{GUARDS}.check_limits": nobody_guards}),
        ({"past"}, unaware_of(strict=False), {}),
        ({"breach"}, Ledger, {"tallystick.services.ledger.model.limits.breached": lambda *_: []}),
        ({"rules"}, Ledger, {f"{RULES}.check_not_frozen": nobody_guards}),
        ({"deadlock"}, with_store(FreezesWithoutTheLock), {}),
        ({"quarantine"}, unaware_of(quarantined=False), {}),
        ({"approvals"}, unaware_of(approvals=()), {}),
        ({"approvals"}, Ledger, {f"{RULES}.demanded": asks_of_the_first}),
        ({"approvals"}, Ledger, {"tallystick.services.ledger.model.approvals.missing": one_is_enough}),
        ({"approvals"}, Ledger, {"tallystick.services.ledger.model.approvals.ProposalRow.at": never_too_late}),
        ({"approvals ended"}, Ledger, {"tallystick.services.ledger.service.Approvals.resume": nobody_resumes}),
        ({"head"}, Ledger, {"tallystick.services.ledger.service.head.Head.learn": learns_more}),
        ({"exchange"}, Ledger, {"tallystick.services.ledger.model.exchange.rounded": rounded_down}),
        ({"exchange"}, Ledger, {"tallystick.services.ledger.api.transactions.legs": spread_from_both}),
        ({"chart"}, with_store(ForgetsWhoCameMeanwhile), {}),
        ({"chart"}, with_store(LetsAccountsBeOpened), {}),
        ({"import told", "import report"}, Ledger, {f"{OF_IMPORTS}.store.Imports.lock_queued": whatever_became_of_it}),
        ({"import report"}, Ledger, {f"{OF_IMPORTS}.service.imports.Runner._whole": keeps_what_was_good}),
        ({"import twice"}, Ledger, {f"{OF_IMPORTS}.model.records.transfer_id": another_each_time}),
    ],
    ids=[
        "books", "seal", "seal-unguarded", "ceiling", "strict", "breach", "frozen", "freeze-unlocked", "quarantine", "unapproved", "summed", "one-approval",
        "late-approval", "approved-and-left", "head", "rounding", "spread", "chart", "chart-unlocked", "import-state",
        "import-half", "import-again",
    ],
)  # fmt: skip
def test_what_is_planted_in_a_subject_is_found(
    kinds: set[str],
    make: Callable[..., Ledger],
    patches: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    for place, wrong in patches.items():
        monkeypatch.setattr(place, wrong)
    found(make, kinds, record_property)
