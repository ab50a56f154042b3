"""Validates card numbers and IBANs. Errors name the broken rule, never the number."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

from tallystick.contracts.vault.problems import CardExpired, InvalidCardNumber, InvalidIban
from tallystick.kernel.luhn import luhn
from tallystick.kernel.numbers import IBAN_LENGTHS, brand_of, iban_ok

#: A card is valid until the end of its month everywhere on earth (the month ends last at UTC-12).
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


def check_card(number: str, exp_month: int, exp_year: int) -> CheckedCard:
    """Raises InvalidCardNumber. The expiry is checked by `check_expiry`."""
    if not (12 <= len(number) <= 19 and number.isascii() and number.isdigit()):
        raise InvalidCardNumber("a card number has 12 to 19 digits", errors=_at("card/number", "12 to 19 digits"))
    if not number.strip("0"):
        raise InvalidCardNumber("zeros alone are no card number", errors=_at("card/number", "zeros alone"))
    if not luhn(number):
        raise InvalidCardNumber("the check digit is wrong", errors=_at("card/number", "the check digit is wrong"))
    return CheckedCard(number, exp_month, exp_year, brand_of(number))


def check_expiry(card: CheckedCard, now: datetime) -> None:
    """Raises CardExpired."""
    year, month = card.exp_year, card.exp_month
    ended = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=now.tzinfo) + _LAST_PLACE
    if now >= ended:
        raise CardExpired("the card has expired")
    if year > now.year + _MAX_YEARS:
        raise CardExpired(f"no card is valid for more than {_MAX_YEARS} years")


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


def _at(pointer: str, detail: str) -> list[dict[str, str]]:
    return [{"pointer": f"/{pointer}", "detail": detail}]
