"""A disk is full in the middle of payments: it is said at the edge, and nothing is lost or doubled. Once it is PostgreSQL's, of tables and
write-ahead log, once that of the write-ahead log alone, without which PostgreSQL can't live, and once the bus's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tallystick.cli.apiclient import Answer, ApiClient
from tests.support.disk import Disk, refusal
from tests.support.parts import remove, short_directory
from tests.system.conftest import PlatformUnderTest, free_ports
from tests.system.stream import Stream, client_of, money, streaming

SEGMENT = 16 << 20
#: Left in the last segment that there is, for the payments to fill.
LEFT = 256 << 10

NO_ROOM = "No space left on device"

Small = Callable[[str, str], tuple[PlatformUnderTest, Disk]]


@pytest.fixture
def small() -> Iterator[Small]:
    """`small("postgres/pg_wal", "160m")` -> a platform for which this directory of its data is a disk of that size."""
    made: list[PlatformUnderTest] = []
    directory = short_directory()

    def make(place: str, size: str) -> tuple[PlatformUnderTest, Disk]:
        if why := refusal(directory):
            pytest.skip(f"this system gives no small disk, neither by mounting one nor in a namespace: {why}")
        one = PlatformUnderTest(directory / "data", free_ports())
        made.append(one)
        one.start()
        assert one.stop() == 0
        disk = Disk(one.data / place, size)
        one.around = disk.around
        one.start()
        return one, disk

    yield make
    for one in made:
        one.stop()
    remove(directory)


def supervisor(platform: PlatformUnderTest) -> int:
    assert platform.process is not None
    return platform.process.pid


async def until_refused(stream: Stream, *slugs: str) -> None:
    async with asyncio.timeout(60):
        while not any(stream.errors[slug] for slug in slugs):
            await asyncio.sleep(0.05)


def test_a_full_disk_is_told_at_the_edge_and_nothing_is_lost(small: Small, tmp_path: Path) -> None:
    platform, disk = small("postgres", "640m")

    async def scenario() -> Stream:
        credentials = client_of(platform, tmp_path / "stream.json")
        async with streaming(credentials) as stream:
            filler = await asyncio.to_thread(disk.fill, supervisor(platform))
            await until_refused(stream, "storage-full")
            async with ApiClient(credentials, connections=2) as api:  # reads need no room
                answer = await api.request("GET", f"/v1/accounts/{stream.shop}")
                assert answer.ok, answer.body
                paid = next(iter(stream.answers.values()))
                answer = await api.request("GET", f"/v1/payments/{paid['id']}")
                assert answer.json() == paid
            filler.unlink()
            await stream.until(20)
        return stream

    stream = asyncio.run(scenario())
    print(f"{stream.sent} payments, errors: {dict(stream.errors)}")
    platform.verified()


def test_a_bus_without_room_goes_on_when_there_is_some_again(small: Small, tmp_path: Path) -> None:
    """NATS does not write to a stream again after a write that failed, until it is started anew: facts waited for ever, and all was ready."""
    platform, disk = small("nats", "24m")

    async def scenario() -> Stream:
        async with streaming(client_of(platform, tmp_path / "stream.json")) as stream:
            filler = await asyncio.to_thread(disk.fill, supervisor(platform))
            await asyncio.to_thread(platform.until, lambda found: NO_ROOM in str(part(found, "nats")["error"]))
            await stream.until(20)  # money does not wait for the bus
            filler.unlink()
            await asyncio.to_thread(platform.until_ready)
            await stream.until(20)
        return stream

    stream = asyncio.run(scenario())
    print(f"{stream.sent} payments, errors: {dict(stream.errors)}")
    platform.verified()


async def use_up(platform: PlatformUnderTest, log: Path) -> None:
    """Goes on to the last segment that there is on the full disk, and leaves a little of it to the payments."""
    async with platform.superuser() as connection:

        async def written() -> tuple[str, int]:
            row = await connection.fetchrow(
                "SELECT file_name, file_offset FROM pg_walfile_name_offset(pg_current_wal_insert_lsn())"
            )
            assert row is not None
            return row["file_name"], row["file_offset"]

        while (await written())[0] < max(file.name for file in log.glob("?" * 24)):
            await connection.execute("SELECT pg_logical_emit_message(false, '', 'x')")
            await connection.execute("SELECT pg_switch_wal()")
        while SEGMENT - (await written())[1] > LEFT + (128 << 10):
            await connection.execute("SELECT pg_logical_emit_message(false, '', repeat('x', 100000))")


def part(status: Any, name: str) -> Any:
    return next(part for part in status["parts"] if part["name"] == name)


async def told(api: ApiClient, method: str, path: str, body: Any = None, key: str | None = None) -> Answer:
    """An answer of the edge that says clearly that it can't be done now."""
    answer = await api.request(method, path, body, idempotency_key=key)
    assert (answer.status, answer.headers.get("Content-Type")) == (503, "application/problem+json"), answer.body
    assert answer.json()["retryable"] is True
    assert int(answer.headers["Retry-After"]) >= 1
    return answer


def test_without_room_for_the_write_ahead_log_all_stops_and_comes_back(small: Small, tmp_path: Path) -> None:
    platform, disk = small("postgres/pg_wal", "160m")
    log = disk.seen(supervisor(platform))

    async def scenario() -> Stream:
        credentials = client_of(platform, tmp_path / "stream.json")
        async with ApiClient(credentials, connections=2, attempts=1) as api, streaming(credentials) as stream:
            await api.token()
            filler = await asyncio.to_thread(disk.fill, supervisor(platform))
            await use_up(platform, log)
            # who waits gets a 202 or an error of the database; later it is identity's feed that is too old
            await until_refused(stream, "database-unavailable", "outcome-unknown", "revocation-feed-stale")
            await asyncio.to_thread(platform.until, lambda found: NO_ROOM in str(part(found, "postgres")["error"]))
            before = dict(stream.answers)
            for n in range(10):
                payment = {
                    "amount": money(100),
                    "source": {"type": "account", "account": stream.payer},
                    "destination": {"account": stream.shop},
                }
                await told(api, "POST", "/v1/payments", payment, f"full-{n}")
                await told(api, "GET", f"/v1/accounts/{stream.shop}")
                await asyncio.sleep(0.5)
            assert stream.answers == before, "nothing was acknowledged that could not be written"
            filler.unlink()
            await stream.until(20)
        return stream

    before = platform.pids()
    stream = asyncio.run(scenario())
    print(f"{stream.sent} payments, errors: {dict(stream.errors)}")
    after = platform.until_ready()
    assert 'PANIC:  could not write to file "pg_wal/' in (platform.data / "logs" / "postgres.log").read_text()
    assert part(after, "postgres")["restarts"] >= 1
    pids = platform.pids()
    assert {name for name, pid in before.items() if pids[name] != pid} == {"postgres"}, (
        "nothing else had to be restarted"
    )
    platform.verified()
