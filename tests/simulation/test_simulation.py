"""Thousands of fates of several ledgers on one database, each from a seed that replays it: `python -m tests.simulation SEED --trace`.

Which seeds are tried: those that found something once, a fixed stretch, and one that begins somewhere else in each run (SIMULATION_FIRST, printed).
The ledgers with a bug planted in them have to be found out within the same budget, or the simulation proves nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tallystick.chassis.db import CommitUnknown, Transaction
from tallystick.chassis.telemetry import logs
from tallystick.kernel import ids
from tallystick.services.ledger.api.transactions import undone
from tallystick.services.ledger.model import Account, Book, Command, Due, Header, Rejection
from tallystick.services.ledger.model.limits import most
from tallystick.services.ledger.model.savepoint import Savepoint
from tallystick.services.ledger.service import Answered, Ask, Ledger
from tallystick.services.ledger.store import Store, Writing
from tests.simulation.world import Report, simulate

#: Seeds that the fixed stretch and the wandering one have each; set SIMULATION_SEEDS for more.
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "1000"))
#: Within so many a planted bug has to be found.
BUDGET = 400
#: Each finds one of what was found once, if it comes back: a plan that goes on with a book that was forgotten while it asked, or before it
#: was stored; a capture after the hold's expiry by the book's time, by a clock that was behind; by such a clock, a refusal for what an expired
#: hold held; a balancing transfer that leaves what such a hold held.
ONCE_BAD = (53, 1438, 716, 673, 777)


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs._process, "threshold", 100)


def _run(seeds: Sequence[int]) -> list[Report]:
    logs._process.threshold = 100
    return [replace(report, trace=[]) for report in map(simulate, seeds)]


def reports(first: int, count: int) -> Iterator[Report]:
    """In as many processes as there are processors."""
    chunks = [range(start, min(start + 50, first + count)) for start in range(first, first + count, 50)]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for some in pool.map(_run, chunks):
            yield from some


@pytest.mark.parametrize("seed", ONCE_BAD)
def test_what_was_found_once_stays_mended(seed: int) -> None:
    assert simulate(seed).violations == []


def test_every_invariant_holds_in_every_fate(record_property: Callable[[str, object], None]) -> None:
    wandering = int(os.environ.get("SIMULATION_FIRST") or secrets.randbelow(2**40))
    record_property("first", wandering)
    print(f"SIMULATION_FIRST={wandering}")
    reached: Counter[str] = Counter()
    transfers = 0
    for first in (1, wandering):
        for report in reports(first, SEEDS):
            assert not report.violations, f"python -m tests.simulation {report.seed} --trace: {report.violations}"
            reached += report.reached
            transfers += report.transfers
    record_property("reached", dict(reached))
    assert transfers > 5 * SEEDS
    # Each kind of trouble was really had, not only possible.
    for kind in (
        "lost_before", "lost_after", "no_lock", "lock_timeout", "waited", "slow", "killed", "died_in_commit", "commit_lost", "commit_unanswered",
        "commit_late", "repeated", "duplicated", "closed", "sweep_failed", "Contended", "DatabaseUnavailable", "CommitUnknown", "InProgress",
    ):  # fmt: skip
        assert reached[kind] > 10, f"{kind}: {reached[kind]} times"
    # And each kind of transfer was posted.
    for kind in (
        "post", "hold", "increase", "capture", "void", "expire", "reverse", "balancing", "balancing_less", "chains", "chains_refused",
        "transactions", "undone", "dated",
    ):  # fmt: skip
        assert reached[kind] > 50, f"{kind}: {reached[kind]} times"


def test_a_seed_is_its_run() -> None:
    """The same trace again, here and in another process with other hashes."""
    for seed in (3, 17, 4242):
        one = simulate(seed)
        assert one.trace == simulate(seed).trace
        said = subprocess.run(
            [sys.executable, "-m", "tests.simulation", str(seed)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        ).stdout
        assert one.fingerprint[:16] in said


# ---- planted bugs ---------------------------------------------------------------------------------------------------


class ForgetsTheLock(Store):
    """Reads the books where it should lock them."""

    async def lock_books(self, tx: Transaction, books: Any) -> dict[int, Book]:
        return await self.heads(tx, sorted(books))


class ForgetsRefusals(Store):
    """Does not look whether an id was refused before."""

    async def save(self, at: Any, writing: Writing, now: Any) -> None:
        writing.ids = []
        await super().save(at, writing, now)


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


def found(make: Callable[..., Ledger], kinds: set[str], record_property: Callable[[str, object], None]) -> None:
    """Fails unless one of these invariants is broken within the budget."""
    for seed in range(1, BUDGET + 1):
        broken = {violation.partition(":")[0] for violation in simulate(seed, make).violations}
        if broken & kinds:
            record_property("found at", seed)
            print(f"found by seed {seed}: {broken}")
            return
    pytest.fail(f"not found by {BUDGET} seeds: the simulation is blind to it")


@pytest.mark.parametrize(
    ("make", "kinds"),
    [
        (with_store(ForgetsTheLock), {"error", "sequence", "order", "rules", "answer"}),
        (with_store(ForgetsRefusals), {"answer", "refused and posted"}),
        (with_store(ForgetsToCompare), {"error", "sequence", "order", "rules", "answer"}),
        (with_store(ForgetsToTell), {"hold", "rules"}),
        (takes_unknown_for_a_failure, {"twice", "answer"}),
        (with_store(ForgetsTheIncrease), {"hold"}),
        (with_store(ForgetsTheHeader), {"transaction"}),
        (with_store(ForgetsPastDays), {"past"}),
        (with_store(ForgetsWhatIsDatedBack), {"balance"}),
        (with_store(ForgetsWhatHasExpired), {"blocked"}),
        (forgets_links, {"chain"}),
    ],
    ids=["lock", "refusals", "compare", "hold", "unknown", "increase", "header", "past", "dated", "expired", "chain"],
)
def test_a_planted_bug_is_found(
    make: Callable[..., Ledger], kinds: set[str], record_property: Callable[[str, object], None]
) -> None:
    found(make, kinds, record_property)


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
        ("tests.simulation.world.undone", undone_but_one, {"undone"}),
        # Numbers alone say which flush was stored before this one.
        (
            "tallystick.services.ledger.store.posting.secrets.randbits",
            lambda _: 0,
            {"error", "rules", "answer", "totals"},
        ),
    ],
    ids=["most", "savepoint", "undone", "flush"],
)
def test_a_planted_rule_is_found(
    place: str,
    wrong: Any,
    kinds: set[str],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.setattr(place, wrong)
    found(Ledger, kinds, record_property)
