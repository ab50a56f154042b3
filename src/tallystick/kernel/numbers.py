"""Card numbers and IBANs: whose they are, and whether there is one in a text that people write.

What counts in a text (`found_in`): 13 to 19 digits together, or in the groups that cards are printed in (4-4-4-4, with up to three
more, 4-6-5, 4-6-4) with one kind of separator, a space, a dot or a dash; in a range of a card scheme, with the right check digit. The
digits, spaces and dashes are those of any script, and what can't be seen counts for nothing. Digits that belong to a longer word are an
id's: what a letter from A to F, an underscore, a dash, an x or a digit and a dot precedes, or such a letter, an underscore or a digit
follows; but not what a card's stripe or chip has beside its number, `%B` before it or `D` and a date behind it (ISO/IEC 7813). An IBAN counts
with its country's length and its check digits, written together or in groups of four. A URL is read as its server reads it, without
escapes, and a word before a number, as in `card-4242...`, does not make it an id's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final, Literal
from urllib.parse import unquote_plus

from tallystick.kernel.luhn import luhn

#: First digits (from, to, of the same length), lengths, brand. The first row that fits is the brand; where ranges of
#: two schemes overlap (UnionPay's within Discover's), the narrower one stands first.
_BRANDS: Final[tuple[tuple[str, str, range, str], ...]] = (
    ("34", "34", range(15, 16), "amex"),
    ("37", "37", range(15, 16), "amex"),
    ("51", "55", range(16, 17), "mastercard"),
    ("2221", "2720", range(16, 17), "mastercard"),
    ("622126", "622925", range(16, 20), "unionpay"),
    ("62", "62", range(16, 20), "unionpay"),
    ("81", "81", range(16, 20), "unionpay"),
    ("6011", "6011", range(16, 20), "discover"),
    ("644", "649", range(16, 20), "discover"),
    ("65", "65", range(16, 20), "discover"),
    ("3528", "3589", range(16, 20), "jcb"),
    ("300", "305", range(14, 20), "diners"),
    ("3095", "3095", range(14, 20), "diners"),
    ("36", "36", range(14, 20), "diners"),
    ("38", "39", range(14, 20), "diners"),
    ("4", "4", range(13, 20, 3), "visa"),
    ("50", "50", range(12, 20), "maestro"),
    ("56", "58", range(12, 20), "maestro"),
    ("60", "69", range(12, 20), "maestro"),
)

#: Lengths of the whole IBAN by country, from the IBAN registry (ISO 13616-2).
IBAN_LENGTHS: Final[dict[str, int]] = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
    "YE": 30,
}  # fmt: skip


#: Letters as numbers, from A = 10 to Z = 35 (ISO 13616).
_LETTERS: Final = str.maketrans(
    {chr(code): str(int(chr(code), 36)) for code in (*range(0x41, 0x5B), *range(0x61, 0x7B))}
)


def brand_of(number: str) -> str:
    """The brand by the number's first digits and length; `unknown` when it is none of the large ones'."""
    for low, high, lengths, brand in _BRANDS:
        if len(number) in lengths and low <= number[: len(low)] <= high:
            return brand
    return "unknown"


def iban_ok(iban: str) -> bool:
    """The check of ISO 13616: the rest of division by 97 is 1 (ISO/IEC 7064, MOD 97-10)."""
    if not (iban.isascii() and iban.isalnum() and iban[2:4].isdigit()) or iban[2:4] in ("00", "01", "99"):
        return False
    return int((iban[4:] + iban[:4]).translate(_LETTERS)) % 97 == 1


#: For the `extra` of a type's `Meta`: a long number is what belongs there, such as an amount, or the number that a token is made of.
NUMBER_BELONGS: Final = {"number": "belongs"}

_DIGITS: Final = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x2E for byte in range(256))
#: Spaces, dashes and what can't be seen, by their kind (Unicode's general category).
_KINDS: Final = {"Zs": " ", "Pd": "-", "Cf": ""}
_OTHERS: Final = re.compile(r"[^\x00-\x7f]")
_SHAPES: Final = bytes(
    0x30
    if 0x30 <= byte <= 0x39
    else 0x61
    if chr(byte).isascii() and (chr(byte).isalpha() or chr(byte) in "_-")
    else 0x2E
    for byte in range(256)
)
_CARD: Final = re.compile(
    r"(?:(?<![0-9A-Fa-f_x-])(?<![0-9][.])|(?<=%B))"
    r"(?:[0-9]{13,19}|[0-9]{4}([ .-])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{1,3})?|[0-9]{4}([ .-])[0-9]{6}\2[0-9]{4,5})"
    r"(?:(?![0-9A-Fa-f_]|[.][0-9])|(?=D[0-9]{7}))"
)
_TOGETHER: Final = str.maketrans("", "", " .-")
#: Looks ahead only: a word that begins as an IBAN does may stand right before one.
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])(?=([A-Za-z]{2}[0-9]{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,4})?))")
#: What makes of the characters beside it one word with them, an id's: a dash and an underscore.
_WORD: Final = ("-", "_")
_WORD_BEFORE: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]+[._-]")


def suspect(raw: bytes) -> bool:
    """Whether encoded text is worth a search: 13 digits with nothing but spaces, dots and dashes between, a word that begins as an IBAN, or
    anything that is not ASCII, which has digits and spaces of its own.

    False for nearly everything, at half a microsecond for a body of 300 bytes. An escape of a URL may hide a digit.
    """
    return (
        not raw.isascii()
        or b"%" in raw
        or b"://" in raw
        or b"0" * 13 in raw.translate(_DIGITS, b" .-")
        or b".aa00" in b"." + raw.translate(_SHAPES)
    )


def found_in(text: str) -> Literal["a card number", "an IBAN"] | None:
    """What of the two is in the text, if anything. Pure; it never says which number."""
    if len(text) < 13:
        return None
    if not text.isascii():
        text = _in_ascii(text)
    if "%" in text or "://" in text:
        return _found_in(text) or _found_in(_read(text))
    return _found_in(text)


def _in_ascii(text: str) -> str:
    """The same text with the digits, spaces and dashes of ASCII in the place of all others: a reader sees a card number in them."""
    return _OTHERS.sub(lambda found: _as_ascii(found[0]), text)


def _as_ascii(char: str) -> str:
    digit = unicodedata.decimal(char, None)
    return _KINDS.get(unicodedata.category(char), char) if digit is None else str(digit)


def _read(url: str) -> str:
    """A URL's text without escapes, also those of an escape, and without the words that stand before a dash, a dot or an underscore."""
    for _ in range(3):
        url = unquote_plus(url)
    return _WORD_BEFORE.sub(" ", url)


