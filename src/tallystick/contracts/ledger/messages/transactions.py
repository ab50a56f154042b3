"""Transactions: transfers that are one thing, with exchanges of currencies among them."""

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
    """Minor units bought for minor units sold: `numerator` for each `denominator`."""

    numerator: _Whole
    denominator: _Whole


class Spread(Message, frozen=True):
    """The share of what is bought, below one, that is kept back on `account`, rounded down."""

    numerator: _Whole
    denominator: _Whole
    account: AccountRef


class Liquidity(Message, frozen=True):
    """Where what is sold goes, and where what is bought comes from."""

    sell: AccountRef
    buy: AccountRef


class NewExchange(Message, frozen=True):
    """`sell` goes from the account `from` to `liquidity.sell`; what it buys goes from `liquidity.buy` to the account `to`."""

    sell: AmountWire
    from_: AccountRef = msgspec.field(name="from")
    to: AccountRef
    buy_currency: CurrencyCode
    rate: Rate
    rounding: Rounding
    liquidity: Liquidity
    spread: Spread | None = None


class TransactionItem(Message, frozen=True):
    """A post or a hold, with both accounts and an amount; or an exchange, with nothing else. `balancing`: up to the amount, what there is."""

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
    """All of its transfers or none. `id` (`txn_...`) is made by the client, or by the ledger if left out. `effective_at`: since when it
    counts, if that is before now; then it has no holds.
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
    """What an exchange became: `sold` for `bought`, of which `spread` was kept back. `transfers` are its legs."""

    sold: MoneyWire
    bought: MoneyWire
    rate: Rate
    rounding: Rounding
    transfers: list[TransferIdWire]
    spread: MoneyWire | None = None


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """`first` and `last` are the sequences of its transfers. `breached_on` are past days (UTC) at whose end it broke a limit, told when it is
    posted to a book that reports such.
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
