"""Explains an account's numbers: from a checkpoint of totals, by each entry and the open holds, to posted, pending and available, and to the room
that its limits leave. By effective time it includes what was recorded later and dated back. Pure; amounts are minor units.

Each step is a sum that anybody can check: its terms add up to its result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import reduce
from typing import Final, NamedTuple

import msgspec

from tallystick.kernel.ids import AccountId, TransferId
from tallystick.services.ledger.model.rows import AccountRow, EntryRow


class Totals(NamedTuple):
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int

    def plus(self, other: Totals) -> Totals:
        return Totals(*(one + two for one, two in zip(self, other, strict=True)))


NOTHING: Final = Totals(0, 0, 0, 0)


class Checkpoint(NamedTuple):
    """The account's totals right after its entry number `version`, at the book's `sequence`. Version 0: before its first entry."""

    version: int
    sequence: int
    totals: Totals


class DatedBack(NamedTuple):
    """Entries that count by the effective time although they were recorded later, after the book's sequence `after`. The last ones are in `entries`,
    oldest first; `earlier` is the sum of the `more` ones before those. None of them is a hold.
    """

    after: int
    more: int
    earlier: Totals
    entries: Sequence[EntryRow]


class HeldRow(NamedTuple):
    """A hold of the account that was open at a sequence, with its state then."""

    id: TransferId
    sequence: int
    debit_account: AccountId
    credit_account: AccountId
    amount: int
    expires_at: datetime | None
    recorded_at: datetime
    remaining: int
    captured: int

    def side_on(self, account: AccountId) -> str:
        return "debit" if self.debit_account == account else "credit"


class Term(NamedTuple):
    what: str
    amount: int


class Step(msgspec.Struct, frozen=True):
    """`result` is the sum of the terms' amounts."""

    name: str
    terms: Sequence[Term]
    result: int


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """`account` has the totals to explain. `entries` are oldest first. `expired` are holds that no longer count, although the sweep has not recorded
    that yet. `back` is set by effective time.
    """

    account: AccountRow
    checkpoint: Checkpoint
    entries: Sequence[EntryRow]
    back: DatedBack | None
    holds: Sequence[HeldRow]
    expired: Sequence[HeldRow]
    steps: Sequence[Step]

    def step(self, name: str) -> Step:
        return next(one for one in self.steps if one.name == name)


def effect(entry: EntryRow) -> Totals:
    """What an entry adds to the account's totals."""
    held = entry.amount if entry.kind == "hold" else -entry.released
    moved = entry.amount if entry.kind in ("post", "capture", "reverse") else 0
    return Totals(held, moved, 0, 0) if entry.side == "debit" else Totals(0, 0, held, moved)


def added(entries: Iterable[EntryRow]) -> Totals:
    """What the entries together add to the account's totals."""
    return reduce(Totals.plus, map(effect, entries), NOTHING)


def explain(
    account: AccountRow,
    checkpoint: Checkpoint,
    entries: Sequence[EntryRow],
    holds: Sequence[HeldRow],
    expired: Sequence[HeldRow],
    *,
    back: DatedBack | None = None,
) -> Explanation:
    """The explanation, computed from the checkpoint, the entries and the holds alone. `fault` tells whether it agrees with the account."""
    totals = checkpoint.totals
    changes = added(entries)
    earlier, later = (NOTHING, NOTHING) if back is None else (back.earlier, added(back.entries))
    gone = {
        side: sum(one.remaining for one in expired if one.side_on(account.id) == side) for side in ("debit", "credit")
    }
    steps = []
    for name, start, change, before, since, left in zip(
        Totals._fields, totals, changes, earlier, later, (gone["debit"], 0, gone["credit"], 0), strict=True
    ):
        terms = [Term("checkpoint", start), Term("entries", change)]
        if before:
            terms.append(Term("dated_back_earlier", before))
        if since:
            terms.append(Term("dated_back", since))
        if left:
            terms.append(Term("expired_holds", -left))
        steps.append(_step(name, *terms))
    after = Totals(*(one.result for one in steps))
    debit_normal = account.normal_side == "debit"
    grows, falls = ("debits", "credits") if debit_normal else ("credits", "debits")
    of = after._asdict()
    posted = _step(
        "posted", Term(f"{grows}_posted", of[f"{grows}_posted"]), Term(f"{falls}_posted", -of[f"{falls}_posted"])
    )
    taking = "credit" if debit_normal else "debit"
    pending = _step(
        "pending",
        *(
            Term(f"hold of sequence {one.sequence}", one.remaining)
            for one in holds
            if one.side_on(account.id) == taking
        ),
    )
    incoming = _step(
        "incoming",
        *(
            Term(f"hold of sequence {one.sequence}", one.remaining)
            for one in holds
            if one.side_on(account.id) != taking
        ),
    )
    available = _step("available", Term("posted", posted.result), Term("pending", -pending.result))
    steps += [posted, pending, incoming, available]
    if account.floor is not None:
        steps.append(_step("room_above_floor", Term("available", available.result), Term("floor", -account.floor)))
    if account.ceiling is not None:
        steps.append(
            _step(
                "room_below_ceiling",
                Term("ceiling", account.ceiling),
                Term("posted", -posted.result),
                Term("incoming", -incoming.result),
            )
        )
    return Explanation(
        account=account, checkpoint=checkpoint, entries=entries, back=back, holds=holds, expired=expired, steps=steps
    )


def fault(found: Explanation) -> str | None:
    """Where the explanation disagrees with the account; None if it agrees."""
    account = found.account
    for name in Totals._fields:
        if found.step(name).result != getattr(account, name):
            return f"{name}: the entries make {found.step(name).result}, the account says {getattr(account, name)}"
    debit_normal = account.normal_side == "debit"
    for name, held in (
        ("pending", account.credits_pending if debit_normal else account.debits_pending),
        ("incoming", account.debits_pending if debit_normal else account.credits_pending),
    ):
        if found.step(name).result != held:
            return f"{name}: the holds make {found.step(name).result}, the account says {held}"
    return None


def _step(name: str, *terms: Term) -> Step:
    return Step(name, terms, sum(one.amount for one in terms))
