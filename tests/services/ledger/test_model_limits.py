"""How much can be moved, to the minor unit: each limit of each side by itself, and limits of past days."""

from __future__ import annotations

from copy import deepcopy
from datetime import date, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from tallystick.contracts.ledger.messages import Reason
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import EPOCH, MAX, Account, Command, Days, Unit, dated, dated_back, decide
from tallystick.services.ledger.model.limits import breached, check_not_frozen, check_room, most, positive
from tallystick.services.ledger.model.refusal import Refused
from tests.services.ledger.support import START, account, aid, daily, hold, on, past_of, post, state


def of(number: int, *, side: str = "credit", dp: int = 0, d: int = 0, cp: int = 0, c: int = 0, **more: Any) -> Account:
    """With these totals: debits pending and posted, credits pending and posted."""
    return Account(
        aid(number), 1, "EUR", side == "debit", more.pop("floor", None), False, 0, dp, d, cp, c, **more
    )  # fmt: skip


#: What is debited and what is credited, how much there is room for between them, and which account (1 is debited, 2 credited) is narrow.
TOTALS: list[tuple[Account, Account, int, int, str]] = [
    # A debit takes from an account that credits make grow: what is in, less what holds may still take, down to the floor.
    (of(1, dp=3, d=20, cp=1000, c=100, floor=7), of(2), 70, 1, "insufficient_funds"),
    (of(1, dp=3, d=20, c=100, floor=-7), of(2), 84, 1, "insufficient_funds"),
    # A credit takes from one that debits make grow.
    (of(1), of(2, side="debit", dp=1000, d=100, cp=3, c=20, floor=7), 70, 2, "insufficient_funds"),
    # A debit fills an account that debits make grow: what is in, and what holds may still bring, up to the ceiling.
    (of(1, side="debit", dp=3, d=50, cp=1000, c=20, ceiling=100), of(2), 67, 1, "ceiling_exceeded"),
    # A credit fills one that credits make grow.
    (of(1), of(2, dp=1000, d=20, cp=3, c=50, ceiling=100), 67, 2, "ceiling_exceeded"),
    # The narrower of both.
    (of(1, c=50, floor=0), of(2, ceiling=40), 40, 2, "ceiling_exceeded"),
    (of(1, c=40, floor=0), of(2, ceiling=50), 40, 1, "insufficient_funds"),
    (of(1, c=40, floor=0), of(2, ceiling=40), 40, 1, "insufficient_funds"),
    # A floor is nothing to what fills, a ceiling nothing to what takes.
    (of(1, side="debit", floor=7, ceiling=30), of(2, floor=7), 30, 1, "ceiling_exceeded"),
    (of(1, c=10, floor=0, ceiling=5), of(2, side="debit", ceiling=0), 10, 1, "insufficient_funds"),
    (of(1, c=10, floor=-20, ceiling=5), of(2), 30, 1, "insufficient_funds"),
]  # fmt: skip


@pytest.mark.parametrize(("debit", "credit", "room", "narrow", "reason"), TOTALS)
def test_there_is_room_to_the_last_minor_unit(
    debit: Account, credit: Account, room: int, narrow: int, reason: str
) -> None:
    check_room(debit, credit, room)
    with pytest.raises(Refused) as no:
        check_room(debit, credit, room + 1)
    assert (no.value.reason, no.value.account, no.value.currency) == (reason, aid(narrow), "EUR")
    assert (no.value.available, no.value.required, no.value.pinned) == (room, room + 1, True)
    assert str(no.value) == reason


@pytest.mark.parametrize(("debit", "credit", "room", "narrow", "reason"), TOTALS)
def test_a_balancing_move_is_as_much_as_there_is_room_for(
    debit: Account, credit: Account, room: int, narrow: int, reason: str
) -> None:
    del narrow, reason
    assert [most(debit, credit, asked) for asked in (1, room, room + 1, MAX)] == [1, room, room, room]


def test_a_balancing_move_of_nothing_is_refused_and_says_where_there_is_none() -> None:
    for debit, credit, narrow in (
        (of(1, floor=0), of(2), 1),
        (of(1, floor=5), of(2), 1),
        (of(1, floor=0), of(2, ceiling=0), 1),
        (of(1), of(2, ceiling=0), 2),
        (of(1, floor=0), of(2, ceiling=-1), 2),
    ):
        with pytest.raises(Refused) as no:
            most(debit, credit, 9)
        assert (no.value.reason, no.value.account) == ("nothing_to_move", aid(narrow))
        assert (no.value.available, no.value.required, no.value.currency) == (0, 9, "EUR")
    assert most(of(1, c=1, floor=0), of(2), 9) == 1


