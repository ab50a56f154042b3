"""Refunds: which step comes next, and how much may be refunded. Pure."""

from __future__ import annotations

import enum
from datetime import datetime

import msgspec

from tallystick.contracts.payments.messages import RefundStatus
from tallystick.contracts.payments.problems import RefundNotPossible, RefundTooLarge
from tallystick.kernel.ids import FactId, PaymentId, RefundId, TransferId
from tallystick.kernel.money import Money
from tallystick.services.payments.model.payment import (
    BACKOFF,
    LEASE,
    Decline,
    Payment,
    Role,
    Waiting,
    same_currency,
    state,
    transfer_id,
)


class RefundStep(enum.Enum):
    REVERSE = "reverse"
    REFUND = "refund"
    RESTORE = "restore"


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """Money on its way back. The ledger reverses first. Its reversal is bounded by the transfer that it reverses, which is a
    second guard against refunding too much. Then the acquirer is asked; if it refuses, the reversed amount is posted back.
    """

    id: RefundId
    payment: PaymentId
    tenant: str
    client_id: str
    status: RefundStatus = "pending"
    amount: int
    currency: str
    reason: str | None = None
    by_card: bool
    reversed: bool = False
    returned: bool = False
    """The amount was taken back by a transfer of its own (`RETURN`) instead of a reversal: the ledger already counts it as
    reversed, by an earlier refund that was refused and restored.
    """
    restored: bool = False
    suspended: bool = False
    """The reversed amount is on the suspense account, because the payee's account can't take it any more."""
    failure: Decline | None = None
    waiting: Waiting | None = None
    receipt: FactId
    trace: str = ""
    created_at: datetime
    updated_at: datetime
    resume_at: datetime | None = None
    worker: int | None = None
    attempts: int = 0
    version: int = 0


def with_refund(
    p: Payment,
    refund: RefundId,
    amount: Money | None,
    *,
    client_id: str,
    reason: str | None,
    waiting: Waiting,
    receipt: FactId,
    trace: str,
    worker: int,
    now: datetime,
) -> tuple[Payment, Refund]:
    """The payment with the amount reserved in `refunding`, and the refund. `amount` None refunds all that is left.
    Raises RefundNotPossible, RefundTooLarge, PaymentCurrencyMismatch.
    """
    if p.status != "settled":
        raise RefundNotPossible(state(p, "refunded"), payment_status=p.status)
    wanted = same_currency(p, amount)
    left = p.captured - p.refunded - p.refunding
    minor = left if wanted is None else wanted.minor
    if minor > left or minor == 0:
        raise RefundTooLarge(
            f"{Money(left, p.currency)} can still be refunded",
            refundable={"amount": str(left), "currency": p.currency},
            requested={"amount": str(minor), "currency": p.currency},
        )
    made = Refund(
        id=refund,
        payment=p.id,
        tenant=p.tenant,
        client_id=client_id,
        amount=minor,
        currency=p.currency,
        reason=reason,
        by_card=p.token is not None,
        waiting=waiting,
        receipt=receipt,
        trace=trace,
        created_at=now,
        updated_at=now,
        resume_at=now + LEASE,
        worker=worker,
    )
    return msgspec.structs.replace(p, refunding=p.refunding + minor, updated_at=now), made


def next_refund_step(r: Refund) -> RefundStep | None:
    if r.status != "pending":
        return None
    if not r.reversed:
        return RefundStep.REVERSE
    return RefundStep.RESTORE if r.failure is not None else RefundStep.REFUND


def reversed_(r: Refund) -> Refund:
    """After REVERSE. For a book transfer that is all: there is no acquirer to ask."""
    return msgspec.structs.replace(r, reversed=True, status="pending" if r.by_card else "succeeded")


def returned(r: Refund) -> Refund:
    """After REVERSE by a transfer of its own, because an earlier refund had reversed and restored the amount."""
    return msgspec.structs.replace(reversed_(r), returned=True)


def reversal_refused(r: Refund, code: str, message: str) -> Refund:
    """After the ledger finally refused REVERSE."""
    return msgspec.structs.replace(r, status="failed", failure=Decline(code, message, "ledger"))


def refunded(r: Refund) -> Refund:
    """After REFUND."""
    return msgspec.structs.replace(r, status="succeeded")


def refund_refused(r: Refund, code: str, message: str) -> Refund:
    """After the acquirer refused REFUND. The reversed amount is restored next."""
    return msgspec.structs.replace(r, failure=Decline(code, message, "issuer"))


def restored(r: Refund) -> Refund:
    """After RESTORE."""
    return msgspec.structs.replace(r, restored=True, status="failed")


def suspended(r: Refund) -> Refund:
    """After RESTORE to the suspense account, because the payee's account finally refused the amount."""
    return msgspec.structs.replace(r, suspended=True, status="failed")


def refund_resting(r: Refund, now: datetime) -> Refund:
    return msgspec.structs.replace(r, resume_at=None, worker=None, attempts=0, waiting=None, updated_at=now)


def refund_postponed(r: Refund, now: datetime) -> Refund:
    pause = BACKOFF[min(r.attempts, len(BACKOFF) - 1)]
    return msgspec.structs.replace(r, resume_at=now + pause, worker=None, attempts=r.attempts + 1, updated_at=now)


def refund_transfers(r: Refund) -> list[TransferId]:
    made = []
    if r.reversed:
        made.append(transfer_id(r.id, Role.RETURN if r.returned else Role.REVERSE))
    if r.restored:
        made.append(transfer_id(r.id, Role.RESTORE))
    if r.suspended:
        made.append(transfer_id(r.id, Role.SUSPEND))
    return made
