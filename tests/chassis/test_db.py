"""chassis.db on a real server: what is stored, what is said when it isn't, and that waiting always ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tallystick.chassis import db
from tallystick.chassis.db import Bounds, Database, Query
from tallystick.chassis.db.pool import Pool
from tallystick.chassis.deadline import Deadline
from tallystick.chassis.shares import OWNER
from tallystick.chassis.telemetry import metrics
from tallystick.kernel.problem import DeadlineExceeded, Overloaded, Problem
from tests.support.parts import PATIENT, Server, ServiceDatabase, new_secret


def queries(text: str) -> dict[str, Query]:
    return {query.name: query for query in db.parse(text, "test.sql")}


Q = queries(
    """
-- name: one
-- One.
SELECT 1 AS one;

-- name: backend
-- Which process serves us.
SELECT pg_backend_pid();

-- name: add
-- A row.
INSERT INTO t (id) VALUES ($1);

-- name: add_slow
-- A row that takes a while.
INSERT INTO t (id) SELECT $1 FROM (SELECT pg_sleep(0.3)) AS slow;

-- name: add_big
-- A large row.
INSERT INTO t (id, filler) VALUES ($1, $2);

-- name: count
-- How many.
SELECT count(*) FROM t;

-- name: ids
-- All.
SELECT id FROM t ORDER BY id;

-- name: sleep
-- Slow on purpose.
SELECT pg_sleep($1::float8);

-- name: lock_one
-- Locks a row.
SELECT id FROM t WHERE id = $1 FOR UPDATE;

-- name: bad_value
-- The server quotes the value in its error.
SELECT $1::text::integer;

-- name: ddl
-- Not for a service.
CREATE TABLE mine (id int);

-- name: settings
-- What the server enforces.
SELECT current_setting('lock_timeout') AS lock, current_setting('statement_timeout') AS statement,
       current_setting('transaction_timeout') AS transaction, current_setting('transaction_isolation') AS isolation;
