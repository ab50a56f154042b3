"""The way of every transfer into the book. Requests that wait are posted together: one lock, one decision, one commit for all.

A flush is one transaction: claim the idempotency keys, lock the books, load, decide, save, tell, store the answers. The book's lock makes
the flushes of all replicas take turns, so each decides on what the one before it stored, and the sequence has no gap. README.md says
what is known of the alternative, locking the accounts.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from tallystick.chassis import idempotency, telemetry
from tallystick.chassis.batching import WORK_PACE, Batcher
from tallystick.chassis.db import CommitUnknown, Contended, Database, DatabaseError, DatabaseUnavailable, Transaction
from tallystick.chassis.idempotency import Answer, Entry, Fresh, Replay
from tallystick.chassis.outbox import Fact, Outbox
from tallystick.contracts.ledger.messages import LISTED, Reason, TransferLine, TransfersPosted, canonical_line
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock, rfc3339
from tallystick.kernel.ids import AccountId, TransferId
from tallystick.kernel.problem import Problem
from tallystick.services.ledger.model import Command, Due, Result, State, Transfer, Unit, decide, expiry_id
from tallystick.services.ledger.store import Store

#: Requests of at most this many transfers share flushes; larger ones go by themselves, so that nobody waits long behind them.
SMALL: Final = 8
#: Expired holds that are taken off in one flush.
SWEEP: Final = 500
#: Rounds of sweeping before one flush; more than this only if sweeping has no effect.
SWEEPS: Final = 100
#: Times a flush is tried whose COMMIT got no answer. Every id in it is pinned, so a repeat finds what there is.
ATTEMPTS: Final = 4
BACKOFF_S: Final = 0.1

_TRANSFERS = telemetry.counter("ledger_transfers", "Transfers by what became of them", ["kind", "status"])
_FLUSHED = telemetry.histogram(
    "ledger_flush_transfers", "Transfers decided in one transaction", buckets=telemetry.SIZES
)

#: Turns results and the receipt into the answer to be stored: status and body.
Render = Callable[[Sequence[Result], str | None], tuple[int, bytes]]


class Ask(msgspec.Struct, frozen=True):
    """One request: commands of one tenant, all or none if `atomic`. With an `entry` its answer is stored as `render` says."""

    tenant: str
    actor: str
    trace: str | None
    commands: Sequence[Command]
    atomic: bool
    entry: Entry | None = None
    render: Render | None = None


class Answered(msgspec.Struct, frozen=True):
    """`receipt` is the fact's id if anything was new. `status` and `body` are there if the ask had an `entry`."""

    results: Sequence[Result]
    receipt: str | None
    status: int = 0
    body: bytes = b""
    replayed: bool = False


class GuardRefused(Problem):
    """The database's own checks came to another conclusion than the rules. Nothing was stored, and a person must look."""

    slug, title = "ledger-guard-refused", "The ledger refused to store what it had decided"


class _Expired(Exception):
    """Funds were refused that holds which have expired still held. They go first, then everything is decided again."""

    def __init__(self, due: list[Due]) -> None:
        super().__init__()
        self.due = due


