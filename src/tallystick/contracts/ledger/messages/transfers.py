"""Transfers at the edge."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tallystick.contracts.ledger.messages.words import (
    MAIN,
    MAX_EXPIRES_IN,
    MAX_TRANSFERS,
    AccountRef,
    BookName,
    Message,
    Metadata,
    Reason,
    SignedMoney,
    Text64,
)
from tallystick.kernel.clock import DayWire, InstantWire
from tallystick.kernel.ids import FactIdWire, TransactionIdWire, TransferIdWire
from tallystick.kernel.money import AmountWire, MoneyWire


class NewTransfer(Message, frozen=True):
    """`id` (`trf_...`) is chosen by the client, but not of UUID version 8, which is for the platform's own; if left out, the ledger makes it. A
    `code` must not begin with `tallystick:`. `expires_in`: seconds, for a hold. `balancing`: move as much as possible, up to the
    amount. `linked`: this transfer and the next one are posted both or not at all; the last one of a request can't be linked.
    """

    kind: Literal["post", "hold"]
    debit_account: AccountRef
    credit_account: AccountRef
    amount: AmountWire
    id: TransferIdWire | None = None
    expires_in: Annotated[int, Meta(ge=1, le=MAX_EXPIRES_IN)] | None = None
    code: Text64 | None = None
    metadata: Metadata | None = None
    balancing: bool = False
    linked: bool = False


class NewTransfers(Message, frozen=True):
    """`atomic`: either all of them are posted or none."""

    transfers: Annotated[list[NewTransfer], Meta(min_length=1, max_length=MAX_TRANSFERS)]
    atomic: bool = False
    book: BookName = MAIN


class CaptureHold(Message, frozen=True):
    """Without an amount, all that remains is captured. `final` releases what is left after this capture."""

    amount: AmountWire | None = None
    final: bool = False
    id: TransferIdWire | None = None
    book: BookName = MAIN


class IncreaseHold(Message, frozen=True):
    """Increases the hold by the amount. `expires_in` replaces its expiry: seconds from now on."""

    amount: AmountWire
    expires_in: Annotated[int, Meta(ge=1, le=MAX_EXPIRES_IN)] | None = None
    id: TransferIdWire | None = None
    book: BookName = MAIN


class VoidHold(Message, frozen=True):
    id: TransferIdWire | None = None
    book: BookName = MAIN


class ReverseTransfer(Message, frozen=True):
    """Without an amount, all that was not reversed yet is reversed."""

    amount: AmountWire | None = None
    id: TransferIdWire | None = None
    book: BookName = MAIN


class HoldState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a hold now. From `expires_at` on it holds nothing."""

    state: Literal["held", "captured", "voided", "expired"]
    captured: MoneyWire
    remaining: MoneyWire
    expires_at: InstantWire | None = None


class Transfer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A transfer, or the refusal of one.

    `status` is what the transfer did when it was recorded, and never changes. A rejected one has a `reason`; `available` and `required`
    where that is about amounts; `account` where an account is at fault (its id, or what the request called an account that does not
    exist); and `breached_on` where limits were broken on past days (single reads only). `target` is the hold that was captured, voided
    or expired, or the transfer that was reversed; `released` is by how much that reduced the hold. `asked` is the amount of a balancing
    transfer's request. `effective_at` is given where it differs from `recorded_at`. `hold` and `reversed` (single reads only) tell
    what happened later.
    """

    id: TransferIdWire
    status: Literal["posted", "held", "rejected"]
    kind: str | None = None
    reason: Reason | None = None
    debit_account: AccountRef | None = None
    credit_account: AccountRef | None = None
    amount: MoneyWire | None = None
    available: SignedMoney | None = None
    required: MoneyWire | None = None
    account: AccountRef | None = None
    breached_on: list[DayWire] = []
    target: TransferIdWire | None = None
    released: MoneyWire | None = None
    expires_at: InstantWire | None = None
    code: str | None = None
    metadata: dict[str, str] | None = None
    sequence: int | None = None
    recorded_at: InstantWire | None = None
    book: str | None = None
    transaction: TransactionIdWire | None = None
    effective_at: InstantWire | None = None
    asked: MoneyWire | None = None
    hold: HoldState | None = None
    reversed: MoneyWire | None = None


class Transfers(msgspec.Struct, frozen=True, kw_only=True):
    """Results in the order of the request. `receipt` is the id of the fact about the transfers that this request posted, if any."""

    data: list[Transfer]
    receipt: FactIdWire | None = None
