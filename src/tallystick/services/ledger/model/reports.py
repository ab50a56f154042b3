"""Trial balance, balance sheet and income statement from the totals of a book's accounts. Pure; amounts are minor units.

In each currency debits equal credits, so all balances add up to zero. With assets and expenses counted as debits and the other kinds as credits,
this means: assets = liabilities + equity + (income - expenses).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

#: Kinds that grow by debits. In a report, an account's balance is in the direction of its kind, whatever its own normal side.
DEBIT_KINDS: Final = frozenset({"asset", "expense"})


class Group(NamedTuple):
    """Totals of the accounts of one kind and currency whose path begins with `path`. None: of all of them, or of those without a path."""

    kind: str
    path: str | None
    currency: str
    accounts: int
    debits: int
    credits: int

    @property
    def balance(self) -> int:
        return self.debits - self.credits if self.kind in DEBIT_KINDS else self.credits - self.debits


class AccountLine(NamedTuple):
    """An account with its posted totals."""

    id: UUID
    path: str | None
    name: str
    kind: str
    currency: str
    normal_side: str
    version: int
    debits: int
    credits: int


class Total(NamedTuple):
    """The posted totals over all accounts of one currency."""

    currency: str
    accounts: int
    debits: int
    credits: int


class Sheet(msgspec.Struct, frozen=True, kw_only=True):
    """A balance sheet in one currency. `net_income` is income less expenses since the book was opened."""

    currency: str
    assets: Sequence[Group]
    liabilities: Sequence[Group]
    equity: Sequence[Group]
    net_income: int

    @property
    def total_assets(self) -> int:
        return _sum(self.assets)

    @property
    def total_liabilities(self) -> int:
        return _sum(self.liabilities)

    @property
    def total_equity(self) -> int:
        """The total of equity, without the net income."""
        return _sum(self.equity)

    def fault(self) -> str | None:
        other = self.total_liabilities + self.total_equity + self.net_income
        if self.total_assets != other:
            return f"{self.currency}: assets {self.total_assets}, liabilities, equity and net income {other}"
        return None


class Income(msgspec.Struct, frozen=True, kw_only=True):
    """An income statement in one currency: the movements of income and expense accounts."""

    currency: str
    income: Sequence[Group]
    expenses: Sequence[Group]

    @property
    def total_income(self) -> int:
        return _sum(self.income)

    @property
    def total_expenses(self) -> int:
        return _sum(self.expenses)

    @property
    def net_income(self) -> int:
        return self.total_income - self.total_expenses


def totals(groups: Iterable[Group]) -> list[Total]:
    """The totals by currency, in the order of currency codes."""
    found: dict[str, Total] = {}
    for one in groups:
        known = found.get(one.currency, Total(one.currency, 0, 0, 0))
        found[one.currency] = Total(
            one.currency, known.accounts + one.accounts, known.debits + one.debits, known.credits + one.credits
        )
    return [found[code] for code in sorted(found)]


def unbalanced(found: Iterable[Total]) -> str | None:
    """The first currency in which debits differ from credits, and by what; None if all balance."""
    for one in found:
        if one.debits != one.credits:
            return f"{one.currency}: debits {one.debits}, credits {one.credits}"
    return None


def balance_sheets(groups: Sequence[Group]) -> list[Sheet]:
    """The balance sheet of each currency."""
    return [
        Sheet(
            currency=code,
            assets=_of(groups, code, "asset"),
            liabilities=_of(groups, code, "liability"),
            equity=_of(groups, code, "equity"),
            net_income=_sum(_of(groups, code, "income")) - _sum(_of(groups, code, "expense")),
        )
        for code in _currencies(groups)
    ]


def income_statements(before: Sequence[Group], after: Sequence[Group]) -> list[Income]:
    """The income statement of each currency for the time between two readings. Totals never decrease, so a group's movement is its totals after less
    those before. Groups without movement are left out.
    """
    earlier = {(one.kind, one.path, one.currency): one for one in before}
    moved = []
    for one in after:
        if one.kind not in ("income", "expense"):
            continue
        known = earlier.get((one.kind, one.path, one.currency))
        if known is not None:
            one = one._replace(debits=one.debits - known.debits, credits=one.credits - known.credits)  # noqa: PLW2901
        if one.debits or one.credits:
            moved.append(one)
    return [
        Income(currency=code, income=_of(moved, code, "income"), expenses=_of(moved, code, "expense"))
        for code in _currencies(moved)
    ]


def _of(groups: Iterable[Group], currency: str, kind: str) -> list[Group]:
    return [one for one in groups if one.currency == currency and one.kind == kind]


def _currencies(groups: Iterable[Group]) -> list[str]:
    return sorted({one.currency for one in groups})


def _sum(groups: Iterable[Group]) -> int:
    return sum(one.balance for one in groups)
