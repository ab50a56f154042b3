"""A platform is backed up while payments flow, and restored beside itself: what is there then is what was there at one moment."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tallystick.chassis import migrate, outbox
from tallystick.chassis.charter import load_all
from tallystick.chassis.db import Database, Dsn
from tallystick.chassis.fact import decode
from tallystick.chassis.keys import root
from tallystick.cli.apiclient import ApiClient
from tallystick.cli.commands import dispatch
from tallystick.cli.credentials import Credentials
from tallystick.kernel.secret import Secret
from tests.support import told
from tests.support.disk import Disk, refusal
from tests.support.parts import short_directory
from tests.system.conftest import NewPlatform, PlatformUnderTest, running
from tests.system.stream import client_of, made, money, streaming

SERVICES = tuple(load_all())


@pytest.fixture(scope="module")
def source() -> Iterator[PlatformUnderTest]:
    with running() as one:
        yield one


async def rows(platform: PlatformUnderTest, database: str, sql: str, *args: Any) -> list[tuple[Any, ...]]:
    async with platform.superuser(database) as connection:
        return [tuple(row) for row in await connection.fetch(sql, *args)]


async def forget_what_was_told(platform: PlatformUnderTest) -> int:
    """The outboxes lose what was told so far, as they do after a month; returns how many facts."""
    gone = 0
    for service in SERVICES:
        async with platform.superuser(service) as connection:
            await connection.execute("UPDATE outbox_batch SET at = at - interval '90 days'")
            # The last one stays: what is younger than a week before it is kept.
            await connection.execute(
                "UPDATE outbox_batch SET at = now() WHERE first = (SELECT max(first) FROM outbox_batch)"
            )
        password = Secret((platform.data / "secrets" / service / "database").read_text().strip())
        dsn = Dsn(host=str(platform.data / "run" / "pg"), database=service, user=service, password=password)
        database = await Database.open(dsn)
        gone += await outbox.purge(database, datetime.now(UTC), timedelta(days=30))
        await database.close()
    return gone


def backup(platform: PlatformUnderTest, *arguments: str) -> Any:
    done = platform.cli("backup", *arguments, "--json")
    assert done.status == 0, done
    return done.json


#: Of each service, what only grows: its rows of before a moment are in every later state, as they are.
GROWN = {
    "ledger": "SELECT book, sequence, id, amount, debit_account, credit_account, recorded_at FROM transfer WHERE recorded_at < $1 ORDER BY 1, 2",
    "payments": "SELECT id, amount, created_at FROM payment WHERE created_at < $1 ORDER BY 1",
}


def test_a_backup_of_a_busy_platform_is_one_moment_of_it(
    source: PlatformUnderTest, new_platform: NewPlatform, tmp_path: Path
) -> None:
    copy, file = new_platform(), tmp_path / "busy.tar"
    credentials = client_of(source, tmp_path / "stream.json")

    async def scenario() -> tuple[Any, Any, set[str]]:
        async with streaming(credentials) as stream:
            await stream.until(20)
            assert await forget_what_was_told(source) > 20
            await stream.until(20)
            before = {answer["id"] for answer in stream.answers.values()}
            taken = await asyncio.to_thread(backup, source, str(file), "--without-root-key")
            await stream.until(20)
        return taken, stream, before

    taken, stream, before = asyncio.run(scenario())
    assert (taken["running"], taken["root_key"], file.stat().st_mode & 0o777) == (True, False, 0o600)
    source.verified()

    # The root key was left out, and has to be this platform's.
    refused = copy.cli("restore", str(file))
    assert (refused.status, "--root-key" in refused.err, copy.data.exists()) == (1, True, False)
    root.create(tmp_path / "other.key")
    refused = copy.cli("restore", str(file), "--root-key", str(tmp_path / "other.key"))
    assert (refused.status, "does not fit" in refused.err, copy.data.exists()) == (1, True, False)
    (tmp_path / "no.key").write_text("no key")
    (tmp_path / "no.key").chmod(0o600)
    refused = copy.cli("restore", str(file), "--root-key", str(tmp_path / "no.key"))
    assert f"does not fit: {tmp_path / 'no.key'} is not a root key file" in refused.err
    done = copy.cli("restore", str(file), "--root-key", str(source.data / "secrets" / "root.key"), "--json")
    assert done.status == 0, done
    copy.start()

    ended = datetime.fromisoformat(taken["ended_at"])

    async def compare() -> None:
        for service, sql in GROWN.items():
            here, there = await rows(source, service, sql, ended), await rows(copy, service, sql, ended)
            # Of what was stored after the databases' moment, and before the backup's end, there is nothing.
            assert there
            assert set(there) <= set(here)
        known = {f"{row[0]}" for row in await rows(copy, "payments", "SELECT id FROM payment")}
        async with ApiClient(Credentials.load(tmp_path / "stream.json").at(copy.url, copy.url, copy.ca)) as api:
            kept = 0
            for answer in stream.answers.values():
                found = await api.request("GET", f"/v1/payments/{answer['id']}")
                if answer["id"] in before:
                    assert found.json() == answer
                kept += found.status == 200
            assert len(before) <= kept == len(known) < len(stream.answers)
            body = {
                "amount": money(5),
                "source": {"type": "account", "account": stream.payer},
                "destination": {"account": stream.shop},
            }
            assert (await made(api, "/v1/payments", body, "after the restore"))["status"] == "settled"
        # The log goes on where it was, and says why.
        size = done.json["log_size"]
        entries = "SELECT * FROM entry WHERE index < $1 ORDER BY index"
        assert await rows(copy, "audit", entries, size) == await rows(source, "audit", entries, size)
        restored = "SELECT fact FROM outbox WHERE type = 'identity.platform.restored'"
        ((raw,),) = await rows(copy, "identity", restored)
        told.check([raw])
        fact = decode(raw)
        assert (fact.data["log_size"], fact.data["taken_at"]) == (size, taken["ended_at"])
        assert await rows(copy, "postgres", "SELECT FROM pg_roles WHERE rolname = 'backup'") == []
        assert await rows(source, "postgres", "SELECT FROM pg_roles WHERE rolname = 'backup'") == []

    asyncio.run(compare())
    copy.verified()


def until(path: Path) -> None:
    ending = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < ending
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_backup_that_was_killed_is_none(source: PlatformUnderTest, tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "it.tar"
    argv = [sys.executable, "-m", "tallystick", "backup", str(file), "--max-rate", "10", "--data", str(source.data)]
    # A shell's job in the background ignores SIGINT.
    with subprocess.Popen(["sh", "-c", 'trap "" INT; exec "$@"', "sh", *argv], stderr=subprocess.PIPE) as process:
        until(tmp_path / "it.tar.unfinished")
        process.send_signal(number)
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == ({"it.tar.unfinished"} if number == signal.SIGKILL else set())
    asyncio.run(_gone(source))


async def _gone(platform: PlatformUnderTest) -> None:
    """What the server kept for a backup."""
    async with asyncio.timeout(30):
        while await rows(platform, "postgres", "SELECT FROM pg_replication_slots"):
            await asyncio.sleep(0.1)


def test_a_full_disk_is_found_before_and_while_it_is_written(source: PlatformUnderTest) -> None:
    directory = short_directory()
    if why := refusal(directory):
        pytest.skip(f"this system gives no small disk: {why}")
    place = directory / "small"
    place.mkdir()
    argv = [sys.executable, "-m", "tallystick", "backup", str(place / "it.tar"), "--data", str(source.data)]
    done = subprocess.run([*Disk(place, "20m").around, *argv], capture_output=True, text=True, check=False)
    assert (done.returncode, "MiB free, and the backup needs up to" in done.stderr) == (4, True), done
    # Room that is there at first, and that another takes meanwhile.
    limited = ["sh", "-c", 'ulimit -f 40000; trap "" XFSZ; exec "$@"', "sh"]
    done = subprocess.run([*limited, *argv], capture_output=True, text=True, check=False)
    assert (done.returncode, "File too large" in done.stderr) == (4, True), done
    assert list(place.iterdir()) == []
    shutil.rmtree(directory)


def test_a_platform_that_was_killed_is_backed_up_and_restored(
    source: PlatformUnderTest,
    new_platform: NewPlatform,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The backup recovers its databases first. A restore that is killed is no platform, and is done again."""
    assert source.process is not None
    source.process.send_signal(signal.SIGKILL)
    source.process.wait()
    taken = backup(source, str(tmp_path))
    assert (taken["running"], Path(taken["file"]).parent) == (False, tmp_path)
    copy = new_platform()
    with monkeypatch.context() as older:
        known = migrate.migrations
        older.setattr(migrate, "migrations", lambda package: known(package)[: -1 if package.endswith("risk") else None])
        assert dispatch(["restore", taken["file"], "--data", str(copy.data)]) == 1
    assert "was made by a newer version" in capsys.readouterr().err
    assert not copy.data.exists()
    argv = [sys.executable, "-m", "tallystick", "restore", taken["file"], "--data", str(copy.data)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
        until(copy.data / "restoring" / "postgres")
        process.terminate()
    assert (process.returncode, copy.data.exists()) == (130, False)
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
        until(copy.data / "restoring" / "postgres")
        process.kill()
    assert "interrupted" in copy.cli("up").err
    done = copy.cli("restore", taken["file"], "--json")
    assert done.status == 0, done
    assert not (copy.data / "restoring").exists()
    found = copy.cli("doctor", "--json").json["findings"]
    assert [each for each in found if each["verdict"] == "failed" and not each["name"].startswith("port")] == []
