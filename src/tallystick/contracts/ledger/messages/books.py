"""Books, and the chart that says which accounts a book may have."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tallystick.contracts.ledger.messages.words import (
    AccountKind,
    BookName,
    Ceiling,
    Floor,
    Message,
    PathPattern,
    ShardName,
    Side,
    SignedMoney,
)
from tallystick.kernel.clock import InstantWire
from tallystick.kernel.money import CurrencyCode

MAX_RULES = 200

Description = Annotated[str, Meta(min_length=1, max_length=500)]
#: What to do with a backdated transfer that would have broken a limit on past days: refuse it, or post it and report the days.
Backdating = Literal["strict", "report"]
#: Whether accounts may be opened that no rule of the book's chart fits.
ChartMode = Literal["open", "strict"]
_TYPED = r"(\{[a-z][a-z0-9_]{0,31}(:(text|int|uuid))?\}|[A-Za-z0-9_.-]{1,64})"
#: Paths of one kind, `customers:{id:int}:wallet`: each segment is a word, or a name with a type (`text` if none is said, `int`, `uuid`).
TypedPath = Annotated[
    str,
    Meta(
        pattern=rf"^(?!acc_){_TYPED}(:{_TYPED}){{0,15}}$(?!\n)",
        min_length=1,
        max_length=512,
        description="paths such as customers:{id:int}:wallet, where a name in braces is any text, int or uuid",
    ),
]


class OpenBook(Message, frozen=True):
    """`shard`: the shard that keeps the book, if not the one at home. Then send the request twice: to the shard at home, which from then on
    refers requests for the book to that shard, and to that shard itself (`Tallystick-Shard`), which opens the book.
    """

    name: BookName
    description: Description | None = None
    backdating: Backdating = "strict"
    shard: ShardName | None = None


class ChangeBook(Message, frozen=True):
    """What is named is set, null included; what is left out stays."""

    description: Description | msgspec.UnsetType | None = msgspec.UNSET
    backdating: Backdating | msgspec.UnsetType = msgspec.UNSET


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """`sequence` is that of the last transfer. `revision` grows with each change of the book's accounts, chart or settings."""

    name: str
    description: str | None
    backdating: Backdating
    sealed_until: InstantWire | None
    quarantined_at: InstantWire | None
    quarantine_reason: str | None
    shard: str
    sequence: int
    revision: int
    created_at: InstantWire


class SealBook(Message, frozen=True):
    """Nothing can become effective at or before `until` (RFC 3339, not later than now) any more. A seal can only be moved forward."""

    until: InstantWire


class SetCategory(Message, frozen=True):
    """Which accounts are added up: those whose paths match the patterns, and those of the member categories."""

    paths: Annotated[list[PathPattern], Meta(max_length=200)] = msgspec.field(default_factory=list)
    categories: Annotated[list[BookName], Meta(max_length=200)] = msgspec.field(default_factory=list)


class Category(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    paths: list[str]
    categories: list[str]
    changed_at: InstantWire


class Categories(msgspec.Struct, frozen=True, kw_only=True):
    data: list[Category]


class CategoryTotal(msgspec.Struct, frozen=True, kw_only=True):
    """The posted totals of `accounts` accounts in one currency. `balance` is debits minus credits, and so negative for what is owed."""

    currency: str
    accounts: int
    debits: SignedMoney
    credits: SignedMoney
    balance: SignedMoney


class CategoryBalances(msgspec.Struct, frozen=True, kw_only=True):
    """Totals by currency as of the book's sequence `as_of`. An account that belongs to the category several times counts once."""

    name: str
    as_of: int
    data: list[CategoryTotal]


class ChartRule(Message, frozen=True):
    """Accounts whose path matches `pattern` must be of this `kind`, and must conform to `normal_side`, `currencies`, `floor` and `ceiling`
    where the rule has them. An account that is opened without a kind, a floor or a ceiling gets the rule's.
    """

    pattern: TypedPath
    kind: AccountKind
    normal_side: Side | None = None
    currencies: Annotated[list[CurrencyCode], Meta(min_length=1, max_length=200)] | None = None
    floor: Floor | None = None
    ceiling: Ceiling | None = None


class SetChart(Message, frozen=True):
    """The first rule that fits a path applies. `strict`: an account that no rule fits can't be opened."""

    rules: Annotated[list[ChartRule], Meta(max_length=MAX_RULES)]
    mode: ChartMode = "open"


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """`version` counts the changes of the chart; 0: the book has no chart, and any account may be opened."""

    book: str
    version: int
    mode: ChartMode
    rules: list[ChartRule]
    created_at: InstantWire | None
