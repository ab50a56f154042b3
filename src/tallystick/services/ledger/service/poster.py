"""How every transfer gets into the book. Waiting requests are posted together in a flush: one decision and one commit for all.

A flush takes one of three paths. **Ahead of the lock**: it is decided on what this replica knows of the books (`Head`) while earlier flushes
are still being stored, and stored only if the books are exactly as known. A flush of plain postings is a single statement, which is the whole
transaction. **Under the lock, as new**: lock the books, read the accounts, decide, save. Used when other replicas write to the same books.
**Under the lock** (`locked.py`): lock the books, claim the idempotency keys, load, decide, save. The fallback when an id or a key was used before,
or anything else was not as expected; nothing of the first attempt is stored.

On every path, whoever holds a book's row lock stores alone, and decides on the state that the flush before it stored. So any number of
replicas can share a book, and the sequence has no gap. ADR 6 discusses the alternative, locking the accounts; ADR 21 says why deciding ahead is
safe; ADR 37 says how replicas take turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

from tallystick.chassis import telemetry
from tallystick.chassis.batching import WORK_PACE, Batcher
from tallystick.chassis.db import (
    CommitUnknown,
    Contended,
    Database,
    DatabaseError,
    DatabaseUnavailable,
    Transaction,
)
from tallystick.contracts.ledger.messages import MAIN
from tallystick.contracts.ledger.problems import BookElsewhere, BookNotFound
from tallystick.kernel.clock import Clock
from tallystick.kernel.deployment import HOME
from tallystick.services.ledger.model import Due, Stand, State, Unit, decide
from tallystick.services.ledger.service.asks import Answered, Ask, Work, expiries
from tallystick.services.ledger.service.counts import counted
from tallystick.services.ledger.service.head import Head
from tallystick.services.ledger.service.held import Held
from tallystick.services.ledger.service.locked import ATTEMPTS, Locked
from tallystick.services.ledger.service.order import STORED, Order, Place
from tallystick.services.ledger.service.plan import (
    Moved,
    Plan,
    Stale,
    Unstored,
    plannable,
    planned,
    short,
    stale,
    unsure,
)
from tallystick.services.ledger.store import Store

#: Requests of at most this many transfers share flushes. Larger ones are flushed alone, so that small ones don't wait long behind them.
SMALL: Final = 16
#: This many waiting requests are flushed without waiting for more: beyond this the cost per request hardly falls.
ENOUGH: Final = 32
#: While other replicas move the books on, at most 2**SITS_OUT small flushes are decided under the lock before one is tried ahead of it again.
SITS_OUT: Final = 8
#: With large flushes, replicas take turns at a book. A turn lasts this many times as long as storing the last flush took here, of which at
#: most `TOOK_S` seconds count.
TURN: Final = 5
TOOK_S: Final = 0.05


class Poster:
    def __init__(self, *, database: Database, store: Store, clock: Clock, shard: str = HOME) -> None:
        """`shard` is the name of this ledger's own shard."""
        self.shard = shard
        self._database = database
        self._store = store
        self._clock = clock
        self._books: dict[tuple[str, str], int] = {}
        self._head = Head(store, database)
        self._order = Order()
        self._locked = Locked(database, store, clock)
        self._sit_out = self._moved = 0
        #: Seconds that storing the last flush ahead of the lock took, at most `TOOK_S`.
        self._took = 0.0
        self._small: Batcher[Work, Answered] = Batcher(
            self._flush, max_batch=256, pace=WORK_PACE, enough=ENOUGH, name="ledger.post"
        )
        self._large: Batcher[Work, Answered] = Batcher(
            partial(self._flush, large=True),
            max_batch=1,
            concurrency=STORED + 1,
            patience=0.0,
            name="ledger.post-large",
        )
        self._held = Held(partial(self._under_lock, tried=None), partial(store.free_books, database))

    async def post(self, ask: Ask) -> Answered:
        """The result of each command. Raises BookNotFound, BookElsewhere, the idempotency contract's problems and those of the database."""
        work = Work(await self.book(ask.tenant, ask.book), ask)
        if work.book in self._held:
            return await self._held.post(work)
        return await (self._small if len(ask.commands) <= SMALL else self._large).submit(work)

    async def book(self, tenant: str, name: str = MAIN) -> int:
        """The number of the tenant's book. The main book is opened on first use, at home. Raises BookNotFound, BookElsewhere."""
        number = self._books.get((tenant, name))
        if number is None:
            number = await self._look_up(tenant, name)
            self._books[tenant, name] = number
        return number

    async def _look_up(self, tenant: str, name: str) -> int:
        if name == MAIN and self.shard == HOME:
            async with self._database.transaction() as tx:
                await self._store.open_main(tx, tenant, self._clock.now())
        found = await self._store.book(self._database, tenant, name)
        if found is None:
            raise BookNotFound
        if found.shard != self.shard:
            raise BookElsewhere(shard=found.shard)
        return found.id

    async def not_elsewhere(self, source: Database | Transaction, tenant: str, name: str) -> None:
        """Raises BookElsewhere if the book is on another shard."""
        found = await self._store.book(source, tenant, name)
        if found is not None and found.shard != self.shard:
            raise BookElsewhere(shard=found.shard)

    async def expire(self, due: Iterable[Due]) -> int:
        """Releases expired holds in the given order. Returns how many it released; holds that were closed meanwhile are skipped."""
        asks = expiries(due)
        done = [answer for answer in await self._flush(asks) if isinstance(answer, Answered)] if asks else []
        return sum(result.status != "rejected" and not result.existed for answer in done for result in answer.results)

    async def close(self) -> None:
        await self._small.close()
        await self._large.close()
        await self._held.close()

    # ---- one flush --------------------------------------------------------------------------------------------------

    async def _flush(self, asks: list[Work], *, large: bool = False) -> list[Answered | Exception]:
        """Stores a flush. If the lock of one of its books is held by somebody for long, the asks for the other books are stored without it."""
        try:
            return await self._in_order(asks, large=large)
        except Contended as contended:
            return await self._held.without(asks, contended)

    async def _in_order(self, asks: list[Work], *, large: bool) -> list[Answered | Exception]:
        books = {work.book for work in asks}
        for _ in range(ATTEMPTS):
            async with self._order.place(books) as place:
                as_new = self._sits_out() and plannable(asks)
                plan = None if as_new else await self._plan(asks)
                while not place.taken(1 if plan is None else STORED):
                    await place.one_is_stored()
                    if plan is not None and plan.epoch != self._head.epoch:
                        plan = await self._plan(asks)
                tried: Exception | None = None
                try:
                    if as_new:
                        return await self._as_new(asks, place)
                    if plan is not None:
                        place.decided()
                        return await self._store_plan(plan, place.before)
                except Unstored:
                    continue
                except (Stale, DatabaseError, CommitUnknown) as error:
                    tried = error
                if not isinstance(tried, Moved):
                    return await self._under_lock(asks, tried)
            if not large:
                # While other replicas write, deciding ahead is in vain: it is tried again less and less often.
                self._moved = min(self._moved + 1, SITS_OUT)
                self._sit_out = 2**self._moved
            elif not self._order.is_kept_back(books):
                return await self._in_turn(asks, books)
        return await self._under_lock(asks, None)

    def _sits_out(self) -> bool:
        if self._sit_out == 0:
            return False
        self._sit_out -= 1
        return True

    async def _in_turn(self, asks: list[Work], books: set[int]) -> list[Answered | Exception]:
        """Takes turns with other replicas that write large flushes to the same books. Deciding ahead of the lock succeeds only for the replica
        that stored last, so each should store several flushes in a row. This one pauses until the others have stopped or had their turn,
        and then takes the lock.
        """
        async with self._order.kept_back(books):
            stands: dict[int, Stand] = {}
            for _ in range(TURN):
                found = await self._store.heads(self._database, books)
                if stands == (stands := {number: book.stand for number, book in found.items()}):
                    break
                await asyncio.sleep(self._took)
        async with self._order.place(()) as place:
            while not place.taken(1):
                await place.one_is_stored()
            try:
                return await self._as_new(asks, place)
            except (Stale, DatabaseError, CommitUnknown) as error:
                return await self._under_lock(asks, error)

    async def _under_lock(self, asks: list[Work], tried: Exception | None) -> list[Answered | Exception]:
        """Decides and stores under the lock, with all that there is to look up. `tried` is the error of the first attempt, if there was one."""
        if isinstance(tried, DatabaseError):
            telemetry.log.warning("ledger.plan.refused", constraint=tried.constraint)
        self._head.forget()
        try:
            return await self._locked.post(asks, tried if isinstance(tried, CommitUnknown) else None)
        except (Contended, DatabaseUnavailable, CommitUnknown):
            raise
        except Exception as error:
            telemetry.log.error("ledger.flush.failed", asks=len(asks), error=error)
            if len(asks) == 1:
                raise
            return [await self._locked.alone(work) for work in asks]
        finally:
            self._head.forget()

    async def _plan(self, works: list[Work]) -> Plan | None:
        """Decides ahead of the lock. None if these can't be decided that way."""
        if not plannable(works):
            return None
        units = [work.unit for work in works]
        head = self._head
        epoch = head.epoch
        try:
            known = await head.learn(units)
            if head.epoch != epoch:
                return None  # while this one was reading, the flush before it failed to be stored: what was read may rest on it
            plan = self._planned(works, units, head.state, known)
            if plan is None:
                head.forget()
                return None
            plan.epoch = epoch
        except BaseException:
            head.forget()
            raise
        return plan

    def _planned(self, works: list[Work], units: list[Unit], state: State, known: Mapping[int, Stand]) -> Plan | None:
        """The plan for these. None if the decision needs more lookups: a book is in quarantine, holds may have expired, or it is `unsure`. Also None
        if deciding fails; under the lock it turns out on which ask.
        """
        if any(state.books[work.book].quarantined for work in works):
            return None
        now = self._clock.now()
        try:
            decided = decide(units, state, now)
            if short(decided.results, state) or unsure(units, decided):
                return None
            return planned(works, state, decided, now, known)
        except Exception:  # noqa: BLE001 - it is raised again and logged under the lock
            return None

    async def _store_plan(self, plan: Plan, before: list[asyncio.Future[None]]) -> list[Answered | Exception]:
        """Stores a plan; `before` are the flushes being stored ahead of it. Raises Stale when what it was decided on has changed, and what the
        database raises.
        """
        started = asyncio.get_running_loop().time()
        try:
            try:
                await self._send(plan)
            except (Moved, Contended):
                if not before:
                    raise
                # It got the lock before the flush that it was decided on, or timed out waiting. Once that one is stored, the plan is valid.
                await asyncio.wait(before)
                if plan.epoch != self._head.epoch:
                    raise Unstored from None
                await self._send(plan)
        except BaseException:
            self._head.forget()
            raise
        self._moved = 0
        self._took = min(asyncio.get_running_loop().time() - started, TOOK_S)
        counted(plan.results)
        return list(plan.answers)

    async def _send(self, plan: Plan) -> None:
        try:
            if plan.writing.plain and not plan.proposals:
                await self._store.save(self._database, plan.writing, plan.now)
            else:
                async with self._database.transaction() as tx:
                    locked = await self._store.lock_books(tx, plan.known)
                    if {number: book.stand for number, book in locked.items()} != plan.known:
                        raise Moved
                    await self._save(tx, plan)
        except DatabaseError as error:
            if (found := stale(error)) is not None:
                raise found from None
            raise

    async def _as_new(self, works: list[Work], place: Place) -> list[Answered | Exception]:
        """Decides and stores under the lock, as if all ids and keys were new. The next flush can be decided while this one is stored. Raises
        Stale when an id or a key was used before, or when more has to be looked up.
        """
        try:
            async with self._database.transaction() as tx:
                head = Head(self._store, tx)
                locked = head.state.books = await self._store.lock_books(tx, {work.book for work in works})
                # More requests have arrived while this one waited for the lock. They join it, since the next flush would have to wait again.
                self._small.join(works, lambda work: work.book in locked)
                if not plannable(works):
                    raise Stale
                units = [work.unit for work in works]
                await head.learn(units)
                plan = self._planned(works, units, head.state, {})
                if plan is None:
                    raise Stale
                self._head.follow(head)
                place.decided()
                await self._save(tx, plan)
        except BaseException as error:
            self._head.forget()
            if (found := stale(error)) is not None:
                raise found from None
            raise
        counted(plan.results)
        return list(plan.answers)

    async def _save(self, tx: Transaction, plan: Plan) -> None:
        await self._store.save(tx, plan.writing, plan.now)
        if plan.proposals:
            await self._store.insert_proposals(tx, plan.proposals)
