"""The statement of an account: from what balance, by which entries, to what balance. Pure; amounts are minor units.

Only what moved the posted balance is an entry of a statement: a hold moves nothing before it is captured.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from tallystick.kernel.ids import AccountId, TransactionId, TransferId
from tallystick.services.ledger.model.rows import AccountRow


class Line(NamedTuple):
    """An entry that moved the posted balance. The totals are the account's after it; reference and description are those of
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
    """What was debited and credited of an account since it was opened."""

    debits: int
    credits: int

    def balance(self, debit_normal: bool) -> int:  # noqa: FBT001
        """In the account's normal direction."""
        return self.debits - self.credits if debit_normal else self.credits - self.debits


class Span(msgspec.Struct, frozen=True):
    """The time of a statement: what was recorded from `start` on and before `end`, which are the entries after the sequence `first` up to
    `last`.
    """

    start: datetime
    end: datetime
    first: int
    last: int


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A statement, or a page of one: `lines` are its entries from `carried` on, `page` counts from 1. `opening` and `closing` are the totals
    before the first and after the last entry of all pages, `debits` and `credits` how many entries all pages have.
    """

    account: AccountRow
    span: Span
    as_of: int
    opening: Posted
    closing: Posted
    debits: int
    credits: int
    lines: Sequence[Line]
    carried: Posted
    page: int
    last_page: bool

    @property
    def debit_normal(self) -> bool:
        return self.account.normal_side == "debit"

    @property
    def reached(self) -> Posted:
        """The totals after this page's last entry."""
        if not self.lines:
            return self.carried
        return Posted(self.lines[-1].debits_posted, self.lines[-1].credits_posted)

    def fault(self) -> str | None:
        """Where the statement does not add up; None if it does. Each entry's totals are those before it and its amount."""
        totals = self.carried
        if self.page == 1 and totals != self.opening:
            return "the first entry does not follow from the opening balance"
        for line in self.lines:
            if line.side == "debit":
                totals = Posted(totals.debits + line.amount, totals.credits)
            else:
                totals = Posted(totals.debits, totals.credits + line.amount)
            if totals != (line.debits_posted, line.credits_posted):
                return f"the entry of sequence {line.sequence} does not follow from the one before it"
        if self.last_page and totals != self.closing:
            return "the closing balance does not follow from the last entry"
        return None
