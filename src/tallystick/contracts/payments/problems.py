"""The noes of payments. A declined payment is none of them: it is a payment whose status is `declined`."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, NotFound, Unprocessable


class PaymentNotFound(NotFound):
    """No payment of the tenant has this id."""

    slug, title = "payment-not-found", "There is no such payment"


class RefundNotFound(NotFound):
    """No refund of the tenant has this id."""

    slug, title = "refund-not-found", "There is no such refund"


class AccountNotFound(Unprocessable):
    """Payments move money in the book `main` only. Name an account of it by its id, or open one. The idempotency key is still free."""

    slug, title = "payment-account-not-found", "An account that the payment names does not exist"


class AccountReserved(Unprocessable):
    """The accounts below `tallystick:` stand for the acquirer and for suspense. Pay to an account of yours. The idempotency key is still free."""

    slug, title = "payment-account-reserved", "An account that the payment names is payments' own"


class TokenNotFound(Unprocessable):
    """The tenant has no such token of a card, or it was destroyed. Make one by `POST /v1/tokens`. The idempotency key is still free."""

    slug, title = "payment-token-not-found", "The token that the payment names does not exist"


class SameAccount(Unprocessable):
    """Name two accounts. The idempotency key is still free."""

    slug, title = "same-account", "Source and destination are the same account"


class PaymentCurrencyMismatch(Unprocessable):
    """`currency` is the one that fits. An account has one currency; for another open another. The idempotency key is still free."""

    slug, title = "payment-currency-mismatch", "The amount's currency is not the account's, or not the payment's"


class CaptureNotPossible(Conflict):
    """`payment_status` is what the payment is, the detail says why. Only one that was authorized with `"capture": "manual"` is captured, once."""

    slug, title = "capture-not-possible", "The payment is not in a state that can be captured"


class CancelNotPossible(Conflict):
    """`payment_status` is what the payment is, the detail says why. One that is `received` may be authorized at the acquirer already, whose answer
    is awaited: with `"capture": "manual"` cancel it, under a new key, when it is `authorized`. What was settled is refunded instead.
    """

    slug, title = "cancel-not-possible", "The payment is not in a state that can be canceled"


class CaptureTooLarge(Unprocessable):
    """`authorized` is what may be captured. Capture at most that."""

    slug, title = "capture-too-large", "More than was authorized can't be captured"


class RefundNotPossible(Conflict):
    """`payment_status` is what the payment is, the detail says why. What was not captured is canceled instead."""

    slug, title = "refund-not-possible", "The payment is not in a state that can be refunded"


class RefundTooLarge(Unprocessable):
    """`refundable` is what is left. Refund at most that."""

    slug, title = "refund-too-large", "More than was captured and is not refunded yet can't be refunded"
