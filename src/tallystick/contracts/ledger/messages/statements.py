"""Statements of accounts, and why an account's numbers are what they are."""

from __future__ import annotations

from typing import Literal

import msgspec

from tallystick.contracts.ledger.messages.accounts import Account, Balance
from tallystick.contracts.ledger.messages.books import ChartRule
from tallystick.contracts.ledger.messages.words import Side, SignedMoney
from tallystick.kernel.clock import InstantWire
from tallystick.kernel.ids import AccountIdWire, TransactionIdWire, TransferIdWire
from tallystick.kernel.money import MoneyWire

#: Entries of one page of a statement.
MAX_STATEMENT_ENTRIES = 5000
#: Entries that an explanation lists one by one.
MAX_EXPLAINED_ENTRIES = 1000


class StatementEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`balance` is the posted balance after the entry, in the order of the statement. `reference` and `description` are its transaction's."""

    transfer: TransferIdWire
    kind: str
    side: Side
    other_account: AccountIdWire
    amount: MoneyWire
    balance: SignedMoney
    sequence: int
    recorded_at: InstantWire
    effective_at: InstantWire
    code: str | None = None
    transaction: TransactionIdWire | None = None
    reference: str | None = None
    description: str | None = None


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """The entries of an account that were recorded from `from` on and before `to`; or, depending on `by`, those that are effective in this
    period, ordered by effective time and sequence. Balances are posted balances, in the account's normal direction.

    `opening`, `closing`, `debits`, `credits` and `entries` (their number) are about the whole period. `data` is a page of the entries,
    oldest first, which begins at the balance `carried`. The statement is as of the book's sequence `as_of`: later entries are in none of
    its pages, even if they are backdated.
    """

    account: AccountIdWire
    book: str
    name: str
    path: str | None
    currency: str
    normal_side: Side
    by: Literal["recorded", "effective"]
    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    as_of: int
    opening: SignedMoney
    closing: SignedMoney
    debits: MoneyWire
    credits: MoneyWire
    entries: int
    carried: SignedMoney
    data: list[StatementEntry]
    has_more: bool
    next: str | None = None


class AccountTotals(msgspec.Struct, frozen=True, kw_only=True):
    """The four sums of an account's entries, in minor units."""

    debits_pending: str
    debits_posted: str
    credits_pending: str
    credits_posted: str


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The account's totals right after its entry number `version`, at the book's `sequence`. Version 0: before its first entry."""

    version: int
    sequence: int
    totals: AccountTotals


class ExplainedEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`change` is what the entry adds to the account's totals, `totals` what they are after it, in recorded order. `effective_at` is given
    where it differs from the time of recording.
    """

    version: int
    sequence: int
    recorded_at: InstantWire
    transfer: TransferIdWire
    kind: str
    side: Side
    other_account: AccountIdWire
    change: AccountTotals
    totals: AccountTotals
    code: str | None = None
    effective_at: InstantWire | None = None


class DatedBack(msgspec.Struct, frozen=True, kw_only=True):
    """The backdated entries: they count at an effective time, but were recorded later, after the book's sequence `after`. `entries` are
    the last of them, oldest first; `earlier` is what the `earlier_entries` ones before these add.
    """

    after: int
    earlier_entries: int
    earlier: AccountTotals
    entries: list[ExplainedEntry]


class ExplainedHold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A hold as it was then. `takes`: it takes money from the account, and is part of its pending balance; otherwise it may bring money in.
    `counts` is false for a hold that has expired, even if the sweep has not recorded that yet.
    """

    transfer: TransferIdWire
    sequence: int
    side: Side
    takes: bool
    amount: MoneyWire
    captured: MoneyWire
    remaining: MoneyWire
    state: Literal["held", "expired"]
    counts: bool
    expires_at: InstantWire | None = None


class ExplainedRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A rule that applies to the account now. `value` is the limit in minor units, or the rule's word; `chart` is the chart's rule."""

    rule: Literal["normal_side", "floor", "ceiling", "frozen", "closed", "chart"]
    means: str
    value: str | None = None
    chart: ChartRule | None = None


class ExplainedTerm(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    amount: SignedMoney


class ExplainedStep(msgspec.Struct, frozen=True, kw_only=True):
    """`result` is the sum of the terms."""

    name: str
    terms: list[ExplainedTerm]
    result: SignedMoney


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """`account` is as of that time. The `steps` lead from the totals at the `checkpoint`, by the `entries` after it (oldest first) and the
    `holds` that were open, to the balance, and to what the account's limits leave of it. By effective time they include the backdated
    entries (`dated_back`) that are known at the sequence `as_of`; otherwise `dated_back` is null.
    """

    account: Account
    as_of: int
    balance: Balance
    totals: AccountTotals
    checkpoint: Checkpoint
    entries: list[ExplainedEntry]
    dated_back: DatedBack | None
    holds: list[ExplainedHold]
    rules: list[ExplainedRule]
    steps: list[ExplainedStep]
