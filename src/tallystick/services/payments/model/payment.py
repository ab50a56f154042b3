"""A payment's states, and the one table of which step comes next.

Everything here is pure: a payment goes in; the next step, or the next version of the payment, comes out. Each step has an
id derived from the payment's, so repeating a step after a crash or a lost answer has the same effect as doing it once.

    received --SCORE--> (declined)
             --POST---> settled | declined                                     from account to account
             --HOLD--> --AUTHORIZE--> authorized --CAPTURE--> captured --SETTLE--> settled       by card
                             |             +--VOID--> RELEASE--> canceled | expired | failed
                             +--RELEASE--> declined

Two workers may work on one payment at once, if one of them was wrongly taken for dead. Both then perform the same effects,
and `version` lets only one of them write the outcome. This is safe as long as both take the same steps. `decisive` tells
which decisions another worker might make differently, and which are therefore stored before they are acted upon.
"""

from __future__ import annotations

import enum
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

import msgspec

from tallystick.contracts.payments.messages import Status
from tallystick.contracts.payments.problems import (
    CancelNotPossible,
    CaptureNotPossible,
    CaptureTooLarge,
    PaymentCurrencyMismatch,
)
from tallystick.kernel.ids import AccountId, DecisionId, FactId, PaymentId, RefundId, RequestId, TransferId
from tallystick.kernel.money import Money, minor_per_euro

#: An authorization that is not captured is voided after this long.
AUTHORIZATION_LIFE: Final = timedelta(days=7)
#: How long a live process has a payment to itself. After that the background worker takes it over.
LEASE: Final = timedelta(seconds=30)
#: The pause after each failed attempt to advance a payment; the last one repeats for ever.
BACKOFF: Final = tuple(timedelta(seconds=s) for s in (2, 5, 15, 30, 60, 300, 900, 3600))


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
    """Why a payment or a refund failed. `by` says who refused: risk, the ledger or the issuer. `platform` means that none of
    them did: it could not be done as requested.
    """

    code: str
    message: str
    by: Literal["risk", "ledger", "issuer", "platform"]


class Card(msgspec.Struct, frozen=True):
    """What payments knows of a card: never its number."""

    brand: str
    last4: str
    fingerprint: str


class Waiting(msgspec.Struct, frozen=True):
    """The request that is owed an answer once the payment comes to rest: its idempotency route and key, and its client."""

    route: str
    key: str
    client_id: str


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
    """The account that represents the acquirer in this currency; card payments only."""
    capture: Literal["automatic", "manual"] = "automatic"
    card: Card | None = None
    description: str | None = None
    reference: str | None = None
    metadata: dict[str, str] = {}
    risk: Risk | None = None
    held: bool = False
    released: bool = False
    authorization: str | None = None
    """The acquirer's reference for the authorization."""
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
    worker: int | None = None
    """The process that works on the payment (its `Life.number`); None while it rests or waits for its next attempt."""
    attempts: int = 0
    version: int = 0

    @property
    def money(self) -> Money:
        return Money(self.amount, self.currency)

    @property
    def asked_by(self) -> str | None:
        """The client whose request is being carried out. It need not be the one that created the payment. None when nobody
        asked, as when an authorization expires.
        """
        return self.waiting.client_id if self.waiting else None


class Role(enum.IntEnum):
    """The purpose of an id derived from a payment's or a refund's. Values never change: they are part of the ids."""

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
    SUSPEND = 11
    RETURN = 12


def derived(parent: UUID, role: Role) -> UUID:
    """The id of an effect: the parent's id with the role XORed into its low bits. It is known before the effect and the same
    on every attempt.

    It keeps the parent's timestamp, so index entries stay close together. It is unique because the parent's 74 random bits
    are: for a collision two parents would have to agree in all but the four bits that the role changes.
    """
    return UUID(int=parent.int ^ int(role))


def decision_id(p: Payment) -> DecisionId:
    return DecisionId(derived(p.id, Role.DECISION))


def transfer_id(parent: PaymentId | RefundId, role: Role) -> TransferId:
    return TransferId(derived(parent, role))


def request_id(parent: PaymentId | RefundId, role: Role) -> RequestId:
    return RequestId(derived(parent, role))


def authorized_by(request: RequestId) -> PaymentId:
    """The payment whose authorization has this request id: deriving twice with the same role gives the original id."""
    return PaymentId(derived(request, Role.AUTHORIZE))


def settling_transfer(p: Payment) -> TransferId:
    """The transfer that moved the money. Refunds reverse it."""
    return transfer_id(p.id, Role.SETTLE)


