"""Transfers between books, which may be on different shards."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tallystick.contracts.ledger.messages.words import MAIN, AccountRef, BookName, Message, Metadata, Reason
from tallystick.kernel.clock import InstantWire
from tallystick.kernel.ids import TransferIdWire
from tallystick.kernel.money import AmountWire, MoneyWire


class BookAccount(Message, frozen=True):
    """An account of a book, by its id or its path."""

    account: AccountRef
    book: BookName = MAIN


Reference = Annotated[str, Meta(min_length=1, max_length=140)]


class NewInterbookTransfer(Message, frozen=True):
    """Debits the account `from`, credits the account `to`. `id` is made by the client, or by the ledger if left out."""

    source: BookAccount = msgspec.field(name="from")
    destination: BookAccount = msgspec.field(name="to")
    amount: AmountWire
    id: TransferIdWire | None = None
    reference: Reference | None = None
    metadata: Metadata | None = None


class InterbookTransfer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a transfer between books. `in_flight`: the amount is held in the first book, which does not know yet what the other book
    decided. Then the transfer becomes `posted` or `rejected`, which is final.

    `account` is the account that a refusal is about, if any: its id, or what the request called an account that does not exist. A
    transfer that the first book refused has only its id, the reason, and an account of that book; otherwise the account is in
    the book that the money goes to.
    """

    id: TransferIdWire
    status: Literal["in_flight", "posted", "rejected"]
    reason: str | None = None
    account: AccountRef | None = None
    source: BookAccount | None = msgspec.field(name="from", default=None)
    destination: BookAccount | None = msgspec.field(name="to", default=None)
    amount: MoneyWire | None = None
    reference: str | None = None
    metadata: dict[str, str] | None = None
    recorded_at: InstantWire | None = None


# ---- between shards -------------------------------------------------------------------------------------------------


class LookForBook(Message, frozen=True):
    token: Annotated[str, Meta(max_length=8192)]
    book: BookName


class FoundBook(msgspec.Struct, frozen=True):
    book: str
    shard: str


class Arrive(Message, frozen=True):
    """The second step: money from an account of another shard's book, under the id that it has there."""

    token: Annotated[str, Meta(max_length=8192)]
    id: TransferIdWire
    source: BookAccount
    destination: BookAccount
    amount: MoneyWire
    reference: Reference | None = None


class Arrived(msgspec.Struct, frozen=True, omit_defaults=True):
    """Posted if there is no reason, otherwise refused; both are final. `account` is as in an `InterbookTransfer`."""

    reason: Reason | None = None
    account: AccountRef | None = None