"""
)

TABLE = "CREATE TABLE t (id int CONSTRAINT t_id PRIMARY KEY CONSTRAINT t_positive CHECK (id > 0), filler bytea)"
GRANT = "GRANT SELECT, INSERT, UPDATE ON t TO chassis_test"


async def prepared(service: ServiceDatabase) -> ServiceDatabase:
    await service.query(TABLE)
    await service.query(GRANT)
    return service


@pytest.fixture
async def service(chassis_database: ServiceDatabase) -> ServiceDatabase:
    return await prepared(chassis_database)


@pytest.fixture
async def database(service: ServiceDatabase) -> Database:
    return await service.open(connections=4)


@contextlib.asynccontextmanager
async def own_server(
    directory: Path, *, settings: dict[str, str] | None = None, **places: Path
) -> AsyncIterator[tuple[Server, ServiceDatabase]]:
    """A server that a test may kill, stop and fill. (It does not lose power: what the kernel has, it keeps.)"""
    server = Server(directory, settings={"fsync": "off", **(settings or {})}, **places)
    await server.part.start()
    service = None
    try:
        service = await prepared(await server.database("tallystick.chassis", "chassis_test"))
        yield server, service
    finally:
        for opened in service.opened if service is not None else ():
            await opened.close(within=0)
        await server.part.stop()


# --- transactions


async def test_a_transaction_is_stored_at_the_end_of_its_block(database: Database) -> None:
    after: list[str] = []
    async with database.transaction() as tx:
        tx.on_commit(lambda: after.append("stored"))
        assert await tx.execute(Q["add"], 1) == 1
        assert after == []
    assert after == ["stored"]
    assert await database.fetchval(Q["count"]) == 1


async def test_an_exception_rolls_back(database: Database) -> None:
    after: list[str] = []
    with pytest.raises(LookupError):
        async with database.transaction() as tx:
            tx.on_commit(lambda: after.append("stored"))
            await tx.execute(Q["add"], 1)
            raise LookupError
    assert after == []
    assert await database.fetchval(Q["count"]) == 0


async def test_a_swallowed_error_is_not_stored_in_silence(database: Database) -> None:
    with pytest.raises(db.DatabaseError, match="swallowed"):
        async with database.transaction() as tx:
            await tx.execute(Q["add"], 1)
            with pytest.raises(db.UniqueViolation) as caught:
                await tx.execute(Q["add"], 1)
            assert db.constraint_of(caught.value) == "t_id"
    assert await database.fetchval(Q["count"]) == 0


async def test_constraints_are_named_and_values_are_not(database: Database) -> None:
    with pytest.raises(db.CheckViolation) as check:
        await database.execute(Q["add"], -424242)
    assert db.constraint_of(check.value) == "t_positive"
    with pytest.raises(db.DatabaseError) as value:
        await database.fetchval(Q["bad_value"], "4242 4242 4242 4242")
    assert value.value.sqlstate == "22P02"
    with pytest.raises(db.DatabaseError) as argument:
        await database.execute(Q["add"], "4242424242424242")
    for caught in (check.value, value.value, argument.value):
        assert "4242" not in f"{caught} {caught!r} {caught.args}"
        assert caught.__cause__ is None
        assert caught.__suppress_context__


async def test_timeouts_and_isolation_are_the_servers_too(service: ServiceDatabase) -> None:
    database = await service.open(lock_s=1.5, statement_s=2.5, transaction_s=3.5)
    async with database.transaction() as tx:
        row = await tx.fetchrow(Q["settings"])
        assert row is not None
        assert tuple(row) == ("1500ms", "2500ms", "3500ms", "read committed")
    async with database.transaction(snapshot=True) as tx:
        row = await tx.fetchrow(Q["settings"])
        assert row is not None
        assert row["isolation"] == "repeatable read"


async def test_a_snapshot_sees_one_moment_and_writes_nothing(database: Database) -> None:
    async with database.transaction(snapshot=True) as tx:
        assert await tx.fetchval(Q["count"]) == 0
        await database.execute(Q["add"], 1)
        assert await tx.fetchval(Q["count"]) == 0
    with pytest.raises(db.DatabaseError) as caught:
        async with database.transaction(snapshot=True) as tx:
            await tx.execute(Q["add"], 2)
    assert caught.value.sqlstate == "25006"


async def test_the_services_role_has_no_ddl_and_only_its_grants(service: ServiceDatabase) -> None:
    database = await service.open()
    with pytest.raises(db.PermissionDenied):
        await database.execute(Q["ddl"])
    for sql in (
        "DELETE FROM t",
        "UPDATE outbox SET type = 'x'",
        "DELETE FROM inbox",
        "DELETE FROM dead_letter",
        "TRUNCATE outbox",
    ):
        query = queries(f"-- name: forbidden\n-- Not granted.\n{sql};")["forbidden"]
        with pytest.raises(db.PermissionDenied):
            await database.execute(query)


async def test_a_lock_that_others_keep_is_contention_not_failure(service: ServiceDatabase) -> None:
    database = await service.open(lock_s=0.1)
    await database.execute(Q["add"], 1)
    async with database.transaction() as tx:
        await tx.fetchval(Q["lock_one"], 1)
        with pytest.raises(db.Contended):
            async with database.transaction() as other:
                await other.fetchval(Q["lock_one"], 1)


async def test_of_two_that_deadlock_one_is_told_to_try_again(database: Database) -> None:
    for number in (1, 2):
        await database.execute(Q["add"], number)
    meet = asyncio.Barrier(2)

    async def take(first: int, second: int) -> str:
        try:
            async with database.transaction() as tx:
                await tx.fetchval(Q["lock_one"], first)
                await meet.wait()
                await tx.fetchval(Q["lock_one"], second)
        except db.Contended:
            return "contended"
        return "stored"

    assert sorted(await asyncio.gather(take(1, 2), take(2, 1))) == ["contended", "stored"]


# --- cancelling and deadlines


async def test_cancelled_in_a_statement_rolls_back_and_gives_the_connection_back(service: ServiceDatabase) -> None:
    database = await service.open(connections=1)

    async def work() -> None:
        async with database.transaction() as tx:
            await tx.execute(Q["add"], 1)
            await tx.fetch(Q["sleep"], 30.0)

    task = asyncio.create_task(work())
    await service.waiting("PgSleep")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await database.fetchval(Q["count"]) == 0


async def test_cancelled_in_the_commit_is_stored_all_the_same(service: ServiceDatabase) -> None:
    await service.query(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END'"
    )
    await service.query(
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    holds_up = await service.connection()
    await holds_up.execute("SELECT pg_advisory_lock(1)")
    database = await service.open(connections=1)
    told: list[str] = []

    async def work() -> None:
        async with database.transaction() as tx:
            tx.on_commit(lambda: told.append("stored"))
            await tx.execute(Q["add"], 1)

    task = asyncio.create_task(work())
    await service.waiting("advisory")
    for _ in range(3):  # a caller may be impatient
        task.cancel()
        await asyncio.sleep(0.01)
    await holds_up.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["stored"]
    assert await database.fetchval(Q["count"]) == 1


async def test_a_callers_deadline_ends_the_work_but_not_the_database(service: ServiceDatabase) -> None:
    database = await service.open(connections=1)
    with Deadline.after(0.1).scope():
        with pytest.raises(DeadlineExceeded) as caught:
            async with database.transaction() as tx:
                await tx.execute(Q["add"], 1)
                await tx.fetch(Q["sleep"], 30.0)
        assert not caught.value.outcome_unknown
        with pytest.raises(DeadlineExceeded):
            await database.fetch(Q["one"])
    assert await database.fetchval(Q["count"]) == 0


async def test_our_own_bound_says_unavailable(service: ServiceDatabase) -> None:
    database = await service.open(statement_s=0.1, transaction_s=0.2)
    with pytest.raises(db.DatabaseUnavailable):
        await database.fetch(Q["sleep"], 30.0)
    with pytest.raises(db.DatabaseUnavailable):
        async with database.transaction():
            await asyncio.sleep(30)


async def test_waiting_for_a_connection_is_bounded_in_number_and_time(service: ServiceDatabase) -> None:
    database = await service.open(connections=1, waiting=2, statement_s=0.4)
    await service.open()  # another of the same process hides nothing of the first
    async with database.transaction() as tx:
        results = await asyncio.gather(*(database.fetchval(Q["one"]) for _ in range(5)), return_exceptions=True)
        assert [type(r) for r in results] == [db.DatabaseUnavailable] * 2 + [Overloaded] * 3
        assert metrics.registry.get_sample_value("tallystick_database_connections_busy") == 1
        waits = asyncio.create_task(database.fetchval(Q["one"]))
        await asyncio.sleep(0)
        assert metrics.registry.get_sample_value("tallystick_database_waiting") == 1
        await asyncio.gather(waits, return_exceptions=True)
        assert metrics.registry.get_sample_value("tallystick_database_waiting") == 0
        await tx.fetch(Q["one"])
    database.bounds = PATIENT
    assert await asyncio.gather(*(database.fetchval(Q["one"]) for _ in range(3))) == [1, 1, 1]


async def owned(database: Database, owner: str, seconds: float) -> None:
    OWNER.set(owner)
    async with database.transaction() as tx:
        await tx.fetch(Q["sleep"], seconds)
    await database.fetch(Q["sleep"], seconds)
    assert OWNER.get() == owner


async def test_one_owner_does_not_have_all_connections(database: Database) -> None:
    async with asyncio.timeout(60):
        slow = [asyncio.create_task(owned(database, "acme", 0.7)) for _ in range(9)]
        await asyncio.sleep(0.3)
        for _ in range(9):
            await database.fetch(Q["one"])
            await owned(database, "globex", 0.0)
        assert not any(task.done() for task in slow)
        await asyncio.gather(*slow)
        await owned(database, "acme", 0.0)


async def test_an_owner_waits_for_no_second_connection_while_it_has_one(database: Database) -> None:
    """Three of four are the owner's at most: three that have one would wait for each other."""
    both = asyncio.Barrier(3)

    async def twice() -> None:
        OWNER.set("acme")
        async with database.transaction() as tx:
            await tx.fetch(Q["one"])
            await both.wait()
            await database.fetch(Q["one"])

    async with asyncio.timeout(60):
        await asyncio.gather(*(asyncio.create_task(twice()) for _ in range(3)))


