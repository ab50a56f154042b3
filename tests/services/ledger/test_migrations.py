"""What a migration makes of a book that is there: it says what it said, and goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from tallystick.chassis import migrate
from tallystick.kernel import ids
from tallystick.kernel.ids import TransferId
from tallystick.services.ledger.model import Header
from tallystick.services.ledger.service import Ask
from tests.services.ledger.support import Books, draw, ledger_on, move
from tests.support.parts import Server, ServiceDatabase, connect

PACKAGE = "tallystick.services.ledger"
#: The columns of a table, those that the database fills in itself not among them.
COLUMNS = """
SELECT table_name, array_agg(column_name ORDER BY ordinal_position) AS columns FROM information_schema.columns
WHERE table_schema = 'public' AND is_generated = 'NEVER' AND table_name = ANY($1) GROUP BY table_name
"""
#: In the order in which they refer to one another.
TABLES = (
    "book",
    "account",
    "transfer",
    "transaction",
    "hold",
    "reversal",
    "rejection",
    "adjustment",
    "adjustment_total",
    "outbox",
)


async def filled(books: Books) -> None:
    """All kinds of transfers, dated back, in transactions and refused, in two currencies and two books."""
    bank, anna, ben = await books.open(side="debit"), await books.open(floor=0), await books.open()
    dollars, more = await books.open(side="debit", currency="USD"), await books.open(currency="USD")
    there, other = await books.open(side="debit", tenant="beta"), await books.open(tenant="beta")
    post, hold = move("post", bank, anna, 100), move("hold", anna, ben, 30, expires_in=60)
    await books.post(post, hold, move("hold", bank, ben, 7), move("post", dollars, more, 5, currency="USD"))
    kept = move("hold", anna, ben, 20)
    await books.post(
        kept, draw("increase", kept.id, 5), draw("capture", kept.id, 10), draw("capture", hold.id, 3, final=True)
    )
    await books.post(
        draw("reverse", post.id, 40), move("post", anna, ben, 1000), move("post", ben, bank, 1, metadata='{"a":"b"}')
    )
    await books.post(move("post", there, other, 9), tenant="beta")
    since, own = books.clock.now() - timedelta(days=3), ids.transactions.new()
    command = move("post", bank, anna, 11, transaction=own, effective_at=since)
    ask = Ask(
        "acme", "cli_test", None, [command], atomic=True, header=Header(id=own, effective_at=since, reference="late")
    )
    assert (await books.ledger.poster.post(ask)).results[0].status == "posted"


async def rows(database: ServiceDatabase, table: str, columns: Iterable[str]) -> list[tuple[Any, ...]]:
    found = await database.query(f"SELECT {', '.join(columns)} FROM {table}")
    return sorted((tuple(row) for row in found), key=repr)


@pytest_asyncio.fixture
async def before(
    postgres_server: Server, service: ServiceDatabase, books: Books, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ServiceDatabase]:
    """A database as it was before migration 16, with what `books` has in it."""
    await filled(books)
    dsn, owner, superuser = (replace(one, database="before") for one in (service.dsn, service.owner, service.superuser))
    old = ServiceDatabase(dsn, owner, superuser)
    await postgres_server.run(f'CREATE DATABASE "before" OWNER "{service.owner.user}"')
    every = migrate.migrations
    with monkeypatch.context() as patch:
        patch.setattr(
            migrate,
            "migrations",
            lambda package: [one for one in every(package) if package != PACKAGE or one.number < 16],
        )
        await migrate.apply(old.owner, PACKAGE, service_role=service.dsn.user)
    connection = await connect(old.superuser)
    # No trigger runs: what they made is copied too.
    await connection.execute("SET session_replication_role = replica")
    for table, columns in await connection.fetch(COLUMNS, list(TABLES)):
        copied = [tuple(row) for row in await service.query(f"SELECT {', '.join(columns)} FROM {table}")]
        places = ", ".join(f"${place}" for place in range(1, len(columns) + 1))
        await connection.executemany(
            f"INSERT INTO {table} ({', '.join(columns)}) OVERRIDING SYSTEM VALUE VALUES ({places})", copied
        )
    await connection.execute("SELECT setval(pg_get_serial_sequence('book', 'id'), 100)")
    await connection.close()
    yield old
    await postgres_server.drop(old)


async def test_books_are_what_they_were_when_transfers_are_stored_otherwise(
    before: ServiceDatabase, service: ServiceDatabase, books: Books
) -> None:
    """Migration 16: rows of transfers with account numbers."""
    names = {row["table_name"]: row["columns"] for row in await before.query(COLUMNS, list(TABLES))}
    said = {table: await rows(before, table, columns) for table, columns in names.items()}
    kinds = {row["kind"] for row in await before.query("SELECT kind FROM transfer")}
    assert kinds == {"post", "hold", "increase", "capture", "reverse"}
    assert all(said[table] for table in TABLES)
    ran = await migrate.apply(before.owner, PACKAGE, service_role=service.dsn.user)
    assert ran == [
        "0016_transfer_row.sql",
        "0017_seals.sql",
        "0018_proposals.sql",
        "0019_refused_crossings.sql",
        "0020_keys_of_a_place.sql",
        "0021_dated_captures.sql",
        "0022_refused_accounts.sql",
        "0023_refused_proposals.sql",
        "0024_import_waits.sql",
    ]
    for table, columns in names.items():
        assert await rows(before, table, columns) == said[table], table
    numbers = await before.query("SELECT number FROM account")
    assert len({row["number"] for row in numbers}) == len(numbers) == 7
    stored = (await before.query("SELECT count(*) FROM transfer_row WHERE released = 0 OR dr_debits_pending = 0"))[0][0]
    assert stored == 0, "what is zero takes room"

    database = await before.open()
    again = Books(ledger_on(database, books.clock), books.clock, database)
    bank, anna = await again.open(side="debit"), await again.open()
    results = await again.post(move("post", bank, anna, 3), move("hold", anna, bank, 2))
    assert [one.status for one in results] == ["posted", "held"]
    assert await again.ledger.faults() == []


async def test_a_seal_that_is_no_instant_or_sealed_nothing_is_none(before: ServiceDatabase) -> None:
    """Migration 17."""
    seals = {
        "1": ("-infinity", None),
        "2": ("infinity", None),
        "3": ("1969-12-31T23:59:59Z", None),
        "4": ("2026-01-01T00:00:00Z", "2026-01-01"),
    }
    connection = await connect(before.superuser)
    for name, (sealed, _) in seals.items():
        await connection.execute(
            "INSERT INTO book (tenant, name, recorded_at, created_at, sealed_until) VALUES ('acme', $1, now(), now(), $2::text::timestamptz)",
            f"b{name}",
            sealed,
        )
    await connection.close()
    await migrate.apply(before.owner, PACKAGE, service_role=before.dsn.user)
    found = await before.query("SELECT substr(name, 2), sealed_until::date::text FROM book WHERE name LIKE 'b_'")
    assert {row[0]: row[1] for row in found} == {name: then for name, (_, then) in seals.items()}


async def test_keys_of_what_was_made_are_found_at_its_path(before: ServiceDatabase) -> None:
    """Migration 20: a key that has captured captures no second time."""
    made = await before.query("SELECT id, target FROM transfer WHERE kind = 'capture' ORDER BY id LIMIT 1")
    (capture, hold), refused = made[0], ids.transfers.new()
    own, undone = ids.transactions.new(), ids.transactions.new()
    connection = await connect(before.superuser)
    await connection.execute("SET session_replication_role = replica")
    await connection.execute(
        "INSERT INTO transaction (book, id, first, last, recorded_at, reverses) SELECT book, $1, 1, 1, now(), $2 FROM transfer WHERE id = $3",
        own, undone, capture,
    )  # fmt: skip
    (reversal,) = (await before.query("SELECT id FROM transfer WHERE kind = 'reverse'"))[0]
    await connection.execute("UPDATE transfer SET transaction = $1 WHERE id = $2", own, reversal)
    rows = (
        ("POST /v1/transfers/{id}/capture", "one", capture),
        ("POST /v1/transfers/{id}/capture", "no", refused),
        ("POST /v1/transactions/{id}/reverse", "two", reversal),
        ("POST /v1/transfers", "three", capture),
    )
    for route, key, resource in rows:
        await connection.execute(
            "INSERT INTO idempotency (tenant, client_id, route, key, digest, fields, resource, status, body) "
            "VALUES ('acme', 'cli', $1, $2, 'd', 'f', $3, 201, '{}')",
            route, key, resource,
        )  # fmt: skip
    await connection.close()
    await migrate.apply(before.owner, PACKAGE, service_role=before.dsn.user)
    found = await before.query("SELECT key, route, digest FROM idempotency")
    assert {row["key"]: (row["route"], row["digest"]) for row in found} == {
        "one": (f"POST /v1/transfers/{ids.transfers.text(TransferId(hold))}/capture", b""),
        "no": ("POST /v1/transfers/{id}/capture", b"d"),
        "two": (f"POST /v1/transactions/{ids.transactions.text(undone)}/reverse", b""),
        "three": ("POST /v1/transfers", b"d"),
    }
