"""Risk as it runs: its real application, policy, database and counters, asked as payments and the operator ask."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from valkey.asyncio import Valkey

from tallystick.chassis import charter
from tallystick.chassis.auth.cedar import Authorizer
from tallystick.chassis.db import Database
from tallystick.chassis.outbox import Outbox
from tallystick.chassis.web import Application
from tallystick.kernel import ids
from tallystick.kernel.clock import ManualClock
from tallystick.services.risk.api import ENDPOINTS
from tallystick.services.risk.service import Risk
from tallystick.services.risk.store import Counters, Store
from tests.support.http import Answer, World, ask
from tests.support.parts import ServiceDatabase

CLIENT = ids.clients.text(ids.clients.new())


@dataclass
class Env:
    """One replica. `mesh` asks as another service; `decide` as payments with a good token."""

    world: World
    service: ServiceDatabase
    database: Database
    risk: Risk
    clock: ManualClock
    app: Application

    async def mesh(self, method: str, path: str, body: Any = None, *, peer: str = "payments") -> Answer:
        raw = None if body is None else json.dumps(body).encode()
        return await ask(self.app, method, path, raw, self.world.mesh(peer))

    async def batch(self, tokens: list[str], *items: dict[str, Any]) -> list[dict[str, Any]]:
        answer = await self.mesh("POST", "/internal/decisions", {"tokens": tokens, "items": list(items)})
        assert answer.status == 200, answer.content
        found: list[dict[str, Any]] = answer.json["items"]
        return found

    def token(self, **claims: Any) -> str:
        return self.world.issuer.transaction(**{"client": CLIENT, **claims})

    async def decide(self, **changes: Any) -> dict[str, Any]:
        (result,) = await self.batch([self.token()], item(**changes))
        assert result["decision"] is not None, result
        found: dict[str, Any] = result["decision"]
        return found

    async def put(self, outcome: str, kind: str, value: str, tenant: str = "acme") -> None:
        body = {"tenant": tenant, "outcome": outcome, "kind": kind, "value": value}
        answer = await self.mesh("PUT", "/internal/lists", body, peer="operator")
        assert answer.status == 200, answer.content

    async def facts(self, type_: str) -> list[dict[str, Any]]:
        rows = await self.service.query("SELECT fact FROM outbox WHERE type = $1 ORDER BY xid, position", type_)
        return [json.loads(row["fact"]) for row in rows]


async def replica(
    around: World, service: ServiceDatabase, valkey: Valkey, *, clock: ManualClock | None = None, **bounds: Any
) -> Env:
    """A risk service on a database; another one on the same is its second replica."""
    database = await service.open(**bounds)
    clock = clock or ManualClock()
    risk = Risk(database=database, store=Store(), counters=Counters(valkey), outbox=Outbox(), clock=clock)
    await risk.refresh_lists()
    app = Application(
        "risk",
        risk,
        ENDPOINTS,
        authenticator=around.authenticator,
        authorizer=Authorizer(files("tallystick.services.risk").joinpath("policy.cedar").read_text()),
        max_body_bytes=charter.load("risk").limits.max_body_bytes,
    )
    return Env(around, service, database, risk, clock, app)


def card() -> str:
    """A fingerprint as the vault makes them."""
    return "fp_" + ids.encode(ids.tokens.random().int)


def item(**changes: Any) -> dict[str, Any]:
    """A card payment of 12.50 EUR; `changes` replace members, `minor` and `currency` the amount."""
    made: dict[str, Any] = {
        "token": 0,
        "id": ids.decisions.text(ids.decisions.new()),
        "payment": ids.payments.text(ids.payments.new()),
        "amount": {"amount": str(changes.pop("minor", 1250)), "currency": changes.pop("currency", "EUR")},
        "card": "fp_" + "0" * 26,
        **changes,
    }
    return {name: value for name, value in made.items() if value is not None}


def slug(result: dict[str, Any]) -> str:
    assert result["problem"] is not None, result
    return str(result["problem"]["type"]).rpartition("/")[2]
