"""A log, the services whose facts it takes, and a bus between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from valkey.asyncio import Valkey

from tallystick.chassis.bus import Bus
from tests.conftest import DatabaseFor
from tests.services.audit.support import Env, replica
from tests.support.http import World, world
from tests.support.parts import NatsServer


@pytest_asyncio.fixture
async def around(directory: Path, valkey: Valkey) -> AsyncIterator[World]:
    async with world(directory, valkey) as it:
        yield it


@pytest_asyncio.fixture
async def env(around: World, database_for: DatabaseFor, valkey: Valkey, directory: Path) -> Env:
    return await replica(around, await database_for("tallystick.services.audit"), valkey, directory)


@pytest_asyncio.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.open(nats_server.url, nats_server.ADMIN, nats_server.password())
    yield bus
    await bus.close()


@pytest_asyncio.fixture
async def second(env: Env, around: World, valkey: Valkey, directory: Path) -> Env:
    """Another replica of `env`."""
    return await replica(around, env.service, valkey, directory)
