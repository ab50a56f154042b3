"""Opens the parts that the environment names, in order; they are closed in the reverse order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.resources import files
from pathlib import Path
from typing import Final

from valkey.asyncio import BlockingConnectionPool, UnixDomainSocketConnection, Valkey

from tallystick.chassis.app.runtime import NotOpened, Runtime
from tallystick.chassis.auth import (
    Authenticator,
    Authorizer,
    Exchanged,
    IdentityUnavailable,
    Jwk,
    MeshIdentity,
    ProofStore,
    RevocationFeed,
    Snapshot,
)
from tallystick.chassis.auth.identity import Identity
from tallystick.chassis.bus import REVOCATIONS, Bus
from tallystick.chassis.cache import Cache
from tallystick.chassis.call import Client
from tallystick.chassis.charter import Charter
from tallystick.chassis.db import Bounds, Database, Dsn
from tallystick.chassis.keys import Keyring, LocalRoot
from tallystick.chassis.limits import Limits
from tallystick.chassis.settings import Settings
from tallystick.kernel.clock import Clock, SystemClock
from tallystick.kernel.deployment import HOME, deployment
from tallystick.kernel.secret import Secret

IDENTITY: Final = "identity"
VALKEY_CONNECTIONS: Final = 16
VALKEY_SECONDS: Final = 1.0


async def open_runtime(
    settings: Settings, charter: Charter, stack: AsyncExitStack, *, clock: Clock | None = None, package: str = ""
) -> Runtime:
    """A runtime with all parts open that `settings` name. Raises the part's problem when one can't be opened, and NotOpened when a
    part is named without something that it needs.

    `package` contains the service's `policy.cedar`; the default is `tallystick.services.<name>`.
    """
    clock = clock or SystemClock()
    database = await _database(settings, charter, stack)
    bus = await _bus(settings, stack)
    valkey = _valkey(settings, stack)
    client = _clients(settings, charter, stack)
    limits = Limits(
        settings.deployment,
        charter.limits.rates,
        max_in_flight=charter.limits.max_in_flight,
        max_queue=charter.limits.max_queue,
        valkey=valkey,
    )
    stack.push_async_callback(limits.close)
    runtime = Runtime(
        settings=settings,
        charter=charter,
        clock=clock,
        client=client,
        database=database,
        bus=bus,
        valkey=valkey,
        keyring=await _keyring(settings, charter, database, clock),
        authorizer=_authorizer(package or f"tallystick.services.{charter.name}"),
        limits=limits,
        cache=None if valkey is None else Cache(settings.deployment, valkey),
    )
    if valkey is not None:
        runtime.authenticate_with(await _authenticator(runtime, bus))
    return runtime


async def _database(settings: Settings, charter: Charter, stack: AsyncExitStack) -> Database | None:
    if settings.database_host is None:
        return None
    bounds = charter.limits
    database = await Database.open(
        Dsn(
            host=settings.database_host,
            port=settings.database_port,
            database=settings.database_name or settings.deployment,
            user=settings.database_user or settings.deployment,
            password=_password(settings.database_password, "DATABASE"),
        ),
        bounds=Bounds(
            connections=bounds.database_connections,
            waiting=bounds.max_in_flight + bounds.max_queue,
            lock_s=bounds.lock_timeout_ms / 1000,
            statement_s=bounds.statement_timeout_ms / 1000,
            transaction_s=bounds.transaction_timeout_ms / 1000,
        ),
        application=f"{settings.deployment}-{settings.replica}",
    )
    stack.push_async_callback(database.close)
    return database


async def _bus(settings: Settings, stack: AsyncExitStack) -> Bus | None:
    if settings.nats_url is None:
        return None
    bus = await Bus.open(
        settings.nats_url,
        settings.deployment,
        _password(settings.nats_password, "NATS"),
        name=f"{settings.deployment}-{settings.replica}",
    )
    stack.push_async_callback(bus.close)
    return bus


def _valkey(settings: Settings, stack: AsyncExitStack) -> Valkey | None:
    if settings.valkey_socket is None:
        return None
    # The blocking pool waits when all connections are in use, where the plain one raises.
    pool = BlockingConnectionPool(
        max_connections=VALKEY_CONNECTIONS,
        timeout=1,
        connection_class=UnixDomainSocketConnection,
        path=str(settings.valkey_socket),
        username=settings.deployment,
        password=_password(settings.valkey_password, "VALKEY").reveal(),
        socket_timeout=VALKEY_SECONDS,
        socket_connect_timeout=VALKEY_SECONDS,
    )
    client = Valkey(connection_pool=pool, auto_close_connection_pool=True)
    stack.push_async_callback(client.aclose)
    return client


def _clients(settings: Settings, charter: Charter, stack: AsyncExitStack) -> Callable[[str, str], Client] | None:
    folder = settings.mesh_dir
    if folder is None:
        return None

    def make(target: str, shard: str) -> Client:
        if target not in charter.calls:
            msg = f"the charter of {charter.name} has no [calls.{target}]: say there what for, how long, and what then"
            raise NotOpened(msg)
        call = charter.calls[target]
        client = Client(socket_of(folder, target, shard), target, timeout=call.timeout_ms / 1000, retries=call.retries)
        stack.push_async_callback(client.close)
        return client

    return make


def socket_of(mesh_dir: Path, target: str, shard: str = HOME) -> Path:
    """The service's own socket for calls to `target`, or to one of its shards. To the mesh, whoever can open it is this service."""
    return mesh_dir / f"{deployment(target, shard)}.sock"


