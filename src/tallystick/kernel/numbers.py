"""Card numbers and IBANs: recognising them in texts that people write (`found_in`) and in stored bytes (`cards`), and telling brands.

A *card number* is 13 to 19 digits in a range of a card scheme, with a valid check digit. The digits stand together, or in the groups
in which cards are printed (4-4-4-4, with up to three more, 4-6-5, 4-6-4) with one kind of separator: a space, a dot or a dash. Spaces and
dashes may be of any script. In texts that people write, so may the digits, and invisible characters are ignored.

Digits don't count if they belong to a longer number, stand beside a decimal point, or are part of a UUID, of one of the platform's ids
or of a hexadecimal word. They do count beside what a card's stripe or chip has there: `%B` before the number; `D`, a date and a code
after it (ISO/IEC 7813).

Digits that a dash or an underscore joins to a word before them (`order-4242...`) may be an id's or a card's. Clients may write them, and
`verify` reports them.

An *IBAN* has its country's length and valid check digits, and is written together or in groups of four.

A URL is read as its server would read it, with escapes decoded; in a URL a word joined before the digits makes no difference.
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

#: First digits (from, to, of equal length), lengths, brand. The first row that matches gives the brand; where ranges of
#: two schemes overlap (UnionPay's within Discover's), the narrower one comes first.
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
    """The brand, by the number's first digits and length; `unknown` when it is none of those listed here."""
    for low, high, lengths, brand in _BRANDS:
        if len(number) in lengths and low <= number[: len(low)] <= high:
            return brand
    return "unknown"


def iban_ok(iban: str) -> bool:
    """Whether the check digits of ISO 13616 are valid: the remainder of division by 97 is 1 (ISO/IEC 7064, MOD 97-10)."""
    if not (iban.isascii() and iban.isalnum() and iban[2:4].isdigit()) or iban[2:4] in ("00", "01", "99"):
        return False
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


#: For the `extra` of a type's `Meta`: its values may be long numbers, such as an amount, or the card number that a token is made from.
NUMBER_BELONGS: Final = {"number": "belongs"}

_DIGITS: Final = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x2E for byte in range(256))
#: What spaces, dashes and invisible characters count as, by Unicode's general category.
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
#: Separators between the groups of a number, as ranges (first, last): a dot, and Unicode's spaces, dashes and invisible characters.
BETWEEN: Final = (
    "  ", "-.", "\xa0\xa0", "\xad\xad", "\u058a\u058a", "\u05be\u05be", "\u1400\u1400", "\u1680\u1680", "\u1806\u1806", "\u2000\u2015", "\u202f\u202f",
    "\u205f\u2060", "\u2e17\u2e17", "\u2e1a\u2e1a", "\u2e3a\u2e3b", "\u2e40\u2e40", "\u2e5d\u2e5d", "\u3000\u3000", "\u301c\u301c", "\u3030\u3030",
    "\u30a0\u30a0", "\ufe31\ufe32", "\ufe58\ufe58", "\ufe63\ufe63", "\ufeff\ufeff", "\uff0d\uff0d",
)  # fmt: skip


def _utf8() -> bytes:
    """BETWEEN as a pattern over UTF-8 bytes."""
    last: dict[bytes, bytes] = {}
    for low, high in BETWEEN:
        for point in range(ord(low), ord(high) + 1):
            raw = chr(point).encode()
            last[raw[:-1]] = last.get(raw[:-1], b"") + raw[-1:]
    return b"|".join(re.escape(head) + b"[" + re.escape(tails) + b"]" for head, tails in last.items())


_SEPARATOR: Final = rb"(?=[ .\x80-\xff-])(" + _utf8() + rb")"
#: The pattern begins with a character class, by which `re` quickly skips what can't begin a match. What must not precede the number is
#: therefore checked after its first digit.
_CARD: Final = re.compile(
    rb"[2-68](?<![0-9].)(?<![0-9][.].)(?<![0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-.)"
    rb"[0-9]{3}(?:[0-9]{9,15}"
    rb"|" + _SEPARATOR + rb"[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{1,3})?"
    rb"|" + _SEPARATOR + rb"[0-9]{6}\2[0-9]{4,5})"
    rb"(?![0-9]|[.][0-9]|-[0-9A-Fa-f]{12}\b)",
    re.DOTALL,
)
_NOT_DIGITS: Final = re.compile(rb"[^0-9]")
#: What comes before the number on a stripe's first track, and after it on the second track and in a chip.
_TRACK_1, _TRACK_2 = b"%B", re.compile(rb"D[0-9]{7}")
_JOINED: Final = re.compile(rb"[A-Za-z0-9][_-]\Z")
_HEXADECIMAL: Final = b"0123456789abcdefABCDEF"
#: Ids are written in lower case. In PostgreSQL's files a capital letter is more likely the length byte of the next column's text.
_LOWER: Final = b"0123456789abcdef"
#: Hexadecimal ids and hashes have at least so many digits, and at most so many are looked at.
_SHORTEST: Final = 16
_LONGEST: Final = 256
#: A word of so many hexadecimal digits (128 bits) is an id, whatever stands beside it.
_CERTAIN: Final = 32
#: An id as `kernel/ids.py` writes it, or a fingerprint of the vault: 26 characters of base 32. Thirteen digits in a row occur in one of
#: some ten million.
_ID: Final = re.compile(rb"[a-z]{2,3}_[0-7][0-9a-hjkmnp-tv-z]{25}")
_ID_LENGTH: Final = 30
#: A look-ahead, so that matches may overlap: a word that begins like an IBAN may stand right before a real one.
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])(?=([A-Za-z]{2}[0-9]{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,4})?))")
#: Characters that join what stands beside them to one word, such as an id.
_WORD: Final = ("-", "_")
_WORD_BEFORE: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]+[._-]")


