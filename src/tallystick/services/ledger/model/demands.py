"""Which approvals the rules of a book demand for a unit. Pure."""

from __future__ import annotations

import msgspec

from tallystick.kernel.ids import TransferId
from tallystick.services.ledger.model.approvals import ApprovalRule, Movement, needed
from tallystick.services.ledger.model.values import Account, Command, State, Unit


class _Made(msgspec.Struct):
    """A transfer that a later command may target: a stored one, or one of the unit itself. `amount` is the most that can still be captured,
    reversed or the like.
    """

    debit: Account | None
    credit: Account | None
    amount: int
    currency: str


def demanded(state: State, unit: Unit) -> tuple[ApprovalRule, ...]:
    """The rules whose approvals the unit as a whole needs. Empty for a repeat of what is posted, or of what was refused, which stays refused."""
    keys = [(unit.book, command.id) for command in unit.commands]
    if all(key in state.transfers for key in keys) or any(key in state.rejections for key in keys):
        return ()
    made: dict[TransferId, _Made] = {}
    moves = (_movement(state, unit.book, command, made) for command in unit.commands)
    return needed(state.books[unit.book].approvals, (move for move in moves if move is not None))


def _movement(state: State, book: int, command: Command, made: dict[TransferId, _Made]) -> Movement | None:
    """What a command would newly move or hold; None if it only continues what was approved before. `made` are the transfers of the unit so far,
    which an increase or a reversal may target as it may any other. An increase of an existing hold counts with the full amount held
    afterwards, because a capture takes that at once, no matter in how many steps it was built up.
    """
    held = 0
    if command.target is None:
        named = state.account(book, command.debit), state.account(book, command.credit)
        debit, credit = (None if each is None else state.accounts.get(each) for each in named)
        new = _Made(debit, credit, command.amount or 0, command.currency or "")
    else:
        target = made.get(command.target) or _stored(state, book, command.target)
        if target is None:
            return None
        new = _Made(
            target.debit, target.credit, target.amount if command.amount is None else command.amount, target.currency
        )
        if command.kind == "increase":
            hold = None if command.target in made else state.holds.get((book, command.target))
            held = 0 if hold is None else hold.amount
            made[command.target] = _Made(target.debit, target.credit, target.amount + new.amount, target.currency)
    made[command.id] = new
    if command.kind in ("capture", "void", "expire"):
        return None
    if new.debit is not None and new.debit.transit:
        return (
            None  # it comes from another book, where it passed the rules; any other use of a transit account is refused
        )
    return Movement(
        None if new.debit is None else new.debit.path,
        None if new.credit is None else new.credit.path,
        held + new.amount,
        new.currency,
    )


def _stored(state: State, book: int, target: TransferId) -> _Made | None:
    transfer = state.transfers.get((book, target))
    if transfer is None:
        return None
    hold, reversal = state.holds.get((book, target)), state.reversals.get((book, target))
    debit, credit = state.accounts.get(transfer.debit_account), state.accounts.get(transfer.credit_account)
    left = transfer.amount - (0 if reversal is None else reversal.reversed)
    return _Made(debit, credit, left if hold is None else hold.remaining, transfer.currency)
