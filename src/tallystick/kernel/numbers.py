"""Card numbers and IBANs: whose they are, and whether there is one in a text that people write or in what was written down.

What counts (`cards`, `found_in`): 13 to 19 digits together, or in the groups that cards are printed in (4-4-4-4, with up to three more, 4-6-5,
4-6-4) with one kind of separator, a space, a dot or a dash; in a range of a card scheme, with the right check digit. The spaces and dashes are
those of any script, in a text that people write so are the digits, and what can't be seen counts for nothing there. Not digits of a longer number,
beside a decimal point, of a UUID, of one of the platform's ids or of a hexadecimal word, but for what a card's stripe or chip has beside its
number: `%B` before it or `D`, a date and a code behind it (ISO/IEC 7813). Digits that a dash or an underscore joins to a word before them
(`order-4242...`) are an id's or a card's, nobody can tell: a client may write them, and `verify` says that they are there. An IBAN counts with its
country's length and its check digits, written together or in groups of four. A URL is read as its server reads it, without escapes, and there such
a word is no reason to pass.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple
from urllib.parse import unquote_plus

from tallystick.kernel.luhn import luhn

if TYPE_CHECKING:
    from mmap import mmap

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
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


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
#: What may stand between the groups of a number, as first and last of a range: a dot, and what Unicode calls a space or a dash, or can't be seen.
BETWEEN: Final = (
    "  ", "-.", "\xa0\xa0", "\xad\xad", "\u058a\u058a", "\u05be\u05be", "\u1400\u1400", "\u1680\u1680", "\u1806\u1806", "\u2000\u2015", "\u202f\u202f",
    "\u205f\u2060", "\u2e17\u2e17", "\u2e1a\u2e1a", "\u2e3a\u2e3b", "\u2e40\u2e40", "\u2e5d\u2e5d", "\u3000\u3000", "\u301c\u301c", "\u3030\u3030",
    "\u30a0\u30a0", "\ufe31\ufe32", "\ufe58\ufe58", "\ufe63\ufe63", "\ufeff\ufeff", "\uff0d\uff0d",
)  # fmt: skip


def _utf8() -> bytes:
    """BETWEEN in a pattern over bytes."""
    last: dict[bytes, bytes] = {}
    for low, high in BETWEEN:
        for point in range(ord(low), ord(high) + 1):
            raw = chr(point).encode()
            last[raw[:-1]] = last.get(raw[:-1], b"") + raw[-1:]
    return b"|".join(re.escape(head) + b"[" + re.escape(tails) + b"]" for head, tails in last.items())


_SEPARATOR: Final = rb"(?=[ .\x80-\xff-])(" + _utf8() + rb")"
#: The first character is a class of its own, by which `re` skips what can't begin a match; what precedes it is looked at after it.
_CARD: Final = re.compile(
    rb"[2-68](?<![0-9].)(?<![0-9][.].)(?<![0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-.)"
    rb"[0-9]{3}(?:[0-9]{9,15}"
    rb"|" + _SEPARATOR + rb"[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{1,3})?"
    rb"|" + _SEPARATOR + rb"[0-9]{6}\2[0-9]{4,5})"
    rb"(?![0-9]|[.][0-9]|-[0-9A-Fa-f]{12}\b)",
    re.DOTALL,
)
_NOT_DIGITS: Final = re.compile(rb"[^0-9]")
#: What stands on a stripe's first track before the number, and on its second and in a chip behind it.
_TRACK_1, _TRACK_2 = b"%B", re.compile(rb"D[0-9]{7}")
_JOINED: Final = re.compile(rb"[A-Za-z0-9][_-]\Z")
_HEXADECIMAL: Final = b"0123456789abcdefABCDEF"
#: As ids are written. In PostgreSQL's files a capital is more likely the length of the next column's text.
_LOWER: Final = b"0123456789abcdef"
#: Ids and hashes in hexadecimal are not shorter; what is longer is looked at so far.
_SHORTEST: Final = 16
_LONGEST: Final = 256
#: From here on (128 bits) it is an id whatever stands beside it.
_CERTAIN: Final = 32
#: An id as `kernel/ids.py` writes it, and a fingerprint of the vault: 26 characters of base 32, 13 of which are digits one time in some ten million.
_ID: Final = re.compile(rb"[a-z]{2,3}_[0-7][0-9a-hjkmnp-tv-z]{25}")
_ID_LENGTH: Final = 30
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
    if not all(card.joined for card in cards(text.encode("utf-8", "replace"))):
        return "a card number"
    if any(text[begin - 1 : begin] not in _WORD and text[end : end + 1] not in _WORD for begin, end in ibans(text)):
        return "an IBAN"
    return None


class Card(NamedTuple):
    """Where a number begins, its digits, and whether a word is joined to it by a dash or an underscore before it, as to an id's digits."""

    begin: int
    number: str
    joined: bool

    def __repr__(self) -> str:
        return "Card(****)"


