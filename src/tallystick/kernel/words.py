"""Numbers as people say them."""

from __future__ import annotations


def counted(count: int, one: str, more: str = "") -> str:
    """`1 book`, `1,200 books`."""
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"
