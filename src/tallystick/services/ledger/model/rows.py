"""What is read of the books."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import msgspec

from tallystick.kernel.ids import AccountId, TransactionId, TransferId


class AccountRow(msgspec.Struct, frozen=True, kw_only=True):
    """An account as it is read: what it is, and its totals as of the book's sequence `as_of`."""

    id: AccountId
    tenant: str
    book: int
    book_name: str
    name: str
    path: str | None
    kind: str
    currency: str
    normal_side: str
    floor: int | None
    ceiling: int | None
    code: str | None
    metadata: str | None
    closed: bool
    frozen: bool
    created_at: datetime
    created_sequence: int
    version: int
    as_of: int
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int


class NewAccount(msgspec.Struct, frozen=True, kw_only=True):
    """`metadata` is JSON with sorted keys. Without a `kind` it is of the usual one of its side."""

    id: AccountId
    name: str
    currency: str
    normal_side: str
    floor: int | None
    code: str | None
    metadata: str | None
    path: str | None = None
    kind: str | None = None
    ceiling: int | None = None


class EntryRow(NamedTuple):
    sequence: int
    transfer: TransferId
    side: str
    other: AccountId
    kind: str
    amount: int
    released: int
    currency: str
    recorded_at: datetime
    code: str | None
    version: int
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    transaction: TransactionId | None
    effective_at: datetime


class Due(NamedTuple):
    """A hold that has expired and was not swept yet."""

    tenant: str
    book: int
    hold: TransferId


class Found(NamedTuple):
    tenant: str
    id: AccountId
    currency: str
    normal_side: str
    closed: bool
    book: str


class CheckedBook(NamedTuple):
    """A book as the continuous check begins with it: its sequence, and how many accounts and holds it has."""

    id: int
    tenant: str
    name: str
    sequence: int
    quarantined: bool
    accounts: int
    holds: int
