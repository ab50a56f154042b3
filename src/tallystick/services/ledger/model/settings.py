"""What the records of a file say of the book as a whole: its chart, its categories, its seal. Pure.

A file gets no further than the interfaces for the same things do: what they would refuse is unfit.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from tallystick.contracts.ledger.messages import BookRecord, CategoryRecord, ChartRecord
from tallystick.kernel.problem import Problem
from tallystick.services.ledger.model.categories import Category, on_a_cycle
from tallystick.services.ledger.model.chart import Chart, chart_of
from tallystick.services.ledger.model.limits import EPOCH
from tallystick.services.ledger.model.records import Unfit, instant


def sealed_until(record: BookRecord, now: datetime) -> datetime | None:
    """Up to when the book was sealed. Raises Unfit."""
    instant(record.exported_at, "/exported_at")
    until = instant(record.sealed_until, "/sealed_until")
    if until is not None and (no := unsealable(until, now)) is not None:
        raise Unfit("/sealed_until", "invalid-request", no)
    return until


def unsealable(until: datetime, now: datetime) -> str | None:
    """Why no book is sealed up to this time; None: one can be."""
    if until > now:
        # What is posted is recorded after the seal: one in the future would date the whole book ahead.
        return "a book is sealed up to now at most"
    if until < EPOCH:
        return f"a book is sealed up to {EPOCH:%Y} at least, and nothing in it is effective before that anyway"
    return None


def chart_in(record: ChartRecord, version: int) -> Chart:
    """Raises Unfit."""
    try:
        return chart_of(record, version)
    except Problem as problem:
        raise Unfit(problem.extensions["errors"][0]["pointer"], problem.slug, problem.detail) from None


def category_of(record: CategoryRecord, now: datetime) -> Category:
    return Category(record.name, record.paths, record.categories, now)


def check_members(category: Category, known: Mapping[str, Category]) -> None:
    """`known`: those of the book and of the file. Raises Unfit for a member that is not there, and for one that is above itself."""
    for place, member in enumerate(category.categories):
        if member not in known:
            raise Unfit(f"/categories/{place}", "category-not-found", f"there is no category {member}")
    if on_a_cycle(category, known):
        raise Unfit("/categories", "category-cycle", "a category can't be below itself")
