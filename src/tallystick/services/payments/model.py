"""A payment's states and the one table of what comes next.

Everything here is pure: a payment goes in, the next step or the next payment comes out. Each step has an id that is
derived from the payment's, so that doing it again, after a crash or a lost answer, has the effect of doing it once.

    received --SCORE--> (declined)
             --POST---> settled | declined                                     from account to account
             --HOLD--> --AUTHORIZE--> authorized --CAPTURE--> captured --SETTLE--> settled       by card
                             |             +--VOID--> RELEASE--> canceled | expired
                             +--RELEASE--> declined
"""

from __future__ import annotations

import enum
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

import msgspec

from tallystick.contracts.payments.messages import RefundStatus, Status
from tallystick.contracts.payments.problems import (
    CancelNotPossible,
    CaptureNotPossible,
    CaptureTooLarge,
    PaymentCurrencyMismatch,
    RefundNotPossible,
    RefundTooLarge,
)
from tallystick.kernel.ids import AccountId, DecisionId, FactId, PaymentId, RefundId, RequestId, TransferId
from tallystick.kernel.money import Money

#: An authorization that nobody captures is given back after this.
AUTHORIZATION_LIFE: Final = timedelta(days=7)
#: How long whoever works on a payment has it to themselves; then the worker takes it up.
LEASE: Final = timedelta(seconds=30)
#: The pauses between the tries to go on with a payment, by try; the last one for ever.
BACKOFF: Final = tuple(timedelta(seconds=s) for s in (2, 5, 15, 30, 60, 300, 900, 3600))

FINAL: Final = frozenset({"settled", "declined", "canceled", "failed", "expired"})


class Step(enum.Enum):
    SCORE = "score"
    POST = "post"
    HOLD = "hold"
    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    SETTLE = "settle"
    VOID = "void"
    RELEASE = "release"


class Risk(msgspec.Struct, frozen=True):
    decision: Literal["allow", "deny", "unscored"]
    score: int | None
    reasons: tuple[str, ...]


class Decline(msgspec.Struct, frozen=True):
    """`by` says who refused: risk, the ledger, the issuer; or nobody (`platform`: it could not be done)."""

    code: str
    message: str
    by: Literal["risk", "ledger", "issuer", "platform"]


class Card(msgspec.Struct, frozen=True):
    """What payments knows of a card: never its number."""

    brand: str
    last4: str
    fingerprint: str


class Waiting(msgspec.Struct, frozen=True):
    """The request whose answer is owed once the payment comes to rest: its idempotency route and key."""

    route: str
    key: str


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    id: PaymentId
    tenant: str
    client_id: str
    status: Status
    amount: int
    currency: str
    captured: int = 0
    refunded: int = 0
    refunding: int = 0
    token: str | None = None
    source: AccountId | None = None
    destination: AccountId
    clearing: AccountId | None = None
    """The account that stands for the acquirer in this currency; card payments only."""
    capture: Literal["automatic", "manual"] = "automatic"
    card: Card | None = None
    description: str | None = None
    reference: str | None = None
    metadata: dict[str, str] = {}
    risk: Risk | None = None
    held: bool = False
    released: bool = False
    authorization: str | None = None
    """The acquirer's own name for the authorization."""
    intent: Literal["capture", "cancel", "expire"] | None = None
    intent_amount: int = 0
    decline: Decline | None = None
    disputed: bool = False
    waiting: Waiting | None = None
    receipt: FactId
    trace: str = ""
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    resume_at: datetime | None = None
    attempts: int = 0
    version: int = 0

    @property
    def money(self) -> Money:
        return Money(self.amount, self.currency)


class Role(enum.IntEnum):
    """What an id derived from a payment's or a refund's is for. Values are for ever: they are part of the ids."""

    DECISION = 1
    HOLD = 2
    SETTLE = 3
    RELEASE = 4
    AUTHORIZE = 5
    CAPTURE = 6
    VOID = 7
    REVERSE = 8
    REFUND = 9
    RESTORE = 10


def derived(parent: UUID, role: Role) -> UUID:
    """The id of an effect, known before it happens and the same each time: the parent's, with the role in the low bits.

    It keeps the parent's time, so that indexes stay local, and is unique because the parent's 74 random bits are: two
    parents would have to agree in all but the four bits that the role changes.
    """
    return UUID(int=parent.int ^ int(role))


def decision_id(p: Payment) -> DecisionId:
    return DecisionId(derived(p.id, Role.DECISION))


def transfer_id(parent: PaymentId | RefundId, role: Role) -> TransferId:
    return TransferId(derived(parent, role))


def request_id(parent: PaymentId | RefundId, role: Role) -> RequestId:
    return RequestId(derived(parent, role))


def settling_transfer(p: Payment) -> TransferId:
    """The transfer that moved the money, and that a refund reverses."""
    return transfer_id(p.id, Role.SETTLE)


