"""Migrations: forward only, once, by the owner, and never changed afterwards."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tallystick.chassis import migrate
from tallystick.chassis.db import DatabaseUnavailable
from tallystick.chassis.migrate import MigrationError
from tallystick.local.provision import lost
from tallystick.local.slowly import Slowly
from tests.simulation.loop import in_virtual_time
from tests.support.parts import ServiceDatabase

Make = Callable[..., str]
_numbers = itertools.count(1)


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Make]:
    """Writes a package with migrations; called again with the same name it changes them."""
    sys.path.insert(0, str(tmp_path))
    made: list[str] = []

    def make(name: str = "", **files: str) -> str:
        name = name or f"migrated_{next(_numbers)}"
        folder = tmp_path / name / "sql" / "migrations"
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "__init__.py").touch()
        for old in folder.iterdir():
            old.unlink()
        for file, sql in files.items():
            (folder / f"{file.lstrip('_')}.sql").write_text(sql)
        importlib.invalidate_caches()
        made.append(name)
        return name

    yield make
    sys.path.remove(str(tmp_path))
    for name in made:
        sys.modules.pop(name, None)


async def apply(database: ServiceDatabase, package: str) -> list[str]:
    return await migrate.apply(database.owner, package, service_role="chassis_test")


ONE = "CREATE TABLE one (id int); GRANT SELECT ON one TO :service_role;"
TWO = "CREATE TABLE two (id int);"


async def test_each_file_runs_once_in_order(chassis_database: ServiceDatabase, package: Make) -> None:
    name = package(_0001_one=ONE)
    assert await apply(chassis_database, name) == ["0001_one.sql"]
    assert await apply(chassis_database, name) == []
    package(name, _0001_one=ONE, _0002_two=TWO)
    assert await apply(chassis_database, name) == ["0002_two.sql"]
    rows = await chassis_database.query("SELECT has_table_privilege('chassis_test', 'one', 'SELECT') AS may")
    assert rows[0]["may"]
    rows = await chassis_database.query("SELECT tableowner FROM pg_tables WHERE tablename = 'two'")
    assert rows[0]["tableowner"] == "chassis_test_owner"


async def test_a_file_that_takes_long_is_told_while_it_runs(chassis_database: ServiceDatabase, package: Make) -> None:
    name = package(_0001_one=ONE, _0002_long="SELECT pg_advisory_xact_lock(1)", _0003_two=TWO)
    await apply(chassis_database, migrate.CHASSIS)
    told: list[str | None] = []
    long = asyncio.Event()

    def tell(what: str | None) -> None:
        told.append(what)
        if what == "0002_long.sql":
            long.set()

    connection = await chassis_database.connection()
    await connection.execute("SELECT pg_advisory_lock(1)")
    with Slowly(tell, moment=0.01) as slowly:
        applying = asyncio.create_task(
            migrate.apply(chassis_database.owner, name, service_role="chassis_test", begins=slowly.begins)
        )
        await long.wait()
        assert not applying.done()
        await connection.close()
        assert await applying == ["0001_one.sql", "0002_long.sql", "0003_two.sql"]
    assert told[-1] is None


@in_virtual_time
async def test_only_what_takes_longer_than_a_moment_is_told() -> None:
    told: list[str | None] = []
    with Slowly(told.append, moment=2.0) as slowly:
        for what, seconds in (("a", 1.9), ("b", 2.1), ("c", 1.9)):
            slowly.begins(what)
            await asyncio.sleep(seconds)
        assert told == ["b"]
    await asyncio.sleep(60)
    assert told == ["b", None]
    with pytest.raises(MigrationError), Slowly(told.append):
        raise MigrationError
    assert told == ["b", None], "that they are done is not said of what failed"


async def test_a_failed_file_leaves_nothing_of_itself_behind(chassis_database: ServiceDatabase, package: Make) -> None:
    name = package(_0001_one=ONE, _0002_two=TWO + "SELECT 1 / 0;")
    database = chassis_database.owner.database
    with pytest.raises(MigrationError, match=rf"^database {database}: {name}: 0002_two\.sql: 22012 division by zero$"):
        await apply(chassis_database, name)
    rows = await chassis_database.query("SELECT to_regclass('one')::text AS one, to_regclass('two')::text AS two")
    assert tuple(rows[0]) == ("one", None)
    package(name, _0001_one=ONE, _0002_two=TWO)
    assert await apply(chassis_database, name) == ["0002_two.sql"]


async def test_a_server_that_goes_away_in_the_middle_is_said_with_the_file(
    chassis_database: ServiceDatabase, package: Make
) -> None:
    name = package(_0001_one=ONE, _0002_two=TWO + "SELECT pg_sleep(600);")
    running = asyncio.create_task(apply(chassis_database, name))
    other = await chassis_database.connection(superuser=True)
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND wait_event = 'PgSleep'"
    async with asyncio.timeout(30):
        while not await other.fetchval(ended, chassis_database.owner.database):
            await asyncio.sleep(0.02)
        with pytest.raises(MigrationError, match=r"0002_two\.sql: .*connection"):
            await running
        await other.close()
    package(name, _0001_one=ONE, _0002_two=TWO)
    assert await apply(chassis_database, name) == ["0002_two.sql"]


@pytest.mark.parametrize(
    "held", [f"SELECT pg_advisory_xact_lock({migrate._LOCK})", "LOCK TABLE schema_migration"], ids=["turn", "table"]
)
async def test_a_server_that_goes_away_before_the_first_file_is_said_with_the_database(
    chassis_database: ServiceDatabase, package: Make, held: str
) -> None:
    name, database = package(_0001_one=ONE), chassis_database.owner.database
    holder, other = [await chassis_database.connection(superuser=True) for _ in range(2)]
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'"
    async with asyncio.timeout(30), holder.transaction():
        await holder.execute(held)
        running = asyncio.create_task(apply(chassis_database, name))
        while not await other.fetchval(ended, database):
            await asyncio.sleep(0.02)
        with pytest.raises(MigrationError, match=rf"^database {database}: which migrations .*connection") as raised:
            await running
        assert lost(raised.value), "so that the platform waits for the server and tries again"
    await holder.close()
    await other.close()
    assert await apply(chassis_database, name) == ["0001_one.sql"]


async def test_a_file_that_was_changed_or_vanished_after_it_ran_is_an_error(
    chassis_database: ServiceDatabase, package: Make
) -> None:
    database = chassis_database.owner.database
    name = package(_0001_one=ONE, _0002_two=TWO)
    await apply(chassis_database, name)
    connection = await chassis_database.connection()
    await migrate.check(connection, database, name)
    package(name, _0001_one=ONE, _0002_two=TWO, _0003_three="SELECT 1 / 0")
    await migrate.check(connection, database, name)
    package(name, _0001_one=ONE + "-- a word", _0002_two=TWO)
    changed = pytest.raises(MigrationError, match=rf"^database {database}: {name}: 0001_one\.sql was changed")
    with changed:
        await apply(chassis_database, name)
    with changed:
        await migrate.check(connection, database, name)
    package(name, _0001_one=ONE, _0000_first="CREATE TABLE zero (id int)")
    vanished = pytest.raises(
        MigrationError, match=rf"^database {database}: {name}: 0002_two\.sql .* older than the data"
    )
    with vanished:
        await apply(chassis_database, name)
    with vanished:
        await migrate.check(connection, database, name)
    await connection.execute("DROP TABLE schema_migration")
    await migrate.check(connection, database, name)  # a new database
    await connection.close()


@pytest.mark.parametrize(
    "files", [{"_0001_one": "", "_0001_two": ""}, {"_1_one": ""}, {"_0001-one": ""}, {"_0001_One": ""}]
)
def test_names_and_numbers_are_checked(package: Make, files: dict[str, str]) -> None:
    with pytest.raises(MigrationError):
        migrate.migrations(package(**files))


async def test_many_at_once_run_each_file_once(chassis_database: ServiceDatabase, package: Make) -> None:
    name = package(_0001_one=ONE + "SELECT pg_sleep(0.1);", _0002_two=TWO)
    ran = await asyncio.gather(*(apply(chassis_database, name) for _ in range(6)))
    assert sorted(itertools.chain(*ran)) == ["0001_one.sql", "0002_two.sql"]


async def test_another_process_that_is_at_it_is_waited_for_and_told(
    chassis_database: ServiceDatabase, package: Make
) -> None:
    name, told = package(_0001_one=ONE), asyncio.Event()

    def begins(what: str) -> None:
        if what == migrate.ELSEWHERE:
            told.set()

    other = await chassis_database.connection()
    await other.execute(f"SELECT pg_advisory_lock({migrate._LOCK})")
    waiting = asyncio.create_task(
        migrate.apply(chassis_database.owner, name, service_role="chassis_test", begins=begins)
    )
    async with asyncio.timeout(30):
        await told.wait()
    await other.close()
    assert await waiting == ["0001_one.sql"]


async def test_a_role_is_a_name_and_nothing_else(chassis_database: ServiceDatabase, package: Make) -> None:
    with pytest.raises(MigrationError):
        await migrate.apply(chassis_database.owner, package(_0001_one=ONE), service_role='x"; DROP TABLE outbox; --')


async def test_the_services_own_role_can_not_migrate(chassis_database: ServiceDatabase, package: Make) -> None:
    with pytest.raises(Exception, match=r"42501|permission denied"):
        await migrate.apply(chassis_database.dsn, package(_0001_one=ONE), service_role="chassis_test")


async def test_no_database_is_unavailable(chassis_database: ServiceDatabase, package: Make, directory: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        await migrate.apply(
            replace(chassis_database.owner, host=str(directory)), package(), service_role="chassis_test"
        )


async def test_every_column_of_the_chassis_has_its_data_class(chassis_database: ServiceDatabase) -> None:
    rows = await chassis_database.query(
        """
        SELECT c.relname || '.' || a.attname AS name
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
          AND NOT coalesce(col_description(c.oid, a.attnum)
              ~ '^class: (public|internal|personal|cardholder|sensitive-authentication|secret)($|[^a-z])', false)
        """
    )
    assert [row["name"] for row in rows] == []


async def test_what_is_written_can_be_read_in_the_files(chassis_database: ServiceDatabase, package: Make) -> None:
    """Nothing is compressed, where a search for card numbers finds none, or finds pieces that look like one."""
    connection = await chassis_database.connection()
    try:
        await connection.execute("CREATE TABLE paper (id integer PRIMARY KEY, written text, held bytea, said jsonb)")
    finally:
        await connection.close()
    compressed = """
        SELECT count(*) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND a.attstorage = 'x'
    """
    assert (await chassis_database.query(compressed))[0][0] >= 3
    await apply(chassis_database, package())
    assert (await chassis_database.query(compressed))[0][0] == 0


async def test_no_samples_of_what_nobody_selects_by(chassis_database: ServiceDatabase, package: Make) -> None:
    """Of a table that is there already as of a new one; what was taken before goes."""
    connection = await chassis_database.connection()
    try:
        await connection.execute("""
            CREATE TABLE paper (id text PRIMARY KEY, kind text, written text, held bytea, said jsonb);
            COMMENT ON COLUMN paper.kind IS 'class: internal';
            COMMENT ON COLUMN paper.written IS 'class: personal; a letter';
            INSERT INTO paper
            SELECT n::text, 'letter', 'dear ' || n % 3, convert_to('dear ' || n % 3, 'UTF8'), jsonb_build_object('dear', n % 3)
            FROM generate_series(1, 100) AS n;
            ANALYZE paper;
        """)
        sampled = "SELECT attname FROM pg_stats WHERE tablename = 'paper' ORDER BY attname"
        assert [row["attname"] for row in await connection.fetch(sampled)] == ["held", "id", "kind", "said", "written"]
        await apply(chassis_database, package())
        assert [row["attname"] for row in await connection.fetch(sampled)] == ["id", "kind"]
        await connection.execute("ANALYZE paper")
        assert [row["attname"] for row in await connection.fetch(sampled)] == ["id", "kind"]
    finally:
        await connection.close()
