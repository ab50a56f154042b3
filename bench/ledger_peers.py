"""Other ways to keep a ledger in PostgreSQL, on the same server in the same run as Tallystick's.

    .venv/bin/python -m bench.ledger_peers [--seconds 4] [--accounts 10000] [--only uniform|zipf|hot]

The baselines are our own re-implementations of published designs, in a few lines of SQL each; they are not the products, which do more:

- *row locks, function* (pgledger's design): one call of a PL/pgSQL function for each transfer. It locks both accounts FOR UPDATE in the order of
  their ids, checks them, and stores the transfer, two entries with the balance before and after, and both balances.
- *row locks, statements*: the same from the client, a round trip for each statement.
- *atomic UPDATE*: one statement: both balances by UPDATEs with the floor in their WHERE, and the rows of transfer and entries. Without an order of
  locks it can end in deadlocks, after which pgbench tries again.

They are driven by pgbench (prepared statements, C), Tallystick's path by Python, which is in its figures: rules, guards, facts in the outbox. All commit
durably, all keep a floor on the debited account. Accounts are drawn uniformly, by a Zipf distribution (1.001, the least that pgbench has), or
with one account debited by all. `base` is pgbench's tpcb-like with 32 clients.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import subprocess
import time
from bisect import bisect
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import asyncpg

from bench.ledger_write_path import PATIENT, fresh, ledger_on, own_server, pgbench, prepare
from tallystick.chassis.db import Database, Dsn
from tallystick.kernel import ids
from tallystick.kernel.ids import AccountId
from tallystick.local.parts.postgres import BIN
from tallystick.services.ledger.model import Command
from tallystick.services.ledger.service import Ask

ZIPF = 1.001
CONNECTIONS = (1, 16, 64)
DISTRIBUTIONS = ("uniform", "zipf", "hot")

SCHEMA = """
CREATE TABLE account (
    id bigint PRIMARY KEY, currency text NOT NULL, balance bigint NOT NULL DEFAULT 0, version bigint NOT NULL DEFAULT 0,
    floor bigint, CHECK (floor IS NULL OR balance >= floor)
) WITH (fillfactor = 50);
CREATE TABLE transfer (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), debit bigint NOT NULL REFERENCES account, credit bigint NOT NULL REFERENCES account,
    amount bigint NOT NULL CHECK (amount > 0), at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE entry (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account bigint NOT NULL REFERENCES account, transfer uuid NOT NULL REFERENCES transfer,
    amount bigint NOT NULL, before bigint, after bigint NOT NULL, version bigint NOT NULL
);
CREATE INDEX ON entry (account, version);
CREATE INDEX ON entry (transfer);
CREATE FUNCTION post_transfer(one bigint, two bigint, moved bigint) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    from_row account;
    to_row account;
    made uuid;
BEGIN
    PERFORM FROM account WHERE id IN (one, two) ORDER BY id FOR UPDATE;
    SELECT * INTO from_row FROM account WHERE id = one;
    SELECT * INTO to_row FROM account WHERE id = two;
    IF from_row.currency <> to_row.currency THEN RAISE EXCEPTION 'currencies differ'; END IF;
    IF from_row.floor IS NOT NULL AND from_row.balance - moved < from_row.floor THEN RAISE EXCEPTION 'insufficient funds'; END IF;
    INSERT INTO transfer (debit, credit, amount) VALUES (one, two, moved) RETURNING id INTO made;
    UPDATE account SET balance = balance - moved, version = version + 1 WHERE id = one;
    UPDATE account SET balance = balance + moved, version = version + 1 WHERE id = two;
    INSERT INTO entry (account, transfer, amount, before, after, version) VALUES
        (one, made, -moved, from_row.balance, from_row.balance - moved, from_row.version + 1),
        (two, made, moved, to_row.balance, to_row.balance + moved, to_row.version + 1);
    RETURN made;
END
$$;
"""

FUNCTION = "SELECT post_transfer(:one, :two, :moved);\n"

STATEMENTS = """
BEGIN;
SELECT min(balance) FILTER (WHERE id = :one) AS b1, min(version) FILTER (WHERE id = :one) AS v1, min(balance) FILTER (WHERE id = :two) AS b2,
    min(version) FILTER (WHERE id = :two) AS v2 FROM (SELECT * FROM account WHERE id IN (:one, :two) ORDER BY id FOR UPDATE) AS a \\gset
