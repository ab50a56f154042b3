"""Payments among its real neighbours: ledger, risk, vault and the sandbox rail, each on its own socket in this process.

What lies between them is a `Line`, which stands for the mesh: it says who calls, and it can be cut.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

from valkey.asyncio import Valkey

from tallystick.chassis import charter
from tallystick.chassis.app.server import Server
from tallystick.chassis.auth import Authorizer
from tallystick.chassis.call import Client
from tallystick.chassis.call.breaker import Breaker
from tallystick.chassis.db import Life, Queries
from tallystick.chassis.idempotency import Digester
from tallystick.chassis.outbox import Outbox
from tallystick.chassis.web import Application
from tallystick.contracts.ledger.client import LedgerClient
from tallystick.contracts.risk.client import RiskClient
from tallystick.contracts.vault.client import VaultClient
from tallystick.kernel import ids
from tallystick.kernel.clock import ManualClock, SystemClock
from tallystick.kernel.problem import Upstream
from tallystick.local.rail.rules import BEHAVIOURS
from tallystick.local.verify import agreement
from tallystick.local.verify.source import Source
from tallystick.local.verify.things import TOLD
from tallystick.local.verify.told import as_told
from tallystick.services.ledger.api import ENDPOINTS as LEDGER_ENDPOINTS
from tallystick.services.ledger.service import Ledger
from tallystick.services.ledger.store import Store as LedgerStore
from tallystick.services.payments import model
from tallystick.services.payments.api import ENDPOINTS, Api
from tallystick.services.payments.app import assemble
from tallystick.services.payments.model import Payment, Refund, RefundStep, Step
from tallystick.services.payments.service import Acquirer, Directory, Effects, Postponed, Work
from tallystick.services.payments.store import Store
from tallystick.services.risk.service import Risk
from tests.services.risk.support import replica as risk_replica
from tests.services.vault.support import Env as VaultEnv
from tests.services.vault.support import rail
from tests.services.vault.support import running as vault_running
from tests.support.http import Answer, World, ask
from tests.support.parts import Server as PostgresServer
from tests.support.parts import ServiceDatabase
from tests.support.snapshots import snapshots

CLIENT = ids.clients.text(ids.clients.new())
SCOPE = "payments:write payments:read refunds:write accounts:write accounts:read transfers:write books:write approvals:write tokens:write tokens:read"
NUMBERS = {behaviour: number for number, behaviour in BEHAVIOURS.items()}
UNSCORED_EURO = charter.load("payments").calls["risk"].degrade_up_to_euro
#: In cents.
UNSCORED_LIMIT = UNSCORED_EURO * 100
SERVICES = ("payments", "ledger", "risk", "vault")
#: A payment that is one of these is never anything else again.
FINAL = frozenset({"settled", "declined", "canceled", "failed", "expired"})

T = TypeVar("T")
Mode = Literal["up", "down", "lost", "late"]


class Crashed(Exception):
    """Stands for the end of the process: what was not stored by now is forgotten."""


class Line:
    """The mesh on the way to one service. `down`: nothing arrives; `lost`: it acts and the answer does not come back; `late`: it
    comes after the caller has given up.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.mode: Mode = "up"
        self.calls: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append(scope["path"])
        scope["headers"] = [*scope["headers"], (b"x-tallystick-peer", _PEER)]
        match self.mode:
            case "up":
                await self.app(scope, receive, send)
            case "down":
                await _unavailable(send, b"no healthy upstream")
            case "late":
                await asyncio.sleep(1.0)
                await self.app(scope, receive, send)
            case "lost":

                async def nowhere(_message: Any) -> None: ...

                await self.app(scope, receive, nowhere)
                await _unavailable(send, b"upstream connect error or disconnect/reset before headers")


_PEER = World.mesh("payments")[0][1]


