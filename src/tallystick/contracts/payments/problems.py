"""The problems of payments. A declined payment is not a problem but a payment whose status is `declined`."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, NotFound, Unprocessable


class PaymentNotFound(NotFound):
    """No payment of the tenant has this id."""

    slug, title = "payment-not-found", "Payment not found"


class RefundNotFound(NotFound):
    """No refund of the tenant has this id."""

    slug, title = "refund-not-found", "Refund not found"


class AccountNotFound(Unprocessable):
    """An account in the request does not exist in the book `main`, the only book in which payments move money. Name one of its accounts by
    id, or open one. The idempotency key was not used up.
    """

    slug, title = "payment-account-not-found", "An account that the payment names does not exist"


class AccountReserved(Unprocessable):
    """Accounts whose path begins with `tallystick:` are the platform's own, for the acquirer and for suspense. Pay to an account of
    yours. The idempotency key was not used up.
    """

    slug, title = "payment-account-reserved", "An account that the payment names is payments' own"


class TokenNotFound(Unprocessable):
    """The tenant has no such card token, or the token was destroyed. Make one by `POST /v1/tokens`. The idempotency key was not used up."""

    slug, title = "payment-token-not-found", "The token that the payment names does not exist"


class SameAccount(Unprocessable):
    """A payment needs two different accounts. The idempotency key was not used up."""

    slug, title = "same-account", "Source and destination are the same account"


class PaymentCurrencyMismatch(Unprocessable):
    """The amount must be in `currency`, which is the account's or the payment's. An account has one currency; open another account for
    another currency. The idempotency key was not used up.
    """

    slug, title = "payment-currency-mismatch", "The amount's currency is not the account's, or not the payment's"


class CaptureNotPossible(Conflict):
    """Only a payment that was authorized with `"capture": "manual"` can be captured, and only once. `payment_status` is the payment's
    status; the detail says why it can't be captured.
    """

    slug, title = "capture-not-possible", "The payment is not in a state that can be captured"


class CancelNotPossible(Conflict):
    """`payment_status` is the payment's status; the detail says why it can't be canceled. A payment that is `received` may be authorized
    at the acquirer already, whose answer is awaited: one with `"capture": "manual"` can be canceled, with a new idempotency key, once
    it is `authorized`. Refund a settled payment instead.
    """

    slug, title = "cancel-not-possible", "The payment is not in a state that can be canceled"


class CaptureTooLarge(Unprocessable):
    """More was to be captured than was authorized. Capture at most the amount in `authorized`."""

    slug, title = "capture-too-large", "The capture exceeds the authorized amount"


class RefundNotPossible(Conflict):
    """`payment_status` is the payment's status; the detail says why it can't be refunded. Cancel a payment that was not captured instead."""

    slug, title = "refund-not-possible", "The payment is not in a state that can be refunded"


class RefundTooLarge(Unprocessable):
    """More was to be refunded than is left of the captured amount. Refund at most the amount in `refundable`."""

    slug, title = "refund-too-large", "The refund exceeds the refundable amount"
