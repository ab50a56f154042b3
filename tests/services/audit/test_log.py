"""The log as an independent client sees it: tiles, bundles, checkpoints and receipts through the real application."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import valkey.asyncio
from valkey.asyncio import Valkey

from tallystick.chassis import audit, outbox
from tallystick.chassis.app.server import Server
from tallystick.chassis.audit import VerifierKey, leaf, leaf_hash
from tallystick.chassis.audit.merkle import Frontier
from tallystick.chassis.call import Client
from tallystick.contracts.audit.client import AuditClient
from tallystick.contracts.audit.messages import MAX_WAIT_MS
from tallystick.contracts.audit.problems import ReceiptNotFound
from tallystick.kernel import ids
from tallystick.kernel.clock import ManualClock
from tallystick.kernel.ids import FactId
from tallystick.services.audit import service as audit_service
from tallystick.services.audit.service import REMEMBERED, RolledBack
from tallystick.services.audit.store import SEALED, queries
from tests.services.audit import c2sp
from tests.services.audit.support import Env, fact, replica
from tests.support.http import Answer, World
from tests.support.parts import connect
from tests.support.sealed import a_year_passes, faults


def slug(document: dict[str, Any]) -> str:
    return str(document["type"]).rpartition("/")[2]


async def test_an_empty_log_says_so(env: Env) -> None:
    await env.log.sign()
    answer = await env.edge("/v1/audit/checkpoint")
    assert (answer.status, slug(answer.json)) == (404, "log-empty")
    assert (await env.edge("/v1/audit/tile/0/000.p/1")).status == 404


@pytest.mark.parametrize("sizes", [[1], [3, 250, 2], [256], [255, 2], [400, 400, 700]])
async def test_the_tree_rebuilt_from_the_bundles_has_the_signed_root(env: Env, sizes: list[int]) -> None:
    seq = 1
    for size in sizes:
        await env.record("ledger", [fact(n) for n in range(size)], seq)
        seq += size
        await env.log.sign()
    found = await env.check()
    assert [(each["service"], each["seq"]) for each in found] == [("ledger", n) for n in range(1, seq)]


async def test_entries_are_commitments_and_say_nothing_of_the_facts(env: Env) -> None:
    one = fact(1)
    await env.record("ledger", [one])
    await env.log.sign()
    (entry,) = await env.check()
    assert entry == {"service": "ledger", "seq": 1, "sha256": c2sp.sha256(outbox.encode(one)).hex()}


async def test_tiles_are_served_as_far_as_the_tree_is_signed(env: Env) -> None:
    await env.record("ledger", [fact(n) for n in range(300)])
    await env.log.sign()
    await env.record("ledger", [fact(n) for n in range(300)], 301)
    full = await env.fetch("tile/0/000")
    assert len(full) == 256 * 32
    for width in (1, 17, 44):
        assert await env.fetch(f"tile/0/001.p/{width}") == (await env.fetch("tile/0/001.p/44"))[: width * 32]
        assert len(await c2sp.entries(env.fetch, 256 + width)) == 256 + width
    assert await env.fetch("tile/0/000.p/3") == full[: 3 * 32]
    assert await env.fetch("tile/1/000.p/1") == c2sp.tree_hash([full[i : i + 32] for i in range(0, 8192, 32)])
    # Not signed yet, not there, no path.
    for path in ("0/001", "0/001.p/45", "entries/001.p/45", "0/002.p/1", "1/000.p/2", "2/000.p/1", "0/1", "63/000.p/1"):
        answer = await env.edge(f"/v1/audit/tile/{path}")
        assert (answer.status, slug(answer.json)) == (404, "tile-not-found"), path
    answer = await env.edge("/v1/audit/tile/0/000")
    assert answer.header("content-type") == "application/octet-stream"
    assert "immutable" in (answer.header("cache-control") or "")
    checkpoint = await env.edge("/v1/audit/checkpoint")
    assert (checkpoint.header("content-type") or "").startswith("text/plain")
    assert checkpoint.header("cache-control") == "no-store"


async def test_reading_needs_the_scope(env: Env) -> None:
    await env.record("ledger", [fact(1)])
    await env.log.sign()
    for path in ("checkpoint", "key", "tile/0/000.p/1", f"receipts/{ids.facts.text(ids.facts.new())}"):
        assert (await env.edge(f"/v1/audit/{path}", scope="payments:read")).status == 403


async def test_receipts_are_verified_offline_by_strangers_and_by_us(env: Env) -> None:
    facts = [fact(n) for n in range(600)]
    for start in range(0, 600, 150):
        await env.record("ledger", facts[start : start + 150], start + 1)
        await env.log.sign()
    key = await env.key()
    ours = VerifierKey.parse((await env.fetch("key")).decode())
    for number in (0, 1, 255, 256, 300, 511, 512, 598, 599):
        id_ = ids.facts.text(facts[number].id)
        text = (await env.fetch(f"receipts/{id_}")).decode()
        found, index, size = c2sp.check_receipt(text, key)
        assert (found["id"], found["data"], index, size) == (id_, {"n": number}, number, 600)
        assert audit.verify_receipt(text, ours, fact=id_).seq == number + 1


async def test_a_receipt_is_for_its_tenant_and_looks_to_others_as_if_it_were_not_there(env: Env) -> None:
    mine, other = fact(1), fact(2, tenant="other")
    await env.record("ledger", [mine, other])
    await env.log.sign()
    assert (await env.edge(f"/v1/audit/receipts/{ids.facts.text(mine.id)}")).status == 200
    loop = asyncio.get_running_loop()
    documents, took = [], []
    for id_ in (other.id, ids.facts.new()):
        begun = loop.time()
        answer = await env.edge(f"/v1/audit/receipts/{ids.facts.text(id_)}?wait_ms=300")
        took.append(loop.time() - begun)
        assert answer.status == 404
        document = answer.json
        documents.append({**document, "request_id": "", "detail": document["detail"].replace(ids.facts.text(id_), "")})
    assert documents[0] == documents[1]
    assert min(took) >= 0.3, "how long it takes tells nobody that there is something"
    assert (await env.edge("/v1/audit/receipts/fct_nonsense")).status == 400


@pytest.mark.usefixtures("patient")
async def test_a_receipt_is_waited_for(env: Env) -> None:
    one = fact(1, "vault")
    asked = asyncio.create_task(env.mesh(f"/internal/receipts/{ids.facts.text(one.id)}?wait_ms=5000"))
    await waiting(env, None)
    await env.record("vault", [one])
    await asyncio.sleep(0.1)
    assert not asked.done(), "in the log, but not signed"
    await env.log.sign()
    answer = await asked
    assert answer.status == 200
    found, index, _ = c2sp.check_receipt(answer.json["receipt"], await env.key())
    assert (found["id"], index, answer.json["index"]) == (ids.facts.text(one.id), 0, 0)


async def waiting(env: Env, tenant: str | None, count: int = 1) -> None:
    """Until so many requests of a tenant, or of services, wait for a receipt."""
    while env.log._waiting[tenant] != count:
        await asyncio.sleep(0.01)


@pytest.fixture
def patient(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits longest does so until the test has seen it, however busy the machine is."""
    plain, longest = env.log.receipt, MAX_WAIT_MS / 1000

    async def receipt(fact: FactId, *, wait: float = 0.0, **whose: Any) -> tuple[str, int]:
        return await plain(fact, wait=wait if wait < longest else 1000 * longest, **whose)

    monkeypatch.setattr(env.log, "receipt", receipt)


