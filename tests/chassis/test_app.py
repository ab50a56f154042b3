"""App: real processes on real sockets; how they start, drain, fail and share work."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from tallystick.chassis import app
from tallystick.chassis.app.process import of_all_shards
from tallystick.chassis.app.schedules import Leadership, keep
from tallystick.chassis.app.server import _reserve
from tallystick.chassis.bus import Subscription
from tallystick.chassis.db import Database
from tallystick.chassis.keys import Aad, Keyring, LocalRoot, root
from tallystick.chassis.settings import Settings
from tallystick.chassis.telemetry import metrics
from tallystick.fabric.valkey import rules
from tallystick.kernel.problem import StorageFull
from tallystick.kernel.secret import Secret
from tallystick.local.parts import ValkeyUser
from tallystick.local.parts.valkey import hash_password
from tests.support.parts import NatsServer, ServiceDatabase, ValkeyServer, new_secret

ROOT = Path(__file__).parents[2]


class Replica:
    """One process of tests/support/shop.py."""

    def __init__(self, directory: Path, number: int, environ: dict[str, str]) -> None:
        self.socket = directory / f"shop-{number}.sock"
        self.environ = {
            "PATH": os.environ["PATH"],
            "TALLYSTICK_SERVICE": "shop",
            "TALLYSTICK_REPLICA": str(number),
            "TALLYSTICK_LISTEN": str(self.socket),
            "TALLYSTICK_PUBLIC_URL": "https://localhost:8443",
            "TALLYSTICK_MTLS_URL": "https://localhost:8446",
            "TALLYSTICK_TRUST_DOMAIN": "tallystick.test",
            "TALLYSTICK_DRAIN_SECONDS": "2",
            **environ,
        }
        self.process: asyncio.subprocess.Process | None = None
        self.stderr = b""

    async def start(self, *, ready: bool = True) -> Replica:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.shop",
            cwd=ROOT,
            env=self.environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        if ready:
            await until(self.ready)
        return self

    async def ready(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, await self.lines()
        try:
            status, _ = await self.get("/health/ready")
        except (aiohttp.ClientError, OSError):
            return False
        return status == 200

    async def get(self, path: str, method: str = "GET") -> tuple[int, Any]:
        connector = aiohttp.UnixConnector(path=str(self.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://shop{path}") as answer,
        ):
            return answer.status, await answer.json(content_type=None)

    async def text(self, path: str) -> str:
        connector = aiohttp.UnixConnector(path=str(self.socket))
        async with aiohttp.ClientSession(connector=connector) as session, session.get(f"http://shop{path}") as answer:
            return await answer.text()

    async def says(self, word: bytes) -> None:
        """Wait until the process has written `word` to standard error."""
        assert self.process is not None
        assert self.process.stderr is not None
        while word not in self.stderr:
            line = await self.process.stderr.readline()
            assert line, f"it ended without saying {word!r}"
            self.stderr += line

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def ended(self) -> int:
        assert self.process is not None
        await self.lines()
        return await self.process.wait()

    async def lines(self) -> list[dict[str, Any]]:
        assert self.process is not None
        out, error = await self.process.communicate()
        self.stderr += error
        return [json.loads(line) for line in out.splitlines()]


async def until(true: Callable[[], Any], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.02)


Make = Callable[..., Replica]


@pytest_asyncio.fixture
async def make(directory: Path) -> AsyncIterator[Make]:
    made: list[Replica] = []

    def build(number: int = 0, **environ: str) -> Replica:
        made.append(Replica(directory, number, environ))
        return made[-1]

    yield build
    for replica in made:
        if replica.process is not None and replica.process.returncode is None:
            replica.process.kill()
        if replica.process is not None:
            await replica.process.communicate()


def password(directory: Path, name: str, secret: Secret[str]) -> str:
    file = directory / name
    file.write_text(secret.reveal())
    file.chmod(0o600)
    return str(file)


def with_database(directory: Path, database: ServiceDatabase) -> dict[str, str]:
    return {
        "TALLYSTICK_DATABASE_HOST": database.dsn.host,
        "TALLYSTICK_DATABASE_NAME": database.dsn.database,
        "TALLYSTICK_DATABASE_USER": database.dsn.user,
        "TALLYSTICK_DATABASE_PASSWORD_FILE": password(directory, "database", database.dsn.password),
    }


async def test_it_serves_on_a_private_socket_and_ends_well(make: Make) -> None:
    replica = await make().start()
    assert stat.S_IMODE(replica.socket.stat().st_mode) == 0o600
    assert await replica.get("/work") == (200, "done")
    status, document = await replica.get("/openapi/shop.json")
    assert (status, document["openapi"]) == (200, "3.1.0")
    replica.signal(signal.SIGTERM)
    lines = await replica.lines()
    assert await replica.ended() == 0
    assert not replica.socket.exists()
    assert b"CLOSED" in replica.stderr
    events = [line["event"] for line in lines]
    assert events[0] == "process.started"
    assert events[-2:] == ["process.draining", "process.stopped"]
    assert events.count("request.done") == 1, "the chassis' own endpoints write no lines"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_request_in_flight_is_answered_and_a_new_one_is_not_taken(
    make: Make, directory: Path, number: signal.Signals
) -> None:
    replica = await make(TALLYSTICK_DRAIN_SECONDS="60").start()
    done = directory / "done"
    asked = asyncio.create_task(replica.get(f"/work?until={done}"))
    await replica.says(b"WORKING")
    replica.signal(number)

    async def refused() -> bool:
        try:
            await replica.get("/work")
        except (aiohttp.ClientError, OSError):
            return True
        return False

    await until(refused)
    assert not asked.done(), "the request was still under way when new ones were refused"
    done.touch()
    assert await asked == (200, "done")
    assert await replica.ended() == 0


async def test_a_request_that_does_not_end_does_not_hold_up_the_end(make: Make) -> None:
    replica = await make(TALLYSTICK_DRAIN_SECONDS="0.5").start()
    asked = asyncio.create_task(replica.get("/work?seconds=25"))
    await replica.says(b"WORKING")
    replica.signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        assert await replica.ended() == 0
    status, problem = await asked
    assert (status, problem["retryable"]) == (503, True)


async def test_a_socket_left_behind_by_a_killed_process_is_taken_over(make: Make) -> None:
    first = await make().start()
    first.signal(signal.SIGKILL)
    assert await first.ended() == -signal.SIGKILL
    assert first.socket.exists()
    second = await make().start()
    assert await second.get("/work") == (200, "done")


async def test_a_task_that_dies_takes_the_process_with_it(make: Make) -> None:
    replica = await make(SHOP_FAULT="task").start(ready=False)
    lines = await replica.lines()
    assert await replica.ended() == 1
    ended = next(line for line in lines if line["event"] == "process.task-ended")
    assert (ended["task"], ended["error"]) == ("task:dies", "RuntimeError")
    assert "secret value" not in json.dumps(lines) + replica.stderr.decode()
    assert b"CLOSED" in replica.stderr


@pytest.mark.parametrize("fault", ["wire", "callers"])
async def test_what_can_not_be_wired_does_not_start(make: Make, fault: str) -> None:
    replica = await make(SHOP_FAULT=fault).start(ready=False)
    lines = await replica.lines()
    assert await replica.ended() == 1
    assert lines[-1]["event"] == "process.failed"
    if fault == "callers":
        assert "vault: GET /internal/state" in lines[-1]["reason"]
    else:
        assert "secret value" not in json.dumps(lines) + replica.stderr.decode()


async def test_a_part_that_is_not_there_is_named(make: Make, directory: Path) -> None:
    replica = make(
        TALLYSTICK_DATABASE_HOST=str(directory / "nowhere"),
        TALLYSTICK_DATABASE_PASSWORD_FILE=password(directory, "database", Secret("x" * 40)),
    )
    await replica.start(ready=False)
    lines = await replica.lines()
    assert await replica.ended() == 1
    assert (lines[-1]["event"], lines[-1]["error"]) == ("process.failed", "DatabaseUnavailable")


def test_bad_settings_are_said_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    before = os.umask(0o022)
    try:
        assert app.run("vault", environ={"TALLYSTICK_SERVICE": "ledger", "TALLYSTICK_COLOUR": "red"}) == 2
    finally:
        os.umask(before)
    said = capsys.readouterr().err
    assert "TALLYSTICK_COLOUR is not a setting" in said
    assert "TALLYSTICK_LISTEN is not set" in said


def test_a_source_in_shards_is_heard_shard_by_shard() -> None:
    async def handle(service: Any, tx: Any, facts: Any) -> None: ...

    subscriptions = [
        Subscription(source=source, types=("*",), handle=handle, complete=True) for source in ("ledger", "payments")
    ]
    told = Settings(
        service="audit",
        listen=Path("/x"),
        public_url="https://x",
        mtls_url="https://y",
        trust_domain="t",
        shards="eu,us",
    )
    found = list(of_all_shards(subscriptions, told))
    assert [one.source for one in found] == ["ledger", "ledger-eu", "ledger-us", "payments"]
    assert all((one.types, one.handle, one.complete) == (("*",), handle, True) for one in found)
    assert list(of_all_shards(subscriptions, msgspec.structs.replace(told, shards=""))) == subscriptions


def test_a_service_without_shards_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {
        "TALLYSTICK_SERVICE": "risk",
        "TALLYSTICK_SHARD": "eu",
        "TALLYSTICK_LISTEN": "/run/risk.sock",
        "TALLYSTICK_PUBLIC_URL": "https://localhost:8443",
        "TALLYSTICK_MTLS_URL": "https://localhost:8446",
        "TALLYSTICK_TRUST_DOMAIN": "tallystick.test",
    }
    assert app.run("risk", environ=environ) == 2
    assert "risk has no shards" in capsys.readouterr().err


async def test_a_schedule_that_can_not_be_led_for_want_of_room_is_tried_again() -> None:
    """Whatever the database refuses: a schedule that ended would end the process."""
    stopping, ran = asyncio.Event(), asyncio.Event()

    class Full(Leadership):
        refused = 0

        async def leads(self, name: str) -> bool:
            self.refused += 1
            if self.refused < 3:
                raise StorageFull
            return True

    async def work(service: Any) -> None:
        ran.set()
        stopping.set()

    leadership = Full(cast("Database", None), "shop")
    schedule = app.Schedule(name="tick", every=timedelta(milliseconds=1), run=work)
    async with asyncio.timeout(60):
        await keep(schedule, "the shop", leadership, stopping)
    assert ran.is_set()
    assert leadership.refused == 3
    runs = partial(metrics.registry.get_sample_value, "tallystick_schedule_runs_total")
    assert runs({"schedule": "tick", "result": "failed"}) == 0  # of a series that begins with 1 no increase is seen
    assert (runs({"schedule": "tick", "result": "done"}) or 0) > 0


async def test_a_schedule_that_fails_runs_again(make: Make) -> None:
    replica = await make(SHOP_FAULT="schedule").start()

    async def twice() -> bool:
        return bool((await replica.get("/state"))[1]["runs"] >= 2)

    await until(twice)
    replica.signal(signal.SIGTERM)
    lines = await replica.lines()
    failed = [line for line in lines if line["event"] == "schedule.failed"]
    assert (failed[0]["schedule"], failed[0]["error"]) == ("tick", "KeyError")
    assert "secret value" not in json.dumps(lines)


async def test_exclusive_work_is_one_replicas_and_passes_on_when_it_is_killed(
    make: Make, directory: Path, chassis_database: ServiceDatabase
) -> None:
    environ = with_database(directory, chassis_database)
    first = await make(0, **environ).start()

    async def runs(replica: Replica) -> int:
        return int((await replica.get("/state"))[1]["runs"])

    async def first_runs() -> bool:
        return await runs(first) > 0

    await until(first_runs)
    second = await make(1, **environ).start()
    for _ in range(3):
        before = await runs(first)

        async def more(at: int = before) -> bool:
            return await runs(first) > at

        await until(more)
    assert await runs(second) == 0
    first.signal(signal.SIGKILL)

    async def second_runs() -> bool:
        return await runs(second) > 0

    await until(second_runs)


async def test_every_part_that_is_named_is_opened_and_facts_leave_and_arrive(
    make: Make,
    directory: Path,
    chassis_database: ServiceDatabase,
    nats_server: NatsServer,
    valkey_server: ValkeyServer,
) -> None:
    nats_password = await nats_server.user("shop", (">",), (">",))
    valkey_password = new_secret()
    users = [
        ValkeyUser(valkey_server.ADMIN, hash_password(valkey_server.password), ("~*", "&*", "+@all")),
        ValkeyUser("shop", hash_password(valkey_password), rules(["shop"])["shop"]),
    ]
    await valkey_server.part.reload(users)
    root.create(directory / "root")
    environ = with_database(directory, chassis_database) | {
        "TALLYSTICK_NATS_URL": nats_server.url,
        "TALLYSTICK_NATS_PASSWORD_FILE": password(directory, "nats", nats_password),
        "TALLYSTICK_VALKEY_SOCKET": str(valkey_server.socket),
        "TALLYSTICK_VALKEY_PASSWORD_FILE": password(directory, "valkey", valkey_password),
        "TALLYSTICK_ROOT_KEY_FILE": str(directory / "root"),
    }
    replica = await make(**environ).start()
    assert (await replica.get("/health/ready"))[1] == {"ready": True, "parts": {"database": True, "bus": True}}
    for _ in range(3):
        assert await replica.get("/sales", "POST") == (200, "sold")

    async def heard() -> bool:
        return bool((await replica.get("/state"))[1]["facts"] == [1, 2, 3])

    await until(heard)
    assert (await replica.get("/state"))[1]["opened"] == "a thing"
    # Two at once and one a second: of twenty some are refused, however long they take.
    statuses = [status for status, _ in await asyncio.gather(*(replica.get("/few") for _ in range(20)))]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 2
    replica.signal(signal.SIGTERM)
    lines = await replica.lines()
    assert await replica.ended() == 0
    assert [line for line in lines if line["level"] == "error" or line["event"].startswith("limits")] == []


async def test_a_service_rotates_its_keys_by_its_charter(
    make: Make, directory: Path, chassis_database: ServiceDatabase, valkey_server: ValkeyServer
) -> None:
    """The charter of `shop` says 90 days for its own key and nothing, which is 365, for those that seal data; here they have passed."""
    root.create(directory / "root")
    ring = await Keyring.open(
        await chassis_database.open(),
        lambda: LocalRoot.open(directory / "root"),
        environment="local",
        service="shop",
    )
    place = Aad("default", "sales", "thing", "1")
    blob = await ring.seal(b"a thing", place)

    async def versions() -> list[str]:
        rows = await chassis_database.query("SELECT state FROM data_key WHERE kind = 'service' ORDER BY version")
        return [row["state"] for row in rows]

    await chassis_database.query("UPDATE data_key SET created_at = now() - interval '89 days' WHERE kind = 'service'")
    environ = with_database(directory, chassis_database) | {"TALLYSTICK_ROOT_KEY_FILE": str(directory / "root")}
    replica = await make(**environ).start()

    async def looked() -> bool:
        return 'schedule="chassis.keys"' in await replica.text("/metrics")

    await until(looked)
    assert await versions() == ["active"]
    replica.signal(signal.SIGTERM)
    assert await replica.ended() == 0
    await chassis_database.query("UPDATE data_key SET created_at = now() - interval '91 days' WHERE kind = 'service'")
    replica = await make(**environ).start()

    async def rotated() -> bool:
        return await versions() == ["destroyed", "active"]

    await until(rotated)

    async def tenants_key() -> list[str]:
        rows = await chassis_database.query("SELECT state FROM data_key WHERE kind = 'tenant' ORDER BY version")
        return [row["state"] for row in rows]

    assert await tenants_key() == ["active"]
    replica.signal(signal.SIGTERM)
    assert await replica.ended() == 0
    await chassis_database.query("UPDATE data_key SET created_at = now() - interval '366 days' WHERE kind = 'tenant'")
    replica = await make(**environ).start()

    async def data_key_rotated() -> bool:
        return await tenants_key() == ["retired", "active"]

    await until(data_key_rotated)
    assert await ring.open_sealed(blob, place) == b"a thing"
    assert "tallystick_keys_values_behind 0.0" in await replica.text("/metrics")


async def test_a_database_that_goes_away_is_told_but_does_not_make_the_replica_unready(
    make: Make, directory: Path, chassis_database: ServiceDatabase
) -> None:
    way = directory / "sockets"
    way.symlink_to(chassis_database.dsn.host)
    environ = with_database(directory, chassis_database) | {"TALLYSTICK_DATABASE_HOST": str(way)}
    replica = await make(**environ).start()
    way.unlink()
    for row in await chassis_database.query("SELECT pid FROM pg_stat_activity WHERE application_name = 'shop-0'"):
        own = await chassis_database.connection(superuser=True)
        await own.execute("SELECT pg_terminate_backend($1)", row["pid"])
        await own.close()

    async def noticed() -> bool:
        return bool((await replica.get("/health/ready"))[1]["parts"] == {"database": False})

    await until(noticed)
    assert (await replica.get("/health/ready"))[0] == 200
    status, problem = await replica.get("/sales", "POST")
    assert (status, problem["retryable"]) == (503, True)
    way.symlink_to(chassis_database.dsn.host)

    async def sold() -> bool:
        return bool((await replica.get("/sales", "POST"))[0] == 200)

    await until(sold)


def test_a_socket_path_that_is_too_long_is_said(directory: Path) -> None:
    with pytest.raises(ValueError, match="at most 107 bytes"):
        _reserve(directory / ("数" * 36))
