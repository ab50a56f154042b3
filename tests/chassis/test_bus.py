"""Taking facts: each once in effect, in order, none lost in silence; and what a service's user may do on the bus."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallystick.chassis import charter, dead_letters, outbox
from tallystick.chassis import db as chassis_db
from tallystick.chassis.bus import Bus, BusUnavailable, Consumer, Delivered, Hole, Subscription, streams
from tallystick.chassis.db import Database, Transaction
from tallystick.chassis.outbox import Fact
from tallystick.chassis.telemetry import metrics
from tallystick.fabric import nats as fabric_nats
from tallystick.kernel.problem import Unavailable, Unprocessable
from tallystick.local.parts import Nats
from tallystick.local.parts.nats import hash_password
from tests.support.facts import append, fact, relaying, told
from tests.support.parts import NatsServer, ServiceDatabase, new_secret
from tests.support.ports import free_port

TAKE = chassis_db.parse("-- name: take\n-- Note a fact.\nINSERT INTO taken (seq, n) VALUES ($1, $2);", "test.sql")[0]
PASSWORD = new_secret()
Handle = Callable[[Any, Transaction, list[Delivered]], Awaitable[None]]


async def take(service: Any, tx: Transaction, facts: list[Delivered]) -> None:
    """Note each fact; a second time would violate the primary key."""
    for one in facts:
        await tx.execute(TAKE, one.seq, one.fact.data["n"])


@pytest.fixture
async def service(chassis_database: ServiceDatabase) -> ServiceDatabase:
    """One database plays both: the source and the service that takes from it."""
    await chassis_database.query("CREATE TABLE taken (seq bigint PRIMARY KEY, n int)")
    await chassis_database.query("GRANT SELECT, INSERT ON taken TO chassis_test")
    return chassis_database


@pytest.fixture
async def database(service: ServiceDatabase) -> Database:
    return await service.open(connections=12)


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.open(nats_server.url, nats_server.ADMIN, nats_server.password())
    yield bus
    await bus.close()


@asynccontextmanager
async def consuming(database: Database, bus: Bus, handle: Handle = take, **options: Any) -> AsyncIterator[Consumer]:
    subscription = Subscription(source="test", types=options.pop("types", ("*",)), handle=handle, **options)
    consumer = Consumer(database, bus, subscription, "the service", pause_s=0.01)
    task = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        consumer.stop()
        async with asyncio.timeout(60):
            await task


async def until(ready: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await ready():
            await asyncio.sleep(0.01)


async def reached(service: ServiceDatabase, seq: int) -> None:
    async def there() -> bool:
        rows = await service.query("SELECT last_seq FROM inbox")
        return bool(rows) and rows[0]["last_seq"] >= seq

    await until(there)


async def numbers(service: ServiceDatabase) -> list[int]:
    return [row["n"] for row in await service.query("SELECT n FROM taken ORDER BY seq")]


# --- once, in order


async def test_facts_arrive_in_order_with_their_numbers_and_exact_bytes(database: Database, bus: Bus) -> None:
    seen: list[Delivered] = []

    async def note(service: Any, tx: Transaction, facts: list[Delivered]) -> None:
        assert service == "the service"
        seen.extend(facts)

    facts = [fact(number) for number in range(700)]
    async with relaying(database, bus), consuming(database, bus, note):
        for start in range(0, 700, 7):
            await append(database, *facts[start : start + 7])
        await until(lambda: _true(len(seen) >= 700))
    assert [one.fact for one in seen] == facts
    assert [one.seq for one in seen] == list(range(1, 701))
    assert all(one.service == "test" and one.raw == outbox.encode(one.fact) for one in seen)


async def _true(value: bool) -> bool:
    return value


async def test_a_stream_that_never_had_a_message_is_a_place_to_begin_at(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    await streams.ensure(bus, "test", streams.StreamSettings())
    assert await streams.locate(bus, "test", 1) == 1
    async with consuming(database, bus):
        await reached(service, 0)


async def test_only_the_types_asked_for_arrive_and_the_others_are_passed(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    kinds = ("test.payment.settled", "test.payment.declined", "test.payments.settled", "test.refund.made")
    async with relaying(database, bus), consuming(database, bus, types=("test.payment.*", "test.refund.made")):
        await append(database, *(fact(number, kinds[number % 4]) for number in range(40)))
        await reached(service, 40)
    assert await numbers(service) == [n for n in range(40) if n % 4 != 2]


UNHEARD = chassis_db.parse(
    "-- name: unheard\n-- Nobody has taken a fact before.\n"
    "UPDATE inbox SET last_seq = $4 WHERE source = $1 AND consumer = $2 AND last_seq = $3 "
    "AND 'default' = ANY ($5::text[]) AND NOT EXISTS (SELECT FROM taken);",
    "test.sql",
)[0]


async def test_what_nobody_listens_to_is_passed_in_one_statement_and_nothing_of_what_somebody_does(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    seen: list[int] = []

    async def note(service: Any, tx: Transaction, facts: list[Delivered]) -> None:
        seen.extend(one.seq for one in facts)

    await service.query("GRANT SELECT ON taken TO chassis_test")
    async with relaying(database, bus), consuming(database, bus, note, unheard=UNHEARD):
        await append(database, *(fact(n) for n in range(10)))
        await reached(service, 10)
        assert seen == []
        await service.query("INSERT INTO taken (seq, n) VALUES (0, 0)")  # from now on somebody listens
        await append(database, *(fact(n) for n in range(10, 15)))
        await reached(service, 15)
    assert seen == [11, 12, 13, 14, 15]


async def test_what_another_replica_has_handled_meanwhile_is_left_out(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    await streams.ensure(bus, "test", streams.StreamSettings())
    raws = [outbox.encode(fact(number)) for number in range(1, 1301)]
    late = Consumer(database, bus, Subscription(source="test", types=("*",), handle=take), None)
    await late._begin()
    current = Consumer(database, bus, Subscription(source="test", types=("*",), handle=take), None)
    await current._begin()
    await streams.publish(bus, "test", 1, raws[:600], expected=0)
    await current._step()
    await streams.publish(bus, "test", 601, raws[600:], expected=1)
    await late._step()  # its first 512 are behind the other, and so are some of the next
    assert await numbers(service) == list(range(1, 1301))
    assert (await service.query("SELECT last_seq FROM inbox"))[0]["last_seq"] == late.last_seq == 1300
    assert await dead_letters.list_letters(database) == []


@pytest.mark.parametrize("bad", [(), ("pay*",), ("*.x",), ("a.*.b",)])
def test_a_pattern_that_means_nothing_is_refused(bad: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        Subscription(source="test", types=bad, handle=take)


async def test_messages_that_repeat_what_was_seen_are_skipped(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    raws = [outbox.encode(fact(number)) for number in range(1, 13)]
    await streams.ensure(bus, "test", streams.StreamSettings())
    # As it never should be: overlapping and repeated messages (the id is made unique, or JetStream would drop the repetition).
    for turn, (first, last) in enumerate([(1, 4), (1, 4), (3, 6), (5, 6), (2, 9), (10, 12)]):
        headers = {"Nats-Msg-Id": f"test.{turn}-{first}-{last - first + 1}"}
        await bus.jetstream().publish(
            "facts.test", streams.encode("test", first, raws[first - 1 : last]), headers=headers
        )
    async with consuming(database, bus):
        await reached(service, 12)
    assert await numbers(service) == list(range(1, 13))


async def test_a_restarted_consumer_goes_on_where_it_was(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    async with relaying(database, bus):
        for turn in range(5):
            await append(database, *(fact(turn * 10 + n) for n in range(10)))
            async with consuming(database, bus):
                await reached(service, (turn + 1) * 10)
    assert await numbers(service) == list(range(50))


async def test_a_consumer_killed_at_any_moment_repeats_both_or_neither(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    async def slowly(own: Any, tx: Transaction, facts: list[Delivered]) -> None:
        await take(own, tx, facts)
        await asyncio.sleep(0.005)

    subscription = Subscription(source="test", types=("*",), handle=slowly)
    async with relaying(database, bus):

        async def tell() -> None:
            for number in range(200):
                await append(database, fact(number))

        telling = asyncio.create_task(tell())
        for turn in range(40):
            task = asyncio.create_task(Consumer(database, bus, subscription, None, pause_s=0.01).run())
            await asyncio.sleep(0.02 + 0.003 * (turn % 7))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await telling
        async with consuming(database, bus):
            await reached(service, 200)
    assert await numbers(service) == list(range(200))


async def test_two_replicas_take_each_fact_once(database: Database, bus: Bus, service: ServiceDatabase) -> None:
    async with relaying(database, bus), consuming(database, bus) as first, consuming(database, bus) as second:
        await append(database, *(fact(n) for n in range(20)))
        await reached(service, 20)
        assert first.leading != second.leading
        (first if first.leading else second).stop()
        await append(database, *(fact(n) for n in range(20, 40)))
        await reached(service, 40)
    assert await numbers(service) == list(range(40))


async def test_a_consumer_that_still_believes_to_lead_takes_nothing_twice(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    subscription = Subscription(source="test", types=("*",), handle=take)
    current, late = (Consumer(database, bus, subscription, None) for _ in range(2))
    async with relaying(database, bus):
        await append(database, *(fact(n) for n in range(4)))
        await told(bus, 4)
        await current._begin()
        await late._begin()
        await current._step()
        await append(database, fact(4))
        await told(bus, 5)
        await late._step()
    assert await numbers(service) == list(range(5))
    assert await dead_letters.list_letters(database) == []
    assert late.last_seq == 5


# --- holes and loss


def counted(what: str) -> float:
    """A counter of the consumer of these tests. It exists as soon as the consumer does."""
    name = f"tallystick_bus_{what}_total"
    count = metrics.registry.get_sample_value(name, {"source": "test", "consumer": "main"})
    assert count is not None
    return count


async def test_a_hole_stops_the_consumer_until_the_stream_is_whole(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    raws = [outbox.encode(fact(number)) for number in range(1, 10)]
    await streams.ensure(bus, "test", streams.StreamSettings())
    await streams.publish(bus, "test", 1, raws[:3], expected=0)
    await streams.publish(bus, "test", 6, raws[5:], expected=1)  # 4 and 5 are missing
    async with consuming(database, bus):
        assert counted("dead_letters") >= 0  # there from the start: of a series that begins with 1 no increase is seen
        holes = counted("holes")
        await reached(service, 3)
        await asyncio.sleep(0.3)
        assert counted("holes") > holes
        assert counted("consumer_failures") >= counted("holes")
        assert await numbers(service) == [1, 2, 3]
        await bus.jetstream().delete_stream("facts-test")
        await streams.ensure(bus, "test", streams.StreamSettings())
        await streams.publish(bus, "test", 1, raws, expected=0)
        await reached(service, 9)
    assert await numbers(service) == list(range(1, 10))


@pytest.mark.parametrize("strange", ["no id", "another's", "no facts", "no UTF-8", "more than it says"])
async def test_a_message_that_no_relay_of_the_source_wrote_stops_the_consumer_after_what_is_before_it(
    database: Database, bus: Bus, service: ServiceDatabase, strange: str
) -> None:
    raws = [outbox.encode(fact(number)) for number in range(1, 6)]
    await streams.ensure(bus, "test", streams.StreamSettings())
    await streams.publish(bus, "test", 1, raws[:2], expected=0)
    named = {"Nats-Msg-Id": "test-3-1"}
    data, headers = {
        "no id": (streams.encode("test", 3, raws[2:3]), {}),
        "another's": (streams.encode("other", 3, raws[2:3]), named),
        "no facts": (b"?", named),
        "no UTF-8": (streams.encode("test", 3, raws[2:3]).replace(b'"test"', b'"te\xffst"', 1), named),
        "more than it says": (streams.encode("test", 3, raws[2:4]), named),
    }[strange]
    await bus.jetstream().publish("facts.test", data, headers=headers)
    await streams.publish(bus, "test", 4, raws[3:], expected=2)
    async with consuming(database, bus) as consumer:
        await reached(service, 2)
        await asyncio.sleep(0.2)
        with pytest.raises(Hole):
            await consumer._step()
    assert await numbers(service) == [1, 2]
    assert await dead_letters.list_letters(database) == []


async def test_a_relay_goes_on_once_what_it_did_not_write_is_gone(database: Database, bus: Bus) -> None:
    async with relaying(database, bus):
        await append(database, fact(1))
        await told(bus, 1)
    await bus.jetstream().publish("facts.test", b"?")
    async with relaying(database, bus) as relay:
        await append(database, fact(2))
        await asyncio.sleep(0.5)
        assert not relay.leading or (await streams.bounds(bus, "test")).last == 2
        await bus.jetstream().delete_stream("facts-test")
        assert [one.data["n"] for one in await told(bus, 2)] == [1, 2]


async def test_a_rebuilt_stream_is_read_on_without_repetition(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    async with relaying(database, bus), consuming(database, bus):
        for turn in range(3):
            for n in range(10):
                await append(database, fact(turn * 10 + n))
            await reached(service, (turn + 1) * 10)
            await bus.jetstream().delete_stream("facts-test")
        await append(database, fact(30))
        await reached(service, 31)
        assert len(await told(bus, 31)) == 31
    assert await numbers(service) == list(range(31))


@pytest.mark.parametrize("stopped", [timedelta(days=8), timedelta(days=400)], ids=["a week", "a year"])
async def test_what_was_not_read_before_a_long_stop_is_read_after_it(
    database: Database, bus: Bus, service: ServiceDatabase, stopped: timedelta
) -> None:
    """A stream lets its messages go by the clock, also those of the last moment before everything was stopped. And what is forgotten with
    time is looked for as soon as a service starts.
    """
    settings = streams.StreamSettings(max_age=timedelta(seconds=1), duplicate_window=timedelta(seconds=1))
    await append(database, fact(0))
    async with relaying(database, bus, settings=settings), consuming(database, bus):
        await reached(service, 1)
    await append(database, fact(1), fact(2))
    async with relaying(database, bus, settings=settings):
        await until(lambda: _is_told(bus, 3))
    await until(lambda: _is_empty(bus))
    await service.query("UPDATE outbox_batch SET at = at - $1::interval", stopped)
    assert await outbox.purge(database, datetime.now(UTC)) == 0
    async with consuming(database, bus), relaying(database, bus):
        await reached(service, 3)
        await append(database, fact(3))
        await reached(service, 4)
    assert await numbers(service) == [0, 1, 2, 3]


async def _is_told(bus: Bus, last: int) -> bool:
    return (await streams.tail(bus, "test")).fact == last


async def _is_empty(bus: Bus) -> bool:
    end = await streams.bounds(bus, "test")
    return end.first > end.last


async def test_a_late_consumer_begins_with_what_is_there_unless_it_needs_all(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    raws = [outbox.encode(fact(number)) for number in range(5, 8)]
    await streams.ensure(bus, "test", streams.StreamSettings())
    await streams.publish(bus, "test", 5, raws, expected=0)
    async with consuming(database, bus, name="strict", complete=True):
        await asyncio.sleep(0.2)
        assert await service.query("SELECT 1 FROM inbox") == []
    async with consuming(database, bus):
        await reached(service, 7)
    assert await numbers(service) == [5, 6, 7]


async def test_nats_killed_and_restarted_in_the_middle(
    service: ServiceDatabase, database: Database, directory: Path
) -> None:
    server = NatsServer(directory)
    await server.part.start()
    bus = await Bus.open(server.url, server.ADMIN, server.password())
    try:
        async with relaying(database, bus), consuming(database, bus):
            for number in range(90):
                await append(database, fact(number))
                if number in (30, 60):
                    assert server.part.pid
                    os.kill(server.part.pid, signal.SIGKILL)
                    await server.part.exited()
                    await server.part.start()
            await reached(service, 90)
    finally:
        await bus.close()
        await server.part.stop()
    assert await numbers(service) == list(range(90))


# --- poison


def poison(*bad: int, attempts: dict[int, int] | None = None) -> Handle:
    async def handle(service: Any, tx: Transaction, facts: list[Delivered]) -> None:
        await take(service, tx, facts)
        for one in facts:
            n = one.fact.data["n"]
            if n in bad:
                if attempts is not None:
                    attempts[n] = attempts.get(n, 0) + (len(facts) == 1)
                raise Unprocessable(f"the card 4242424242424242 of {n} is not to my taste")

    return handle


async def test_poison_goes_to_the_dead_letters_and_the_others_go_on(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    attempts: dict[int, int] = {}
    facts = [fact(number) for number in range(30)]
    await append(database, *facts)
    async with relaying(database, bus), consuming(database, bus, poison(7, 20, attempts=attempts), max_attempts=3):
        await reached(service, 30)
    assert await numbers(service) == [n for n in range(30) if n not in (7, 20)]
    assert attempts == {7: 3, 20: 3}
    letters = await dead_letters.list_letters(database)
    assert [(one.seq, one.attempts, one.state, one.type) for one in letters] == [
        (8, 3, "waiting", "test.thing.happened"),
        (21, 3, "waiting", "test.thing.happened"),
    ]
    assert outbox.decode(letters[0].fact) == facts[7]
    assert "Unprocessable" in letters[0].error
    assert "4242" not in letters[0].error
    assert [one.seq for one in await dead_letters.list_letters(database, after=letters[0].id)] == [21]
    assert (
        await dead_letters.count_letters(database),
        await dead_letters.count_letters(database, states=["replayed"]),
    ) == (2, 0)


async def test_a_fact_that_can_not_even_be_read_is_a_dead_letter_too(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    await streams.ensure(bus, "test", streams.StreamSettings())
    good = outbox.encode(fact(1))
    await streams.publish(
        bus, "test", 1, [good, b'{"type":"test.thing.happened"}', b'["?"]', outbox.encode(fact(4))], expected=0
    )
    async with consuming(database, bus, max_attempts=1):
        await reached(service, 4)
    assert await numbers(service) == [1, 4]
    assert [one.seq for one in await dead_letters.list_letters(database)] == [2, 3]


async def test_a_fact_that_does_not_say_what_it_is_might_be_wanted(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    """Neither a subscription to other types nor a service that nobody listens to passes it in silence."""
    strange = [
        b'["?"]',
        b'{"type":"test.thing.happened","tenant":5}',
        b'{"tenant":"default"}',
        b'{"type":"test.other"}',
        b'{"type":"test.\xff","tenant":"default"}',
    ]
    raws = [outbox.encode(fact(1)), *strange, outbox.encode(fact(7, "test.other.happened"))]
    await streams.ensure(bus, "test", streams.StreamSettings())
    await streams.publish(bus, "test", 1, raws, expected=0)
    passing = chassis_db.parse(
        "-- name: passing\n-- Nobody listens, ever.\n"
        "UPDATE inbox SET last_seq = $4 WHERE source = $1 AND consumer = $2 AND last_seq = $3 AND $5::text[] IS NOT NULL;",
        "test.sql",
    )[0]
    async with consuming(database, bus, types=("test.thing.happened",), max_attempts=1, unheard=passing):
        await reached(service, 7)
    letters = await dead_letters.list_letters(database)
    assert [(one.seq, one.fact) for one in letters] == list(enumerate(strange, 2))
    assert [one.type for one in letters] == ["", "", "", "test.other", ""]


async def test_letters_are_replayed_by_the_service_or_discarded_by_a_person(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    await append(database, *(fact(number) for number in range(6)))
    async with relaying(database, bus), consuming(database, bus, poison(1, 2, 3), max_attempts=1):
        await reached(service, 6)
    first, second, third = [one.id for one in await dead_letters.list_letters(database)]
    assert await dead_letters.discard(database, [third], reason="a test") == [third]
    assert await dead_letters.discard(database, [third], reason="again") == []
    assert await dead_letters.replay(database, [third], reason="too late") == []
    async with consuming(database, bus, poison(2), max_attempts=1):
        assert await dead_letters.replay(database, [first, second], reason="repaired") == [first, second]

        async def settled() -> bool:
            return not await dead_letters.list_letters(database, states=["requested"])

        await until(settled)
    letters = {
        one.id: one for one in await dead_letters.list_letters(database, states=["waiting", "replayed", "discarded"])
    }
    assert [letters[one].state for one in (first, second, third)] == ["replayed", "waiting", "discarded"]
    assert [letters[one].attempts for one in (first, second, third)] == [2, 2, 1]
    assert letters[third].reason == "a test"
    assert await numbers(service) == [0, 1, 4, 5]


async def a_dead_letter(database: Database, bus: Bus, service: ServiceDatabase) -> dead_letters.DeadLetter:
    """The second of three facts."""
    await append(database, *(fact(number) for number in range(3)))
    async with relaying(database, bus), consuming(database, bus, poison(1), max_attempts=1):
        await reached(service, 3)
    [letter] = await dead_letters.list_letters(database)
    return letter


async def test_letters_are_replayed_while_facts_keep_coming(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    letter = await a_dead_letter(database, bus, service)
    busy = asyncio.Event()

    async def traffic() -> None:
        while not busy.is_set():
            await append(database, fact(100))
            await asyncio.sleep(0.1)

    async with relaying(database, bus), consuming(database, bus):
        telling = asyncio.create_task(traffic())
        await reached(service, 5)
        await dead_letters.replay(database, [letter.id], reason="repaired")
        async with asyncio.timeout(60):
            while not await dead_letters.list_letters(database, states=["replayed"]):
                await asyncio.sleep(0.05)
        busy.set()
        await telling
    assert 1 in await numbers(service)


async def test_a_letter_that_waits_for_something_else_holds_nothing_up_and_can_be_discarded(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    letter = await a_dead_letter(database, bus, service)
    tried = asyncio.Event()

    async def down(own: Any, tx: Transaction, facts: list[Delivered]) -> None:
        if any(one.fact.data["n"] == 1 for one in facts):
            tried.set()
            raise Unavailable("what this one needs is not there")
        await take(own, tx, facts)

    await dead_letters.replay(database, [letter.id], reason="repaired")
    async with relaying(database, bus), consuming(database, bus, down) as consumer:
        async with asyncio.timeout(60):
            await tried.wait()
        assert await dead_letters.list_letters(database, states=["requested"])
        for seq in range(4, 8):
            await append(database, fact(seq))
            async with asyncio.timeout(60):
                await reached(service, seq)
            assert consumer.leading
        assert await dead_letters.discard(database, [letter.id], reason="given up") == [letter.id]
        assert await dead_letters.discard(database, [letter.id], reason="again") == []
    assert await dead_letters.list_letters(database) == []


async def test_what_is_not_the_facts_fault_is_tried_until_it_works(
    database: Database, bus: Bus, service: ServiceDatabase
) -> None:
    failures = 0

    async def flaky(own: Any, tx: Transaction, facts: list[Delivered]) -> None:
        nonlocal failures
        await take(own, tx, facts)
        if failures < 8:
            failures += 1
            raise Unavailable("a service that this needs is down")

    async with relaying(database, bus), consuming(database, bus, flaky, max_attempts=2):
        await append(database, fact(1))
        await reached(service, 1)
    assert failures == 8
    assert await numbers(service) == [1]
    assert await dead_letters.list_letters(database) == []


async def test_stopping_between_attempts_buries_nothing(database: Database, bus: Bus, service: ServiceDatabase) -> None:
    attempts: dict[int, int] = {}
    await append(database, fact(1), fact(2))
    async with relaying(database, bus):
        async with consuming(database, bus, poison(1, attempts=attempts), max_attempts=1000):
            await until(lambda: _true(attempts.get(1, 0) >= 2))
        assert await dead_letters.list_letters(database) == []
        assert await numbers(service) == []
        async with consuming(database, bus):
            await reached(service, 2)
    assert await numbers(service) == [1, 2]


# --- the connection and its rights


async def test_core_messages_reach_subscribers_and_a_bad_one_ends_nothing(bus: Bus) -> None:
    seen: list[bytes] = []

    def handle(data: bytes) -> None:
        if data == b"bad":
            raise ValueError
        seen.append(data)

    subscription = await bus.subscribe("identity.revocations", handle)
    for data in (b"one", b"bad", b"two"):
        await bus.publish("identity.revocations", data)
    await until(lambda: _true(seen == [b"one", b"two"]))
    await subscription.unsubscribe()


async def test_without_a_connection_nothing_is_kept_for_later(nats_server: NatsServer) -> None:
    bus = await Bus.open(nats_server.url, nats_server.ADMIN, nats_server.password())
    await bus.close()
    for call in (bus.publish("x", b""), bus.request("x", b""), bus.request_many("x", b"")):
        with pytest.raises(BusUnavailable):
            await call


async def test_a_wrong_password_is_refused_and_not_shown(nats_server: NatsServer) -> None:
    from tests.support.parts import new_secret

    password = new_secret()
    with pytest.raises(BusUnavailable) as caught:
        await Bus.open(nats_server.url, nats_server.ADMIN, password, within=1.0)
    assert password.reveal() not in f"{caught.value} {caught.value.context}"


def rendered(**consumes: str) -> dict[str, Any]:
    """The accounts of services that consume one source each, or none."""
    known = charter.load("risk")
    sources = {name: {source: known.consumes["payments"]} if source else {} for name, source in consumes.items()}
    charters = {name: msgspec.structs.replace(known, consumes=found) for name, found in sources.items()}
    return fabric_nats.accounts(charters, lambda _: hash_password(PASSWORD))


@pytest.fixture
async def accounts(directory: Path) -> AsyncIterator[Nats]:
    """A server where `other` takes the facts of `test` (whose database plays both), and `stranger` nobody's."""
    part = Nats(
        directory / "nats",
        port=free_port(),
        accounts=rendered(test="test", other="test", stranger=""),
        log=directory / "nats.log",
    )
    await part.start()
    yield part
    await part.stop()


