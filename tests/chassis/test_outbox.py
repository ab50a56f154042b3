"""The outbox and its relay, on real PostgreSQL and JetStream, with crashes at every point."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.chassis import outbox
from tallystick.chassis.bus import Bus, BusUnavailable, streams
from tallystick.chassis.db import Database, Session, parse, session
from tallystick.chassis.outbox import Fact
from tallystick.chassis.outbox.relay import MAX_BYTES, MAX_FACTS, Batch, Diverged, LostLead, Relay, batches
from tallystick.chassis.telemetry import metrics
from tests.support.facts import append, fact, relaying, told
from tests.support.parts import NatsServer, ServiceDatabase


@pytest.fixture
async def database(chassis_database: ServiceDatabase) -> Database:
    return await chassis_database.open(connections=12)


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.open(nats_server.url, nats_server.ADMIN, nats_server.password())
    yield bus
    await bus.close()


_WAITING = """
-- name: waiting
-- How many facts wait for the relay.
SELECT count(*) FROM outbox AS o, outbox_cursor AS c WHERE (o.xid, o.position) > (c.xid, c.position);
"""
(WAITING,) = parse(_WAITING, "test_outbox")


# --- facts


def test_a_fact_survives_its_encoding() -> None:
    one = fact(1, nested={"list": [1, "two", None]}, text='quotes " and ünïcode')
    raw = outbox.encode(one)
    assert outbox.decode(raw) == one
    assert raw == outbox.encode(outbox.decode(raw))
    assert raw.startswith(b'{"id":"fct_')


async def test_a_fact_that_is_too_large_is_refused_before_it_is_stored(database: Database) -> None:
    with pytest.raises(ValueError, match="looked up"):
        await append(database, fact(1), fact(2, filler="x" * outbox.MAX_FACT_BYTES))
    assert await database.fetchval(WAITING) == 0


@given(st.lists(st.integers(1, 70_000), max_size=1200), st.integers(1, 2**40))
def test_batches_keep_order_number_every_fact_once_and_stay_in_bounds(sizes: list[int], first: int) -> None:
    rows = [(str(index // 3), index, b"x" * size) for index, size in enumerate(sizes)]
    cut = batches(first, rows)
    assert [one for batch in cut for one in batch.facts] == [row[2] for row in rows]
    expected = first
    for batch in cut:
        assert batch.first == expected
        expected = batch.last + 1
        assert 1 <= len(batch.facts) <= MAX_FACTS
        assert sum(map(len, batch.facts)) <= MAX_BYTES or len(batch.facts) == 1
        row = rows[batch.last - first]
        assert (batch.last_xid, batch.last_position) == (row[0], row[1])


@given(st.integers(1, 100), st.integers(1, 20), st.integers(0, 140))
def test_what_is_left_of_a_batch_follows_what_is_published(first: int, count: int, seq: int) -> None:
    batch = Batch(first, [str(first + n).encode() for n in range(count)], "1", 1)
    left = batch.after(seq)
    assert [int(one) for one in left.facts] == [n for n in range(first, first + count) if n > seq]
    assert not left.facts or left.first == int(left.facts[0])
    assert left.last == max(batch.last, left.first - 1)


# --- order


async def test_a_fact_reaches_the_stream_as_it_was_told(database: Database, bus: Bus) -> None:
    first, second = fact(1), fact(2)
    async with relaying(database, bus):
        await append(database, first)
        await append(database, second)
        assert await told(bus, 2) == [first, second]
    assert await database.fetchval(WAITING) == 0


async def test_a_fact_of_a_rolled_back_transaction_is_never_told(database: Database, bus: Bus) -> None:
    with pytest.raises(LookupError):
        async with database.transaction() as tx:
            await outbox.append(tx, [fact(1)])
            raise LookupError
    kept = fact(2)
    async with relaying(database, bus):
        await append(database, kept)
        assert await told(bus, 1) == [kept]


async def test_facts_wait_for_older_transactions_that_still_run(database: Database, bus: Bus) -> None:
    early, late = fact(1), fact(2)
    async with relaying(database, bus):
        async with database.transaction() as tx:
            await outbox.append(tx, [early])
            await append(database, late)  # commits first, but its transaction is younger
            await asyncio.sleep(0.3)
            assert await database.fetchval(WAITING) == 1
            assert (await streams.tail(bus, "test")).fact == 0
        assert await told(bus, 2) == [early, late]


class Crash(Exception):
    """A fault that a test puts in."""


class Fragile(Relay):
    """Dies before and after publishing, in the middle of a pipeline, before and after moving the cursor.

    At each of these points for certain when it is first passed (how many batches there are depends on the machine, so
    chance alone may leave a point out), and by chance after that.
    """

    chance = random.Random(7)
    died: ClassVar[set[str]] = set()

    def _dies(self, point: str) -> bool:
        dies = point not in self.died or self.chance.random() < 0.2
        if dies:
            self.died.add(point)
        return dies

    def _maybe(self, point: str) -> None:
        if self._dies(point):
            raise Crash

    async def _publish(self, cut: Sequence[Batch]) -> tuple[list[Batch], Exception | None]:
        self._maybe("before publishing")
        if self._dies("amid publishing"):  # only the first part of the pipeline arrives
            await super()._publish(cut[: len(cut) // 2])
            raise Crash
        result = await super()._publish(cut)
        self._maybe("after publishing")
        return result

    async def _move(self, own: Session, done: list[Batch]) -> None:
        self._maybe("before moving")
        await super()._move(own, done)
        self._maybe("after moving")


async def fragile(database: Database, bus: Bus, stop: asyncio.Event) -> None:
    """A process that is started again each time it dies."""
    while not stop.is_set():
        relay = Fragile(database, bus, "test", poll_s=0.005)
        task = asyncio.create_task(relay.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        relay.stop()
        stopping.cancel()
        try:
            await task
        except Crash:
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("seed", range(3))
async def test_numbers_are_gap_free_and_stable_whatever_commits_aborts_and_crashes(
    database: Database, bus: Bus, seed: int
) -> None:
    chance = random.Random(seed)
    Fragile.died.clear()
    stored: list[list[Fact]] = []

    async def writer(number: int) -> None:
        for turn in range(12):
            facts = [fact(number * 1000 + turn * 10 + index) for index in range(chance.choice((1, 1, 2, 3)))]
            # Not the pool's transaction only: each pauses somewhere between its first fact and its end.
            try:
                async with database.transaction() as tx:
                    for one in facts:
                        await outbox.append(tx, [one])
                        await asyncio.sleep(chance.random() * 0.01)
                    if chance.random() < 0.25:
                        raise Crash
            except Crash:
                continue
            stored.append(facts)

    stop = asyncio.Event()
    relays = [asyncio.create_task(fragile(database, bus, stop)) for _ in range(2)]
    await asyncio.gather(*(writer(number) for number in range(10)))
    count = sum(map(len, stored))
    facts = await told(bus, count)
    async with asyncio.timeout(60):
        while await database.fetchval(WAITING):  # what is told is not yet moved past
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*relays)
    assert len(Fragile.died) == 5
    assert len(facts) == count
    place = {one.id: index for index, one in enumerate(facts)}
    assert len(place) == count
    for together in stored:  # facts of one transaction follow each other, in the order told
        places = [place[one.id] for one in together]
        assert places == list(range(places[0], places[0] + len(places)))
    async with relaying(database, bus):  # and a healthy relay finds nothing to repair
        await asyncio.sleep(0.1)
        assert await told(bus, count) == facts
        assert await database.fetchval(WAITING) == 0


async def test_many_facts_go_in_a_pipeline_and_batches_note_every_one(
    database: Database, bus: Bus, chassis_database: ServiceDatabase
) -> None:
    everything = [fact(number) for number in range(5000)]
    await append(database, *everything)
    async with relaying(database, bus):
        assert await told(bus, 5000) == everything
    rows = await chassis_database.query("SELECT first, count FROM outbox_batch ORDER BY first")
    expected = 1
    for row in rows:
        assert row["first"] == expected
        assert row["count"] <= MAX_FACTS
        expected += row["count"]
    assert expected == 5001


async def test_what_was_relayed_is_not_read_again(
    database: Database, bus: Bus, chassis_database: ServiceDatabase
) -> None:
    await chassis_database.leave_alone()
    await append(database, *(fact(number) for number in range(4000)))
    async with relaying(database, bus):
        await told(bus, 4000)
        await append(database, *(fact(number) for number in range(4000, 4010)))
        await told(bus, 4010)
    await chassis_database.query("ANALYZE outbox")
    (cursor,) = await chassis_database.query("SELECT xid::text AS xid, position FROM outbox_cursor")
    (plan,) = await chassis_database.query(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {outbox.Q.next_facts.sql}", cursor["xid"], cursor["position"], 2048
    )
    (found,) = json.loads(plan["QUERY PLAN"])
    # One way down the index and nothing of the table: as much after a month of facts as after none.
    assert found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"] <= 5


async def test_a_refused_message_in_the_pipeline_moves_the_cursor_only_up_to_it(
    database: Database, bus: Bus, chassis_database: ServiceDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = [fact(number) for number in range(2000)]
    await append(database, *everything)
    real = streams.publish
    refused = asyncio.Event()

    async def refusing(bus: Bus, service: str, first: int, facts: Sequence[bytes], *, expected: int) -> int:
        if first == 1 + MAX_FACTS and not refused.is_set():
            refused.set()
            raise BusUnavailable("as if the disk of NATS were full")
        return await real(bus, service, first, facts, expected=expected)

    monkeypatch.setattr(streams, "publish", refusing)
    async with relaying(database, bus):
        await refused.wait()
        assert await told(bus, 2000) == everything
    assert [row["seq"] for row in await chassis_database.query("SELECT seq FROM outbox_cursor")] == [2000]


async def test_a_relay_that_lost_the_lead_can_neither_move_nor_publish(database: Database, bus: Bus) -> None:
    await append(database, fact(1))
    async with relaying(database, bus):
        await told(bus, 1)
    late = Relay(database, bus, "test")
    from tallystick.chassis import db

    async with db.session(database) as own:
        with pytest.raises(LostLead):
            await late._move(own, [Batch(1, [b"{}"], "1", 1)])
    with pytest.raises(BusUnavailable, match="wrong last sequence"):
        await streams.publish(bus, "test", 2, [b"{}"], expected=0)
    assert len(await told(bus, 1)) == 1


# --- the parts go away


async def test_a_lost_stream_is_rebuilt_message_for_message(database: Database, bus: Bus) -> None:
    facts = [fact(number) for number in range(1500)]
    async with relaying(database, bus):
        for start in range(0, 1500, 300):
            await append(database, *facts[start : start + 300])
        await told(bus, 1500)
        sequence, before = 1, []
        while page := await streams.read(bus, "test", sequence):
            before += [(message.first, message.count, message.data) for message in page]
            sequence = page[-1].sequence + 1
        await bus.jetstream().delete_stream("facts-test")
        more = fact(9999)
        await append(database, more)  # noticed at once, by publishing
        assert await told(bus, 1501) == [*facts, more]
        after = await streams.read(bus, "test", 1)
        assert [(m.first, m.count, m.data) for m in after][: len(before)] == before
        await bus.jetstream().delete_stream("facts-test")  # noticed after a while, without anything to publish
        assert await told(bus, 1501) == [*facts, more]


async def test_nats_killed_and_restarted_loses_and_doubles_nothing(
    chassis_database: ServiceDatabase, directory: Path
) -> None:
    database = await chassis_database.open()
    server = NatsServer(directory)
    await server.part.start()
    bus = await Bus.open(server.url, server.ADMIN, server.password())
    facts = [fact(number) for number in range(300)]
    try:
        async with relaying(database, bus):
            for index, one in enumerate(facts):
                await append(database, one)
                if index in (100, 200):
                    assert server.part.pid
                    os.kill(server.part.pid, signal.SIGKILL)
                    await server.part.exited()
                    if index == 200:
                        await asyncio.sleep(0.3)
                    await server.part.start()
            assert await told(bus, 300) == facts
    finally:
        await bus.close()
        await server.part.stop()


async def test_a_lost_database_connection_is_only_a_pause(
    database: Database, bus: Bus, chassis_database: ServiceDatabase
) -> None:
    facts = [fact(number) for number in range(60)]
    async with relaying(database, bus) as relay:
        for index, one in enumerate(facts):
            await append(database, one)
            if index % 20 == 10:
                while not relay.leading:
                    await asyncio.sleep(0.01)
                connection = await chassis_database.connection(superuser=True)
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = "
                    "(SELECT oid FROM pg_database WHERE datname = current_database())"
                )
                await connection.close()
        assert await told(bus, 60) == facts


async def test_two_relays_one_leads_and_the_other_takes_over(database: Database, bus: Bus) -> None:
    async with relaying(database, bus) as first:
        while not first.leading:
            await asyncio.sleep(0.01)
        async with relaying(database, bus) as second:
            await append(database, fact(1))
            await told(bus, 1)
            assert not second.leading
            first.stop()
            await append(database, fact(2))
            assert len(await told(bus, 2)) == 2
            while not second.leading:
                await asyncio.sleep(0.01)


# --- what must not go on


async def diverged(database: Database, bus: Bus) -> str:
    from tallystick.chassis import db

    relay = Relay(database, bus, "test")
    async with db.session(database) as own:
        with pytest.raises(Diverged) as caught:
            await relay._synchronise(own)
    return str(caught.value)


async def test_a_database_restored_to_an_earlier_time_never_gives_a_number_twice(
    database: Database, bus: Bus, chassis_database: ServiceDatabase
) -> None:
    async with relaying(database, bus):
        await append(database, *(fact(number) for number in range(5)))
        await told(bus, 5)
    for sql in (
        "UPDATE outbox_cursor SET seq = 0, xid = '0', position = 0",
        "DELETE FROM outbox_batch",
        "DELETE FROM outbox",
    ):
        await chassis_database.query(sql)
    await append(database, fact(77))
    assert "restored" in await diverged(database, bus)
    failures = partial(metrics.registry.get_sample_value, "tallystick_outbox_relay_failures_total")
    before = failures() or 0
    async with relaying(database, bus):
        await asyncio.sleep(0.3)
    assert (failures() or 0) > before
    assert (await streams.tail(bus, "test")).fact == 5


async def test_a_stream_that_tells_another_history_is_not_read_to_its_end(
    database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold a week of facts, and the relay looks again every few seconds."""
    await streams.ensure(bus, "test", streams.StreamSettings())
    for number in range(200):
        await streams.publish(bus, "test", number + 1, [outbox.encode(fact(number))], expected=number)
    await append(database, fact(77))
    pages = 0
    read = streams.read

    async def counted(*given: Any, **more: Any) -> list[streams.Message]:
        nonlocal pages
        pages += 1
        return await read(*given, **more)

    monkeypatch.setattr(streams, "read", counted)
    assert "restored" in await diverged(database, bus)
    assert pages == 1


