"""What `verify` says when a database goes away while it is read."""

from __future__ import annotations

import asyncpg
import pytest

from tallystick.local.verify import Unreadable, _timed
from tallystick.local.verify.source import Source
from tests.support.parts import ServiceDatabase


@pytest.mark.parametrize("live", [False, True])
async def test_a_database_that_goes_away_is_not_damaged_data(chassis_database: ServiceDatabase, live: bool) -> None:
    """A restart of PostgreSQL was told as damaged data, or ended in a stack trace."""
    async with Source({"ledger": chassis_database.superuser}) as source:
        await source.begin(["ledger"])

        async def ended() -> list[str]:
            connection = await (source.live("ledger") if live else source.connection("ledger"))
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            other = await chassis_database.connection(superuser=True)
            await other.execute(f"SELECT pg_terminate_backend({pid})")
            await other.close()
            return [str(await connection.fetchval("SELECT 1"))]

        async def damaged() -> list[str]:
            return [str(await (await source.connection("ledger")).fetchval("SELECT 1 / 0"))]

        check = await _timed(source, "a check", "a promise", damaged)
        assert check.faults == ["the data to check is damaged (DivisionByZeroError: division by zero)"]
        with pytest.raises(Unreadable, match=r"^the connection to the database of ledger was lost$") as raised:
            await _timed(source, "a check", "a promise", ended)
        assert isinstance(raised.value.__cause__, asyncpg.PostgresError | asyncpg.InterfaceError)