async def test_waiters_that_leave_do_not_lose_connections(service: ServiceDatabase) -> None:
    database = await service.open(connections=2, waiting=200)

    async def one(patience: float) -> None:
        async with asyncio.timeout(patience):
            async with database.transaction() as tx:
                await tx.fetch(Q["sleep"], 0.003)

    for _ in range(4):
        await asyncio.gather(*(one(0.0005 * number) for number in range(40)), return_exceptions=True)
    async with asyncio.timeout(10), database.transaction() as first, database.transaction() as second:
        assert await first.fetchval(Q["one"]) + await second.fetchval(Q["one"]) == 2


async def test_who_is_told_to_stop_in_the_moment_in_which_the_pool_closes_is_stopped(database: Database) -> None:
    pool = Pool(database.connect, size=1, waiting=1)
    connection = await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    closing = asyncio.create_task(pool.close(5))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    pool.release(connection)
    await closing


async def test_a_place_that_came_free_is_counted_until_who_waits_for_it_takes_it(database: Database) -> None:
    """Or who asks in between would open a connection too, and there would be more of them than there may be, for good."""
    opened = 0

    async def connect() -> db.Connection:
        nonlocal opened
        opened += 1
        return await database.connect()

    pool = Pool(connect, size=1, waiting=3)
    broken = await pool.acquire()

    async def waits() -> None:
        pool.release(await pool.acquire())

    waiting = asyncio.create_task(waits())
    await asyncio.sleep(0)
    broken.terminate()
    pool.release(broken)
    broken = await pool.acquire()
    await waiting
    assert opened == 2
    leaving = asyncio.create_task(waits())
    await asyncio.sleep(0)
    broken.terminate()
    pool.release(broken)
    leaving.cancel()
    async with asyncio.timeout(60):
        pool.release(await pool.acquire())
    assert leaving.cancelled()
    assert opened == 3
    await pool.close(1)