async def test_a_services_user_may_do_what_its_bus_needs_and_nothing_else(
    accounts: Nats, database: Database, service: ServiceDatabase
) -> None:
    buses = {name: await Bus.open(accounts.url, name, PASSWORD) for name in ("test", "other", "stranger")}
    source, other, stranger = buses.values()
    try:
        async with relaying(database, source), consuming(database, other):  # all of it works with these rights
            await append(database, fact(1), fact(2))
            await reached(service, 2)
        before = await streams.tail(source, "test")
        for thief in (other, stranger):
            with pytest.raises(BusUnavailable):
                await thief.request("facts.test", streams.encode("test", 3, [b"{}"]), timeout=0.3)
            for api, what in itertools.product(("$JS.API", streams.API), ("DELETE", "PURGE", "UPDATE")):
                with pytest.raises(BusUnavailable):
                    await thief.request(f"{api}.STREAM.{what}.facts-test", b"{}", timeout=0.2)
        with pytest.raises(BusUnavailable):
            await stranger.request(streams.get_subject("test"), b'{"seq":1}', timeout=0.3)
        stolen: list[bytes] = []
        await stranger.subscribe("facts.test", stolen.append)
        await stranger.subscribe("_INBOX.other.>", stolen.append)
        async with relaying(database, source):
            await append(database, fact(3))
            await until(lambda: _told(source, 3))
        await streams.read(other, "test", 1)
        assert stolen == []
        assert (await streams.tail(source, "test")).fact == before.fact + 1
    finally:
        for bus in buses.values():
            await bus.close()


