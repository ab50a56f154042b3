"""Categories of accounts: a graph whose leaves are patterns of paths. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec


class Category(msgspec.Struct, frozen=True):
    """A category: the accounts whose paths match its patterns, and those of the categories in it."""

    name: str
    paths: Sequence[str]
    categories: Sequence[str]
    changed_at: datetime


class CurrencyTotal(msgspec.Struct, frozen=True):
    """The posted totals of so many accounts in one currency, in minor units. As sums over accounts they may exceed 2**63."""

    currency: str
    accounts: int
    debits: int
    credits: int


def members(name: str, known: Mapping[str, Category]) -> list[str]:
    """The patterns of a category and of all categories below it, each once, in depth-first order."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    below = [name]
    while below:
        one = known.get(below.pop())
        if one is None or one.name in seen:
            continue
        seen.add(one.name)
        found.update(dict.fromkeys(one.paths))
        below += reversed(one.categories)
    return list(found)


def on_a_cycle(new: Category, known: Mapping[str, Category]) -> bool:
    """Whether `new`, added to the others, would be below itself."""
    seen: set[str] = set()
    below = list(new.categories)
    while below:
        name = below.pop()
        if name == new.name:
            return True
        if name not in seen:
            seen.add(name)
            if name in known:
                below += known[name].categories
    return False
