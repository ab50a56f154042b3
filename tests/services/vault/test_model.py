"""The vault's rules."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.chassis.settings import SettingsError
from tallystick.contracts.vault.messages import Outgoing
from tallystick.contracts.vault.problems import (
    AnswerRefused,
    CardExpired,
    DestinationNotAllowed,
    InvalidCardNumber,
    InvalidForward,
    InvalidIban,
)
from tallystick.kernel.luhn import luhn
from tallystick.kernel.numbers import IBAN_LENGTHS
from tallystick.services.vault.model import (
    Destination,
    Template,
    allow,
    brand_of,
    check_card,
    check_expiry,
    check_iban,
    conceal,
    iban_ok,
    masked_card,
    wipe,
)
from tallystick.services.vault.settings import destinations

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NUMBER = "4556737586899855"

#: Of each reason one.
UNCARDS = {"": "12 to 19 digits", "4242424242424241": "the check digit is wrong", "0" * 16: "zeros alone"}

digits = st.text("0123456789", min_size=11, max_size=18)


def with_check_digit(head: str) -> str:
    return next(head + str(digit) for digit in range(10) if luhn(head + str(digit)))


@given(digits)
def test_exactly_one_check_digit_fits(head: str) -> None:
    assert sum(luhn(head + str(digit)) for digit in range(10)) == 1


@given(digits, st.integers(0), st.integers(1, 9))
def test_one_wrong_digit_is_noticed(head: str, at: int, by: int) -> None:
    number = with_check_digit(head)
    at %= len(number)
    assert not luhn(number[:at] + str((int(number[at]) + by) % 10) + number[at + 1 :])


@given(digits, st.integers(0))
def test_swapped_neighbours_are_noticed(head: str, at: int) -> None:
    number = with_check_digit(head)
    at %= len(number) - 1
    pair = number[at : at + 2]
    if pair[0] != pair[1] and set(pair) != {"0", "9"}:  # Luhn's one known blind spot
        assert not luhn(number[:at] + pair[::-1] + number[at + 2 :])


@given(digits)
def test_what_may_be_seen_never_holds_the_number(head: str) -> None:
    number = with_check_digit(head)
    if not number.strip("0"):
        return
    masked = masked_card(check_card(number, 12, 2030))
    assert masked.bin is not None
    assert len(masked.bin) + len(masked.last4) <= 10
    assert (masked.bin, masked.last4) == (number[:6], number[-4:])


@given(st.text(max_size=25))
def test_any_text_is_a_card_or_a_problem_that_does_not_repeat_it(text: str) -> None:
    """What is said of it is said of any other, too."""
    said = []
    for refused in (text, *UNCARDS):
        try:
            check_card(refused, 12, 2030)
        except InvalidCardNumber as problem:
            said.append(problem.document())
    assert said[0] in said[-len(UNCARDS) :]


@pytest.mark.parametrize(("number", "why"), UNCARDS.items(), ids=["short", "check", "zeros"])
def test_why_a_card_number_is_none(number: str, why: str) -> None:
    """Zeros have the right check digit, and were told that it is wrong."""
    with pytest.raises(InvalidCardNumber) as refused:
        check_card(number, 12, 2030)
    assert refused.value.extensions["errors"] == [{"pointer": "/card/number", "detail": why}]


@pytest.mark.parametrize(
    ("number", "brand"),
    [
        ("4242424242424242", "visa"),
        ("4222222222222", "visa"),
        ("5555555555554444", "mastercard"),
        ("2223003122003222", "mastercard"),
        ("2720990000000007", "mastercard"),
        ("2721000000000004", "unknown"),
        ("378282246310005", "amex"),
        ("6011111111111117", "discover"),
        ("6445644564456445", "discover"),
        ("30569309025904", "diners"),
        ("3566002020360505", "jcb"),
        ("6200000000000005", "unionpay"),
        ("6759649826438453", "maestro"),
        ("9999999999999995", "unknown"),
    ],
)
def test_brands(number: str, brand: str) -> None:
    assert brand_of(number) == brand


@pytest.mark.parametrize(
    ("month", "year", "now", "good"),
    [
        (11, 2026, NOW, True),
        (10, 2026, NOW, False),
        (12, 2026, NOW, True),
        (11, 2026, datetime(2026, 12, 1, 11, 59, tzinfo=UTC), True),
        (11, 2026, datetime(2026, 12, 1, 12, 0, tzinfo=UTC), False),
        (12, 2026, datetime(2027, 1, 1, 11, 59, tzinfo=UTC), True),
        (12, 2026, datetime(2027, 1, 1, 12, 0, tzinfo=UTC), False),
        (1, 2046, NOW, True),
        (1, 2047, NOW, False),
    ],
)
def test_expiry(month: int, year: int, now: datetime, good: bool) -> None:
    card = check_card(NUMBER, month, year)
    if good:
        check_expiry(card, now)
    else:
        with pytest.raises(CardExpired):
            check_expiry(card, now)


@pytest.mark.parametrize(
    "iban",
    [
        "GB29NWBK60161331926819",
        "DE89370400440532013000",
        "FR1420041010050500013M02606",
        "NO9386011117947",
        "MT84MALT011000012345MTLCAST001S",
        "SC18SSCB11010000000000001497USD",
        "LC55HEMM000100010012001200023015",
        "gb29 nwbk 6016 1331 9268 19",
    ],
)
def test_ibans_of_the_registry(iban: str) -> None:
    assert check_iban(iban).iban == iban.replace(" ", "").upper()


@given(st.sampled_from(sorted(IBAN_LENGTHS)), st.text("0123456789ABCXYZ", min_size=30, max_size=30))
def test_one_pair_of_check_digits_fits_and_one_wrong_character_is_noticed(country: str, text: str) -> None:
    account = text[: IBAN_LENGTHS[country] - 4]
    fitting = [f"{country}{check:02}{account}" for check in range(100) if iban_ok(f"{country}{check:02}{account}")]
    assert len(fitting) == 1
    iban = check_iban(fitting[0]).iban
    for at in range(4, len(iban)):
        others = "12" if iban[at].isdigit() else "AB"
        wrong = iban[:at] + others[iban[at] == others[0]] + iban[at + 1 :]
        with pytest.raises(InvalidIban) as caught:
            check_iban(wrong)
        assert wrong not in str(caught.value.document())


# ---- forwarding

HERE = Destination(methods=("POST",), paths=("/v1/pay", "/status"), host="acquirer.example", headers=("X-Key",))


@pytest.mark.parametrize("path", ["/v1/pay", "/v1/pay/1", "/v1/pay?x=1", "/status", "/status/a.b~c"])
def test_paths_that_are_allowed(path: str) -> None:
    assert allow(HERE, Outgoing("POST", path)) is HERE


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/payments", "/v1/pay/../x", "/v1/pay/./x", "/v1/pay//x", "/x?/v1/pay", "/v1/pay/.."]
)
def test_paths_that_are_not(path: str) -> None:
    with pytest.raises(DestinationNotAllowed):
        allow(HERE, Outgoing("POST", path))


@pytest.mark.parametrize(
    "headers",
    [{"Host": "x"}, {"X-Other": "x"}, {"X-Key": "a\r\nHost: x"}, {"X-Key": "é"}, {"Authorization": "x"}, {"": "x"}],
)
def test_headers_that_are_not(headers: dict[str, str]) -> None:
    with pytest.raises(DestinationNotAllowed):
        allow(HERE, Outgoing("POST", "/status", None, headers))
    assert allow(HERE, Outgoing("POST", "/status", None, {"x-key": "abc"})) is HERE


def test_templates() -> None:
    template = Template('{"n":"{{card.number}}","m":{{ card.exp_month }}}')
    assert template.fields == {"card.number", "card.exp_month"}
    assert template.fill({"card.number": b"42", "card.exp_month": b"7"}) == b'{"n":"42","m":7}'
    with pytest.raises(InvalidForward, match=r"card\.exp_month"):
        template.fill({"card.number": b"42"})


@pytest.mark.parametrize(
    "body",
    ["{{card.cvc}}", "{{}}", "{{ }}", "{{card.number}", "{{card.number }", "{{Card.Number}}", "{{{{a}}}}", "{{a"],
)
def test_templates_that_mean_nothing(body: str) -> None:
    with pytest.raises(InvalidForward):
        Template(body)


def test_a_value_is_not_a_template() -> None:
    assert Template("{{card.number}}").fill({"card.number": b"{{card.exp_year}}"}) == b"{{card.exp_year}}"


PRINTED = "4556 7375 8689 9855"
LOWER_IBAN = "gb29nwbk60161331926819"


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _each(form: str, text: str = NUMBER) -> str:
    return "".join(form.format(ord(c)) for c in text)


@pytest.mark.parametrize(
    "answer",
    [
        _b64(PRINTED),
        PRINTED.encode().hex(),
        _b64(f"card {PRINTED} of the payment"),
        ":".join(f"{ord(c):02x}" for c in NUMBER),
        ", ".join(f"0x{ord(c):02X}" for c in NUMBER),
        _each("\\x{:02x}"),
        _each("%25{:02x}"),
        _each("&amp;#{};"),
        _each("\\u0025{:02x}"),
        _each("\\u0026#{};"),
        _each("\\\\u{:04x}"),
        NUMBER.translate({ord("0") + i: chr(0xFF10 + i) for i in range(10)}),
        "\n".join(_b64(f"the card is {NUMBER}, thanks")[i : i + 16] for i in range(0, 48, 16)),
        "\\r\\n".join(_b64(f"the card is {NUMBER}, thanks")[i : i + 16] for i in range(0, 48, 16)),
        _b64(_b64(NUMBER)),
        _b64(f'{{"inner":"{_b64(PRINTED)}"}}'),
        _b64(NUMBER.encode().hex()),
        "key." + _b64("x" + NUMBER),
    ],
)
def test_coats_that_are_seen_through(answer: str) -> None:
    for text in (answer, f'{{"echo":"{answer}","status":"approved"}}'):
        with pytest.raises(AnswerRefused):
            conceal(text.encode(), NUMBER.encode())


@pytest.mark.parametrize("answer", [LOWER_IBAN.encode().hex(), _b64(LOWER_IBAN), _b64("gb29 nwbk 6016 1331 9268 19")])
def test_an_iban_in_small_letters_in_a_coat(answer: str) -> None:
    with pytest.raises(AnswerRefused):
        conceal(answer.encode(), LOWER_IBAN.upper().encode())


@pytest.mark.parametrize(
    "answer",
    [
        '{"pan":"424242******4242","masked_pan":"424242******4242"}',
        '{"pan":"424242XXXXXX4242","last4":"4242"}',
        '{"a":"4242 42** **** 4242","b":"4242-42xx-xxxx-4242"}',
        '{"id":"4242424242424241","rrn":"000042424242"}',
        '{"token":"QWxhZGRpbjpvcGVuIHNlc2FtZQ==","trace":"0af7651916cd43dd8448eb211c80319c"}',
    ],
)
def test_what_was_masked_by_others_is_passed_on(answer: str) -> None:
    assert conceal(answer.encode(), b"4242424242424242") == (answer, False)


def test_a_number_twice_is_masked_twice() -> None:
    answer = b'{"sent":"4242424242424242","got":"4242 4242 4242 4242"}'
    assert conceal(answer, b"4242424242424242") == ('{"sent":"424242******4242","got":"424242******4242"}', True)


@pytest.mark.parametrize("unit", ["QUJD", "4a", "4a:", "%25", "&amp;", "\\u0025", "0x", "--", "A" * 15 + "."])
def test_looking_through_coats_has_an_end(unit: str) -> None:
    text = unit * (16 * 1024 // len(unit))
    for _ in range(3):
        began = time.process_time()
        conceal(text.encode(), NUMBER.encode())
        assert time.process_time() - began < 2
        text = _b64(text)[: 16 * 1024]


def test_half_a_character_is_no_accident() -> None:
    assert conceal(b'{"a":"\\ud800 \\u0041"}', NUMBER.encode()) == ('{"a":"\\ud800 \\u0041"}', False)


def test_wiping() -> None:
    buffer = bytearray(b"4556737586899855")
    wipe(buffer)
    assert buffer == bytes(16)


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(["", " ", "-", "."]))
def test_a_number_never_comes_back(before: str, after: str, between: str) -> None:
    try:
        text, masked = conceal((before + between.join(NUMBER) + after).encode(), NUMBER.encode())
    except AnswerRefused:
        return
    assert masked
    assert NUMBER not in "".join(c for c in text if c.isdigit())


@given(st.binary(max_size=200))
def test_other_answers_are_passed_on_as_they_are(body: bytes) -> None:
    try:
        text, masked = conceal(body, NUMBER.encode())
    except AnswerRefused:
        return
    if not masked:
        assert text.encode() == body


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a]\nmethods=['POST']\npaths=['/x']", "either a host or a socket"),
        ("[a]\nmethods=['POST']\npaths=['/x']\nhost='h'\nsocket='/s'", "either a host or a socket"),
        ("[a]\nmethods=['POST']\npaths=['/x']\nhost='h'\nscheme='http'", "https only"),
        ("[a]\nmethods=['POST']\npaths=['/x']\nhost='127.0.0.1'", "private = true"),
        ("[a]\nmethods=['POST']\npaths=['/x']\nhost='127.1'", "private = true"),
        ("[a]\nmethods=['POST']\npaths=['/x']\nhost='v1.fe80::1'", "private = true"),
        ("[a]\nmethods=['POST']\npaths=['/x']\nhost='h'\nheaders=['Host']", "can't be allowed"),
        ("[a]\nmethods=['TRACE']\npaths=['/x']\nhost='h'", "methods"),
        ("[a]\nmethods=[]\npaths=['/x']\nhost='h'", "methods"),
        ("[a]\nmethods=['POST']\npaths=[]\nhost='h'", "paths"),
        ("[a]\nmethods=['POST']\npaths=['/x']\nsocket='rail.sock'", "absolute path"),
        ("[a]\nmethods=['POST']\npaths=['/x']\nhost='h'\nfollow=true", "follow"),
        ("[a", "destinations.toml"),
    ],
)
def test_an_allow_list_that_can_not_be_meant(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "destinations.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=fault):
        destinations(path)


def test_no_allow_list_is_nowhere(tmp_path: Path) -> None:
    assert destinations(None) == {}
    with pytest.raises(SettingsError, match="No such file"):
        destinations(tmp_path / "missing.toml")
    with pytest.raises(DestinationNotAllowed):
        allow(None, Outgoing("POST", "/x"))


@given(st.binary(max_size=40), st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=12, max_size=34))
def test_base64_at_any_offset_is_seen_and_its_alphabets_agree(before: bytes, number: str) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        with pytest.raises(AnswerRefused):
            conceal(encode(before + number.encode() + b"!"), number.encode())
