"""The ledger as the API and the worker use it: its use cases, wired together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tallystick.chassis import telemetry
from tallystick.chassis.auth import Subject
from tallystick.chassis.db import Database
from tallystick.chassis.idempotency import Digester, Entry
from tallystick.chassis.outbox import Outbox
from tallystick.contracts.ledger.messages import MAIN
from tallystick.contracts.ledger.problems import TransferNotFound
from tallystick.kernel.clock import Clock
from tallystick.kernel.deployment import HOME
from tallystick.kernel.ids import TransferId
from tallystick.services.ledger.model import Command, State
from tallystick.services.ledger.service.accounts import Accounts
from tallystick.services.ledger.service.approvals import Approvals
from tallystick.services.ledger.service.asks import Answered, Ask, Render
from tallystick.services.ledger.service.asof import AsOf
from tallystick.services.ledger.service.books import Books
from tallystick.services.ledger.service.categories import Categories
from tallystick.services.ledger.service.exports import Exports
from tallystick.services.ledger.service.imports import Imports, Runner
from tallystick.services.ledger.service.interbook import Interbook, Shard
from tallystick.services.ledger.service.locked import SWEEP
from tallystick.services.ledger.service.poster import Poster
from tallystick.services.ledger.service.quarantine import Quarantine
from tallystick.services.ledger.service.reports import Reports
from tallystick.services.ledger.service.search import Search
from tallystick.services.ledger.service.statements import Statements
from tallystick.services.ledger.service.transactions import Transactions
from tallystick.services.ledger.store import Checks, Proposals, Store
from tallystick.services.ledger.store import Imports as ImportStore


class Ledger:
    """`digester` makes the digests of requests with an idempotency key. `shard` is this shard's name, `others` are the other shards by name."""

    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        outbox: Outbox,
        clock: Clock,
        digester: Digester,
        shard: str = HOME,
        others: Mapping[str, Shard] | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self.clock = clock
        self.digester = digester
        self.poster = Poster(database=database, store=store, clock=clock, shard=shard)
        others = others or {}
        self.books = Books(
            database=database, store=store, outbox=outbox, clock=clock, poster=self.poster, others=others
        )
        self.approvals = Approvals(database, Proposals(), outbox, clock, self.poster, self.books)
        self.quarantine = Quarantine(database=database, checks=Checks(), outbox=outbox, clock=clock)
        self.categories = Categories(database=database, store=store, clock=clock, poster=self.poster, books=self.books)
        self.transactions = Transactions(database=database, store=store, poster=self.poster)
        kept = ImportStore()
        self.imports = Imports(database=database, store=kept, clock=clock, poster=self.poster)
        self.importer = Runner(database=database, store=store, imports=kept, outbox=outbox, clock=clock)
        self.exports = Exports(database=database, store=store, imports=kept, poster=self.poster)
        self.accounts = Accounts(database=database, store=store, outbox=outbox, clock=clock, poster=self.poster)
        as_of = AsOf(store=store, poster=self.poster)
        self.statements = Statements(database=database, store=store, clock=clock, accounts=self.accounts)
        self.reports = Reports(database=database, store=store, clock=clock, as_of=as_of)
        self.search = Search(database=database, store=store, clock=clock, accounts=self.accounts, as_of=as_of)
        self.interbook = Interbook(
            database=database,
            store=store,
            clock=clock,
            poster=self.poster,
            accounts=self.accounts,
            others=others,
        )

    async def post(
        self,
        subject: Subject,
        trace: str | None,
        commands: Sequence[Command],
        *,
        atomic: bool,
        entry: Entry | None = None,
        render: Render | None = None,
        book: str = MAIN,
        payments: bool = False,
        due: bool = False,
    ) -> Answered:
        """The result of each command, in order; with `entry`, also the answer as stored under the idempotency key. `payments`: the request
        comes from payments, which may move what payments made. `due`: it gives back what was taken before, even on an account that was frozen
        since; it needs no approval, because taking it had been approved.

        Raises BookNotFound, the idempotency contract's problems, GuardRefused, and those of the database. CommitUnknown if it can't be learned
        whether it was stored: send the same ids again to find out.
        """
        return await self.poster.post(
            Ask(
                subject.tenant,
                subject.actor,
                trace,
                commands,
                atomic,
                entry,
                render,
                book,
                approved=due,
                payments=payments,
                due=due,
            )
        )

    async def transfer(self, tenant: str, transfer: TransferId, book: str = MAIN) -> State:
        """What is stored about a transfer: the transfer or its refusal, with its hold and its reversals. Raises TransferNotFound, BookElsewhere."""
        known = await self._store.book_named(self._database, tenant, book)
        state = None if known is None else await self._store.transfer(self._database, known[0], transfer)
        if state is None or not (state.transfers or state.rejections):
            await self.poster.not_elsewhere(self._database, tenant, book)
            raise TransferNotFound
        return state

    async def sweep(self) -> int:
        """Releases expired holds, in the order of expiry. Returns how many."""
        total = 0
        while due := await self._store.due_holds(self._database, self.clock.now(), SWEEP):
            swept = await self.poster.expire(due)
            total += swept
            if swept < len(due):
                break  # somebody else closed some of them, or they can't be released: the next turn looks again
        if total:
            telemetry.log.info("ledger.holds.expired", count=total)
        return total

    async def faults(self) -> list[str]:
        """Everything in the books that does not add up when re-derived from the transfers alone. Empty when all is well."""
        async with self._database.transaction(snapshot=True) as tx:
            return await self._store.faults(tx)

    async def close(self) -> None:
        await self.poster.close()
        await self.importer.close()
