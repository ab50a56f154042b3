"""Transfers that are looked for."""

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
        """The sequence (`low` or higher) after which, up to `high`, each of the accounts has at most `each` entries of each side."""
        reached: int = await tx.fetchval(of_search.reach, accounts, low, high, each)
        return reached

    async def found_of(  # noqa: PLR0917 - the range of sequences and what is wanted in it
        self, tx: Transaction, book: int, low: int, high: int, accounts: Sequence[AccountId], wanted: Wanted, limit: int
    ) -> list[Hit]:
        """Newest first: transfers of these accounts after the sequence `low` up to `high`. All entries of them are read."""
        rows = await tx.fetch(of_search.found_of, book, low, high, accounts, *_filters(wanted), limit)
        return [_hit(row) for row in rows]

    async def found(  # noqa: PLR0917 - the range of sequences and what is wanted in it
        self, tx: Transaction, book: int, low: int, high: int, wanted: Wanted, limit: int
    ) -> list[Hit]:
        """The same of all accounts, or of those that the wanted pattern fits. All transfers of the range are read."""
        pattern = wanted.pattern
        paths = (None, None, None) if pattern is None else (pattern.low, pattern.high, pattern.regex)
        rows = await tx.fetch(of_search.found, book, low, high, *_filters(wanted), limit, *paths)
        return [_hit(row) for row in rows]

    async def referred(self, tx: Transaction, book: int, reference: str) -> tuple[int, int] | None:
        """Their transfers are after the first sequence, up to the second; None when no transaction has this reference."""
        row = await tx.fetchrow(of_search.referred, book, reference)
        return None if row is None or row[0] is None else (row[0], row[1])

    async def before_cut(self, tx: Transaction, book: int, sequence: int) -> int:
        """The sequence, or that before the transaction which has transfers on both sides of it."""
        found: int | None = await tx.fetchval(of_search.before_cut, book, sequence)
        return sequence if found is None else found

    async def transactions_reach(self, tx: Transaction, book: int, low: int, before: int, most: int) -> int:
        """The sequence (`low` or higher) after which, and before `before`, at most `most` transactions begin."""
        reached: int = await tx.fetchval(of_search.transactions_reach, book, low, before, most)
        return reached

    async def transactions_found(  # noqa: PLR0917 - the range of sequences and what is wanted in it
        self, tx: Transaction, book: int, low: int, before: int, wanted: Wanted, limit: int
    ) -> list[TransactionRow]:
        """Newest first: transactions that begin after the sequence `low` and before `before`. The wanted account is an id."""
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