def unknown() -> str:
    return f"receipts/{ids.facts.text(ids.facts.new())}?wait_ms=5000"


@pytest.mark.usefixtures("patient")
async def test_a_tenant_that_waits_much_takes_no_place_of_others(env: Env) -> None:
    """What the vault waits for, a reveal, gets its place however many clients wait for receipts that never come."""
    bound = audit_service.TENANT_WAITING
    many = [asyncio.create_task(env.edge(f"/v1/audit/{unknown()}")) for _ in range(2 * audit_service.TENANTS_WAITING)]
    wait = set(many)
    while len(wait) > bound:
        _, wait = await asyncio.wait(wait, return_when=asyncio.FIRST_COMPLETED)
    await waiting(env, "acme", bound)
    assert len(wait) == bound
    for each in set(many) - wait:
        answer = each.result()
        assert (answer.status, slug(answer.json), answer.header("retry-after")) == (429, "rate-limited", "1")
        assert f"at most {bound} requests of a tenant wait" in answer.json["detail"]
    # Without waiting, or for what is there, it is answered; another tenant and a service wait as ever.
    mine, told = fact(1), fact(2, "vault")
    other = asyncio.create_task(env.edge(f"/v1/audit/{unknown()}", tenant="other"))
    reveal = asyncio.create_task(env.mesh(f"/internal/receipts/{ids.facts.text(told.id)}?wait_ms=5000"))
    await waiting(env, "other")
    await waiting(env, None)
    assert (await env.edge(f"/v1/audit/{unknown().partition('?')[0]}")).status == 404
    await env.record("ledger", [mine])
    await env.record("vault", [told])
    await env.log.sign()
    assert (await env.edge(f"/v1/audit/receipts/{ids.facts.text(mine.id)}?wait_ms=5000")).status == 200
    assert (await reveal).status == 200
    for each in (*wait, other):
        each.cancel()
    await asyncio.gather(*wait, other, return_exceptions=True)
    # Who went away left its place.
    assert (await env.edge(f"/v1/audit/{unknown().replace('5000', '50')}")).status == 404


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("bound", "inner"), [("TENANTS_WAITING", False), ("SERVICES_WAITING", True)])
async def test_too_many_that_wait_are_told_at_once(
    env: Env, monkeypatch: pytest.MonkeyPatch, bound: str, inner: bool
) -> None:
    monkeypatch.setattr(audit_service, bound, 1)

    async def ask(tenant: str) -> Answer:
        return await (
            env.mesh(f"/internal/{unknown()}") if inner else env.edge(f"/v1/audit/{unknown()}", tenant=tenant)
        )

    first = asyncio.create_task(ask("acme"))
    await waiting(env, None if inner else "acme")
    answer = await ask("other")
    assert (answer.status, slug(answer.json), answer.header("retry-after")) == (503, "overloaded", "1")
    assert not first.done()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_a_service_can_not_stand_in_for_another(env: Env) -> None:
    """Somebody else told something under the id of the vault's fact, and was faster."""
    real = fact(7, "vault")
    await env.record("risk", [real])
    await env.log.sign()
    path = f"/internal/receipts/{ids.facts.text(real.id)}"
    assert (await env.mesh(path)).status == 404
    await env.record("vault", [real])
    await env.log.sign()
    answer = await env.mesh(path)
    assert (answer.status, answer.json["index"]) == (200, 1)
    for peer in ("payments", "risk", "operator"):
        assert (await env.mesh(path, peer=peer)).status == 403


