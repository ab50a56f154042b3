"""The client's side of an import: announce it, stage its lines, start it, and read its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database, Transaction
from tallystick.contracts.ledger.messages import MAX_WHOLE, ImportLine, NewImport, TransactionRecord, TransferRecord
from tallystick.contracts.ledger.problems import ImportIncomplete, ImportNotFound, ImportNotOpen, ImportTooLarge
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import ImportId
from tallystick.kernel.problem import InvalidRequest
from tallystick.services.ledger.model import ImportRow, Refusal
from tallystick.services.ledger.service.books import Who
from tallystick.services.ledger.service.poster import Poster
from tallystick.services.ledger.store import Imports as ImportStore

#: An import that is not started within this time is given up.
ABANDONED: Final = timedelta(hours=24)


class Imports:
    def __init__(self, *, database: Database, store: ImportStore, clock: Clock, poster: Poster) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._poster = poster

    async def announce(self, who: Who, new: NewImport) -> tuple[ImportRow, bool]:
        """The import, and whether it is new: the same content is imported into a book only once in the same mode.

        Raises BookNotFound, ImportTooLarge.
        """
        tenant, actor, _ = who
        if new.rows > MAX_WHOLE and (new.mode == "whole" or new.dry_run):
            what = "a trial goes through all of it at once" if new.dry_run else "import it in parts"
            raise ImportTooLarge(f"more than {MAX_WHOLE:,} records: {what}", most=MAX_WHOLE)
        number = await self._poster.book(tenant, new.book)
        sha256 = bytes.fromhex(new.sha256)
        row = ImportRow(
            id=ids.imports.new(),
            book=number,
            book_name=new.book,
            tenant=tenant,
            actor=actor,
            mode=new.mode,
            dry_run=new.dry_run,
            state="open",
            rows=new.rows,
            sha256=sha256,
            wanted_sequence=new.sequence,
            staged=0,
            line=0,
            tries=0,
            accounts=0,
            accounts_known=0,
            transfers=0,
            transfers_known=0,
            refused=0,
            reason=None,
            sequence=None,
            created_at=self._clock.now(),
            finished_at=None,
        )
        async with self._database.transaction() as tx:
            if await self._store.insert(tx, row):
                return row, True
            found = await self._store.of_content(tx, number, sha256, new.mode, dry_run=new.dry_run)
        if found is None:
            raise ImportNotFound("it was finished at this moment; ask again")
        return found, False

    async def stage(self, tenant: str, own: ImportId, lines: Sequence[ImportLine], texts: Sequence[str]) -> ImportRow:
        """Stores lines until the import runs; `texts` are their records as JSON. Lines that were staged before stay as they are. Returns the import
        with these lines counted.

        Raises ImportNotFound, ImportNotOpen, and InvalidRequest for more lines than were announced.
        """
        async with self._database.transaction() as tx:
            row = await self._found(tenant, own, tx)
            if (state := await self._store.share(tx, own)) != "open":
                raise ImportNotOpen(state=state)
            new = await self._store.stage(
                tx,
                own,
                (
                    (line.line, isinstance(line.record, TransferRecord | TransactionRecord), text)
                    for line, text in zip(lines, texts, strict=True)
                ),
            )
            if row.staged + new > row.rows:
                raise InvalidRequest(f"{row.rows} records were announced, and these are more")
        return msgspec.structs.replace(row, staged=row.staged + new)

    async def start(self, tenant: str, own: ImportId) -> ImportRow:
        """Queues the import once all its lines are staged. Repeating it is harmless. Raises ImportNotFound, ImportIncomplete."""
        row = await self._found(tenant, own)
        async with self._database.transaction() as tx:
            if await self._store.lock(tx, own) == "open":
                staged = await self._store.count_staged(tx, own)
                if staged != row.rows:
                    raise ImportIncomplete(rows=row.rows, staged=staged)
                await self._store.queue(tx, own)
        return await self._found(tenant, own)

    async def get(self, tenant: str, own: ImportId) -> ImportRow:
        """Raises ImportNotFound."""
        return await self._found(tenant, own)

    async def refusals(self, tenant: str, own: ImportId, after: int, limit: int) -> list[Refusal]:
        """A page of refused lines, after the line `after`. Raises ImportNotFound."""
        await self._found(tenant, own)
        return await self._store.refusals(self._database, own, after, limit)

    async def give_up(self) -> None:
        """Ends imports that were announced but never started, and deletes their lines."""
        now = self._clock.now()
        for own in await self._store.stale(self._database, now - ABANDONED):
            async with self._database.transaction() as tx:
                if await self._store.lock(tx, own) == "open":
                    await self._store.finish(tx, own, "failed", "its lines stopped coming", None, now)
                    telemetry.log.info("ledger.import.abandoned", **{"import": ids.imports.text(own)})

    async def _found(self, tenant: str, own: ImportId, tx: Transaction | None = None) -> ImportRow:
        row = await self._store.get(tx or self._database, tenant, own)
        if row is None:
            raise ImportNotFound
        return row
