"""What a file says of the book as a whole, without a database: what can't be is refused where it is said."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from tallystick.contracts.ledger.messages import BookRecord, CategoryRecord, ChartRecord, ChartRule
from tallystick.kernel.clock import rfc3339
from tallystick.services.ledger.model import (
    EPOCH,
    Category,
    Rule,
    Unfit,
    category_of,
    chart_in,
    check_members,
    sealed_until,
)
from tests.services.ledger.support import START

NOW = START
BOOK = BookRecord(name="main", sequence=0, exported_at="2026-01-01T00:00:00Z")
LATER = NOW + timedelta(microseconds=1)


def refused(field: str, reason: str, what: Any) -> None:
    with pytest.raises(Unfit) as no:
        what()
    assert (no.value.field, no.value.reason) == (field, reason)
    assert no.value.detail


def test_a_book_was_sealed_up_to_now_at_most() -> None:
    assert sealed_until(BOOK, NOW) is None
    assert sealed_until(replace(BOOK, sealed_until=rfc3339(NOW)), NOW) == NOW
    refused("/sealed_until", "invalid-request", lambda: sealed_until(replace(BOOK, sealed_until=rfc3339(LATER)), NOW))
    refused("/sealed_until", "invalid-request", lambda: sealed_until(replace(BOOK, sealed_until="yesterday"), NOW))
    assert sealed_until(replace(BOOK, sealed_until="1970-01-01T00:00:00Z"), NOW) == EPOCH
    for early in ("1969-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z"):
        refused("/sealed_until", "invalid-request", lambda: sealed_until(replace(BOOK, sealed_until=early), NOW))  # noqa: B023
    refused("/exported_at", "invalid-request", lambda: sealed_until(replace(BOOK, exported_at="yesterday"), NOW))


def test_a_chart_is_as_its_record_says() -> None:
    first = ChartRule(
        pattern="a:{n:int}", kind="asset", normal_side="debit", currencies=["EUR"], floor="-5", ceiling="7"
    )
    record = ChartRecord(mode="strict", rules=[first, ChartRule(pattern="b", kind="income")])
    made = chart_in(record, 3)
    assert (made.version, made.mode) == (3, "strict")
    assert made.rules == (Rule("a:{n:int}", "asset", "debit", ("EUR",), -5, 7), Rule("b", "income"))
    for field, reason, said in (
        ("currencies", "unknown-currency", {"currencies": ["EUR", "XXQ"]}),
        ("floor", "invalid-amount", {"floor": f"-{2**63}"}),
        ("ceiling", "invalid-amount", {"ceiling": f"{2**63}"}),
    ):
        wrong = replace(record, rules=[record.rules[1], replace(first, **said)])
        refused(f"/rules/1/{field}", reason, lambda wrong=wrong: chart_in(wrong, 1))
    at_most = replace(first, floor=f"-{2**63 - 1}", ceiling=f"{2**63 - 1}")
    assert chart_in(replace(record, rules=[at_most]), 1).rules[0].floor == -(2**63) + 1


def test_categories_are_of_those_that_are_there_and_none_is_below_itself() -> None:
    stored = {"old": Category("old", ["x"], [], NOW), "low": Category("low", ["y"], [], NOW)}
    low = CategoryRecord(name="low", paths=["z"], categories=["old"])
    high = CategoryRecord(name="high", categories=["low", "old"])
    known = {**stored, **{one.name: category_of(one, LATER) for one in (low, high)}}
    assert known == {
        "old": stored["old"],
        "low": Category("low", ["z"], ["old"], LATER),
        "high": Category("high", [], ["low", "old"], LATER),
    }
    check_members(known["high"], known)
    nowhere = replace(known["high"], categories=["low", "nowhere"])
    refused("/categories/1", "category-not-found", lambda: check_members(nowhere, known))
    circle = {**known, "low": replace(known["low"], categories=["high"])}
    refused("/categories", "category-cycle", lambda: check_members(known["high"], circle))
    refused("/categories", "category-cycle", lambda: check_members(replace(known["high"], categories=["high"]), known))
