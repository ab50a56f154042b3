"""Rows that are read from the books, and new accounts."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import msgspec

from tallystick.kernel.ids import AccountId, TransactionId, TransferId


class AccountRow(msgspec.Struct, frozen=True, kw_only=True):
    """An account with its totals as of the book's sequence `as_of`."""

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
    """An account to open. `metadata` is JSON with sorted keys. `kind` None: the usual one of its normal side."""

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
    """A hold that has expired but is not swept yet."""

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
    """A book at the start of a check: its sequence, and how many accounts and holds it has."""

    id: int
    tenant: str
    name: str
    sequence: int
    quarantined: bool
    accounts: int
    holds: int