async def _unavailable(send: Any, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


#: What to do with a step: nothing, crash before or after it, or say before or after it that it could not be done.
Fault = Literal["none", "crash-before", "crash-after", "fail-before", "fail-after"]


class FaultyEffects(Effects):
    """The real effects; `fault(step)` says what goes wrong at each."""

    fault: Callable[[Step | RefundStep], Fault]
    done: list[Step | RefundStep]

    async def perform(self, step: Step, p: Payment, token: str) -> Payment:
        return await self._faulty(step, lambda: super(FaultyEffects, self).perform(step, p, token))

    async def perform_refund(self, step: RefundStep, r: Refund, token: str) -> Refund:
        return await self._faulty(step, lambda: super(FaultyEffects, self).perform_refund(step, r, token))

    async def _faulty(self, step: Step | RefundStep, do: Callable[[], Awaitable[T]]) -> T:
        fault = self.fault(step)
        if fault == "crash-before":
            raise Crashed
        if fault == "fail-before":
            raise Postponed(step.value, Upstream())
        after = await do()
        self.done.append(step)
        if fault == "crash-after":
            raise Crashed
        if fault == "fail-after":
            raise Postponed(step.value, Upstream())
        return after


@dataclass
class Replica:
    """One process of payments."""

    api: Api
    app: Application
    effects: FaultyEffects
    work: Work
    life: Life

    async def resume(self) -> int:
        """What its worker does when it is due, to the end."""
        found = await self.api.background.resume()
        await self.work.drain()
        return found


def no_fault(_step: Step | RefundStep) -> Fault:
    return "none"


@dataclass
class Town:
    """All of them. `clock` is that of payments; the others have the machine's."""

    world: World
    directory: Path
    databases: dict[str, ServiceDatabase]
    lines: dict[str, Line]
    ledger: Application
    books: Ledger
    vault: VaultEnv
    risk: Risk
    clock: ManualClock
    clients: list[Client] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    rail: AsyncExitStack = field(default_factory=AsyncExitStack)
    arrived: list[str] = field(default_factory=list)
    one: Replica = field(init=False)
    tenant: str = "acme"
    tenants: int = 0
    keys: int = 0

    def fresh(self) -> None:
        """A new tenant for the next test, and everything works."""
        self.tenants += 1
        self.tenant = f"tenant-{self.tenants}"
        self.arrived.clear()
        self.one.effects.fault, self.one.effects.done = no_fault, []
        for line in self.lines.values():
            line.mode = "up"
            line.calls.clear()

    async def rail_up(self) -> None:
        self.arrived = await self.rail.enter_async_context(rail(self.directory, slow_seconds=2.0))

    async def rail_down(self) -> None:
        await self.rail.aclose()

    async def replica(self) -> Replica:
        """A further process of payments on the same database."""
        database = await self.databases["payments"].open()
        store, clock = Store(), self.clock
        ledger = LedgerClient(self._client("ledger"))
        vault = VaultClient(self._client("vault"))
        acquirer = Acquirer(vault, "sandbox-rail", 1_000)
        effects = FaultyEffects(
            database=database,
            store=store,
            risk=RiskClient(self._client("risk")),
            ledger=ledger,
            acquirer=acquirer,
            clock=clock,
            unscored_limit=UNSCORED_EURO,
        )
        effects.fault, effects.done = no_fault, []
        work = Work()
        # Dead as soon as nobody sees it: here no server is restarted.
        life = await Life.begin(database, absent_seconds=0)
        self.lives.append(life)
        api = assemble(
            database=database,
            effects=effects,
            acquirer=acquirer,
            directory=Directory(database=database, store=store, ledger=ledger, vault=vault),
            authenticator=self.world.authenticator,
            clock=clock,
            work=work,
            life=life,
            digester=Digester(bytes(32)),
        )
        return Replica(api, _application("payments", api, ENDPOINTS, self.world), effects, work, life)

    def _client(self, target: str) -> Client:
        # A breaker that stays closed: what is tested here is what happens when a call fails, not whether it is made. And a busy
        # machine's patience: a neighbour that answers is not gone on without.
        client = Client(
            self.directory / f"{target}.sock",
            target,
            timeout=60.0,
            retries=charter.load("payments").calls[target].retries,
            breaker=Breaker(threshold=10**9),
        )
        self.clients.append(client)
        return client

    # ---- as a client of the edge

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        tenant: str | None = None,
        client: str = CLIENT,
        at: Replica | None = None,
        app: Application | None = None,
    ) -> Answer:
        self.world.holder.client = client
        headers = self.world.edge(method, path.partition("?")[0], scope=SCOPE, tenant=tenant or self.tenant)
        if method == "POST":
            self.keys += 1
            headers.append((b"idempotency-key", (key or f"key-{self.keys}").encode()))
        raw = None if body is None else json.dumps(body).encode()
        return await ask(app or (at or self.one).app, method, path, raw, headers)

    async def pay(self, body: dict[str, Any], **options: Any) -> Answer:
        return await self.call("POST", "/v1/payments", body, **options)

    async def paid(self, body: dict[str, Any], *, status: str = "settled", **options: Any) -> dict[str, Any]:
        answer = await self.pay(body, **options)
        assert answer.status == 201, (answer.status, answer.content)
        assert answer.json["status"] == status, answer.json
        found: dict[str, Any] = answer.json
        return found

    async def capture(self, payment: str, minor: int | None = None, **options: Any) -> Answer:
        body = {} if minor is None else {"amount": money(minor)}
        return await self.call("POST", f"/v1/payments/{payment}/capture", body, **options)

    async def cancel(self, payment: str, **options: Any) -> Answer:
        return await self.call("POST", f"/v1/payments/{payment}/cancel", {}, **options)

    async def refund(self, payment: str, minor: int | None = None, **options: Any) -> Answer:
        body = {"payment": payment} | ({} if minor is None else {"amount": money(minor)})
        return await self.call("POST", "/v1/refunds", body, **options)

    async def get(self, payment: str, **options: Any) -> dict[str, Any]:
        kind = "refunds" if payment.startswith("ref") else "payments"
        answer = await self.call("GET", f"/v1/{kind}/{payment}", **options)
        assert answer.status == 200, answer.content
        found: dict[str, Any] = answer.json
        return found

    async def account(self, *, floor: str | None = None, currency: str = "EUR", tenant: str | None = None) -> str:
        body = {"name": "an account", "currency": currency, "normal_side": "credit", "floor": floor}
        answer = await self.call("POST", "/v1/accounts", body, tenant=tenant, app=self.ledger)
        assert answer.status == 201, answer.content
        return str(answer.json["id"])

    async def close_account(self, account: str) -> None:
        answer = await self.call("POST", f"/v1/accounts/{account}/close", {}, app=self.ledger)
        assert answer.status == 200, answer.content

    async def freeze(self, account: str, *, frozen: bool = True) -> None:
        answer = await self.in_ledger("POST", f"/v1/accounts/{account}/{'freeze' if frozen else 'unfreeze'}")
        assert answer.status == 200, answer.content

    async def in_ledger(self, method: str, path: str, body: Any = None) -> Answer:
        """A request of the same client to the ledger's edge."""
        return await self.call(method, path, {} if body is None and method == "POST" else body, app=self.ledger)

    async def balance(self, account: str) -> tuple[int, int]:
        """Posted and available, in minor units."""
        answer = await self.call("GET", f"/v1/accounts/{account}", app=self.ledger)
        found = answer.json["balance"]
        return int(found["posted"]["amount"]), int(found["available"]["amount"])

    async def card(self, behaviour: str = "approve", tenant: str | None = None) -> str:
        card = {"number": NUMBERS[behaviour], "exp_month": 12, "exp_year": 2039}  # type: ignore[index]
        answer = await self.call(
            "POST", "/v1/tokens", {"type": "card", "card": card}, tenant=tenant, app=self.vault.app
        )
        assert answer.status == 201, answer.content
        return str(answer.json["id"])

    async def destroy(self, token: str) -> None:
        answer = await self.call("DELETE", f"/v1/tokens/{token}", app=self.vault.app)
        assert answer.status == 204, answer.content

    # ---- time, and what is left

    def later(self, seconds: float = model.LEASE.total_seconds()) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    def snapshots(self) -> Source:
        return snapshots(self.databases)

    async def named(self) -> list[str]:
        """What `verify` finds of payments alone and beside the ledger."""
        async with self.snapshots() as source:
            queries = Queries.load("tallystick.services.payments", "verify")
            found = [fault for query in queries for fault in await source.faults("payments", query)]
            for check in (agreement.payments, agreement.refunds):
                found += (await check(source))[0]
        return found

    async def finish(self, *replicas: Replica) -> None:
        """Lets the worker go on until nothing is due within an hour and a bit."""
        for _ in range(12):
            self.later(3700)
            taken = [await replica.resume() for replica in (replicas or (self.one,))]
            if not any(taken):
                return
        raise AssertionError("payments do not come to rest")

    async def authorizations(self) -> dict[str, dict[str, int]]:
        """What the acquirer has of this tenant, by the payment's id."""
        rows = await self.databases["payments"].query("SELECT id FROM payment WHERE tenant = $1", self.tenant)
        mine = {ids.payments.text(row["id"]) for row in rows}
        return {name: seen for name, seen in self._at_rail().items() if name in mine}

    def _at_rail(self) -> dict[str, dict[str, int]]:
        connection = sqlite3.connect(self.directory / "rail.db")
        try:
            rows = connection.execute(
                "SELECT request_id, authorized, captured, voided, refunded FROM authorization"
            ).fetchall()
        finally:
            connection.close()
        names = ("authorized", "captured", "voided", "refunded")
        return {
            ids.payments.text(model.authorized_by(ids.rail_requests.parse(row[0]))): dict(
                zip(names, row[1:], strict=True)
            )
            for row in rows
        }

    async def facts(self, resource: str | None = None) -> list[dict[str, Any]]:
        """What payments told of this tenant, in order."""
        rows = await self.databases["payments"].query("SELECT fact FROM outbox ORDER BY xid, position")
        told = [json.loads(row["fact"]) for row in rows]
        return [fact for fact in told if fact["tenant"] == self.tenant and resource in (None, fact["resource"])]

    async def told(self, resource: str) -> list[str]:
        """The last words of the types of the facts about a payment or a refund."""
        return [fact["type"].rpartition(".")[2] for fact in await self.facts(resource)]

    async def as_told(self) -> None:
        """What each service has is what it told, also of what is still under way."""
        async with self.snapshots() as source:
            for service in self.databases:
                found, _ = await as_told(source, service, TOLD[service][1])
                assert found == [], found

    async def sound(self) -> None:
        """Everything agrees: payments with itself, with the ledger, and with the acquirer."""
        async with self.snapshots() as source:
            for query in Queries.load("tallystick.services.payments", "verify"):
                assert await source.faults("payments", query) == [], query.name
            for check in (agreement.payments, agreement.refunds, agreement.facts):
                found, _ = await check(source)
                assert found == [], found
        await self.as_told()
        await self._agrees_with_the_rail()
        ends: dict[str, list[str]] = {}
        for fact in await self.facts():
            if fact["type"].startswith("payments.payment."):
                ends.setdefault(fact["resource"], []).append(fact["type"].rpartition(".")[2])
        for payment, told in ends.items():
            assert len(set(told)) == len(told), f"{payment} was told twice: {told}"
            assert sum(each in FINAL for each in told) <= 1, f"{payment} had several ends: {told}"

    async def _agrees_with_the_rail(self) -> None:
        rows = await self.databases["payments"].query("SELECT * FROM payment WHERE token IS NOT NULL")
        at_rail = self._at_rail()
        for row in rows:
            name, status = ids.payments.text(row["id"]), row["status"]
            seen = at_rail.get(name, {"authorized": 0, "captured": 0, "voided": 0, "refunded": 0})
            if status == "settled":
                assert seen["captured"] == row["captured"], (name, dict(row), seen)
                assert seen["voided"] == row["amount"] - row["captured"], (name, dict(row), seen)
                assert seen["refunded"] == row["refunded"], (name, dict(row), seen)
            elif status in ("declined", "canceled", "expired", "failed"):
                assert seen["captured"] == 0, (name, dict(row), seen)
                assert seen["voided"] == seen["authorized"], (name, dict(row), seen)


