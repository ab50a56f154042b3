"""The relay: it numbers facts and publishes them to the service's stream, in order, without gaps and without forks.

One replica leads (by an advisory lock of its session). The numbers are safe even when two replicas believe that they lead: the cursor
moves by compare-and-set, and each message names the stream sequence that must precede it, so a late message of a former leader is
refused. The stream is a copy: when it is lost, it is rebuilt from the outbox, message for message.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tallystick.chassis import telemetry
from tallystick.chassis.bus import streams
from tallystick.chassis.bus.connection import Bus, BusUnavailable
from tallystick.chassis.bus.streams import Hole, StreamSettings, Tail
from tallystick.chassis.db import Database, Row, Session, arguments, session
from tallystick.chassis.outbox import Q
from tallystick.chassis.waiting import set_within
from tallystick.kernel.problem import Problem

MAX_FACTS: Final = 512
MAX_BYTES: Final = 512 * 1024
PAGE: Final = 2048
#: Seconds that facts gather after a relayed page. The first fact after a quiet time goes at once; many in a row go in larger
#: messages, of which each consumer handles one in a transaction.
GATHER_S: Final = 0.2
WINDOW: Final = 8
STREAM_CHECK_S: Final = 2.0
FOLLOWER_S: Final = 1.0

_relayed = telemetry.counter("tallystick_outbox_relayed_total", "Facts that the stream has acknowledged")
_failed = telemetry.counter("tallystick_outbox_relay_failures_total", "Times that the relay failed and began again")


class Diverged(Exception):
    """The stream holds facts that this database does not have: the database was restored to an earlier time, or the stream belongs to
    another one.
    """


class LostLead(Exception):
    """Another relay has moved the cursor."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Facts that are published together: numbers first .. first + len(facts) - 1."""

    first: int
    facts: list[bytes]
    last_xid: str
    last_position: int

    @property
    def last(self) -> int:
        return self.first + len(self.facts) - 1

    def after(self, seq: int) -> Batch:
        """The rest of the batch when everything up to `seq` is published."""
        drop = max(0, seq + 1 - self.first)
        return self if drop == 0 else Batch(self.first + drop, self.facts[drop:], self.last_xid, self.last_position)


def batches(first: int, rows: Sequence[tuple[str, int, bytes]]) -> list[Batch]:
    """Divide rows (xid, position, fact) into batches, numbered from `first`. Pure."""
    made: list[Batch] = []
    facts: list[bytes] = []
    size = 0
    last = ("", 0)
    for xid, position, fact in rows:
        if facts and (len(facts) == MAX_FACTS or size + len(fact) > MAX_BYTES):
            made.append(Batch(first, facts, *last))
            first, facts, size = first + len(facts), [], 0
        facts.append(fact)
        size += len(fact) + 1
        last = (xid, position)
    if facts:
        made.append(Batch(first, facts, *last))
    return made


@dataclass(frozen=True, slots=True)
class Place:
    """How far the relay is: at fact number `seq`, which is at (xid, position) of the table."""

    seq: int
    xid: str
    position: int


