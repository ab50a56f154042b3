"""Consuming other services' facts: in order, each exactly once in effect, none lost silently.

`inbox.last_seq` moves in the transaction that handles the facts, so a crash repeats both or neither. A gap in the numbers stops the
consumer, which reads the stream again; so does a message that its source's relay did not write. A fact that can't be handled goes to
the dead letters, and the facts after it are handled.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import uuid_utils

from tallystick.chassis import telemetry
from tallystick.chassis.bus import streams
from tallystick.chassis.bus.connection import Bus
from tallystick.chassis.bus.streams import Hole
from tallystick.chassis.db import Database, Queries, Query, Session, Signal, Transaction, session
from tallystick.chassis.fact import Delivered, Head
from tallystick.chassis.fact import head as decode_head
from tallystick.chassis.telemetry.redact import stack
from tallystick.chassis.waiting import set_within
from tallystick.kernel.patterns import matches
from tallystick.kernel.problem import Problem

Q: Final = Queries.load("tallystick.chassis", "inbox")
MAX_FACTS: Final = 512
POLL_S: Final = 1.0
FOLLOWER_S: Final = 1.0
LONGEST_PAUSE_S: Final = 10.0

_handled = telemetry.counter(
    "tallystick_bus_handled_total", "Facts handled, without those that nobody wants", ("source", "consumer")
)
_buried = telemetry.counter(
    "tallystick_bus_dead_letters_total", "Facts put to the dead letters", ("source", "consumer")
)
_holes = telemetry.counter("tallystick_bus_holes_total", "Times that facts were missing", ("source", "consumer"))
_failed = telemetry.counter(
    "tallystick_bus_consumer_failures_total", "Times that a consumer failed and began again", ("source", "consumer")
)


Handler = Callable[[Any, Transaction, list[Delivered]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What a service takes from `source`. `types` are exact, or end in `.*`, or are `*`.

    `handle(service, tx, facts)` gets facts in order, at most 512, and must do all its writing in `tx`. A fact with which it fails
    `max_attempts` times becomes a dead letter. A failure whose cause is outside the fact (a retryable Problem: no database, a service
    down) is retried for ever. `complete`: refuse to begin when the stream no longer has the source's first fact.

    `unheard` is a statement of the service that saves the transaction where no tenant is interested: it moves the inbox of ($1, $2)
    from $3 to $4 if the service has nothing to do with any fact of the tenants $5, and changes no row otherwise. It is one statement
    and so sees one snapshot: no tenant can become interested between the check and the move.
    """

    source: str
    types: tuple[str, ...]
    handle: Handler
    max_attempts: int = 5
    name: str = "main"
    complete: bool = False
    unheard: Query | None = None

    def __post_init__(self) -> None:
        if not self.types or self.max_attempts < 1:
            raise ValueError("a subscription names types, and tries at least once")
        for pattern in self.types:
            if "*" in pattern.removesuffix("*") or (
                pattern.endswith("*") and pattern != "*" and not pattern.endswith(".*")
            ):
                raise ValueError(f"{pattern!r} is neither a type nor one that ends in '.*'")

    def takes(self, type_: str) -> bool:
        return matches(self.types, type_)


class Stopped(Exception):
    """`stop` was called while a fact waited for its next attempt."""


