"""Repeated ids: a repeat must be the same command, or it is told the first difference."""

from __future__ import annotations

from tallystick.contracts.ledger.messages import Reason
from tallystick.kernel.ids import TransferId
from tallystick.services.ledger.model.paths import account_ref
from tallystick.services.ledger.model.refusal import Refused
from tallystick.services.ledger.model.values import Command, Rejection, Result, State, Transfer


def check_same(state: State, book: int, command: Command, existing: Transfer) -> None:
    """Raises Refused with the first difference between the command and the transfer that has its id."""
    difference = _difference(state, book, command, existing)
    if difference is not None:
        raise Refused(difference, pinned=False)


def _difference(state: State, book: int, command: Command, existing: Transfer) -> Reason | None:
    if command.kind != existing.kind:
        return Reason.EXISTS_WITH_DIFFERENT_KIND
    if command.transaction != existing.transaction:
        return Reason.EXISTS_WITH_DIFFERENT_TRANSACTION
    if command.target != existing.target:
        return Reason.EXISTS_WITH_DIFFERENT_TARGET
    if command.debit is not None and state.account(book, command.debit) != existing.debit_account:
        return Reason.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT
    if command.credit is not None and state.account(book, command.credit) != existing.credit_account:
        return Reason.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT
    if command.balancing != (existing.asked is not None):
        return Reason.EXISTS_WITH_DIFFERENT_BALANCING
    moved = existing.asked if command.balancing else existing.amount
    # A final capture releases more than it captures, unless nothing was left; then it makes no difference whether it is final.
    if command.amount is not None and (
        command.amount != moved
        or (command.kind == "capture" and not command.final and existing.released != existing.amount)
    ):
        return Reason.EXISTS_WITH_DIFFERENT_AMOUNT
    if _wants_all(command) and _is_left(state, (book, existing.target)):
        return Reason.EXISTS_WITH_DIFFERENT_AMOUNT
    if command.currency is not None and command.currency != existing.currency:
        return Reason.EXISTS_WITH_DIFFERENT_CURRENCY
    if command.kind in ("hold", "increase") and command.expires(existing.recorded_at) != existing.expires_at:
        return Reason.EXISTS_WITH_DIFFERENT_EXPIRY
    if command.effective_at != existing.effective_at:
        return Reason.EXISTS_WITH_DIFFERENT_EFFECTIVE_TIME
    if command.code != existing.code:
        return Reason.EXISTS_WITH_DIFFERENT_CODE
    if command.metadata != existing.metadata:
        return Reason.EXISTS_WITH_DIFFERENT_METADATA
    return None


def _wants_all(command: Command) -> bool:
    """Whether the command leaves nothing of its target."""
    if command.kind == "capture":
        return command.final or command.amount is None
    return command.kind == "reverse" and command.amount is None


def _is_left(state: State, target: tuple[int, TransferId | None]) -> bool:
    """Whether part of the target is still held, or not yet reversed. A closed hold stays closed, so this always tells whether the original command
    took everything, unless a later one took the rest.
    """
    book, own = target
    if own is None:
        return False
    hold, reversal = state.holds.get((book, own)), state.reversals.get((book, own))
    return (hold is not None and hold.remaining > 0) or (reversal is not None and reversal.reversed < reversal.amount)


def refused_again(command: Command, rejection: Rejection) -> Result:
    """The same refusal, whatever the balances are now. If it is another command under that id: ID_ALREADY_FAILED."""
    if command.digest() != rejection.digest:
        return Result(command.id, "rejected", reason=Reason.ID_ALREADY_FAILED)
    return Result(
        command.id,
        "rejected",
        existed=True,
        reason=Reason(rejection.reason),
        available=rejection.available,
        required=rejection.required,
        currency=rejection.currency,
        account=None if rejection.account is None else account_ref(rejection.account),
        breached_on=rejection.breached_on,
    )
