"""Payments and refunds as clients see them, and the facts that payments tells."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tallystick.kernel.clock import InstantWire
from tallystick.kernel.ids import AccountIdWire, FactIdWire, PaymentIdWire, RefundIdWire, TokenIdWire, TransferIdWire
from tallystick.kernel.money import AmountWire, CurrencyCode, MoneyWire

Status = Literal["received", "authorized", "captured", "settled", "declined", "canceled", "failed", "expired"]
RefundStatus = Literal["pending", "succeeded", "failed"]

Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=40)], Annotated[str, Meta(max_length=500)]], Meta(max_length=50)
]


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    pass


class CardSource(_Message, frozen=True, tag_field="type", tag="card"):
    """Pay with the card behind a token of the vault (`tok_...`)."""

    token: TokenIdWire


class AccountSource(_Message, frozen=True, tag_field="type", tag="account"):
    """Pay from an account of the ledger (`acc_...`): a book transfer."""

    account: AccountIdWire


class Destination(_Message, frozen=True):
    account: AccountIdWire


class CreatePayment(_Message, frozen=True, omit_defaults=True):
    amount: AmountWire
    source: CardSource | AccountSource
    destination: Destination
    capture: Literal["automatic", "manual"] = "automatic"
    description: Annotated[str, Meta(max_length=500)] | None = None
    reference: Annotated[str, Meta(max_length=100)] | None = None
    metadata: Metadata = {}


class CapturePayment(_Message, frozen=True, omit_defaults=True):
    """Without an amount, everything is captured. A payment can be captured once; what is not captured is released."""

    amount: AmountWire | None = None


class CancelPayment(_Message, frozen=True, omit_defaults=True):
    """An empty object: there are no options."""


class RiskView(_Message, frozen=True):
    """`unscored`: risk did not answer in time, and the amount was small enough to go on without a decision."""

    decision: Literal["allow", "deny", "unscored"]
    score: int | None
    reasons: list[str]


class LedgerView(_Message, frozen=True):
    """The ids of the ledger transfers that this payment made, in order: a hold and its capture or release, or a post."""

    transfers: list[TransferIdWire]


class Decline(_Message, frozen=True):
    """`code` is stable and machine-readable; `message` may be shown to a payer.

    By risk: `risk_denied`, `risk_unavailable`. By the card's issuer: `card_declined`, `insufficient_funds`, `expired_card`, `invalid_card`. By the
    ledger: its reason, such as `insufficient_funds` or `account_closed`. By nobody: `amount_not_approved`, `token_destroyed`.
    """

    code: str
    message: str


class CardView(_Message, frozen=True):
    brand: str
    last4: str
    fingerprint: str


class Payment(_Message, frozen=True, kw_only=True):
    id: PaymentIdWire
    status: Status
    amount: MoneyWire
    captured: MoneyWire
    refunded: MoneyWire
    source: CardSource | AccountSource
    destination: Destination
    capture: Literal["automatic", "manual"]
    card: CardView | None = None
    description: str | None = None
    reference: str | None = None
    metadata: dict[str, str] = {}
    risk: RiskView | None = None
    ledger: LedgerView
    decline: Decline | None = None
    disputed: bool = False
    receipt: FactIdWire
    created_at: InstantWire
    updated_at: InstantWire
    version: int


class PaymentsQuery(_Message, frozen=True):
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    after: PaymentIdWire | None = None
    status: Status | None = None
    reference: Annotated[str, Meta(max_length=100)] | None = None


class CreateRefund(_Message, frozen=True, omit_defaults=True):
    """Without an amount, all that was captured and is not refunded yet is refunded."""

    payment: PaymentIdWire
    amount: AmountWire | None = None
    reason: Annotated[str, Meta(max_length=200)] | None = None


class Refund(_Message, frozen=True, kw_only=True):
    """`suspense`, of a failed refund: the account that has the amount, because the payee's account could not take it back."""

    id: RefundIdWire
    payment: PaymentIdWire
    status: RefundStatus
    amount: MoneyWire
    reason: str | None = None
    ledger: LedgerView
    failure: Decline | None = None
    suspense: AccountIdWire | None = None
    receipt: FactIdWire
    created_at: InstantWire
    updated_at: InstantWire
    version: int


# ---- what payments tells -------------------------------------------------------------------------------------------


class PaymentFact(msgspec.Struct, frozen=True, kw_only=True):
    """A payment as it was when this happened: ids, amounts and states, but nothing that a person typed."""

    id: PaymentIdWire
    status: Status
    amount: MoneyWire
    captured: MoneyWire
    refunded: MoneyWire
    currency: CurrencyCode
    token: TokenIdWire | None
    """The card's token; null when it is paid from an account."""
    source: AccountIdWire | None
    """The account that pays; null when it is paid by card."""
    destination: AccountIdWire
    card: str | None
    """The card's fingerprint: the same for the same number within a tenant."""
    risk: tuple[Literal["allow", "deny", "unscored"], int | None, list[str]] | None
    """Decision, score and reasons, in this order; null until risk has decided."""
    decline: str | None
    """Why it was declined or has failed: the payment's `decline.code`."""
    declined_by: Literal["risk", "ledger", "issuer", "platform"] | None
    disputed: bool
    transfers: list[TransferIdWire]
    """What it has moved in the ledger, in order."""


class Dispute(msgspec.Struct, frozen=True):
    """As the acquirer sent them, cut to 100 and 40 characters."""

    reason: str
    raised_at: str


class DisputeFact(PaymentFact, frozen=True, kw_only=True):
    """The payment as it was when its cardholder denied it, and the dispute."""

    dispute: Dispute


class RefundFact(msgspec.Struct, frozen=True, kw_only=True):
    """A refund as it was when this happened."""

    id: RefundIdWire
    payment: PaymentIdWire
    status: RefundStatus
    amount: MoneyWire
    currency: CurrencyCode
    failure: str | None
    """Why it has failed: the refund's `failure.code`."""
    transfers: list[TransferIdWire]
    """What it has moved in the ledger, in order."""
