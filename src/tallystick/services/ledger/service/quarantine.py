"""Quarantine: nothing is written to a book whose totals don't add up, until an operator has released it."""

from __future__ import annotations

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database, Transaction
from tallystick.chassis.outbox import Outbox
from tallystick.contracts.ledger.messages import QuarantineFact
from tallystick.contracts.ledger.problems import BookNotFound, BookStillFaulty
from tallystick.kernel.clock import Clock
from tallystick.services.ledger.model import CheckedBook
from tallystick.services.ledger.service.books import book_fact
from tallystick.services.ledger.service.checker import Checker, Looked, Mark
from tallystick.services.ledger.store import Checks

_QUARANTINED = telemetry.gauge("ledger_books_quarantined", "Books in quarantine. Alert on any")


class Quarantine:
    def __init__(self, *, database: Database, checks: Checks, outbox: Outbox, clock: Clock) -> None:
        self._database = database
        self._checks = checks
        self._outbox = outbox
        self._clock = clock
        self.checker = Checker(database, checks)

    async def watch(self) -> None:
        """Does one second's worth of the continuous check, and puts books with faults in quarantine. Runs on one replica at a time."""
        faults: dict[int, list[str]] = {}
        for fault in await self.checker.turn():
            faults.setdefault(fault.book, []).append(fault.what)
        for book, found in faults.items():
            await self._shut(book, found)
        _QUARANTINED.set(len(await self._checks.books(self._database, quarantined=True)))

    async def books(self, after: int, limit: int) -> list[CheckedBook]:
        """The books of all tenants, by number, after `after`."""
        return await self._checks.books(self._database, after=after, limit=limit)

    async def check(self, number: int, place: Mark) -> tuple[Looked, Mark | None]:
        """One step of checking a book, and where the next begins (None: the whole book was checked). A fault puts the book in quarantine. Raises
        BookNotFound.
        """
        book = await self._checks.book(self._database, number)
        if book is None:
            raise BookNotFound
        looked, on = await self.checker.step(book, place, 0, book.sequence)
        if looked.faults:
            await self._shut(book.id, looked.faults)
        return looked, on

    async def release(self, number: int, trace: str | None, *, checked: bool) -> CheckedBook:
        """Takes the book out of quarantine; harmless if it is not in it. Unless the operator has `checked` it, the whole book is checked first.
        Raises BookNotFound, BookStillFaulty.
        """
        book = await self._checks.book(self._database, number)
        if book is None:
            raise BookNotFound
        if not checked and (faults := await self.checker.whole(book.id)):
            raise BookStillFaulty("mend what the faults name first", faults=faults[:10])
        async with self._database.transaction() as tx:
            if await self._checks.release(tx, book.id):
                await self._tell(tx, "ledger.book.released", book, "operator", trace, None)
                telemetry.log.info("ledger.book.released", book=book.id)
        return book

    async def _shut(self, number: int, faults: list[str]) -> None:
        reason = "; ".join(faults[:3])
        async with self._database.transaction() as tx:
            book = await self._checks.quarantine(tx, number, reason, self._clock.now())
            if book is None:
                return
            await self._tell(tx, "ledger.book.quarantined", book, "ledger", None, reason)
        telemetry.log.error("ledger.book.quarantined", book=number, reason=reason)

    async def _tell(  # noqa: PLR0917 - the parts of a fact
        self, tx: Transaction, kind: str, book: CheckedBook, actor: str, trace: str | None, reason: str | None
    ) -> None:
        said = QuarantineFact(book=book.id, name=book.name, reason=reason)
        fact = book_fact((book.tenant, actor, trace), kind, book.name, self._clock.now(), said)
        await self._outbox.append(tx, [fact])