class Poster:
    def __init__(self, *, database: Database, store: Store, outbox: Outbox, clock: Clock) -> None:
        self._database = database
        self._store = store
        self._outbox = outbox
        self._clock = clock
        self._books: dict[str, int] = {}
        self._small: Batcher[Ask, Answered] = Batcher(self._flush, max_batch=256, pace=WORK_PACE, name="ledger.post")
        self._large: Batcher[Ask, Answered] = Batcher(self._flush, max_batch=4, name="ledger.post-large")

    async def post(self, ask: Ask) -> Answered:
        """What became of each command. Raises the idempotency contract's problems and those of the database."""
        return await (self._small if len(ask.commands) <= SMALL else self._large).submit(ask)

    async def book(self, tenant: str) -> int:
        """The tenant's book, opened on first use."""
        number = self._books.get(tenant)
        if number is None:
            async with self._database.transaction() as tx:
                number = await self._store.open_book(tx, tenant, self._clock.now())
            self._books[tenant] = number
        return number

    async def expire(self, due: Iterable[Due]) -> int:
        """Takes expired holds off their accounts, in the order given; returns how many were. Those that somebody closed meanwhile are left."""
        by_tenant: dict[str, list[Command]] = {}
        for tenant, number, hold in due:
            command = Command(kind="expire", id=expiry_id(number, hold), target=hold)
            by_tenant.setdefault(tenant, []).append(command)
        asks = [Ask(tenant, "ledger", None, commands, atomic=False) for tenant, commands in by_tenant.items()]
        done = [answer for answer in await self._flush(asks) if isinstance(answer, Answered)] if asks else []
        return sum(result.status != "rejected" and not result.existed for answer in done for result in answer.results)

    async def close(self) -> None:
        await self._small.close()
        await self._large.close()

    # ---- one flush --------------------------------------------------------------------------------------------------

    async def _flush(self, asks: list[Ask]) -> list[Answered | Exception]:
        unknown: CommitUnknown | None = None
        attempt = rounds = 0
        while True:
            try:
                return await self._once(asks, again=unknown is not None)
            except _Expired as expired:
                rounds += 1
                if rounds > SWEEPS:
                    raise GuardRefused("holds that have expired can't be released") from None
                await self.expire(expired.due)
            except CommitUnknown as error:
                attempt += 1
                telemetry.log.warning("ledger.commit.unknown", attempt=attempt)
                if attempt == ATTEMPTS:
                    raise
                unknown = error
                await asyncio.sleep(BACKOFF_S * 2**attempt)
            except (Contended, DatabaseUnavailable):
                # "Nothing was stored" would be true of this attempt only.
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
                # One of them is at fault, and the others are not to suffer for it.
                return [await self._alone(ask) for ask in asks]

    async def _alone(self, ask: Ask) -> Answered | Exception:
        try:
            return (await self._flush([ask]))[0]
        except Exception as error:  # noqa: BLE001 - it is this ask's answer
            return error

    async def _once(self, asks: list[Ask], *, again: bool) -> list[Answered | Exception]:
        books = [await self.book(ask.tenant) for ask in asks]
        answers: list[Answered | Exception | None] = [None] * len(asks)
        async with self._database.transaction() as tx:
            await self._claim(tx, asks, answers, again=again)
            fresh = [place for place, answer in enumerate(answers) if answer is None]
            units = [Unit(books[place], asks[place].commands, asks[place].atomic) for place in fresh]
            results = await self._decide(tx, units) if fresh else []
            facts: list[Fact] = []
            stored: list[Answer] = []
            for place, unit in zip(fresh, results, strict=True):
                answers[place] = self._answer(asks[place], unit, facts, stored)
            if stored:
                await idempotency.complete(tx, stored)
            await self._outbox.append(tx, facts)
        if results:
            _FLUSHED.observe(sum(map(len, results)))
            _count(results)
        return [answer for answer in answers if answer is not None]

    async def _decide(self, tx: Transaction, units: list[Unit]) -> list[list[Result]]:
        """Load, decide, save. The clock is read after the lock was had: what was decided later is not dated earlier."""
        state = await self._store.load(tx, units)
        now = self._clock.now()
        decided = decide(units, state, now)
        await self._look_for_expired(tx, decided.results, state, now)
        await self._store.save(tx, state, decided, now)
        return decided.results

    @staticmethod
    async def _claim(
        tx: Transaction, asks: list[Ask], answers: list[Answered | Exception | None], *, again: bool
    ) -> None:
        """Fills in the answers that are not to be decided: stored ones, and problems."""
        keyed = [(place, ask.entry, ask) for place, ask in enumerate(asks) if ask.entry is not None]
        if not keyed:
            return
        outcomes = await idempotency.claim(
            tx, [entry for _, entry, _ in keyed], resource=[ask.commands[0].id for _, _, ask in keyed]
        )
        for (place, _, _), outcome in zip(keyed, outcomes, strict=True):
            if isinstance(outcome, Fresh):
                continue
            if isinstance(outcome, Replay):
                # After a COMMIT without an answer the stored one is our own.
                answers[place] = Answered((), None, outcome.status, outcome.body, replayed=not again)
                continue
            try:
                outcome.raise_or_replay()
            except Problem as problem:
                answers[place] = problem

    async def _look_for_expired(
        self, tx: Transaction, results: Iterable[Sequence[Result]], state: State, now: datetime
    ) -> None:
        """An expired hold never blocks money. Only a refusal can be its doing, so the others don't pay for the question."""
        short: set[AccountId] = set()
        for unit in results:
            for result in unit:
                if result.reason is Reason.INSUFFICIENT_FUNDS and result.account is not None:
                    account = state.accounts[result.account]
                    if account.debits_pending or account.credits_pending:
                        short.add(account.id)
        if short and (due := await self._store.due_holds_of(tx, short, now, SWEEP)):
            raise _Expired(due)

    @staticmethod
    def _answer(ask: Ask, results: list[Result], facts: list[Fact], stored: list[Answer]) -> Answered:
        new = [result.transfer for result in results if result.transfer is not None and not result.existed]
        receipt = None
        if new:
            fact = posted_fact(ask, new)
            receipt = ids.facts.text(fact.id)
            facts.append(fact)
        if ask.entry is None or ask.render is None:
            return Answered(results, receipt)
        status, body = ask.render(results, receipt)
        stored.append(Answer(ask.entry, status, body))
        return Answered(results, receipt, status, body)


