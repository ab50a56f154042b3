"""What ten million transfers do to the ledger's write path: its rate as the book grows, what a transfer takes on disk.

    .venv/bin/python -m bench.ledger_growth [--transfers 10000000] [--accounts 100000] [--json FILE]

The write path is all of it (rules, save, guards, facts, durable commit), batches of 1000, two in flight, random accounts, one book. At every
`--step` transfers a slice of pgbench (tpcb-like, scale 50, 32 clients, prepared, same server) is run, so that a busy machine shows: judge by `x base`
and by the CPU that the server and Python took for a transfer. Figures are in bench/results/ledger-growth.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import asyncpg

from bench.ledger_write_path import PATIENT, fresh, ledger_on, own_server, pgbench, prepare
from tallystick.chassis.db import Database, Dsn
from tallystick.kernel import ids
from tallystick.kernel.ids import AccountId
from tallystick.local.parts import Postgres
from tallystick.services.ledger.model import Command
from tallystick.services.ledger.service import Ask, Ledger

BATCH, IN_FLIGHT = 1000, 2
#: The tables that grow with the book, and the outbox of facts, which is emptied 30 days after relaying.
TABLES = ("transfer_row", "account", "hold", "reversal", "rejection", "outbox")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Step:
    """From one reading to the next. CPU in microseconds for each transfer; `wal` and `read` in bytes for each."""

    transfers: int
    per_second: float
    base: float
    python_us: float
    server_us: float
    wal: float
    read: float


def server_cpu(postmaster: int) -> float:
    """Seconds of CPU that the server took: its living processes and those that it has buried."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        own, parent = int(stat.parent.name), int(fields[1])
        if own == postmaster:
            total += sum(int(ticks) for ticks in fields[11:15]) / TICKS
        elif parent == postmaster:
            total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


async def connect(dsn: Dsn) -> asyncpg.Connection[asyncpg.Record]:
    return await asyncpg.connect(
        host=dsn.host, user=dsn.user, password=dsn.password.reveal(), database=dsn.database, timeout=10
    )


async def sizes(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, dict[str, int]]:
    """Bytes of each growing table: `heap`, `toast` and each index by name."""
    found: dict[str, dict[str, int]] = {}
    rows = await connection.fetch(
        """
        SELECT c.relname AS name, pg_relation_size(c.oid) AS heap,
            coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0) AS toast,
            ARRAY(SELECT coalesce(regexp_replace(pg_get_indexdef(i.indexrelid), '^.*USING ', ''), '') FROM pg_index AS i WHERE i.indrelid = c.oid
                ORDER BY i.indexrelid) AS indexes,
            ARRAY(SELECT pg_relation_size(i.indexrelid) FROM pg_index AS i WHERE i.indrelid = c.oid ORDER BY i.indexrelid) AS bytes
        FROM pg_class AS c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname = ANY($1)
        """,
        list(TABLES),
    )
    for row in rows:
        table = found.setdefault(row["name"], {})
        parts = [("heap", row["heap"]), ("toast", row["toast"]), *zip(row["indexes"], row["bytes"], strict=True)]
        for name, size in parts:
            table[name] = table.get(name, 0) + size
    return found


async def density(superuser: Dsn) -> dict[str, tuple[float, float]]:
    """Of each index of the book: how full its leaves are and how many of them are out of order, in percent (pgstattuple). {} without it."""
    connection = await connect(superuser)
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pgstattuple")
        rows = await connection.fetch(
            """
            SELECT regexp_replace(pg_get_indexdef(i.indexrelid), '^.*USING ', '') AS name, s.avg_leaf_density, s.leaf_fragmentation
            FROM pg_index AS i CROSS JOIN LATERAL pgstatindex(i.indexrelid) AS s
            WHERE i.indrelid = 'transfer_row'::regclass ORDER BY i.indexrelid
            """
        )
    except asyncpg.PostgresError:
        return {}
    finally:
        await connection.close()
    return {row[0]: (row[1], row[2]) for row in rows}


