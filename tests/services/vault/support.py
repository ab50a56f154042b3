"""The vault as it runs: its real application, policy, database, key ring and, as the acquirer, the sandbox rail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from valkey.asyncio import Valkey

from tallystick.chassis import charter
from tallystick.chassis.auth.cedar import Authorizer
from tallystick.chassis.db import Database
from tallystick.chassis.deadline import Deadline
from tallystick.chassis.egress import Resolve, system_resolve
from tallystick.chassis.idempotency import Digester
from tallystick.chassis.keys import Keyring, LocalRoot, root
from tallystick.chassis.limits import Limits
from tallystick.chassis.web import Application
from tallystick.kernel.clock import Clock, ManualClock, SystemClock
from tallystick.kernel.ids import FactId
from tallystick.kernel.problem import Problem
from tallystick.local.rail import Rail, RailSettings, destination
from tallystick.services.vault.api import ENDPOINTS
from tallystick.services.vault.model import Destination
from tallystick.services.vault.service import Forwarding, Tokens, Vault
from tallystick.services.vault.service.egress import Egress
from tallystick.services.vault.settings import destinations
from tallystick.services.vault.store import Store
from tests.support.http import Answer, World, ask
from tests.support.parts import ServiceDatabase

NUMBER = "4556737586899855"
IBAN = "GB29NWBK60161331926819"
#: The rail takes long over this one.
SLOW = "4000000000000119"
CARD: dict[str, Any] = {"number": NUMBER, "exp_month": 12, "exp_year": 2035, "cvc": "837"}
SCOPE = "tokens:write tokens:read tokens:reveal"
TEMPLATE = (
    '{"request_id":"%s","amount":{"amount":"1250","currency":"EUR"},"card":{"number":"{{card.number}}",'
    '"exp_month":{{card.exp_month}},"exp_year":{{card.exp_year}}}}'
)


@dataclass
class Receipts:
    """Stands where audit's answer comes in: gives the proof, refuses it, or keeps silent."""

    mode: str = "given"
    asked: list[FactId] = field(default_factory=list)
    meanwhile: Any = None

    async def __call__(self, fact: FactId, deadline: Deadline) -> None:
        self.asked.append(fact)
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.mode == "silent":
            await asyncio.sleep(3600)
        if self.mode == "refused":
            raise Problem("audit is down")


class Env:
    """One replica of the vault. `edge` asks as a client from outside, `mesh` as payments."""

    def __init__(
        self,
        around: World,
        service: ServiceDatabase,
        database: Database,
        vault: Vault,
        valkey: Valkey,
        *,
        ring: Keyring,
    ) -> None:
        self.world = around
        self.service = service
        self.database = database
        self.ring = ring
        self.vault = vault
        declared = charter.load("vault")
        self.limits = Limits("vault", declared.limits.rates, max_in_flight=256, max_queue=1024, valkey=valkey)
        policy = files("tallystick.services.vault").joinpath("policy.cedar").read_text()
        self.app = Application(
            "vault",
            vault,
            ENDPOINTS,
            authenticator=around.authenticator,
            authorizer=Authorizer(policy),
            limits=self.limits,
            max_body_bytes=declared.limits.max_body_bytes,
            ready=lambda: (True, {"database": True}),
        )

    async def edge(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        scope: str = SCOPE,
        tenant: str = "acme",
    ) -> Answer:
        headers = self.world.edge(method, path, scope=scope, tenant=tenant)
        if key is not None:
            headers.append((b"idempotency-key", key.encode()))
        raw = None if body is None else json.dumps(body).encode()
        return await ask(self.app, method, path, raw, headers)

    async def create(self, card: Mapping[str, Any] = CARD, **more: Any) -> dict[str, Any]:
        answer = await self.edge("POST", "/v1/tokens", {"type": "card", "card": dict(card)}, **more)
        assert answer.status == 201, answer.content
        found: dict[str, Any] = answer.json
        return found

    async def mesh(self, path: str, items: list[dict[str, Any]], *, peer: str = "payments", **claims: Any) -> Answer:
        body = {"tokens": [self.world.issuer.transaction(**claims)], "items": items}
        return await ask(self.app, "POST", path, json.dumps(body).encode(), self.world.mesh(peer))

    async def forward(self, *items: dict[str, Any], **claims: Any) -> list[dict[str, Any]]:
        answer = await self.mesh("/internal/forward", list(items), **claims)
        assert answer.status == 200, answer.content
        found: list[dict[str, Any]] = answer.json["items"]
        return found

    async def facts(self) -> list[dict[str, Any]]:
        rows = await self.service.query("SELECT fact FROM outbox ORDER BY position")
        return [json.loads(row["fact"]) for row in rows]


