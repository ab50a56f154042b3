"""Lists of a book's entries and transfers."""

from __future__ import annotations

import msgspec

from tallystick.contracts.ledger.messages.accounts import Entry
from tallystick.contracts.ledger.messages.transactions import Transaction
from tallystick.contracts.ledger.messages.transfers import Transfer
from tallystick.kernel.ids import AccountIdWire


class FoundEntry(Entry, frozen=True, kw_only=True):
    """An entry of any account of the book."""

    account: AccountIdWire
    path: str | None
    metadata: dict[str, str]


class Entries(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first. The list is as of the sequence `as_of`, on every page of it. Everything after the sequence `down_to` was looked at: a page
    may be short, or empty, and yet have more after it, when what is asked for is rare.
    """

    book: str
    as_of: int
    down_to: int
    data: list[FoundEntry]
    has_more: bool
    next: str | None = None


class TransferList(msgspec.Struct, frozen=True, kw_only=True):
    """As `Entries`."""

    book: str
    as_of: int
    down_to: int
    data: list[Transfer]
    has_more: bool
    next: str | None = None


class TransactionList(msgspec.Struct, frozen=True, kw_only=True):
    """As `Entries`."""

    book: str
    as_of: int
    down_to: int
    data: list[Transaction]
    has_more: bool
    next: str | None = None
