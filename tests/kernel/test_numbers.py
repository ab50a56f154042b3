"""Card numbers and IBANs in texts: found however they are written, and what only looks like one is let be."""

from __future__ import annotations

import unicodedata
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel import ids
from tallystick.kernel.luhn import check_digit
from tallystick.kernel.numbers import BETWEEN, cards, found_in, suspect


@pytest.mark.parametrize(
    "text",
    [
        "4242424242424242",
        "paid with 4242424242424242, thanks",
        "(4242424242424242)",
        "card:4242424242424242",
        "4242424242424242.",
        "4242-4242-4242-4242",
        "4242 4242 4242 4242",
        "4242.4242.4242.4242",
        "3782.822463.10005",
        "4242\u00a04242\u00a04242\u00a04242",  # as a page or a spreadsheet writes it
        "4242\u202f4242\u202f4242\u202f4242",
        "4242\u20114242\u20114242\u20114242",
        "4242\u20134242\u20134242\u20134242",
        "4242\u200b4242\u200b4242\u200b4242",  # nothing to be seen between
        "42424242\u00ad42424242",
        "\uff14\uff12\uff14\uff12\uff14\uff12\uff14\uff12\uff14\uff12\uff14\uff12\uff14\uff12\uff14\uff12",
        "\u0664\u0662\u0664\u0662\u0664\u0662\u0664\u0662\u0664\u0662\u0664\u0662\u0664\u0662\u0664\u0662",
        "M\u00fcller paid with 4242424242424242",
        "4242 4242 4242 4242 12/27",
        "4242 4242 4242 4242 123",
        "378282246310005",
        "3782 822463 10005",
        "3056 930902 5904",
        "5105105105105100",
        "2223003122003222",
        "6011111111111117",
        "4222222222222",
        "6304000000000000018",
        "4242\u30004242\u30004242\u30004242",
        "2026 4242 4242 4242 4242",  # a year is no group of it
        "value4242424242424242",
        "x4242424242424242",
        "4242424242424242_x",
        "customers:5555555555554444",
        "chargeback.4242424242424242",
        "https://shop.example/?pan=4242%204242%204242%204242",
        "https://shop.example/4242+4242+4242+4242",
        "https://shop.example/%34242424242424242",
        "https://shop.example/%2534242424242424242",
        "https://shop.example/card-4242424242424242?a=b",
        "card%204242424242424242",
        "%B4242424242424242^DOE/JANE^30121010000000000000?",  # as a card's stripe has it, and as its chip does
        ";4242424242424242=30121010000000000000?",
        "4242424242424242D30121010000000000000F",
    ],
)
def test_a_card_number_is_found(text: str) -> None:
    assert found_in(text) == "a card number"
    assert suspect(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "DE89370400440532013000",
        "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000",
        "to DE89 3704 0044 0532 0130 00 please",
        "gb82 west 1234 5698 7654 32",
        "NO9386011117947",
        "AT61 1904 3002 3457 3201 paid in full",
        "https://shop.example/?to=DE89%203704%200044%200532%200130%2000",
        "AB12 DE89 3704 0044 0532 0130 00",
    ],
)
def test_an_iban_is_found(text: str) -> None:
    assert found_in(text) == "an IBAN"
    assert suspect(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4242424242424241",  # the check digit is wrong
        "424242424242",  # too short
        "42424242424242424242",  # too long
        "1234567812345670",  # passes the check, but no scheme has the range
        "1764267890123",  # milliseconds
        "order-4242424242424242",
        "invoice_4242424242424242",
        "pay_01m8nh3522g4222222222222zk",
        "01A24111-1111-1111-1111-3A716F8DAC0E",
        "a4242424242424242",
        "4242424242424242f",
        "x_4242424242424242",
        "0.4242424242424242",
        "4242424242424242.50",
        "DE88370400440532013000",  # the check digits are wrong
        "DE8937040044053201300",  # too short
        "XX89370400440532013000",  # no such country
        "id-DE89370400440532013000",
        "DE89370400440532013000x",
        "https://hooks.example/v1/8d1f4123-1234-4123-8123-123456789012/01jd5w3qkz8e5rv4y7t9a2b3c4?at=1764267890123",
        "50 % of 4242, 100 % of 4242 4242",
        "4242,4242,4242,4242",
        "4242.4242 4242.4242",
        "M\u00fcller's order 4242424242424241",
        "192.168.100.200 to 10.42.42.42",
        "phone +49 170 1234567, invoice 2026-11-27-000123",
    ],
)
def test_what_only_looks_like_one_is_not(text: str) -> None:
    assert found_in(text) is None


def test_what_may_stand_between_is_every_space_and_dash() -> None:
    between = {chr(point) for low, high in BETWEEN for point in range(ord(low), ord(high) + 1)}
    kinds = {char: unicodedata.category(char) for char in map(chr, range(0x10000))}
    assert {char for char, kind in kinds.items() if kind in ("Zs", "Pd")} <= between
    assert {char for char in between if kinds[char] not in ("Zs", "Pd", "Cf")} == {"."}
    assert len(between) == sum(ord(high) - ord(low) + 1 for low, high in BETWEEN), "none of them twice"
    for char in between:
        number = char.join(["4242"] * 4)
        assert found_in(number) == "a card number"
        assert [card.number for card in cards(number.encode())] == ["4242424242424242"]


def test_digits_that_are_joined_to_a_word_are_told_apart() -> None:
    """Nobody can tell an id's from a card's there: a client may write them, and whoever searches says them."""
    for text, joined in (("order-4242424242424242", True), ("n_4242424242424242", True), (" -4242424242424242", False)):
        (card,) = cards(text.encode())
        assert (card.number, card.joined, card.begin) == ("4242424242424242", joined, len(text) - 16)
        assert found_in(text) == (None if joined else "a card number")
        assert "4242" not in repr(card)


@given(st.uuids(), st.integers(0, 2**128 - 1))
def test_ids_are_no_numbers(one: uuid.UUID, other: int) -> None:
    for text in (
        str(one),
        one.hex,
        ids.payments.text(ids.PaymentId(uuid.UUID(int=other))),
        f"00-{one.hex}-{one.hex[:16]}-01",
    ):
        if any(char in "abcdef" for char in text.replace("-", "")[:13]):
            assert found_in(text) is None, text


@given(st.from_regex(r"\A4[0-9]{14}\Z"), st.sampled_from(["", " ", "-", "."]), st.text(max_size=20))
def test_every_card_of_sixteen_digits_is_found_behind_a_space(start: str, separator: str, before: str) -> None:
    number = start + check_digit(start)
    written = separator.join(number[i : i + 4] for i in range(0, 16, 4))
    assert found_in(f"{before} {written}") == "a card number"
