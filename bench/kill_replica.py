"""kill -9 of one of two replicas of each service, one after the other, under a steady load of payments.

    python -m bench.kill_replica [--rate 60] [--seconds 20] [--port 29443]

For each service: the share of requests that failed, the rate in each second around the kill, and how long until the full rate was
back. Afterwards `tallystick verify` must hold. It starts a platform of its own in a temporary directory, and ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from tallystick.cli.apiclient import ApiClient
from tallystick.cli.bench import SCOPE, Plan, prepare
from tallystick.cli.bench.load import Generator, Result
from tallystick.cli.output import Common
from tallystick.cli.own_client import own_client
from tallystick.local import control
from tallystick.local.layout import Layout

SERVICES = ("identity", "vault", "ledger", "payments", "risk", "audit", "notify")
#: The second of each run in which the replica is killed.
KILL_AT = 5


def tallystick(data: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "tallystick", *arguments, "--data", str(data)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


async def status(layout: Layout) -> control.Status:
    return await control.ask(layout, control.GetStatus(), control.Status)


async def victim(layout: Layout, service: str) -> int:
    found = next(each for each in (await status(layout)).services if each.name == service)
    pid = found.replicas[0].pid
    if pid is None:
        raise SystemExit(f"{service} has no running replica")
    return pid


async def killed(layout: Layout, service: str, generator: Generator, shots: Any, arguments: Any) -> dict[str, Any]:
    pid = await victim(layout, service)

    async def kill() -> None:
        await asyncio.sleep(KILL_AT)
        os.kill(pid, signal.SIGKILL)

    killing = asyncio.create_task(kill())
    result = await generator.open_loop(shots, arguments.seconds, arguments.rate)
    await killing
    async with asyncio.timeout(30):
        while not (await status(layout)).ready:
            await asyncio.sleep(0.2)
    return report(service, result, arguments.rate)


def report(service: str, result: Result, rate: float) -> dict[str, Any]:
    per_second = [result.per_second[second] for second in range(int(result.seconds))]
    low = [second for second, count in enumerate(per_second) if second >= KILL_AT and count < 0.9 * rate]
    failed = result.sent - result.good
    return {
        "service": service,
        "requests": result.sent,
        "failed": failed,
        "failed_percent": round(100 * failed / max(result.sent, 1), 3),
        "statuses": {str(code): count for code, count in result.statuses.items()},
        "seconds_below_full_rate": len([second for second in low if second < len(per_second) - 1]),
        "per_second": per_second,
        "p99_ms": result.percentile(0.99),
    }


async def main(arguments: argparse.Namespace, data: Path) -> list[dict[str, Any]]:
    layout = Layout(data)
    credentials = await asyncio.to_thread(own_client, Common(data=data), "bench", SCOPE)
    plan = Plan("payments", arguments.seconds, arguments.rate, 32, 200, hot=False, batch=1, bind="dpop")
    reports = []
    async with ApiClient(credentials, connections=16) as api:
        shots, judge = await prepare(api, plan)
        for service in SERVICES:
            generator = Generator(api, connections=32, judge=judge)
            await generator.open()
            await generator.closed_loop(shots, 2)
            reports.append(await killed(layout, service, generator, shots, arguments))
            await generator.close()
            print(json.dumps(reports[-1]), flush=True)
    return reports


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rate", type=float, default=60.0)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--port", type=int, default=29443)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tk") as folder:
        home = Path(folder) / "d"
        two = [argument for service in SERVICES for argument in ("--replicas", f"{service}=2")]
        tallystick(home, "up", "--detach", "--port", str(given.port), *two)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main(given, home))
            print(tallystick(home, "verify").splitlines()[-1])
        finally:
            tallystick(home, "down")
