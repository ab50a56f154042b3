"""Forward-only migrations, run as the owner role. A service's own role can't run DDL and has only the rights that migrations grant.

Files are `sql/migrations/NNNN_what.sql` of the chassis and of the service; those of the chassis run first. Each runs in a transaction
of its own, together with the row that records it. `:service_role` in a file stands for the service's role. It is an error when a file
was changed after it ran, or is missing: how a database became what it is must stay readable.

PostgreSQL's planner statistics contain samples of a column's values. For a column of texts, documents or bytes that no index has, the
samples serve no query, and personal data in them would outlive its erasure in the table. So such columns have no statistics,
whichever migration created them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import asyncpg

from tallystick.chassis.db import Connection, DatabaseUnavailable, Dsn
from tallystick.chassis.db.errors import DRIVER_ERRORS

CHASSIS: Final = "tallystick.chassis"
_FILE: Final = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")
_ROLE: Final = re.compile(r"^[a-z][a-z0-9_-]{0,62}$")
_LOCK: Final = 0x7461_6C6C_79  # "tally": one migration of a database at a time
ELSEWHERE: Final = "what another process runs"

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migration (
    package text    NOT NULL,
    number  integer NOT NULL,
    file    text    NOT NULL,
    sha256  bytea   NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (package, number)
);
COMMENT ON TABLE schema_migration IS 'Which migrations this database went through.';
COMMENT ON COLUMN schema_migration.package IS 'class: internal';
COMMENT ON COLUMN schema_migration.number IS 'class: internal';
COMMENT ON COLUMN schema_migration.file IS 'class: internal';
COMMENT ON COLUMN schema_migration.sha256 IS 'class: internal';
COMMENT ON COLUMN schema_migration.at IS 'class: internal';
"""


def _each_column(which: str, does: str) -> str:
    """A statement that executes `does` for each table column that fulfils the condition `which`: `one.table` and `one.column`."""
    return rf"""
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT c.relname AS table, a.attname AS column
        FROM pg_attribute AS a
        JOIN pg_class AS c ON c.oid = a.attrelid AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
        WHERE a.attnum > 0 AND NOT a.attisdropped AND {which}
        ORDER BY c.relname, a.attnum
    LOOP
        {does}
    END LOOP;
END
$$
"""  # noqa: S608 - both are said below


#: No statistics for columns in no index: of bytes and documents, and of texts whose class is neither public nor internal.
_UNSAMPLED: Final = _each_column(
    """
          a.attstattarget IS DISTINCT FROM 0
          AND (a.atttypid IN ('bytea'::regtype, 'bytea[]'::regtype, 'jsonb'::regtype)
               OR (a.atttypid IN ('text'::regtype, 'text[]'::regtype)
                   AND col_description(c.oid, a.attnum) !~ '^class: (public|internal)'))
          AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey))
    """,
    """
        EXECUTE format('ALTER TABLE %I ALTER %I SET STATISTICS 0', one.table, one.column);
        PERFORM pg_clear_attribute_stats('public', one.table, one.column, false);
    """,
)
#: No compression: compressed values can't be searched for card numbers in the database's files, and parts of them look like some.
_UNCOMPRESSED: Final = _each_column(
    "a.attstorage = 'x'",
    "EXECUTE format('ALTER TABLE %I ALTER %I SET STORAGE EXTERNAL', one.table, one.column);",
)


class MigrationError(Exception):
    """A migration can't be run, or the database went through other migrations than the files. The message names the database and the
    file, and says what to do.
    """


@dataclass(frozen=True, slots=True)
class Migration:
    package: str
    number: int
    file: str
    sql: str

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.sql.encode()).digest()


def migrations(package: str) -> list[Migration]:
    """The migrations of a package, in order. Raises MigrationError for a malformed file name, or a number that is used twice."""
    folder = files(package).joinpath("sql", "migrations")
    found: dict[int, Migration] = {}
    if not folder.is_dir():
        return []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.startswith((".", "__")):
            continue
        name = _FILE.match(entry.name)
        if name is None:
            raise MigrationError(f"{package}: {entry.name} is not called NNNN_what.sql")
        number = int(name[1])
        if number in found:
            raise MigrationError(
                f"{package}: {entry.name} and {found[number].file} have the same number; take the next free one"
            )
        found[number] = Migration(package, number, entry.name, entry.read_text(encoding="utf-8"))
    return list(found.values())


