"""Is what a ledger answered while everything broke what one ledger would have answered, one request after the other?

A history is what clients asked and were told, with the times of both, on a clock that they share. `check` looks for an order that explains it: for
what was posted the book's `sequence` is that order; what was refused or read has to fit in between. In that order every answer must be the one that
`Reference` gives, and the order must be that of real time wherever one request ended before another began. That is strict
serializability. The rest are requests without an answer: what became of them is read at the end, by the ids that were made beforehand.

Nothing here knows how the ledger is made: it speaks the public contract's words. Amounts are minor units of one currency.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Owner:
    """An account: which side makes it grow, and how far its available balance may fall."""

    debit_normal: bool
    floor: int | None


@dataclass(frozen=True, slots=True)
class Move:
    """One thing that was asked for. `id` was made by the client."""

    id: str
    kind: str
    debit: str | None = None
    credit: str | None = None
    amount: int | None = None
    target: str | None = None
    final: bool = False


class Told(NamedTuple):
    """What an answer says of one move. `amount` and `released` are None where the answer has none."""

    status: str
    sequence: int | None = None
    reason: str | None = None
    available: int | None = None
    required: int | None = None
    amount: int | None = None
    released: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request: sent, and answered at `got` (never: infinity). More than one move: all or none."""

    moves: tuple[Move, ...]
    sent: float
    got: float = inf
    told: tuple[Told, ...] | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """A balance. `asked`: the sequence that was asked for, None for now."""

    account: str
    sent: float
    got: float
    as_of: int
    version: int
    posted: int
    pending: int
    available: int
    asked: int | None = None


@dataclass(frozen=True, slots=True)
class Final:
    """When all was quiet: the book's sequence, and what each id was found to be (None: never heard of)."""

    sequence: int
    found: Mapping[str, Told | None]


class Anomaly(NamedTuple):
    kind: str
    what: str


# ---- the reference --------------------------------------------------------------------------------------------------


@dataclass
class Totals:
    """Debits pending and posted, credits pending and posted, and how many entries made them."""

    dp: int = 0
    d: int = 0
    cp: int = 0
    c: int = 0
    version: int = 0


class Reference:
    """One ledger that does one thing at a time, written from the public contract."""

    def __init__(self, owners: Mapping[str, Owner]) -> None:
        self.owners = owners
        self.totals = {name: Totals() for name in owners}
        self.holds: dict[str, dict[str, Any]] = {}
        self.posted: dict[str, dict[str, Any]] = {}

    def balance(self, account: str) -> tuple[int, int, int, int]:
        """Version, posted, pending, available."""
        one, owner = self.totals[account], self.owners[account]
        posted = one.d - one.c if owner.debit_normal else one.c - one.d
        pending = one.cp if owner.debit_normal else one.dp
        return one.version, posted, pending, posted - pending

    def judge(self, move: Move) -> Told:
        """What it would say; nothing is changed."""
        if move.kind in {"post", "hold"}:
            assert move.debit and move.credit and move.amount
            no = self._short(move.debit, move.credit, move.amount)
            return no or Told("held" if move.kind == "hold" else "posted", amount=move.amount)
        if move.kind == "reverse":
            one = self.posted.get(move.target or "")
            if one is None:
                return Told("rejected", reason="not_reversible" if move.target in self.holds else "not_found")
            left = one["amount"] - one["reversed"]
            amount = left if move.amount is None else move.amount
            if left == 0 or amount > left:
                required = move.amount or one["amount"]
                return Told("rejected", reason="exceeds_reversible", available=left, required=required)
            return self._short(one["credit"], one["debit"], amount) or Told("posted", amount=amount)
        hold = self.holds.get(move.target or "")
        if hold is None:
            return Told("rejected", reason="not_found")
        if hold["state"] != "held":
            return Told("rejected", reason=f"hold_already_{hold['state']}")
        left = hold["left"]
        amount = left if move.amount is None else move.amount
        if amount > left:
            return Told("rejected", reason="exceeds_hold", available=left, required=amount)
        whole = move.kind == "void" or move.final
        return Told("posted", amount=amount, released=left if whole else amount)

    def _short(self, debit: str, credit: str, amount: int) -> Told | None:
        for account, takes in (
            (debit, not self.owners[debit].debit_normal),
            (credit, self.owners[credit].debit_normal),
        ):
            floor = self.owners[account].floor
            if takes and floor is not None:
                room = self.balance(account)[3] - floor
                if amount > room:
                    return Told("rejected", reason="insufficient_funds", available=room, required=amount)
        return None

    def judge_all(self, moves: Sequence[Move]) -> tuple[Told, ...]:
        """What it would say to all of them, or none."""
        if len(moves) == 1:
            return (self.judge(moves[0]),)
        before = deepcopy(self.totals)
        told: list[Told] = []
        try:
            for place, move in enumerate(moves):
                told.append(self.judge(move))
                if told[-1].status == "rejected":
                    other = Told("rejected", reason="linked_transfer_failed")
                    return tuple(told[-1] if n == place else other for n in range(len(moves)))
                self._add(move.debit or "", move.credit or "", told[-1].amount or 0, hold=move.kind == "hold")
            return tuple(told)
        finally:
            self.totals = before

    def apply(self, move: Move, told: Told) -> None:
        """Does what was judged."""
        amount = told.amount or 0
        if move.kind in {"post", "hold"}:
            debit, credit = move.debit or "", move.credit or ""
            self._add(debit, credit, amount, hold=move.kind == "hold")
            if move.kind == "hold":
                self.holds[move.id] = {"debit": debit, "credit": credit, "left": amount, "state": "held"}
                return
        elif move.kind == "reverse":
            one = self.posted[move.target or ""]
            one["reversed"] += amount
            self._add(one["credit"], one["debit"], amount, hold=False)
            return
        else:
            hold, released = self.holds[move.target or ""], told.released or 0
            debit, credit = hold["debit"], hold["credit"]
            self._add(debit, credit, -released, hold=True)
            hold["left"] -= released
            if move.kind == "capture":
                self.totals[debit].d += amount
                self.totals[credit].c += amount
            if hold["left"] == 0:
                hold["state"] = "captured" if move.kind == "capture" else "voided"
        if move.kind != "void":
            self.posted[move.id] = {"debit": debit, "credit": credit, "amount": amount, "reversed": 0}

    def _add(self, debit: str, credit: str, amount: int, *, hold: bool) -> None:
        one, two = self.totals[debit], self.totals[credit]
        one.version += 1
        two.version += 1
        if hold:
            one.dp += amount
            two.cp += amount
        else:
            one.d += amount
            two.c += amount