async def test_what_another_relay_publishes_meanwhile_is_no_other_history(
    database: Database, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has lost its lead and does not know: its facts are those of this outbox, and its cursor will not move."""
    facts = [fact(number) for number in range(3)]
    await append(database, *facts)
    await streams.ensure(bus, "test", streams.StreamSettings())
    await streams.publish(bus, "test", 1, [outbox.encode(one) for one in facts[:2]], expected=0)
    tail = streams.tail

    async def then_published(*given: Any) -> streams.Tail:
        found = await tail(*given)
        await streams.publish(bus, "test", 3, [outbox.encode(facts[2])], expected=1)
        return found

    monkeypatch.setattr(streams, "tail", then_published)
    relay = Relay(database, bus, "test")
    async with session(database) as own:
        await relay._synchronise(own)
        monkeypatch.undo()
        with pytest.raises(BusUnavailable):
            await relay._step(own)
    async with relaying(database, bus):
        await append(database, fact(3))
        assert (await told(bus, 4))[:3] == facts


async def test_an_outbox_of_another_cluster_is_refused(
    database: Database, bus: Bus, chassis_database: ServiceDatabase
) -> None:
    await chassis_database.query("UPDATE outbox_cursor SET seq = 3, xid = '99999999999', position = 3")
    assert "another PostgreSQL cluster" in await diverged(database, bus)


# --- retention


async def test_purge_takes_only_what_was_relayed_long_ago(
    database: Database, bus: Bus, chassis_database: ServiceDatabase
) -> None:
    async with relaying(database, bus):
        await append(database, *(fact(number) for number in range(10)))
        await told(bus, 10)
    now = datetime.now(UTC)
    assert await outbox.purge(database, now) == 0
    # Nothing was told since: the stream may have to be filled with it again.
    assert await outbox.purge(database, now + timedelta(days=31)) == 0
    last = fact(10)
    async with relaying(database, bus):
        await append(database, last)
        await told(bus, 11)
    waiting = [fact(number) for number in range(3)]
    await append(database, *waiting)
    await chassis_database.query("UPDATE outbox_batch SET at = at - interval '31 days' WHERE first <= 10")
    assert await outbox.purge(database, now) == 10
    rows: list[Any] = await chassis_database.query("SELECT id FROM outbox ORDER BY xid, position")
    assert [row["id"] for row in rows] == [one.id for one in (last, *waiting)]
    async with relaying(database, bus):
        assert (await told(bus, 14))[10:] == [last, *waiting]


async def test_what_was_told_while_the_clock_was_ahead_is_not_forgotten_in_the_middle(
    database: Database, bus: Bus, chassis_database: ServiceDatabase
) -> None:
    """Its batch would be left without facts, and a lost stream could never be rebuilt."""
    now = datetime.now(UTC)
    for number, days in enumerate((-40, 300, -35, 0)):
        async with relaying(database, bus):
            await append(database, fact(number))
            await told(bus, number + 1)
        await chassis_database.query(
            "UPDATE outbox_batch SET at = $1 WHERE first = $2", now + timedelta(days=days), number + 1
        )
    assert await outbox.purge(database, now) == 1
    rows = await chassis_database.query(
        "SELECT (SELECT count(*) FROM outbox) AS facts, sum(count) AS noted FROM outbox_batch"
    )
    assert [(row["facts"], row["noted"]) for row in rows] == [(3, 3)]
    await chassis_database.query("UPDATE outbox_batch SET at = at - interval '400 days' WHERE first = 2")
    assert await outbox.purge(database, now) == 2
