"""Under the lock, with all that there is to look up: the way into the book that is always possible (see `poster.py`). Ids and keys may have been
used before, expired holds are released, a COMMIT without an answer is repeated, and a request that can't be stored takes no other one with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from tallystick.chassis import idempotency, telemetry
from tallystick.chassis.db import (
    CommitUnknown,
    Contended,
    Database,
    DatabaseError,
    DatabaseUnavailable,
    Transaction,
)
from tallystick.chassis.idempotency import Replay
from tallystick.contracts.ledger.problems import BookQuarantined
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import Book, Due, Result, dated_back, decide
from tallystick.services.ledger.service.asks import Answered, GuardRefused, Work, claim, expiries
from tallystick.services.ledger.service.counts import counted
from tallystick.services.ledger.service.plan import planned, short
from tallystick.services.ledger.store import Store

#: Expired holds that are released in one flush.
SWEEP: Final = 500
#: Most rounds of sweeping before one flush. More would be needed only if sweeping had no effect.
SWEEPS: Final = 100
#: How often a flush is attempted whose COMMIT got no answer. All its ids are pinned, so a repeat finds what was stored.
ATTEMPTS: Final = 4
BACKOFF_S: Final = 0.1


class _Expired(Exception):
    """A transfer lacks funds that are held by expired holds (`due`). These are released first, then everything is decided again."""

    def __init__(self, due: list[Due]) -> None:
        super().__init__()
        self.due = due


class Locked:
    def __init__(self, database: Database, store: Store, clock: Clock) -> None:
        self._database = database
        self._store = store
        self._clock = clock

    async def post(self, asks: list[Work], unknown: CommitUnknown | None = None) -> list[Answered | Exception]:
        """`unknown`: what an earlier attempt to store them ended in, if so. Raises Contended, DatabaseUnavailable, CommitUnknown."""
        attempt = 0 if unknown is None else 1
        rounds = 0
        while True:
            try:
                return await self._once(asks, again=unknown is not None)
            except _Expired as expired:
                rounds += 1
                if rounds > SWEEPS:
                    raise GuardRefused("holds that have expired can't be released") from None
                await self.post(expiries(expired.due))
            except CommitUnknown as error:
                attempt += 1
                telemetry.log.warning("ledger.commit.unknown", attempt=attempt)
                if attempt == ATTEMPTS:
                    raise
                unknown = error
                await asyncio.sleep(BACKOFF_S * 2**attempt)
            except (Contended, DatabaseUnavailable):
                # After an unknown COMMIT, "nothing was stored" would be true of this attempt only.
                if unknown is None:
                    raise
                attempt += 1
                if attempt >= ATTEMPTS:
                    raise unknown from None
                await asyncio.sleep(BACKOFF_S * 2**attempt)
            except DatabaseError as error:
                telemetry.log.error("ledger.guard.refused", constraint=error.constraint, asks=len(asks), error=error)
                if len(asks) == 1:
                    return [GuardRefused("nothing was stored; the request id names what happened")]
                # One of them is at fault; the others must not suffer for it.
                return [await self.alone(work) for work in asks]

    async def alone(self, work: Work) -> Answered | Exception:
        """The answer to one of them, which may be an exception."""
        try:
            return (await self.post([work]))[0]
        except Exception as error:  # noqa: BLE001 - the exception is this ask's answer
            return error

    async def _once(self, works: list[Work], *, again: bool) -> list[Answered | Exception]:
        asks = [work.ask for work in works]
        answers: list[Answered | Exception | None] = [None] * len(asks)
        async with self._database.transaction() as tx:
            # Books are locked before keys, as on the other paths, so that replicas can't deadlock.
            locked = await self._store.lock_books(tx, {work.book for work in works})
            await self._refuse_quarantined(tx, works, locked, answers)
            await claim(tx, asks, answers, again=again)
            fresh = [place for place, answer in enumerate(answers) if answer is None]
            results = (
                await self._decide(tx, [(place, works[place]) for place in fresh], locked, answers) if fresh else []
            )
        counted(results)
        return [answer for answer in answers if answer is not None]

    async def _decide(
        self,
        tx: Transaction,
        works: Sequence[tuple[int, Work]],
        locked: dict[int, Book],
        answers: list[Answered | Exception | None],
    ) -> list[list[Result]]:
        """Loads, decides and saves what has no answer yet. The clock is read under the lock, so that a later decision is not dated earlier."""
        units = [work.unit for _, work in works]
        state = await self._store.load(tx, units, locked)
        now = self._clock.now()
        await self._store.learn_days(tx, dated_back(units, state), state, now)
        instants = {number: book.next_instant(now) for number, book in locked.items()}
        decided = decide(units, state, now)
        await self._look_for_expired(tx, short(decided.results, state), instants)
        plan = planned([work for _, work in works], state, decided, now, {})
        for (place, _), answer in zip(works, plan.answers, strict=True):
            answers[place] = answer
        # Their keys were claimed before: the answers complete them instead of going through `save`.
        stored, plan.writing.answers, plan.writing.about = plan.writing.answers, [], []
        await self._store.save(tx, plan.writing, plan.now)
        if plan.proposals:
            await self._store.insert_proposals(tx, plan.proposals)
        if stored:
            await idempotency.complete(tx, stored)
        return decided.results

    async def _refuse_quarantined(
        self,
        tx: Transaction,
        works: list[Work],
        locked: dict[int, Book],
        answers: list[Answered | Exception | None],
    ) -> None:
        """Answers asks for books in quarantine. Nothing is written to such a book, so no new key is claimed; but stored answers are replayed."""
        for place, work in enumerate(works):
            if locked[work.book].quarantined:
                entry = work.ask.entry
                found = None if entry is None else await idempotency.look(tx, entry)
                if isinstance(found, Replay):
                    answers[place] = Answered((), None, found.status, found.body, replayed=True)
                    continue
                row = await self._store.book(tx, work.ask.tenant, work.ask.book)
                reason = None if row is None else row.quarantine_reason
                answers[place] = BookQuarantined("its operator has to release it", reason=reason)

    async def _look_for_expired(
        self, tx: Transaction, lacking: dict[int, set[AccountId]], instants: dict[int, datetime]
    ) -> None:
        """Raises _Expired if expired holds block money that a transfer lacks. Only refused (or reduced) transfers are affected, so no others pay
        for this query. Expiry goes by the book's time, as in the rules: the clock of the replica that wrote last may be ahead of this one's.
        """
        for book, accounts in lacking.items():
            if due := await self._store.due_holds_of(tx, accounts, instants[book], SWEEP):
                raise _Expired(due)