def cards(content: bytes | mmap, *, columns: bool = False) -> Iterator[Card]:
    """The card numbers in encoded text, or in any bytes. `columns`: they are of a file of PostgreSQL's, one column's bytes right behind the other's,
    so that what stands beside a word says nothing of it.
    """
    at = 0
    while match := _CARD.search(content, at):
        at = match.start() + 1  # what looked like a group before it may have been a year
        digits = _NOT_DIGITS.sub(b"", match[0]).decode()
        # Groups may be followed by something else: "4242 4242 4242 4242 12" is a card and a month.
        for number in dict.fromkeys((digits, digits[:16])) if match[1] else (digits,):
            if (
                brand_of(number) != "unknown"
                and luhn(number)
                and not _in_a_word(content, *match.span(), columns=columns)
            ):
                begin, at = match.span()
                yield Card(begin, number, _JOINED.search(content[max(0, begin - 2) : begin]) is not None)
                break


def _in_a_word(content: bytes | mmap, start: int, end: int, *, columns: bool) -> bool:
    if content[max(0, start - 2) : start] == _TRACK_1 or _TRACK_2.match(content[end : end + 8]):
        return False
    return _in_an_id(content, start, end) or _in_hexadecimal(content, start, end, columns=columns)


def _in_an_id(content: bytes | mmap, start: int, end: int) -> bool:
    """Whether the digits belong to one of the platform's ids, whatever stands beside that."""
    first = max(0, start - _ID_LENGTH)
    around = content[first : end + _ID_LENGTH]
    return any(
        word.start() <= start - first and end - first <= word.end()
        for place in range(len(around))
        if (word := _ID.match(around, place))
    )


def _in_hexadecimal(content: bytes | mmap, start: int, end: int, *, columns: bool) -> bool:
    """Whether the digits belong to a longer word of hexadecimal digits: an id's or a hash's. A short word with other letters in it is none."""
    before, after = content[max(0, start - _LONGEST) : start][::-1], content[end : end + _LONGEST]
    left, right = _run(before, _HEXADECIMAL), _run(after, _HEXADECIMAL)
    if end - start + left + right >= _CERTAIN:
        return True
    if columns:
        left, right = _run(before, _LOWER), _run(after, _LOWER)
    elif re.search(rb"[0-9A-Za-z]", before[left : left + 1] + after[right : right + 1]):
        return False
    return left + right > 0 and end - start + left + right >= _SHORTEST


def _run(text: bytes, of: bytes) -> int:
    """How many bytes of these the text begins with."""
    return len(text) - len(text.lstrip(of))


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """Where IBANs begin and end in a text, capitals or not, together or in groups of four."""
    for match in _IBAN.finditer(text):
        if length := iban_length(match[1].upper()):
            end = match.start() + length
            if not (text[end : end + 1].isascii() and text[end : end + 1].isalnum()):
                yield match.start(), end


def iban_length(words: str) -> int:
    """How many characters of these words, in capitals, are the IBAN that they begin with, spaces between its groups included; 0 if it is none.
    What follows may be the next word: the country says how long it is.
    """
    length = IBAN_LENGTHS.get(words[:2], 0)
    ends = [index for index, char in enumerate(words, 1) if char != " "][length - 1 : length]
    return ends[0] if length and ends and iban_ok(words[: ends[0]].replace(" ", "")) else 0


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
