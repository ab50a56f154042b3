"""What the ledger is asked and what it answers, at the edge and over the mesh, and the facts that it tells.

Amounts are wire money (`{"amount": "1250", "currency": "EUR"}`); ids have their prefix (`acc_`, `trf_`); instants are RFC 3339.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tallystick.kernel.money import CurrencyCode, MoneyWire

MAX_TRANSFERS = 1000
#: A hold lives at most this long: a year, in seconds.
MAX_EXPIRES_IN = 366 * 24 * 3600

Text64 = Annotated[str, Meta(min_length=1, max_length=64)]
#: An id on the wire; `kernel.ids` checks the rest.
Id = Annotated[str, Meta(min_length=1, max_length=40)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
#: Up to 32 short texts of the client's own. The ledger keeps them and makes nothing of them.
Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=40)], Annotated[str, Meta(max_length=500)]], Meta(max_length=32)
]
#: Minor units; negative for an overdraft. Python lets `$` match before a final newline, hence the look-ahead.
Floor = Annotated[
    str,
    Meta(pattern=r"^(0|-[1-9][0-9]{0,18})$(?!\n)", max_length=20, description="minor units of the account's currency"),
]
Digits = Annotated[str, Meta(pattern=r"^-?[0-9]{1,20}$(?!\n)", max_length=21)]
Side = Literal["debit", "credit"]
Kind = Literal["post", "hold", "capture", "void", "reverse"]


class Reason(StrEnum):
    """Why a transfer was refused. A refusal is pinned to the transfer's id: asking again can't turn it into a yes."""

    ACCOUNT_NOT_FOUND = "account_not_found"
    ACCOUNT_CLOSED = "account_closed"
    SAME_ACCOUNT = "same_account"
    CURRENCY_MISMATCH = "currency_mismatch"
    AMOUNT_MUST_BE_POSITIVE = "amount_must_be_positive"
    AMOUNT_OVERFLOW = "amount_overflow"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    HOLD_NOT_FOUND = "hold_not_found"
    HOLD_ALREADY_CAPTURED = "hold_already_captured"
    HOLD_ALREADY_VOIDED = "hold_already_voided"
    HOLD_EXPIRED = "hold_expired"
    HOLD_NOT_DUE = "hold_not_due"
    EXCEEDS_HOLD = "exceeds_hold"
    TRANSFER_NOT_FOUND = "transfer_not_found"
    NOT_REVERSIBLE = "not_reversible"
    EXCEEDS_REVERSIBLE = "exceeds_reversible"
    # Not pinned: they say what is wrong with this request, not with the transfer's id.
    LINKED_TRANSFER_FAILED = "linked_transfer_failed"
    ID_ALREADY_FAILED = "id_already_failed"
    EXISTS_WITH_DIFFERENT_KIND = "exists_with_different_kind"
    EXISTS_WITH_DIFFERENT_TARGET = "exists_with_different_target"
    EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT = "exists_with_different_debit_account"
    EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT = "exists_with_different_credit_account"
    EXISTS_WITH_DIFFERENT_AMOUNT = "exists_with_different_amount"
    EXISTS_WITH_DIFFERENT_CURRENCY = "exists_with_different_currency"
    EXISTS_WITH_DIFFERENT_EXPIRY = "exists_with_different_expiry"
    EXISTS_WITH_DIFFERENT_CODE = "exists_with_different_code"
    EXISTS_WITH_DIFFERENT_METADATA = "exists_with_different_metadata"


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class SignedMoney(_Message, frozen=True):
    """A balance, which unlike an amount can be below zero: minor units as a string with a sign if negative."""

    amount: Digits
    currency: CurrencyCode


# ---- accounts -----------------------------------------------------------------------------------------------------


class OpenAccount(_Message, frozen=True):
    """`normal_side` is the side that makes the balance grow. `floor` is the lowest allowed available balance, null for none."""

    name: Name
    currency: CurrencyCode
    normal_side: Side
    floor: Floor | None = None
    code: Text64 | None = None
    metadata: Metadata | None = None


class Balance(_Message, frozen=True):
    """In the account's normal direction. `pending` is what open holds take; `available` is posted less pending takings.

    Holds that would bring money in are not available before they are captured.
    """

    posted: SignedMoney
    pending: SignedMoney
    available: SignedMoney


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """`as_of` is the book's sequence at which `balance` is true; `version` counts the account's entries up to it."""

    id: Id
    name: str
    currency: str
    normal_side: Side
    floor: str | None
    code: str | None
    metadata: dict[str, str]
    closed: bool
    created_at: str
    version: int
    as_of: int
    balance: Balance


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One side of one transfer, as the account saw it. `balance` is the one after it.

    `pending` is by how much the entry changed what is held: positive for a hold, negative when one is captured or released.
    """

    transfer: Id
    kind: str
    side: Side
    other_account: Id
    amount: MoneyWire
    pending: SignedMoney
    balance: Balance
    version: int
    sequence: int
    recorded_at: str
    code: str | None = None


