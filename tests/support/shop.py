"""A small service that uses every part of the chassis, run as a process of its own: `python -m tests.support.shop`.

What it shall do wrong is in SHOP_FAULT.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from tallystick.chassis import charter as charters
from tallystick.chassis import outbox, telemetry
from tallystick.chassis import settings as environment
from tallystick.chassis.app import Runtime, Schedule, Wiring, serve
from tallystick.chassis.bus import Delivered, Subscription
from tallystick.chassis.db import Transaction
from tallystick.chassis.keys import Aad
from tallystick.chassis.web import Endpoint, Reply, Request
from tallystick.kernel import ids

CHARTER = """
[service]
name = "shop"
purpose = "Sells things in tests"
owner = "tests"

[data.sales]
class = "internal"
subject = "nobody"
purpose = "What was sold"
basis = "none needed"
retention = "1 day"
protection = "None needed"

[keys]
suite = "XAES-256-GCM"
rotation_days = 90

[keys.purposes]
sales = "Seals what was sold"

[limits]
max_body_bytes = 65536
max_in_flight = 16
max_queue = 16
database_connections = 4

[limits.rates]
few = { per_second = 1, burst = 2 }

[slo]
availability_percent = 99.0
p99_ms = 100

[scale]
min_replicas = 1
max_replicas = 2
cpu_millis = 100
memory_mib = 100
"""


class Shop:
    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.runs = 0
        self.facts: list[int] = []


class Slowly(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`until`: this file is there."""

    seconds: int = 0
    until: str = ""


class State(msgspec.Struct):
    runs: int
    facts: list[int]
    opened: str = ""


async def work(shop: Shop, request: Request[None, Slowly]) -> Reply[str]:
    print("WORKING", file=sys.stderr, flush=True)
    await asyncio.sleep(request.query.seconds)
    while request.query.until and not Path(request.query.until).exists():
        await asyncio.sleep(0.01)
    return Reply("done")


async def sell(shop: Shop, request: Request) -> Reply[str]:
    fact = outbox.Fact(
        id=ids.facts.new(),
        type="shop.sale.made",
        tenant="default",
        actor="test",
        resource="thing",
        at=shop.runtime.clock.now(),
        trace=request.trace_id,
    )
    async with shop.runtime.database.transaction() as tx:
        await outbox.append(tx, [fact])
    return Reply("sold")


async def state(shop: Shop, request: Request) -> Reply[State]:
    if not shop.runtime.has("keyring"):
        return Reply(State(shop.runs, shop.facts))
    aad = Aad("default", "sales", "thing", "1")
    blob = await shop.runtime.keyring.seal(b"a thing", aad)
    opened = (await shop.runtime.keyring.open_sealed(blob, aad)).decode()
    opened = await shop.runtime.cache.get_or_load("opened", timedelta(seconds=9), lambda: returned(opened), str)
    return Reply(State(shop.runs, shop.facts, opened))


async def returned(value: str) -> str:
    return value


async def heard(shop: Shop, tx: Transaction, facts: list[Delivered]) -> None:
    shop.facts.extend(each.seq for each in facts)


async def tick(shop: Shop) -> None:
    shop.runs += 1
    if os.environ.get("SHOP_FAULT") == "schedule":
        raise KeyError("secret value")


async def dies() -> None:
    await asyncio.sleep(0.3)
    raise RuntimeError("secret value")


ENDPOINTS = (
    Endpoint("GET", "/work", work, public="a test", query=Slowly, answer=str, timeout=30),
    Endpoint("POST", "/sales", sell, public="a test", answer=str),
    Endpoint("GET", "/state", state, public="a test", answer=State),
    Endpoint("GET", "/few", work, public="a test", query=Slowly, answer=str, rate="few"),
)


async def wire(runtime: Runtime) -> Wiring:
    fault = os.environ.get("SHOP_FAULT")
    if fault == "wire":
        raise RuntimeError("secret value")
    endpoints: tuple[Endpoint, ...] = ENDPOINTS
    if fault == "callers":
        endpoints += (Endpoint("GET", "/internal/state", state, mesh=("vault",), action="look", answer=State),)
    both = runtime.has("database") and runtime.has("bus")

    async def close() -> None:
        print("CLOSED", file=sys.stderr, flush=True)

    return Wiring(
        service=Shop(runtime),
        endpoints=endpoints,
        subscriptions=(Subscription(source="shop", types=("shop.*",), handle=heard),) if both else (),
        schedules=(Schedule(name="tick", every=timedelta(milliseconds=50), run=tick),),
        tasks=(dies,) if fault == "task" else (),
        close=close,
    )


def main(*_: Any) -> int:
    settings = environment.load(environment.Settings, os.environ)
    telemetry.setup(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(settings, charters.parse(CHARTER, "shop"), wire, package="tests"))
    finally:
        telemetry.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
