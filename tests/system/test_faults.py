"""kill -9 of everything there is, in the middle of payments: what was answered is true, what was not is had by asking again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.conftest import PlatformUnderTest, replicated
from tests.system.stream import Stream, client_of, streaming

DOUBLE = ("payments", "ledger", "identity", "vault", "risk")
SINGLE = ("audit", "notify")


@pytest.fixture(scope="module")
def doubled() -> Iterator[PlatformUnderTest]:
    """A platform with two replicas of each service that a payment needs."""
    with replicated(**dict.fromkeys(DOUBLE, 2)) as one:
        yield one


def kill(platform: PlatformUnderTest, name: str) -> None:
    os.kill(platform.pids()[name], signal.SIGKILL)


async def kill_in_turn(platform: PlatformUnderTest, directory: Path, names: list[str], enough: int) -> Stream:
    """Each is killed while payments flow; the next one when everything is ready and payments flow again."""
    credentials = client_of(platform, directory / "stream.json")
    async with streaming(credentials) as stream:
        for name in names:
            await asyncio.to_thread(kill, platform, name)
            await asyncio.to_thread(platform.until_ready)
            await stream.until(enough)
    return stream


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Callable[[Stream], None]:
    def write(stream: Stream) -> None:
        assert stream.sent == len(stream.answers)
        record_property("sent", stream.sent)
        record_property("errors", dict(stream.errors))
        print(f"{stream.sent} payments, errors: {dict(stream.errors)}")

    return write


def test_verify_while_payments_flow(doubled: PlatformUnderTest, tmp_path: Path) -> None:
    """What is told, moved and signed while it looks is no fault."""

    async def look() -> None:
        async with streaming(client_of(doubled, tmp_path / "stream.json"), senders=2) as stream:
            for _ in range(2):
                await stream.until(10)
                await asyncio.to_thread(doubled.verified)

    asyncio.run(look())


def test_services(doubled: PlatformUnderTest, tmp_path: Path, record: Callable[[Stream], None]) -> None:
    names = [*(f"{name}-0" for name in DOUBLE), *(f"{name}-0" for name in SINGLE)]
    record(asyncio.run(kill_in_turn(doubled, tmp_path, names, 10)))
    doubled.verified()


def test_parts_that_keep_no_money(doubled: PlatformUnderTest, tmp_path: Path, record: Callable[[Stream], None]) -> None:
    record(asyncio.run(kill_in_turn(doubled, tmp_path, ["nats", "valkey", "envoy", "rail"], 10)))
    doubled.verified()


def test_the_database(doubled: PlatformUnderTest, tmp_path: Path, record: Callable[[Stream], None]) -> None:
    record(asyncio.run(kill_in_turn(doubled, tmp_path, ["postgres", "postgres"], 20)))
    doubled.verified()