@pytest.mark.usefixtures("patient")
async def test_the_vaults_client_waits_for_the_receipt_over_a_socket(env: Env, directory: Path) -> None:
    async def as_envoy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], *env.world.mesh("vault")]
        await env.app(scope, receive, send)

    server = Server(as_envoy, directory / "audit.sock", drain_seconds=1)
    serving = asyncio.create_task(server.serve())
    client = Client(directory / "audit.sock", "audit", timeout=60.0)
    try:
        await server.listening.wait()
        one = fact(1, "vault")
        asked = asyncio.create_task(AuditClient(client).receipt(one.id, wait_ms=MAX_WAIT_MS))
        await waiting(env, None)
        await env.record("vault", [one])
        await env.log.sign()
        got = await asked
        assert (
            audit.verify_receipt(got.receipt, VerifierKey.parse(await env.log.verifier_key())).index == got.index == 0
        )
        with pytest.raises(ReceiptNotFound):
            await AuditClient(client).receipt(ids.facts.new(), wait_ms=50)
    finally:
        await client.close()
        server.stop()
        await serving


# ---- signing


async def test_every_replica_signs_with_the_one_key(env: Env, around: World, valkey: Valkey, directory: Path) -> None:
    other = await replica(around, env.service, valkey, directory)
    await env.record("ledger", [fact(1)])
    await asyncio.gather(env.log.sign(), other.log.sign())
    assert await env.log.verifier_key() == await other.log.verifier_key()
    await env.record("ledger", [fact(2)], 2)
    await asyncio.gather(other.log.sign(), env.log.sign())
    assert len(await env.service.query("SELECT * FROM checkpoint")) == 2
    assert len(await other.check()) == 2
    (row,) = await env.service.query("SELECT sealed FROM log_key")
    key = await env.log._signing_key()
    assert key.private_bytes_raw() not in row["sealed"]