async def test_what_was_stored_when_all_shared_an_account_is_told_again_and_nothing_is_taken_twice(
    directory: Path, database: Database, service: ServiceDatabase
) -> None:
    class Shared(Nats):
        """As a platform of that time configured it: users of no account in particular."""

        def _configuration(self) -> str:
            document = json.loads(super()._configuration())
            users = [user for account in document.pop("accounts").values() for user in account.get("users", ())]
            everything = {"publish": {"allow": [">"]}, "subscribe": {"allow": [">"]}}
            document["authorization"] = {"users": [{**user, "permissions": everything} for user in users]}
            document["mappings"] = {f"{streams.API}.>": "$JS.API.>"}
            return json.dumps(document)

    made = rendered(test="", other="test")
    kept = directory / "nats" / "jetstream" / "jetstream"
    for kind, numbered in ((Shared, range(1, 4)), (Nats, range(4, 7))):
        part = kind(directory / "nats", port=free_port(), accounts=made, log=directory / "nats.log")
        await part.start()
        source, other = await Bus.open(part.url, "test", PASSWORD), await Bus.open(part.url, "other", PASSWORD)
        async with relaying(database, source), consuming(database, other):  # `take` would not note a fact a second time
            for number in numbered:
                await append(database, fact(number))
                await reached(service, number)
            assert [one.data["n"] for one in await told(source, numbered[-1])] == list(range(1, numbered[-1] + 1))
        await source.close()
        await other.close()
        await part.stop()
        assert {found.name for found in kept.iterdir()} == ({"$G"} if kind is Shared else {"test_stream"})
    assert await numbers(service) == [1, 2, 3, 4, 5, 6]
    assert await dead_letters.list_letters(database) == []


async def _told(bus: Bus, count: int) -> bool:
    return (await streams.tail(bus, "test")).fact >= count


def test_a_fact_is_the_same_for_everyone() -> None:
    one = fact(1)
    envelope = streams.decode(streams.encode("test", 5, [outbox.encode(one)]))
    assert (envelope.service, envelope.first) == ("test", 5)
    assert isinstance(outbox.decode(bytes(envelope.facts[0])), Fact)
    assert bytes(envelope.facts[0]) == outbox.encode(one)
