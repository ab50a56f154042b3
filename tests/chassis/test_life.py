"""chassis.db.life on a real server: who lives is not absent, whoever has ended is, and a server that was restarted costs nobody their life."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

from tallystick.chassis.db import DatabaseUnavailable, Life
from tallystick.chassis.db.life import ABSENT_SECONDS, LOOK_SECONDS
from tests.support.parts import Server, ServiceDatabase

SHORT = 0.2

#: A process that begins its life and says its number.
PROCESS = """
import asyncio, os, sys
from tallystick.chassis.db import Database, Dsn, Life
from tallystick.kernel.secret import Secret

async def main():
    host, port, name, user = sys.argv[1:]
    database = await Database.open(
        Dsn(host=host, port=int(port), database=name, user=user, password=Secret(os.environ["LIFE_PASSWORD"]))
    )
    life = await Life.begin(database)
    print(life.number, flush=True)
    await life.keep()

asyncio.run(main())
"""


async def until_absent(life: Life, number: int, within: float = 60) -> float:
    """How long it takes."""
    begun = monotonic()
    async with asyncio.timeout(within):
        while await life.absent([number]) != [number]:
            await asyncio.sleep(0.02)
    return monotonic() - begun


@pytest.fixture
def service(chassis_database: ServiceDatabase) -> ServiceDatabase:
    return chassis_database


async def _away(life: Life) -> bool:
    try:
        await life.absent([life.number + 1])
    except DatabaseUnavailable:
        return True
    return False


async def test_who_lives_is_not_absent_and_who_ended_is_after_a_while(service: ServiceDatabase) -> None:
    one = await Life.begin(await service.open(), absent_seconds=SHORT)
    two = await Life.begin(await service.open())
    assert one.number != two.number
    for _ in range(3):
        assert await one.absent([one.number, two.number]) == []
        await asyncio.sleep(SHORT)
    await two.end()
    assert await until_absent(one, two.number) >= SHORT
    assert await one.absent([one.number, two.number]) == [two.number]
    await one.end()
    assert await one.absent([one.number]) == [], "nobody takes their own process for dead"


async def test_absence_is_counted_anew_when_it_was_interrupted(service: ServiceDatabase) -> None:
    one = await Life.begin(await service.open(), absent_seconds=SHORT)
    two = await Life.begin(await service.open())
    name = two._name
    await two.end()
    assert await one.absent([two.number]) == []
    await asyncio.sleep(SHORT)
    two._name = name
    await two._look()
    assert await one.absent([two.number]) == []
    await two.end()
    assert await one.absent([two.number]) == []
    await until_absent(one, two.number)
    await one.end()


async def test_kill_9_ends_a_life_and_a_pause_does_not(service: ServiceDatabase) -> None:
    one = await Life.begin(await service.open(), absent_seconds=SHORT)
    dsn = service.dsn
    command = [sys.executable, "-c", PROCESS, dsn.host, str(dsn.port), dsn.database, dsn.user]
    environment = {**os.environ, "LIFE_PASSWORD": dsn.password.reveal()}
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, env=environment)
    try:
        assert process.stdout is not None
        number = int(await process.stdout.readline())
        process.send_signal(signal.SIGSTOP)
        for _ in range(3):
            assert await one.absent([number]) == []
            await asyncio.sleep(SHORT)
        process.kill()
        await until_absent(one, number)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    await one.end()


async def test_a_restarted_server_costs_nobody_their_life(directory: Path) -> None:
    server = Server(directory, settings={"fsync": "off"})
    await server.part.start()
    try:
        service = await server.database("tallystick.chassis", "chassis_test")
        assert 2 * LOOK_SECONDS < ABSENT_SECONDS, "they look again before they are given up"
        one = await Life.begin(await service.open(), absent_seconds=60)
        two = await Life.begin(await service.open(), absent_seconds=60)
        before = one._session, two._session
        tasks = [asyncio.create_task(life.keep()) for life in (one, two)]
        await server.part.stop()
        assert await _away(one)
        await server.part.start()
        while any(life._session in before or not life._held for life in (one, two)):
            assert await one.absent([two.number]) == []
            assert await two.absent([one.number]) == []
            await asyncio.sleep(0.02)
        for life, other in ((one, two), (two, one)):
            assert await life.absent([other.number]) == []
            assert life._missing == {}, "nobody is counted as missing any more"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await one.end()
        await two.end()
    finally:
        await server.part.stop()


async def test_who_has_ended_is_absent_before_the_server_notices(
    service: ServiceDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is closed last, and a busy server takes a moment to see that: who takes over asks once."""
    database = await service.open()
    other, life = await Life.begin(database, absent_seconds=0), await Life.begin(database)
    assert await other.absent([life.number]) == []
    close, seen = life._stack.aclose, []

    async def look_first() -> None:
        seen.append(await other.absent([life.number]))
        await close()

    monkeypatch.setattr(life._stack, "aclose", look_first)
    await life.end()
    assert seen == [[life.number]]
    await other.end()
    await database.close()
