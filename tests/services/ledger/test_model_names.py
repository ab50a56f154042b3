"""Names of accounts and what is said with them: paths, patterns, charts, categories; and the order of what is found in a book."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tallystick.kernel import ids
from tallystick.kernel.ids import InvalidId
from tallystick.services.ledger.model import (
    Category,
    Chart,
    Charted,
    Hit,
    NewAccount,
    Pattern,
    Rule,
    account_ref,
    account_text,
    decide,
    is_path,
    is_reserved,
    members,
    on_a_cycle,
    pattern,
    sides,
    was_reserved,
)
from tallystick.services.ledger.model.paths import of_copy
from tallystick.services.ledger.model.values import Transfer, Unit
from tests.services.ledger.support import START, account, aid, post, state

# ---- paths --------------------------------------------------------------------------------------------------------------


#: As many characters as a path may have.
LONG = ":".join(["a" * 63] * 7 + ["a" * 64])


@pytest.mark.parametrize(
    "path",
    ["a", "a:b", "A.b-c_9", "a" * 64, ":".join("a" * 16), LONG, "acc", "acca_", "ac_1", "abc_" + "0" * 25, "abc_" + "0" * 27, "a:acc_1", "...", ".:..", ".a"],
)  # fmt: skip
def test_what_a_path_may_be(path: str) -> None:
    assert is_path(path)
    assert account_ref(path) == path


@pytest.mark.parametrize(
    "text", ["", ":", "a:", ":a", "a::b", "a b", "ä", "a" * 65, ":".join("a" * 17), LONG[:-2] + ":aa", "acc_", "abc_" + "0" * 26, "a\n", "a:*", ".", ".."]
)  # fmt: skip
def test_what_no_path_is(text: str) -> None:
    assert not is_path(text)
    with pytest.raises(InvalidId):
        account_ref(text)


def test_an_account_is_named_by_its_id_too() -> None:
    assert account_ref(ids.accounts.text(aid(7))) == aid(7)
    assert account_text(aid(7)) == ids.accounts.text(aid(7))
    assert [account_text(one) for one in ("a:b", None)] == ["a:b", None]
    paths = (
        None,
        "transit",
        "transit:in:a:EUR",
        "a:transit:b",
        "tallystick",
        "tallystick:suspense:EUR",
        "a:tallystick:b",
    )
    assert [is_reserved(path) for path in paths] == [False, False, True, False, False, True, False]


def test_what_was_the_platforms_own_gives_way_in_a_copy_and_in_a_copy_of_that() -> None:
    own = "transit:in:a:EUR"
    for path in (own, f"was-{own}", f"was-was-{own}"):
        assert (was_reserved(path), of_copy(path)) == (True, f"was-{path}")
    for other in (None, "a", "was-", "was-a", "was-transit", f"a:{own}", f"was_{own}"):
        assert (was_reserved(other), of_copy(other)) == (False, other)


# ---- patterns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:b", Pattern("a:b", "a:b\x01", "^a:b$")),
        ("a.b", Pattern("a.b", "a.b\x01", "^a[.]b$")),
        ("a:b:*", Pattern("a:b:", "a:b;", "^a:b:[^:]+$")),
        ("a:*:b", Pattern("a:", "a;", "^a:[^:]+:b$")),
        ("a:**", Pattern("a:", "a;", "^a:[^:]+(:[^:]+)*$")),
        ("*:a", Pattern("", "\x7f", "^[^:]+:a$")),
        ("**", Pattern("", "\x7f", "^[^:]+(:[^:]+)*$")),
    ],
)
def test_a_pattern_is_a_range_and_an_expression(text: str, expected: Pattern) -> None:
    """PostgreSQL reads both: an index is searched from the one end to the other, and each path there is compared."""
    assert pattern(text) == expected


def test_what_a_pattern_fits_is_within_its_range() -> None:
    assert [pattern("a:*").fits(path) for path in ("a:b", "a", "a:b:c", "b:b", "a;b")] == [True, False, False, False, False]  # fmt: skip
    assert [pattern("a").fits(path) for path in ("a", "a:b", "aa")] == [True, False, False]
    assert [Pattern("b", "d", ".").fits(path) for path in ("a", "b", "c", "d")] == [False, True, True, False]


# ---- charts -------------------------------------------------------------------------------------------------------------

WALLET = Rule("customers:{id:int}:wallet", "liability")
ANYBODYS = Rule("customers:{name}:wallet", "asset")
CHART = Chart(
    3,
    "strict",
    [WALLET, ANYBODYS, Rule("{any}:x", "asset"), Rule("first:x", "equity"), Rule("{id:uuid}", "income"), Rule("{name:text}:a.b:c", "expense")],
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("customers:42:wallet", 0),
        ("customers:0:wallet", 0),
        ("customers:" + "9" * 18 + ":wallet", 0),
        ("customers:" + "9" * 19 + ":wallet", 1),
        ("customers:042:wallet", 1),
        ("customers:anna:wallet", 1),
        ("customers:anna", None),
        ("customers:1:wallet:2", None),
        ("customers:1:purse", None),
        ("a:x", 2),
        ("first:x", 2),
        ("first:y", None),
        ("00000000-0000-0000-0000-000000000000", 4),
        ("0000000g-0000-0000-0000-000000000000", None),
        ("00000000-0000-0000-0000-00000000000", None),
        ("n:a.b:c", 5),
        ("n:aXb:c", None),
        (None, None),
    ],
)
def test_the_first_rule_that_fits_counts(path: str | None, place: int | None) -> None:
    assert (CHART.version, CHART.mode) == (3, "strict")
    assert CHART.rule_for(path) == (None if place is None else CHART.rules[place])


def test_no_rule_is_about_transit_accounts() -> None:
    everything = Chart(1, "strict", [Rule("{a}:{b}:{c}:{d}", "asset")])
    assert everything.rule_for("a:b:c:d") is not None
    assert everything.rule_for("transit:out:other:EUR") is None
    assert everything.fault(of(path="transit:out:other:EUR")) is None


def of(**said: Any) -> Charted:
    usual: dict[str, Any] = {"path": "a", "kind": "asset", "normal_side": "debit", "currency": "EUR", "floor": None, "ceiling": None}  # fmt: skip
    return Charted(**usual | said)


@pytest.mark.parametrize(
    ("rule", "said", "why"),
    [
        ({}, {}, None),
        ({}, {"kind": "equity"}, "it is of the kind equity, the rule says asset"),
        ({"normal_side": "debit"}, {}, None),
        ({"normal_side": "credit"}, {}, "its normal side is debit, the rule says credit"),
        ({"currencies": ("EUR", "USD")}, {}, None),
        ({"currencies": ("USD",)}, {}, "its currency EUR is not among the rule's"),
        ({"currencies": ()}, {}, "its currency EUR is not among the rule's"),
        ({"floor": 5}, {"floor": 5}, None),
        ({"floor": 5}, {"floor": 6}, None),
        ({"floor": 5}, {"floor": 4}, "its floor is below the rule's of 5"),
        ({"floor": 5}, {}, "its floor is below the rule's of 5"),
        ({"ceiling": 5}, {"ceiling": 5}, None),
        ({"ceiling": 5}, {"ceiling": 4}, None),
        ({"ceiling": 5}, {"ceiling": 6}, "its ceiling is above the rule's of 5"),
        ({"ceiling": 5}, {}, "its ceiling is above the rule's of 5"),
    ],
)
def test_what_contradicts_a_rule(rule: dict[str, Any], said: dict[str, Any], why: str | None) -> None:
    made = Rule("a", "asset", **rule)
    assert Chart(1, "open", [made]).fault(of(**said)) == (None if why is None else (why, made))


def test_without_a_rule_a_strict_chart_says_no() -> None:
    for path, why in (("b", "no rule fits its path"), (None, "without a path")):
        assert Chart(1, "strict", [Rule("a", "asset")]).fault(of(path=path)) == (why, None)
        assert Chart(1, "open", [Rule("a", "asset")]).fault(of(path=path)) is None


def test_an_account_takes_from_its_rule_what_it_does_not_say_itself() -> None:
    usual: dict[str, Any] = {"id": aid(1), "name": "one", "currency": "EUR", "normal_side": "debit", "floor": None, "code": None, "metadata": None}  # fmt: skip
    chart = Chart(1, "open", [Rule("a", "expense", floor=3, ceiling=9), Rule("b", "expense")])
    for said, takes in (
        ({"path": "a"}, {"kind": "expense", "floor": 3, "ceiling": 9}),
        ({"path": "a", "floor": 4}, {"kind": "expense", "ceiling": 9}),
        ({"path": "a", "floor": 0, "ceiling": 0, "kind": "asset"}, {}),
        ({"path": "a", "ceiling": 8}, {"kind": "expense", "floor": 3}),
        ({"path": "b"}, {"kind": "expense"}),
        ({"path": "b", "floor": -1, "ceiling": 1}, {"kind": "expense"}),
        ({"path": "c"}, {"kind": "asset"}),
        ({"path": "c", "normal_side": "credit"}, {"kind": "liability"}),
        ({"path": "c", "kind": "income", "floor": 1}, {}),
        ({}, {"kind": "asset"}),
    ):
        account_ = NewAccount(**usual | said)
        assert chart.filled(account_) == replace(account_, **takes), said


# ---- categories ---------------------------------------------------------------------------------------------------------


def graph(**below: str) -> dict[str, Category]:
    """`a="1 2 b"`: the category a has the paths 1 and 2 and the category b."""
    return {
        name: Category(
            name, [word for word in said.split() if word.isdigit()], [word for word in said.split() if word.isalpha()], START
        )
        for name, said in below.items()
    }  # fmt: skip


def test_the_members_of_a_category_are_those_of_all_below_it_once() -> None:
    known = graph(a="1 2 b c", b="2 3 d", c="4 d", d="5 gone")
    assert members("a", known) == ["1", "2", "3", "5", "4"]
    assert members("d", known) == ["5"]
    assert members("gone", known) == []
    assert members("a", graph(a="1 b", b="2 a")) == ["1", "2"]


def test_a_category_is_not_below_itself() -> None:
    known = graph(b="c d", c="1", d="a", e="e")
    assert on_a_cycle(graph(a="b")["a"], known)
    assert on_a_cycle(graph(a="c a")["a"], known)
    assert not on_a_cycle(graph(a="c gone c")["a"], known)
    assert not on_a_cycle(graph(a="e")["a"], known), "somebody else's cycle is none of this one's"
    assert not on_a_cycle(graph(a="1")["a"], known)


# ---- lists and books ----------------------------------------------------------------------------------------------------


def test_entries_are_listed_the_debit_before_the_credit_newest_first() -> None:
    made: list[Transfer] = decide(
        [Unit(1, [post(n, 1, 2, 5) for n in (1, 2, 3)], atomic=False)], state(account(1), account(2)), START
    ).transfers
    fits = ((True, True), (False, True), (True, False))
    hits = [Hit(made[n], (True, False), (None, None), fits[n]) for n in (2, 1, 0)]
    assert [(one.place, one.account) for one in sides(hits, None)] == [(7, aid(1)), (4, aid(2)), (3, aid(1)), (2, aid(2))]  # fmt: skip
    assert [one.place for one in sides(hits, 4)] == [3, 2]