@pytest.mark.parametrize("way", ["one bound", "one deadline"])
async def test_when_all_run_out_of_time_at_once_each_is_told_so(service: ServiceDatabase, way: str) -> None:
    """Who has a connection gives it back in the very moment in which those who wait for it are told to stop."""
    database = await service.open(connections=2, waiting=200, transaction_s=0.3)

    async def one() -> None:
        with Deadline.after(0.3 if way == "one deadline" else 10).scope():
            async with database.transaction() as tx:
                await tx.fetch(Q["sleep"], 30.0)

    ended = await asyncio.gather(*(one() for _ in range(50)), return_exceptions=True)
    assert {type(each) for each in ended} <= {db.DatabaseUnavailable, DeadlineExceeded}, ended[:5]
    assert await database.fetchval(Q["one"]) == 1


async def test_what_had_no_connection_was_not_stored(service: ServiceDatabase) -> None:
    database = await service.open(connections=1, statement_s=0.3)
    async with database.transaction():
        with pytest.raises(db.DatabaseUnavailable):
            await database.execute(Q["add"], 7)
    assert await service.query("SELECT FROM t") == []


# --- a server that goes away


async def test_killed_in_a_transaction_is_unavailable_and_comes_back(directory: Path) -> None:
    async with own_server(directory) as (server, service):
        database = await service.open(connections=2)
        await database.execute(Q["add"], 1)
        with pytest.raises(db.DatabaseUnavailable):
            async with database.transaction() as tx:
                await tx.execute(Q["add"], 2)
                assert server.part.pid
                os.kill(server.part.pid, signal.SIGKILL)
                await server.part.exited()
                await tx.execute(Q["add"], 3)
        with pytest.raises(db.DatabaseUnavailable):
            await database.fetch(Q["one"])
        await server.part.start()
        assert [row["id"] for row in await database.fetch(Q["ids"])] == [1]
        async with database.transaction() as tx:
            await tx.execute(Q["add"], 4)