class Consumer:
    """`run` until `stop`. One replica at a time handles a subscription, by an advisory lock of its session. What makes that safe, should
    two believe that they hold it, is the lock on the inbox row.
    """

    def __init__(
        self, database: Database, bus: Bus, subscription: Subscription, service: Any, *, pause_s: float = 0.1
    ) -> None:
        self.database = database
        self.bus = bus
        self.subscription = subscription
        self.service = service
        self.leading = False
        self.last_seq = 0
        self._pause_s = pause_s
        self._sequence = 0
        self._replay_at = 0.0
        self._created = ""
        self._stored = Signal()
        self._stopping = asyncio.Event()
        self._labels = (subscription.source, subscription.name)
        for each in (_handled, _buried, _holes, _failed):
            each.labels(*self._labels)  # 0 from the start: of a series that begins with 1, a monitor sees no increase

    def stop(self) -> None:
        """Let `run` end after the facts that it is handling."""
        self._stopping.set()
        self._stored.send()

    async def run(self) -> None:
        source = self.subscription.source
        wake = await self.bus.subscribe(streams.stored_subject(source), lambda _: self._stored.send())
        pause = self._pause_s
        try:
            while not self._stopping.is_set():
                try:
                    async with session(self.database) as own:
                        while not await own.lock(f"consumer:{source}:{self.subscription.name}"):
                            if await set_within(self._stopping, FOLLOWER_S):
                                return
                        self.leading = True
                        await self._begin()
                        more = True
                        while not self._stopping.is_set() and not own.lost:
                            await self._replay_requested(own)
                            more = await self._step() if more else await self._idle()
                            pause = self._pause_s
                except Stopped:
                    return
                except Exception as error:  # noqa: BLE001 - a consumer that ended would be silence
                    _failed.labels(*self._labels).inc()
                    if isinstance(error, Hole):
                        _holes.labels(*self._labels).inc()
                    telemetry.log.warning(
                        "bus.consumer_failed",
                        source=source,
                        consumer=self.subscription.name,
                        error=error,
                        reason=str(error) if isinstance(error, Hole | Problem) else None,
                        delay_ms=int(pause * 1000),
                    )
                    await set_within(self._stopping, pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                    pause = min(pause * 2, LONGEST_PAUSE_S)
                finally:
                    self.leading = False
        finally:
            if self.bus.connected:
                await wake.unsubscribe()

    async def _begin(self) -> None:
        """Find the place in the stream after what has been handled."""
        sub = self.subscription
        last = await self.database.fetchval(Q.last_seq, *self._labels)
        end = await streams.bounds(self.bus, sub.source)
        self._created = end.created
        if last is None:
            last = 0
            if end.first <= end.last:
                first = await streams.get(self.bus, sub.source, end.first)
                last = first.first - 1 if first is not None else 0
            if last and sub.complete:
                raise Hole(f"{sub.name} needs all facts of {sub.source}, but the stream begins after {last}")
            await self.database.execute(Q.begin, *self._labels, last)
        self.last_seq = last
        self._sequence = await streams.locate(self.bus, sub.source, last + 1)

    async def _step(self) -> bool:
        """Handle the next page of the stream; False when there is no more. Raises Hole after handling the facts before it."""
        source = self.subscription.source
        messages, more = await streams.read_page(self.bus, source, self._sequence)
        facts: list[tuple[int, bytes]] = []
        last = self.last_seq
        hole: Hole | None = None
        for message in messages:
            if message.first > last + 1:
                hole = Hole(f"the facts {last + 1} to {message.first - 1} of {source} are missing in the stream")
                break
            try:
                raws = streams.facts(message, source)[last + 1 - message.first :]
            except Hole as found:
                hole = found
                break
            facts.extend((seq, bytes(raw)) for seq, raw in enumerate(raws, last + 1))
            last = max(last, message.last)
        if facts:
            await self._take(facts)
        if hole is not None:
            raise hole
        if messages:
            self._sequence = messages[-1].sequence + 1
        return more

    async def _idle(self) -> bool:
        """Wait for more; True when there is some. When nothing was announced for a while, check that it is still the same stream."""
        if await self._stored.wait(POLL_S) or self._stopping.is_set():
            return True
        end = await streams.bounds(self.bus, self.subscription.source)
        if end.created != self._created or end.last < self._sequence - 1:
            telemetry.log.warning(
                "bus.stream_changed", source=self.subscription.source, consumer=self.subscription.name
            )
            await self._begin()
            return True
        return end.last >= self._sequence  # the announcement was lost

    async def _take(self, facts: Sequence[tuple[int, bytes]]) -> None:
        """Handle consecutive facts, of which the first follows `last_seq`: together, and if that fails one by one."""
        for start in range(0, len(facts), MAX_FACTS):
            # Another replica may have handled some meanwhile.
            part = [one for one in facts[start : start + MAX_FACTS] if one[0] > self.last_seq]
            if not part:
                continue
            if len(part) == 1 or not await self._attempt(part, attempt=1, final=False):
                for one in part:
                    if one[0] > self.last_seq:
                        await self._take_one(one)

    async def _take_one(self, fact: tuple[int, bytes]) -> None:
        for attempt in range(1, self.subscription.max_attempts + 1):
            if await self._attempt([fact], attempt=attempt, final=attempt == self.subscription.max_attempts):
                return
            pause = min(self._pause_s * 2**attempt, LONGEST_PAUSE_S)
            if await set_within(self._stopping, pause * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter
                raise Stopped  # neither handled nor buried: the next process continues with this fact

    async def _attempt(self, facts: Sequence[tuple[int, bytes]], *, attempt: int, final: bool) -> bool:
        """Handle `facts`, or with `final` bury the one that fails. True when the inbox has moved past them; False when they failed and
        can be tried again. Raises retryable problems, which are not the facts' fault.
        """
        try:
            await self._handle(facts)
        except Problem as error:
            if error.retryable:
                raise
            failure: Exception = error
        except Exception as error:  # noqa: BLE001 - whatever a handler does, the fact is kept
            failure = error
        else:
            return True
        telemetry.log.warning(
            "bus.handler_failed",
            source=self.subscription.source,
            consumer=self.subscription.name,
            first=facts[0][0],
            last=facts[-1][0],
            attempt=attempt,
            error=failure,
        )
        if not final:
            return False
        await self._bury(facts[0], failure, attempt)
        return True

    async def _handle(self, facts: Sequence[tuple[int, bytes]]) -> None:
        sub, last = self.subscription, facts[-1][0]
        heads = [
            (seq, _head(raw), raw) for seq, raw in facts
        ]  # an unreadable fact fails too, for it might be a wanted one
        taken = {type_ for type_ in {head.type for _, head, _ in heads} if sub.takes(type_)}
        tenants = sorted({head.tenant for _, head, _ in heads if head.type in taken})
        if not tenants:
            if not await self.database.execute(Q.skip, *self._labels, self.last_seq, last):
                raise Hole(f"the inbox of {sub.name} is no longer at {self.last_seq}")
            self.last_seq = last
            return
        if sub.unheard is not None and await self.database.execute(
            sub.unheard, *self._labels, self.last_seq, last, tenants
        ):
            self.last_seq = last
            return
        wanted = [Delivered(sub.source, seq, head, raw) for seq, head, raw in heads if head.type in taken]
        async with self.database.transaction() as tx:
            done = self.last_seq
            # Lock and move the inbox at once, in the usual case. Otherwise it has moved already: by another replica, or by this one in a
            # transaction whose COMMIT got no answer.
            if moved := await tx.execute(Q.skip, *self._labels, done, last):
                pending = wanted
            else:
                done = await tx.fetchval(Q.lock, *self._labels)
                pending = [one for one in wanted if one.seq > done]
            if pending:
                await sub.handle(self.service, tx, pending)
            if not moved:
                await tx.execute(Q.advance, *self._labels, last)
        self.last_seq = max(last, done)
        _handled.labels(*self._labels).inc(len(pending))

    async def _bury(self, fact: tuple[int, bytes], failure: Exception, attempts: int) -> None:
        seq, raw = fact
        async with self.database.transaction() as tx:
            await tx.execute(
                Q.bury, uuid_utils.uuid7(), *self._labels, seq, _type(raw)[:120], raw, describe(failure), attempts
            )
            await tx.execute(Q.advance, *self._labels, seq)
        self.last_seq = seq
        _buried.labels(*self._labels).inc()
        telemetry.log.error(
            "bus.dead_letter", source=self.subscription.source, consumer=self.subscription.name, seq=seq, error=failure
        )

    async def _replay_requested(self, own: Session) -> None:
        """Handle the dead letters whose replay was asked for, each in its own transaction.

        They are looked for each second, whether facts arrive or not. After a second of this it is the facts' turn.
        """
        clock = asyncio.get_running_loop().time
        if (began := clock()) < self._replay_at:
            return
        self._replay_at = began + POLL_S
        if await own.fetchrow(Q.any_requested, *self._labels) is None:
            return
        while not self._stopping.is_set() and clock() < began + POLL_S:
            letter = None
            try:
                async with self.database.transaction() as tx:
                    letter = await tx.fetchrow(Q.requested, *self._labels)
                    if letter is None:
                        return
                    raw = letter["fact"]
                    fact = Delivered(self.subscription.source, letter["seq"], _head(raw), raw)
                    await self.subscription.handle(self.service, tx, [fact])
                    await tx.execute(Q.replayed, letter["id"])
            except Exception as error:
                if letter is None:
                    raise
                if isinstance(error, Problem) and error.retryable:
                    telemetry.log.warning(
                        "bus.handler_failed",
                        source=self.subscription.source,
                        consumer=self.subscription.name,
                        first=letter["seq"],
                        last=letter["seq"],
                        attempt=letter["attempts"] + 1,
                        error=error,
                    )
                    self._replay_at = clock() + LONGEST_PAUSE_S  # new facts don't wait for it
                    return
                await self.database.execute(Q.failed_again, letter["id"], describe(error))


def _head(raw: bytes) -> Head:
    """A fact's type and tenant. Raises ValueError when it lacks one of them."""
    head = decode_head(raw)
    if not head.type or not head.tenant:
        raise ValueError("a fact without type or tenant")
    return head


def _type(raw: bytes) -> str:
    """A fact's type; empty when it can't be read."""
    try:
        return decode_head(raw).type
    except ValueError:  # no such JSON, or no UTF-8
        return ""


def describe(error: BaseException) -> str:
    """What is kept of a failure: exception types and code places, at most 2000 characters. Never a message, which may quote data."""
    return "\n".join(stack(error))[:2000]
