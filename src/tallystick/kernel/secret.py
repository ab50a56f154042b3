"""A value that must not be printed by accident."""

from __future__ import annotations

import hmac
from typing import Generic, TypeVar

T = TypeVar("T")


class Secret(Generic[T]):
    """Holds a value that neither `repr` nor `str` shows, and that can't be pickled. `reveal()` gives it, and is easy to search for."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        return self._value

    def __repr__(self) -> str:
        return "Secret(****)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "Secret(****)"

    def __reduce__(self) -> str:
        msg = "a secret is not to be pickled"
        raise TypeError(msg)

    def __eq__(self, other: object) -> bool:
        """Compares in constant time, so that timing does not reveal a secret byte by byte. For text and bytes only."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_as_bytes(self._value), _as_bytes(other._value))

    __hash__ = None  # type: ignore[assignment]  # a secret must not be a key or in a set


def _as_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    msg = f"secrets of type {type(value).__name__} can't be compared"
    raise TypeError(msg)
