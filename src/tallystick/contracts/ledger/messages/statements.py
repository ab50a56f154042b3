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
    """`balance` is the posted balance after it, in the order of the statement. `reference` and `description` are those of its transaction."""

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
    """What was recorded on an account from `from` on and before `to`, or (`by` says which) what is effective then, in the order of effective time
    and sequence. Balances are posted ones, in the account's normal direction.

    `opening`, `closing`, `debits`, `credits` and `entries` (how many there are) are those of the whole time; `data` is a page of its entries,
    oldest first, that begins at the balance `carried`. `as_of` is the book's sequence up to which it is told; entries that come later are not
    in any page of it, whatever they are dated back to.
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
    """The account's totals right after its entry number `version`, at the book's `sequence`; 0: before its first entry."""

    version: int
    sequence: int
    totals: AccountTotals


class ExplainedEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`change` is what the entry adds to the account's totals, `totals` what they are after it, as recorded. `effective_at`: where that is
    not when it was recorded.
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
    """What counts by an effective time though it was recorded after it, and after the book's sequence `after`. `entries` are the last of it,
    oldest first; `earlier` is what the `earlier_entries` ones before those add.
    """

    after: int
    earlier_entries: int
    earlier: AccountTotals
    entries: list[ExplainedEntry]


class ExplainedHold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A hold as it was then. `takes`: it is part of what is pending; else it may bring money in. `counts` is false when it has expired, though
    the sweep has not recorded that yet.
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
    """A rule that the account is under now. `value` is the limit in minor units, or the word; `chart` the rule of the book's chart."""

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
    """`account` as of then. From the totals at the `checkpoint`, by the `entries` after it (oldest first) and the `holds` that were open, the
    `steps` come to the balance, and to what the account's limits leave. By effective time they go by what is `dated_back` too, as far as is
    known at the sequence `as_of`; `dated_back` is null otherwise.
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
