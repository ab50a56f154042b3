"""The noes of the ledger. Those of single operations; in a batch they are `reason`s of the transfers."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, InvalidRequest, NotFound, Problem, Unprocessable


class AccountNotFound(NotFound):
    slug, title = "account-not-found", "There is no such account, or not for you"


class AccountExists(Conflict):
    slug, title = "account-exists", "An account with this id exists and is not the same"


class AccountHasHolds(Conflict):
    slug, title = "account-has-holds", "The account can't be closed while something is held on it"


class AccountClosed(Conflict):
    slug, title = "account-closed", "The account is closed"


class TransferNotFound(NotFound):
    slug, title = "transfer-not-found", "There is no such transfer, or not for you"


class HistoryNotKept(Unprocessable):
    """Nobody may take "no answer" for "zero": before an account existed it had no balance, and the future has none yet."""

    slug, title = "history-not-kept", "The account has no balance as of that sequence or time"


class HoldNotOpen(Conflict):
    """`reason` says which: hold_already_captured, hold_already_voided or hold_expired."""

    slug, title = "hold-not-open", "The hold was captured, voided, or has expired"


class ExceedsHold(Unprocessable):
    slug, title = "exceeds-hold", "More would be captured than the hold still holds"


class ExceedsReversible(Unprocessable):
    slug, title = "exceeds-reversible", "More would be reversed than is left of the transfer"


class NotReversible(Unprocessable):
    slug, title = "not-reversible", "Only what was posted can be reversed"


class InsufficientFunds(Unprocessable):
    """`available` is what may still be spent above the account's floor, `required` what this transfer needs."""

    slug, title = "insufficient-funds", "The account's available balance would fall below its floor"


class TransferRefused(Unprocessable):
    """`reason` is the ledger's own word for it (`contracts.ledger.messages.Reason`)."""

    slug, title = "transfer-refused", "The ledger refused the transfer"


class TransferExists(Conflict):
    slug, title = "transfer-exists", "A transfer with this id exists and is not the same"


class InvalidUnit(InvalidRequest):
    slug, title = "invalid-unit", "A transfer has not the fields that its kind needs"


LEDGER_PROBLEMS: tuple[type[Problem], ...] = (
    AccountNotFound,
    AccountExists,
    AccountHasHolds,
    AccountClosed,
    TransferNotFound,
    HistoryNotKept,
    HoldNotOpen,
    ExceedsHold,
    ExceedsReversible,
    NotReversible,
    InsufficientFunds,
    TransferRefused,
    TransferExists,
    InvalidUnit,
)
