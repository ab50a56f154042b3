"""Account statements: opening balance, entries, closing balance. Pure; amounts are minor units.

Only what moved the posted balance is an entry of a statement; a hold moves nothing until it is captured. Entries are in recorded order, or, by
effective time, in the order of (effective time, sequence).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from tallystick.kernel.ids import AccountId, TransactionId, TransferId
from tallystick.services.ledger.model.rows import AccountRow


class Line(NamedTuple):
    """An entry that moved the posted balance. The totals are the account's after it, in the statement's order. Reference and description are those of
    its transaction.
    """

    sequence: int
    transfer: TransferId
    side: str
    other: AccountId
    kind: str
    amount: int
    recorded_at: datetime
    code: str | None
    debits_posted: int
    credits_posted: int
    effective_at: datetime
    transaction: TransactionId | None = None
    reference: str | None = None
    description: str | None = None


class Posted(NamedTuple):
    """An account's posted totals."""

    debits: int
    credits: int

    def balance(self, debit_normal: bool) -> int:  # noqa: FBT001
        """In the account's normal direction."""
        return self.debits - self.credits if debit_normal else self.credits - self.debits

    def after(self, line: Line) -> Posted:
        if line.side == "debit":
            return Posted(self.debits + line.amount, self.credits)
        return Posted(self.debits, self.credits + line.amount)


def running(carried: Posted, lines: Iterable[Line]) -> list[Line]:
    """The lines with running totals, starting from `carried`. By effective time they have to be computed, since entries are stored with their
    totals in recorded order.
    """
    found: list[Line] = []
    for line in lines:
        carried = carried.after(line)
        found.append(line._replace(debits_posted=carried.debits, credits_posted=carried.credits))
    return found


class Span(msgspec.Struct, frozen=True):
    """The period of a statement, from `start` to before `end`. In recorded order, these are the entries after the sequence `first`, up to `last`. By
    effective time, those effective in the period and recorded up to the sequence `last`; `first` is 0.
    """

    start: datetime
    end: datetime
    first: int
    last: int


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A statement, or a page of one.

    - `lines`: the entries of this page, which lead from the totals `carried` to the totals `reached`
    - `opening`, `closing`: the totals before the first and after the last entry of all pages
    - `debits`, `credits`: how many entries all pages have
    - `effective`: whether it is by effective time
    - `page`: counts from 1
    - `since`: the time of the last entry before this page; None on the first
    """

    account: AccountRow
    effective: bool
    span: Span
    opening: Posted
    closing: Posted
    debits: int
    credits: int
    lines: Sequence[Line]
    carried: Posted
    reached: Posted
    page: int
    last_page: bool
    since: datetime | None = None

    @property
    def debit_normal(self) -> bool:
        return self.account.normal_side == "debit"

    @property
    def as_of(self) -> int:
        """The book's sequence as of which the statement is."""
        return self.span.last

    def time(self, line: Line) -> datetime:
        """The time by which the statement is ordered."""
        return line.effective_at if self.effective else line.recorded_at

    def fault(self) -> str | None:
        """Where the statement does not add up; None if it does. Each entry's totals must be those before it plus its amount."""
        totals = self.carried
        if self.page == 1 and totals != self.opening:
            return "the first entry does not follow from the opening balance"
        for line in self.lines:
            totals = totals.after(line)
            if totals != (line.debits_posted, line.credits_posted):
                return f"the entry of sequence {line.sequence} does not follow from the one before it"
        if self.last_page and totals != self.closing:
            return "the closing balance does not follow from the last entry"
        if totals != self.reached:
            return "the balance at the page's end does not follow from its last entry"
        return None
