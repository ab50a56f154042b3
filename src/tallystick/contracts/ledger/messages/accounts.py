"""Accounts: opened, changed, read."""

from __future__ import annotations

import msgspec

from tallystick.contracts.ledger.messages.words import (
    MAIN,
    AccountKind,
    AccountPath,
    BookName,
    Ceiling,
    Floor,
    Message,
    Metadata,
    Name,
    Side,
    SignedMoney,
    Text64,
)
from tallystick.kernel.clock import InstantWire
from tallystick.kernel.ids import AccountIdWire, TransactionIdWire, TransferIdWire
from tallystick.kernel.money import CurrencyCode, MoneyWire


class OpenAccount(Message, frozen=True):
    """`normal_side` is the side that makes the balance grow. `floor` is the lowest allowed available balance, `ceiling` the highest that
    the balance may reach, what open holds may still bring in included; null for none. What is left out, the book's chart may fill in.
    """

    name: Name
    currency: CurrencyCode
    normal_side: Side
    floor: Floor | None = None
    code: Text64 | None = None
    metadata: Metadata | None = None
    book: BookName = MAIN
    path: AccountPath | None = None
    kind: AccountKind | None = None
    ceiling: Ceiling | None = None


class ChangeAccount(Message, frozen=True):
    """What is named is set, null included; what is left out stays. A limit that the account does not keep at the moment is refused."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    metadata: Metadata | msgspec.UnsetType = msgspec.UNSET
    floor: Floor | msgspec.UnsetType | None = msgspec.UNSET
    ceiling: Ceiling | msgspec.UnsetType | None = msgspec.UNSET


class Balance(Message, frozen=True):
    """In the account's normal direction. `pending` is what open holds take; `available` is posted less pending takings.

    Holds that would bring money in are not available before they are captured.
    """

    posted: SignedMoney
    pending: SignedMoney
    available: SignedMoney


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """`as_of` is the book's sequence at which `balance` is true; `version` counts the account's entries up to it."""

    id: AccountIdWire
    book: str
    name: str
    path: str | None
    kind: AccountKind
    currency: str
    normal_side: Side
    floor: str | None
    ceiling: str | None
    code: str | None
    metadata: dict[str, str]
    closed: bool
    frozen: bool
    created_at: InstantWire
    version: int
    as_of: int
    balance: Balance


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One side of one transfer, as the account saw it. `balance` is the one after it.

    `pending` is by how much the entry changed what is held: positive for a hold, negative when one is captured or released.
    """

    transfer: TransferIdWire
    kind: str
    side: Side
    other_account: AccountIdWire
    amount: MoneyWire
    pending: SignedMoney
    balance: Balance
    version: int
    sequence: int
    recorded_at: InstantWire
    effective_at: InstantWire
    code: str | None = None
    transaction: TransactionIdWire | None = None