def _found_in(text: str) -> Literal["a card number", "an IBAN"] | None:
    for match in _CARD.finditer(text):
        digits = match[0].translate(_TOGETHER)
        # Groups may be followed by something else: "4242 4242 4242 4242 12" is a card and a month.
        for number in dict.fromkeys((digits, digits[:16])) if match[1] else (digits,):
            if brand_of(number) != "unknown" and luhn(number):
                return "a card number"
    if any(text[begin - 1 : begin] not in _WORD and text[end : end + 1] not in _WORD for begin, end in ibans(text)):
        return "an IBAN"
    return None


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """Where IBANs begin and end in a text, capitals or not, together or in groups of four."""
    for match in _IBAN.finditer(text):
        # What follows may be the next word: the country says how long it is.
        length = IBAN_LENGTHS.get(match[1][:2].upper(), 0)
        iban = match[1].replace(" ", "")[:length]
        if length and len(iban) == length and iban_ok(iban.upper()):
            begin = match.start()
            end = begin + [place for place, char in enumerate(match[1], 1) if char != " "][length - 1]
            if not (text[end : end + 1].isascii() and text[end : end + 1].isalnum()):
                yield begin, end


def card_in(groups: Sequence[str]) -> bool:
    """Whether some groups of ASCII digits, one after the other, are a card number of a known scheme: 12 to 19 digits, with the right check
    digit, whatever groups stand before and behind.
    """
    for first in range(len(groups)):
        digits = ""
        for group in groups[first:]:
            digits += group
            if len(digits) > 19:
                break
            if len(digits) >= 12 and brand_of(digits) != "unknown" and luhn(digits):
                return True
    return False
