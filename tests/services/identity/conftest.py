"""Identity on real parts, reached through its own web application."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats
import pytest_asyncio
import valkey.asyncio
from joserfc.jwk import ECKey, OKPKey, RSAKey
from nats.aio.client import Client as NatsClient

from tallystick.chassis.auth.authenticator import Authenticator
from tallystick.chassis.auth.cedar import Authorizer
from tallystick.chassis.auth.replay import ProofStore
from tallystick.chassis.auth.revocation import RevocationFeed
from tallystick.chassis.bus import REVOCATIONS
from tallystick.chassis.db import Database
from tallystick.chassis.keys import Keyring, root
from tallystick.chassis.outbox import Outbox
from tallystick.chassis.web.application import Application
from tallystick.kernel.clock import ManualClock
from tallystick.services.identity.api import ENDPOINTS
from tallystick.services.identity.app import assemble
from tallystick.services.identity.model.signing import Rotation
from tallystick.services.identity.service import Identity
from tests.conftest import DatabaseFor
from tests.services.identity.support import (
    ISSUER,
    MTLS_ORIGIN,
    TRUST_DOMAIN,
    ApiClient,
    PeerIdentity,
    SigningJwk,
    inner,
)
from tests.support.parts import NatsServer, ServiceDatabase

ROTATION = Rotation(life=timedelta(days=7), publish_ahead=timedelta(minutes=20), keep=timedelta(minutes=15))
PACKAGE = "tallystick.services.identity"


@dataclass
class World:
    """One identity with its parts; `replica` makes another one on the same database."""

    tables: ServiceDatabase
    database: Database
    keyring: Keyring
    valkey: valkey.asyncio.Valkey
    nats: NatsClient
    clock: ManualClock
    published: list[bytes] = field(default_factory=list)
    bus_works: bool = True
    identity: Identity = field(init=False)
    app: Application = field(init=False)

    def __post_init__(self) -> None:
        self.identity, self.app = self.replica()

    async def client(
        self, scope: str = "accounts:read payments:write", tenant: str = "default", key: SigningJwk | None = None
    ) -> ApiClient:
        signer = key or ECKey.generate_key("P-256", auto_kid=True)
        alg = {"EC": "ES256", "RSA": "PS256", "OKP": "EdDSA"}[signer.key_type]
        answer = await inner(
            self.app,
            "operator",
            "POST",
            "/internal/admin/clients",
            {"tenant": tenant, "name": "shop", "scope": scope, "jwks": {"keys": [signer.as_dict(private=False)]}},
        )
        assert answer.status == 201, answer.content
        return ApiClient(self.app, self.clock, answer.json["client_id"], signer, alg)

    async def tenant(self, name: str) -> None:
        answer = await inner(self.app, "operator", "POST", "/internal/admin/tenants", {"name": name})
        assert answer.status == 201, answer.content

    async def facts(self, type_: str) -> list[dict[str, object]]:
        rows = await self.tables.query("SELECT fact FROM outbox WHERE type = $1 ORDER BY xid, position", type_)
        return [json.loads(row["fact"]) for row in rows]

    def authenticator(self, service: str = "payments") -> Authenticator:
        """Token checks as another service has them."""
        asked = PeerIdentity(lambda: self.app, service)
        return Authenticator(
            public_url=ISSUER,
            mtls_url=MTLS_ORIGIN,
            trust_domain=TRUST_DOMAIN,
            identity=asked,
            proofs=ProofStore(self.valkey, service),
            feed=RevocationFeed(asked.revocations),
            clock=self.clock,
        )

    def replica(self) -> tuple[Identity, Application]:
        identity = _identity(self)
        return identity, _application(self, identity)


def _identity(world: World) -> Identity:
    async def publish(message: bytes) -> None:
        if not world.bus_works:
            raise ConnectionError("the bus is away")
        world.published.append(message)
        await world.nats.publish(REVOCATIONS, message)

    return assemble(
        database=world.database,
        outbox=Outbox(),
        keyring=world.keyring,
        valkey=world.valkey,
        clock=world.clock,
        authorizer=Authorizer.load(PACKAGE),
        publish=publish,
        issuer=ISSUER,
        mtls_origin=MTLS_ORIGIN,
        trust_domain=TRUST_DOMAIN,
        rotation=ROTATION,
    )


def _application(world: World, identity: Identity) -> Application:
    return Application(
        "identity",
        identity,
        ENDPOINTS,
        authenticator=world.authenticator("identity"),
        authorizer=Authorizer.load(PACKAGE),
    )


@pytest_asyncio.fixture
async def world(
    database_for: DatabaseFor, valkey: valkey.asyncio.Valkey, nats_server: NatsServer, directory: Path
) -> AsyncIterator[World]:
    tables = await database_for(PACKAGE)
    database = await tables.open()
    root.create(directory / "root.key")
    keyring = await Keyring.open(
        database,
        lambda: root.LocalRoot.open(directory / "root.key"),
        environment="test",
        service="identity",
        tells=True,
    )
    connection = await nats.connect(nats_server.url, user=nats_server.ADMIN, password=nats_server.password().reveal())
    try:
        made = World(tables, database, keyring, valkey, connection, ManualClock(datetime.now(UTC)))
        await made.identity.keys.rotate()
        yield made
    finally:
        await connection.close()


def rsa_key() -> RSAKey:
    return RSAKey.generate_key(2048, auto_kid=True)


def ed_key() -> OKPKey:
    return OKPKey.generate_key("Ed25519", auto_kid=True)
