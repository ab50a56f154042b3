"""Creates what services need before they start: databases, roles and logins. `fabric` derives them from the charters; they are applied here.

Everything can be done again on every start, so that a changed charter or a replaced secret takes effect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tallystick.chassis import migrate
from tallystick.chassis.audit import NoteError, VerifierKey
from tallystick.chassis.charter import OPERATOR, Charter
from tallystick.chassis.db import Connection, Dsn
from tallystick.fabric import nats as fabric_nats
from tallystick.fabric import postgres as fabric_postgres
from tallystick.fabric import valkey as fabric_valkey
from tallystick.kernel.deployment import service_of
from tallystick.kernel.secret import Secret
from tallystick.local import rail
from tallystick.local.layout import Layout, LayoutError
from tallystick.local.parts import Postgres, ValkeyUser
from tallystick.local.parts import nats as nats_part
from tallystick.local.parts import valkey as valkey_part
from tallystick.local.parts.postgres import SUPERUSER
from tallystick.local.parts.process import write_private
from tallystick.local.secrets import SecretFiles

OPERATOR_VALKEY: Final = ("~*", "+@read", "+ping", "-@dangerous", "+keys", "+info")
CREATE_TIMEOUT: Final = 60.0
#: Seconds between two looks for the log's key, which audit makes.
LOG_KEY_POLL: Final = 0.2
#: Errors caused by a server that is stopping, starting or gone.
_AWAY: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what the driver says now and then of a connection that is lost as it is used
)


def lost(error: Exception) -> bool:
    """Whether work on the server failed because the server is stopping, starting or gone."""
    reason = error.__cause__ or error
    return isinstance(reason, _AWAY) and not isinstance(
        reason, TimeoutError
    )  # that is a server which is there, and slow


def bus_accounts(charters: Mapping[str, Charter], secrets: SecretFiles) -> dict[str, fabric_nats.Account]:
    """The bus: every service's login. The operator has none: the bus knows nothing that is not stored elsewhere."""
    return fabric_nats.accounts(charters, lambda name: nats_part.hash_password(secrets.get(f"{name}/nats")))


def valkey_users(charters: Mapping[str, Charter], secrets: SecretFiles) -> list[ValkeyUser]:
    """Valkey: every service's login, and the operator's, which may only read."""
    words_of = {**fabric_valkey.rules(charters), OPERATOR: OPERATOR_VALKEY}
    return [
        ValkeyUser(name, valkey_part.hash_password(secrets.get(f"{name}/valkey")), words)
        for name, words in words_of.items()
    ]


def sandbox(service: str, layout: Layout) -> dict[str, str]:
    """What only the sandbox of one machine allows: the vault may send card numbers to the rail's socket, and webhooks may go to
    receivers on the same machine. And where the log's key lies.
    """
    if service == "vault":
        # Not beside the sockets: those may be below /tmp, where what nobody reads for days is taken away, and the vault reads it as it starts.
        destinations = layout.data / "destinations.toml"
        write_private(destinations, rail.destination(layout.run / "rail.sock"))
        return {"TALLYSTICK_DESTINATIONS_FILE": str(destinations), "TALLYSTICK_LOG_KEY_FILE": str(layout.log_key)}
    if service == "notify":
        return {"TALLYSTICK_PRIVATE_WEBHOOKS": "true"}
    return {}


def pinned_log_key(layout: Layout) -> VerifierKey | None:
    """The pinned public key of the log; None before the log has signed. Raises LayoutError if the file holds no key."""
    try:
        return VerifierKey.parse(layout.log_key.read_text(encoding="ascii", errors="replace"))
    except FileNotFoundError:
        return None
    except NoteError as error:
        raise LayoutError(
            f"{layout.log_key} is damaged ({error}): restore it, or delete it to trust the log's present key"
        ) from error


