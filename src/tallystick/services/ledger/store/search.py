"""Search for transfers and transactions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tallystick.chassis.db import Row, Transaction
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import Hit, Pattern, TransactionRow, Wanted
from tallystick.services.ledger.store.posting import transfer_of
from tallystick.services.ledger.store.sql import of_search


class Search:
    async def accounts_fitting(self, tx: Transaction, book: int, pattern: Pattern, limit: int) -> list[AccountId]:
        rows = await tx.fetch(of_search.accounts_fitting, book, pattern.low, pattern.high, pattern.regex, limit)
        return [row[0] for row in rows]

    async def reach(self, tx: Transaction, accounts: Sequence[AccountId], low: int, high: int, each: int) -> int:
        """The lowest sequence (at least `low`) such that each account has at most `each` entries per side after it, up to `high`."""
        reached: int = await tx.fetchval(of_search.reach, accounts, low, high, each)
        return reached

    async def found_of(  # noqa: PLR0917 - the range of sequences and what is wanted in it
        self, tx: Transaction, book: int, low: int, high: int, accounts: Sequence[AccountId], wanted: Wanted, limit: int
    ) -> list[Hit]:
        """Matching transfers of these accounts after the sequence `low` up to `high`, newest first. Reads all their entries in that range."""
        rows = await tx.fetch(of_search.found_of, book, low, high, accounts, *_filters(wanted), limit)
        return [_hit(row) for row in rows]

    async def found(  # noqa: PLR0917 - the range of sequences and what is wanted in it
        self, tx: Transaction, book: int, low: int, high: int, wanted: Wanted, limit: int
    ) -> list[Hit]:
        """Matching transfers of all accounts, or of those that the wanted pattern matches. Reads all transfers of the range."""
        pattern = wanted.pattern
        paths = (None, None, None) if pattern is None else (pattern.low, pattern.high, pattern.regex)
        rows = await tx.fetch(of_search.found, book, low, high, *_filters(wanted), limit, *paths)
        return [_hit(row) for row in rows]

    async def referred(self, tx: Transaction, book: int, reference: str) -> tuple[int, int] | None:
        """The range of the transactions with this reference: their transfers are after the first sequence, up to the second. None if there are none."""
        row = await tx.fetchrow(of_search.referred, book, reference)
        return None if row is None or row[0] is None else (row[0], row[1])

    async def before_cut(self, tx: Transaction, book: int, sequence: int) -> int:
        """The sequence itself. If it would cut a transaction in two, the sequence before that transaction."""
        found: int | None = await tx.fetchval(of_search.before_cut, book, sequence)
        return sequence if found is None else found

    async def transactions_reach(self, tx: Transaction, book: int, low: int, before: int, most: int) -> int:
        """The lowest sequence (at least `low`) such that at most `most` transactions begin after it and before `before`."""
        reached: int = await tx.fetchval(of_search.transactions_reach, book, low, before, most)
        return reached

    async def transactions_found(  # noqa: PLR0917 - the range of sequences and what is wanted in it
        self, tx: Transaction, book: int, low: int, before: int, wanted: Wanted, limit: int
    ) -> list[TransactionRow]:
        """Matching transactions that begin after the sequence `low` and before `before`, newest first. The wanted account must be an id."""
        pattern = wanted.pattern
        key, value = (None, None) if wanted.metadata is None else wanted.metadata
        of_transfers = (wanted.kind, wanted.code, wanted.currency, wanted.minimum, wanted.maximum, wanted.account)
        rows = await tx.fetch(
            of_search.transactions_found, book, low, before, key, value, wanted.reference, wanted.effective_from, wanted.effective_to,
            pattern is not None or any(one is not None for one in of_transfers), *of_transfers,
            *((None, None, None) if pattern is None else (pattern.low, pattern.high, pattern.regex)), limit,
        )  # fmt: skip
        return [TransactionRow(*row) for row in rows]


def _filters(wanted: Wanted) -> tuple[str | int | datetime | None, ...]:
    key, value = (None, None) if wanted.metadata is None else wanted.metadata
    return (
        wanted.kind, wanted.code, wanted.currency, wanted.minimum, wanted.maximum, key, value, wanted.reference, wanted.effective_from,
        wanted.effective_to,
    )  # fmt: skip


def _hit(row: Row) -> Hit:
    return Hit(
        transfer_of(row),
        (row["dr_debit_normal"], row["cr_debit_normal"]),
        (row["dr_path"], row["cr_path"]),
        (row["dr_fits"], row["cr_fits"]),
    )
