"""The check digit of card numbers (ISO/IEC 7812-1, annex B)."""

from __future__ import annotations

from typing import Final

_DOUBLED: Final = str.maketrans("0123456789", "0246813579")


def luhn(digits: str) -> bool:
    """Whether the last of these ASCII digits is the right check digit for the others."""
    return _sum(digits) % 10 == 0


def check_digit(digits: str) -> str:
    """The check digit to append to these ASCII digits."""
    return str(-_sum(digits + "0") % 10)


def _sum(digits: str) -> int:
    backwards = digits[::-1]
    return sum(map(int, backwards[::2])) + sum(map(int, backwards[1::2].translate(_DOUBLED)))
