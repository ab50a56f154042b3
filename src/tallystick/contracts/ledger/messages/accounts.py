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
    """`normal_side` is the side that increases the balance. `floor` is the lowest available balance that is allowed, `ceiling` the highest
    balance, including what open holds may still bring in; null for none. The book's chart may supply what is left out.
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
    """Balances in the account's normal direction. `pending` is what open holds take; `available` is `posted` minus that.

    Money that a hold would bring in is not available until it is captured.
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
    """One side of a transfer, from the account's point of view. `balance` is the balance after it.

    `pending` is by how much the entry changed what is held: positive for a hold, negative when a hold is captured or released.
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