# ---- the check ------------------------------------------------------------------------------------------------------


@dataclass
class Operation:
    """All attempts at the same moves as one: it took effect after the first was sent and before the first answer came."""

    moves: tuple[Move, ...]
    sent: float
    done: float
    told: tuple[Told, ...]
    place: int = 0

    @property
    def effective(self) -> bool:
        return all(one.status != "rejected" for one in self.told)

    @property
    def first(self) -> int:
        return self.told[0].sequence or 0

    @property
    def last(self) -> int:
        return self.told[-1].sequence or 0


@dataclass
class _Bounds:
    """What real time says: an operation's place in the order is at least that of all that ended before it began, and so on."""

    ended: list[tuple[float, int]] = field(default_factory=list)
    began: list[tuple[float, int]] = field(default_factory=list)

    def ready(self) -> None:
        self.ended.sort()
        self.began.sort()
        self._low = [0, *accumulate((place for _, place in self.ended), max)]
        self._high = list(accumulate((place for _, place in reversed(self.began)), min))[::-1]

    def low(self, sent: float) -> int:
        """The last place that was taken before."""
        return self._low[bisect_left(self.ended, (sent, -1))]

    def high(self, done: float) -> float:
        """The place before the first that was taken afterwards."""
        after = bisect_right(self.began, (done, 2**63))
        return self._high[after] if after < len(self._high) else inf


def check(
    owners: Mapping[str, Owner], attempts: Iterable[Attempt], reads: Sequence[Read], final: Final
) -> list[Anomaly]:
    """Everything in the history that no single ledger would have said; empty if there is an order that explains it all."""
    found: list[Anomaly] = []
    operations = _merge(attempts, final, found)
    effects = sorted((one for one in operations if one.effective), key=lambda one: one.first)
    refusals = sorted((one for one in operations if not one.effective), key=lambda one: one.done)
    _numbered(effects, final, found)
    if found:
        return found  # without an order there is nothing to replay
    bounds = _Bounds()
    for one in effects:
        bounds.ended.append((one.done, one.last))
        bounds.began.append((one.sent, one.first - 1))
    for read in reads:
        if read.asked is None:
            bounds.ended.append((read.got, read.as_of))
            bounds.began.append((read.sent, read.as_of))
    bounds.ready()
    found += [
        Anomaly("order", f"{one.moves} has a number that was passed before it was sent: {one.first}")
        for one in effects
        if bounds.low(one.sent) >= one.first
    ]
    found += _replay(owners, effects, refusals, reads, bounds)
    return found