async def test_checkpoints_grow_consistently(env: Env) -> None:
    key, seen = None, []
    for n in range(1, 40):
        await env.record("ledger", [fact(n)] * 1, n)
        await env.log.sign()
        key = key or await env.key()
        seen.append(c2sp.checkpoint((await env.fetch("checkpoint")).decode(), key))
    raw = await c2sp.entries(env.fetch, 39)
    hashes = [c2sp.sha256(b"\x00" + entry) for entry in raw]
    assert seen == [(n, c2sp.tree_hash(hashes[:n])) for n in range(1, 40)]


async def restored(env: Env, size: int) -> None:
    """The database as it was at an earlier size, as a restored backup would have it."""
    connection = await env.service.connection(superuser=True)
    try:
        for trigger in ("head", "tile", "checkpoint"):
            await connection.execute(f"ALTER TABLE {trigger} DISABLE TRIGGER ALL")
        kept = await connection.fetch("SELECT service, seq, digest FROM entry WHERE index < $1 ORDER BY index", size)
        edge, tiles = Frontier(), b""
        for row in kept:
            hashed = leaf_hash(leaf(row["service"], row["seq"], row["digest"]))
            edge.append(hashed)
            tiles += hashed
        assert size < 256
        await connection.execute("DELETE FROM entry WHERE index >= $1", size)
        await connection.execute("DELETE FROM checkpoint WHERE size > $1", size)
        await connection.execute("UPDATE tile SET hashes = $1 WHERE level = 0 AND index = 0", tiles)
        await connection.execute("UPDATE head SET size = $1, frontier = $2", size, edge.packed())
    finally:
        await connection.close()


async def test_a_log_that_shrank_is_not_signed_and_neither_is_another_past(env: Env) -> None:
    for n in (5, 5):
        await env.record("ledger", [fact(k) for k in range(n)], (await env.size()) + 1)
        await env.log.sign()
    before = await env.fetch("checkpoint")
    await restored(env, 5)
    with pytest.raises(RolledBack, match="5 entries, but 10"):
        await env.log.sign()
    # The facts come again, in another order between services: as many as there were, and then more.
    await env.record("ledger", [fact(100 + k) for k in range(5)], 6)
    with pytest.raises(RolledBack, match="not the ones that were signed"):
        await env.log.sign()
    await env.record("ledger", [fact(200 + k) for k in range(5)], 11)
    with pytest.raises(RolledBack, match="not the ones that were signed"):
        await env.log.sign()
    assert await env.fetch("checkpoint") != before
    assert [row["size"] for row in await env.service.query("SELECT size FROM checkpoint")] == [5]


async def test_a_log_that_was_restored_and_is_the_same_again_goes_on(env: Env) -> None:
    facts = [fact(k) for k in range(10)]
    await env.record("ledger", facts[:5])
    await env.log.sign()
    await env.record("ledger", facts[5:], 6)
    await env.log.sign()
    before = await env.fetch("checkpoint")
    await restored(env, 5)
    await env.record("ledger", facts[5:], 6)
    await env.log.sign()
    assert await env.fetch("checkpoint") == before
    await env.record("ledger", [fact(11)], 11)
    await env.log.sign()
    assert len(await env.check()) == 11


async def test_a_new_database_does_not_sign_over_an_old_log(env: Env, valkey: Valkey) -> None:
    await env.record("ledger", [fact(1)])
    await env.log.sign()
    connection = await env.service.connection(superuser=True)
    await connection.execute("DELETE FROM log_key")
    await connection.close()
    env.log._key = None
    await env.record("ledger", [fact(2)], 2)
    with pytest.raises(RolledBack, match="key"):
        await env.log.sign()


async def test_a_head_that_is_not_its_tiles_is_not_signed(env: Env) -> None:
    await env.record("ledger", [fact(k) for k in range(3)])
    await env.service.query("ALTER TABLE tile DISABLE TRIGGER ALL")
    await env.service.query("UPDATE tile SET hashes = substring(hashes FROM 1 FOR 64) || hashes")
    with pytest.raises(RolledBack, match="does not match its tiles"):
        await env.log.sign()
    await env.service.query("UPDATE tile SET hashes = substring(hashes FROM 1 FOR 64)")
    with pytest.raises(RolledBack, match="are missing"):
        await env.log.sign()


