"""Whoever changes a row of a database by hand, takes one away or puts another in its place is found by `verify`: tried on every column of every table.

What is not found is listed here, with the reason. A column that is new belongs to one or the other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tallystick.chassis.db import Queries
from tallystick.kernel.problem import InvalidRequest
from tallystick.local.layout import Layout
from tallystick.local.verify import agreement, log
from tallystick.local.verify.source import Source
from tallystick.local.verify.things import TOLD
from tallystick.local.verify.told import as_told
from tests.architecture.tree import BUILT
from tests.support.stranger import Client, Edge
from tests.system.conftest import EVERY_SCOPE, PlatformUnderTest, running
from tests.system.test_contract import things
from tests.system.test_mutual_tls import context, token

TYPED = "what people typed is not told: it may be personal, and a log is for ever"
CARD = "what is known of a card is not told"
OWN_USE = "it serves the service's own work; nothing was told of it"
KEY = "a key that was changed opens nothing, which its service says at its start, and doctor at any time"
ANSWER = "an answer that was given serves repeats of its request; it claims nothing that is not told"
WHEN = "when it was stored; the time that counts is in the fact"
#: Columns, and tables whose rows can be taken away, as shell patterns over `service.table.column`.
UNSEEN: dict[str, str] = {
    "*.data_key": KEY,
    "*.data_key.*": KEY,
    "*.idempotency": ANSWER,
    "*.idempotency.*": ANSWER,
    "*.inbox": OWN_USE,
    "*.inbox.*": OWN_USE,
    "*.outbox.at": WHEN,
    "*.outbox_batch.at": WHEN,
    "*.outbox_batch.last_*": OWN_USE,
    "*.outbox_cursor.position": OWN_USE,
    "*.outbox_cursor.xid": OWN_USE,
    "audit.outbox_cursor": "audit tells nothing",
    "audit.outbox_cursor.seq": "audit tells nothing",
    "audit.checkpoint": "all but the last of each minute go by themselves",
    "audit.checkpoint.signed_at": WHEN,
    "audit.log_key.created_at": WHEN,
    "audit.log_key.sealed": KEY,
    "identity.assertion_use": OWN_USE,
    "identity.assertion_use.*": OWN_USE,
    "identity.client.name": TYPED,
    "identity.revocation_epoch": OWN_USE,
    "identity.revocation_epoch.epoch": OWN_USE,
    "identity.signing_key.*_at": WHEN,
    "identity.signing_key.sealed_private": KEY,
    "identity.tenant": "the first one, `default`, is there from the beginning and not told",
    "identity.tenant.created_at": WHEN,
    "ledger.account.created_sequence": OWN_USE,
    "ledger.account.name": TYPED,
    "ledger.account.path": TYPED,
    "ledger.book.*_at": WHEN,
    "ledger.book.flush": OWN_USE,
    "ledger.book.name": "the main book, which is opened by itself, is not told",
    "ledger.book.revision": OWN_USE,
    "ledger.book.shard": "that the shards agree is seen where there are several",
    "ledger.import": "what an import brought is told thing by thing",
    "ledger.import.*": "what an import brought is told thing by thing",
    "ledger.transaction.recorded_at": WHEN,
    "ledger.transfer_row.code": OWN_USE,
    "notify.delivery": "what was sent is told by the service that it is of",
    "notify.delivery.*": "what was sent is told by the service that it is of",
    "notify.endpoint.*_at": WHEN,
    "notify.endpoint.description": TYPED,
    "notify.endpoint.events": TYPED,
    "notify.endpoint.sealed_secret": KEY,
    "notify.endpoint.url": TYPED,
    "payments.clearing": OWN_USE,
    "payments.clearing.*": OWN_USE,
    "payments.payment.*_at": WHEN,
    "payments.payment.acquirer_id": OWN_USE,
    "payments.payment.attempts": OWN_USE,
    "payments.payment.capture": OWN_USE,
    "payments.payment.clearing": OWN_USE,
    "payments.payment.decline_text": "its code is told",
    "payments.payment.description": TYPED,
    "payments.payment.held": OWN_USE,
    "payments.payment.intent_amount": OWN_USE,
    "payments.payment.metadata": TYPED,
    "payments.payment.reference": TYPED,
    "payments.payment.released": OWN_USE,
    "payments.payment.trace": OWN_USE,
    "payments.payment.version": OWN_USE,
    "payments.refund.*_at": WHEN,
    "payments.refund.attempts": OWN_USE,
    "payments.refund.by_card": OWN_USE,
    "payments.refund.re[stv]*ed": OWN_USE,
    "payments.refund.reason": TYPED,
    "payments.refund.suspended": OWN_USE,
    "payments.refund.trace": OWN_USE,
    "payments.refund.version": OWN_USE,
    "risk.decision.amount": OWN_USE,
    "risk.decision.client_id": OWN_USE,
    "risk.decision.created_at": WHEN,
    "risk.decision.currency": OWN_USE,
    "risk.list_version": OWN_USE,
    "risk.list_version.version": OWN_USE,
    "vault.number_count": OWN_USE,
    "vault.number_count.*": OWN_USE,
    "vault.token.bin": CARD,
    "vault.token.exp_*": CARD,
    "vault.token.fingerprint": CARD,
    "vault.token.last4": CARD,
    "vault.token.sealed": KEY,
}

COLUMNS = """
SELECT c.relname AS table, a.attname AS column, format_type(a.atttypid, NULL) AS type
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    AND c.relname <> 'schema_migration'
ORDER BY 1, a.attnum
"""
#: Another value of the same type, the first that the table's constraints let pass.
OTHERS: dict[str, tuple[str, ...]] = {
    "bigint": ("{c} + 1", "{c} - 1"),
    "integer": ("{c} + 1", "{c} - 1"),
    "smallint": ("{c} + 1", "{c} - 1"),
    "boolean": ("NOT {c}",),
    "timestamp with time zone": ("{c} + interval '1 day'", "{c} - interval '1 day'"),
    "date": ("{c} + 1",),
    "bytea": ("set_byte({c}, octet_length({c}) - 1, get_byte({c}, octet_length({c}) - 1) # 1)",),
    "uuid": ("gen_random_uuid()",),
    "jsonb": ("'[]'::jsonb", "'{{}}'::jsonb"),
    "text": ("(SELECT o.{c} FROM {t} AS o WHERE o.{c} <> x.{c} LIMIT 1)", "{c} || 'x'", "'x' || {c}"),
    "character": ("'CHF'",),
    "text[]": ("{c} || 'x'::text",),
    "xid8": ("'5'::xid8",),
}


class Tampered(Source):
    """The databases as they are, and one of them as it looks within a transaction that will be undone."""

    def __init__(self, layout: Layout, service: str, connection: Any) -> None:
        super().__init__(Source.of(layout, BUILT)._databases)
        self._connections[service] = connection


async def found(source: Source, service: str) -> list[str]:
    """The names of the checks that find something."""
    looks: list[tuple[str, Any]] = [
        (query.name, partial(source.faults, service, query))
        for package in ("tallystick.chassis", f"tallystick.services.{service}")
        for query in Queries.load(package, "verify")
    ]
    if service in TOLD:
        looks.append(("as told", partial(as_told, source, service, TOLD[service][1])))
    if service in {"payments", "ledger"}:
        looks += [(check.__name__, partial(check, source)) for check in (agreement.payments, agreement.refunds)]
    if service == "ledger":
        looks.append(("facts", partial(agreement.facts, source)))
    looks.append(("records", partial(log.records, source)))
    if service == "audit":
        looks.append(("tree", partial(log.tree, source, None)))
    wrong: list[str] = []
    for name, look in looks:
        try:
            faults = await look()
        except (asyncpg.PostgresError, InvalidRequest, LookupError, TypeError, ValueError):
            return [*wrong, name]
        if faults[0] if isinstance(faults, tuple) else faults:
            wrong.append(name)
    return wrong


async def tried(source: Source, service: str) -> AsyncIterator[tuple[str, str]]:
    """Each column that could be changed, and by which check that was found, if by any; and each table, for a row that is taken away."""
    connection = await source.connection(service)
    columns = await connection.fetch(COLUMNS)
    for table in sorted({row["table"] for row in columns}):
        rows = await connection.fetchval(f'SELECT count(*) FROM "{table}"')
        if not rows:
            continue
        one = f'(SELECT ctid FROM "{table}" OFFSET {rows // 2} LIMIT 1)'
        yield f"{service}.{table}", await _undone(source, service, f'DELETE FROM "{table}" WHERE ctid = {one}')
        for row in columns:
            if row["table"] != table:
                continue
            column = f'"{row["column"]}"'
            filled = await connection.fetchval(f'SELECT count(*) FROM "{table}" WHERE {column} IS NOT NULL')
            one = f'(SELECT ctid FROM "{table}" WHERE {column} IS NOT NULL OFFSET {filled // 2} LIMIT 1)'
            for other in OTHERS[row["type"]] if filled else ():
                value = other.format(c=column, t=f'"{table}"')
                change = f'UPDATE "{table}" AS x SET {column} = {value} WHERE ctid = {one} AND {column} IS DISTINCT FROM {value}'
                try:
                    by = await _undone(source, service, change)
                except (asyncpg.IntegrityConstraintViolationError, asyncpg.GeneratedAlwaysError, asyncpg.DataError):
                    continue
                yield f"{service}.{table}.{row['column']}", by
                break


async def _undone(source: Source, service: str, change: str) -> str:
    connection = await source.connection(service)
    await connection.execute("SAVEPOINT well")
    try:
        done = await connection.execute(change)
        return ", ".join(await found(source, service)) if done.endswith(" 1") else "nothing was changed"
    except asyncpg.SerializationError:
        return "the platform has changed it meanwhile"
    finally:
        await connection.execute("ROLLBACK TO SAVEPOINT well; RELEASE SAVEPOINT well")


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformUnderTest]:
    """A platform of its own, on which something of each kind has happened."""
    with running() as one:
        assert one.cli("demo", "--json").json["fault"] is None
        asyncio.run(_things(one, tmp_path_factory.mktemp("busy")))
        one.verified()
        yield one


async def _things(platform: PlatformUnderTest, folder: Path) -> None:
    file, both = folder / "client.json", folder / "client.pem"
    made = platform.cli("client", "create", "busy", "--bind", "certificate", "--scope", EVERY_SCOPE, "--out", str(file))
    assert made.status == 0, made
    written = json.loads(file.read_text())
    both.write_text(written["tls_client_certificate"] + written["tls_client_key"])
    async with Edge(platform.mtls_port, platform.ca) as edge:
        edge.context = context(platform, both, both)
        await things(edge, await token(Client(edge, file)))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("service", BUILT)
async def test_what_is_changed_by_hand_is_found(busy: PlatformUnderTest, service: str) -> None:
    layout = Layout(busy.data)
    async with Source.of(layout, BUILT) as plain:
        connection = await plain.fresh(service)
        await connection.execute("SET default_transaction_read_only = off; SET session_replication_role = replica")
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        async with Tampered(layout, service, connection) as source:
            assert await found(source, service) == []
            seen = {name: by async for name, by in tried(source, service)}
        await connection.execute("ROLLBACK")
    unseen = {name for name, by in seen.items() if not by}
    assert len(seen) - len(unseen) >= 5, "next to nothing was found: the test is blind"
    assert not {name for name in unseen if not any(fnmatch(name, pattern) for pattern in UNSEEN)}


async def test_what_is_said_to_be_unseen_is_there(busy: PlatformUnderTest) -> None:
    async with Source.of(Layout(busy.data), BUILT) as source:
        names = {
            name
            for service in BUILT
            for row in await source.rows(service, COLUMNS)
            for name in (f"{service}.{row['table']}", f"{service}.{row['table']}.{row['column']}")
        }
    assert not [pattern for pattern in UNSEEN if not any(fnmatch(name, pattern) for name in names)]