async def check(connection: Connection, database: str, package: str) -> None:
    """Raise MigrationError for a database that went through other migrations than this program has, before it is changed or used."""
    if await connection.fetchval("SELECT to_regclass('public.schema_migration')") is not None:
        await _waiting(connection, database, _plan(package))


async def apply(
    owner: Dsn, package: str, *, service_role: str, begins: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Bring a database up to date: the chassis's migrations, then those of `package`. Returns the files that it ran.

    `begins` is called with each file before it runs, and with `ELSEWHERE` before waiting for another process that migrates. Several
    processes may call this at once. Raises MigrationError, and DatabaseUnavailable when it can't connect. A file that fails is rolled
    back as a whole; a repeat goes on with it.
    """
    if not _ROLE.match(service_role):
        raise MigrationError(f"{service_role!r} is not the name of a role")
    plan = _plan(package)
    try:
        connection: Connection = await asyncpg.connect(
            **owner.arguments(),
            timeout=10,
            server_settings={
                "application_name": "tallystick migrate",
                "client_min_messages": "warning",
                "lock_timeout": "10000",
            },
        )
    except DRIVER_ERRORS as error:
        raise DatabaseUnavailable(
            "the database can't be reached for its migrations", context={"error": type(error).__name__}
        ) from error
    try:
        with _explained(f"database {owner.database}: which migrations it went through"):
            if not await connection.fetchval(f"SELECT pg_try_advisory_lock({_LOCK})"):
                begins(ELSEWHERE)
                await connection.execute("SET lock_timeout = 0")  # as long as migrations take
                await connection.execute(f"SELECT pg_advisory_lock({_LOCK})")
                await connection.execute("SET lock_timeout = '10s'")
            await connection.execute(_TABLE)
            waiting = await _waiting(connection, owner.database, plan)
        ran = []
        for migration in waiting:
            begins(migration.file)
            await _run(connection, owner.database, migration, service_role)
            ran.append(migration.file)
        await _keep_plainly(connection, owner.database)
        return ran
    finally:
        connection.terminate()  # the lock goes with the session


def _plan(package: str) -> list[Migration]:
    return [*migrations(CHASSIS), *(migrations(package) if package != CHASSIS else [])]


async def _waiting(connection: Connection, database: str, plan: list[Migration]) -> list[Migration]:
    """The migrations of the plan that have not run on this database. Raises MigrationError when others ran on it."""
    rows = await connection.fetch("SELECT package, number, file, sha256 FROM schema_migration")
    applied = {(row["package"], row["number"]): row for row in rows}
    known = {(migration.package, migration.number) for migration in plan}
    for package, number in sorted(applied.keys() - known):
        file = applied[package, number]["file"]
        raise MigrationError(
            f"database {database}: {package}: {file} ran on it, but there is no such file: this program is older than the database"
        )
    waiting = []
    for migration in plan:
        row = applied.get((migration.package, migration.number))
        if row is None:
            waiting.append(migration)
        elif row["sha256"] != migration.sha256:
            raise MigrationError(
                f"database {database}: {migration.package}: {migration.file} was changed after it ran. Restore it and put the "
                "change into a new file"
            )
    return waiting


async def _run(connection: Connection, database: str, migration: Migration, service_role: str) -> None:
    with _explained(f"database {database}: {migration.package}: {migration.file}"):
        async with connection.transaction():
            await connection.execute(migration.sql.replace(":service_role", f'"{service_role}"'))
            await connection.execute(
                "INSERT INTO schema_migration (package, number, file, sha256) VALUES ($1, $2, $3, $4)",
                migration.package,
                migration.number,
                migration.file,
                migration.sha256,
            )


async def _keep_plainly(connection: Connection, database: str) -> None:
    with _explained(f"database {database}: how its columns are kept"):
        await connection.execute(_UNSAMPLED)
        await connection.execute(_UNCOMPRESSED)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raises MigrationError for an error of the driver, which alone says neither which database nor what was being done."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise MigrationError(f"{what}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    # When the connection was lost, leaving the transaction raises another error, of which the reason is the context.
    found = error.__context__ if isinstance(error, asyncpg.InterfaceError) and error.__context__ else error
    return " ".join(filter(None, (getattr(found, "sqlstate", None), str(found) or type(found).__name__)))
