"""Facts, and looking at what a stream holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from tallystick.chassis import outbox
from tallystick.chassis.bus import Bus, BusUnavailable, StreamSettings, streams
from tallystick.chassis.db import Database
from tallystick.chassis.outbox import Fact
from tallystick.chassis.outbox.relay import Relay
from tallystick.kernel import ids


def fact(number: int, type_: str = "test.thing.happened", **data: Any) -> Fact:
    return Fact(
        id=ids.facts.new(),
        type=type_,
        tenant="default",
        actor="tester",
        resource=f"thing_{number}",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        data={"n": number, **data},
    )


async def append(database: Database, *facts: Fact) -> None:
    async with database.transaction() as tx:
        await outbox.append(tx, facts)


@asynccontextmanager
async def relaying(
    database: Database,
    bus: Bus,
    service: str = "test",
    kind: type[Relay] = Relay,
    settings: StreamSettings | None = None,
) -> AsyncIterator[Relay]:
    """A relay that runs during the block and ends in order."""
    relay = kind(database, bus, service, poll_s=0.02, settings=settings)
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        relay.stop()
        await task


async def told(bus: Bus, count: int, service: str = "test") -> list[Fact]:
    """The stream's facts once there are `count`. They must be numbered 1, 2, 3 ... without gap or repetition."""
    async with asyncio.timeout(60):
        while True:
            try:
                if (await streams.tail(bus, service)).fact >= count:
                    break
            except BusUnavailable:
                pass
            await asyncio.sleep(0.01)
    facts: list[Fact] = []
    sequence = 1
    while page := await streams.read(bus, service, sequence):
        for message in page:
            envelope = streams.decode(message.data)
            assert (envelope.service, envelope.first) == (service, message.first)
            assert message.first == len(facts) + 1
            facts += [outbox.decode(bytes(raw)) for raw in envelope.facts]
            assert message.last == len(facts)
        sequence = page[-1].sequence + 1
    return facts
