"""What a replica knows of the books it writes to, so that it can decide before it has their lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tallystick.chassis.db import Database, Transaction
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import Key, State, Unit
from tallystick.services.ledger.store import Store

#: Accounts that are remembered from flush to flush, about 300 bytes each.
MAX_ACCOUNTS: Final = 100_000


class Head:
    """The books as of the last flush that this replica decided, which may not be stored yet. Nothing of it is believed until a transaction
    holds the books' locks and finds their sequence and revision as they are here: then everything else is as it is here too.

    `epoch` counts how often all was forgotten: what was decided before is not to be stored. Its user sees to it that one flush at a time
    is decided, and that at most one other is decided and not yet stored.
    """

    def __init__(self, store: Store, source: Database | Transaction) -> None:
        """`source`: where it reads; in a transaction that holds the books' locks it is of one use only."""
        self._store = store
        self._source = source
        self.epoch = 0
        self.state = State({}, {})
        self._last: set[Key] = set()
        self._touched: set[AccountId] = set()

    def forget(self) -> None:
        self.epoch += 1
        self.state = State({}, {})
        self._last = set()
        self._touched = set()

    async def learn(self, units: Sequence[Unit]) -> dict[int, tuple[int, int]]:
        """Makes `state` fit to decide `units` on; returns the (sequence, revision) of their books. What was stored under the ids of their
        commands is not looked up: new ids are the rule, and storing finds the others.
        """
        self._drop()
        state = self.state
        keys: set[Key] = set()
        targets: set[Key] = set()
        accounts: set[AccountId] = set()
        paths: set[tuple[int, str]] = set()
        books: set[int] = set()
        for unit in units:
            books.add(unit.book)
            if unit.header is not None:
                keys.add((unit.book, unit.header.id))
            for command in unit.commands:
                keys.add((unit.book, command.id))
                if command.target is not None:
                    targets.add((unit.book, command.target))
                for named in (command.debit, command.credit):
                    if isinstance(named, str):
                        paths.add((unit.book, named))
                    elif named is not None:
                        accounts.add(named)
        if unknown := [book for book in books if book not in state.books]:
            state.books.update(await self._store.heads(self._source, unknown))
        await self._store.learn(
            self._source,
            [key for key in targets if key not in state.transfers and key not in keys],
            [account for account in accounts if account not in state.accounts],
            [path for path in paths if path not in state.paths],
            state,
        )
        for key in targets:
            target = state.transfers.get(key)
            if target is not None:
                accounts.update((target.debit_account, target.credit_account))
        accounts.update(state.paths[path] for path in paths if path in state.paths)
        self._last = keys | targets
        self._touched = accounts
        return {number: (state.books[number].sequence, state.books[number].revision) for number in books}

    def _drop(self) -> None:
        """What the last flush was not about is stored by now, and can be read again. Accounts are kept, up to a bound."""
        state, last = self.state, self._last
        for known in (state.transfers, state.rejections, state.holds, state.reversals, state.transactions):
            for key in [key for key in known if key not in last]:
                del known[key]
        if len(state.accounts) > MAX_ACCOUNTS:
            for account in [account for account in state.accounts if account not in self._touched]:
                del state.accounts[account]
            for path in [path for path, account in state.paths.items() if account not in state.accounts]:
                del state.paths[path]
