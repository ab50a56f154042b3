"""Imports and exports: staged lines, and accounts in bulk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from tallystick.chassis.db import Database, Row, Transaction, arguments
from tallystick.kernel.ids import AccountId, ImportId
from tallystick.services.ledger.model import (
    AccountRow,
    FileLine,
    ImportRow,
    NewAccount,
    Refusal,
    Tally,
    TransactionRow,
)
from tallystick.services.ledger.store.sql import of_imports as queries


class Imports:
    """The first methods take an import through its states; the others serve its run, and exports."""

    async def insert(self, tx: Transaction, row: ImportRow) -> bool:
        """False when the same content was imported, or is being imported, into the book in the same mode."""
        return await tx.fetchval(
            queries.insert_import, row.id, row.book, row.tenant, row.actor, row.mode, row.dry_run, row.rows, row.sha256,
            row.wanted_sequence, row.created_at,
        ) is not None  # fmt: skip

    async def of_content(
        self, tx: Transaction, book: int, sha256: bytes, mode: str, *, dry_run: bool
    ) -> ImportRow | None:
        return _import(await tx.fetchrow(queries.import_of_content, book, sha256, mode, dry_run))

    async def get(self, source: Database | Transaction, tenant: str, own: ImportId) -> ImportRow | None:
        return _import(await source.fetchrow(queries.import_by_id, own, tenant))

    async def lock(self, tx: Transaction, own: ImportId) -> str:
        """The import's state; it is locked, so that nobody else changes it until this transaction ends."""
        state: str = await tx.fetchval(queries.lock_import, own)
        return state

    async def lock_queued(self, tx: Transaction, job: ImportRow) -> ImportRow | None:
        """`job` as far as it got by now, locked; None when it is not queued any more. Another replica may have run it since it was read."""
        row = await tx.fetchrow(queries.lock_import, job.id)
        if row is None or row["state"] != "queued":
            return None
        state, *tally = row
        del state
        return msgspec.structs.replace(job, **msgspec.structs.asdict(Tally(*tally)))

    async def share(self, tx: Transaction, own: ImportId) -> str:
        """As `lock`, but shared."""
        state: str = await tx.fetchval(queries.share_import, own)
        return state

    async def stage(self, tx: Transaction, own: ImportId, lines: Iterable[tuple[int, bool, str]]) -> int:
        """How many of the lines are new."""
        return len(await tx.fetch(queries.stage, own, *arguments(lines, 3)))

    async def count_staged(self, tx: Transaction, own: ImportId) -> int:
        count: int = await tx.fetchval(queries.count_staged, own)
        return count

    async def queue(self, tx: Transaction, own: ImportId) -> None:
        await tx.execute(queries.queue_import, own)

    async def next(self, database: Database, now: datetime, latest: datetime) -> ImportRow | None:
        """The oldest queued import that does not wait now. None waits for longer than up to `latest`."""
        return _import(await database.fetchrow(queries.next_import, now, latest))

    async def tried(self, database: Database, own: ImportId, since: datetime, due: datetime) -> int | None:
        """Counts one more run, and lets the import wait up to `due` if that does not get any further; `since` if it did not wait before. Returns
        the number of runs, or None when the import is not queued any more.
        """
        tries: int | None = await database.fetchval(queries.try_import, own, since, due)
        return tries

    async def runs(self, tx: Transaction, own: ImportId) -> tuple[int, datetime | None]:
        """The runs that are counted since the import got further, and since when it has been waiting."""
        row = await tx.fetchrow(queries.runs_of_import, own)
        return (0, None) if row is None else (row[0], row[1])

    async def put_off(
        self, tx: Transaction, own: ImportId, since: datetime, due: datetime, reason: str, *, uncounted: bool
    ) -> None:
        """Lets the import wait up to `due`. `uncounted`: its last run is not counted, since it was not the import's fault."""
        await tx.execute(queries.put_off_import, own, since, due, reason, uncounted)

    async def lines(self, tx: Transaction, own: ImportId, after: int, limit: int) -> list[FileLine]:
        return [FileLine(*row) for row in await tx.fetch(queries.staged, own, after, limit)]

    async def settings(self, tx: Transaction, own: ImportId, after: int, limit: int) -> list[FileLine]:
        """Lines that are not transfers and were not refused."""
        return [FileLine(*row) for row in await tx.fetch(queries.staged_settings, own, after, limit)]

    async def progress(self, tx: Transaction, own: ImportId, tally: Tally) -> None:
        await tx.execute(
            queries.progress, own, tally.line, tally.accounts, tally.accounts_known, tally.transfers,
            tally.transfers_known, tally.refused,
        )  # fmt: skip

    async def refuse(self, tx: Transaction, own: ImportId, refusals: Iterable[Refusal]) -> None:
        await tx.execute(queries.insert_refusals, own, *arguments(refusals, 4))

    async def refusals(self, database: Database, own: ImportId, after: int, limit: int) -> list[Refusal]:
        return [Refusal(*row) for row in await database.fetch(queries.refusals, own, after, limit)]

    async def finish(  # noqa: PLR0917 - the columns
        self, tx: Transaction, own: ImportId, state: str, reason: str | None, sequence: int | None, now: datetime
    ) -> None:
        await tx.execute(queries.finish_import, own, state, reason, sequence, now)
        await tx.execute(queries.forget_lines, own)

    async def stale(self, database: Database, before: datetime) -> list[ImportId]:
        return [row[0] for row in await database.fetch(queries.stale_imports, before)]

    # ---- the run ----------------------------------------------------------------------------------------------------

    async def has_accounts(self, tx: Transaction, book: int) -> bool:
        found: bool = await tx.fetchval(queries.book_has_accounts, book)
        return found

    async def as_they_are(
        self, tx: Transaction, accounts: Sequence[AccountId]
    ) -> dict[AccountId, tuple[int, NewAccount]]:
        """Those of these accounts that exist, each with the number of its book."""
        found = {}
        for row in await tx.fetch(queries.accounts_as_they_are, accounts):
            columns = dict(row.items())
            book = columns.pop("book")
            found[row["id"]] = (book, NewAccount(**columns))
        return found

    async def paths(self, tx: Transaction, book: int, paths: Sequence[str]) -> dict[str, AccountId]:
        return {row[0]: row[1] for row in await tx.fetch(queries.paths_taken, book, paths)}

    async def insert_accounts(self, tx: Transaction, book: int, accounts: Iterable[NewAccount], now: datetime) -> None:
        rows = (
            (a.id, a.name, a.path, a.kind, a.currency, a.normal_side, a.floor, a.ceiling, a.code, a.metadata)
            for a in accounts
        )
        await tx.execute(queries.insert_accounts, book, now, *arguments(rows, 10))

    async def limit(
        self, tx: Transaction, book: int, limits: Iterable[tuple[AccountId, int | None, int | None]]
    ) -> None:
        """Sets floors and ceilings. Raises CheckViolation when an account does not keep them."""
        await tx.execute(queries.limit_accounts, book, *arguments(limits, 3))

    # ---- exports ----------------------------------------------------------------------------------------------------

    async def exported(self, tx: Transaction, book: int, after: UUID, upto: int, limit: int) -> list[AccountRow]:
        """Accounts that existed at the sequence `upto`, by id."""
        return [
            AccountRow(**dict(row.items()))
            for row in await tx.fetch(queries.exported_accounts, book, after, upto, limit)
        ]

    async def transactions_between(self, tx: Transaction, book: int, first: int, last: int) -> list[TransactionRow]:
        return [TransactionRow(*row) for row in await tx.fetch(queries.transactions_between, book, first, last)]

    async def transaction_around(self, tx: Transaction, book: int, sequence: int) -> tuple[int, int] | None:
        """First and last sequence of the transaction to which the transfer with this sequence belongs; None if it belongs to none."""
        row = await tx.fetchrow(queries.transaction_around, book, sequence)
        return None if row is None else (row[0], row[1])


def _import(row: Row | None) -> ImportRow | None:
    return None if row is None else ImportRow(**dict(row.items()))