def suspect(raw: bytes) -> bool:
    """Whether encoded text has to be searched by `found_in`: it has 13 digits with nothing but spaces, dots and dashes between them, a
    word that begins like an IBAN, a URL or an escape of one, which may hide a digit, or anything that is not ASCII, where there are
    other digits and spaces.

    False for nearly every text, in half a microsecond for a body of 300 bytes.
    """
    return (
        not raw.isascii()
        or b"%" in raw
        or b"://" in raw
        or b"0" * 13 in raw.translate(_DIGITS, b" .-")
        or b".aa00" in b"." + raw.translate(_SHAPES)
    )


def found_in(text: str) -> Literal["a card number", "an IBAN"] | None:
    """Which of the two the text contains, if any. Pure; it does not return the number."""
    if len(text) < 13:
        return None
    if not text.isascii():
        text = _in_ascii(text)
    if "%" in text or "://" in text:
        return _found_in(text) or _found_in(_read(text))
    return _found_in(text)


def _in_ascii(text: str) -> str:
    """The text with all digits, spaces and dashes replaced by those of ASCII, because a reader recognises a card number in any of them."""
    return _OTHERS.sub(lambda found: _as_ascii(found[0]), text)


def _as_ascii(char: str) -> str:
    digit = unicodedata.decimal(char, None)
    return _KINDS.get(unicodedata.category(char), char) if digit is None else str(digit)


def _read(url: str) -> str:
    """A URL's text with its escapes decoded, nested ones too, and without the words before a dash, a dot or an underscore."""
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
    """Where a card number begins, its digits, and whether a dash or an underscore joins it to a word before it, as in an id."""

    begin: int
    number: str
    joined: bool

    def __repr__(self) -> str:
        return "Card(****)"


def cards(content: bytes | mmap, *, columns: bool = False) -> Iterator[Card]:
    """The card numbers in encoded text, or in any bytes. `columns`: the bytes are from a file of PostgreSQL, where columns follow each
    other directly, so that the neighbours of a word tell nothing about it.
    """
    at = 0
    while match := _CARD.search(content, at):
        at = match.start() + 1  # the first group may have been something else, such as a year before the number
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
    """Whether the digits are part of one of the platform's ids, whatever stands beside the id."""
    first = max(0, start - _ID_LENGTH)
    around = content[first : end + _ID_LENGTH]
    return any(
        word.start() <= start - first and end - first <= word.end()
        for place in range(len(around))
        if (word := _ID.match(around, place))
    )


def _in_hexadecimal(content: bytes | mmap, start: int, end: int, *, columns: bool) -> bool:
    """Whether the digits are part of a longer hexadecimal word, an id or a hash. A short word that also has other letters is none."""
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
    """With how many of these bytes the text begins."""
    return len(text) - len(text.lstrip(of))


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """Beginning and end of each IBAN in a text, in upper or lower case, together or in groups of four."""
    for match in _IBAN.finditer(text):
        if length := iban_length(match[1].upper()):
            end = match.start() + length
            if not (text[end : end + 1].isascii() and text[end : end + 1].isalnum()):
                yield match.start(), end


def iban_length(words: str) -> int:
    """The length of the IBAN with which this text (in capitals) begins, including the spaces between its groups; 0 if there is none. The
    country says how long the IBAN is; what follows may be the next word.
    """
    length = IBAN_LENGTHS.get(words[:2], 0)
    ends = [index for index, char in enumerate(words, 1) if char != " "][length - 1 : length]
    return ends[0] if length and ends and iban_ok(words[: ends[0]].replace(" ", "")) else 0


def card_in(groups: Sequence[str]) -> bool:
    """Whether some consecutive groups of ASCII digits form a card number of a known scheme: 12 to 19 digits with a valid check digit,
    whatever groups stand before and after them.
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
