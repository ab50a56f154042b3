"""Runs imports one after another, on the leading replica.

A whole import is one transaction: nobody sees half of it, and a crash leaves nothing. An import in parts stores a thousand lines and its
progress in each transaction, so it continues where it was. A restoration (its lines begin with a book's own record) sets the book's settings,
its chart and its accounts' limits at the end, when everything that they have to fit is there.

A run that fails because of what passes (the database is away, the book is locked for long) is repeated after a pause that grows, and meanwhile
the others run. What the rules refuse is final. So is what would never end: it takes too long, or its process is killed, each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database, DatabaseError, DatabaseUnavailable, Transaction
from tallystick.chassis.outbox import Fact, Outbox
from tallystick.contracts.ledger.messages import (
    BookRecord,
    ImportDone,
    Record,
)
from tallystick.contracts.ledger.problems import BookNotFound
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.problem import DeadlineExceeded, Problem
from tallystick.services.ledger.model import LONGEST, ImportRow, Refusal, Tally, pause
from tallystick.services.ledger.service.books import NO_CHART, check_writable
from tallystick.services.ledger.service.imports.settings import Settings, Wrong
from tallystick.services.ledger.service.imports.taking import Taking
from tallystick.services.ledger.store import Imports as ImportStore
from tallystick.services.ledger.store import Store

#: Lines of one part, if nothing else is said.
PART: Final = 1000
#: A whole import stops after about this many refused lines.
NAMED: Final = 1000
#: How long an import waits for what keeps it from being run.
PATIENCE: Final = timedelta(hours=24)
#: Most runs in a row without progress of which the end is not known, since their process was killed; and most that took too long.
CUT_OFF: Final = 10
TOO_LONG: Final = 3
#: Seconds of one turn of the schedule. An import in parts goes on in the next.
TURN_S: Final = 20.0
#: Seconds that the transaction of a whole import may take, and each of its statements. While it is open, no service's later facts are relayed
#: (see the outbox), and writers of its book wait. Hence this bound, and MAX_WHOLE for its lines.
WHOLE_S: Final = 30.0
STATEMENT_S: Final = 10.0

_LINES = telemetry.counter("ledger_import_lines", "Lines of imports, by what became of them", ["result"])
_decode = msgspec.json.Decoder(Record).decode


def monotonic() -> float:
    """Seconds by the event loop's clock."""
    return asyncio.get_running_loop().time()


class _Undo(Exception):
    """Rolls back an import with a wrong line, or a trial. Nothing of the transaction is stored."""

    def __init__(self, taking: Taking) -> None:
        super().__init__()
        self.taking = taking


class _TooLong(Exception):
    """A transaction took longer than it may, though the database answers. It may be busy, or this is too much for one transaction."""


