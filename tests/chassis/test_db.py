"""chassis.db on a real server."""

from __future__ import annotations

import asyncio

import pytest

from tallystick.chassis import db
from tallystick.chassis.db import Database, Query
from tests.support.parts import ServiceDatabase


def queries(text: str) -> dict[str, Query]:
    return {query.name: query for query in db.parse(text, "test.sql")}


Q = queries(
    """
-- name: one
-- One.
SELECT 1 AS one;

-- name: add
-- A row.
INSERT INTO t (id) VALUES ($1);

-- name: count
-- How many.
SELECT count(*) FROM t;

-- name: sleep
-- Slow on purpose.
SELECT pg_sleep($1::float8);

-- name: lock_all
-- Locks.
SELECT id FROM t FOR UPDATE;
"""
)


@pytest.fixture
async def database(chassis_database: ServiceDatabase) -> Database:
    await chassis_database.query("CREATE TABLE t (id int PRIMARY KEY CHECK (id > 0))")
    await chassis_database.query("GRANT SELECT, INSERT, UPDATE ON t TO chassis_test")
    return await chassis_database.open(connections=4)


async def test_a_transaction_is_stored_at_the_end_of_its_block(database: Database) -> None:
    async with database.transaction() as tx:
        assert await tx.execute(Q["add"], 1) == 1
    assert await database.fetchval(Q["count"]) == 1


async def test_an_exception_rolls_back(database: Database) -> None:
    with pytest.raises(LookupError):
        async with database.transaction() as tx:
            await tx.execute(Q["add"], 1)
            raise LookupError
    assert await database.fetchval(Q["count"]) == 0


async def test_a_swallowed_error_is_not_stored_in_silence(database: Database) -> None:
    with pytest.raises(db.DatabaseError, match="swallowed"):
        async with database.transaction() as tx:
            await tx.execute(Q["add"], 1)
            with pytest.raises(db.UniqueViolation) as caught:
                await tx.execute(Q["add"], 1)
            assert db.constraint_of(caught.value) == "t_pkey"
    assert await database.fetchval(Q["count"]) == 0
    await asyncio.sleep(0)