class Relay:
    """`run` until `stop`. When the database or the bus fails it logs that and tries again, for ever. So it does after `Diverged` and
    `Hole`, which a person has to resolve.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        service: str,
        *,
        poll_s: float = 0.1,
        settings: StreamSettings | None = None,
    ) -> None:
        self.database = database
        self.bus = bus
        self.service = service
        self.leading = False
        self._poll_s = poll_s
        self._settings = settings or StreamSettings()
        self._stopping = asyncio.Event()
        self._tail = Tail("", 0, 0, 0)
        self._place = Place(0, "0", 0)

    def stop(self) -> None:
        """Let `run` end after the current page."""
        self._stopping.set()
        self.database.appended.send()

    async def run(self) -> None:
        pause = 0.1
        while not self._stopping.is_set():
            try:
                async with session(self.database) as own:
                    while not await own.lock(f"relay:{self.service}"):
                        if await set_within(self._stopping, FOLLOWER_S):
                            return
                    self.leading = True
                    await self._lead(own)
                    pause = 0.1
            except (Problem, LostLead, Diverged, Hole, OSError) as error:
                _failed.inc()
                telemetry.log.warning("outbox.relay_failed", error=error, reason=str(error), delay_ms=int(pause * 1000))
                await set_within(self._stopping, pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause = min(pause * 2, 5.0)
            finally:
                self.leading = False

    async def _lead(self, own: Session) -> None:
        await self._synchronise(own)
        clock = asyncio.get_running_loop().time
        checked = clock()
        while not self._stopping.is_set():
            if relayed := await self._step(own):
                checked = clock()
                if relayed < PAGE:
                    await asyncio.sleep(GATHER_S)
                continue
            await self.database.appended.wait(self._poll_s)
            if clock() - checked > STREAM_CHECK_S:
                checked = clock()
                now = await streams.bounds(self.bus, self.service)
                if (now.created, now.last) != (self._tail.created, self._tail.last):
                    telemetry.log.warning("outbox.stream_changed", stream=streams.name(self.service))
                    await self._synchronise(own)

    async def _step(self, own: Session) -> int:
        """Relay one page; returns how many facts it had."""
        rows = await own.fetch(Q.next_facts, self._place.xid, self._place.position, PAGE)
        if not rows:
            return 0
        cut = batches(self._place.seq + 1, _plain(rows))
        acknowledged, error = await self._publish(cut)
        if acknowledged:
            await self._move(own, acknowledged)
        if error is not None:
            raise error
        return len(rows)

    async def _move(self, own: Session, done: list[Batch]) -> None:
        last, cursor = done[-1], self._place.seq
        columns = arguments(((b.first, len(b.facts), b.last_xid, b.last_position) for b in done), 4)
        if not await own.fetch(Q.move, cursor, last.last, last.last_xid, last.last_position, *columns):
            raise LostLead(f"the cursor of {self.service} is no longer at {cursor}")
        self._place = Place(last.last, last.last_xid, last.last_position)
        _relayed.inc(last.last - cursor)

    async def _publish(self, cut: Sequence[Batch]) -> tuple[list[Batch], Exception | None]:
        """Publish in a pipeline; returns the leading batches that the stream holds now, and the error after them, if any."""
        waiting = [left for batch in cut if (left := batch.after(self._tail.fact)).facts]
        before = self._tail
        sent = await asyncio.gather(
            *(
                streams.publish(self.bus, self.service, batch.first, batch.facts, expected=before.last + index)
                for index, batch in enumerate(waiting)
            ),
            return_exceptions=True,
        )
        error: Exception | None = None
        for batch, answer in zip(waiting, sent, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, Exception):
                    raise answer
                error = answer
                break
            self._tail = Tail(before.created, before.first, max(self._tail.last, answer), batch.last)
        held = [batch for batch in cut if batch.last <= self._tail.fact]
        if held:
            with suppress(BusUnavailable):  # consumers also look for new messages by themselves
                await self.bus.publish(streams.stored_subject(self.service), b"")
        return held, error

    async def _synchronise(self, own: Session) -> None:
        """Make sure that the stream holds everything up to the cursor, or raise why it can't. Sets `_place` and `_tail`."""
        row = await own.fetchrow(Q.cursor)
        if row is None or row["ahead"]:
            raise Diverged(
                f"the outbox of {self.service} was written by another PostgreSQL cluster (its transaction ids are ahead of this one's)"
            )
        self._place = Place(row["seq"], row["xid"], row["position"])
        cursor = self._place.seq
        await streams.ensure(self.bus, self.service, self._settings)
        self._tail = await streams.tail(self.bus, self.service)
        if self._tail.fact > cursor:
            await self._compare(own, cursor)
        elif self._tail.fact < cursor:
            await self._rebuild(own, cursor)

    async def _compare(self, own: Session, cursor: int) -> None:
        """The stream is ahead of the cursor: a relay has published and not moved the cursor yet, or crashed in between. What the
        stream holds must be what comes next here. Page by page: a stream that tells another history may hold a week of it.
        """
        place = self._place
        sequence = await streams.locate(self.bus, self.service, cursor + 1)
        while messages := await streams.read(self.bus, self.service, sequence):
            told = streams.facts_after(messages, self.service, place.seq)
            rows = await own.fetch(Q.next_facts, place.xid, place.position, len(told))
            if [row["fact"] for row in rows] != told:
                raise Diverged(
                    f"the stream {streams.name(self.service)} ends at fact {self._tail.fact}, this outbox stands at {cursor} and does "
                    "not have the same facts after it: was the database restored to an earlier time?"
                )
            if rows:
                place = Place(place.seq + len(rows), rows[-1]["xid"], rows[-1]["position"])
            sequence = messages[-1].sequence + 1

    async def _rebuild(self, own: Session, cursor: int) -> None:
        """Publish again what the stream has lost and the outbox still has."""
        # An empty stream that once had messages has dropped them by age, perhaps while the platform was stopped and before every
        # consumer had read the last of them. So it gets as much as it keeps (`max_age`), counted from the last message and not from now.
        aged = self._tail.last > 0 and self._tail.fact == 0
        kept = self._settings.max_age if aged else None
        done = self._tail.fact
        rebuilt = 0
        while rows := await own.fetch(Q.batches, done, kept, WINDOW):
            cut = [await self._batch(own, row) for row in rows]
            held, error = await self._publish(cut)
            if error is not None:
                raise error
            rebuilt += len(held)
            done = cut[-1].last
        if rebuilt:
            telemetry.log.warning("outbox.stream_rebuilt", stream=streams.name(self.service), count=rebuilt, last=done)
        self._tail = Tail(self._tail.created, self._tail.first, self._tail.last, max(self._tail.fact, cursor))

    async def _batch(self, own: Session, row: Row) -> Batch:
        facts = await own.fetch(Q.facts_of_batch, row["last_xid"], row["last_position"], row["count"])
        if len(facts) != row["count"]:
            raise Diverged(f"the outbox of {self.service} has lost facts of the batch that starts at {row['first']}")
        return Batch(row["first"], [one["fact"] for one in reversed(facts)], row["last_xid"], row["last_position"])


def _plain(rows: Sequence[Row]) -> list[tuple[str, int, bytes]]:
    return [(row["xid"], row["position"], row["fact"]) for row in rows]


__all__ = ["Batch", "BusUnavailable", "Diverged", "LostLead", "Relay", "batches"]