def transfers(p: Payment) -> list[TransferId]:
    """The transfers that this payment has made by now, in order."""
    made = []
    if p.held:
        made.append(transfer_id(p.id, Role.HOLD))
    if p.status == "settled":
        made.append(settling_transfer(p))
    if p.released:
        made.append(transfer_id(p.id, Role.RELEASE))
    return made


def next_step(p: Payment) -> Step | None:
    """What is to be done next with the payment; None when it rests."""
    if p.status == "received":
        if p.decline is not None:
            return Step.RELEASE
        if p.risk is None:
            return Step.SCORE
        if p.token is None:
            return Step.POST
        return Step.AUTHORIZE if p.held else Step.HOLD
    if p.status == "authorized":
        if p.decline is not None:
            return Step.RELEASE
        if p.intent in ("cancel", "expire"):
            return Step.RELEASE if p.authorization is None else Step.VOID
        return Step.CAPTURE if p.intent == "capture" or p.capture == "automatic" else None
    if p.status == "captured":
        return Step.SETTLE
    return None


def scored(p: Payment, risk: Risk) -> Payment:
    """After SCORE."""
    if risk.decision != "deny":
        return msgspec.structs.replace(p, risk=risk)
    decline = Decline("risk_denied", "The payment was refused by a risk rule.", "risk")
    return msgspec.structs.replace(p, risk=risk, status="declined", decline=decline)


def unscored(p: Payment, limit: int) -> Payment:
    """After SCORE without an answer: small amounts go on, larger ones are declined (payments' charter, [calls.risk])."""
    if p.amount <= limit:
        return msgspec.structs.replace(p, risk=Risk("unscored", None, ("risk-unavailable",)))
    decline = Decline("risk_unavailable", "The payment could not be checked in time.", "risk")
    return msgspec.structs.replace(
        p, risk=Risk("unscored", None, ("risk-unavailable",)), status="declined", decline=decline
    )


def posted(p: Payment) -> Payment:
    """After POST."""
    return msgspec.structs.replace(p, status="settled", captured=p.amount)


def refused_by_ledger(p: Payment, code: str, message: str) -> Payment:
    """After POST or HOLD that the ledger refused for good: nothing moved."""
    return msgspec.structs.replace(p, status="declined", decline=Decline(code, message, "ledger"))


def held(p: Payment) -> Payment:
    """After HOLD."""
    return msgspec.structs.replace(p, held=True)


def authorized(p: Payment, authorization: str, now: datetime) -> Payment:
    """After AUTHORIZE. With automatic capture the next step is to capture it all."""
    return msgspec.structs.replace(
        p, status="authorized", authorization=authorization, expires_at=now + AUTHORIZATION_LIFE
    )


def refused_by_issuer(p: Payment, code: str, message: str) -> Payment:
    """After AUTHORIZE that was refused. The hold is released before the payment is said to be declined."""
    return msgspec.structs.replace(p, decline=Decline(code, message, "issuer"))


def captured(p: Payment) -> Payment:
    """After CAPTURE."""
    amount = p.intent_amount if p.intent == "capture" else p.amount
    return msgspec.structs.replace(p, status="captured", captured=amount, intent=None, intent_amount=0)


def capture_refused(p: Payment, code: str, message: str) -> Payment:
    """After CAPTURE that the acquirer refused for good: the hold is released and the payment has failed."""
    return msgspec.structs.replace(p, intent=None, intent_amount=0, decline=Decline(code, message, "issuer"))


def settled(p: Payment) -> Payment:
    """After SETTLE."""
    return msgspec.structs.replace(p, status="settled")


def voided(p: Payment) -> Payment:
    """After VOID: the acquirer has given the authorization back."""
    return msgspec.structs.replace(p, authorization=None)


def released(p: Payment) -> Payment:
    """After RELEASE."""
    if p.decline is not None:
        ended: Status = "declined" if p.status == "received" else "failed"
        return msgspec.structs.replace(p, status=ended, released=True)
    status: Status = "expired" if p.intent == "expire" else "canceled"
    return msgspec.structs.replace(p, status=status, released=True, intent=None)


def resting(p: Payment, now: datetime) -> Payment:
    """As it is stored when there is nothing more to do for now: an authorization comes back when it expires."""
    resume_at = p.expires_at if p.status == "authorized" else None
    return msgspec.structs.replace(p, resume_at=resume_at, attempts=0, waiting=None, updated_at=now)


def postponed(p: Payment, now: datetime) -> Payment:
    """As it is stored when a step could not be done: it is tried again after a pause that grows."""
    pause = BACKOFF[min(p.attempts, len(BACKOFF) - 1)]
    return msgspec.structs.replace(p, resume_at=now + pause, attempts=p.attempts + 1, updated_at=now)


