"""What makes a card number or an IBAN a valid one. Errors name the rule that was broken and never the number."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

from tallystick.contracts.vault.problems import CardExpired, InvalidCardNumber, InvalidIban
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

#: A card is good until the end of its month, everywhere on earth (UTC-12 is the last place where the month ends).
_LAST_PLACE: Final = timedelta(hours=12)
_MAX_YEARS: Final = 20


class CheckedCard(msgspec.Struct, frozen=True):
    """A card that passed the checks. `number` is digits only."""

    number: str
    exp_month: int
    exp_year: int
    brand: str

    def __repr__(self) -> str:
        return "CheckedCard(****)"


class CheckedIban(msgspec.Struct, frozen=True):
    """An IBAN that passed the checks, in its electronic form: capitals, no spaces."""

    iban: str

    def __repr__(self) -> str:
        return "CheckedIban(****)"


def brand_of(number: str) -> str:
    """The brand by the number's first digits and length; `unknown` when it is none of the large ones'."""
    for low, high, lengths, brand in _BRANDS:
        if len(number) in lengths and low <= number[: len(low)] <= high:
            return brand
    return "unknown"


def check_card(number: str, exp_month: int, exp_year: int, now: datetime) -> CheckedCard:
    """Raises InvalidCardNumber, CardExpired."""
    if not (12 <= len(number) <= 19 and number.isascii() and number.isdigit()):
        raise InvalidCardNumber("a card number has 12 to 19 digits", errors=_at("card/number", "12 to 19 digits"))
    if not luhn(number) or not number.strip("0"):
        raise InvalidCardNumber("the check digit is wrong", errors=_at("card/number", "the check digit is wrong"))
    ended = datetime(exp_year + exp_month // 12, exp_month % 12 + 1, 1, tzinfo=now.tzinfo) + _LAST_PLACE
    if now >= ended:
        raise CardExpired("the card has expired")
    if exp_year > now.year + _MAX_YEARS:
        raise CardExpired(f"no card is valid for more than {_MAX_YEARS} years")
    return CheckedCard(number, exp_month, exp_year, brand_of(number))


def check_iban(text: str) -> CheckedIban:
    """Raises InvalidIban."""
    iban = text.replace(" ", "").upper()
    country = iban[:2]
    length = IBAN_LENGTHS.get(country)
    if length is None:
        raise InvalidIban("no country with IBANs has this code", errors=_at("bank_account/iban", "unknown country"))
    if len(iban) != length:
        detail = f"an IBAN of {country} has {length} characters"
        raise InvalidIban(detail, errors=_at("bank_account/iban", detail))
    if not iban_ok(iban):
        raise InvalidIban("the check digits are wrong", errors=_at("bank_account/iban", "the check digits are wrong"))
    return CheckedIban(iban)


def iban_ok(iban: str) -> bool:
    """The check of ISO 13616: the rest of division by 97 is 1 (ISO/IEC 7064, MOD 97-10)."""
    if not (iban.isascii() and iban.isalnum() and iban[2:4].isdigit()) or iban[2:4] in ("00", "01", "99"):
        return False
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def _at(pointer: str, detail: str) -> list[dict[str, str]]:
    return [{"pointer": f"/{pointer}", "detail": detail}]
