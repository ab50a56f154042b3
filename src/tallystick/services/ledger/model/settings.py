"""What the records of a file say about the book as a whole: its chart, its categories, its seal. Pure.

A file can do no more than the API: what the API would refuse is unfit.
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
    """The time up to which the book was sealed. Raises Unfit."""
    instant(record.exported_at, "/exported_at")
    until = instant(record.sealed_until, "/sealed_until")
    if until is not None and (no := unsealable(until, now)) is not None:
        raise Unfit("/sealed_until", "invalid-request", no)
    return until


def unsealable(until: datetime, now: datetime) -> str | None:
    """Why no book can be sealed up to this time; None if one can."""
    if until > now:
        # Transfers are recorded after the seal, so one in the future would put the whole book's time ahead.
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
    """Raises Unfit for a member that is not among `known` (the categories of the book and the file), and for a category below itself."""
    for place, member in enumerate(category.categories):
        if member not in known:
            raise Unfit(f"/categories/{place}", "category-not-found", f"there is no category {member}")
    if on_a_cycle(category, known):
        raise Unfit("/categories", "category-cycle", "a category can't be below itself")
