"""Statements, reports and explanations as pure functions, over random books."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import distribution
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from msgspec.structs import replace

from tallystick.contracts.ledger.problems import NotRepresentable
from tallystick.kernel import ids
from tallystick.services.ledger.api.camt import NAMESPACE, camt053
from tallystick.services.ledger.model import (
    AccountRow,
    Checkpoint,
    Command,
    EntryRow,
    Group,
    HeldRow,
    Line,
    Posted,
    Span,
    State,
    Statement,
    Totals,
    Transfer,
    Unit,
    balance,
    balance_sheets,
    decide,
    explain,
    explanation_fault,
    income_statements,
    totals,
    unbalanced,
)
from tests.services.ledger.support import START, account, aid, hold, on, post, state

KINDS = ("asset", "liability", "equity", "income", "expense")
#: The schema as ISO 20022 publishes it; nothing of the package that carries it is run.
XSD = etree.XMLSchema(
    etree.parse(str(distribution("camt053").locate_file("camt053/templates/camt.053.001.08/camt.053.001.08.xsd")))
)


def book(draw: st.DataObject) -> tuple[State, list[Transfer]]:
    """Random transfers between five accounts, one of each kind, as the rules allow them."""
    known = state(*(account(n, side=draw.draw(st.sampled_from(["debit", "credit"]))) for n in range(1, 6)))
    commands: list[Command] = []
    for number in range(100, 100 + draw.draw(st.integers(0, 25))):
        debit, credit = draw.draw(st.permutations([1, 2, 3, 4, 5]))[:2]
        amount = draw.draw(st.integers(1, 1000))
        target = draw.draw(st.integers(100, max(100, number - 1)))
        commands.append(
            draw.draw(
                st.sampled_from(
                    [
                        post(number, debit, credit, amount),
                        hold(number, debit, credit, amount),
                        on("capture", number, target, amount),
                        on("capture", number, target, amount, final=True),
                        on("increase", number, target, amount),
                        on("void", number, target),
                        on("reverse", number, target, amount),
                    ]
                )
            )
        )
    decided = decide([Unit(1, commands, False)], known, START)
    return known, decided.transfers


def entries_of(transfers: Sequence[Transfer], number: int) -> list[EntryRow]:
    found = []
    for t in transfers:
        for side, of, other, own in (
            ("debit", t.debit_account, t.credit_account, "dr"),
            ("credit", t.credit_account, t.debit_account, "cr"),
        ):
            if of == aid(number):
                values: tuple[Any, ...] = (
                    t.sequence, t.id, side, other, t.kind, t.amount, t.released, t.currency, t.recorded_at, t.code,
                    *(getattr(t, f"{own}_{name}") for name in ("version", *Totals._fields)), t.transaction, t.effective_at or t.recorded_at,
                )  # fmt: skip
                found.append(EntryRow(*values))
    return found


def row(known: State, number: int, entries: Sequence[EntryRow], **more: Any) -> AccountRow:
    last = entries[-1] if entries else None
    of = {name: 0 if last is None else getattr(last, name) for name in Totals._fields}
    return AccountRow(
        **{
            "id": aid(number), "tenant": "acme", "book": 1, "book_name": "main", "name": "an account", "path": None, "kind": "asset",
            "currency": "EUR", "normal_side": "debit" if known.accounts[aid(number)].debit_normal else "credit", "floor": None,
            "ceiling": None, "code": None, "metadata": None, "closed": False, "frozen": False, "created_at": START,
            "created_sequence": 0, "version": len(entries), "as_of": 100, **of, **more,
        }
    )  # fmt: skip


def statement(  # noqa: PLR0917 - what it is of
    known: State, transfers: Sequence[Transfer], number: int, first: int, last: int, limit: int
) -> list[Statement]:
    """All pages of it."""
    entries = entries_of(transfers, number)
    booked = [e for e in entries if e.kind in ("post", "capture", "reverse") and first < e.sequence <= last]

    def at(sequence: int) -> Posted:
        upto = [e for e in entries if e.sequence <= sequence]
        return Posted(upto[-1].debits_posted, upto[-1].credits_posted) if upto else Posted(0, 0)

    pages = []
    lines = [
        Line(e.sequence, e.transfer, e.side, e.other, e.kind, e.amount, e.recorded_at, e.code, e.debits_posted, e.credits_posted, e.effective_at)
        for e in booked
    ]  # fmt: skip
    for page, begin in enumerate(range(0, max(1, len(lines)), limit), 1):
        pages.append(
            Statement(
                account=row(known, number, entries),
                effective=False,
                span=Span(START, START + timedelta(days=1), first, last),
                opening=at(first),
                closing=at(last),
                debits=sum(e.side == "debit" for e in booked),
                credits=sum(e.side == "credit" for e in booked),
                lines=lines[begin : begin + limit],
                carried=at(first if page == 1 else lines[begin - 1].sequence),
                reached=at(lines[min(begin + limit, len(lines)) - 1].sequence if lines else last),
                page=page,
                last_page=begin + limit >= len(lines),
                since=None if page == 1 else lines[begin - 1].recorded_at,
            )
        )
    return pages


@settings(max_examples=60)
@given(st.data())
def test_opening_and_entries_make_the_closing_balance(draw: st.DataObject) -> None:
    known, transfers = book(draw)
    number = draw.draw(st.integers(1, 5))
    first = draw.draw(st.integers(0, len(transfers)))
    last = draw.draw(st.integers(first, len(transfers)))
    pages = statement(known, transfers, number, first, last, draw.draw(st.integers(1, 7)))
    assert [page.fault() for page in pages] == [None] * len(pages)
    debit_normal = pages[0].debit_normal
    moved = sum(
        line.amount if (line.side == "debit") == debit_normal else -line.amount for page in pages for line in page.lines
    )
    assert pages[0].opening.balance(debit_normal) + moved == pages[-1].closing.balance(debit_normal)
    assert pages[0].debits + pages[0].credits == sum(len(page.lines) for page in pages)


@settings(max_examples=40)
@given(st.data())
def test_a_camt_053_fits_the_published_schema_and_adds_up(draw: st.DataObject) -> None:
    known, transfers = book(draw)
    number = draw.draw(st.integers(1, 5))
    effective = draw.draw(st.booleans())
    pages = [
        replace(page, effective=effective)
        for page in statement(known, transfers, number, 0, len(transfers), draw.draw(st.integers(1, 7)))
    ]
    first, between, last = ("OPAV", "ITAV", "CLAV") if effective else ("OPBD", "ITBD", "CLBD")
    total = opening = 0
    kinds = []
    for page in pages:
        document = etree.fromstring(camt053(page, "0" * 32, START))
        XSD.assertValid(document)
        at = {"n": NAMESPACE}
        total += sum(cents(one, "n:Amt", at) for one in document.iterfind(".//n:Ntry", at))
        found = {
            one.findtext("n:Tp/n:CdOrPrtry/n:Cd", namespaces=at): cents(one, "n:Amt", at)
            for one in document.iterfind(".//n:Bal", at)
        }
        kinds += [one.text for one in document.iterfind(".//n:Bal/n:Tp/n:CdOrPrtry/n:Cd", at)]
        if page.page == 1:
            opening = found[first]
        if page.last_page:
            assert opening + total == found[last]
            assert document.findtext(".//n:StmtPgntn/n:LastPgInd", namespaces=at) == "true"
    assert kinds == [first, *[between] * (2 * len(pages) - 2), last]


def cents(one: Any, amount: str, at: dict[str, str]) -> int:
    """Signed as the account's holder sees it."""
    minor = int(one.findtext(amount, namespaces=at).replace(".", ""))
    return minor if one.findtext("n:CdtDbtInd", namespaces=at) == "CRDT" else -minor


