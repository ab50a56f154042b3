"""Reports of a book: trial balance, balance sheet, income statement. Amounts are minor units of the currency that stands above them."""

from __future__ import annotations

import msgspec

from tallystick.contracts.ledger.messages.words import AccountKind, Side, SignedMoney
from tallystick.kernel.ids import AccountIdWire

#: Accounts on one page of a trial balance.
MAX_TRIAL_LINES = 5000


class TrialLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An account (`account`, `name`, `normal_side`), or `accounts` of one kind and currency whose paths begin with `path`, together.
    `debits` and `credits` are all that was posted, `balance` is debits less credits.
    """

    kind: AccountKind
    debits: SignedMoney
    credits: SignedMoney
    balance: SignedMoney
    path: str | None = None
    account: AccountIdWire | None = None
    name: str | None = None
    normal_side: Side | None = None
    accounts: int | None = None


class TrialTotal(msgspec.Struct, frozen=True, kw_only=True):
    """Of all accounts of a currency; debits equal credits, or there would be no report."""

    currency: str
    accounts: int
    debits: SignedMoney
    credits: SignedMoney


class TrialBalance(msgspec.Struct, frozen=True, kw_only=True):
    """Accounts that something was posted or held on by the sequence `as_of`. `totals` are those of all of them, whatever the page."""

    book: str
    as_of: int
    totals: list[TrialTotal]
    data: list[TrialLine]
    has_more: bool
    next: str | None = None


class ReportLine(msgspec.Struct, frozen=True, kw_only=True):
    """Accounts of one kind whose paths begin with `path` (null: those without one). `balance` is in the direction of the kind."""

    path: str | None
    accounts: int
    balance: SignedMoney


class Section(msgspec.Struct, frozen=True, kw_only=True):
    lines: list[ReportLine]
    total: SignedMoney


class Sheet(msgspec.Struct, frozen=True, kw_only=True):
    """assets = liabilities + equity + net income. `net_income` is income less expenses since the book was opened."""

    currency: str
    assets: Section
    liabilities: Section
    equity: Section
    net_income: SignedMoney
    liabilities_equity_and_net_income: SignedMoney


class BalanceSheet(msgspec.Struct, frozen=True, kw_only=True):
    book: str
    as_of: int
    currencies: list[Sheet]


class Income(msgspec.Struct, frozen=True, kw_only=True):
    """net income = income - expenses."""

    currency: str
    income: Section
    expenses: Section
    net_income: SignedMoney


class IncomeStatement(msgspec.Struct, frozen=True, kw_only=True):
    """Of what was recorded from `from` on and before `to`: after the sequence `after`, up to `as_of`. By effective time it is told from
    everything up to `as_of`.
    """

    book: str
    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    after: int
    as_of: int
    currencies: list[Income]
