"""Statements, reports and explanations by hand: each number where it belongs, and each fault by its name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from tallystick.services.ledger.model import (
    AccountRow,
    Checkpoint,
    DatedBack,
    EntryRow,
    Explanation,
    Group,
    HeldRow,
    Income,
    Line,
    Posted,
    Sheet,
    Span,
    Statement,
    Term,
    Total,
    Totals,
    balance_sheets,
    effect,
    explain,
    explanation_fault,
    income_statements,
    running,
    totals,
    unbalanced,
)
from tests.services.ledger.support import START, aid, tid


def account(side: str = "debit", **more: Any) -> AccountRow:
    usual: dict[str, Any] = {
        "id": aid(1), "tenant": "acme", "book": 1, "book_name": "main", "name": "an account", "path": None, "kind": "asset", "currency": "EUR",
        "normal_side": side, "floor": None, "ceiling": None, "code": None, "metadata": None, "closed": False, "frozen": False,
        "created_at": START, "created_sequence": 0, "version": 1, "as_of": 9, "debits_pending": 0, "debits_posted": 0, "credits_pending": 0,
        "credits_posted": 0,
    }  # fmt: skip
    return AccountRow(**usual | more)


# ---- statements ---------------------------------------------------------------------------------------------------------


def line(sequence: int, side: str, amount: int, debits: int, credits: int) -> Line:  # noqa: A002 - what they are
    return Line(sequence, tid(sequence), side, aid(2), "post", amount, START, None, debits, credits, START)


LINES = (line(3, "debit", 5, 15, 2), line(4, "credit", 1, 15, 3))
PAGE = Statement(
    account=account(), effective=False, span=Span(START, START + timedelta(days=1), 2, 4), opening=Posted(10, 2), closing=Posted(15, 3),
    debits=1, credits=1, lines=LINES, carried=Posted(10, 2), reached=Posted(15, 3), page=1, last_page=True,
)  # fmt: skip


def test_a_statement_is_in_its_accounts_direction() -> None:
    assert [replace(PAGE, account=account(side)).debit_normal for side in ("debit", "credit")] == [True, False]
    assert [Posted(10, 2).balance(debit_normal) for debit_normal in (True, False)] == [8, -8]


def test_a_statement_is_told_up_to_its_last_sequence() -> None:
    assert PAGE.as_of == 4


def test_the_time_of_an_entry_is_the_one_that_it_is_ordered_by() -> None:
    late = LINES[0]._replace(effective_at=START - timedelta(days=3))
    assert [replace(PAGE, effective=how).time(late) for how in (False, True)] == [START, START - timedelta(days=3)]


def test_totals_run_in_the_order_of_the_lines() -> None:
    backwards = running(Posted(10, 2), reversed(LINES))
    assert [(one.sequence, one.debits_posted, one.credits_posted) for one in backwards] == [(4, 10, 3), (3, 15, 3)]
    assert running(Posted(10, 2), LINES) == list(LINES)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"opening": Posted(9, 2)}, "the first entry does not follow from the opening balance"),
        ({"opening": Posted(9, 2), "page": 2}, None),
        ({"closing": Posted(15, 4)}, "the closing balance does not follow from the last entry"),
        ({"closing": Posted(15, 4), "last_page": False}, None),
        ({"reached": Posted(15, 4)}, "the balance at the page's end does not follow from its last entry"),
        ({"reached": Posted(16, 3), "last_page": False}, "the balance at the page's end does not follow from its last entry"),
        ({"lines": LINES[1:]}, "the entry of sequence 4 does not follow from the one before it"),
        ({"lines": (LINES[0]._replace(amount=4), LINES[1])}, "the entry of sequence 3 does not follow from the one before it"),
        ({"lines": (LINES[0], LINES[1]._replace(side="debit"))}, "the entry of sequence 4 does not follow from the one before it"),
        ({"lines": (), "closing": Posted(10, 2), "reached": Posted(10, 2)}, None),
    ],
)  # fmt: skip
def test_where_a_statement_does_not_add_up(change: dict[str, Any], why: str | None) -> None:
    assert replace(PAGE, **change).fault() == why


# ---- reports ------------------------------------------------------------------------------------------------------------

CASH = Group("asset", "cash", "EUR", 1, 150, 30)
WALLETS = Group("liability", "wallets", "EUR", 2, 10, 60)
CAPITAL = Group("equity", "capital", "EUR", 1, 0, 60)
FEES = Group("income", "fees", "EUR", 3, 5, 30)
RAILS = Group("expense", "rails", "EUR", 1, 16, 1)
DOLLARS = (Group("asset", None, "USD", 1, 7, 0), Group("income", None, "USD", 1, 0, 7))
ALL = (*DOLLARS, CASH, WALLETS, CAPITAL, FEES, RAILS)


def test_totals_are_by_currency_in_order() -> None:
    assert totals(ALL) == [Total("EUR", 8, 181, 181), Total("USD", 2, 7, 7)]
    assert unbalanced(totals(ALL)) is None
    assert unbalanced([Total("EUR", 1, 5, 5), Total("USD", 1, 3, 4), Total("XAU", 1, 1, 2)]) == "USD: debits 3, credits 4"  # fmt: skip


def test_a_balance_sheet_has_each_kind_in_its_place() -> None:
    euros, dollars = balance_sheets(ALL)
    assert euros == Sheet(currency="EUR", assets=[CASH], liabilities=[WALLETS], equity=[CAPITAL], net_income=10)
    assert dollars == Sheet(currency="USD", assets=[DOLLARS[0]], liabilities=[], equity=[], net_income=7)
    assert (euros.total_assets, euros.total_liabilities, euros.total_equity) == (120, 50, 60)
    assert euros.fault() is None
    assert replace(euros, net_income=11).fault() == "EUR: assets 120, liabilities, equity and net income 121"


def test_an_income_statement_is_of_what_moved_between() -> None:
    more = FEES._replace(debits=6, credits=50)
    new = Group("expense", "new", "EUR", 1, 3, 0)
    elsewhere = Group("expense", "rails", "USD", 1, 2, 0)
    before = (*ALL, FEES._replace(path="other", credits=1000), FEES._replace(kind="expense", credits=1000))
    moved = [
        Income(
            currency="EUR", income=[more._replace(debits=1, credits=20)], expenses=[new, RAILS._replace(debits=2, credits=0)]
        ),
        Income(currency="USD", income=[], expenses=[elsewhere]),
    ]  # fmt: skip
    after = (*DOLLARS, CASH._replace(debits=999), more, new, RAILS._replace(debits=18), elsewhere)
    assert income_statements(before, after) == moved
    assert (moved[0].total_income, moved[0].total_expenses, moved[0].net_income) == (19, 5, 14)
    assert income_statements(ALL, ALL) == []
    assets = [one for one in ALL if one.kind == "asset"]
    assert assets
    assert income_statements([], assets) == [], "what was only held is nobody's income"
    for one_side in (FEES._replace(debits=FEES.debits + 4), FEES._replace(credits=FEES.credits + 4)):
        (one,) = income_statements(ALL, [one_side])
        assert [abs(group.balance) for group in one.income] == [4]


# ---- explanations -------------------------------------------------------------------------------------------------------


def entry(kind: str, side: str, amount: int, released: int = 0) -> EntryRow:
    return EntryRow(5, tid(5), side, aid(2), kind, amount, released, "EUR", START, None, 2, 0, 0, 0, 0, None, START)


@pytest.mark.parametrize(
    ("kind", "amount", "released", "pending", "posted"),
    [
        ("post", 5, 0, 0, 5), ("reverse", 5, 0, 0, 5), ("hold", 5, 0, 5, 0), ("increase", 5, -5, 5, 0), ("capture", 5, 8, -8, 5),
        ("void", 5, 5, -5, 0), ("expire", 5, 5, -5, 0),
    ],
)  # fmt: skip
def test_what_an_entry_adds(kind: str, amount: int, released: int, pending: int, posted: int) -> None:
    assert effect(entry(kind, "debit", amount, released)) == Totals(pending, posted, 0, 0)
    assert effect(entry(kind, "credit", amount, released)) == Totals(0, 0, pending, posted)


def held(sequence: int, side: str, remaining: int) -> HeldRow:
    debit, credit = (aid(1), aid(2)) if side == "debit" else (aid(2), aid(1))
    return HeldRow(tid(sequence), sequence, debit, credit, 100, None, START, remaining, 0)


HOLDS = [held(3, "debit", 7), held(4, "credit", 4), held(5, "credit", 2)]
EXPIRED = [held(6, "debit", 1), held(7, "credit", 3)]
BACK = DatedBack(9, 1, Totals(0, 10, 0, 0), [entry("post", "credit", 20)])


def explained(side: str, **more: Any) -> Explanation:
    """From 1000 and 300 posted, 8 and 9 held, by 50 debited."""
    this = account(side, debits_pending=7, debits_posted=1060, credits_pending=6, credits_posted=320, **more)
    checkpoint = Checkpoint(1, 4, Totals(8, 1000, 9, 300))
    return explain(this, checkpoint, [entry("post", "debit", 50)], HOLDS, EXPIRED, back=BACK)


def terms(found: Explanation) -> dict[str, list[tuple[str, int]]]:
    return {step.name: [(term.what, term.amount) for term in step.terms] for step in found.steps}


TOTALS = {
    "debits_pending": [("checkpoint", 8), ("entries", 0), ("expired_holds", -1)],
    "debits_posted": [("checkpoint", 1000), ("entries", 50), ("dated_back_earlier", 10)],
    "credits_pending": [("checkpoint", 9), ("entries", 0), ("expired_holds", -3)],
    "credits_posted": [("checkpoint", 300), ("entries", 0), ("dated_back", 20)],
}


def test_a_debit_accounts_numbers_are_explained() -> None:
    found = explained("debit", floor=-100, ceiling=2000)
    assert terms(found) == TOTALS | {
        "posted": [("debits_posted", 1060), ("credits_posted", -320)],
        "pending": [("hold of sequence 4", 4), ("hold of sequence 5", 2)],
        "incoming": [("hold of sequence 3", 7)],
        "available": [("posted", 740), ("pending", -6)],
        "room_above_floor": [("available", 734), ("floor", 100)],
        "room_below_ceiling": [("ceiling", 2000), ("posted", -740), ("incoming", -7)],
    }
    assert [step.result for step in found.steps] == [7, 1060, 6, 320, 740, 6, 7, 734, 834, 1253]
    assert explanation_fault(found) is None
    assert list(terms(explained("debit"))) == [step.name for step in found.steps][:-2], "an account without limits"


def test_a_credit_accounts_numbers_are_explained() -> None:
    found = explained("credit")
    assert terms(found) == TOTALS | {
        "posted": [("credits_posted", 320), ("debits_posted", -1060)],
        "pending": [("hold of sequence 3", 7)],
        "incoming": [("hold of sequence 4", 4), ("hold of sequence 5", 2)],
        "available": [("posted", -740), ("pending", -7)],
    }
    assert explanation_fault(found) is None


def test_nothing_else_is_no_term() -> None:
    found = explain(account(), Checkpoint(1, 4, Totals(0, 0, 0, 0)), [], [], [])
    assert terms(found)["debits_posted"] == [("checkpoint", 0), ("entries", 0)]
    assert found.step("posted").terms == (Term("debits_posted", 0), Term("credits_posted", 0))
    assert (found.back, found.account, found.entries, found.holds, found.expired) == (None, account(), [], [], [])


@pytest.mark.parametrize("side", ["debit", "credit"])
def test_where_an_explanation_does_not_come_to_the_account(side: str) -> None:
    found = explained(side)
    for name in Totals._fields:
        said = getattr(found.account, name)
        other = replace(found, account=replace(found.account, **{name: said + 1}))
        assert explanation_fault(other) == f"{name}: the entries make {said}, the account says {said + 1}"
    taking, filling = ("credit", "debit") if side == "debit" else ("debit", "credit")
    for name, of in (("pending", taking), ("incoming", filling)):
        less = [one for one in HOLDS if one.side_on(aid(1)) != of]
        other = explain(found.account, found.checkpoint, found.entries, less, EXPIRED, back=BACK)
        whole = found.step(name).result
        assert explanation_fault(other) == f"{name}: the holds make 0, the account says {whole}"
