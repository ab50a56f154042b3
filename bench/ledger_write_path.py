"""How many transfers a second the ledger's own write path stores, next to pgbench on the same server in the same run.

    .venv/bin/python bench/ledger_write_path.py [--seconds 10] [--accounts 10000]

The write path is all of it: rules, save, guards, facts in the outbox, durable commit; without HTTP. `replicas` are processes of their
own, as in earnest. The baseline is pgbench's tpcb-like, scale 50, 32 clients, prepared, run again before each case. Prints each case with its ratio
to it, and the processor time of PostgreSQL and of Python for one transfer, which other work on the machine changes less; then checks every
book. Figures recorded with the machine are in bench/results/.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import itertools
import json
import os
import random
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg

from tallystick.chassis import migrate
from tallystick.chassis.app.process import settle_memory
from tallystick.chassis.db import Bounds, Database, Dsn
from tallystick.chassis.idempotency import Digester
from tallystick.chassis.outbox import Outbox
from tallystick.kernel import ids
from tallystick.kernel.clock import SystemClock
from tallystick.kernel.ids import AccountId
from tallystick.kernel.secret import Secret
from tallystick.local.parts import Postgres
from tallystick.local.parts.postgres import BIN
from tallystick.services.ledger.model import Command, NewAccount
from tallystick.services.ledger.service import Ask, Ledger
from tallystick.services.ledger.store import Store

SERVICE, OWNER = "ledger", "ledger_owner"
#: For what is not measured: filling and checking.
PATIENT = Bounds(statement_s=300, transaction_s=300)
#: Of the write-ahead log that is there to be used again.
LOG_MIB = 1800


@dataclass(frozen=True, slots=True)
class Case:
    """`hot`: every transfer debits one account. `zipf`: the nth account is as likely as 1/n. `floor`: accounts may not go below zero. `asks` in
    flight, of `size` transfers each; with `half` they come at half of the rate that the case before reached, however many are in flight.
    """

    name: str
    replicas: int
    size: int
    asks: int
    hot: bool = False
    floor: bool = False
    holds: bool = False
    zipf: bool = False
    half: bool = False


CASES = (
    Case("batches of 1000", 1, 1000, 2),
    Case("batches of 1000, 2 replicas", 2, 1000, 2),
    Case("batches of 1000, one hot account", 1, 1000, 2, hot=True),
    Case("batches of 1000, one hot account with a floor", 1, 1000, 2, hot=True, floor=True),
    Case("batches of 1000, one hot account with a floor, 2 replicas", 2, 1000, 2, hot=True, floor=True),
    Case("batches of 1000, Zipf 1.0", 1, 1000, 2, zipf=True),
    Case("batches of 1000, half holds", 1, 1000, 2, holds=True),
    Case("single transfers, 64 in flight", 1, 1, 64),
    Case("single transfers, 64 in flight, at half of that rate", 1, 1, 64, half=True),
    Case("single transfers, 64 in flight, 2 replicas", 2, 1, 32),
    Case("single transfers, 128 in flight, 2 replicas", 2, 1, 64),
    Case("single transfers, 64 in flight, one hot account", 1, 1, 64, hot=True),
    Case("single transfers, 1 in flight", 1, 1, 1),
)


def ledger_on(database: Database) -> Ledger:
    return Ledger(database=database, store=Store(), outbox=Outbox(), clock=SystemClock(), digester=Digester(bytes(32)))


async def prepare(dsn: Dsn, accounts: int, *, floor: bool) -> list[str]:
    """Opens accounts, each with funds from one that has no floor."""
    database = await Database.open(dsn, bounds=PATIENT)
    ledger = ledger_on(database)
    bank = NewAccount(
        id=ids.accounts.new(), name="bank", currency="EUR", normal_side="debit", floor=None, code=None, metadata=None
    )
    made = [
        NewAccount(
            id=ids.accounts.new(),
            name="customer",
            currency="EUR",
            normal_side="credit",
            floor=0 if floor else None,
            code=None,
            metadata=None,
        )
        for _ in range(accounts)
    ]
    book = await ledger.poster.book("default")
    async with database.transaction() as tx:
        for account in (bank, *made):
            await Store().insert_account(tx, book, account, SystemClock().now())
    for start in range(0, accounts, 1000):
        fund = [
            Command(kind="post", id=ids.transfers.new(), debit=bank.id, credit=each.id, amount=10**12, currency="EUR")
            for each in made[start : start + 1000]
        ]
        await ledger.poster.post(Ask("default", "bench", None, fund, atomic=True))
    await database.close()
    return [str(each.id) for each in made]


async def write(dsn: Dsn, case: Case, accounts: list[AccountId], seconds: float, rate: float) -> dict[str, Any]:
    """One replica's work: keeps `asks` requests in flight until the time is up, or begins `rate` a second and waits for what that takes."""
    database = await Database.open(dsn)
    ledger = ledger_on(database)
    stored = 0
    waits: list[float] = []
    ending = time.perf_counter() + seconds
    # Connecting and preparing is no part of a wait.
    warm = ending - 0.8 * seconds
    likely = list(itertools.accumulate(1 / nth for nth in range(1, len(accounts) + 1)))

    many, total, drawn = len(accounts), likely[-1], random.random

    def drawn_account() -> AccountId:
        return accounts[bisect.bisect(likely, drawn() * total) if case.zipf else int(drawn() * many)]

    def commands() -> list[Command]:
        made = []
        for nth in range(case.size):
            debit = accounts[0] if case.hot else drawn_account()
            while (credit := drawn_account()) is debit:
                pass
            made.append(
                Command(
                    kind="hold" if case.holds and nth % 2 else "post",
                    id=ids.transfers.new(),
                    debit=debit,
                    credit=credit,
                    amount=1 + int(drawn() * 1000),
                    currency="EUR",
                )
            )
        return made

    async def one(started: float) -> None:
        nonlocal stored
        answer = await ledger.poster.post(Ask("default", "bench", None, commands(), atomic=False))
        if started > warm:
            waits.append(time.perf_counter() - started)
        if any(result.status == "rejected" for result in answer.results):
            raise RuntimeError(f"rejected: {answer.results[0]}")
        stored += len(answer.results)

    async def client() -> None:
        while (now := time.perf_counter()) < ending:
            await one(now)

    async def come(group: asyncio.TaskGroup) -> None:
        """They are waited for since they were due, not since somebody had time for them."""
        due = time.perf_counter()
        while due < ending:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(due))
            due += random.expovariate(rate)

    settle_memory()
    started, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        if case.half:
            await come(group)
        else:
            for _ in range(case.asks):
                group.create_task(client())
    took = time.perf_counter() - started
    await ledger.close()
    await database.close()
    waits.sort()
    return {
        "stored": stored,
        "seconds": took,
        "cpu_us_per_transfer": (time.process_time() - cpu) / stored * 1e6,
        "p50_ms": waits[len(waits) // 2] * 1e3,
        "p99_ms": waits[int(len(waits) * 0.99)] * 1e3,
    }


def pgbench(dsn: Dsn, seconds: float, *, fill: bool = False) -> float:
    """Transactions a second of tpcb-like, 32 clients, prepared."""
    environ = {**os.environ, "PGPASSWORD": dsn.password.reveal()}
    where = ["-h", dsn.host, "-U", dsn.user, dsn.database]
    if fill:
        make = [str(BIN / "pgbench"), "-i", "-q", "-s", "50", *where]
        subprocess.run(make, env=environ, check=True, capture_output=True)
    run = [str(BIN / "pgbench"), "-M", "prepared", "-c", "32", "-j", "2", "-T", str(int(seconds)), *where]
    said = subprocess.run(run, env=environ, check=True, capture_output=True, text=True).stdout
    found = re.search(r"tps = ([0-9.]+)", said)
    if found is None:
        raise RuntimeError(said)
    return float(found[1])


def server_cpu(postmaster: int) -> float:
    """Processor seconds of PostgreSQL's processes so far, those that have ended included."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            own, parent = int(stat.parent.name), int(fields[1])
            if own == postmaster:
                ticks += sum(map(int, fields[11:15]))
            elif parent == postmaster:
                ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


async def run(case: Case, dsn: Dsn, directory: Path, *, seconds: float, accounts: int, rate: float) -> dict[str, Any]:
    names = await prepare(dsn, accounts, floor=case.floor)
    task = directory / "task.json"
    task.write_text(
        json.dumps(
            {
                "case": [getattr(case, name) for name in Case.__slots__],
                "accounts": names,
                "seconds": seconds,
                "rate": rate / 2 / case.replicas,
                "dsn": [dsn.host, dsn.database, dsn.user, dsn.password.reveal()],
            }
        )
    )
    task.chmod(0o600)
    postmaster = int((directory / "pg" / "postmaster.pid").read_text(encoding="utf-8").split()[0])
    cpu = server_cpu(postmaster)
    writers = [
        await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--writer", str(task), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(case.replicas)
    ]
    said = [json.loads((await writer.communicate())[0]) for writer in writers]
    cpu = server_cpu(postmaster) - cpu
    database = await Database.open(dsn, bounds=PATIENT)
    if faults := await ledger_on(database).faults():
        raise RuntimeError(f"{case.name}: {faults}")
    await database.close()
    return {
        "per_second": sum(one["stored"] / one["seconds"] for one in said),
        "cpu_us_per_transfer": sum(one["cpu_us_per_transfer"] for one in said) / len(said),
        "server_us_per_transfer": cpu / sum(one["stored"] for one in said) * 1e6,
        "p50_ms": max(one["p50_ms"] for one in said),
        "p99_ms": max(one["p99_ms"] for one in said),
    }


@asynccontextmanager
async def own_server(settings: dict[str, str] | None = None) -> AsyncIterator[tuple[Path, Postgres, Dsn]]:
    """A PostgreSQL of the bench's own in a directory that is gone afterwards, and its superuser's way in."""
    directory = Path(tempfile.mkdtemp(prefix="ts-bench-", dir="/tmp"))
    directory.chmod(0o755)
    password = Secret(secrets.token_urlsafe(24))
    server = Postgres(
        directory / "pg",
        directory / "run",
        password=password,
        log=directory / "log" / "postgres.log",
        settings=settings,
    )
    await server.start()
    try:
        yield (
            directory,
            server,
            Dsn(host=str(directory / "run"), database="postgres", user="postgres", password=password),
        )
    finally:
        await server.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def fresh(superuser: Dsn, name: str) -> Dsn:
    """A migrated ledger database of its own."""
    owner = replace(superuser, user=OWNER, database=name, password=superuser.password)
    connection = await asyncpg.connect(
        host=superuser.host, user=superuser.user, password=superuser.password.reveal(), database="postgres"
    )
    for role in (SERVICE, OWNER):
        if not await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", role):
            await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{superuser.password.reveal()}'")
    await connection.execute(f'CREATE DATABASE "{name}" OWNER {OWNER}')
    await connection.close()
    await migrate.apply(owner, "tallystick.services.ledger", service_role=SERVICE)
    return replace(owner, user=SERVICE)


async def age(superuser: Dsn) -> None:
    """A write-ahead log as on a server that has run for a while: its segments are there to be used again. A new one is 16 MiB of zeros to
    write and to sync, for which whoever needs it waits. It is done before there is any table, so none pays for the checkpoint later.
    """
    connection = await asyncpg.connect(
        host=superuser.host, user=superuser.user, password=superuser.password.reveal(), database="postgres"
    )
    for _ in range(LOG_MIB):
        await connection.execute("SELECT pg_logical_emit_message(false, 'bench', repeat('x', 1 << 20))")
    await connection.execute("CHECKPOINT")
    await connection.close()


async def main(seconds: float, accounts: int, only: str) -> None:
    async with own_server({"min_wal_size": "'2GB'"}) as (directory, _, superuser):
        await age(superuser)
        base = await asyncio.to_thread(pgbench, superuser, seconds, fill=True)
        print(f"{'pgbench tpcb-like, 32 clients':60} {base:>9.0f}/s   1.00")
        reached = 0.0
        for nth, case in enumerate(CASES):
            if only not in case.name:
                continue
            # Anew each time: the machine may not be as quiet as it was.
            base = await asyncio.to_thread(pgbench, superuser, seconds / 2)
            dsn = await fresh(superuser, f"ledger_{nth}")
            figures = await run(case, dsn, directory, seconds=seconds, accounts=accounts, rate=reached)
            reached = figures["per_second"]
            print(
                f"{case.name:60} {figures['per_second']:>9.0f}/s {figures['per_second'] / base:>6.2f}"
                f" of {base:.0f}/s   p50 {figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms,"
                f" {figures['cpu_us_per_transfer']:.0f} us of Python and {figures['server_us_per_transfer']:.0f} of PostgreSQL each",
                flush=True,
            )


def writer(task: Path) -> None:
    given = json.loads(task.read_text())
    host, database, user, password = given["dsn"]
    dsn = Dsn(host=host, database=database, user=user, password=Secret(password))
    accounts = [ids.accounts.parse(f"acc_{ids.encode(int(name.replace('-', ''), 16))}") for name in given["accounts"]]
    print(json.dumps(asyncio.run(write(dsn, Case(*given["case"]), accounts, given["seconds"], given["rate"]))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--accounts", type=int, default=10_000)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--writer", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.writer is not None:
        writer(given.writer)
    else:
        asyncio.run(main(given.seconds, given.accounts, given.only))