def _merge(attempts: Iterable[Attempt], final: Final, found: list[Anomaly]) -> list[Operation]:
    """Attempts at the same moves are one operation, whose answers must agree with each other and with what is kept."""
    groups: dict[tuple[Move, ...], list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault(attempt.moves, []).append(attempt)
    operations = []
    for moves, tries in groups.items():
        answers = {one.told for one in tries if one.told is not None}
        if len(answers) > 1:
            found.append(Anomaly("divergent", f"{moves} was told {answers}"))
            continue
        kept = [final.found[move.id] for move in moves]
        told = next(iter(answers), None)
        if told is None:
            known = [one for one in kept if one is not None]
            # A refused unit keeps the refusal of one of its moves only; without an answer the others say nothing.
            if len(known) < len(moves) or (len(moves) > 1 and any(one.status == "rejected" for one in known)):
                if any(one.status != "rejected" for one in known):
                    found.append(Anomaly("torn", f"only a part of {moves} is kept: {kept}"))
                continue
            told = tuple(known)
        for move, said, is_kept in zip(moves, told, kept, strict=True):
            if said.reason != "linked_transfer_failed" and not _same(said, is_kept):
                found.append(Anomaly("lost", f"{move} was told {said}, and {is_kept} is kept"))
        operations.append(
            Operation(moves, min(one.sent for one in tries), min(one.got for one in tries), told),
        )
    return operations


def _same(said: Told, kept: Told | None) -> bool:
    return kept is not None and (said.status, said.sequence, said.reason) == (kept.status, kept.sequence, kept.reason)


def _numbered(effects: Sequence[Operation], final: Final, found: list[Anomaly]) -> None:
    """The numbers are 1, 2, 3 ... up to the book's, each given once."""
    numbers = [told.sequence for one in effects for told in one.told]
    if len(set(numbers)) != len(numbers):
        found.append(Anomaly("duplicate", f"a number was given twice among {len(numbers)}"))
    elif numbers != list(range(1, final.sequence + 1)):
        missing = sorted(set(range(1, final.sequence + 1)) ^ {n for n in numbers if n is not None})
        found.append(Anomaly("gap", f"the book is at {final.sequence}; not as it should be: {missing[:10] or numbers}"))


def _replay(
    owners: Mapping[str, Owner],
    effects: Sequence[Operation],
    refusals: list[Operation],
    reads: Sequence[Read],
    bounds: _Bounds,
) -> list[Anomaly]:
    found: list[Anomaly] = []
    reference = Reference(owners)
    seen: dict[str, list[tuple[int, tuple[int, int, int, int]]]] = {
        name: [(0, reference.balance(name))] for name in owners
    }
    waiting = [(one, bounds.low(one.sent), bounds.high(one.done)) for one in refusals]
    waiting = _fitted(reference, waiting, 0, found)
    for one in effects:
        expected = reference.judge_all(one.moves)
        for move, said, right in zip(one.moves, one.told, expected, strict=True):
            if not _agrees(said, right):
                found.append(Anomaly("answer", f"at {said.sequence} {move} was told {said}; it would be {right}"))
                return found  # all that follows would be wrong too
            reference.apply(move, right)
            for name in owners:
                seen[name].append((said.sequence or 0, reference.balance(name)))
        waiting = _fitted(reference, waiting, one.last, found)
    found += [Anomaly("refusal", f"{one.moves} was told {one.told}, which was never true") for one, *_ in waiting]
    for read in reads:
        history = seen[read.account]
        true = history[bisect_right(history, read.as_of, key=lambda at: at[0]) - 1][1]
        if (read.version, read.posted, read.pending, read.available) != true:
            found.append(Anomaly("balance", f"{read}: it would be {true}"))
        if read.asked is not None:
            if read.as_of != read.asked:
                found.append(Anomaly("balance", f"{read}: another sequence than was asked for"))
        elif not bounds.low(read.sent) <= read.as_of <= bounds.high(read.got):
            found.append(Anomaly("stale", f"{read}: between {bounds.low(read.sent)} and {bounds.high(read.got)}"))
    return found


_Waiting = tuple[Operation, int, float]


def _fitted(reference: Reference, waiting: list[_Waiting], place: int, found: list[Anomaly]) -> list[_Waiting]:
    """Refusals that are true now, and may be here, are here: the sooner the better, for those that come after them. Returns the others."""
    left: list[_Waiting] = []
    first_left = inf
    for one, low, high in waiting:
        if place > high:
            found.append(
                Anomaly("refusal", f"{one.moves} was told {one.told}, which was not true between {low} and {high}")
            )
            continue
        if low <= place and one.sent <= first_left:
            expected = reference.judge_all(one.moves)
            if all(_agrees(said, right) for said, right in zip(one.told, expected, strict=True)):
                continue
        left.append((one, low, high))
        first_left = min(first_left, one.done)
    return left


def _agrees(said: Told, right: Told) -> bool:
    """Equal in all that the answer says."""
    if (said.status, said.reason) != (right.status, right.reason):
        return False
    return all(
        getattr(said, name) is None or getattr(said, name) == getattr(right, name)
        for name in ("available", "required", "amount", "released")
    )