def test_no_total_may_wrap_on_any_side() -> None:
    for debit, credit in ((of(1, dp=3, d=4), of(2)), (of(1), of(2, cp=3, c=4))):
        check_room(debit, credit, MAX - 7)
        assert most(debit, credit, MAX) == MAX - 7
        with pytest.raises(Refused) as no:
            check_room(debit, credit, MAX - 6)
        assert no.value.reason == "amount_overflow"
    # The other side of an account is no part of it.
    check_room(of(1, cp=MAX, c=0), of(2, dp=MAX), MAX)
    assert most(of(1, cp=MAX), of(2, dp=MAX), MAX) == MAX


def test_an_amount_is_at_least_one_and_fits() -> None:
    assert MAX == 9_223_372_036_854_775_807
    assert [positive(amount) for amount in (1, MAX)] == [1, MAX]
    for amount, reason in ((None, Reason.AMOUNT_MUST_BE_POSITIVE), (0, Reason.AMOUNT_MUST_BE_POSITIVE), (MAX + 1, Reason.AMOUNT_OVERFLOW)):  # fmt: skip
        with pytest.raises(Refused) as no:
            positive(amount)
        assert no.value.reason is reason


def test_who_is_frozen_is_named() -> None:
    check_not_frozen(of(1), of(2))
    for debit, credit, named in ((True, False, 1), (False, True, 2), (True, True, 1)):
        with pytest.raises(Refused) as no:
            check_not_frozen(of(1, frozen=debit), of(2, frozen=credit))
        assert (no.value.reason, no.value.account, no.value.pinned) == (Reason.ACCOUNT_FROZEN, aid(named), True)
        with pytest.raises(Refused) as no:
            check_not_frozen(of(1, frozen=debit), of(2, frozen=credit), pinned=False)
        assert (no.value.account, no.value.pinned) == (aid(named), False)


# ---- days that are past -------------------------------------------------------------------------------------------------

FIRST = date(2026, 1, 1)


def days(*nth: int) -> list[date]:
    return [FIRST + timedelta(days=one) for one in nth]


def test_what_is_dated_back_moves_the_accounts_that_it_or_its_target_names() -> None:
    """The target may be stored, or come among the units, in any of them: under an id that came twice it may be either."""
    bank, anna, ben, capped = account(1), account(2, floor=0), account(3, floor=0), account(4, ceiling=0)
    found = state(bank, anna, ben, capped, account(5, book=2, floor=0))
    found.paths[1, "ben"] = ben.id
    stored = Unit(1, [post(1, 1, 3, 5), hold(2, 1, 2, 5)], atomic=False)
    decide([stored], found, START)
    at = START - timedelta(days=3)

    def moved(*units: list[Command]) -> dict[AccountId, date]:
        return dated_back([Unit(1, commands, atomic=False) for commands in units], found)

    def back(command: Command, days: int = 0) -> Command:
        return replace(command, effective_at=at - timedelta(days=days))

    assert moved([post(9, 1, 2, 5)]) == {}
    assert moved([back(post(9, 1, 2, 5)), back(post(10, 1, 2, 5), 2), back(post(11, 2, 1, 5), 1)]) == {
        anna.id: (at - timedelta(days=2)).date()
    }
    assert moved([back(post(9, 1, 4, 5)), back(replace(post(10, 1, 2, 5), credit="ben"))]).keys() == {capped.id, ben.id}
    assert moved([back(on("reverse", 9, 1))]).keys() == {ben.id}
    assert moved([post(9, 1, 2, 5), back(on("reverse", 10, 9))]) == {anna.id: at.date()}
    assert moved([back(on("reverse", 10, 9))], [post(9, 1, 2, 5)]).keys() == {anna.id}
    assert moved([on("capture", 9, 2), back(on("reverse", 10, 9))]).keys() == {anna.id}
    assert moved([back(on("capture", 9, 2))], [back(on("capture", 9, 8)), hold(8, 1, 3, 5)]).keys() == {anna.id, ben.id}
    assert moved([hold(8, 1, 2, 5), on("capture", 9, 8), back(on("reverse", 10, 9))]).keys() == {anna.id}
    assert moved([post(9, 1, 2, 5), post(9, 1, 3, 5), back(on("reverse", 10, 9))]).keys() == {anna.id, ben.id}
    assert moved([on("reverse", 9, 10), back(on("reverse", 10, 9))]) == {}
    assert moved([back(on("reverse", 10, 99)), back(post(11, 99, 98, 5))]) == {}
    other = [Unit(2, [post(9, 5, 5, 5)], atomic=False), Unit(1, [back(on("reverse", 10, 9))], atomic=False)]
    assert dated_back(other, found) == {}, "ids are a book's own"
    early = replace(post(9, 1, 2, 5), effective_at=EPOCH - timedelta(days=1000))
    assert moved([early]) == {anna.id: EPOCH.date()}