def batches(accounts: list[AccountId], count: int) -> Iterator[list[Command]]:
    for _ in range(count // BATCH):
        made = []
        for _ in range(BATCH):
            debit, credit = random.sample(accounts, 2)
            made.append(
                Command(
                    kind="post",
                    id=ids.transfers.new(),
                    debit=debit,
                    credit=credit,
                    amount=random.randint(1, 1000),
                    currency="EUR",
                )
            )
        yield made


async def store(ledger: Ledger, work: Iterator[list[Command]]) -> None:
    async def client() -> None:
        for commands in work:
            answer = await ledger.poster.post(Ask("default", "bench", None, commands, atomic=False))
            if any(result.status == "rejected" for result in answer.results):
                raise RuntimeError(f"rejected: {answer.results[0]}")

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(client())


async def grow(
    given: argparse.Namespace, server: Postgres, superuser: Dsn, dsn: Dsn, accounts: list[AccountId]
) -> list[Step]:
    database = await Database.open(dsn)
    ledger = ledger_on(database)
    look = await connect(replace(superuser, database=dsn.database))
    every: int = given.step
    steps: list[Step] = []
    if server.pid is None:
        raise RuntimeError("the server is not there")
    for done in range(0, given.transfers, every):
        base = await asyncio.to_thread(pgbench, superuser, given.slice)
        await look.execute("SELECT pg_stat_clear_snapshot()")
        wal, read = await counters(look)
        cpu, own, started = server_cpu(server.pid), time.process_time(), time.perf_counter()
        await store(ledger, batches(accounts, every))
        took = time.perf_counter() - started
        cpu, own = server_cpu(server.pid) - cpu, time.process_time() - own
        await asyncio.sleep(1.5)  # the counters of a session are told once a second
        wal_then, read_then = await counters(look)
        step = Step(
            transfers=done + every,
            per_second=every / took,
            base=base,
            python_us=own / every * 1e6,
            server_us=cpu / every * 1e6,
            wal=(wal_then - wal) / every,
            read=(read_then - read) / every,
        )
        steps.append(step)
        taken = await sizes(look)
        if given.json:
            given.json.write_text(json.dumps({"steps": [asdict(one) for one in steps], "bytes": taken}, indent=1))
        print(
            f"{step.transfers:>10} {step.per_second:>8.0f}/s {step.per_second / step.base:>6.2f} x {step.base:.0f}"
            f"   server {step.server_us:.0f} us, Python {step.python_us:.0f} us, WAL {step.wal:.0f} bytes, read {step.read:.0f} bytes each",
            flush=True,
        )
    await look.close()
    await ledger.close()
    await database.close()
    return steps


async def counters(connection: asyncpg.Connection[asyncpg.Record]) -> tuple[int, int]:
    """Bytes of log written by the server, and bytes that this database did not find in its buffers."""
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    wal = await connection.fetchval("SELECT wal_bytes::bigint FROM pg_stat_wal")
    read = await connection.fetchval("SELECT blks_read * 8192 FROM pg_stat_database WHERE datname = current_database()")
    return int(wal), int(read)


async def main(given: argparse.Namespace) -> None:
    async with own_server({name: f"'{value}'" for name, _, value in (one.partition("=") for one in given.setting)}) as (
        _,
        server,
        superuser,
    ):
        await asyncio.to_thread(pgbench, superuser, 10, fill=True)
        dsn = await fresh(superuser, "growing")
        names = await prepare(dsn, given.accounts, floor=True)
        accounts = [ids.accounts.parse(f"acc_{ids.encode(int(name.replace('-', ''), 16))}") for name in names]
        steps = await grow(given, server, superuser, dsn, accounts)
        own = replace(superuser, database="growing")
        connection = await connect(own)
        taken = await sizes(connection)
        await connection.close()
        count = given.transfers + given.accounts
        for table, parts in taken.items():
            for name, size in parts.items():
                print(f"{table:10} {name:60} {size / count:>8.1f} bytes a transfer, {size >> 20} MiB")
        dense = await density(own)
        for name, (full, apart) in dense.items():
            print(f"{name:60} leaves {full:.0f} % full, {apart:.0f} % out of order")
        check = await Database.open(dsn, bounds=PATIENT)
        if faults := await ledger_on(check).faults():
            raise RuntimeError(str(faults))
        await check.close()
        if given.json:
            given.json.write_text(
                json.dumps({"steps": [asdict(step) for step in steps], "bytes": taken, "density": dense}, indent=1)
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transfers", type=int, default=10_000_000)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--step", type=int, default=1_000_000)
    parser.add_argument("--slice", type=float, default=4, help="seconds of pgbench before each step")
    parser.add_argument(
        "--setting", action="append", default=[], help="NAME=VALUE of PostgreSQL, over those of one machine; repeatable"
    )
    parser.add_argument("--json", type=Path)
    asyncio.run(main(parser.parse_args()))