class Runner:
    #: Lines of one part.
    part: int = PART

    def __init__(self, *, database: Database, store: Store, imports: ImportStore, outbox: Outbox, clock: Clock) -> None:
        self._database = database
        self._store = store
        self._imports = imports
        self._outbox = outbox
        self._clock = clock
        self._patient: Database | None = None

    async def close(self) -> None:
        if self._patient is not None:
            await self._patient.close()

    async def turn(self) -> None:
        """Runs what is queued, oldest first, for a while."""
        begun = monotonic()
        while monotonic() - begun < TURN_S:
            now = self._clock.now()
            job = await self._imports.next(self._database, now, now + LONGEST)
            if job is None:
                return
            since = job.waiting_since or now
            tries = await self._imports.tried(self._database, job.id, since, now + pause(since, now))
            if tries is None:
                continue
            if tries > CUT_OFF:
                await self._fail(job, f"it was cut off {CUT_OFF} times and never came to an end", [])
                continue
            await self._run(job, begun)

    async def _run(self, job: ImportRow, begun: float) -> None:
        try:
            if job.mode == "whole" or job.dry_run:
                await self._whole(job)
            else:
                await self._in_parts(job, begun)
        except Wrong as wrong:
            await self._fail(job, str(wrong), [])
        except DatabaseError as error:
            telemetry.log.error("ledger.import.guard", constraint=error.constraint, error=error)
            await self._fail(job, f"the database refused what the rules allowed ({error.constraint})", [])
        except _TooLong:
            await self._wait(job, "It took too long", too_long=True)
        except Problem as problem:
            if problem.retryable:
                await self._wait(job, problem.title)
            else:
                await self._fail(job, problem.detail or problem.title, [])

    async def _wait(self, job: ImportRow, why: str, *, too_long: bool = False) -> None:
        """Puts the import off because of something that passes, unless that has lasted for too long."""
        now = self._clock.now()
        over: str | None = None
        async with self._database.transaction() as tx:
            if await self._imports.lock(tx, job.id) != "queued":
                return
            tries, since = await self._imports.runs(tx, job.id)
            since = since or now
            if too_long and tries >= TOO_LONG:
                over = "it took too long, several times" + ("; import it in parts" if job.mode == "whole" else "")
            elif now - since >= PATIENCE:
                over = f"it waited for {PATIENCE // timedelta(hours=1)} hours. {why}"
            else:
                await self._imports.put_off(tx, job.id, since, now + pause(since, now), why, uncounted=not too_long)
        if over is not None:
            await self._fail(job, over, [])
            return
        telemetry.log.warning("ledger.import.waits", **{"import": ids.imports.text(job.id), "reason": why})

    @asynccontextmanager
    async def _transaction(self, database: Database) -> AsyncIterator[Transaction]:
        """Raises _TooLong, and what a transaction does."""
        started = monotonic()
        try:
            async with database.transaction() as tx:
                yield tx
        except (DatabaseUnavailable, DeadlineExceeded) as late:
            if monotonic() - started < database.bounds.statement_s:
                raise
            raise _TooLong from late

    # ---- whole ------------------------------------------------------------------------------------------------------

    async def _whole(self, job: ImportRow) -> None:
        if self._patient is None:
            bounds = replace(self._database.bounds, connections=1, statement_s=STATEMENT_S, transaction_s=WHOLE_S)
            self._patient = Database(self._database.dsn, bounds, self._database.application)
            self._patient.appended = self._database.appended
        try:
            async with self._transaction(self._patient) as tx:
                if await self._imports.lock(tx, job.id) != "queued":
                    return
                taking = await self._begin(tx, job)
                while lines := await self._imports.lines(tx, job.id, taking.tally.line, self.part):
                    await taking.take(tx, lines)
                    if len(taking.refused) >= NAMED:
                        break
                if not taking.refused:
                    await self._settle(tx, job, taking)
                if job.dry_run or taking.refused:
                    raise _Undo(taking)
                await self._done(tx, job, taking)
        except _Undo as undo:
            await self._undone(job, undo.taking)
            return
        self._counted(taking.tally)

    async def _undone(self, job: ImportRow, taking: Taking) -> None:
        now = self._clock.now()
        good = job.dry_run and (not taking.refused or job.mode == "valid")
        tally = taking.tally
        async with self._database.transaction() as tx:
            if await self._imports.lock(tx, job.id) != "queued":
                return
            if good:
                await self._imports.progress(tx, job.id, tally)
            else:
                none = Tally(0, 0, 0, 0, 0, tally.refused)
                await self._imports.progress(tx, job.id, none)
            await self._imports.refuse(tx, job.id, taking.refused)
            reason = None if good else "nothing was imported: lines were refused"
            await self._imports.finish(tx, job.id, "done" if good else "failed", reason, None, now)
        _LINES.labels("refused").inc(tally.refused)

    # ---- in parts ---------------------------------------------------------------------------------------------------

    async def _in_parts(self, job: ImportRow, begun: float) -> None:
        while monotonic() - begun < TURN_S:
            try:
                async with self._transaction(self._database) as tx:
                    present = await self._imports.lock_queued(tx, job)
                    if present is None:
                        return
                    job = present
                    taking = await self._begin(tx, job)
                    lines = await self._imports.lines(tx, job.id, job.line, self.part)
                    await (taking.take(tx, lines) if lines else self._settle(tx, job, taking))
                    if taking.refused and job.mode == "parts":
                        raise _Undo(taking)
                    await self._imports.refuse(tx, job.id, taking.refused)
                    await (self._imports.progress(tx, job.id, taking.tally) if lines else self._done(tx, job, taking))
            except _Undo as undo:
                refused = undo.taking.refused
                reason = f"it stopped: all up to line {job.line} is imported, and of what comes next lines were refused"
                await self._fail(job, reason, refused)
                return
            job = _advanced(job, taking.tally)
            if not lines:
                self._counted(taking.tally)
                return

    # ---- begin and end ----------------------------------------------------------------------------------------------

    async def _begin(self, tx: Transaction, job: ImportRow) -> Taking:
        """Locks the book, so that nobody posts to it or opens an account until this transaction ends. Raises Wrong, BookNotFound, BookQuarantined."""
        await self._store.lock_whole_book(tx, job.book)
        locked = await self._store.lock_books(tx, [job.book])
        row = await self._store.book(tx, job.tenant, job.book_name)
        if row is None:
            raise BookNotFound
        check_writable(row)
        first = await self._imports.settings(tx, job.id, 0, 1)
        restoring = bool(first) and isinstance(_decode(first[0].record), BookRecord)
        if restoring and job.line == 0 and (row.sequence or await self._imports.has_accounts(tx, job.book)):
            raise Wrong("an export is restored into an empty book; open a new one for it")
        chart, _ = await self._store.chart(tx, job.book) or (NO_CHART, None)
        return Taking(
            job,
            row,
            locked[job.book],
            chart,
            self._store,
            self._imports,
            self._outbox,
            self._clock.now(),
            restoring=restoring,
        )

    async def _settle(self, tx: Transaction, job: ImportRow, taking: Taking) -> None:
        """Applies the lines about the book as a whole. Adds refused lines to `taking`. Raises Wrong."""
        settings = Settings(tx, job, taking, self._store, self._imports, self._outbox, self._clock.now())
        after = 0
        while lines := await self._imports.settings(tx, job.id, after, PART):
            await settings.take([(line.line, _decode(line.record)) for line in lines])
            after = lines[-1].line
        await settings.settle()

    async def _done(self, tx: Transaction, job: ImportRow, taking: Taking) -> None:
        now = self._clock.now()
        await self._imports.progress(tx, job.id, taking.tally)
        await self._imports.finish(tx, job.id, "done", None, taking.sequence, now)
        await self._outbox.append(tx, [self._fact(job, taking.tally, taking.sequence, now)])

    async def _fail(self, job: ImportRow, reason: str, refused: list[Refusal]) -> None:
        """Ends the import, unless it got further meanwhile, by another replica, than the lines that were refused."""
        async with self._database.transaction() as tx:
            present = await self._imports.lock_queued(tx, job)
            if present is None or (refused and present.line != job.line):
                return
            if refused:
                await self._imports.refuse(tx, job.id, refused)
                tally = msgspec.structs.replace(Tally.of(present), refused=len(refused))
                await self._imports.progress(tx, job.id, tally)
            await self._imports.finish(tx, job.id, "failed", reason[:1000], None, self._clock.now())
        telemetry.log.info("ledger.import.failed", **{"import": ids.imports.text(job.id)})

    @staticmethod
    def _counted(tally: Tally) -> None:
        _LINES.labels("accounts").inc(tally.accounts)
        _LINES.labels("transfers").inc(tally.transfers)
        _LINES.labels("known").inc(tally.accounts_known + tally.transfers_known)
        _LINES.labels("refused").inc(tally.refused)

    @staticmethod
    def _fact(job: ImportRow, tally: Tally, sequence: int, at: datetime) -> Fact:
        own = ids.imports.text(job.id)
        return Fact(
            id=ids.facts.new(),
            type="ledger.import.done",
            tenant=job.tenant,
            actor=job.actor,
            resource=own,
            at=at,
            trace=None,
            data=msgspec.to_builtins(
                ImportDone(
                    import_=own,
                    book=job.book,
                    sha256=job.sha256.hex(),
                    accounts=tally.accounts,
                    transfers=tally.transfers,
                    refused=tally.refused,
                    sequence=sequence,
                )
            ),
        )


def _advanced(job: ImportRow, tally: Tally) -> ImportRow:
    return msgspec.structs.replace(
        job,
        line=tally.line,
        accounts=tally.accounts,
        accounts_known=tally.accounts_known,
        transfers=tally.transfers,
        transfers_known=tally.transfers_known,
        refused=tally.refused,
    )
