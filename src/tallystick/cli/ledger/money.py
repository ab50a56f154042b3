"""Decimal amounts, as people write and read them, converted exactly."""

from __future__ import annotations

import re
from typing import Any, Final

from tallystick.cli.failure import USAGE, Failed
from tallystick.kernel.money import MAX_MINOR, UnknownCurrency, currency, in_units

_DECIMAL: Final = re.compile(r"(-?)([0-9]{1,20})(?:\.([0-9]{1,20}))?")


def minor(text: str, code: str) -> int:
    """`12.50` EUR -> 1250, exactly. No plus sign, exponent or thousands separators, and no more decimals than the currency has: ValueError."""
    exponent = currency(code).exponent
    found = _DECIMAL.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r:.40} is not an amount such as 12.50")
    sign, whole, fraction = found[1], found[2], found[3] or ""
    if fraction[exponent:].strip("0"):
        raise ValueError(f"{text} has too many decimals: {code} has {exponent}")
    value = int(whole + fraction[:exponent].ljust(exponent, "0"))
    if value > MAX_MINOR:
        raise ValueError(f"{text} is larger than an amount can be")
    return -value if sign else value


def wire(text: str, code: str) -> dict[str, str]:
    """A positive amount for a request. Raises Failed."""
    try:
        value = minor(text, code)
    except (ValueError, UnknownCurrency) as error:
        raise Failed(getattr(error, "detail", None) or str(error), USAGE) from None
    if value < 1:
        raise Failed(f"--amount must be more than zero, not {text}", USAGE)
    return {"amount": str(value), "currency": code}


def shown(money: Any) -> str:
    """Wire money for people: `12.50 EUR`."""
    return f"{plain(money)} {money['currency']}"


def plain(money: Any) -> str:
    """The same without the currency."""
    return in_units(int(money["amount"]), money["currency"])
