"""Money between two books at the edge: both on one shard, and on two; and how long it takes to end when the other shard is killed.

    python -m bench.ledger_shards [--seconds 8] [--rounds 3] [--connections 32] [--port 29543]

First what the edge does with single transfers in one book, with transfers between two books at home, and from home to the shard `eu`, in turns. Then the
shard's only replica is killed under a steady load: how many transfers were left in flight, and when the last of them had ended. It starts a
platform of its own in a temporary directory, ends it, and `tallystick verify` must hold.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench.kill_replica import status, tallystick, victim
from tallystick.cli.apiclient import ApiClient
from tallystick.cli.bench.load import Generator, Result, Shot
from tallystick.cli.output import Common
from tallystick.cli.own_client import own_client
from tallystick.local.layout import Layout

SCOPE = "books:write accounts:write accounts:read transfers:write transfers:read"
ACCOUNTS = 100
EUR = {"amount": "1", "currency": "EUR"}
#: The second in which the shard is killed, of so many at this rate.
KILL_AT, KILL_SECONDS, KILL_RATE = 3, 8, 60.0


async def furnish(api: ApiClient) -> None:
    """Books `main` and `fees` at home and `europe` on the shard, each with a bank and accounts; those of `main` are funded."""
    for book in ("main", "fees", "europe"):
        if book == "fees":
            await must(api, "/v1/books", {"name": book})
        for path in ("bank", *(f"a:{n}" for n in range(ACCOUNTS))):
            side = "debit" if path == "bank" else "credit"
            await must(
                api,
                "/v1/accounts",
                {"name": path, "path": path, "currency": "EUR", "normal_side": side, "book": book},
            )
    funds = [post("bank", f"a:{n}", "1000000000") for n in range(ACCOUNTS)]
    await must(api, "/v1/transfers", {"transfers": funds})


async def must(api: ApiClient, path: str, body: Any) -> Any:
    answer = await api.request("POST", path, body, idempotency_key=f"{path}{json.dumps(body)[:200]}")
    if not answer.ok:
        raise SystemExit(f"{path}: {answer.status} {answer.body!r}")
    return answer.json()


def post(debit: str, credit: str, amount: str) -> dict[str, Any]:
    return {
        "kind": "post",
        "debit_account": debit,
        "credit_account": credit,
        "amount": {"amount": amount, "currency": "EUR"},
    }


def shots(kind: str, numbers: itertools.count[int]) -> Callable[[], Shot]:
    def one() -> Shot:
        n = next(numbers)
        source, destination = f"a:{n % ACCOUNTS}", f"a:{(n * 7 + 1) % ACCOUNTS}"
        if kind == "one book":
            return Shot(
                "/v1/transfers",
                msgspec.json.encode(
                    {"transfers": [post(source, destination if destination != source else "bank", "1")]}
                ),
                f"k{n}",
            )
        book = "fees" if kind == "two books at home" else "europe"
        body = {"from": {"account": source}, "to": {"book": book, "account": destination}, "amount": EUR}
        return Shot("/v1/interbook_transfers", msgspec.json.encode(body), f"k{n}")

    return one


def posted(body: bytes) -> str | None:
    return None if b'"status":"posted"' in body else "not posted"


async def rates(api: ApiClient, given: argparse.Namespace, numbers: itertools.count[int]) -> None:
    kinds = ("one book", "two books at home", "two shards")
    found: dict[str, list[Result]] = {kind: [] for kind in kinds}
    for number in range(given.rounds + 1):  # the first warms up
        for kind in kinds:
            generator = Generator(api, connections=given.connections, judge=posted)
            await generator.open()
            result = await generator.closed_loop(shots(kind, numbers), given.seconds if number else 2)
            await generator.close()
            if number:
                found[kind].append(result)
    for kind, results in found.items():
        told = {
            "kind": kind,
            "per_second": [round(one.rate) for one in results],
            "median": round(statistics.median(one.rate for one in results)),
            "p50_ms": [one.percentile(0.5) for one in results],
            "p99_ms": [one.percentile(0.99) for one in results],
            "failed": sum(one.sent - one.good for one in results),
        }
        print(json.dumps(told), flush=True)


async def killed(api: ApiClient, layout: Layout, numbers: itertools.count[int]) -> None:
    waiting: list[str] = []

    def judge(body: bytes) -> str | None:
        told = msgspec.json.decode(body)
        if told["status"] == "in_flight":
            waiting.append(told["id"])
        return None

    generator = Generator(api, connections=32, judge=judge)
    await generator.open()
    pid = await victim(layout, "ledger-eu")
    at = [0.0, 0.0]

    async def kill() -> None:
        await asyncio.sleep(KILL_AT)
        os.kill(pid, signal.SIGKILL)
        at[0] = time.monotonic()
        await asyncio.sleep(0.5)
        while not (await status(layout)).ready:
            await asyncio.sleep(0.05)
        at[1] = time.monotonic()

    killing = asyncio.create_task(kill())
    result = await generator.open_loop(shots("two shards", numbers), KILL_SECONDS, KILL_RATE)
    await killing
    left = list(waiting)
    while left:
        answers = [(one, (await api.request("GET", f"/v1/interbook_transfers/{one}")).json()) for one in left]
        left = [one for one, told in answers if told["status"] == "in_flight"]
    ended = time.monotonic()
    told = {
        "requests": result.sent,
        "statuses": {str(code): count for code, count in result.statuses.items()},
        "in_flight": len(waiting),
        "seconds_until_the_shard_was_ready": round(at[1] - at[0], 2),
        "seconds_until_all_had_ended": round(ended - at[0], 2),
        "p99_ms": result.percentile(0.99),
    }
    print(json.dumps(told), flush=True)
    await generator.close()


async def main(given: argparse.Namespace, data: Path) -> None:
    credentials = await asyncio.to_thread(own_client, Common(data=data), "shards", SCOPE)
    numbers = itertools.count()
    async with ApiClient(credentials, connections=16) as api:
        await furnish(api)
        await rates(api, given, numbers)
        await killed(api, Layout(data), numbers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--port", type=int, default=29543)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tk") as folder:
        home = Path(folder) / "d"
        tallystick(home, "up", "--detach", "--port", str(arguments.port), "--shard", "eu")
        try:
            tallystick(home, "ledger", "open-book", "europe", "--shard", "eu")
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main(arguments, home))
            print(tallystick(home, "verify").splitlines()[-1])
        finally:
            tallystick(home, "down")