# ---- transfers at the edge ----------------------------------------------------------------------------------------


class NewTransfer(_Message, frozen=True):
    """`id` (`trf_...`) is made by the client, or by the ledger if left out. `expires_in`: seconds, for a hold."""

    kind: Literal["post", "hold"]
    debit_account: Id
    credit_account: Id
    amount: MoneyWire
    id: Id | None = None
    expires_in: Annotated[int, Meta(ge=1, le=MAX_EXPIRES_IN)] | None = None
    code: Text64 | None = None
    metadata: Metadata | None = None


class NewTransfers(_Message, frozen=True):
    """`atomic`: all of them are posted or none."""

    transfers: Annotated[list[NewTransfer], Meta(min_length=1, max_length=MAX_TRANSFERS)]
    atomic: bool = False


class CaptureHold(_Message, frozen=True):
    """Without an amount all that remains is captured. `final` releases what is left after this capture."""

    amount: MoneyWire | None = None
    final: bool = False
    id: Id | None = None


class VoidHold(_Message, frozen=True):
    id: Id | None = None


class ReverseTransfer(_Message, frozen=True):
    """Without an amount all that was not reversed yet is."""

    amount: MoneyWire | None = None
    id: Id | None = None


class HoldState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a hold until now. `expires_at` is the instant from which it holds nothing."""

    state: Literal["held", "captured", "voided", "expired"]
    captured: MoneyWire
    remaining: MoneyWire
    expires_at: str | None = None


class Transfer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A transfer, or the refusal of one.

    `status` is what this transfer did when it was recorded and never changes; `reason` is there when it was rejected, with
    `available` and `required` where amounts decided. `target` is the hold that was captured, voided or expired, or the transfer that was
    reversed; `released` what that took off the hold. `hold` and `reversed` (single reads only) tell what came after.
    """

    id: Id
    status: Literal["posted", "held", "rejected"]
    kind: str | None = None
    reason: Reason | None = None
    debit_account: Id | None = None
    credit_account: Id | None = None
    amount: MoneyWire | None = None
    available: SignedMoney | None = None
    required: MoneyWire | None = None
    target: Id | None = None
    released: MoneyWire | None = None
    expires_at: str | None = None
    code: str | None = None
    metadata: dict[str, str] | None = None
    sequence: int | None = None
    recorded_at: str | None = None
    hold: HoldState | None = None
    reversed: MoneyWire | None = None


class Transfers(msgspec.Struct, frozen=True, kw_only=True):
    """Results in the order of the request. `receipt` is the id of the fact that told of what was new, if anything was."""

    data: list[Transfer]
    receipt: str | None = None


# ---- over the mesh ------------------------------------------------------------------------------------------------


class UnitTransfer(_Message, frozen=True):
    """One transfer of a unit. The id is made by the caller and kept: the same id again is the same transfer.

    post, hold: both accounts and the amount. capture: `target` (the hold), `amount` (none: all that remains), `final`.
    void: `target`. reverse: `target` (a post or a capture), `amount` (none: all that remains).
    """

    id: Id
    kind: Kind
    debit_account: Id | None = None
    credit_account: Id | None = None
    amount: MoneyWire | None = None
    target: Id | None = None
    final: bool = False
    expires_in: Annotated[int, Meta(ge=1, le=MAX_EXPIRES_IN)] | None = None
    code: Text64 | None = None
    metadata: Metadata | None = None


