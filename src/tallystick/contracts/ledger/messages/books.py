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
#: Of a transfer that is dated back and would have broken a limit on past days: refuse it, or take it and name the days.
Backdating = Literal["strict", "report"]
#: Whether a book takes accounts that no rule of its chart fits.
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
    """`shard`: which shard keeps it, if not the one at home. Send the same twice: to the one at home, which from then on names that shard
    to whoever asks for the book, and to the shard itself (`Tallystick-Shard`), which opens it.
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
    """`sequence` is that of its last transfer. `revision` grows with each change of its accounts, its chart or its settings."""

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
    """Nothing is effective at or before `until` (RFC 3339, not later than now) any more. It only moves forwards."""

    until: InstantWire


class SetCategory(Message, frozen=True):
    """Which accounts are added up: those at paths as the patterns say, and those of other categories."""

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
    """What so many accounts have posted in one currency. `balance` is debits less credits; negative for what is owed."""

    currency: str
    accounts: int
    debits: SignedMoney
    credits: SignedMoney
    balance: SignedMoney


class CategoryBalances(msgspec.Struct, frozen=True, kw_only=True):
    """Per currency, each account once, as of the book's sequence `as_of`."""

    name: str
    as_of: int
    data: list[CategoryTotal]


class ChartRule(Message, frozen=True):
    """Accounts whose path is as `pattern` says are of this `kind`. `normal_side`, `currencies`, `floor` and `ceiling` hold for them too
    if they are there; an account that says no kind, floor or ceiling takes the rule's.
    """

    pattern: TypedPath
    kind: AccountKind
    normal_side: Side | None = None
    currencies: Annotated[list[CurrencyCode], Meta(min_length=1, max_length=200)] | None = None
    floor: Floor | None = None
    ceiling: Ceiling | None = None


class SetChart(Message, frozen=True):
    """The first rule that fits a path counts. `strict`: an account that no rule fits can't be opened."""

    rules: Annotated[list[ChartRule], Meta(max_length=MAX_RULES)]
    mode: ChartMode = "open"


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """`version` counts the changes; 0: the book has no chart and takes any account."""

    book: str
    version: int
    mode: ChartMode
    rules: list[ChartRule]
    created_at: InstantWire | None
