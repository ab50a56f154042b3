"""Money never loses, never makes and never mixes."""

from __future__ import annotations

import operator
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.currencies import EXPONENTS, MINOR_PER_EURO
from tallystick.kernel.money import (
    MAX_MINOR,
    CurrencyMismatch,
    InvalidAmount,
    Money,
    MoneyWire,
    UnknownCurrency,
    currency,
    from_money,
    in_units,
    minor_per_euro,
    to_money,
)

amounts = st.integers(0, MAX_MINOR)


@given(amounts, st.lists(st.integers(0, 10_000), min_size=1, max_size=30).filter(any))
def test_allocation_sums_to_the_whole_and_is_fair(minor: int, weights: list[int]) -> None:
    parts = Money(minor, "EUR").allocate(weights)
    assert sum(part.minor for part in parts) == minor
    for part, weight in zip(parts, weights, strict=True):
        exact = minor * weight // sum(weights)
        assert exact <= part.minor <= exact + 1
        assert weight or part.minor == 0


def test_ties_go_to_the_first() -> None:
    assert [m.minor for m in Money(100, "EUR").allocate([1, 1, 1])] == [34, 33, 33]
    assert [m.minor for m in Money(100, "EUR").allocate([0, 1])] == [0, 100]


@pytest.mark.parametrize("weights", [[], [0], [-1, 2]])
def test_weights_that_say_nothing_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match=r"weights|min|empty"):
        Money(1, "EUR").allocate(weights)


@given(amounts, amounts)
def test_addition_and_subtraction_stay_in_bounds(a: int, b: int) -> None:
    if a + b > MAX_MINOR:
        with pytest.raises(InvalidAmount):
            Money(a, "EUR") + Money(b, "EUR")
    else:
        assert (Money(a, "EUR") + Money(b, "EUR")) - Money(b, "EUR") == Money(a, "EUR")
    if a < b:
        with pytest.raises(InvalidAmount):
            Money(a, "EUR") - Money(b, "EUR")


MIXED = (operator.add, operator.sub, operator.lt, operator.le, operator.gt, operator.ge)


@pytest.mark.parametrize("reckon", MIXED)
def test_currencies_do_not_mix(reckon: Callable[[Money, Money], object]) -> None:
    with pytest.raises(CurrencyMismatch):
        reckon(Money(1, "EUR"), Money(1, "USD"))


@given(st.integers(0, 3), st.integers(0, 3))
def test_money_is_in_the_order_of_its_minor_units(a: int, b: int) -> None:
    one, two = Money(a, "EUR"), Money(b, "EUR")
    assert [compare(one, two) for compare in MIXED[2:]] == [compare(a, b) for compare in MIXED[2:]]


@given(st.integers(1, MAX_MINOR))
def test_wire_round_trip(minor: int) -> None:
    wire = from_money(Money(minor, "JPY"))
    again = msgspec.json.decode(msgspec.json.encode(wire), type=MoneyWire)
    assert to_money(again) == Money(minor, "JPY")


@pytest.mark.parametrize(
    "amount",
    ['"-1"', '"+1"', '"1.0"', '"1e3"', '"01"', '""', '" 1"', '"1\\n"', "1", "1.5", "true", "null", '"١"', '"0x1"'],
)
def test_amounts_that_are_not_plain_digits_are_refused(amount: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(f'{{"amount": {amount}, "currency": "EUR"}}', type=MoneyWire)


def test_what_clients_are_told_by_never_changes() -> None:
    told = [(no.slug, no.status) for no in (UnknownCurrency, InvalidAmount, CurrencyMismatch)]
    assert told == [("unknown-currency", 400), ("invalid-amount", 400), ("currency-mismatch", 422)]


def test_amounts_past_a_bigint_are_refused_before_they_wrap() -> None:
    assert MAX_MINOR == 9_223_372_036_854_775_807
    assert to_money(MoneyWire(str(MAX_MINOR), "EUR")).minor == MAX_MINOR
    with pytest.raises(InvalidAmount):
        to_money(MoneyWire(str(MAX_MINOR + 1), "EUR"))


def test_zero_is_refused_where_it_must_be_positive() -> None:
    with pytest.raises(InvalidAmount):
        to_money(MoneyWire("0", "EUR"))
    assert to_money(MoneyWire("0", "EUR"), positive=False).minor == 0


def test_unknown_currency() -> None:
    with pytest.raises(UnknownCurrency) as unknown:
        to_money(MoneyWire("1", "XXX"))
    assert unknown.value.extensions == {"currency": "XXX"}
    for code in ("EURO", "EU", "eur", "", "EUR\\n"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(f'{{"amount": "1", "currency": "{code}"}}', type=MoneyWire)
    assert currency("JPY").exponent == 0
    assert currency("BHD").exponent == 3


@pytest.mark.parametrize(
    ("minor", "code", "text"),
    [(1250, "EUR", "12.50 EUR"), (5, "EUR", "0.05 EUR"), (7, "JPY", "7 JPY"), (1, "BHD", "0.001 BHD")],
)
def test_text_for_people(minor: int, code: str, text: str) -> None:
    assert str(Money(minor, code)) == text


@pytest.mark.parametrize(
    ("minor", "code", "said"),
    [(-1250, "EUR", "-12.50"), (-1, "EUR", "-0.01"), (0, "EUR", "0.00"), (7, "JPY", "7"), (-7, "JPY", "-7"), (2**63, "BHD", "9223372036854775.808")],
)  # fmt: skip
def test_minor_units_as_a_number_of_units(minor: int, code: str, said: str) -> None:
    assert in_units(minor, code) == said


#: Units per euro: the European Central Bank's reference rates of 30 October 2026, and what is fixed to the euro or the dollar.
RATES = {
    "AUD": 1.5904, "BRL": 6.0692, "CAD": 1.5606, "CHF": 0.9194, "CNY": 7.4326, "CZK": 24.353, "DKK": 7.4735, "EUR": 1.0, "GBP": 0.8338,
    "HKD": 8.7652, "HUF": 366.33, "IDR": 20275.17, "ILS": 3.495, "INR": 106.084, "ISK": 136.0, "JPY": 175.68, "KRW": 1491.76,
    "MXN": 21.1237, "MYR": 4.5325, "NOK": 10.312, "NZD": 1.9823, "PHP": 71.143, "PLN": 4.4038, "RON": 5.3447, "SEK": 10.978,
    "SGD": 1.4282, "THB": 37.683, "TRY": 55.8015, "USD": 1.1172, "ZAR": 18.6455, "XAF": 655.957, "XOF": 655.957, "XPF": 119.332,
    "KMF": 491.968, "BAM": 1.95583, "CVE": 110.265, "AED": 4.103, "BHD": 0.42, "JOD": 0.792, "OMR": 0.43, "QAR": 4.067, "SAR": 4.19,
}  # fmt: skip


def test_a_euro_is_about_known_in_every_currency() -> None:
    assert MINOR_PER_EURO.keys() == EXPONENTS.keys()
    assert all(isinstance(each, int) and each > 0 for each in MINOR_PER_EURO.values())
    assert minor_per_euro("EUR") == 100
    with pytest.raises(UnknownCurrency):
        minor_per_euro("XXY")
    for code, rate in RATES.items():
        assert 0.5 <= minor_per_euro(code) / (rate * 10 ** EXPONENTS[code]) <= 2, code