class Databases:
    """The services' databases on the local server, which listens on a socket in `layout`."""

    def __init__(self, layout: Layout, secrets: SecretFiles) -> None:
        self._layout = layout
        self._secrets = secrets
        self._superuser = Dsn(
            host=str(layout.postgres_sockets), database="postgres", user=SUPERUSER, password=secrets.get(Postgres.name)
        )

    async def create(self, charters: Mapping[str, Charter]) -> None:
        """Databases and roles of all services, with the passwords of the secret files. Raises `migrate.MigrationError` for a database that this
        program does not know: none is migrated then, and no service begins to read what a newer one wrote.
        """
        connection = await _connect(self._superuser)
        try:
            await connection.execute(";\n".join(fabric_postgres.cluster()), timeout=CREATE_TIMEOUT)
            present = {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
            statements: list[str] = []
            plans = fabric_postgres.plans(charters)
            for plan in plans.values():
                statements += plan.roles
                for role, secret in ((plan.service_role, "database"), (plan.owner_role, "owner")):
                    password = self._secrets.get(f"{plan.database}/{secret}").reveal()
                    statements.append(fabric_postgres.password(role, fabric_postgres.scram_verifier(password)))
            # One transaction for all: one flush to disk instead of a hundred.
            await connection.execute(";\n".join(statements), timeout=CREATE_TIMEOUT)
            # Each copies a template of 7 MB through the log; side by side they share the flushes.
            await asyncio.gather(*(self._create(plan) for plan in plans.values() if plan.database not in present))
            grants = [statement for plan in plans.values() for statement in plan.grants]
            await connection.execute(";\n".join(grants), timeout=CREATE_TIMEOUT)
        finally:
            connection.terminate()
        await asyncio.gather(*(self._inside(plan) for plan in plans.values()))

    async def migrate(self, name: str, begins: Callable[[str], None]) -> list[str]:
        """Brings one deployment's database up to date; answers the files that ran, each of which `begins` is told. Raises
        `migrate.MigrationError`.
        """
        return await migrate.apply(self.owner(name), package(name), service_role=name, begins=begins)

    async def pin_log_key(self) -> None:
        """Writes the log's public key to its file, once and for ever: from then on the log can't choose by which key it is checked. It
        makes the key when it signs for the first time, so this waits for that, and for a database that is away for a moment.
        """
        while not self._layout.log_key.exists():
            with contextlib.suppress(*_AWAY):
                if (key := await self._log_key()) is not None:
                    write_private(self._layout.log_key, f"{key}\n", mode=0o644)
                    return
            await asyncio.sleep(LOG_KEY_POLL)

    async def _log_key(self) -> VerifierKey | None:
        connection = await _connect(replace(self._superuser, database="audit"))
        try:
            row = await connection.fetchrow("SELECT name, public FROM log_key")
        finally:
            connection.terminate()
        return VerifierKey(row["name"], Ed25519PublicKey.from_public_bytes(row["public"])) if row is not None else None

    def service(self, service: str) -> Dsn:
        """How the service itself comes in."""
        return replace(
            self._superuser, database=service, user=service, password=self._secrets.get(f"{service}/database")
        )

    def owner(self, service: str) -> Dsn:
        """How its migrations come in."""
        secret: Secret[str] = self._secrets.get(f"{service}/owner")
        return replace(self._superuser, database=service, user=fabric_postgres.owner(service), password=secret)

    async def _create(self, plan: fabric_postgres.Plan) -> None:
        connection = await _connect(self._superuser)
        try:
            await connection.execute(plan.create, timeout=CREATE_TIMEOUT)
        finally:
            connection.terminate()

    async def _inside(self, plan: fabric_postgres.Plan) -> None:
        connection = await _connect(replace(self._superuser, database=plan.database))
        try:
            await migrate.check(connection, plan.database, package(plan.database))
            await connection.execute(";\n".join(plan.inside), timeout=CREATE_TIMEOUT)
        finally:
            connection.terminate()


def package(name: str) -> str:
    """The package of a deployment's service, whose migrations its database has."""
    return f"tallystick.services.{service_of(name)}"


async def superuser(layout: Layout, database: str = "postgres") -> Connection:
    """A connection as the superuser of a server that runs."""
    host, password = str(layout.postgres_sockets), SecretFiles(layout.secrets).get(Postgres.name)
    return await _connect(Dsn(host=host, database=database, user=SUPERUSER, password=password))


async def _connect(dsn: Dsn) -> Connection:
    return await asyncpg.connect(
        **dsn.arguments(),
        timeout=30,
        server_settings={"application_name": "tallystick supervisor", "client_min_messages": "warning"},
    )
