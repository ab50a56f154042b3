"""Transfers between books: what each book is told, word for word, and what the shards together can't be right about."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tallystick.contracts.ledger.messages import Reason
from tallystick.kernel import ids
from tallystick.services.ledger.model import (
    ENDED,
    MOMENTARY,
    BookAccount,
    Command,
    Crossing,
    InTransit,
    NewAccount,
    Outcome,
    Transfer,
    arrival,
    crossing_of,
    decide,
    departure,
    disagreements,
    ending,
    transit_account,
)
from tallystick.services.ledger.model.values import Unit
from tests.services.ledger.support import START, account, aid, state, tid

CROSSING = Crossing(
    id=tid(9), source=BookAccount("main", "anna"), destination=BookAccount("other", "shop"), amount=5, currency="EUR", client="cli_a",
    reference="r", metadata='{"a":"1"}',
)  # fmt: skip
PLAIN = replace(CROSSING, reference=None, metadata=None)


def test_transit_accounts_are_named_by_their_place_and_never_change() -> None:
    """Their ids are in the books: other ones would be other accounts."""
    out = transit_account("acme", "main", "out", "other", "EUR")
    assert out == NewAccount(
        id=out.id, name="in transit to other", path="transit:out:other:EUR", kind="liability", currency="EUR", normal_side="credit", floor=None,
        code="interbook", metadata=None,
    )  # fmt: skip
    into = transit_account("acme", "other", "in", "main", "EUR")
    assert into == NewAccount(
        id=into.id, name="in transit from main", path="transit:in:main:EUR", kind="asset", currency="EUR", normal_side="debit", floor=None,
        code="interbook", metadata=None,
    )  # fmt: skip
    assert (str(out.id), str(into.id)) == (
        "bb00c340-9ee5-8180-a190-b83e2e5569d3",
        "67a012ea-8bf2-8617-bb32-ade8da997868",
    )


def test_what_leaves_is_held_and_says_where_it_goes() -> None:
    held = departure(CROSSING, aid(1))
    assert held == Command(
        kind="hold", id=tid(9), debit="anna", credit=aid(1), amount=5, currency="EUR", code="interbook",
        metadata='{"client":"cli_a","from_account":"anna","from_book":"main","metadata":"{\\"a\\":\\"1\\"}","reference":"r","to_account":"shop",'
        '"to_book":"other"}',
    )  # fmt: skip
    assert departure(PLAIN, aid(1)).metadata == (
        '{"client":"cli_a","from_account":"anna","from_book":"main","to_account":"shop","to_book":"other"}'
    )
    by_id = replace(CROSSING, source=BookAccount("main", ids.accounts.text(aid(3))))
    assert departure(by_id, aid(1)).debit == aid(3)


def test_what_arrives_says_where_it_came_from() -> None:
    said = '{"from_account":"anna","from_book":"main","reference":"r"}'
    expected = Command(
        kind="post", id=tid(9), debit=aid(1), credit="shop", amount=5, currency="EUR", code="interbook", metadata=said
    )
    assert arrival(CROSSING, aid(1)) == expected
    assert arrival(PLAIN, aid(1)).metadata == '{"from_account":"anna","from_book":"main"}'


def held(crossing: Crossing, **more: Any) -> Transfer:
    """The hold, as it was posted."""
    transit = transit_account("acme", "main", "out", "other", "EUR").id
    found = state(account(3), replace(account(4), id=transit, transit=True))
    found.paths[1, "anna"] = aid(3)
    (made,) = decide([Unit(1, [departure(crossing, transit)], atomic=False, crossing=True)], found, START).transfers
    return replace(made, **more)


def test_a_hold_says_what_it_was_made_for() -> None:
    assert crossing_of("acme", held(CROSSING)) == CROSSING
    assert crossing_of("acme", held(PLAIN)) == PLAIN


@pytest.mark.parametrize(
    "other", [{"kind": "post"}, {"credit_account": aid(1)}, {"metadata": None}, {"metadata": '{"to_book":"other"}'}, {"currency": "USD"}]
)  # fmt: skip
def test_any_other_transfer_is_no_crossing(other: dict[str, Any]) -> None:
    assert crossing_of("acme", held(CROSSING, **other)) is None
    assert crossing_of("beta", held(CROSSING)) is None


def test_the_end_is_one_command_for_each_try_and_never_changes() -> None:
    """Its id is in the books: another one would be a second end."""
    captured, voided = ending("main", CROSSING, Outcome()), ending("main", CROSSING, Outcome("account_closed"))
    assert captured == Command(kind="capture", id=captured.id, target=tid(9), code="interbook")
    assert voided == Command(kind="void", id=voided.id, target=tid(9), code="account_closed")
    assert (str(captured.id), str(voided.id)) == (
        "a331427c-a0a8-80e7-8284-b45ed164cae7",
        "1a7e272d-82a4-8276-8034-8c4f9c1a9ed5",
    )
    assert ending("main", CROSSING, Outcome(), 0) == captured
    assert ending("main", CROSSING, Outcome("account_closed", "a:b")) == replace(voided, metadata='{"account":"a:b"}')
    others = (ending("other", CROSSING, Outcome()), ending("main", CROSSING, Outcome(), 1), ending("main", replace(CROSSING, id=tid(8)), Outcome()))  # fmt: skip
    assert len({captured.id, voided.id, *(one.id for one in others)}) == 5


def test_which_refusals_are_no_end() -> None:
    assert {Reason.BOOK_QUARANTINED} == MOMENTARY
    assert {Reason.HOLD_ALREADY_CAPTURED, Reason.HOLD_ALREADY_VOIDED} == ENDED


# ---- reconciliation -----------------------------------------------------------------------------------------------------


def out(posted: int, pending: int = 0) -> InTransit:
    return InTransit("acme", "main", "other", "out", "EUR", posted, pending)


def came(posted: int) -> InTransit:
    return InTransit("acme", "other", "main", "in", "EUR", posted, 0)


@pytest.mark.parametrize(
    ("before", "then", "after", "bounds"),
    [
        ([], [], [], None),
        ([out(5)], [came(5)], [out(5)], None),
        ([out(5, 3)], [came(5)], [out(5, 3)], None),
        ([out(5)], [came(8)], [out(5, 3)], None),
        ([out(5)], [came(7)], [out(8)], None),
        ([], [], [out(0, 3)], None),
        ([], [came(3)], [out(0, 3)], None),
        ([], [came(3)], [out(3)], None),
        ([out(5)], [came(4)], [out(9)], (4, 5, 9)),
        ([out(5)], [came(9)], [out(5, 3)], (9, 5, 8)),
        ([out(5)], [], [out(5)], (0, 5, 5)),
        ([], [came(1)], [], (1, 0, 0)),
        ([out(5)], [came(5)], [], (5, 5, 0)),
    ],
)
def test_what_came_in_is_between_what_went_out_and_what_is_held(
    before: list[InTransit], then: list[InTransit], after: list[InTransit], bounds: tuple[int, int, int] | None
) -> None:
    # The other way is another sum: it neither hides nor adds anything.
    back = [InTransit("acme", "other", "main", "out", "EUR", 100, 0), InTransit("acme", "main", "other", "in", "EUR", 100, 0)]  # fmt: skip
    here = (
        []
        if bounds is None
        else [
            f"acme, main to other: {bounds[0]} EUR came in, and between {bounds[1]} and {bounds[2]} went out"
        ]
    )  # fmt: skip
    assert disagreements([*before, *back], [*then, *back], [*after, *back]) == here
    assert disagreements(before, then, after) == here


def test_each_disagreement_is_told() -> None:
    usd = [replace(out(5), currency="USD"), replace(out(7), tenant="beta")]
    assert [one.partition(":")[0] for one in disagreements(usd, [], usd)] == [
        "acme, main to other",
        "beta, main to other",
    ]