\\set after1 :b1 - :moved
\\set after2 :b2 + :moved
\\set next1 :v1 + 1
\\set next2 :v2 + 1
INSERT INTO transfer (debit, credit, amount) VALUES (:one, :two, :moved) RETURNING id AS made \\gset
UPDATE account SET balance = :after1, version = :next1 WHERE id = :one;
UPDATE account SET balance = :after2, version = :next2 WHERE id = :two;
INSERT INTO entry (account, transfer, amount, before, after, version) VALUES
    (:one, :made, 0 - :moved::bigint, :b1, :after1, :next1), (:two, :made, :moved, :b2, :after2, :next2);
COMMIT;
"""

ATOMIC = """
WITH d AS (
    UPDATE account SET balance = balance - :moved::bigint, version = version + 1
    WHERE id = :one AND (floor IS NULL OR balance - :moved::bigint >= floor) RETURNING balance, version
), c AS (
    UPDATE account SET balance = balance + :moved::bigint, version = version + 1
    WHERE id = :two AND EXISTS (SELECT FROM d) RETURNING balance, version
), t AS (
    INSERT INTO transfer (debit, credit, amount) SELECT :one::bigint, :two::bigint, :moved::bigint FROM d, c RETURNING id
)
INSERT INTO entry (account, transfer, amount, after, version)
SELECT :one::bigint, t.id, 0 - :moved::bigint, d.balance, d.version FROM t, d
UNION ALL SELECT :two::bigint, t.id, :moved::bigint, c.balance, c.version FROM t, c;
"""

PEERS = {"row locks, function": FUNCTION, "row locks, statements": STATEMENTS, "atomic UPDATE": ATOMIC}


def drawn(distribution: str, accounts: int) -> str:
    """The lines for pgbench that draw two different accounts and an amount."""
    one = {
        "uniform": "random(1, :n)",
        "zipf": f"random_zipfian(1, :n, {ZIPF})",
        "hot": "1",
    }[distribution]
    two = "random(1, :n)" if distribution == "hot" else one
    return (
        f"\\set n {accounts}\n\\set one {one}\n\\set other {two}\n"
        "\\set two CASE WHEN :other = :one THEN 1 + :one % :n ELSE :other END\n\\set moved random(1, 1000)\n"
    )


def chooser(distribution: str, accounts: list[AccountId]) -> Callable[[], tuple[AccountId, AccountId]]:
    """The same for Tallystick."""
    weights = list(accumulate(1 / rank**ZIPF for rank in range(1, len(accounts) + 1)))

    def one() -> int:
        if distribution == "zipf":
            return min(bisect(weights, random.random() * weights[-1]), len(accounts) - 1)
        return random.randrange(len(accounts))

    def pair() -> tuple[AccountId, AccountId]:
        first = 0 if distribution == "hot" else one()
        second = one()
        return accounts[first], accounts[second if second != first else (first + 1) % len(accounts)]

    return pair


async def peer_schema(superuser: Dsn, accounts: int) -> Dsn:
    name = "peers"
    where: dict[str, Any] = {"host": superuser.host, "user": superuser.user, "password": superuser.password.reveal()}
    connection = await asyncpg.connect(database="postgres", **where)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    connection = await asyncpg.connect(database=name, **where)
    await connection.execute(SCHEMA)
    await connection.execute(
        "INSERT INTO account (id, currency, balance, floor) SELECT n, 'EUR', 10::bigint^12, 0 FROM generate_series(1, $1::int) AS n",
        accounts,
    )
    await connection.execute("VACUUM ANALYZE account")
    await connection.close()
    return replace(superuser, database=name)


async def checked(dsn: Dsn, accounts: int) -> None:
    """The baselines too must not lose anything, or their figures say nothing."""
    connection = await asyncpg.connect(
        host=dsn.host, user=dsn.user, password=dsn.password.reveal(), database=dsn.database
    )
    whole, entries, wrong = await connection.fetchrow(
        "SELECT (SELECT sum(balance) FROM account), (SELECT coalesce(sum(amount), 0) FROM entry),"
        " (SELECT count(*) FROM account AS a WHERE balance <> 10::bigint^12 + (SELECT coalesce(sum(amount), 0) FROM entry WHERE account = a.id))"
    ) or (0, 0, 0)
    await connection.close()
    if (whole, entries, wrong) != (accounts * 10**12, 0, 0):
        raise RuntimeError(f"the baselines' books do not balance: {whole}, {entries}, {wrong}")


def peer(dsn: Dsn, script: str, connections: int, seconds: float, directory: Path) -> tuple[float, int, int]:
    """Transfers a second, how many were tried again, and how many failed."""
    file = directory / "peer.sql"
    file.write_text(script)
    command = [str(BIN / "pgbench"), "-n", "-M", "prepared", "--max-tries=50", "-f", str(file), "-T", str(int(seconds))]
    command += ["-c", str(connections), "-j", str(min(2, connections)), "-h", dsn.host, "-U", dsn.user, dsn.database]
    environ = {**os.environ, "PGPASSWORD": dsn.password.reveal()}
    said = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout
    rate = re.search(r"tps = ([0-9.]+)", said)
    retried = re.search(r"transactions retried: (\d+)", said)
    failed = re.search(r"failed transactions: (\d+)", said)
    if rate is None and "actually processed: 0" not in said:
        raise RuntimeError(said)
    return 0.0 if rate is None else float(rate[1]), int(retried[1]) if retried else 0, int(failed[1]) if failed else 0


async def own(dsn: Dsn, accounts: list[AccountId], distribution: str, seconds: float, *, size: int, asks: int) -> float:
    """Tallystick's: transfers a second, with so many requests of so many transfers in flight."""
    database = await Database.open(dsn)
    ledger = ledger_on(database)
    pair = chooser(distribution, accounts)
    stored, ending = 0, time.perf_counter() + seconds

    async def client() -> None:
        nonlocal stored
        while time.perf_counter() < ending:
            commands = []
            for _ in range(size):
                debit, credit = pair()
                commands.append(
                    Command(
                        kind="post",
                        id=ids.transfers.new(),
                        debit=debit,
                        credit=credit,
                        amount=random.randint(1, 1000),
                        currency="EUR",
                    )
                )
            answer = await ledger.poster.post(Ask("default", "bench", None, commands, atomic=False))
            if any(result.status == "rejected" for result in answer.results):
                raise RuntimeError(f"rejected: {answer.results[0]}")
            stored += size

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(asks):
            group.create_task(client())
    took = time.perf_counter() - started
    await ledger.close()
    await database.close()
    return stored / took


