"""Rows of the ledger beside what was told of them, when the oldest facts are kept no more."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tallystick.kernel import ids
from tallystick.local.verify.things import LEDGER
from tallystick.local.verify.told import as_told
from tests.services.ledger.env import Env
from tests.support.snapshots import snapshots


async def found(env: Env) -> list[str]:
    async with snapshots({"ledger": env.service}) as source:
        return (await as_told(source, "ledger", LEDGER))[0]


async def test_what_was_told_longer_ago_than_facts_are_kept_is_no_fault_and_what_came_since_is_counted(
    env: Env,
) -> None:
    old = await env.account(name="old")
    env.clock.advance(timedelta(days=30))
    new = await env.account(name="new")
    env.clock.advance(timedelta(days=1))
    newest = await env.account(name="newest")
    connection = await env.service.connection(superuser=True)
    try:
        await connection.execute("UPDATE outbox SET at = (convert_from(fact, 'UTF8')::jsonb ->> 'at')::timestamptz")
        told = await connection.fetchval("SELECT count(*) FROM outbox")
        gone = await connection.execute(
            "DELETE FROM outbox WHERE convert_from(fact, 'UTF8')::jsonb ->> 'resource' = $1", old
        )
        assert gone == "DELETE 1"
        await connection.execute(
            "UPDATE outbox_cursor SET seq = $1, (xid, position) = (SELECT xid, position FROM outbox ORDER BY xid DESC, position DESC LIMIT 1)",
            told,
        )
        assert await found(env) == []
        # One that nobody told of, put in by hand as another one's twin.
        columns = "book, name, currency, normal_side, kind, created_at, created_sequence"
        twin = "INSERT INTO account (id, {0}) SELECT gen_random_uuid(), {0} FROM account WHERE name = $1"
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(twin.format(columns), "newest")
        await transaction.commit()
        assert await found(env) == ["account: there are 2, but facts tell of 1"]
        await connection.execute("DELETE FROM account WHERE name = 'newest' AND id <> $1", ids.accounts.parse(newest))
        assert await found(env) == []
        await connection.execute("DELETE FROM outbox WHERE convert_from(fact, 'UTF8')::jsonb ->> 'resource' = $1", new)
        assert await found(env) == []
    finally:
        await connection.close()


@pytest.mark.parametrize("all_gone", [False, True], ids=["some", "all"])
async def test_what_was_told_while_the_clock_was_ahead_and_is_kept_no_more_is_no_fault(
    env: Env, all_gone: bool
) -> None:
    """Rows of that time have none of what is told now before them, but are dated after it."""
    env.clock.advance(timedelta(days=400))
    gone = await env.account(name="gone")
    env.clock.advance(timedelta(days=400))
    await env.account(name="ahead")
    env.clock._now -= timedelta(days=800)
    await env.account(name="right")
    connection = await env.service.connection(superuser=True)
    try:
        await connection.execute("UPDATE outbox SET at = (convert_from(fact, 'UTF8')::jsonb ->> 'at')::timestamptz")
        cursor = "seq = (SELECT count(*) FROM outbox), (xid, position) = (SELECT xid, position FROM outbox ORDER BY xid DESC, position DESC LIMIT 1)"
        await connection.execute(f"UPDATE outbox_cursor SET {cursor}")
        first = "SELECT xid, position FROM outbox WHERE convert_from(fact, 'UTF8')::jsonb ->> 'resource' = $1"
        if all_gone:
            await connection.execute("DELETE FROM outbox")
        else:
            await connection.execute(f"DELETE FROM outbox WHERE (xid, position) <= ({first})", gone)
        assert await found(env) == []
    finally:
        await connection.close()