async def test_a_lost_memory_is_found_though_the_clock_was_set_back(
    env: Env, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Valkey was not asked until the clock had caught up."""
    await env.record("ledger", [fact(1)])
    await env.log.sign()
    await env.log.sign()
    await valkey.delete(REMEMBERED)
    monkeypatch.setattr(env.log, "_clock", ManualClock(env.clock.now() - timedelta(hours=1)))
    await env.log.sign()
    assert await valkey.get(REMEMBERED) == await env.fetch("checkpoint")


async def test_without_valkey_it_signs_by_its_database_and_remembers_later(
    env: Env, around: World, valkey: Valkey, directory: Path
) -> None:
    nowhere = valkey_at(directory / "nothing.sock")
    alone = await replica(around, env.service, nowhere, directory)
    await alone.record("ledger", [fact(1)])
    await alone.log.sign()
    assert len(await env.check()) == 1
    assert await valkey.get(REMEMBERED) is None
    await env.log.sign()
    assert await valkey.get(REMEMBERED) == await env.fetch("checkpoint")
    await nowhere.aclose()


def valkey_at(path: Path) -> Valkey:
    return valkey.asyncio.Valkey(unix_socket_path=str(path))


async def test_checkpoints_are_thinned_to_one_a_minute(env: Env) -> None:
    for n in range(1, 40):
        await env.record("ledger", [fact(n)], n)
        await env.log.sign()
        env.clock.advance(timedelta(seconds=20))
    env.clock.advance(timedelta(minutes=50))
    await env.log.thin()
    sizes = [row["size"] for row in await env.service.query("SELECT size FROM checkpoint ORDER BY size")]
    # 39 checkpoints in 13 minutes, three a minute; those younger than an hour are all there.
    young = [n for n in range(1, 40) if (39 - n) * 20 + 20 + 50 * 60 <= 3600]
    assert sizes == sorted({3 * m for m in range(1, 14)} | set(young))
    assert len(await env.check()) == 39


# ---- what the database itself refuses


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE entry SET fact = NULL", "permission denied"),
        ("DELETE FROM entry", "permission denied"),
        ("TRUNCATE entry", "permission denied"),
        ("DELETE FROM tile", "permission denied"),
        ("UPDATE tile SET level = 1", "permission denied"),
        ("DELETE FROM head", "permission denied"),
        ("UPDATE checkpoint SET note = ''", "permission denied"),
        ("UPDATE log_key SET public = public", "permission denied"),
        ("UPDATE tile SET hashes = decode(repeat('00', 64), 'hex')", "would be rewritten"),
        ("UPDATE tile SET hashes = substring(hashes FROM 1 FOR 32)", "would be rewritten"),
        ("UPDATE tile SET hashes = hashes || '\\x00'", "violates check"),
        ("UPDATE head SET size = size - 1", "would shrink"),
        ("DELETE FROM checkpoint", "is the newest"),
        ("INSERT INTO entry SELECT 9, id, tenant, service, seq, digest, fact FROM entry LIMIT 1", "entry_once"),
        ("ALTER TABLE tile DISABLE TRIGGER ALL", "must be owner"),
    ],
)
async def test_the_services_role_can_only_append(env: Env, statement: str, says: str) -> None:
    await env.record("ledger", [fact(n) for n in range(2)])
    await env.log.sign()
    connection = await connect(env.service.dsn)
    try:
        with pytest.raises(Exception, match=says):
            await connection.execute(statement)
    finally:
        await connection.close()
    assert len(await env.check()) == 2


async def test_a_receipt_is_found_by_the_facts_id_however_long_the_log_is(env: Env) -> None:
    facts = [fact(n) for n in range(3000)]
    await env.service.leave_alone()
    await env.record("ledger", facts)
    await env.service.query("ANALYZE entry")
    sql = queries.entry_by_id.sql
    for turn in range(7):  # the server's plan for any values comes after some for given ones
        (row,) = await env.service.query(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", facts[-1].id, "acme", None)
        (plan,) = json.loads(row["QUERY PLAN"])
        assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 10, turn


async def test_a_year_passes_over_the_key_of_the_logs_key(
    env: Env, around: World, valkey: Valkey, directory: Path
) -> None:
    """The log signs with the key that it always had, which is sealed under another one."""
    await env.record("ledger", [fact(1)])
    await env.log.sign()
    key = await env.log.verifier_key()
    await a_year_passes(env.service, env.log._keyring, SEALED)
    assert await faults(env.service, "audit") == []
    other = await replica(around, env.service, valkey, directory)
    await other.record("ledger", [fact(2)], first=2)
    await other.log.sign()
    assert await other.log.verifier_key() == key
    await other.check()