async def test_restarted_while_idle_is_not_noticed(directory: Path) -> None:
    async with own_server(directory) as (server, service):
        database = await service.open(connections=2)
        await database.execute(Q["add"], 1)
        await server.part.stop()
        await server.part.start()
        assert await database.fetchval(Q["count"]) == 1
        await server.part.stop()
        await server.part.start()
        async with database.transaction() as tx:
            await tx.execute(Q["add"], 2)


async def test_killed_in_the_commit_is_unknown_and_may_be_stored(directory: Path) -> None:
    # A commit that waits for a standby which never comes is on disk already: the worst case of "the client got an error".
    settings = {"synchronous_standby_names": "'nobody'", "synchronous_commit": "local"}
    async with own_server(directory, settings=settings) as (server, service):
        await server.run("ALTER ROLE chassis_test SET synchronous_commit = 'on'")
        database = await service.open(connections=2)

        async def kill_soon() -> None:
            (pid,) = await service.waiting("SyncRep")
            os.kill(pid, signal.SIGKILL)

        with pytest.raises(db.CommitUnknown):
            async with database.transaction() as tx:
                await tx.execute(Q["add"], 7)
                killer = asyncio.create_task(kill_soon())
        await killer
        async with asyncio.timeout(60):
            while True:
                try:
                    assert [row["id"] for row in await database.fetch(Q["ids"])] == [7]
                    break
                except db.DatabaseUnavailable:
                    await asyncio.sleep(0.05)
        # The same outside of a transaction block: one statement commits by itself.
        task = asyncio.create_task(database.execute(Q["add"], 8))
        (pid,) = await service.waiting("SyncRep")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(db.CommitUnknown):
            await task


async def test_a_commit_that_never_ends_is_given_up_as_unknown(directory: Path) -> None:
    settings = {"synchronous_standby_names": "'nobody'", "synchronous_commit": "local"}
    async with own_server(directory, settings=settings) as (server, service):
        await server.run("ALTER ROLE chassis_test SET synchronous_commit = 'on'")
        database = await service.open(commit_s=0.2)
        with pytest.raises(db.CommitUnknown):
            async with database.transaction() as tx:
                await tx.execute(Q["add"], 1)


async def test_a_stopped_server_hangs_nobody(directory: Path) -> None:
    async with own_server(directory) as (server, service):
        database = await service.open(connections=2)
        async with database.transaction() as tx:
            backend = await tx.fetchval(Q["backend"])
        database.bounds = Bounds(transaction_s=0.5, statement_s=0.5)
        assert server.part.pid
        stopped = [server.part.pid, backend]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(60):
                with pytest.raises(db.DatabaseUnavailable):
                    async with database.transaction() as tx:
                        await tx.execute(Q["add"], 1)
                with pytest.raises(db.DatabaseUnavailable):
                    await database.fetch(Q["one"])
                with Deadline.after(0.1).scope(), pytest.raises(DeadlineExceeded):
                    await database.fetch(Q["one"])
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        database.bounds = PATIENT
        assert await database.fetchval(Q["count"]) == 0


async def test_a_full_disk_is_said_reads_go_on_and_nothing_is_lost(directory: Path) -> None:
    settings = {
        "shared_buffers": "'16MB'",
        "min_wal_size": "'32MB'",
        "max_wal_size": "'1GB'",
        "checkpoint_timeout": "'1h'",
    }
    with small_disk(directory, "80m") as disk:
        async with own_server(directory, data=disk / "pg", wal=directory / "wal", settings=settings) as (_, service):
            database = await service.open()
            stored = []
            filler = os.urandom(1_000_000)
            with pytest.raises(db.StorageFull) as caught:
                for number in range(1, 1000):
                    async with database.transaction() as tx:
                        await tx.execute(Q["add_big"], number, filler)
                    stored.append(number)
            assert caught.value.status == 507
            assert stored
            assert [row["id"] for row in await database.fetch(Q["ids"])] == stored
            assert not mount("-o", "remount,size=300m", str(disk))
            await database.execute(Q["add_big"], 1000, filler)
            assert [row["id"] for row in await database.fetch(Q["ids"])] == [*stored, 1000]


