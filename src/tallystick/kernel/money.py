"""Money: whole minor units of one currency. No float, no division, no implicit zero.

On the wire an amount is a string of digits, `{"amount": "1250", "currency": "EUR"}`, so that no JSON reader rounds it.
In a database it is a `bigint`, which bounds it: 0 to 2**63 - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from tallystick.kernel.currencies import EXPONENTS, MINOR_PER_EURO
from tallystick.kernel.numbers import NUMBER_BELONGS
from tallystick.kernel.problem import InvalidRequest

MAX_MINOR: Final = 2**63 - 1


class UnknownCurrency(InvalidRequest):
    """The currency is not one that the platform knows. Send a code of ISO 4217 in capital letters, such as EUR."""

    slug, title = "unknown-currency", "Unknown currency"


class InvalidAmount(InvalidRequest):
    """An amount is a JSON string of digits in minor units: "4990" is 49.90 EUR. It has no sign, decimal point or exponent, is at most
    2^63 - 1, and must be greater than zero where money is to move.
    """

    slug, title = "invalid-amount", "Invalid amount"


class CurrencyMismatch(InvalidRequest):
    """The currency of the amount differs from that of the accounts, or from that of the transfer that it refers to. To exchange
    currencies, use `exchange` in a transaction.
    """

    slug, title, status = "currency-mismatch", "Currency mismatch", 422


class Currency(msgspec.Struct, frozen=True):
    """`exponent` is the number of decimal places of the minor unit (ISO 4217: EUR 2, JPY 0, BHD 3)."""

    code: str
    exponent: int


_CURRENCIES: Final = {code: Currency(code, exponent) for code, exponent in EXPONENTS.items()}


def currency(code: str) -> Currency:
    """The currency of that alphabetic code. Raises UnknownCurrency."""
    found = _CURRENCIES.get(code)
    if found is None:
        raise UnknownCurrency(f"{code!r:.20} is not a currency code of ISO 4217", currency=code[:20])
    return found


def minor_per_euro(code: str) -> int:
    """How many minor units are worth about one euro: an order of magnitude, for limits only. Raises UnknownCurrency."""
    return MINOR_PER_EURO[currency(code).code]


class Money(msgspec.Struct, frozen=True, order=False):
    """`minor` units of `currency`, never negative: debit and credit express the direction, not a sign."""

    minor: int
    currency: str

    def __post_init__(self) -> None:
        if not 0 <= self.minor <= MAX_MINOR:
            raise InvalidAmount("an amount is between 0 and 2^63 - 1 minor units")

    def _same(self, other: Money) -> None:
        if self.currency != other.currency:
            raise CurrencyMismatch(f"{self.currency} and {other.currency} can't be reckoned with each other")

    def __add__(self, other: Money) -> Money:
        self._same(other)
        return Money(self.minor + other.minor, self.currency)

    def __sub__(self, other: Money) -> Money:
        self._same(other)
        return Money(self.minor - other.minor, self.currency)

    def __lt__(self, other: Money) -> bool:
        self._same(other)
        return self.minor < other.minor

    def __le__(self, other: Money) -> bool:
        self._same(other)
        return self.minor <= other.minor

    def __gt__(self, other: Money) -> bool:
        self._same(other)
        return self.minor > other.minor

    def __ge__(self, other: Money) -> bool:
        self._same(other)
        return self.minor >= other.minor

    def allocate(self, weights: Sequence[int]) -> list[Money]:
        """Divide into parts in proportion to `weights` that add up exactly (largest remainder method; of equal remainders the first).

        Raises ValueError unless the weights are whole numbers, none negative and at least one positive.
        """
        total = sum(weights)
        if total <= 0 or min(weights) < 0:
            msg = "weights are whole numbers, none negative, at least one positive"
            raise ValueError(msg)
        shares = [divmod(self.minor * weight, total) for weight in weights]
        missing = self.minor - sum(whole for whole, _ in shares)
        by_remainder = sorted(range(len(shares)), key=lambda i: (-shares[i][1], i))
        extra = set(by_remainder[:missing])
        return [Money(whole + (i in extra), self.currency) for i, (whole, _) in enumerate(shares)]

    def __str__(self) -> str:
        """For display: `12.50 EUR`."""
        return f"{in_units(self.minor, self.currency)} {self.currency}"


def in_units(minor: int, code: str) -> str:
    """Minor units as a decimal number of the currency's units: -1250 EUR is `-12.50`, 7 JPY is `7`. Raises UnknownCurrency."""
    exponent = currency(code).exponent
    sign, digits = "-" if minor < 0 else "", str(abs(minor)).rjust(exponent + 1, "0")
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}" if exponent else f"{sign}{digits}"


#: Python lets `$` match before a final newline, hence the look-ahead, which JSON Schema's dialect knows too.
Digits = Annotated[
    str,
    Meta(
        pattern=r"^(0|[1-9][0-9]{0,18})$(?!\n)",
        max_length=19,
        description='minor units as digits, such as "4990" for 49.90 EUR',
        extra=NUMBER_BELONGS,
    ),
]
CurrencyCode = Annotated[
    str,
    Meta(pattern=r"^[A-Z]{3}$(?!\n)", min_length=3, max_length=3, description="a code of ISO 4217 in capital letters"),
]


class MoneyWire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Money as JSON: `{"amount": "1250", "currency": "EUR"}`."""

    amount: Digits
    currency: CurrencyCode


class AmountWire(MoneyWire, frozen=True, forbid_unknown_fields=True):
    """An amount of money to move, which is more than zero."""

    # For the schema alone: `to_money` checks it, with an error of its own.
    amount: Annotated[Digits, Meta(extra_json_schema={"not": {"const": "0"}})]


def to_money(wire: MoneyWire, *, positive: bool = True) -> Money:
    """Check what the schema can't: the currency exists, the amount fits a bigint and, if `positive`, is not zero. Raises
    UnknownCurrency, InvalidAmount.
    """
    minor = int(wire.amount)
    if minor > MAX_MINOR:
        raise InvalidAmount("an amount is at most 2^63 - 1 minor units")
    if positive and minor == 0:
        raise InvalidAmount("an amount must be more than zero")
    currency(wire.currency)
    return Money(minor, wire.currency)


def from_money(money: Money) -> MoneyWire:
    return MoneyWire(str(money.minor), money.currency)