async def sound(dsn: Dsn) -> None:
    database = await Database.open(dsn, bounds=PATIENT)
    if faults := await ledger_on(database).faults():
        raise RuntimeError(str(faults))
    await database.close()


async def main(seconds: float, accounts: int, only: str) -> None:
    async with own_server() as (directory, _, superuser):
        await asyncio.to_thread(pgbench, superuser, 2, fill=True)
        peers = await peer_schema(superuser, accounts)
        ours = await fresh(superuser, "ledger_peers")
        names = await prepare(ours, accounts, floor=True)
        made = [ids.accounts.parse(f"acc_{ids.encode(int(name.replace('-', ''), 16))}") for name in names]
        for distribution in DISTRIBUTIONS:
            if only not in distribution:
                continue
            base = await asyncio.to_thread(pgbench, superuser, seconds)
            print(f"\n{distribution}, base {base:.0f}/s" + "".join(f" | {each:>3} connections" for each in CONNECTIONS))

            def show(name: str, rates: list[float], base: float = base, note: str = "") -> None:
                cells = "".join(f" | {rate:>7.0f}/s {rate / base:>5.2f}" for rate in rates)
                print(f"{name:26}{cells} {note}", flush=True)

            for name, script in PEERS.items():
                runs = [
                    await asyncio.to_thread(
                        peer, peers, drawn(distribution, accounts) + script, each, seconds, directory
                    )
                    for each in CONNECTIONS
                ]
                retried, failed = sum(run[1] for run in runs), sum(run[2] for run in runs)
                show(name, [run[0] for run in runs], note=f"({retried} retried, {failed} failed)" if retried else "")
            show(
                "Tallystick, single",
                [await own(ours, made, distribution, seconds, size=1, asks=each) for each in CONNECTIONS],
            )
            show("Tallystick, 1000 a request", [await own(ours, made, distribution, seconds, size=1000, asks=2)])
        await checked(peers, accounts)
        await sound(ours)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--accounts", type=int, default=10_000)
    parser.add_argument("--only", default="", help="one of the distributions")
    given = parser.parse_args()
    asyncio.run(main(given.seconds, given.accounts, given.only))
