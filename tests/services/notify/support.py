"""Notify as it runs, and receivers of webhooks on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from aiohttp import web

from tallystick.chassis.auth.cedar import Authorizer
from tallystick.chassis.bus import Delivered
from tallystick.chassis.db import Database
from tallystick.chassis.egress import Resolve, system_resolve
from tallystick.chassis.fact import Fact, encode, head
from tallystick.chassis.keys import Keyring, LocalRoot, root
from tallystick.chassis.web import Application
from tallystick.kernel import ids
from tallystick.kernel.clock import ManualClock
from tallystick.services.notify.api import ENDPOINTS
from tallystick.services.notify.app import assemble
from tallystick.services.notify.service import Notify, Sender
from tests.support.http import Answer, World, ask
from tests.support.parts import ServiceDatabase

PATH = "/v1/webhook_endpoints"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Receiver:
    """A tenant's system: notes what it gets and answers as told, by default 204."""

    answers: list[int | web.StreamResponse | Handler] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0
    at_once: int = 0
    most_at_once: int = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]

    async def _take(self, request: web.Request) -> web.StreamResponse:
        self.got.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        answer = self.answers.pop(0) if self.answers else 204
        if isinstance(answer, int):
            return web.Response(status=answer)
        if isinstance(answer, web.StreamResponse):
            return answer
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await answer(request)
        finally:
            self.at_once -= 1


@dataclass
class Env:
    """One replica. `edge` asks as a client of a tenant; `told` queues a fact as the consumer does."""

    world: World
    service: ServiceDatabase
    database: Database
    ring: Keyring
    clock: ManualClock
    notify: Notify
    app: Application

    async def edge(
        self, method: str, path: str, body: Any = None, *, tenant: str = "acme", key: str | None = None, **more: Any
    ) -> Answer:
        plain = path.partition("?")[0]
        headers = self.world.edge(method, plain, scope=more.pop("scope", "webhooks:write"), tenant=tenant, **more)
        if key is not None:
            headers.append((b"idempotency-key", key.encode()))
        raw = None if body is None else json.dumps(body).encode()
        return await ask(self.app, method, path, raw, headers)

    async def endpoint(self, url: str, *events: str, tenant: str = "acme") -> dict[str, Any]:
        answer = await self.edge("POST", PATH, {"url": url, "events": list(events) or ["*"]}, tenant=tenant)
        assert answer.status == 201, answer.content
        found: dict[str, Any] = answer.json
        return found

    async def told(self, *facts: Fact) -> None:
        async with self.database.transaction() as tx:
            await self.notify.deliveries.queue(tx, [delivered(seq, one) for seq, one in enumerate(facts, 1)])

    async def send(self) -> None:
        await self.notify.deliveries.send_due()

    async def deliveries(self, endpoint: dict[str, Any], query: str = "") -> list[dict[str, Any]]:
        answer = await self.edge("GET", f"{PATH}/{endpoint['id']}/deliveries{query}")
        assert answer.status == 200, answer.content
        found: list[dict[str, Any]] = answer.json["data"]
        return found

    async def facts(self) -> list[tuple[str, str]]:
        rows = await self.service.query("SELECT fact FROM outbox ORDER BY xid, position")
        return [(fact["type"], fact["actor"]) for fact in (json.loads(row["fact"]) for row in rows)]


@asynccontextmanager
async def running(
    around: World,
    service: ServiceDatabase,
    directory: Path,
    *,
    clock: ManualClock | None = None,
    private: bool = True,
    resolve: Resolve = system_resolve,
    seconds: float = 15.0,
) -> AsyncIterator[Env]:
    """A notify service on a database; another one on the same is its second replica."""
    database = await service.open()
    file = directory / "root.key"
    if not file.exists():
        root.create(file)
    ring = await Keyring.open(database, lambda: LocalRoot.open(file), environment="test", service="notify", tells=True)
    clock = clock or ManualClock(datetime.now(UTC))
    sender = Sender(private=private, resolve=resolve, seconds=seconds)
    notify = assemble(database, ring, clock, sender, private=private)
    app = Application(
        "notify",
        notify,
        ENDPOINTS,
        authenticator=around.authenticator,
        authorizer=Authorizer(files("tallystick.services.notify").joinpath("policy.cedar").read_text()),
    )
    try:
        yield Env(around, service, database, ring, clock, notify, app)
    finally:
        await sender.close()


def fact(type_: str = "payments.payment.settled", tenant: str = "acme", **data: Any) -> Fact:
    return Fact(
        id=ids.facts.new(),
        type=type_,
        tenant=tenant,
        actor="cli_one",
        resource="pay_x",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        data={"id": "pay_x", **data},
    )


def delivered(seq: int, told: Fact) -> Delivered:
    """A fact as the consumer hands it over."""
    raw = encode(told)
    return Delivered(told.type.partition(".")[0], seq, head(raw), raw)


def slug(answer: Answer) -> str:
    return str(answer.json["type"]).rpartition("/")[2]


async def asleep(request: web.Request) -> web.StreamResponse:
    """A receiver that never answers."""
    await asyncio.sleep(3600)
    return web.Response()