async def _keyring(settings: Settings, charter: Charter, database: Database | None, clock: Clock) -> Keyring | None:
    file = settings.root_key_file
    if charter.keys is None or file is None:
        return None
    if database is None:
        msg = "a key ring keeps its wrapped keys in the database: set TALLYSTICK_DATABASE_HOST"
        raise NotOpened(msg)
    return await Keyring.open(
        database,
        lambda: LocalRoot.open(file, settings.root_passphrase),
        environment=settings.environment,
        service=settings.deployment,
        clock=clock,
        tells=bool(charter.tells),
    )


def _authorizer(package: str) -> Authorizer | None:
    return Authorizer.load(package) if files(package).joinpath("policy.cedar").is_file() else None


async def _authenticator(runtime: Runtime, bus: Bus | None) -> Authenticator:
    """Only a service that may call identity can check tokens; identity itself authenticates its callers by the mesh."""
    settings = runtime.settings
    identity: Identity = MeshIdentity(runtime.client(IDENTITY)) if IDENTITY in runtime.charter.calls else _NoIdentity()
    feed = RevocationFeed(identity.revocations)
    if bus is not None and IDENTITY in runtime.charter.calls:
        await bus.subscribe(REVOCATIONS, feed.receive)
    return Authenticator(
        public_url=settings.public_url,
        mtls_url=settings.mtls_url,
        trust_domain=settings.trust_domain,
        identity=identity,
        proofs=ProofStore(runtime.valkey, settings.service),
        feed=feed,
        clock=runtime.clock,
    )


class _NoIdentity:
    """For a service whose charter does not call identity. It accepts no tokens: every one is refused."""

    async def keys(self) -> list[Jwk]:
        raise IdentityUnavailable

    async def revocations(self) -> Snapshot:
        raise IdentityUnavailable

    async def exchange(self, access_token: str) -> Exchanged:
        del access_token
        raise IdentityUnavailable

    async def service_token(self, tenant: str, subject: str, purpose: str) -> Exchanged:
        del tenant, subject, purpose
        raise IdentityUnavailable


def _password(secret: Secret[str] | None, part: str) -> Secret[str]:
    if secret is None:
        msg = f"the environment names a part without its password: set TALLYSTICK_{part}_PASSWORD_FILE"
        raise NotOpened(msg)
    return secret
