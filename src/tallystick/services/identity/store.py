"""Identity's tables: one method per named query, rows in, model types out. Transactions are the use cases' to open."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

import msgspec

from tallystick.chassis.db import Database, Queries, Row, Transaction
from tallystick.chassis.keys import TenantKeyColumn
from tallystick.kernel.ids import ClientId
from tallystick.services.identity.model.clients import Client, ClientKey, Tenant
from tallystick.services.identity.model.revocations import Revoked
from tallystick.services.identity.model.signing import Key, Move, State

QUERIES = Queries.load("tallystick.services.identity")

#: The private half of a key that signs tokens.
SIGNING_KEY: Final = TenantKeyColumn(
    table="signing_key",
    name="sealed_private",
    under=QUERIES.signing_keys_under,
    left=QUERIES.count_signing_keys_under,
    save=QUERIES.save_signing_keys,
)
SEALED: Final = (SIGNING_KEY,)

#: Smaller than every id: where a list begins.
FIRST = UUID(int=0)


class Store:
    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- tenants, clients

    async def insert_tenant(self, tx: Transaction, tenant: Tenant) -> bool:
        """Whether it is new."""
        return await tx.fetchrow(QUERIES.insert_tenant, tenant.name, tenant.created_at) is not None

    async def list_tenants(self, after: str, limit: int) -> list[Tenant]:
        rows = await self._database.fetch(QUERIES.list_tenants, after, limit)
        return [Tenant(row["name"], row["created_at"]) for row in rows]

    async def insert_client(self, tx: Transaction, client: Client) -> bool:
        """Whether there is such a tenant."""
        row = await tx.fetchrow(
            QUERIES.insert_client,
            client.id,
            client.tenant,
            client.name,
            list(client.scopes),
            msgspec.json.encode([[key.jwk, key.algorithms] for key in client.keys]).decode(),
            client.created_at,
            client.certificate_bound,
        )
        return row is not None

    async def get_client(self, client: ClientId) -> Client | None:
        row = await self._database.fetchrow(QUERIES.get_client, client)
        return _client(row) if row is not None else None

    async def list_clients(self, tenant: str | None, after: UUID, limit: int) -> list[Client]:
        return [_client(row) for row in await self._database.fetch(QUERIES.list_clients, tenant, after, limit)]

    async def revoke_client(self, tx: Transaction, client: ClientId, now: datetime) -> Client | None:
        """The client, if this call revoked it; None if there is no such client or it was revoked before."""
        row = await tx.fetchrow(QUERIES.revoke_client, client, now)
        return _client(row) if row is not None else None

    # ---- assertions

    async def use_assertion(self, client: ClientId, jti_hash: bytes, expires_at: datetime) -> bool:
        """Whether this is its first use. Committed when this returns, so a used assertion stays used."""
        return await self._database.fetchrow(QUERIES.use_assertion, client, jti_hash, expires_at) is not None

    async def forget_assertions(self, before: datetime) -> None:
        await self._database.execute(QUERIES.forget_assertions, before)

    # ---- signing keys

    async def lock_signing_keys(self, tx: Transaction) -> list[Key]:
        """All keys, locked against changes by others until the transaction ends."""
        await tx.execute(QUERIES.lock_signing_keys)
        return [_key(row) for row in await tx.fetch(QUERIES.all_signing_keys)]

    async def list_signing_keys(self) -> list[Key]:
        return [_key(row) for row in await self._database.fetch(QUERIES.all_signing_keys)]

    async def usable_signing_keys(self) -> list[tuple[Key, bytes]]:
        """Each with its sealed private half."""
        rows = await self._database.fetch(QUERIES.usable_signing_keys)
        return [(_key(row), bytes(row["sealed_private"])) for row in rows]

    async def insert_signing_key(self, tx: Transaction, key: Key, sealed: bytes) -> None:
        public = msgspec.json.encode(key.public_jwk).decode()
        await tx.execute(
            QUERIES.insert_signing_key,
            key.kid,
            key.purpose,
            key.state,
            public,
            sealed,
            key.created_at,
            key.activated_at,
        )

    async def move_signing_key(self, tx: Transaction, move: Move, now: datetime) -> None:
        query = {
            "active": QUERIES.activate_signing_key,
            "retiring": QUERIES.retire_signing_key_soon,
            "retired": QUERIES.retire_signing_key,
        }[move.to]
        await tx.execute(query, move.kid, now)

    # ---- revocations

    async def insert_revocation(self, tx: Transaction, revoked: Revoked) -> int | None:
        """The revocation's epoch; None if the same was revoked before. Other revocations wait until this transaction ends."""
        await tx.fetchval(QUERIES.lock_epoch)
        if await tx.fetchval(QUERIES.find_revocation, revoked.kind, revoked.id) is not None:
            return None
        epoch = await tx.fetchval(QUERIES.insert_revocation, revoked.kind, revoked.id, revoked.until)
        return cast("int", epoch)

    async def current_epoch(self) -> int:
        return cast("int", await self._database.fetchval(QUERIES.current_epoch))

    async def revocations(self, now: datetime) -> tuple[int, list[tuple[int, Revoked]]]:
        """The newest epoch, and the revocations still in effect with their epochs."""
        rows = await self._database.fetch(QUERIES.revocations, now)
        return rows[0]["current"], [_revoked(row) for row in rows if row["epoch"] is not None]

    async def revocations_since(self, epoch: int) -> list[tuple[int, Revoked]]:
        """At most 1000, oldest first."""
        return [_revoked(row) for row in await self._database.fetch(QUERIES.revocations_since, epoch)]

    async def forget_revocations(self, before: datetime) -> None:
        await self._database.execute(QUERIES.forget_revocations, before)

    async def token_stands(
        self, client: ClientId, tenant: str, *, jti: str, client_text: str, kid: str, issued_at: datetime
    ) -> bool:
        """Whether the tenant's client is active, and neither it, the token nor the signing key is revoked."""
        row = await self._database.fetchrow(
            QUERIES.token_standing, client, jti, client_text, kid, int(issued_at.timestamp()), tenant
        )
        return row is not None and not row["client_revoked"] and not row["revoked"]


def _client(row: Row) -> Client:
    keys: Sequence[tuple[dict[str, str], list[str]]] = msgspec.json.decode(row["keys"])
    return Client(
        id=ClientId(UUID(int=row["id"].int)),
        tenant=row["tenant"],
        name=row["name"],
        scopes=tuple(row["scopes"]),
        keys=tuple(ClientKey(jwk["kid"], jwk, tuple(algorithms)) for jwk, algorithms in keys),
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
        certificate_bound=row["tls_client_certificate_bound_access_tokens"],
    )


def _key(row: Row) -> Key:
    public: dict[str, Any] = msgspec.json.decode(row["public_jwk"])
    return Key(
        kid=row["kid"],
        purpose=row["purpose"],
        state=cast("State", row["state"]),
        public_jwk=public,
        created_at=row["created_at"],
        activated_at=row["activated_at"],
        retiring_at=row["retiring_at"],
        retired_at=row["retired_at"],
    )


def _revoked(row: Row) -> tuple[int, Revoked]:
    return row["epoch"], Revoked(row["kind"], row["id"], row["until"])
