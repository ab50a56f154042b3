"""The checker is worth something only if it finds what is wrong: histories of one ledger pass, planted anomalies are found."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import inf

import pytest

from tests.support.history import Anomaly, Attempt, Final, Move, Owner, Read, Reference, Told, check

OWNERS = {
    "bank": Owner(debit_normal=True, floor=None),
    "anna": Owner(debit_normal=False, floor=0),
    "ben": Owner(debit_normal=False, floor=-40),
    "till": Owner(debit_normal=True, floor=0),
}


@dataclass
class Made:
    """A history of a ledger that is right: each request takes effect at some moment between its sending and its answer."""

    attempts: list[Attempt] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    found: dict[str, Told | None] = field(default_factory=dict)
    sequence: int = 0

    def check(self) -> list[Anomaly]:
        return check(OWNERS, self.attempts, self.reads, Final(self.sequence, self.found))

    def place(self, status: str, kind: str | None = None) -> int:
        """An attempt in the middle that was told `status`."""
        some = [
            n
            for n, one in enumerate(self.attempts)
            if one.told and len(one.moves) == 1 and one.told[0].status == status and kind in (None, one.moves[0].kind)
        ]
        return some[len(some) // 2]


def made(seed: int, size: int = 300, *, lose: int | None = None) -> Made:
    """With `lose` the first plain post after that number leaves no trace on the account that it credits."""
    rng = random.Random(seed)
    history, ledger, now = Made(), Reference(OWNERS), 0.0
    moves: list[Move] = []
    for n in range(size):
        now += 1
        sent, got = now - rng.uniform(0, 6), now + rng.uniform(0, 6)
        if rng.random() < 0.2:
            account = rng.choice(list(OWNERS))
            history.reads.append(Read(account, sent, got, history.sequence, *ledger.balance(account)))
            continue
        unit = tuple(_move(rng, f"{n}-{k}", moves) for k in range(rng.choice([1, 1, 1, 3])))
        if len(unit) > 1:
            unit = tuple(one for one in unit if one.kind in {"post", "hold"}) or unit[:1]
        told = []
        for move, judged in zip(unit, ledger.judge_all(unit), strict=True):
            if judged.status != "rejected":
                before = deepcopy(ledger.totals)
                ledger.apply(move, judged)
                history.sequence += 1
                if lose is not None and history.sequence > lose and move.kind == "post":
                    ledger.totals[move.credit or ""] = before[move.credit or ""]
                    lose = None
                told.append(judged._replace(sequence=history.sequence))
                moves.append(move)
            else:
                told.append(judged)
            linked = judged.reason == "linked_transfer_failed"
            history.found[move.id] = None if linked else told[-1]
        lost = rng.random() < 0.1
        history.attempts.append(Attempt(unit, sent, inf if lost else got, None if lost else tuple(told)))
    return history


def _move(rng: random.Random, name: str, moves: list[Move]) -> Move:
    kind = rng.choice(["post", "post", "hold", "capture", "void", "reverse"])
    targets = [one for one in moves if (one.kind == "hold") == (kind != "reverse") and one.kind != "void"]
    if kind in {"post", "hold"} or not targets:
        debit, credit = rng.sample(list(OWNERS), 2)
        return Move(name, kind if kind == "hold" else "post", debit, credit, rng.randint(1, 60))
    amount = None if kind == "void" else rng.choice([None, rng.randint(1, 30)])
    target = rng.choice(targets[-6:])
    return Move(name, kind, amount=amount, target=target.id, final=kind == "capture" and rng.random() < 0.3)


SEEDS = range(12)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_one_ledger_says_passes(seed: int) -> None:
    history = made(seed)
    assert history.check() == []
    kinds = {one.moves[0].kind for one in history.attempts}
    assert kinds == {"post", "hold", "capture", "void", "reverse"}
    assert any(one.told is None for one in history.attempts)


def test_these_histories_have_all_kinds_of_refusals() -> None:
    told = {told.reason for seed in SEEDS for one in made(seed).attempts for told in one.told or ()}
    assert told >= {
        "insufficient_funds",
        "linked_transfer_failed",
        "exceeds_hold",
        "exceeds_reversible",
        "hold_already_captured",
        "hold_already_voided",
    }


def kinds(history: Made) -> set[str]:
    return {one.kind for one in history.check()}


@pytest.mark.parametrize("seed", SEEDS)
def test_an_effect_that_got_lost(seed: int) -> None:
    history = made(seed)
    lost = history.attempts[history.place("posted")]
    history.found[lost.moves[0].id] = None
    assert "lost" in kinds(history)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_update_that_got_lost(seed: int) -> None:
    """One post was answered, numbered and kept, but another transaction wrote its account's old totals over the new ones."""
    assert kinds(made(seed, lose=40)) & {"balance", "answer", "refusal"}