def transfers(p: Payment) -> list[TransferId]:
    """The transfers that this payment has made so far, in order."""
    made = []
    if p.held:
        made.append(transfer_id(p.id, Role.HOLD))
    if p.status == "settled":
        made.append(settling_transfer(p))
    if p.released:
        made.append(transfer_id(p.id, Role.RELEASE))
    return made


def next_step(p: Payment) -> Step | None:
    """The next step of the payment; None when it rests."""
    if p.status == "received":
        if p.decline is not None:
            return Step.RELEASE
        if p.risk is None:
            return Step.SCORE
        if p.token is None:
            return Step.POST
        return Step.AUTHORIZE if p.held else Step.HOLD
    if p.status == "authorized":
        if p.decline is not None or p.intent in ("cancel", "expire"):
            return Step.RELEASE if p.authorization is None else Step.VOID
        return Step.CAPTURE if p.intent == "capture" or p.capture == "automatic" else None
    if p.status == "captured":
        return Step.SETTLE
    return None


def decisive(stored: Payment, p: Payment, step: Step) -> bool:
    """Whether what was learned since `stored` must be written before `step` is performed.

    Steps forward need no write: a repeat carries the same id and gets the same answer. But VOID and RELEASE undo what
    another attempt may be building on. And when risk could not be asked, it may be back for the next attempt and say no.
    """
    if step in (Step.VOID, Step.RELEASE):
        return (p.decline, p.intent) != (stored.decline, stored.intent)
    return p.risk is not None and p.risk.decision == "unscored" and stored.risk is None


def may_go_unscored(p: Payment) -> bool:
    """Whether the payment may proceed without a risk decision: on its first attempt only. A later attempt can't know whether
    risk has already decided, so it waits for risk, which gives the same decision for the same id.
    """
    return p.version == 0


def scored(p: Payment, risk: Risk) -> Payment:
    """After SCORE."""
    if risk.decision != "deny":
        return msgspec.structs.replace(p, risk=risk)
    decline = Decline("risk_denied", "The payment was refused by a risk rule.", "risk")
    return msgspec.structs.replace(p, risk=risk, status="declined", decline=decline)


def unscored(p: Payment, limit: int) -> Payment:
    """After SCORE without an answer: amounts up to `limit` euro proceed, larger ones are declined (payments' charter,
    [calls.risk]).
    """
    if p.amount <= limit * minor_per_euro(p.currency):
        return msgspec.structs.replace(p, risk=Risk("unscored", None, ("risk-unavailable",)))
    decline = Decline("risk_unavailable", "The payment could not be checked in time.", "risk")
    return msgspec.structs.replace(
        p, risk=Risk("unscored", None, ("risk-unavailable",)), status="declined", decline=decline
    )


def posted(p: Payment) -> Payment:
    """After POST."""
    return msgspec.structs.replace(p, status="settled", captured=p.amount)


def refused_by_ledger(p: Payment, code: str, message: str) -> Payment:
    """After the ledger finally refused POST or HOLD: nothing moved."""
    return msgspec.structs.replace(p, status="declined", decline=Decline(code, message, "ledger"))


def held(p: Payment) -> Payment:
    """After HOLD."""
    return msgspec.structs.replace(p, held=True)


def authorized(p: Payment, authorization: str, now: datetime) -> Payment:
    """After AUTHORIZE. With automatic capture the full amount is captured next."""
    return msgspec.structs.replace(
        p, status="authorized", authorization=authorization, expires_at=now + AUTHORIZATION_LIFE
    )


def refused_by_issuer(p: Payment, code: str, message: str) -> Payment:
    """After the issuer refused AUTHORIZE. The hold is released before the payment becomes `declined`."""
    return msgspec.structs.replace(p, decline=Decline(code, message, "issuer"))


def card_destroyed(p: Payment) -> Payment:
    """After AUTHORIZE could not be sent because the card was destroyed. No issuer has refused anything."""
    decline = Decline("token_destroyed", "The stored card was destroyed.", "platform")
    return msgspec.structs.replace(p, decline=decline)


def approved_otherwise(p: Payment, authorization: str, now: datetime) -> Payment:
    """After AUTHORIZE approved an amount other than the payment's: the authorization is voided and the payment fails."""
    decline = Decline("amount_not_approved", "The card was not approved for the amount of the payment.", "platform")
    return msgspec.structs.replace(authorized(p, authorization, now), decline=decline)


def captured(p: Payment) -> Payment:
    """After CAPTURE."""
    amount = p.intent_amount if p.intent == "capture" else p.amount
    return msgspec.structs.replace(p, status="captured", captured=amount, intent=None, intent_amount=0)


