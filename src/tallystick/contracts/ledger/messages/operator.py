"""What the operator asks of the ledger: to look at books, and to release one from quarantine."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from tallystick.contracts.ledger.messages.words import Message

BookNumber = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class WatchedBook(msgspec.Struct, frozen=True):
    """A book of anybody's, by its number."""

    number: int
    tenant: str
    name: str
    sequence: int
    quarantined: bool
    accounts: int
    holds: int


class WatchedBooks(msgspec.Struct, frozen=True):
    """By number. `next` is where to go on; null: these are all."""

    data: list[WatchedBook]
    next: int | None


class CheckBook(Message, frozen=True):
    """One step of the check of a book. `cursor` is that of the step before; without one it begins."""

    number: BookNumber
    cursor: Annotated[str, Meta(max_length=200)] | None = None


class Checked(msgspec.Struct, frozen=True):
    """What the step looked at, what is wrong with it, and where to go on; null: all of the book was looked at."""

    rows: int
    faults: list[str]
    cursor: str | None


class ReleaseBook(Message, frozen=True):
    """`checked`: the operator has looked at all of the book just now, so the ledger need not do it again."""

    number: BookNumber
    checked: bool = False
