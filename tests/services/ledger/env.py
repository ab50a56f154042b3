"""The ledger's real application in this process, as clients see it: real tokens, policy and database."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from valkey.asyncio import Valkey

from tallystick.chassis import charter
from tallystick.chassis.auth import Authorizer
from tallystick.chassis.web import Application
from tallystick.kernel.clock import ManualClock
from tallystick.kernel.problem import Unavailable
from tallystick.services.ledger.api import ENDPOINTS
from tallystick.services.ledger.model import Crossing, Outcome
from tallystick.services.ledger.service import Ledger
from tests.services.ledger.support import ledger_on
from tests.support.http import Answer, World, ask, world
from tests.support.parts import ServiceDatabase

SCOPE = "books:write books:read books:import books:export accounts:write accounts:read transfers:write transfers:read"


@dataclass
class Env:
    world: World
    ledger: Ledger
    clock: ManualClock
    app: Application
    service: ServiceDatabase
    keys: int = 0

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        scope: str = SCOPE,
        tenant: str = "acme",
        raw: bytes | None = None,
        accept: str | None = None,
    ) -> Answer:
        headers = self.world.edge(method, path.partition("?")[0], scope=scope, tenant=tenant)
        if accept is not None:
            headers.append((b"accept", accept.encode()))
        if method == "POST" and key != "":
            self.keys += 1
            headers.append((b"idempotency-key", (key or f"key-{self.keys}").encode()))
        content = raw if raw is not None else None if body is None else json.dumps(body).encode()
        return await ask(self.app, method, path, content, headers)

    async def account(self, side: str = "credit", *, tenant: str = "acme", **more: Any) -> str:
        body = {"name": "Anna's wallet", "currency": "EUR", "normal_side": side, **more}
        answer = await self.call("POST", "/v1/accounts", body, tenant=tenant)
        assert answer.status == 201, answer.content
        found: str = answer.json["id"]
        return found

    async def transfers(self, *transfers: dict[str, Any], **more: Any) -> Answer:
        options = {name: more.pop(name) for name in ("key", "tenant", "scope") if name in more}
        return await self.call("POST", "/v1/transfers", {"transfers": list(transfers), **more}, **options)

    async def balance(self, account: str, query: str = "") -> tuple[str, str, str]:
        answer = await self.call("GET", f"/v1/accounts/{account}{query}")
        assert answer.status == 200, answer.content
        return tuple(answer.json["balance"][part]["amount"] for part in ("posted", "pending", "available"))


def eur(amount: Any) -> dict[str, Any]:
    return {"amount": str(amount), "currency": "EUR"}


def post(debit: str, credit: str, amount: Any, **more: Any) -> dict[str, Any]:
    money = amount if isinstance(amount, dict) else eur(amount)
    return {"kind": "post", "debit_account": debit, "credit_account": credit, "amount": money, **more}


class Silent:
    """Another shard, which is away."""

    async def has_book(self, tenant: str, book: str, client: str) -> None:
        raise Unavailable

    async def arrive(self, tenant: str, crossing: Crossing) -> Outcome:
        raise Unavailable


@asynccontextmanager
async def env_on(service: ServiceDatabase, valkey: Valkey, directory: Path) -> AsyncIterator[Env]:
    """When it is left, the books must be sound."""
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with world(directory, valkey) as around:
        ledger = ledger_on(await service.open(), clock, others={"frankfurt": Silent()})
        app = Application(
            "ledger",
            ledger,
            ENDPOINTS,
            authenticator=around.authenticator,
            authorizer=Authorizer.load("tallystick.services.ledger"),
            max_body_bytes=charter.load("ledger").limits.max_body_bytes,
        )
        yield Env(around, ledger, clock, app, service)
        assert await ledger.faults() == []


def problem(answer: Answer) -> tuple[int, str]:
    assert answer.header("content-type") == "application/problem+json"
    assert answer.json["status"] == answer.status
    return answer.status, answer.json["type"].rpartition("/")[2]
