"""`tallystick bench`: the running platform's throughput and latency, relative to what PostgreSQL alone can do on this machine."""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from cyclopts import Parameter

from tallystick.cli.client import BIND_HELP, Binding
from tallystick.cli.output import (
    NO,
    OK,
    PART_FAILED,
    USAGE,
    Common,
    Failed,
    columns,
    console,
    emit,
    print_line,
    print_table,
)
from tallystick.cli.own_client import own_client
from tallystick.contracts.ledger.messages import MAX_TRANSFERS
from tallystick.local import control

if TYPE_CHECKING:
    from tallystick.cli.apiclient import ApiClient
    from tallystick.cli.bench.load import Result, Shot

SCOPE: Final = "tokens:write accounts:write accounts:read transfers:write transfers:read payments:write payments:read"
Subject = Literal["payments", "transfers", "tokens"]
FLOAT: Final = "1000000000"
#: Latency is measured at half of the greatest rate, where queues stay short.
SHARE: Final = 0.5
WARM_UP: Final = 3.0
#: Far beyond what a machine answers: no rate may fill the memory with requests that are due.
MAX_RATE: Final = 1_000_000
#: The most seconds of each of the baseline's two slices.
MAX_SLICE: Final = 10


def bench(
    subject: Annotated[
        Subject, Parameter(help="what to measure: payments (book transfers), transfers (single) or tokens (cards)")
    ],
    /,
    *,
    seconds: Annotated[int, Parameter(help="duration of each part of the run")] = 15,
    rate: Annotated[
        float | None, Parameter(help="requests a second in the second part [half of the greatest rate]")
    ] = None,
    connections: Annotated[int, Parameter(help="the number of connections to the edge")] = 64,
    accounts: Annotated[int, Parameter(help="the number of accounts")] = 1000,
    hot: Annotated[bool, Parameter(help="transfers only: debit the same account each time", negative="")] = False,
    batch: Annotated[int, Parameter(help=f"transfers only: how many per request, up to {MAX_TRANSFERS}")] = 1,
    bind: Annotated[Binding, Parameter(help=BIND_HELP)] = "dpop",
    baseline: Annotated[bool, Parameter(help="measure pgbench in the same run")] = True,
    out: Annotated[Path | None, Parameter(help="also write the result to this file, as JSON")] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Measure throughput, latency, errors, CPU and memory with load sent to the edge. Exit status 1 if there were errors.

    The first part runs as fast as the connections allow, the second at a fixed rate, with latencies counted from when each request was due.
    The load generator runs on the same machine, and its CPU is counted. `base` is the mean of pgbench right before and after the first part.
    """
    import uvloop

    if seconds < 2 or connections < 1 or accounts < 2:
        raise Failed("--seconds and --accounts must be 2 or more, --connections 1 or more", USAGE)
    if rate is not None and not 0 < rate <= MAX_RATE:
        raise Failed(f"--rate must be above 0 and at most {MAX_RATE:,}", USAGE)
    if hot and subject != "transfers":
        raise Failed("--hot is for transfers only", USAGE)
    if not 1 <= batch <= MAX_TRANSFERS or (batch > 1 and subject != "transfers"):
        raise Failed(f"--batch must be between 1 and {MAX_TRANSFERS}, and is for transfers only", USAGE)
    if out is not None and not out.parent.is_dir():
        raise Failed(f"{out.parent} is not a directory", USAGE)
    credentials = own_client(common, "bench" if bind == "dpop" else f"bench-{bind}", SCOPE, bind)
    plan = Plan(subject, seconds, rate, connections, accounts, hot, batch, bind)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(_run(common, credentials, plan, baseline=baseline))
    if common.json:
        emit(report, common)
    else:
        _show(report)
    if out is not None:
        try:
            out.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
        except OSError as error:
            raise Failed(f"can't write {out}: {error.strerror}", PART_FAILED) from error
    errors = report["most"]["errors"] + report["steady"]["errors"]
    return OK if errors == 0 else NO


class Plan(msgspec.Struct, frozen=True):
    subject: Subject
    seconds: int
    rate: float | None
    connections: int
    accounts: int
    hot: bool
    batch: int
    bind: Binding


async def _run(common: Common, credentials: Any, plan: Plan, *, baseline: bool) -> dict[str, Any]:
    from tallystick.cli.apiclient import ApiClient
    from tallystick.cli.bench.baseline import yardstick
    from tallystick.cli.bench.load import Generator
    from tallystick.cli.bench.usage import Meter

    say = console(error=True)
    await control.ask(common.layout, control.GetStatus(), control.Status)  # whether it runs
    async with AsyncExitStack() as held:
        base = None
        if baseline:
            say.print("[dim]tables for the baseline ...[/]")
            base = await held.enter_async_context(yardstick(common.layout, min(plan.seconds, MAX_SLICE)))
        api = await held.enter_async_context(ApiClient(credentials, connections=16))
        say.print("[dim]accounts ...[/]")
        shots, judge = await prepare(api, plan)
        generator = Generator(api, connections=plan.connections, judge=judge)
        await generator.open()
        try:
            if base is not None:
                say.print("[dim]baseline: pgbench tpcb-like on the same server ...[/]")
                await base.measure()
            await generator.closed_loop(shots, WARM_UP)
            say.print("[dim]as fast as it goes ...[/]")
            meter = Meter(await control.ask(common.layout, control.GetStatus(), control.Status))
            own = os.times()
            most = await generator.closed_loop(shots, plan.seconds)
            usage = meter.stop()
            usage.cpu["load generator"] = round(sum(os.times()[:2]) - sum(own[:2]), 3)
            if base is not None:
                say.print("[dim]baseline, once more: machines change their speed ...[/]")
                await base.measure()
            rate = plan.rate or max(most.rate * SHARE, 1.0)
            await asyncio.sleep(2)
            say.print(f"[dim]at {rate:.0f} a second ...[/]")
            steady = await generator.open_loop(shots, plan.seconds, rate)
        finally:
            await generator.close()
    return {
        "subject": plan.subject
        + (" (one hot account)" if plan.hot else "")
        + (f", {plan.batch} in each request" if plan.batch > 1 else ""),
        "machine": _machine(),
        "connections": plan.connections,
        "accounts": plan.accounts,
        "batch": plan.batch,
        "bind": plan.bind,
        "baseline": None
        if base is None
        else {
            "tps": base.tps,
            "slices": base.slices,
            "what": "pgbench tpcb-like, scale 50, 32 clients, prepared; right before and right after the closed loop",
        },
        "most": _figures(most, plan.batch, base.tps if base else None),
        "steady": _figures(steady, plan.batch, base.tps if base else None),
        "cpu_us_per_request": {
            name: round(spent / most.good * 1e6) for name, spent in sorted(usage.cpu.items()) if most.good
        },
        "memory_mib": usage.memory,
    }


async def prepare(api: ApiClient, plan: Plan) -> tuple[Callable[[], Shot], Callable[[bytes], str | None]]:
    from tallystick.cli.bench.load import Shot
    from tallystick.cli.replay.file import card_number

    run = os.urandom(6).hex()
    numbers = itertools.count()
    if plan.subject == "tokens":

        def token() -> Shot:
            n = next(numbers)
            body = {"type": "card", "card": {"number": card_number(f"{run}{n}"), "exp_month": 12, "exp_year": 2039}}
            return Shot("/v1/tokens", msgspec.json.encode(body), f"bench-{run}-{n}")

        return token, lambda body: None if b'"tok_' in body else "no token"

    accounts = await _accounts(api, run, plan.accounts)
    dice = random.Random(run)  # noqa: S311 - which accounts pay whom is no secret
    pairs = [(a, b) for a, b in ((dice.choice(accounts), dice.choice(accounts)) for _ in range(20_000)) if a != b]
    if plan.subject == "transfers":
        ends = [(accounts[0], b if b != accounts[0] else accounts[1]) if plan.hot else (a, b) for a, b in pairs]
        transfers = [
            f'{{"kind":"post","debit_account":"{a}","credit_account":"{b}","amount":{{"amount":"1","currency":"EUR"}}}}'
            for a, b in ends
        ]
        bodies = [
            b'{"transfers":[%s]}' % ",".join(transfers[start : start + plan.batch]).encode()
            for start in range(0, len(transfers) - plan.batch + 1, plan.batch)
        ]
        return _cycled("/v1/transfers", bodies, run, numbers), _all_posted(plan.batch)
    bodies = [
        (
            f'{{"amount":{{"amount":"1","currency":"EUR"}},"source":{{"type":"account","account":"{a}"}},'
            f'"destination":{{"account":"{b}"}}}}'
        ).encode()
        for a, b in pairs
    ]
    return _cycled(
        "/v1/payments", bodies, run, numbers
    ), lambda body: None if b'"status":"settled"' in body else "not settled"


def _all_posted(many: int) -> Callable[[bytes], str | None]:
    return lambda body: None if body.count(b'"status":"posted"') == many else "not posted"


def _cycled(path: str, bodies: list[bytes], run: str, numbers: Any) -> Callable[[], Shot]:
    from tallystick.cli.bench.load import Shot

    def shot() -> Shot:
        n = next(numbers)
        return Shot(path, bodies[n % len(bodies)], f"bench-{run}-{n}")

    return shot


async def _accounts(api: ApiClient, run: str, count: int) -> list[str]:
    """Accounts with a floor of zero and enough money for any run."""

    async def opened(n: int, side: str, floor: str | None) -> str:
        body = {"name": f"bench {run} {n}", "currency": "EUR", "normal_side": side, "floor": floor}
        answer = await api.request("POST", "/v1/accounts", body, idempotency_key=f"bench-{run}-account-{n}")
        if not answer.ok:
            raise Failed(f"POST /v1/accounts: {answer.status} {answer.body[:200]!r}", PART_FAILED)
        return str(answer.json()["id"])

    outside = await opened(-1, "debit", None)
    found: list[str] = []
    for start in range(0, count, 64):
        found += await asyncio.gather(*(opened(n, "credit", "0") for n in range(start, min(start + 64, count))))
    for start in range(0, count, 1000):
        transfers = [
            {
                "kind": "post",
                "debit_account": outside,
                "credit_account": each,
                "amount": {"amount": FLOAT, "currency": "EUR"},
            }
            for each in found[start : start + 1000]
        ]
        answer = await api.request(
            "POST", "/v1/transfers", {"transfers": transfers}, idempotency_key=f"bench-{run}-fund-{start}"
        )
        if not answer.ok:
            raise Failed(f"POST /v1/transfers: {answer.status} {answer.body[:200]!r}", PART_FAILED)
        # Transfers succeed or fail one by one, and an unfunded account would later count as errors.
        if refused := [one for one in answer.json()["data"] if one["status"] != "posted"]:
            raise Failed(f"{len(refused)} accounts could not be funded: {str(refused[0])[:300]}", PART_FAILED)
    return found


def _figures(result: Result, batch: int, base: float | None) -> dict[str, Any]:
    """`rate` counts requests; `ratio` counts the transfers in them, relative to `base`."""
    errors = result.sent - result.good + result.unsent
    return {
        "offered": result.offered,
        "rate": round(result.rate, 1),
        "ratio": None if base is None else round(result.rate * batch / base, 3),
        "p50_ms": result.percentile(0.50),
        "p90_ms": result.percentile(0.90),
        "p99_ms": result.percentile(0.99),
        "p999_ms": result.percentile(0.999),
        "requests": result.sent,
        "errors": errors,
        "statuses": {str(status): count for status, count in sorted(result.statuses.items())},
        "refused": dict(result.refusals),
        "broken": result.broken,
        "unsent": result.unsent,
        "seconds": round(result.seconds, 2),
    }


def _machine() -> dict[str, Any]:
    import psutil

    model = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next(
            (line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")),
            "",
        )
    return {
        "cpus": os.cpu_count(),
        "model": model,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _show(report: dict[str, Any]) -> None:
    out = console()
    subject = f"{report['subject']}, tokens bound by {report['bind']}"
    figures_of = ("rate/s", "x base", "p50 ms", "p90", "p99", "p99.9", "errors")
    table = columns({subject: "left", **dict.fromkeys(figures_of, "right")}, wraps=subject)
    if report["baseline"]:
        before, after = (round(each.tps) for each in report["baseline"]["slices"])
        name = f"base: pgbench tpcb-like, {before} before, {after} after"
        table.add_row(name, f"{report['baseline']['tps']:.0f}", "1", "", "", "", "", "")
    for name, figures in (
        (f"{report['connections']} connections, closed loop", report["most"]),
        (f"open loop at {report['steady']['offered']:.0f}/s", report["steady"]),
    ):
        cells = [
            figures["rate"],
            figures["ratio"],
            *(figures[f"p{p}_ms"] for p in ("50", "90", "99", "999")),
            figures["errors"],
        ]
        table.add_row(name, *("-" if cell is None else f"{cell:g}" for cell in cells))
    print_table(table, out)
    spent = ", ".join(
        f"{name} {us}" for name, us in sorted(report["cpu_us_per_request"].items(), key=lambda kv: -kv[1])
    )
    print_line(f"[dim]CPU us a request: {spent} (sum {sum(report['cpu_us_per_request'].values())})[/]", out)
    memory = ", ".join(f"{name} {mib:.0f}" for name, mib in sorted(report["memory_mib"].items(), key=lambda kv: -kv[1]))
    print_line(f"[dim]memory MiB: {memory} (sum {sum(report['memory_mib'].values()):.0f})[/]", out)
    machine = report["machine"]
    print_line(
        f"[dim]{machine['cpus']} CPUs {machine['model']}, {machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}[/]",
        out,
    )
    for name, figures in (("closed loop", report["most"]), ("open loop", report["steady"])):
        if figures["errors"]:
            out.print(
                f"[red]{name}: {figures['statuses']} refused {figures['refused']} broken {figures['broken']} unsent {figures['unsent']}[/]"
            )


__all__ = ["bench"]
