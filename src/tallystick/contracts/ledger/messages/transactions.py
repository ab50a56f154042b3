"""Transactions: transfers that are posted as one unit, which may include currency exchanges."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tallystick.contracts.ledger.messages.transfers import Transfer
from tallystick.contracts.ledger.messages.words import (
    MAIN,
    MAX_EXPIRES_IN,
    MAX_TRANSFERS,
    AccountRef,
    BookName,
    Message,
    Metadata,
    Text64,
)
from tallystick.kernel.clock import DayWire, InstantWire
from tallystick.kernel.ids import TransactionIdWire, TransferIdWire
from tallystick.kernel.money import AmountWire, CurrencyCode, MoneyWire

#: What the client calls it.
Reference = Annotated[str, Meta(min_length=1, max_length=200)]
Description = Annotated[str, Meta(min_length=1, max_length=500)]
Rounding = Literal["down", "up", "half_even", "half_up"]
_Whole = Annotated[int, Meta(ge=1, le=10**15)]


class Rate(Message, frozen=True):
    """The exchange rate in minor units: `numerator` are bought for each `denominator` sold."""

    numerator: _Whole
    denominator: _Whole


class Spread(Message, frozen=True):
    """The share of what is bought, less than one, that is kept back on `account`, rounded down."""

    numerator: _Whole
    denominator: _Whole
    account: AccountRef


class Liquidity(Message, frozen=True):
    """The accounts to which the sold money goes and from which the bought money comes."""

    sell: AccountRef
    buy: AccountRef


class NewExchange(Message, frozen=True):
    """`sell` moves from the account `from` to `liquidity.sell`; what it buys moves from `liquidity.buy` to the account `to`."""

    sell: AmountWire
    from_: AccountRef = msgspec.field(name="from")
    to: AccountRef
    buy_currency: CurrencyCode
    rate: Rate
    rounding: Rounding
    liquidity: Liquidity
    spread: Spread | None = None


class TransactionItem(Message, frozen=True):
    """A post or a hold, with both accounts and an amount; or an exchange, with nothing else. `balancing`: move as much as possible, up to
    the amount.
    """

    kind: Literal["post", "hold", "exchange"]
    debit_account: AccountRef | None = None
    credit_account: AccountRef | None = None
    amount: AmountWire | None = None
    id: TransferIdWire | None = None
    expires_in: Annotated[int, Meta(ge=1, le=MAX_EXPIRES_IN)] | None = None
    code: Text64 | None = None
    metadata: Metadata | None = None
    balancing: bool = False
    exchange: NewExchange | None = None


class NewTransaction(Message, frozen=True):
    """A unit of transfers, of which all are posted or none. `id` (`txn_...`) is chosen by the client, or made by the ledger if left out.
    `effective_at` backdates it; a backdated transaction can't have holds.
    """

    transfers: Annotated[list[TransactionItem], Meta(min_length=1, max_length=MAX_TRANSFERS)]
    id: TransactionIdWire | None = None
    book: BookName = MAIN
    effective_at: InstantWire | None = None
    reference: Reference | None = None
    description: Description | None = None
    metadata: Metadata | None = None


class ReverseTransaction(Message, frozen=True):
    id: TransactionIdWire | None = None
    book: BookName = MAIN
    effective_at: InstantWire | None = None
    reference: Reference | None = None
    description: Description | None = None
    metadata: Metadata | None = None


class Exchanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of an exchange: `sold` for `bought`, of which `spread` was kept back. `transfers` are its legs."""

    sold: MoneyWire
    bought: MoneyWire
    rate: Rate
    rounding: Rounding
    transfers: list[TransferIdWire]
    spread: MoneyWire | None = None


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """`first` and `last` are the sequences of its transfers. `breached_on` are past days (UTC) at whose end it broke a limit; they are told
    when it is posted to a book that reports such days.
    """

    id: TransactionIdWire
    book: str
    transfers: list[Transfer]
    first: int
    last: int
    recorded_at: InstantWire
    effective_at: InstantWire
    reference: str | None
    description: str | None
    metadata: dict[str, str]
    reverses: TransactionIdWire | None
    exchanges: list[Exchanged]
    breached_on: list[DayWire] = []