async def test_a_server_without_room_for_its_log_is_away_and_what_it_was_storing_is_unknown(directory: Path) -> None:
    """It panics, and a commit that waited for that may be in the log all the same. Nobody is told that it is not."""
    settings = {"max_wal_size": "'1GB'", "checkpoint_timeout": "'1h'", "wal_compression": "off"}
    stored: set[int] = set()
    unknown: set[int] = set()
    refused: dict[int, Problem] = {}
    with small_disk(directory, "64m") as disk:
        async with own_server(directory, wal=disk / "wal", settings=settings) as (server, service):
            database = await service.open()
            filler = os.urandom(20_000)

            async def write(numbers: range) -> None:
                for number in numbers:
                    try:
                        await database.execute(Q["add_big"], number, filler)
                        stored.add(number)
                    except db.CommitUnknown:
                        unknown.add(number)
                    except Problem as error:
                        refused[number] = error
                        return

            await asyncio.gather(*(write(range(10_000 * n + 1, 10_000 * (n + 1))) for n in range(8)))
            assert stored
            assert unknown
            assert {error.slug for error in refused.values()} == {"database-unavailable"}
            async with asyncio.timeout(30):
                await server.part.exited()
            assert "PANIC" in server.part.log.read_text()
            assert not mount("-o", "remount,size=300m", str(disk))
            await server.part.start()
            found = {row["id"] for row in await database.fetch(Q["ids"])}
            assert stored <= found <= stored | unknown
            await database.execute(Q["add_big"], 10_000, filler)


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    disk = directory / "disk"
    disk.mkdir()
    refusal = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk))
    if refusal:
        pytest.skip(f"needs the right to mount a small tmpfs: {refusal}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def mount(*arguments: str) -> str:
    """What `mount` complains about; nothing when it worked."""
    ran = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else ran.stderr.strip() or f"status {ran.returncode}"


async def test_no_server_and_wrong_password_are_unavailable(service: ServiceDatabase, directory: Path) -> None:
    from dataclasses import replace

    for dsn in (replace(service.dsn, host=str(directory)), replace(service.dsn, password=new_secret())):
        with pytest.raises((db.DatabaseUnavailable, db.DatabaseError)) as caught:
            await Database.open(dsn)
        assert dsn.password.reveal() not in f"{caught.value} {caught.value!r}"


# --- sessions


async def test_one_session_has_the_lock_and_it_goes_with_the_session(database: Database) -> None:
    async with db.session(database) as own:
        assert await own.lock("job")
        async with db.session(database) as other:
            assert not await other.lock("job")
            assert await other.lock("another job")
    async with db.session(database) as later:
        assert await later.lock("job")


async def test_a_session_notices_that_it_is_lost(database: Database, service: ServiceDatabase) -> None:
    async with db.session(database) as own:
        assert await own.lock("job")
        pid = await own.fetchval(Q["backend"])
        await service.query("SELECT 1")
        connection = await service.connection(superuser=True)
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
        await connection.close()
        with pytest.raises(db.DatabaseUnavailable):
            await own.fetchval(Q["one"])
        assert own.lost


# --- .sql files


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("SELECT 1;", "before the first"),
        ("-- name: a\nSELECT 1;", "no comment"),
        ("-- name: a\n-- Doc.\n", "not one statement"),
        ("-- name: a\n-- Doc.\nSELECT 1", "not one statement"),
        ("-- name: a\n-- Doc.\nSELECT 1; SELECT 2;", "not one statement"),
        ("-- name: a\n-- Doc.\nSELECT 1;\nDROP TABLE t;", "not one statement"),
        ("-- name: A b\n-- Doc.\nSELECT 1;", "snake_case"),
        ("-- name: a\n-- Doc.\nSELECT 1;\n-- name: a\n-- Doc.\nSELECT 2;", "second query"),
    ],
)
def test_a_bad_sql_file_is_refused_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(db.BadSql, match=rf"f\.sql:\d+.*{re.escape(complaint)}"):
        db.parse(text, "f.sql")


