"""What a request costs in the chassis alone: `python -m bench.web`. No network, no database, one core.

| case | is |
|---|---|
| `health` | answered before anything is looked at |
| `public` | routing, strict decoding, handler, answer, metrics, canonical line |
| `+gate` | the same through the in-flight gate |
| `batch` | the same with a body of 1000 items, per item |
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Annotated, Any

import msgspec
import uvloop

from tallystick.chassis.limits import Limits
from tallystick.chassis.telemetry import logs
from tallystick.chassis.web import Application, Endpoint, Reply, Request
from tallystick.kernel.money import MoneyWire

Id = Annotated[str, msgspec.Meta(min_length=30, max_length=30)]


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    token: Id


class Payment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    amount: MoneyWire
    source: Source
    reference: str | None = None


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payments: list[Payment]


class Taken(msgspec.Struct, frozen=True):
    id: str
    status: str
    amount: MoneyWire


async def take(service: None, request: Request[Payment]) -> Reply[Taken]:
    del service
    return Reply(Taken("pay_01j9zq2v7nq8h3t5w0r4x6y8z0", "settled", request.body.amount))


async def take_batch(service: None, request: Request[Batch]) -> Reply[int]:
    del service
    return Reply(len(request.body.payments))


ENDPOINTS = (
    Endpoint("POST", "/v1/payments", take, public="a measurement", body=Payment, answer=Taken, status=201),
    Endpoint("POST", "/v1/batches", take_batch, public="a measurement", body=Batch, answer=int),
)
PAYMENT = {
    "amount": {"amount": "1250", "currency": "EUR"},
    "source": {"type": "card", "token": "tok_01j9zq2v7nq8h3t5w0r4x6y8z0"},
    "reference": "order 77",
}


def request_of(app: Application, method: str, path: str, body: bytes) -> Callable[[], Awaitable[None]]:
    headers = [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"accept", b"*/*"),
        (b"user-agent", b"bench"),
        (b"x-request-id", b"0af7651916cd43dd8448eb211c80319c"),
        (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
    ]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 300:
            raise AssertionError(message)

    async def once() -> None:
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": headers,
        }  # fmt: skip
        await app(scope, receive, send)

    return once


async def microseconds(once: Callable[[], Awaitable[None]], count: int, rounds: int = 7) -> float:
    """The best of several rounds: what it costs when nothing else is in the way."""
    best = float("inf")
    for _ in range(rounds):
        begun = perf_counter()
        for _ in range(count):
            await once()
        best = min(best, (perf_counter() - begun) / count)
    return best * 1e6


async def main() -> None:
    logs.setup(service="bench", replica=0, level="info", descriptor=os.open(os.devnull, os.O_WRONLY))
    gc.freeze()
    body = json.dumps(PAYMENT).encode()
    batch = json.dumps({"payments": [PAYMENT] * 1000}).encode()
    limits = Limits("bench", {}, max_in_flight=64, max_queue=64)
    plain = Application("bench", None, ENDPOINTS)
    gated = Application("bench", None, ENDPOINTS, limits=limits)
    found = {
        "health": await microseconds(request_of(plain, "GET", "/health/live", b""), 5000),
        "public": await microseconds(request_of(plain, "POST", "/v1/payments", body), 5000),
        "+gate": await microseconds(request_of(gated, "POST", "/v1/payments", body), 5000),
        "batch": await microseconds(request_of(plain, "POST", "/v1/batches", batch), 20) / 1000,
    }
    logs.close()
    for case, each in found.items():
        print(f"{case:8} {each:8.2f} us  {1e6 / each:10.0f} /s")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
