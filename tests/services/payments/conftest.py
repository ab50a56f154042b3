"""A neighbourhood for each module of tests; each test has a tenant of its own there. (Databases take longest to make.)"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from valkey.asyncio import Valkey

from tests.conftest import patience_with_valkey
from tests.services.payments.support import Town, town
from tests.support.http import world
from tests.support.parts import Server, ValkeyServer, remove, short_directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _town(postgres_server: Server, _valkey_server: ValkeyServer) -> AsyncIterator[Town]:
    directory = short_directory()
    valkey = Valkey(
        unix_socket_path=str(_valkey_server.socket),
        username=_valkey_server.ADMIN,
        password=_valkey_server.password.reveal(),
    )
    try:
        with patience_with_valkey():
            async with world(directory, valkey) as around, town(around, postgres_server, valkey, directory) as made:
                yield made
        await valkey.flushall()
    finally:
        await valkey.aclose()
        remove(directory)


@pytest.fixture(name="town")
def town_(_town: Town) -> Iterator[Town]:
    _town.fresh()
    yield _town
    _town.fresh()