@pytest.mark.parametrize(
    ("limits", "change", "since", "broken"),
    [
        ({"floor": 10}, -10, 0, (1, 3)),
        ({"floor": 10}, -9, 0, (3,)),
        ({"floor": 10}, -10, 2, (3,)),
        ({"floor": 10}, -10, -5, (1, 3)),
        ({"floor": 10}, -10, 9, ()),
        ({"floor": 10}, 1, 0, ()),
        ({"ceiling": 30}, 10, 0, (2,)),
        ({"ceiling": 30}, 11, 0, (0, 2)),
        ({"ceiling": 30}, 11, 1, (2,)),
        ({"ceiling": 25}, 1, 0, (2,)),
        ({"ceiling": 20}, -1, 0, ()),
        ({"floor": 10, "ceiling": 30}, 11, 0, (0, 2)),
        ({"floor": 10, "ceiling": 30}, -10, 0, (1, 3)),
        ({"floor": 10, "ceiling": 22}, 0, 0, ()),
        ({}, -100, 0, ()),
    ],
)
def test_which_past_days_a_change_breaks(
    limits: dict[str, Any], change: int, since: int, broken: tuple[int, ...]
) -> None:
    """What moves an account towards its limits from outside of them breaks nothing."""
    past = past_of(FIRST, [20, 19, 25, 5])
    assert breached(of(1, **limits), past, FIRST + timedelta(days=since), change) == days(*broken)


@pytest.mark.parametrize("change", [-100, 100])
def test_an_account_without_a_past_has_no_day_that_a_change_breaks(change: int) -> None:
    past = Days(FIRST, [], [])
    assert breached(of(1, floor=0, ceiling=0), past, FIRST, change) == []
    for since in (FIRST, FIRST - timedelta(days=1)):
        dated(past, since, change)
        assert past == Days(FIRST, [], [])


def test_the_past_is_another_from_that_day_on() -> None:
    for since, then in (
        (-3, [5, 6, 7]),
        (0, [5, 6, 7]),
        (1, [1, 6, 7]),
        (2, [1, 2, 7]),
        (3, [1, 2, 3]),
        (9, [1, 2, 3]),
    ):
        past = past_of(FIRST, [1, 2, 3])
        dated(past, FIRST + timedelta(days=since), 4)
        assert daily(past) == then


#: Days on which something changed, and stretches on which nothing did: 5 for two days, 9 and 1 for three.
SPARSE = Days(FIRST + timedelta(days=8), [FIRST, FIRST + timedelta(days=2), FIRST + timedelta(days=5)], [5, 9, 1])


def test_a_stretch_on_which_nothing_changed_has_days_like_any_other() -> None:
    for since, change, broken in (
        (0, -6, (0, 1, 5, 6, 7)),
        (1, -6, (1, 5, 6, 7)),
        (3, -10, (3, 4, 5, 6, 7)),
        (4, -9, (5, 6, 7)),
        (6, -10, (6, 7)),
        (8, -10, ()),
    ):
        assert breached(of(1, floor=0), SPARSE, FIRST + timedelta(days=since), change) == days(*broken), since
    for since in range(-1, 10):
        past = deepcopy(SPARSE)
        dated(past, FIRST + timedelta(days=since), 4)
        before = daily(SPARSE)
        assert daily(past) == [one + 4 * (nth >= since) for nth, one in enumerate(before)], since
        assert len(past.since) == len(past.balances) == 3 + (since in {1, 3, 4, 6, 7}), "a day is there once"