def test_a_camt_053_writes_what_people_typed() -> None:
    known, transfers = book_of(post(100, 1, 2, 5, code="<&\x01\x85'\"]]>" + "x" * 50))
    [page] = statement(known, transfers, 1, 0, 1, 10)
    typed = page.lines[0]._replace(
        transaction=ids.transactions.new(), reference="<r>\x02" + "é" * 100 + "ø" * 40, description="d" * 500
    )
    page = replace(page, account=replace(page.account, name="Zoë & Søn <x>\x00\ud7ff" + "y" * 100), lines=[typed])
    document = etree.fromstring(camt053(page, "0" * 32, START))
    XSD.assertValid(document)
    at = {"n": NAMESPACE}
    assert document.findtext(".//n:Acct/n:Nm", namespaces=at).startswith("Zoë & Søn <x>�")
    assert document.findtext(".//n:Refs/n:EndToEndId", namespaces=at) == "<r>�" + "é" * 31
    whole = [one.text for one in document.iterfind(".//n:RmtInf/n:Ustrd", at)]
    assert whole == ["<r>�" + "é" * 100 + "ø" * 36, "ø" * 4], "an identifier has no room for it"
    assert document.findtext(".//n:AddtlTxInf", namespaces=at) == "d" * 500
    assert document.findtext(".//n:BkTxCd/n:Prtry/n:Cd", namespaces=at).startswith("<&�")


def test_an_amount_that_camt_053_has_no_room_for_is_refused() -> None:
    known, transfers = book_of(post(100, 1, 2, 10**18))
    [page] = statement(known, transfers, 1, 0, 1, 10)
    with pytest.raises(NotRepresentable):
        camt053(page, "0" * 32, START)
    known, transfers = book_of(post(100, 1, 2, 10**18 - 1))
    [page] = statement(known, transfers, 1, 0, 1, 10)
    XSD.assertValid(etree.fromstring(camt053(page, "0" * 32, START)))


