"""The operator's use cases: tenants, clients, and emergency revocations. Each change is told as a fact."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from tallystick.chassis.auth import Authorizer, Resource, jose
from tallystick.chassis.db import Database
from tallystick.chassis.fact import PLATFORM
from tallystick.chassis.outbox import Outbox
from tallystick.contracts.identity.messages import ClientCreated, CreateClient, TokenRevoked
from tallystick.contracts.identity.problems import ClientNotFound, InvalidClientKey, TenantExists, TenantNotFound
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.services.identity.model import scopes
from tallystick.services.identity.model.clients import Client, Tenant, client_keys
from tallystick.services.identity.model.revocations import revoked_client, revoked_everything
from tallystick.services.identity.model.signing import Key
from tallystick.services.identity.service.facts import fact
from tallystick.services.identity.service.peers import peer
from tallystick.services.identity.service.revocations import Announce, Revocations
from tallystick.services.identity.service.signing import SigningKeys
from tallystick.services.identity.store import FIRST, Store


class Administration:
    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        outbox: Outbox,
        clock: Clock,
        authorizer: Authorizer,
        keys: SigningKeys,
        revocations: Revocations,
    ) -> None:
        self._database = database
        self._store = store
        self._outbox = outbox
        self._clock = clock
        self._authorizer = authorizer
        self._keys = keys
        self._revocations = revocations

    async def create_tenant(self, name: str, caller: str) -> Tenant:
        """Raises TenantExists."""
        now = self.allow(caller, "createTenant", name)
        if name == PLATFORM:
            raise TenantExists(f"{PLATFORM} is the platform itself")
        tenant = Tenant(name, now)
        async with self._database.transaction() as tx:
            if not await self._store.insert_tenant(tx, tenant):
                raise TenantExists(f"there is a tenant {name} already")
            told = fact("identity.tenant.created", tenant=name, actor=caller, resource=name, at=now)
            await self._outbox.append(tx, [told])
        return tenant

    async def list_tenants(self, caller: str, after: str, limit: int) -> list[Tenant]:
        """At most `limit + 1`, by name: the extra one shows that there are more."""
        self.allow(caller, "listTenants", PLATFORM)
        return await self._store.list_tenants(after, limit + 1)

    async def create_client(self, request: CreateClient, caller: str) -> Client:
        """Raises TenantNotFound, InvalidScope, InvalidClientKey."""
        now = self.allow(caller, "createClient", request.tenant)
        keys = client_keys(request.jwks.keys)
        for key in keys:
            try:
                jose.attributable_key(msgspec.convert(dict(key.jwk), jose.Jwk))
            except jose.Refused as error:
                raise InvalidClientKey(error.reason, kid=key.kid) from error
        client = Client(
            id=ids.clients.new(),
            tenant=request.tenant,
            name=request.name,
            scopes=scopes.registered(request.scope),
            keys=keys,
            created_at=now,
            certificate_bound=request.tls_client_certificate_bound_access_tokens,
        )
        client_id = ids.clients.text(client.id)
        async with self._database.transaction() as tx:
            if not await self._store.insert_client(tx, client):
                raise TenantNotFound(f"there is no tenant {request.tenant}")
            told = fact(
                "identity.client.created",
                tenant=client.tenant,
                actor=caller,
                resource=client_id,
                at=now,
                data=ClientCreated(
                    scope=" ".join(client.scopes),
                    key_ids=tuple(key.kid for key in keys),
                    key_thumbprints=tuple(jose.thumbprint(msgspec.convert(key.jwk, jose.Jwk)) for key in keys),
                    tls_client_certificate_bound_access_tokens=client.certificate_bound,
                ),
            )
            await self._outbox.append(tx, [told])
        return client

    async def list_clients(self, caller: str, tenant: str | None, after: str | None, limit: int) -> list[Client]:
        """At most `limit + 1`, oldest first. Raises InvalidId for an invalid cursor."""
        self.allow(caller, "listClients", tenant or PLATFORM)
        start: UUID = ids.clients.parse(after) if after is not None else FIRST
        return await self._store.list_clients(tenant, start, limit + 1)

    async def revoke_client(self, client_id: str, caller: str) -> Client:
        """Revoke a client: it gets no new tokens, and its old ones become invalid. Repeating it changes nothing. Raises ClientNotFound."""
        now = self.allow(caller, "revokeClient", PLATFORM)
        key = ids.clients.parse(client_id)
        announce: Announce | None = None
        async with self._database.transaction() as tx:
            client = await self._store.revoke_client(tx, key, now)
            if client is not None:
                announce = await self._revocations.record(tx, revoked_client(client_id, now))
                told = fact("identity.client.revoked", tenant=client.tenant, actor=caller, resource=client_id, at=now)
                await self._outbox.append(tx, [told])
        if client is not None and announce is not None:
            await announce()
            return client
        revoked_before = await self._store.get_client(key)
        if revoked_before is None:
            raise ClientNotFound("there is no such client")
        return revoked_before

    async def revoke_everything(self, caller: str) -> datetime:
        """Revoke all tokens issued so far; clients get new ones as usual. Returns the time up to which tokens are revoked."""
        now = self.allow(caller, "revokeEverything", PLATFORM)
        async with self._database.transaction() as tx:
            announce = await self._revocations.record(tx, revoked_everything(now))
            told = fact(
                "identity.token.revoked", tenant=PLATFORM, actor=caller, resource="all", at=now, data=TokenRevoked()
            )
            await self._outbox.append(tx, [told])
        await announce()
        return now

    async def list_keys(self, caller: str) -> list[Key]:
        self.allow(caller, "listKeys", PLATFORM)
        return await self._keys.list_keys()

    async def retire_key(self, kid: str, caller: str) -> Key:
        """See SigningKeys.retire."""
        self.allow(caller, "retireKey", PLATFORM)
        return await self._keys.retire(kid, caller)

    def allow(self, caller: str, action: str, tenant: str = PLATFORM) -> datetime:
        """Raises Forbidden unless the policy allows this caller the action. Returns the time of the action."""
        now = self._clock.now()
        self._authorizer.require(
            peer(caller, tenant, now), action=action, resource=Resource("Tenant", tenant, {"tenant": tenant})
        )
        return now