def capture_refused(p: Payment, code: str, message: str) -> Payment:
    """After the acquirer finally refused CAPTURE: authorization and hold are undone, and the payment fails."""
    return msgspec.structs.replace(p, intent=None, intent_amount=0, decline=Decline(code, message, "issuer"))


def settled(p: Payment) -> Payment:
    """After SETTLE."""
    return msgspec.structs.replace(p, status="settled")


def voided(p: Payment) -> Payment:
    """After VOID: the acquirer no longer has an authorization."""
    return msgspec.structs.replace(p, authorization=None)


def released(p: Payment) -> Payment:
    """After RELEASE."""
    if p.decline is not None:
        ended: Status = "declined" if p.status == "received" else "failed"
        return msgspec.structs.replace(p, status=ended, released=True)
    status: Status = "expired" if p.intent == "expire" else "canceled"
    return msgspec.structs.replace(p, status=status, released=True, intent=None)


def resting(p: Payment, now: datetime) -> Payment:
    """The payment as stored when there is nothing to do for now. An authorized one is resumed when its authorization expires."""
    resume_at = p.expires_at if p.status == "authorized" else None
    return msgspec.structs.replace(p, resume_at=resume_at, worker=None, attempts=0, waiting=None, updated_at=now)


def postponed(p: Payment, now: datetime) -> Payment:
    """The payment as stored when a step could not be done. It is tried again after a growing pause."""
    pause = BACKOFF[min(p.attempts, len(BACKOFF) - 1)]
    return msgspec.structs.replace(p, resume_at=now + pause, worker=None, attempts=p.attempts + 1, updated_at=now)


def taken_up(p: Payment, now: datetime) -> Payment:
    """The payment as the background worker resumes it. An authorization that was not captured in time gets the intent to expire.

    The caller stores this intent, like every other, before acting upon it: from then on nobody can capture.
    """
    if _awaits_capture(p) and p.expires_at is not None and p.expires_at <= now:
        return msgspec.structs.replace(p, intent="expire")
    return p


def with_capture(p: Payment, amount: Money | None, waiting: Waiting, worker: int, now: datetime) -> Payment:
    """The payment with the intent to capture. Raises CaptureNotPossible, CaptureTooLarge, PaymentCurrencyMismatch."""
    if not _awaits_capture(p):
        raise CaptureNotPossible(state(p, "captured"), payment_status=p.status)
    wanted = same_currency(p, amount)
    minor = p.amount if wanted is None else wanted.minor
    if minor > p.amount:
        raise CaptureTooLarge(
            f"{p.money} are authorized",
            authorized={"amount": str(p.amount), "currency": p.currency},
            requested={"amount": str(minor), "currency": p.currency},
        )
    return msgspec.structs.replace(
        p,
        intent="capture",
        intent_amount=minor,
        waiting=waiting,
        resume_at=now + LEASE,
        worker=worker,
        updated_at=now,
    )


def with_cancel(p: Payment, waiting: Waiting, worker: int, now: datetime) -> Payment:
    """The payment with the intent to cancel. Raises CancelNotPossible."""
    if not _awaits_capture(p):
        raise CancelNotPossible(state(p, "canceled"), payment_status=p.status)
    return msgspec.structs.replace(
        p, intent="cancel", waiting=waiting, resume_at=now + LEASE, worker=worker, updated_at=now
    )


def _awaits_capture(p: Payment) -> bool:
    """Whether the payment rests as `authorized`. With automatic capture, or while it is being undone, it only passes through
    this status.
    """
    return p.status == "authorized" and p.capture == "manual" and p.intent is None and p.decline is None


def state(p: Payment, wish: str) -> str:
    """Why the payment can't be captured, canceled or refunded (`wish`) in its current state; a clause for a problem's detail."""
    if p.intent == "expire":
        return f"its authorization has expired and is being given back: it can't be {wish}"
    if p.intent is not None:
        return f"another request to {p.intent} it is being carried out"
    if _awaits_capture(p):
        return f"it rests until it is captured or canceled, and can't be {wish} before it is captured"
    if p.status in ("received", "authorized", "captured"):
        return f"it is on its way and can't be {wish}"
    return f"a payment that is {p.status} can't be {wish}"


def same_currency(p: Payment, amount: Money | None) -> Money | None:
    if amount is not None and amount.currency != p.currency:
        raise PaymentCurrencyMismatch(f"the payment is in {p.currency}", currency=p.currency)
    return amount