def test_semicolons_in_strings_and_comments_end_nothing() -> None:
    text = "-- A file.\n\n-- name: a\n-- First line,\n-- second line.\nSELECT ';', \"x;y\", $$;$$, $f$;$f$ -- ; no\n/* ; */ FROM t;\n-- after; it\n"
    (query,) = db.parse(text, "f.sql")
    assert query.name == "a"
    assert query.doc == "First line, second line."
    assert not query.sql.endswith(";")
    assert not query.writes


def test_what_writes_is_known() -> None:
    for sql, writes in (
        ("SELECT 1", False),
        ("SELECT 'insert' AS \"delete\"", False),
        ("WITH x AS (INSERT INTO t VALUES (1) RETURNING id) SELECT * FROM x", True),
        ("update t set id = 2", True),
    ):
        (query,) = db.parse(f"-- name: a\n-- Doc.\n{sql};", "f.sql")
        assert query.writes is writes, sql


async def test_whoever_stores_facts_wakes_the_relay_once_they_are_stored(database: Database) -> None:
    """By whatever statement, with a transaction around it or not."""
    text = """-- name: tell
-- A fact.
WITH told AS (INSERT INTO outbox (id, type, fact) VALUES ($1, 'test.thing.happened', '') RETURNING id) SELECT id FROM told;
-- name: look
-- What is read wakes nobody.
SELECT 'insert into outbox' FROM outbox WHERE id = $1;
"""
    tell, look = db.parse(text, "f.sql")
    assert (tell.tells, look.tells) == (True, False)
    for call in (database.fetch, database.execute):
        assert not await database.appended.wait(0)
        await call(look, uuid.uuid4())
        assert not await database.appended.wait(0)
        await call(tell, uuid.uuid4())
        assert await database.appended.wait(0)
    async with database.transaction() as tx:
        await tx.fetchval(tell, uuid.uuid4())
        assert not await database.appended.wait(0)
    assert await database.appended.wait(0)
    with pytest.raises(LookupError):
        async with database.transaction() as tx:
            await tx.execute(tell, uuid.uuid4())
            raise LookupError
    assert not await database.appended.wait(0)


def test_no_string_becomes_a_query() -> None:
    with pytest.raises(TypeError):
        Query("a", "SELECT 1", "doc", "here", False)
    loaded = db.Queries.load("tallystick.chassis", "outbox")
    assert loaded.append.name == "append"
    with pytest.raises(AttributeError, match="did you mean append"):
        _ = loaded.apend


async def test_a_unix_socket_takes_a_large_batch_at_once(service: ServiceDatabase) -> None:
    with socket.socket(socket.AF_UNIX) as plain:
        usual = plain.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    connection = await (await service.open()).connect()
    try:
        own = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        assert own.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > usual
    finally:
        await connection.close()


async def test_the_chassis_own_queries_prepare(chassis_database: ServiceDatabase) -> None:
    connection = await chassis_database.connection()
    try:
        for name in ("outbox", "inbox", "idempotency", "locks"):
            assert await db.prepare_all(db.Queries.load("tallystick.chassis", name), connection) == []
        bad = db.parse("-- name: a\n-- Doc.\nSELECT nothing FROM nowhere;", "f.sql")
        assert len(await db.prepare_all(bad, connection)) == 1
    finally:
        await connection.close()


def test_arguments_are_columns() -> None:
    assert db.arguments([(1, "a"), (2, "b")], 2) == [[1, 2], ["a", "b"]]
    assert db.arguments([], 2) == [[], []]
    with pytest.raises(ValueError):
        db.arguments([(1,)], 2)
