"""Over the mesh: units of transfers, and accounts under ids made beforehand."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tallystick.contracts.ledger.messages.accounts import OpenAccount
from tallystick.contracts.ledger.messages.words import (
    MAIN,
    MAX_EXPIRES_IN,
    MAX_TRANSFERS,
    AccountRef,
    BookName,
    Digits,
    Id,
    Kind,
    Message,
    Metadata,
    Reason,
    Side,
    Text64,
)
from tallystick.kernel.money import MoneyWire


class UnitTransfer(Message, frozen=True):
    """One transfer of a unit. The id is made by the caller and kept: the same id again is the same transfer.

    post, hold: both accounts and the amount. capture: `target` (the hold), `amount` (none: all that remains), `final`.
    void: `target`. reverse: `target` (a post or a capture), `amount` (none: all that remains). What has the code `tallystick:payment` may be
    captured, voided and reversed over the mesh only.
    """

    id: Id
    kind: Kind
    debit_account: AccountRef | None = None
    credit_account: AccountRef | None = None
    amount: MoneyWire | None = None
    target: Id | None = None
    final: bool = False
    expires_in: Annotated[int, Meta(ge=1, le=MAX_EXPIRES_IN)] | None = None
    code: Text64 | None = None
    metadata: Metadata | None = None


class Unit(Message, frozen=True):
    """Transfers that are posted together or not at all. `token` is the index of its transaction token in the batch. `due`: they give back what was
    taken before, and are posted whatever was frozen since and without approvals.
    """

    token: Annotated[int, Meta(ge=0, lt=MAX_TRANSFERS)]
    transfers: Annotated[list[UnitTransfer], Meta(min_length=1, max_length=MAX_TRANSFERS)]
    book: BookName = MAIN
    due: bool = False


class PostUnits(Message, frozen=True):
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


class OpenAccountAs(Message, frozen=True):
    """An account with an id made by the caller: opening it again with the same content is harmless."""

    id: Id
    token: Annotated[str, Meta(max_length=8192)]
    account: OpenAccount


class Wanted(Message, frozen=True):
    token: Annotated[int, Meta(ge=0, lt=MAX_TRANSFERS)]
    id: Id


class FindAccounts(Message, frozen=True):
    tokens: Annotated[list[Annotated[str, Meta(max_length=8192)]], Meta(min_length=1, max_length=MAX_TRANSFERS)]
    accounts: Annotated[list[Wanted], Meta(min_length=1, max_length=MAX_TRANSFERS)]


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """What never changes about an account, and whether it is closed; or a problem document (404 also for another tenant's)."""

    currency: str | None = None
    normal_side: Side | None = None
    closed: bool = False
    book: BookName = MAIN
    problem: dict[str, object] | None = None


class FoundAccounts(msgspec.Struct, frozen=True):
    accounts: list[Found]
