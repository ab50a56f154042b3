"""Which approvals a unit of commands demands, by the rules of its book. Pure."""

from __future__ import annotations

from tallystick.services.ledger.model.approvals import ApprovalRule, Movement, needed
from tallystick.services.ledger.model.values import Command, State, Unit


def demanded(state: State, unit: Unit) -> tuple[ApprovalRule, ...]:
    """The rules whose approvals the unit needs as a whole; none if it needs none, or is a repeat of what is posted."""
    if all((unit.book, command.id) in state.transfers for command in unit.commands):
        return ()
    moves = (_movement(state, unit.book, command) for command in unit.commands)
    return needed(state.books[unit.book].approvals, (move for move in moves if move is not None))


def _movement(state: State, book: int, command: Command) -> Movement | None:
    """What a command would move or hold anew; None for what only goes on with what was approved before."""
    if command.kind in ("capture", "void", "expire"):
        return None
    if command.target is not None:
        target = state.transfers.get((book, command.target))
        if target is None:
            return None
        debit, credit = state.accounts.get(target.debit_account), state.accounts.get(target.credit_account)
        amount = target.amount if command.amount is None else command.amount
        currency = target.currency
    else:
        named = state.account(book, command.debit), state.account(book, command.credit)
        debit, credit = (None if each is None else state.accounts.get(each) for each in named)
        amount, currency = command.amount or 0, command.currency or ""
    if debit is not None and debit.transit:
        return None  # it comes from another book, whose rules it has passed
    return Movement(None if debit is None else debit.path, None if credit is None else credit.path, amount, currency)