def _count(results: Iterable[Sequence[Result]]) -> None:
    many: Counter[tuple[str, str]] = Counter(
        (
            "none" if result.transfer is None else result.transfer.kind,
            "existed" if result.existed else result.status,
        )
        for unit in results
        for result in unit
    )
    for labels, count in many.items():
        _TRANSFERS.labels(*labels).inc(count)


def posted_fact(ask: Ask, transfers: Sequence[Transfer]) -> Fact:
    """One fact per unit: the first few transfers as they are, and a hash of all."""
    first, last = transfers[0], transfers[-1]
    lines = [_line(transfer) for transfer in transfers[:LISTED]]
    told = TransfersPosted(
        book=first.book,
        first=first.sequence,
        last=last.sequence,
        count=len(transfers),
        sha256=transfers_digest(transfers),
        transfers=lines,
    )
    return Fact(
        id=ids.facts.new(),
        type="ledger.transfers.posted",
        tenant=ask.tenant,
        actor=ask.actor,
        resource=lines[0].id,
        at=first.recorded_at,
        trace=ask.trace,
        data=msgspec.structs.asdict(told),
    )


def transfers_digest(transfers: Iterable[Transfer]) -> str:
    """SHA-256, in hex, over the canonical lines of `transfers` in the order of their sequence."""
    lines = [
        canonical_line(
            t.sequence,
            t.id.hex,
            t.kind,
            "" if t.target is None else t.target.hex,
            t.debit_account.hex,
            t.credit_account.hex,
            t.amount,
            t.released,
            t.currency,
        )
        for t in transfers
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _line(t: Transfer) -> TransferLine:
    return TransferLine(
        sequence=t.sequence,
        id=ids.transfers.text(t.id),
        kind=t.kind,
        debit_account=ids.accounts.text(t.debit_account),
        credit_account=ids.accounts.text(t.credit_account),
        amount=str(t.amount),
        currency=t.currency,
        target=None if t.target is None else ids.transfers.text(TransferId(t.target)),
        released=str(t.released) if t.released else None,
        expires_at=None if t.expires_at is None else rfc3339(t.expires_at),
    )
