"""What `verify` finds in a log and in the outboxes that it was made of, also while facts are told."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tallystick.chassis.audit import VerifierKey
from tallystick.chassis.bus import Bus
from tallystick.local.verify import log as checks
from tallystick.local.verify.source import Source
from tests.conftest import DatabaseFor
from tests.services.audit.support import Env, consuming, fact, until_size
from tests.support.facts import append, relaying
from tests.support.sealed import faults
from tests.support.snapshots import snapshots


async def found(source: Source, seconds: float = 30.0) -> list[str]:
    """In the order of `verify`."""
    async with source:
        late = await checks.drained(source, seconds)
        await source.begin(["ledger"])
        late += await checks.followed(source, seconds)
        await source.begin(["audit"])
        faults, _ = await checks.records(source)
        torn, _ = await checks.tree(source, None)
    return late + faults + torn


async def test_facts_that_are_told_meanwhile_are_no_fault(env: Env, bus: Bus, database_for: DatabaseFor) -> None:
    outbox = await database_for("tallystick.chassis", "ledger_source")
    ledger = await outbox.open()

    async def tell() -> None:
        while True:
            await append(ledger, *(fact(n) for n in range(3)))
            await env.log.sign()
            await asyncio.sleep(0.005)

    async with relaying(ledger, bus, "ledger"), consuming(env, bus, "ledger"):
        telling = asyncio.create_task(tell())
        try:
            for _ in range(3):
                assert await found(snapshots({"ledger": outbox, "audit": env.service})) == []
        finally:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "NOTED_SECONDS", 0.0)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("planted", "fault"),
    [
        (("ledger", "UPDATE outbox SET fact = 'x' WHERE position = 2"), "fact 2 is in the log as ledger 2, or with other content"),
        (("ledger", "INSERT INTO outbox (id, type, fact) SELECT gen_random_uuid(), type, fact FROM outbox LIMIT 1"), "1 facts are waiting in the outbox"),
        (("ledger", "UPDATE outbox_cursor SET seq = 2"), "ledger told 2 facts, but the log has 3"),
        (("audit", "UPDATE entry SET id = gen_random_uuid() WHERE seq = 3"), "fact 3 is not in the log"),
        (("audit", "DELETE FROM entry WHERE seq = 3"), "ledger told 3 facts, but the log has 2 of them"),
        (("audit", "UPDATE inbox SET last_seq = 2"), "ledger: told 3 facts, but the log has 2"),
        (("audit", "DELETE FROM checkpoint"), "the log has 3 entries, but only 0 are signed"),
    ],
)  # fmt: skip
async def test_what_is_missing_or_wrong_is_found(
    env: Env, bus: Bus, database_for: DatabaseFor, planted: tuple[str, str], fault: str
) -> None:
    where, damage = planted
    databases = {"ledger": await database_for("tallystick.chassis", "ledger_source"), "audit": env.service}
    ledger = await databases["ledger"].open()
    async with relaying(ledger, bus, "ledger"), consuming(env, bus, "ledger"):
        await append(ledger, *(fact(n) for n in range(3)))
        await until_size(env, 3)
    await env.log.sign()
    assert await found(snapshots(databases)) == []
    connection = await databases[where].connection(superuser=True)
    try:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(damage)
    finally:
        await connection.close()
    assert any(fault in each for each in await found(snapshots(databases), 0.0))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("UPDATE entry SET service = 'Vault' WHERE index = 3", "entry 3 is not valid: an entry needs a service's name"),
        ("UPDATE entry SET seq = 9 WHERE index = 3", "the head is not what the 5 entries hash to"),
        ("UPDATE checkpoint SET note = regexp_replace(note, ' [A-Za-z0-9+/=]+\\n$', E' \\u20ac\\n')", "the checkpoint at 5: a signature is base64"),
        ("UPDATE log_key SET public = 'short'", "the log's key: "),
        ("UPDATE log_key SET public = decode(repeat('ab', 32), 'hex')", "not the one that was pinned"),
    ],
)  # fmt: skip
async def test_verify_names_what_is_wrong_with_a_log(env: Env, change: str, fault: str) -> None:
    await env.record("ledger", [fact(n) for n in range(5)])
    await env.log.sign()
    [row] = await env.service.query("SELECT name, public FROM log_key")
    pinned = VerifierKey(row["name"], Ed25519PublicKey.from_public_bytes(row["public"]))
    async with snapshots({"audit": env.service}) as source:
        assert await checks.tree(source, None) == await checks.tree(source, pinned)
        assert await checks.tree(source, pinned) == ([], "5 entries, 1 tile")
    connection = await env.service.connection(superuser=True)
    try:
        for table in ("entry", "checkpoint", "log_key"):
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        await connection.execute("ALTER TABLE log_key DROP CONSTRAINT IF EXISTS log_key_public_check")
        await connection.execute(change)
    finally:
        await connection.close()
    async with snapshots({"audit": env.service}) as source:
        faults, _ = await checks.tree(source, pinned)
    assert fault in faults[0], faults


async def test_a_fact_that_names_no_tenant_or_type_is_found(env: Env) -> None:
    """What is compared with nothing is neither the same nor another."""
    await env.record("ledger", [fact(0)])
    assert await faults(env.service, "audit") == []
    connection = await env.service.connection(superuser=True)
    try:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("""
            UPDATE entry SET fact = convert_to((convert_from(fact, 'UTF8')::jsonb - 'tenant')::text, 'UTF8');
            UPDATE entry SET digest = sha256(fact);
            INSERT INTO outbox (id, type, fact) VALUES (gen_random_uuid(), 'ledger.book.opened', '{}');
        """)
        named = [each.partition(":")[0] for each in await faults(env.service, "audit")]
        await connection.execute("DELETE FROM outbox")
    finally:
        await connection.close()
    assert named == ["facts_are_of_their_types", "entries_are_of_their_tenants"]
