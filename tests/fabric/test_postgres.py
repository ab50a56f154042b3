"""The roles on a real server: what a service may do in its own database, and that it gets into no other."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from tallystick.chassis import charter as charters_module
from tallystick.chassis import migrate
from tallystick.chassis.db import Dsn
from tallystick.fabric import postgres
from tallystick.fabric.shards import with_shards
from tallystick.kernel.secret import Secret
from tests.support.parts import Server, connect


def renamed(name: str) -> charters_module.Charter:
    """A charter under a name that no other test's roles have."""
    original = charters_module.load("payments")
    limits = msgspec.structs.replace(original.limits, lock_timeout_ms=111, statement_timeout_ms=222)
    return msgspec.structs.replace(
        original, service=msgspec.structs.replace(original.service, name=name), limits=limits
    )


CHARTERS = {name: renamed(name) for name in ("fab_one", "fab_two")}
PASSWORD = "a-password-of-32-characters-0123"


@pytest_asyncio.fixture
async def roles(postgres_server: Server) -> AsyncIterator[dict[str, tuple[Dsn, Dsn]]]:
    """service -> (its role, its owner), made as a platform makes them; twice, because it must be safe to run again."""
    made = postgres.plans(CHARTERS)
    verifier = postgres.scram_verifier(PASSWORD)
    for again in (False, True):
        for plan in made.values():
            await postgres_server.run(*plan.roles)
            await postgres_server.run(
                *(postgres.password(role, verifier) for role in (plan.service_role, plan.owner_role))
            )
            if not again:
                await postgres_server.run(plan.create)
            await postgres_server.run(*plan.grants)
            await postgres_server.run(*plan.inside, database=plan.database)
    dsns = {}
    for name in made:
        dsn = replace(postgres_server.superuser, database=name, user=name, password=Secret(PASSWORD))
        dsns[name] = (dsn, replace(dsn, user=postgres.owner(name)))
        await migrate.apply(dsns[name][1], "tallystick.chassis", service_role=name)
    yield dsns
    for plan in made.values():
        await postgres_server.run(
            f'DROP DATABASE "{plan.database}" WITH (FORCE)',
            f'DROP ROLE "{plan.service_role}"',
            f'DROP ROLE "{plan.owner_role}"',
        )


async def test_a_service_uses_its_tables_and_makes_none(roles: dict[str, tuple[Dsn, Dsn]]) -> None:
    service, _ = roles["fab_one"]
    connection = await connect(service)
    try:
        await connection.execute("INSERT INTO inbox (source, consumer, last_seq) VALUES ('a', 'b', 1)")
        for forbidden in (
            "CREATE TABLE mine (a int)",
            "CREATE TEMP TABLE mine (a int)",
            "CREATE SCHEMA mine",
            "ALTER TABLE inbox ADD COLUMN x int",
            "DROP TABLE inbox",
            "TRUNCATE inbox",
            "UPDATE outbox SET type = 'forged.fact'",
            "CREATE ROLE mine",
            "CREATE DATABASE mine",
            'SET ROLE "fab_one_owner"',
            'SET ROLE "fab_two"',
            "SELECT * FROM schema_migration",
            "COPY inbox TO '/tmp/fab-x'",
            "SELECT pg_read_file('/etc/hostname')",
            "SELECT rolpassword FROM pg_authid",
            "SELECT lo_creat(-1)",
            "SELECT lo_create(0)",
            "SELECT lo_from_bytea(0, 'x')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
    finally:
        await connection.close()


async def test_nobody_gets_into_anothers_database(roles: dict[str, tuple[Dsn, Dsn]], postgres_server: Server) -> None:
    await postgres_server.run(*postgres.cluster())
    service, owner = roles["fab_one"]
    for stranger in (service, owner):
        for database in ("fab_two", "postgres", "template1"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connect(replace(stranger, database=database))


def test_as_many_replicas_as_a_charter_allows_have_their_connections() -> None:
    """Besides its pool a replica has a session for its relay, its schedules and its life, and one for each stream that it consumes."""
    charters = with_shards(charters_module.load_all(), ["eu"])
    for name, plan in postgres.plans(charters).items():
        charter = charters[name]
        (limit,) = [
            int(found[1]) for role in plan.roles if (found := re.search(rf'"{name}" CONNECTION LIMIT (\d+)', role))
        ]
        sessions = 3 + len(charter.consumes)
        assert limit >= (charter.limits.database_connections + sessions) * charter.scale.max_replicas, name


async def test_time_limits_are_the_charters(roles: dict[str, tuple[Dsn, Dsn]]) -> None:
    connection = await connect(roles["fab_two"][0])
    try:
        limits = CHARTERS["fab_two"].limits
        for setting, value in (
            ("lock_timeout", limits.lock_timeout_ms),
            ("statement_timeout", limits.statement_timeout_ms),
            ("transaction_timeout", limits.transaction_timeout_ms),
            ("idle_in_transaction_session_timeout", limits.transaction_timeout_ms),
        ):
            found = await connection.fetchval("SELECT setting::int FROM pg_settings WHERE name = $1", setting)
            assert (setting, found) == (setting, value)
        with pytest.raises(asyncpg.QueryCanceledError):
            await connection.execute("SELECT pg_sleep(30)")
    finally:
        await connection.close()


async def test_what_a_role_said_for_itself_ends_with_the_next_start(
    roles: dict[str, tuple[Dsn, Dsn]], postgres_server: Server
) -> None:
    service, _ = roles["fab_one"]
    connection = await connect(service)
    await connection.execute("ALTER ROLE fab_one SET synchronous_commit = off")
    await connection.execute("ALTER ROLE fab_one SET statement_timeout = 0")
    await connection.execute("ALTER ROLE fab_one IN DATABASE fab_one SET search_path = pg_temp, public")
    await connection.close()
    plan = postgres.plans(CHARTERS)["fab_one"]
    await postgres_server.run(*plan.roles, *plan.grants)
    connection = await connect(service)
    try:
        for setting, value in (
            ("synchronous_commit", "on"),
            ("statement_timeout", "222ms"),
            ("search_path", "public"),
        ):
            assert await connection.fetchval("SELECT current_setting($1)", setting) == value
    finally:
        await connection.close()


async def test_a_wrong_password_is_refused(roles: dict[str, tuple[Dsn, Dsn]]) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await connect(replace(roles["fab_one"][0], password=Secret("wrong")))


def test_a_password_in_clear_never_becomes_a_statement() -> None:
    with pytest.raises(ValueError, match="verifier"):
        postgres.password("ledger", PASSWORD)
    with pytest.raises(ValueError, match="verifier"):
        postgres.password("ledger", "x'; DROP ROLE postgres; --")
    with pytest.raises(ValueError, match="ASCII"):
        postgres.scram_verifier("pässword")


def test_the_verifier_is_rfc_7677s() -> None:
    """The example of RFC 7677 section 3: its salt, its password, and the server key that its signature comes from."""
    import base64
    import hashlib
    import hmac

    verifier = postgres.scram_verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    server_key = base64.b64decode(verifier.rsplit(":", 1)[1])
    message = (
        "n=user,r=rOprNGfwEbeRWgbNEkqO,"
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    signature = hmac.digest(server_key, message.encode(), hashlib.sha256)
    assert base64.b64encode(signature).decode() == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
