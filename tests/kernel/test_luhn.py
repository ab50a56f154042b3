"""Check digits: every single wrong digit is seen, and so is nearly every swap of neighbours."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.luhn import check_digit, luhn

digits = st.text("0123456789", min_size=1, max_size=18)


def test_known_numbers() -> None:
    assert all(map(luhn, ["4242424242424242", "4000000000000002", "79927398713", "0"]))
    assert not any(map(luhn, ["4242424242424241", "79927398710", "1"]))


@given(digits)
def test_a_check_digit_makes_a_number_pass(body: str) -> None:
    assert luhn(body + check_digit(body))


@given(digits, st.data())
def test_every_single_wrong_digit_is_seen(body: str, data: st.DataObject) -> None:
    number = body + check_digit(body)
    place = data.draw(st.integers(0, len(number) - 1))
    other = data.draw(st.sampled_from([d for d in "0123456789" if d != number[place]]))
    assert not luhn(number[:place] + other + number[place + 1 :])