@pytest.mark.parametrize("seed", SEEDS)
def test_an_effect_that_came_twice(seed: int) -> None:
    """The same request took effect once more under a number of its own: the book is longer than what anybody asked for."""
    history = made(seed)
    history.sequence += 1
    assert kinds(history) == {"gap"}
    history = made(seed)
    one, two = history.place("posted", "post"), history.place("held")
    number = history.attempts[one].told[0].sequence  # type: ignore[index]
    other = history.attempts[two]
    told = other.told[0]._replace(sequence=number)  # type: ignore[index]
    history.attempts[two] = replace(other, told=(told,))
    history.found[other.moves[0].id] = told
    assert kinds(history) == {"duplicate"}


@pytest.mark.parametrize("seed", SEEDS)
def test_answers_that_differ_for_one_request(seed: int) -> None:
    history = made(seed)
    first = history.attempts[history.place("posted")]
    told = first.told[0]._replace(sequence=history.sequence)  # type: ignore[index]
    history.attempts.append(replace(first, sent=first.got + 50, got=first.got + 51, told=(told,)))
    assert "divergent" in kinds(history)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_refusal_and_a_success_for_one_request(seed: int) -> None:
    history = made(seed)
    first = history.attempts[history.place("rejected")]
    told = Told("posted", sequence=history.sequence, amount=first.moves[0].amount)
    history.attempts.append(replace(first, sent=first.got + 50, got=first.got + 51, told=(told,)))
    assert "divergent" in kinds(history)


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_that_are_not_in_the_order_of_time(seed: int) -> None:
    history = made(seed)
    place = history.place("posted", "post")
    early = history.attempts[place]
    history.attempts[place] = replace(early, sent=early.got + 100, got=early.got + 101)
    assert "order" in kinds(history)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stale_read(seed: int) -> None:
    """A balance that was true, told after somebody had been told of a later one."""
    history = made(seed)
    old = next(read for read in history.reads if read.as_of > 3)
    history.reads.append(replace(old, sent=1e6, got=1e6 + 1))
    assert "stale" in kinds(history)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_read_of_what_was_not_sent_yet(seed: int) -> None:
    history = made(seed)
    last = history.reads[-1]
    history.reads.append(replace(last, sent=-10, got=-9))
    assert "stale" in kinds(history)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("field_", ["posted", "pending", "available", "version"])
def test_a_balance_that_never_was(seed: int, field_: str) -> None:
    history = made(seed)
    place = len(history.reads) // 2
    read = history.reads[place]
    history.reads[place] = replace(read, **{field_: getattr(read, field_) + 1})
    assert kinds(history) == {"balance"}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_refusal_for_lack_of_money_that_was_there(seed: int) -> None:
    history = made(seed)
    number = Move("poor", "post", "anna", "bank", 1_000)
    wrong = Told("rejected", reason="insufficient_funds", available=77_777, required=1_000)
    history.attempts.append(Attempt((number,), 150, 160, (wrong,)))
    history.found["poor"] = wrong
    assert kinds(history) == {"refusal"}


@pytest.mark.parametrize("seed", SEEDS)
def test_two_refusals_that_can_not_both_be_in_their_order(seed: int) -> None:
    """Each was true at some time, but the later one only before the earlier one."""
    history = made(seed, 0)
    bank = [Move(f"fund-{n}", "post", "bank", "anna", 10) for n in range(2)]
    poor = [Move(f"poor-{n}", "post", "anna", "bank", 500) for n in range(2)]
    told = [Told("rejected", reason="insufficient_funds", available=n, required=500) for n in (20, 10)]
    for n in range(2):
        posted = Told("posted", sequence=n + 1, amount=10)
        history.attempts += [
            Attempt((bank[n],), 0, 100, (posted,)),
            Attempt((poor[n],), 10 + 20 * n, 20 + 20 * n, (told[n],)),
        ]
        history.found |= {bank[n].id: posted, poor[n].id: told[n]}
    history.sequence = 2
    assert kinds(history) == {"refusal"}
    swapped = [replace(one, told=(told[one.moves[0].id == "poor-0"],)) if one.moves[0] in poor else one for one in history.attempts]  # fmt: skip
    history.attempts = swapped
    history.found |= {"poor-0": told[1], "poor-1": told[0]}
    assert kinds(history) == set()


@pytest.mark.parametrize("seed", SEEDS)
def test_money_that_was_given_below_the_floor(seed: int) -> None:
    history = made(seed)
    history.sequence += 1
    told = Told("posted", sequence=history.sequence, amount=10_000)
    history.attempts.append(Attempt((Move("much", "post", "anna", "bank", 10_000),), 1e6, 1e6 + 1, (told,)))
    history.found["much"] = told
    assert kinds(history) == {"answer"}


def test_a_unit_of_which_a_part_is_kept() -> None:
    history = made(1)
    place = next(
        n for n, one in enumerate(history.attempts) if len(one.moves) > 1 and one.told and one.told[0].sequence
    )
    unit = history.attempts[place]
    history.attempts[place] = replace(unit, got=inf, told=None)
    assert history.check() == []
    history.found[unit.moves[0].id] = None
    assert "torn" in kinds(history)