def later(env: Env, valkey: Valkey) -> Env:
    """The same vault after `CARD` has expired."""
    clock = ManualClock(datetime(2036, 2, 1, tzinfo=UTC))
    return Env(env.world, env.service, env.database, replace(env.vault, clock=clock), valkey, ring=env.ring)


def item(request_id: str, card_token: str | None, **changes: Any) -> dict[str, Any]:
    """An authorisation at the sandbox rail; `changes` replace members."""
    made: dict[str, Any] = {
        "token": 0,
        "destination": "sandbox-rail",
        "card_token": card_token,
        "request": {"method": "POST", "path": "/authorizations", "body": TEMPLATE % request_id},
        "request_id": request_id,
        "timeout_ms": 60_000,
        **changes,
    }
    return {name: value for name, value in made.items() if value is not None}


@asynccontextmanager
async def running(
    around: World,
    service: ServiceDatabase,
    valkey: Valkey,
    directory: Path,
    *,
    receipts: Receipts | None = None,
    more: Mapping[str, Destination] | None = None,
    resolve: Resolve = system_resolve,
    clock: Clock | None = None,
) -> AsyncIterator[Env]:
    """A vault whose destinations are the rail and `more`."""
    database = await service.open()
    key_file = directory / "root.key"
    if not key_file.exists():
        root.create(key_file)
    ring = await Keyring.open(
        database, lambda: LocalRoot.open(key_file), environment="test", service="vault", tells=True
    )
    listed = directory / "destinations.toml"
    listed.write_text(destination(directory / "rail.sock"))
    store, clock = Store(), clock or SystemClock()
    vault = Vault(
        tokens=Tokens(database=database, store=store, ring=ring, clock=clock, receipt=receipts or Receipts()),
        forwarding=Forwarding(
            database=database,
            store=store,
            ring=ring,
            clock=clock,
            egress=Egress({**destinations(listed), **(more or {})}, resolve),
        ),
        digester=Digester(ring.derive("idempotency")),
        clock=clock,
    )
    try:
        yield Env(around, service, database, vault, valkey, ring=ring)
    finally:
        await vault.close()


@asynccontextmanager
async def rail(
    directory: Path, *, slow_seconds: float = 30.0, goes_on: asyncio.Event | None = None
) -> AsyncIterator[list[str]]:
    """The sandbox rail on its socket; gives the list of `METHOD path` that arrived. With `goes_on` what is slow takes until then."""
    settings = RailSettings(socket=directory / "rail.sock", data=directory / "rail.db", slow_seconds=slow_seconds)
    it = Rail(settings)
    seen: list[str] = []
    app = it.application()

    @web.middleware
    async def note(request: web.Request, handler: Any) -> web.StreamResponse:
        seen.append(f"{request.method} {request.path}")
        if goes_on is not None and SLOW.encode() in await request.read():
            await goes_on.wait()
        answer: web.StreamResponse = await handler(request)
        return answer

    app.middlewares.insert(0, note)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(settings.socket)).start()
    try:
        yield seen
    finally:
        await runner.cleanup()
        it.close()
        settings.socket.unlink(missing_ok=True)


def answered(result: dict[str, Any]) -> Any:
    """The destination's JSON answer of one result."""
    assert "answer" in result, result
    return msgspec.json.decode(result["answer"]["body"])


def slug(result: dict[str, Any]) -> str:
    """The problem of one result."""
    assert "problem" in result, result
    return str(result["problem"]["type"]).rpartition("/")[2]
