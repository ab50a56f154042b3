"""The noes of payments. A declined payment is none of them: it is a payment whose status is `declined`."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, NotFound, Unprocessable


class PaymentNotFound(NotFound):
    slug, title = "payment-not-found", "There is no such payment"


class RefundNotFound(NotFound):
    slug, title = "refund-not-found", "There is no such refund"


class AccountNotFound(Unprocessable):
    slug, title = "payment-account-not-found", "An account that the payment names does not exist"


class AccountReserved(Unprocessable):
    slug, title = "payment-account-reserved", "An account that the payment names is payments' own"


class TokenNotFound(Unprocessable):
    slug, title = "payment-token-not-found", "The token that the payment names does not exist"


class SameAccount(Unprocessable):
    slug, title = "same-account", "Source and destination are the same account"


class PaymentCurrencyMismatch(Unprocessable):
    slug, title = "payment-currency-mismatch", "The amount's currency is not the account's, or not the payment's"


class CaptureNotPossible(Conflict):
    slug, title = "capture-not-possible", "The payment is not in a state that can be captured"


class CancelNotPossible(Conflict):
    slug, title = "cancel-not-possible", "The payment is not in a state that can be canceled"


class CaptureTooLarge(Unprocessable):
    slug, title = "capture-too-large", "More than was authorized can't be captured"


class RefundNotPossible(Conflict):
    slug, title = "refund-not-possible", "The payment is not in a state that can be refunded"


class RefundTooLarge(Unprocessable):
    slug, title = "refund-too-large", "More than was captured and is not refunded yet can't be refunded"
