"""The real parts for tests: started once for a whole run, on loopback and Unix sockets, in a directory of their own."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from tallystick.chassis import migrate
from tallystick.chassis.bus import Permissions, streams
from tallystick.chassis.db import Bounds, Database, Dsn
from tallystick.fabric.nats import login
from tallystick.kernel.secret import Secret
from tallystick.local.parts import Nats, Postgres, Valkey, ValkeyUser
from tallystick.local.parts import nats as nats_part
from tallystick.local.parts import valkey as valkey_part
from tests.support import told
from tests.support.ports import free_port

PATIENT = Bounds(connect_s=60.0, lock_s=60.0, statement_s=60.0, transaction_s=60.0, commit_s=60.0)


def new_secret() -> Secret[str]:
    return Secret(secrets.token_urlsafe(32))


#: Memory that looks like a disk, and how much of it has to be free, also of the machine's, for the parts of a run.
IN_MEMORY = "/dev/shm"
ROOM = 4 * 2**30


def short_directory() -> Path:
    """Not pytest's tmp_path: a Unix socket's path has at most 107 bytes. In memory where there is room, since a run makes thousands of
    databases and writes tens of gigabytes that nobody keeps.
    """
    with suppress(OSError):
        if psutil.disk_usage(IN_MEMORY).free >= ROOM and psutil.virtual_memory().available >= 2 * ROOM:
            return Path(tempfile.mkdtemp(prefix="ts-", dir=IN_MEMORY))
    return Path(tempfile.mkdtemp(prefix="ts-", dir="/tmp"))


def remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


@dataclass
class ServiceDatabase:
    """A migrated database: `dsn` is the service's least-privilege role, `owner` the role that migrates, `superuser` may do anything.
    `package` is whose migrations made it.
    """

    dsn: Dsn
    owner: Dsn
    superuser: Dsn
    package: str = ""
    opened: list[Database] = field(default_factory=list)

    async def open(self, **bounds: Any) -> Database:
        """A pool as the service has it, but for its patience, which is that of a busy machine; closed after the test."""
        database = await Database.open(self.dsn, bounds=replace(PATIENT, **bounds), application="test")
        self.opened.append(database)
        return database

    async def connection(self, *, superuser: bool = False) -> asyncpg.Connection[asyncpg.Record]:
        """A bare connection as the owner, to look at or break things. The test closes it."""
        return await connect(self.superuser if superuser else self.owner)

    async def waiting(self, event: str = "%", *, count: int = 1) -> list[int]:
        """The server's processes in this database that wait for a lock, or for `event`, as soon as there are so many."""
        # Only a superuser sees what others wait for.
        connection = await self.connection(superuser=True)
        try:
            while True:
                rows = await connection.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event LIKE $1"
                    " AND wait_event_type IN ('Lock', 'Timeout', 'IPC')",
                    event,
                )
                if len(rows) >= count:
                    return [row["pid"] for row in rows]
                await asyncio.sleep(0.01)
        finally:
            await connection.close()

    async def leave_alone(self) -> None:
        """What is planned rests on what the test did: no worker of the server comes by and counts rows in the middle of it."""
        for row in await self.query(
            "SELECT oid::regclass::text AS name FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ):
            await self.query(f"ALTER TABLE {row['name']} SET (autovacuum_enabled = off)")

    async def query(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """Look at the tables as the owner."""
        connection = await self.connection()
        try:
            return await connection.fetch(sql, *args)
        finally:
            await connection.close()


async def connect(dsn: Dsn) -> asyncpg.Connection[asyncpg.Record]:
    return await asyncpg.connect(**dsn.arguments(), timeout=10)


class Server:
    """A PostgreSQL server and the databases made on it. A package's migrations run once, into a template; each test gets a copy."""

    def __init__(self, directory: Path, *, data: Path | None = None, **options: Any) -> None:
        self.password = new_secret()
        self.part = Postgres(
            data or directory / "pg",
            directory / "run",
            password=self.password,
            log=directory / "log" / "postgres.log",
            **options,
        )
        self.superuser = Dsn(host=str(directory / "run"), database="postgres", user="postgres", password=self.password)
        self._roles: dict[str, tuple[Dsn, Dsn]] = {}
        self._templates: dict[tuple[str, str], str] = {}
        self._made = 0

    async def run(self, *statements: str, database: str = "postgres") -> None:
        connection = await connect(replace(self.superuser, database=database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def database(self, package: str, service: str | None = None) -> ServiceDatabase:
        """A fresh, migrated database for a service. `service` is its role's name; by default the package's last part."""
        service = service or re.sub(r"\W", "_", package.rsplit(".", 1)[-1])
        if service not in self._roles:
            dsn = Dsn(host=self.superuser.host, database="postgres", user=service, password=new_secret())
            owner = replace(dsn, user=f"{service}_owner", password=new_secret())
            await self.run(
                *(f"CREATE ROLE \"{one.user}\" LOGIN PASSWORD '{one.password.reveal()}'" for one in (dsn, owner)),
            )
            self._roles[service] = (dsn, owner)
        dsn, owner = self._roles[service]
        template = self._templates.get((package, service))
        if template is None:
            template = f"template_{service}_{len(self._templates)}"
            await self.run(
                f'CREATE DATABASE "{template}" OWNER "{owner.user}"',
                f'REVOKE ALL ON DATABASE "{template}" FROM PUBLIC',
            )
            await self.run("REVOKE ALL ON SCHEMA public FROM PUBLIC", database=template)
            await migrate.apply(replace(owner, database=template), package, service_role=service)
            self._templates[package, service] = template
        self._made += 1
        name = f"test_{service}_{self._made}"
        await self.run(
            f'CREATE DATABASE "{name}" TEMPLATE "{template}" OWNER "{owner.user}"',
            f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC',
            f'GRANT CONNECT ON DATABASE "{name}" TO "{service}"',
            # A copy has no settings; those that the migrations made are part of what they made.
            "INSERT INTO pg_db_role_setting SELECT c.oid, s.setrole, s.setconfig FROM pg_db_role_setting AS s "
            f"JOIN pg_database AS t ON t.oid = s.setdatabase, pg_database AS c WHERE t.datname = '{template}' AND c.datname = '{name}'",
        )
        return ServiceDatabase(
            dsn=replace(dsn, database=name),
            owner=replace(owner, database=name),
            superuser=replace(self.superuser, database=name),
            package=package,
        )

    async def drop(self, database: ServiceDatabase) -> None:
        """The end of a database. What its service has told is as its charter says, or the test ends with an error."""
        try:
            if database.package.startswith("tallystick.services."):
                told.check([row["fact"] for row in await database.query("SELECT fact FROM outbox")])
        finally:
            for opened in database.opened:
                await opened.close(within=1)
            await self.run(f'DROP DATABASE IF EXISTS "{database.dsn.database}" WITH (FORCE)')


class NatsServer:
    """A NATS server with one account, streams and all. `admin` may do anything; `user` adds one with permissions."""

    ADMIN = "admin"

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.passwords: dict[str, Secret[str]] = {}
        self._users: dict[str, dict[str, Any]] = {}
        self._note(self.ADMIN, (">",), (">",))
        self.part = Nats(
            directory / "nats", port=port or free_port(), accounts=self._accounts, log=directory / "log" / "nats.log"
        )

    @property
    def url(self) -> str:
        return self.part.url

    def password(self, name: str = ADMIN) -> Secret[str]:
        return self.passwords[name]

    async def user(self, name: str, publish: tuple[str, ...], subscribe: tuple[str, ...]) -> Secret[str]:
        """Adds or changes a user; returns its password, with which one may come at once."""
        self._note(name, publish, subscribe)
        before = self._reloads()
        await self.part.reload(self._accounts)
        # Who comes while it reads its users anew may be let in and cut off again: what it has sent by then gets no answer.
        while self._reloads() == before:
            await asyncio.sleep(0.005)
        return self.passwords[name]

    def _reloads(self) -> int:
        return self.part.log.read_bytes().count(b"Reloaded server configuration")

    @property
    def _accounts(self) -> dict[str, Any]:
        here = {f"{streams.API}.>": "$JS.API.>"}  # the streams are in the same account
        return {"tests": {"jetstream": "enabled", "mappings": here, "users": list(self._users.values())}}

    def _note(self, name: str, publish: tuple[str, ...], subscribe: tuple[str, ...]) -> None:
        password = self.passwords.setdefault(name, new_secret())
        self._users[name] = login(name, nats_part.hash_password(password), Permissions(publish, subscribe))


class ValkeyServer:
    """A Valkey server with one user, `admin`, that may do anything."""

    ADMIN = "admin"

    def __init__(self, directory: Path) -> None:
        self.password = new_secret()
        self.socket = directory / "run-valkey" / "valkey.sock"
        self.part = Valkey(
            directory / "valkey",
            self.socket,
            users=[ValkeyUser(self.ADMIN, valkey_part.hash_password(self.password), ("~*", "&*", "+@all"))],
            log=directory / "log" / "valkey.log",
        )
