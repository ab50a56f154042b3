"""What a replica knows of the books it writes to. It allows deciding before the books are locked."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from tallystick.chassis.db import Database, Transaction
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import Key, Stand, State, Unit
from tallystick.services.ledger.service.order import STORED
from tallystick.services.ledger.store import Store

#: Accounts cached from flush to flush, about 300 bytes each.
MAX_ACCOUNTS: Final = 100_000


class Head:
    """The books as of the last flush that this replica decided, which may not be stored yet. It is only a guess until a transaction holds the
    books' locks and finds them at the same `Stand`; then everything else here is right too.

    `epoch` counts how often the cache was dropped; a plan of an earlier epoch must not be stored. The caller ensures that one flush is decided
    at a time, and that at most `STORED` others are decided and not yet stored.
    """

    def __init__(self, store: Store, source: Database | Transaction) -> None:
        """`source` is where it reads. If that is a transaction holding the books' locks, the head can be used once only."""
        self._store = store
        self._source = source
        self.epoch = 0
        self.state = State({}, {})
        #: The keys and accounts of the last flushes, the latest one last.
        self._recent: deque[tuple[set[Key], set[AccountId]]] = deque()

    def forget(self) -> None:
        self.epoch += 1
        self.state = State({}, {})
        self._recent.clear()

    def follow(self, other: Head) -> None:
        """Takes over the knowledge of another head, which must not be used any more."""
        self.epoch += 1
        self.state, self._recent = other.state, other._recent

    async def learn(self, units: Sequence[Unit]) -> dict[int, Stand]:
        """Loads into `state` what deciding `units` needs, and returns the stand of their books. It does not look up whether the ids of their
        commands exist: ids are usually new, and storing finds the others.
        """
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
        self._drop(keys | targets, accounts)
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
        return {number: state.books[number].stand for number in books}

    def _drop(self, keys: set[Key], accounts: set[AccountId]) -> None:
        """Drops what is no longer needed; `keys` and `accounts` are those of the next flush. Transfers of flushes that are surely stored are
        dropped, since they can be read again. Accounts are kept up to a bound, with one exception: accounts that the last flush named and that
        belong to a book it was not about. The stand of their book when they were read is unknown, so a later comparison of stands would
        prove nothing about them.
        """
        state, recent = self.state, self._recent
        for account in recent[-1][1] if recent else ():
            if (read := state.accounts.get(account)) is not None and read.book not in state.books:
                del state.accounts[account]
        recent.append((keys, accounts))
        if len(recent) > STORED + 1:
            gone, _ = recent.popleft()
            gone.difference_update(*(keys for keys, _ in recent))
            for known in (state.transfers, state.rejections, state.holds, state.reversals, state.transactions):
                if known:
                    for key in gone:
                        known.pop(key, None)
        if len(state.accounts) > MAX_ACCOUNTS:
            touched = set().union(*(accounts for _, accounts in recent))
            for account in [account for account in state.accounts if account not in touched]:
                del state.accounts[account]
            for path in [path for path, account in state.paths.items() if account not in state.accounts]:
                del state.paths[path]