def taken_up(p: Payment, now: datetime) -> Payment:
    """As the worker goes on with it. An authorization whose time is over expires."""
    if p.status == "authorized" and p.intent is None and p.expires_at is not None and p.expires_at <= now:
        return msgspec.structs.replace(p, intent="expire")
    return p


def with_capture(p: Payment, amount: Money | None, waiting: Waiting, now: datetime) -> Payment:
    """The payment with the intent to capture. Raises CaptureNotPossible, CaptureTooLarge, PaymentCurrencyMismatch."""
    if p.status != "authorized" or p.intent is not None:
        raise CaptureNotPossible(_state(p, "captured"), payment_status=p.status)
    wanted = _same_currency(p, amount)
    minor = p.amount if wanted is None else wanted.minor
    if minor > p.amount:
        raise CaptureTooLarge(f"{p.money} are authorized", authorized=str(p.amount), requested=str(minor))
    return msgspec.structs.replace(
        p, intent="capture", intent_amount=minor, waiting=waiting, resume_at=now + LEASE, updated_at=now
    )


def with_cancel(p: Payment, waiting: Waiting, now: datetime) -> Payment:
    """The payment with the intent to cancel. Raises CancelNotPossible."""
    if p.status != "authorized" or p.intent is not None:
        raise CancelNotPossible(_state(p, "canceled"), payment_status=p.status)
    return msgspec.structs.replace(p, intent="cancel", waiting=waiting, resume_at=now + LEASE, updated_at=now)


def _state(p: Payment, wish: str) -> str:
    if p.intent is not None:
        return f"another request to {p.intent} it is being carried out"
    return f"a payment that is {p.status} can't be {wish}"


def _same_currency(p: Payment, amount: Money | None) -> Money | None:
    if amount is not None and amount.currency != p.currency:
        raise PaymentCurrencyMismatch(f"the payment is in {p.currency}", currency=p.currency)
    return amount


class RefundStep(enum.Enum):
    REVERSE = "reverse"
    REFUND = "refund"
    RESTORE = "restore"


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """Money on its way back. The ledger's reversal comes first: it is bounded by the transfer that it reverses, which
    is a second guard against refunding too much; the acquirer is asked then, and a refusal is made good.
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
    restored: bool = False
    failure: Decline | None = None
    waiting: Waiting | None = None
    receipt: FactId
    trace: str = ""
    created_at: datetime
    updated_at: datetime
    resume_at: datetime | None = None
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
    now: datetime,
) -> tuple[Payment, Refund]:
    """The payment with the amount set aside, and the refund. Raises RefundNotPossible, RefundTooLarge,
    PaymentCurrencyMismatch.
    """
    if p.status != "settled":
        raise RefundNotPossible(_state(p, "refunded"), payment_status=p.status)
    wanted = _same_currency(p, amount)
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
    )
    return msgspec.structs.replace(p, refunding=p.refunding + minor, updated_at=now), made


def next_refund_step(r: Refund) -> RefundStep | None:
    if r.status != "pending":
        return None
    if not r.reversed:
        return RefundStep.REVERSE
    return RefundStep.RESTORE if r.failure is not None else RefundStep.REFUND


def reversed_(r: Refund) -> Refund:
    """After REVERSE. A book transfer has nobody else to ask."""
    return msgspec.structs.replace(r, reversed=True, status="pending" if r.by_card else "succeeded")


def reversal_refused(r: Refund, code: str, message: str) -> Refund:
    """After REVERSE that the ledger refused for good."""
    return msgspec.structs.replace(r, status="failed", failure=Decline(code, message, "ledger"))


def refunded(r: Refund) -> Refund:
    """After REFUND."""
    return msgspec.structs.replace(r, status="succeeded")


def refund_refused(r: Refund, code: str, message: str) -> Refund:
    """After REFUND that the acquirer refused: what the ledger reversed is restored next."""
    return msgspec.structs.replace(r, failure=Decline(code, message, "issuer"))


def restored(r: Refund) -> Refund:
    """After RESTORE."""
    return msgspec.structs.replace(r, restored=True, status="failed")


def refund_resting(r: Refund, now: datetime) -> Refund:
    return msgspec.structs.replace(r, resume_at=None, attempts=0, waiting=None, updated_at=now)


def refund_postponed(r: Refund, now: datetime) -> Refund:
    pause = BACKOFF[min(r.attempts, len(BACKOFF) - 1)]
    return msgspec.structs.replace(r, resume_at=now + pause, attempts=r.attempts + 1, updated_at=now)


def refund_transfers(r: Refund) -> list[TransferId]:
    made = []
    if r.reversed:
        made.append(transfer_id(r.id, Role.REVERSE))
    if r.restored:
        made.append(transfer_id(r.id, Role.RESTORE))
    return made