def book_of(*commands: Command) -> tuple[State, list[Transfer]]:
    known = state(*(account(n) for n in range(1, 6)))
    return known, decide([Unit(1, commands, False)], known, START).transfers


def test_a_statement_with_a_wrong_entry_says_so() -> None:
    known, transfers = book_of(post(100, 1, 2, 5), post(101, 2, 1, 3), post(102, 1, 3, 9))
    [page] = statement(known, transfers, 1, 0, 3, 10)
    for place in range(3):
        lines = list(page.lines)
        lines[place] = lines[place]._replace(amount=lines[place].amount + 1)
        broken = replace(page, lines=lines)
        assert f"sequence {lines[place].sequence}" in (broken.fault() or "")
    shorter = replace(page, lines=page.lines[:2])
    assert "closing" in (shorter.fault() or "")
    later = replace(page, opening=Posted(1, 0))
    assert "opening" in (later.fault() or "")


# ---- reports ------------------------------------------------------------------------------------------------------


def groups(transfers: Sequence[Transfer], upto: int) -> list[Group]:
    """The five accounts as groups, one of each kind."""
    found = []
    for number, kind in enumerate(KINDS, 1):
        entries = [e for e in entries_of(transfers, number) if e.sequence <= upto]
        if entries:
            found.append(Group(kind, f"{kind}s", "EUR", 1, entries[-1].debits_posted, entries[-1].credits_posted))
    return found


@settings(max_examples=60)
@given(st.data())
def test_every_report_of_a_book_balances(draw: st.DataObject) -> None:
    _, transfers = book(draw)
    middle = draw.draw(st.integers(0, len(transfers)))
    before, after = groups(transfers, middle), groups(transfers, len(transfers))
    for at in (before, after):
        assert unbalanced(totals(at)) is None
        assert [sheet.fault() for sheet in balance_sheets(at)] == [None] * len(balance_sheets(at))
    # what an income statement says is by what the net income of the balance sheet changes
    income = sum(one.net_income for one in income_statements(before, after))
    assert income == sum(s.net_income for s in balance_sheets(after)) - sum(
        s.net_income for s in balance_sheets(before)
    )


def test_a_book_that_does_not_balance_has_no_report() -> None:
    wrong = [Group("asset", None, "EUR", 1, 10, 0), Group("liability", None, "EUR", 1, 0, 9)]
    assert unbalanced(totals(wrong)) == "EUR: debits 10, credits 9"
    assert "assets 10" in (balance_sheets(wrong)[0].fault() or "")


def test_kinds_have_their_own_direction_whatever_the_account_says() -> None:
    sheet = balance_sheets(
        [
            Group("asset", "cash", "EUR", 1, 150, 30),
            Group("asset", "depreciation", "EUR", 1, 0, 20),  # a contra account: credits only
            Group("liability", "wallets", "EUR", 2, 10, 60),
            Group("equity", "capital", "EUR", 1, 0, 40),
            Group("income", "fees", "EUR", 1, 0, 25),
            Group("expense", "rails", "EUR", 1, 15, 0),
        ]
    )[0]
    assert (sheet.total_assets, sheet.total_liabilities, sheet.total_equity, sheet.net_income) == (100, 50, 40, 10)
    assert sheet.fault() is None


# ---- explanations -------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(st.data())
def test_an_explanation_adds_up_to_the_balance(draw: st.DataObject) -> None:
    known, transfers = book(draw)
    number = draw.draw(st.integers(1, 5))
    entries = entries_of(transfers, number)
    begin = draw.draw(st.integers(0, len(entries)))
    checkpoint = Checkpoint(
        begin, 0 if begin == 0 else entries[begin - 1].sequence,
        Totals(0, 0, 0, 0) if begin == 0 else Totals(*(getattr(entries[begin - 1], name) for name in Totals._fields)),
    )  # fmt: skip
    holds = [
        HeldRow(h.id, n, h.debit_account, h.credit_account, h.amount, None, START, h.remaining, h.captured)
        for n, h in enumerate(known.holds.values())
        if h.remaining and aid(number) in (h.debit_account, h.credit_account)
    ]
    this = row(known, number, entries, floor=-50, ceiling=5000)
    found = explain(this, checkpoint, entries[begin:], holds, [])
    assert explanation_fault(found) is None
    assert all(sum(term.amount for term in step.terms) == step.result for step in found.steps)
    expected = balance(this.normal_side == "debit", *(getattr(this, name) for name in Totals._fields))
    assert (found.step("posted").result, found.step("pending").result, found.step("available").result) == (
        expected.posted, expected.pending, expected.available,
    )  # fmt: skip
    assert found.step("room_above_floor").result == expected.available + 50
    # anything left out or altered is noticed
    if entries[begin:]:
        assert explanation_fault(explain(this, checkpoint, entries[begin + 1 :], holds, [])) is not None
    if holds:
        assert explanation_fault(explain(this, checkpoint, entries[begin:], holds[1:], [])) is not None