class Unit(_Message, frozen=True):
    """Transfers that are posted together or not at all. `token` is the index of its transaction token in the batch."""

    token: Annotated[int, Meta(ge=0, lt=MAX_TRANSFERS)]
    transfers: Annotated[list[UnitTransfer], Meta(min_length=1, max_length=MAX_TRANSFERS)]


class PostUnits(_Message, frozen=True):
    tokens: Annotated[list[Annotated[str, Meta(max_length=8192)]], Meta(min_length=1, max_length=MAX_TRANSFERS)]
    units: Annotated[list[Unit], Meta(min_length=1, max_length=MAX_TRANSFERS)]


class Posted(msgspec.Struct, frozen=True, omit_defaults=True):
    """One transfer's result: `posted`, `held` or `rejected` with its reason. `sequence` is 0 if rejected. Amounts are minor units."""

    id: Id
    status: Literal["posted", "held", "rejected"]
    sequence: int = 0
    reason: Reason | None = None
    available: Digits | None = None
    required: Digits | None = None


class UnitResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit's answer, or a problem document: another unit's bad token is not this one's fault. `receipt` names the fact."""

    transfers: list[Posted] = []
    receipt: str | None = None
    problem: dict[str, object] | None = None

    @property
    def refusal(self) -> Posted | None:
        """The transfer because of which the unit was refused; None when it was posted (now or before)."""
        rejected = [one for one in self.transfers if one.status == "rejected"]
        for one in rejected:
            if one.reason is not Reason.LINKED_TRANSFER_FAILED:
                return one
        return rejected[0] if rejected else None


class PostedUnits(msgspec.Struct, frozen=True):
    units: list[UnitResult]


class OpenAccountAs(_Message, frozen=True):
    """An account with an id made by the caller: opening it again with the same content is harmless."""

    id: Id
    token: Annotated[str, Meta(max_length=8192)]
    account: OpenAccount


class Wanted(_Message, frozen=True):
    token: Annotated[int, Meta(ge=0, lt=MAX_TRANSFERS)]
    id: Id


class FindAccounts(_Message, frozen=True):
    tokens: Annotated[list[Annotated[str, Meta(max_length=8192)]], Meta(min_length=1, max_length=MAX_TRANSFERS)]
    accounts: Annotated[list[Wanted], Meta(min_length=1, max_length=MAX_TRANSFERS)]


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """What never changes about an account, and whether it is closed; or a problem document (404 also for another tenant's)."""

    currency: str | None = None
    normal_side: Side | None = None
    closed: bool = False
    problem: dict[str, object] | None = None


class FoundAccounts(msgspec.Struct, frozen=True):
    accounts: list[Found]


# ---- facts --------------------------------------------------------------------------------------------------------

#: How many transfers of a unit its fact lists. The digest covers them all.
LISTED = 32


class TransferLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A transfer as its fact lists it. `amount` and `released` are minor units."""

    sequence: int
    id: Id
    kind: str
    debit_account: Id
    credit_account: Id
    amount: str
    currency: str
    target: Id | None = None
    released: str | None = None
    expires_at: str | None = None


class TransfersPosted(msgspec.Struct, frozen=True, kw_only=True):
    """Fact `ledger.transfers.posted`: one per unit. `count` transfers with the sequences `first` to `last` of the tenant's book.

    `sha256` is the hash of `transfers_digest`'s lines, by which `verify` and an auditor find any later change of the book.
    """

    book: int
    first: int
    last: int
    count: int
    sha256: str
    transfers: list[TransferLine]


def canonical_line(  # noqa: PLR0917 - the fields of a line, in their order
    sequence: int,
    transfer: str,
    kind: str,
    target: str,
    debit: str,
    credit: str,
    amount: int,
    released: int,
    currency: str,
) -> str:
    """One transfer in the digest of its fact: its fields between `|`, ids as 32 hex digits (empty if absent), amounts in minor units."""
    return f"{sequence}|{transfer}|{kind}|{target}|{debit}|{credit}|{amount}|{released}|{currency}\n"
