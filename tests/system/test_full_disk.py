"""PostgreSQL's disk is full in the middle of payments: it is said at the edge, reads go on, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tallystick.cli.apiclient import ApiClient
from tests.support.parts import remove, short_directory
from tests.system.conftest import PlatformUnderTest, three_free_ports
from tests.system.stream import Stream, client_of, streaming

SIZE = "640m"


def mount(*arguments: str) -> str:
    """What `mount` complains about; nothing when it worked."""
    ran = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else ran.stderr.strip() or f"status {ran.returncode}"


@pytest.fixture
def small() -> Iterator[PlatformUnderTest]:
    """A platform whose PostgreSQL, tables and write-ahead log, lies on a disk of its own."""
    one = PlatformUnderTest(short_directory() / "data", three_free_ports())
    disk = one.data / "postgres"
    mounted = False
    try:
        one.start()
        assert one.stop() == 0
        aside = one.data / "aside"
        disk.rename(aside)
        disk.mkdir(mode=0o700)
        if refusal := mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)):
            pytest.skip(f"needs the right to mount a small tmpfs: {refusal}")
        mounted = True
        subprocess.run(["cp", "-a", f"{aside}/.", str(disk)], check=True)
        shutil.rmtree(aside)
        one.start()
        yield one
    finally:
        one.stop()
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)
        remove(one.data.parent)


def fill(disk: Path) -> Path:
    """Takes all that is free, to the last byte."""
    file = disk / "filler"
    with file.open("wb", buffering=0) as out, suppress(OSError):
        while True:
            out.write(bytes(1 << 20))
    with file.open("ab", buffering=0) as out, suppress(OSError):
        while True:
            out.write(bytes(512))
    return file


async def until_refused(stream: Stream, slug: str) -> None:
    async with asyncio.timeout(60):
        while not stream.errors[slug]:
            await asyncio.sleep(0.05)


def test_a_full_disk_is_told_at_the_edge_and_nothing_is_lost(small: PlatformUnderTest, tmp_path: Path) -> None:
    async def scenario() -> Stream:
        credentials = client_of(small, tmp_path / "stream.json")
        async with streaming(credentials) as stream:
            filler = await asyncio.to_thread(fill, small.data / "postgres")
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
    found = small.cli("verify", "--json")
    assert (found.status, [check for check in found.json["checks"] if check["faults"]]) == (0, [])
