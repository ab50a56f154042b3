"""How many facts a second the audit log takes, and what it costs to sign and to prove.

    .venv/bin/python -m bench.audit_append [--seconds 10] [--batch 500]

The write path is the consumer's transaction: lock the head, hash, insert entries and tiles, move the head, durable commit; on a server
of its own, without the bus. Every 100 ms another task signs, as in earnest. Afterwards receipts are made of facts taken at random.
Figures recorded with the machine are in bench/results/.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import statistics
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import asyncpg
import uvloop

from bench.ledger_write_path import own_server
from tallystick.chassis import migrate, outbox
from tallystick.chassis.db import Database, Dsn
from tallystick.chassis.keys import Keyring, LocalRoot, root
from tallystick.chassis.outbox import Fact
from tallystick.kernel import ids
from tallystick.kernel.clock import SystemClock
from tallystick.kernel.ids import FactId
from tallystick.services.audit.service import Log
from tallystick.services.audit.store import Store

SIGN_EVERY = 0.1
RECEIPTS = 500


class Memory:
    """In the place of Valkey: its round trip is not what is measured."""

    def __init__(self) -> None:
        self.value: bytes | None = None

    async def get(self, name: str) -> bytes | None:
        del name
        return self.value

    async def set(self, name: str, value: str) -> None:
        del name
        self.value = value.encode()


def facts(first: int, count: int) -> list[tuple[FactId, str, int, bytes]]:
    """Facts of about the size of a payment's."""
    made = []
    for seq in range(first, first + count):
        fact = Fact(
            id=ids.facts.new(),
            type="payments.payment.settled",
            tenant="default",
            actor=ids.clients.text(ids.clients.new()),
            resource=ids.payments.text(ids.payments.new()),
            at=datetime.now(UTC),
            trace=secrets.token_hex(16),
            data={
                "status": "settled",
                "amount": "1250",
                "captured": "1250",
                "currency": "EUR",
                "destination": ids.accounts.text(ids.accounts.new()),
                "transfers": [ids.transfers.text(ids.transfers.new()) for _ in range(2)],
            },
        )
        made.append((fact.id, fact.tenant, seq, outbox.encode(fact)))
    return made


async def measure(dsn: Dsn, directory: Path, seconds: float, batch: int) -> None:
    database = await Database.open(dsn)
    root.create(directory / "root.key")
    ring = await Keyring.open(
        database, lambda: LocalRoot.open(directory / "root.key"), environment="bench", service="audit"
    )
    log = Log(
        database=database,
        store=Store(),
        keyring=ring,
        valkey=Memory(),
        clock=SystemClock(),
        name="tallystick.bench/log",
    )
    signing: list[float] = []
    done = asyncio.Event()

    async def sign() -> None:
        while not done.is_set():
            begun = perf_counter()
            await log.sign()
            signing.append(perf_counter() - begun)
            await asyncio.sleep(SIGN_EVERY)

    signer = asyncio.create_task(sign())
    known: list[FactId] = []
    taken, wall, cpu = 0, 0.0, 0.0
    while wall < seconds:
        made = facts(taken + 1, batch)
        begun, used = perf_counter(), process_time()
        async with database.transaction() as tx:
            await log.record(tx, "payments", made)
        wall += perf_counter() - begun
        cpu += process_time() - used
        taken += batch
        known += [made[0][0], made[-1][0]]
    done.set()
    await signer
    await log.sign()
    proving: list[float] = []
    size = 0
    for fact in random.sample(known, min(RECEIPTS, len(known))):
        begun = perf_counter()
        text, _ = await log.receipt(fact, tenant="default")
        proving.append(perf_counter() - begun)
        size = max(size, len(text))
    show("facts appended", taken / wall, "/s")
    show("Python a fact", cpu / taken * 1e6, "us")
    show("facts in the log", taken, "")
    show("signing the head, median", statistics.median(signing) * 1e3, "ms")
    show("a receipt, median", statistics.median(proving) * 1e3, "ms")
    show("a receipt, size at most", size, "bytes")
    await database.close()


def show(what: str, figure: float, unit: str) -> None:
    print(f"{what:28} {figure:>10.1f} {unit}", flush=True)


async def main(given: Any) -> None:
    async with own_server() as (directory, _, superuser):
        connection = await asyncpg.connect(
            host=superuser.host, user=superuser.user, password=superuser.password.reveal(), database="postgres"
        )
        for role in ("audit", "audit_owner"):
            await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{superuser.password.reveal()}'")
        await connection.execute("CREATE DATABASE audit OWNER audit_owner")
        await connection.close()
        owner = replace(superuser, user="audit_owner", database="audit")
        await migrate.apply(owner, "tallystick.services.audit", service_role="audit")
        await measure(replace(owner, user="audit"), directory, given.seconds, given.batch)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=500)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(parser.parse_args()))