def money(minor: int, currency: str = "EUR") -> dict[str, str]:
    return {"amount": str(minor), "currency": currency}


def by_card(token: str, destination: str, minor: int = 1000, **more: Any) -> dict[str, Any]:
    return _payment({"type": "card", "token": token}, destination, minor, more)


def by_account(source: str, destination: str, minor: int = 1000, **more: Any) -> dict[str, Any]:
    return _payment({"type": "account", "account": source}, destination, minor, more)


def _payment(source: dict[str, str], destination: str, minor: int, more: dict[str, Any]) -> dict[str, Any]:
    amount = money(minor, more.pop("currency", "EUR"))
    return {"amount": amount, "source": source, "destination": {"account": destination}, **more}


def slug(answer: Answer) -> str:
    assert answer.header("content-type") == "application/problem+json", answer.content
    return str(answer.json["type"]).rpartition("/")[2]


def _application(name: str, service: Any, endpoints: Any, around: World) -> Application:
    return Application(
        name,
        service,
        endpoints,
        authenticator=around.authenticator,
        authorizer=Authorizer(files(f"tallystick.services.{name}").joinpath("policy.cedar").read_text()),
        max_body_bytes=charter.load(name).limits.max_body_bytes,
    )


@asynccontextmanager
async def town(around: World, server: PostgresServer, valkey: Valkey, directory: Path) -> AsyncIterator[Town]:
    """All neighbours, and one replica of payments."""
    async with AsyncExitStack() as stack:
        databases = {}
        for name in SERVICES:
            databases[name] = await server.database(f"tallystick.services.{name}")
            stack.push_async_callback(server.drop, databases[name])
        vault = await stack.enter_async_context(vault_running(around, databases["vault"], valkey, directory))
        risk = await risk_replica(around, databases["risk"], valkey)
        ledger = Ledger(
            database=await databases["ledger"].open(),
            store=LedgerStore(),
            outbox=Outbox(),
            clock=SystemClock(),
            digester=Digester(bytes(32)),
        )
        stack.push_async_callback(ledger.close)
        ledger_app = _application("ledger", ledger, LEDGER_ENDPOINTS, around)
        lines = {"ledger": Line(ledger_app), "risk": Line(risk.app), "vault": Line(vault.app)}
        for name, line in lines.items():
            await stack.enter_async_context(_serving(line, directory / f"{name}.sock"))
        clock = ManualClock(datetime.now(UTC))
        made = Town(around, directory, databases, lines, ledger_app, ledger, vault, risk.risk, clock)
        await made.rail_up()
        stack.push_async_callback(made.rail_down)
        made.one = await made.replica()
        try:
            yield made
        finally:
            for line in lines.values():
                line.mode = "up"
            await made.one.work.drain()
            for client in made.clients:
                await client.close()
            for life in made.lives:
                await life.end()


@asynccontextmanager
async def _serving(app: Any, listen: Path) -> AsyncIterator[None]:
    server = Server(app, listen, drain_seconds=1)
    task = asyncio.create_task(server.serve())
    await server.listening.wait()
    try:
        yield
    finally:
        server.stop()
        await task
