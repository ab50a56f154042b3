"""Audit as it runs: its real application, policy, database, key ring and consumers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from valkey.asyncio import Valkey

from tallystick.chassis import outbox
from tallystick.chassis.auth.cedar import Authorizer
from tallystick.chassis.bus import Bus, Consumer, Subscription
from tallystick.chassis.db import Database
from tallystick.chassis.keys import Keyring, LocalRoot, root
from tallystick.chassis.outbox import Fact
from tallystick.chassis.web import Application
from tallystick.kernel.clock import ManualClock
from tallystick.services.audit.api import ENDPOINTS
from tallystick.services.audit.service import Log
from tallystick.services.audit.store import Store
from tallystick.services.audit.worker import SUBSCRIPTIONS
from tests.services.audit import c2sp
from tests.support.facts import fact as plain_fact
from tests.support.http import Answer, World, ask
from tests.support.parts import ServiceDatabase

NAME = "tallystick.test/log"


@dataclass
class Env:
    """One replica. `edge` asks as a client of tenant `acme`, `fetch` as a reader of the log."""

    world: World
    service: ServiceDatabase
    database: Database
    log: Log
    clock: ManualClock
    app: Application

    async def edge(self, path: str, *, tenant: str = "acme", scope: str = "audit:read") -> Answer:
        plain = path.partition("?")[0]
        return await ask(self.app, "GET", path, None, self.world.edge("GET", plain, scope=scope, tenant=tenant))

    async def mesh(self, path: str, *, peer: str = "vault") -> Answer:
        return await ask(self.app, "GET", path, None, self.world.mesh(peer))

    async def fetch(self, path: str) -> bytes:
        answer = await self.edge(f"/v1/audit/{path}")
        assert answer.status == 200, (path, answer.content)
        return answer.content

    async def key(self) -> c2sp.Key:
        return c2sp.Key.parse((await self.fetch("key")).decode())

    async def record(self, service: str, facts: list[Fact], first: int = 1) -> None:
        """As the consumer does it."""
        async with self.database.transaction() as tx:
            await self.log.record(
                tx, service, [(f.id, f.tenant, seq, outbox.encode(f)) for seq, f in enumerate(facts, first)]
            )

    async def check(self) -> list[dict[str, Any]]:
        """The whole log, as an independent client sees it."""
        return await c2sp.check_log(self.fetch, await self.key())

    async def size(self) -> int:
        return int((await self.service.query("SELECT size FROM head"))[0]["size"])


async def replica(around: World, service: ServiceDatabase, valkey: Valkey, directory: Path, **bounds: Any) -> Env:
    """An audit service on a database; another one on the same is its second replica."""
    database = await service.open(**bounds)
    file = directory / "root.key"
    if not file.exists():
        root.create(file)
    ring = await Keyring.open(database, lambda: LocalRoot.open(file), environment="test", service="audit")
    clock = ManualClock()
    log = Log(database=database, store=Store(), keyring=ring, valkey=valkey, clock=clock, name=NAME)
    app = Application(
        "audit",
        log,
        ENDPOINTS,
        authenticator=around.authenticator,
        authorizer=Authorizer(files("tallystick.services.audit").joinpath("policy.cedar").read_text()),
    )
    return Env(around, service, database, log, clock, app)


def fact(number: int, service: str = "ledger", tenant: str = "acme") -> Fact:
    return msgspec.structs.replace(plain_fact(number, f"{service}.thing.happened"), tenant=tenant)


def subscription(source: str) -> Subscription:
    (found,) = (each for each in SUBSCRIPTIONS if each.source == source)
    return found


@asynccontextmanager
async def consuming(
    env: Env, bus: Bus, *sources: str, handle: Callable[..., Any] | None = None
) -> AsyncIterator[list[Consumer]]:
    """The service's own consumers; `handle` stands around the real handler."""
    consumers = []
    for source in sources:
        own = subscription(source)
        taken = own if handle is None else replace(own, handle=handle)
        consumers.append(Consumer(env.database, bus, taken, env.log, pause_s=0.01))
    tasks = [asyncio.create_task(each.run()) for each in consumers]
    try:
        yield consumers
    finally:
        for each in consumers:
            each.stop()
        await asyncio.gather(*tasks)


async def until_size(env: Env, size: int) -> None:
    async with asyncio.timeout(60):
        while await env.size() < size:
            await asyncio.sleep(0.02)
