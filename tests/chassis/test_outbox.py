"""The outbox and its relay, on real PostgreSQL and JetStream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from tallystick.chassis import outbox
from tallystick.chassis.bus import Bus, BusUnavailable, streams
from tallystick.chassis.db import Database
from tallystick.chassis.outbox import Fact
from tallystick.chassis.outbox.relay import Relay
from tallystick.kernel import ids
from tests.support.parts import NatsServer, ServiceDatabase


def fact(number: int, type_: str = "test.thing.happened") -> Fact:
    return Fact(
        id=ids.facts.new(),
        type=type_,
        tenant="default",
        actor="tester",
        resource=f"thing_{number}",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        data={"n": number},
    )


@pytest.fixture
async def database(chassis_database: ServiceDatabase) -> Database:
    return await chassis_database.open()


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.open(nats_server.url, nats_server.ADMIN, nats_server.password())
    yield bus
    await bus.close()


@asynccontextmanager
async def relaying(database: Database, bus: Bus, service: str = "test") -> AsyncIterator[Relay]:
    relay = Relay(database, bus, service, poll_s=0.02)
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        relay.stop()
        await task


async def told(bus: Bus, count: int, service: str = "test") -> list[Fact]:
    """The facts of the stream, once there are `count`; numbers must be 1, 2, 3 ... as stored."""
    async with asyncio.timeout(30):
        while True:
            try:
                end = await streams.tail(bus, service)
            except BusUnavailable:
                end = None
            if end is not None and end.fact >= count:
                break
            await asyncio.sleep(0.01)
    seq, messages = 1, []
    while page := await streams.read(bus, service, seq):
        messages += page
        seq = page[-1].sequence + 1
    facts: list[Fact] = []
    for message in messages:
        assert message.first == len(facts) + 1
        envelope = streams.decode(message.data)
        assert envelope.first == message.first
        assert envelope.service == service
        facts += [outbox.decode(bytes(raw)) for raw in envelope.facts]
        assert message.last == len(facts)
    return facts


async def append(database: Database, *facts: Fact) -> None:
    async with database.transaction() as tx:
        await outbox.append(tx, facts)


async def test_a_fact_reaches_the_stream_as_it_was_told(database: Database, bus: Bus) -> None:
    first, second = fact(1), fact(2)
    async with relaying(database, bus):
        await append(database, first)
        await append(database, second)
        assert await told(bus, 2) == [first, second]
    assert (await outbox.lag(database))[0] == 0


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
            await asyncio.sleep(0.2)
            assert (await outbox.lag(database))[0] == 1
            assert (await streams.tail(bus, "test")).fact == 0
        assert await told(bus, 2) == [early, late]
