"""Fixtures for every test: real PostgreSQL, NATS JetStream and Valkey, started once per run when the first test asks for them.

| fixture | is |
|---|---|
| `database_for` | `await database_for("tallystick.services.ledger")` -> a fresh migrated `ServiceDatabase` |
| `chassis_database` | a `ServiceDatabase` with the chassis' tables only |
| `nats_server` | the shared `NatsServer`; streams are deleted after each test |
| `valkey_server`, `valkey` | the shared `ValkeyServer`, a client of it; emptied after each test. Who asks it waits longer than in earnest |
| `directory` | a short directory for sockets, removed after the test |
| `postgres_server` | the shared `Server`. A test that kills or fills one starts its own: `Server(directory)` |
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
import pytest_asyncio
import valkey.asyncio
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tests.support.parts import NatsServer, Server, ServiceDatabase, ValkeyServer, remove, short_directory

DatabaseFor = Callable[..., Awaitable[ServiceDatabase]]

#: What goes on without Valkey after some tenths of a second, which a busy machine takes now and then.
IMPATIENT = ("chassis.auth.replay", "chassis.cache", "chassis.limits", "services.risk.store")

#: Workers of xdist have it set. What a test reads is no terminal, and is not broken into lines for one.
os.environ.pop("COLUMNS", None)

#: How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


#: Modules of the system tests that leave the shared platform alone: their tests start platforms of their own.
APART = {"backup", "faults", "full_disk", "history", "keys", "ledger_command", "shards", "taken_over", "tampered"}


class Scheduling(LoadScopeScheduling):
    """The system tests that share a platform, and what they leave in it, are one worker's, in their order. Modules that start only their own
    are another worker's, one after another, so that few platforms run at a time. Each other test is whose turn it is.
    """

    def _split_scope(self, nodeid: str) -> str:
        if not nodeid.startswith("tests/system/"):
            return nodeid
        module = Path(nodeid.partition("::")[0]).stem.removeprefix("test_")
        return "own platforms" if module in APART else "shared platform"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def parts_directory() -> Iterator[Path]:
    directory = short_directory()
    yield directory
    remove(directory)


@pytest.fixture
def directory() -> Iterator[Path]:
    made = short_directory()
    yield made
    remove(made)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(parts_directory: Path) -> AsyncIterator[Server]:
    # The machine does not lose power during the tests, so they need not wait for the disk. Everything else is as in earnest.
    server = Server(parts_directory, settings={"fsync": "off", "shared_buffers": "'64MB'"})
    await server.part.start()
    yield server
    await server.part.stop()


@pytest_asyncio.fixture
async def database_for(postgres_server: Server) -> AsyncIterator[DatabaseFor]:
    made: list[ServiceDatabase] = []

    async def make(package: str, service: str | None = None) -> ServiceDatabase:
        database = await postgres_server.database(package, service)
        made.append(database)
        return database

    yield make
    for database in made:
        await postgres_server.drop(database)


@pytest_asyncio.fixture
async def chassis_database(database_for: DatabaseFor) -> ServiceDatabase:
    return await database_for("tallystick.chassis", "chassis_test")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _nats_server(parts_directory: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(parts_directory)
    await server.part.start()
    yield server
    await server.part.stop()


@pytest_asyncio.fixture
async def nats_server(_nats_server: NatsServer) -> AsyncIterator[NatsServer]:
    yield _nats_server
    admin = await nats.connect(_nats_server.url, user=_nats_server.ADMIN, password=_nats_server.password().reveal())
    try:
        context = admin.jetstream()
        for stream in await context.streams_info():
            await context.delete_stream(str(stream.config.name))
    finally:
        await admin.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _valkey_server(parts_directory: Path) -> AsyncIterator[ValkeyServer]:
    server = ValkeyServer(parts_directory)
    await server.part.start()
    yield server
    await server.part.stop()


@contextmanager
def patience_with_valkey() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in IMPATIENT:
            patch.setattr(f"tallystick.{module}.TIMEOUT", 30.0)
        yield


@pytest_asyncio.fixture
async def valkey_server(_valkey_server: ValkeyServer) -> AsyncIterator[ValkeyServer]:
    with patience_with_valkey():
        yield _valkey_server
    client = _client(_valkey_server)
    await client.flushall()
    await client.aclose()


@pytest_asyncio.fixture(name="valkey")
async def valkey_client(valkey_server: ValkeyServer) -> AsyncIterator[valkey.asyncio.Valkey]:
    client = _client(valkey_server)
    yield client
    await client.aclose()


def _client(server: ValkeyServer) -> valkey.asyncio.Valkey:
    return valkey.asyncio.Valkey(
        unix_socket_path=str(server.socket), username=server.ADMIN, password=server.password.reveal()
    )
