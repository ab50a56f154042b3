"""Categories of accounts: a graph whose leaves are patterns of paths. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec


class Category(msgspec.Struct, frozen=True):
    """Accounts at paths as the patterns say, and those of other categories."""

    name: str
    paths: Sequence[str]
    categories: Sequence[str]
    changed_at: datetime


class CurrencyTotal(msgspec.Struct, frozen=True):
    """What so many accounts have posted in one currency, in minor units. As a sum of many accounts it may pass 2**63."""

    currency: str
    accounts: int
    debits: int
    credits: int


def members(name: str, known: Mapping[str, Category]) -> list[str]:
    """The patterns of a category and of all below it, each once, in the order in which they are met."""
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
    """Whether `new`, put to the others, would be below itself."""
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
