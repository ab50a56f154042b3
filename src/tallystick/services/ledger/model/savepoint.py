"""All or none: what a unit may change is copied before it begins, and put back if the unit fails."""

from __future__ import annotations

import msgspec

from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model.values import (
    Account,
    Days,
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
    """The state before a unit: its book, and every account (with its past days), hold and reversal that its commands can touch.
    `transfers` and `rejections` are the decider's lists of outcomes; a rollback cuts them back to their length at this point.
    """

    def __init__(self, unit: Unit, state: State, transfers: list[Transfer], rejections: list[Rejection]) -> None:
        self._state = state
        self._lists = (transfers, rejections)
        self._book = state.books[unit.book]
        self._before = (self._book.sequence, self._book.recorded_at, len(transfers), len(rejections))
        self._accounts: dict[AccountId, Account] = {}
        self._days: dict[AccountId, Days] = {}
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
                if (days := self._state.days.get(one)) is not None:
                    self._days[one] = Days(days.end, days.since.copy(), days.balances.copy())

    def roll_back(self) -> list[Rejection]:
        """Restores the state. Returns the refusals added since the savepoint, which are removed from the list."""
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
        state.days.update(self._days)
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
