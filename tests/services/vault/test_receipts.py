"""A reveal and the real audit service: over outbox, bus, log, signature and socket to the proof that lets the number out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from valkey.asyncio import Valkey

from tallystick.chassis import audit
from tallystick.chassis.app.server import Server
from tallystick.chassis.audit import VerifierKey
from tallystick.chassis.bus import Bus
from tallystick.chassis.call import Client
from tallystick.chassis.deadline import Deadline
from tallystick.contracts.audit.client import AuditClient
from tallystick.contracts.audit.messages import InnerReceipt
from tallystick.kernel.ids import FactId
from tallystick.kernel.problem import Problem
from tallystick.services.vault.app import receipts_of
from tallystick.services.vault.service import tokens
from tests.conftest import DatabaseFor
from tests.services.audit import support as audits
from tests.services.vault.support import NUMBER, Env, running, slug
from tests.support.facts import relaying
from tests.support.http import World
from tests.support.parts import NatsServer


@asynccontextmanager
async def audit_running(log: audits.Env, directory: Path) -> AsyncIterator[Client]:
    """Audit behind a socket, where everybody is the vault."""

    async def as_envoy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], *log.world.mesh("vault")]
        await log.app(scope, receive, send)

    async def sign() -> None:
        while True:
            await log.log.sign()
            await asyncio.sleep(0.05)

    server = Server(as_envoy, directory / "audit.sock", drain_seconds=1)
    client = Client(directory / "audit.sock", "audit", timeout=60.0)
    serving, signing = asyncio.create_task(server.serve()), asyncio.create_task(sign())
    try:
        await server.listening.wait()
        yield client
    finally:
        await client.close()
        signing.cancel()
        server.stop()
        await asyncio.gather(serving, signing, return_exceptions=True)


@pytest.fixture
async def parts(
    around: World, database_for: DatabaseFor, valkey: Valkey, directory: Path, nats_server: NatsServer
) -> AsyncIterator[tuple[Env, audits.Env, Bus]]:
    bus = await Bus.open(nats_server.url, nats_server.ADMIN, nats_server.password())
    (directory / "audit").mkdir()
    log = await audits.replica(around, await database_for("tallystick.services.audit"), valkey, directory / "audit")
    async with audit_running(log, directory) as client:
        key = directory / "log.key"
        key.write_bytes(await log.fetch("key"))
        receipts: Any = receipts_of(AuditClient(client), key)
        service = await database_for("tallystick.services.vault")
        async with running(around, service, valkey, directory, receipts=receipts) as env:
            yield env, log, bus
    await bus.close()


async def reveal(env: Env, token: dict[str, Any]) -> Any:
    return await env.edge("POST", f"/v1/tokens/{token['id']}/reveal", {"purpose": "dispute"})


async def test_the_number_comes_with_the_proof_that_it_was_told(parts: tuple[Env, audits.Env, Bus]) -> None:
    env, log, bus = parts
    token = await env.create()
    async with relaying(env.database, bus, "vault"), audits.consuming(log, bus, "vault"):
        await audits.until_size(log, 1)  # they are at work: a reveal waits for its own proof only
        answer = await reveal(env, token)
    assert (answer.status, answer.json["card"]["number"]) == (200, NUMBER)
    fact = answer.json["receipt"]
    text = (await log.fetch(f"receipts/{fact}")).decode()
    proved = audit.verify_receipt(text, VerifierKey.parse((await log.fetch("key")).decode()), fact=fact)
    assert (proved.service, proved.fact["type"]) == ("vault", "vault.token.revealed")
    assert proved.fact["resource"] == token["id"]


async def test_no_proof_no_number(parts: tuple[Env, audits.Env, Bus], monkeypatch: pytest.MonkeyPatch) -> None:
    """The fact is stored and never reaches the log: nobody relays it."""
    monkeypatch.setattr(tokens, "RECEIPT_SECONDS", 0.5)
    env, log, _ = parts
    answer = await reveal(env, await env.create())
    assert (answer.status, slug({"problem": answer.json})) == (503, "reveal-not-recorded")
    assert NUMBER.encode() not in answer.content
    assert await log.size() == 0


async def test_what_is_left_of_the_time_is_what_is_waited(parts: tuple[Env, audits.Env, Bus]) -> None:
    """A deadline far ahead is cut to what audit takes, one that has passed asks nobody."""
    env, log, bus = parts
    token = await env.create()
    async with relaying(env.database, bus, "vault"), audits.consuming(log, bus, "vault"):
        await audits.until_size(log, 1)
    directory = log.world.identity.socket.parent
    client = Client(directory / "audit.sock", "audit", timeout=60.0)
    receipt = receipts_of(AuditClient(client), directory / "log.key")
    ids_ = [row["id"] for row in await log.service.query("SELECT id FROM entry")]
    await receipt(ids_[0], Deadline.after(60))
    assert token["id"]
    await client.close()


async def test_a_receipt_that_proves_something_else_is_none(parts: tuple[Env, audits.Env, Bus], tmp_path: Path) -> None:
    env, log, bus = parts
    async with relaying(env.database, bus, "vault"), audits.consuming(log, bus, "vault"):
        await env.create()
        await env.create()
        await audits.until_size(log, 2)
        while len(await log.service.query("SELECT FROM checkpoint WHERE size >= 2")) == 0:
            await asyncio.sleep(0.02)
    one, other = [FactId(row["id"]) for row in await log.service.query("SELECT id FROM entry ORDER BY id")]
    text, index = await log.log.receipt(one, service="vault")
    key = log.world.identity.socket.parent / "log.key"
    another = tmp_path / "another.key"
    another.write_text(str(VerifierKey("test/log", Ed25519PrivateKey.generate().public_key())))

    class Says:
        def __init__(self, receipt: str) -> None:
            self._receipt = receipt

        async def receipt(self, fact: FactId, *, wait_ms: int) -> InnerReceipt:
            return InnerReceipt(self._receipt, index)

    async def accepted(receipt: str, fact: FactId, key_file: Path | None) -> None:
        client: Any = Says(receipt)
        await receipts_of(client, key_file)(fact, Deadline.after(60))

    await accepted(text, one, key)
    for receipt, fact, key_file in (
        ("no proof at all", one, key),
        (text, other, key),
        (text, one, another),
        (text, one, None),
        (text.replace("index 0", "index 1") if "index 0" in text else text.replace("index 1", "index 0"), one, key),
    ):
        with pytest.raises(Problem):
            await accepted(receipt, fact, key_file)
    # A key that is not there yet is waited for.
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await accepted(text, one, tmp_path / "not-yet.key")
