"""All or none: what a unit may change is kept before it begins."""

from __future__ import annotations

import msgspec

from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model.values import (
    Account,
    Drawn,
    Hold,
    Key,
    Rejection,
    Reversal,
    State,
    Transfer,
    Unit,
)


class Savepoint:
    """The book, and each account, hold and reversal that the unit's commands can touch, as they were. `transfers` and `rejections` are the
    lists that what was decided is added to. Past days are changed with a unit's last transfer, when nothing can fail any more.
    """

    def __init__(self, unit: Unit, state: State, transfers: list[Transfer], rejections: list[Rejection]) -> None:
        self._state = state
        self._lists = (transfers, rejections)
        self._book = state.books[unit.book]
        self._before = (self._book.sequence, self._book.recorded_at, len(transfers), len(rejections))
        self._accounts: dict[AccountId, Account] = {}
        self._holds: dict[Key, Hold | None] = {}
        self._reversals: dict[Key, Reversal | None] = {}
        for command in unit.commands:
            self._keep(state.account(unit.book, command.debit), state.account(unit.book, command.credit))
            key = (unit.book, command.id)
            self._holds.setdefault(key, _copied(state.holds.get(key)))
            if command.target is not None:
                target = (unit.book, command.target)
                hold, original = state.holds.get(target), state.transfers.get(target)
                self._holds.setdefault(target, _copied(hold))
                self._reversals.setdefault(target, _copied(state.reversals.get(target)))
                for about in (hold, original):
                    if about is not None:
                        self._keep(about.debit_account, about.credit_account)

    def _keep(self, *ids: AccountId | None) -> None:
        accounts = self._state.accounts
        for one in ids:
            if one is not None and one not in self._accounts and one in accounts:
                self._accounts[one] = msgspec.structs.replace(accounts[one])

    def roll_back(self) -> list[Rejection]:
        """Makes everything what it was. Returns the refusals that were added since, which are gone from the list too."""
        state = self._state
        transfers, rejections = self._lists
        self._book.sequence, self._book.recorded_at, first, first_no = self._before
        undone = rejections[first_no:]
        for transfer in transfers[first:]:
            del state.transfers[transfer.book, transfer.id]
        for rejection in undone:
            del state.rejections[rejection.book, rejection.id]
        del transfers[first:]
        del rejections[first_no:]
        state.accounts.update(self._accounts)
        _restore(state.holds, self._holds)
        _restore(state.reversals, self._reversals)
        return undone


def _copied(value: Drawn | None) -> Drawn | None:
    return None if value is None else msgspec.structs.replace(value)


def _restore(current: dict[Key, Drawn], before: dict[Key, Drawn | None]) -> None:
    for key, value in before.items():
        if value is None:
            current.pop(key, None)
        else:
            current[key] = value
