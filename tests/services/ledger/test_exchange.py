"""The legs of an exchange: nothing is lost, and each rounding is within its bounds."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tallystick.services.ledger.model import MAX, Exchange, Ratio, Worthless, legs

ROUNDINGS = ("down", "up", "half_even", "half_up")
_whole = st.integers(1, 10**15)


def exchange(
    sold: int, rate: tuple[int, int], rounding: Any = "half_even", spread: tuple[int, int] | None = None
) -> Exchange:
    return Exchange(
        sold=sold,
        sell_currency="EUR",
        buy_currency="USD",
        seller="anna:eur",
        buyer="anna:usd",
        pool_sell="pool:eur",
        pool_buy="pool:usd",
        rate=Ratio(*rate),
        rounding=rounding,
        spread=None if spread is None else Ratio(*spread),
        spread_to=None if spread is None else "income:fx",
    )


@given(st.integers(1, MAX), _whole, _whole, st.sampled_from(ROUNDINGS), st.one_of(st.none(), st.tuples(_whole, _whole)))
def test_what_is_sold_arrives_and_what_is_bought_is_the_rate(
    sold: int, numerator: int, denominator: int, rounding: str, spread: tuple[int, int] | None
) -> None:
    if spread is not None:
        spread = (min(spread), max(spread) + 1)
    exact = Fraction(sold * numerator, denominator)
    try:
        made = legs(exchange(sold, (numerator, denominator), rounding, spread))
    except Worthless:
        kept = 0 if spread is None else Fraction(*spread)
        assert exact + 1 > MAX or exact * (1 - kept) < 2
        return
    assert made[0].amount == sold
    gross = sum(leg.amount for leg in made[1:])
    assert abs(gross - exact) < 1
    if rounding == "down":
        assert gross <= exact
    elif rounding == "up":
        assert gross >= exact
    else:
        assert abs(gross - exact) <= Fraction(1, 2)
    kept = sum(leg.amount for leg in made if leg.role == "spread")
    assert kept == (0 if spread is None else int(gross * Fraction(*spread)))
    assert all(1 <= leg.amount <= MAX for leg in made)
    assert {leg.debit for leg in made[1:]} == {"pool:usd"}
    assert [leg.credit for leg in made][:2] == ["pool:eur", "anna:usd"]


@pytest.mark.parametrize(
    ("sold", "rate", "bought"),
    [
        (5, (1, 2), {"down": 2, "up": 3, "half_even": 2, "half_up": 3}),
        (7, (1, 2), {"down": 3, "up": 4, "half_even": 4, "half_up": 4}),
        (10, (1, 3), {"down": 3, "up": 4, "half_even": 3, "half_up": 3}),
        (11, (1, 3), {"down": 3, "up": 4, "half_even": 4, "half_up": 4}),
        (12, (1, 3), {"down": 4, "up": 4, "half_even": 4, "half_up": 4}),
        (10_000, (10_873, 10_000), {"down": 10_873, "up": 10_873, "half_even": 10_873, "half_up": 10_873}),
    ],
)
def test_roundings_by_hand(sold: int, rate: tuple[int, int], bought: dict[str, int]) -> None:
    for rounding, amount in bought.items():
        assert legs(exchange(sold, rate, rounding))[1].amount == amount


def test_a_spread_is_kept_back_and_one_of_nothing_has_no_leg() -> None:
    made = legs(exchange(10_000, (1, 1), spread=(25, 10_000)))
    assert [(leg.role, leg.amount, leg.credit) for leg in made] == [
        ("sell", 10_000, "pool:eur"),
        ("buy", 9_975, "anna:usd"),
        ("spread", 25, "income:fx"),
    ]
    assert [leg.role for leg in legs(exchange(100, (1, 1), spread=(25, 10_000)))] == ["sell", "buy"]


def test_a_spread_that_goes_nowhere_stays_with_the_pool() -> None:
    made = legs(replace(exchange(10_000, (1, 1), spread=(25, 10_000)), spread_to=None))
    assert [(leg.role, leg.amount) for leg in made] == [("sell", 10_000), ("buy", 9_975)]


def test_what_is_bought_is_an_amount() -> None:
    assert legs(exchange(MAX, (1, 1)))[1].amount == MAX
    with pytest.raises(Worthless, match=r"^more would be bought than an amount can be$"):
        legs(exchange(1, (MAX + 1, 1)))
    assert legs(exchange(1, (1, 1)))[1].amount == 1
    with pytest.raises(Worthless, match=r"^nothing would be bought at this rate$"):
        legs(exchange(1, (1, 1), spread=(1, 1)))


def test_an_exchange_that_gives_nothing_is_none() -> None:
    for bad in (exchange(1, (1, 2), "down"), exchange(MAX, (2, 1)), exchange(2, (1, 1), spread=(99, 100))):
        assert bad.spread is None or legs(bad)[1].amount == 1
        if bad.spread is None:
            with pytest.raises(Worthless):
                legs(bad)
