"""Identity's typed client for the operator. Services need none: the chassis checks and exchanges tokens for them."""

from __future__ import annotations

from tallystick.chassis.call import Client as MeshClient
from tallystick.chassis.web import Page
from tallystick.contracts.identity.messages import (
    Client,
    CreateClient,
    CreateTenant,
    PublicJwks,
    RevokedEverything,
    SigningKey,
    Tenant,
)
from tallystick.contracts.identity.problems import (
    ClientNotFound,
    InvalidClientKey,
    InvalidScope,
    KeyNotFound,
    TenantExists,
    TenantNotFound,
)
from tallystick.kernel.ids import InvalidId
from tallystick.kernel.problem import InvalidRequest


class IdentityAdmin:
    """Tenants, clients and signing keys. Methods raise the problems that they name, and what `Client.request` raises."""

    def __init__(self, client: MeshClient) -> None:
        self._client = client

    async def create_tenant(self, name: str) -> Tenant:
        """Raises TenantExists."""
        return await self._client.request(
            "POST", "/internal/admin/tenants", CreateTenant(name=name), answer=Tenant, problems=(TenantExists,)
        )

    async def list_tenants(self, after: str | None = None, limit: int = 200) -> Page[Tenant]:
        path = f"/internal/admin/tenants?{_page(after, limit)}"
        return await self._client.request("GET", path, answer=Page[Tenant])

    async def create_client(
        self, tenant: str, name: str, scope: str, jwks: PublicJwks, *, certificate_bound: bool = False
    ) -> Client:
        """Raises TenantNotFound, InvalidScope, InvalidClientKey, and InvalidRequest for a name that contains a card number."""
        asked = CreateClient(
            tenant=tenant,
            name=name,
            scope=scope,
            jwks=jwks,
            tls_client_certificate_bound_access_tokens=certificate_bound,
        )
        return await self._client.request(
            "POST",
            "/internal/admin/clients",
            asked,
            answer=Client,
            problems=(TenantNotFound, InvalidScope, InvalidClientKey, InvalidRequest),
        )

    async def list_clients(self, tenant: str | None = None, after: str | None = None, limit: int = 200) -> Page[Client]:
        path = f"/internal/admin/clients?{_page(after, limit)}" + (f"&tenant={tenant}" if tenant else "")
        return await self._client.request("GET", path, answer=Page[Client])

    async def revoke_client(self, client_id: str) -> Client:
        """Revoking again changes nothing. Raises ClientNotFound, InvalidId."""
        return await self._client.request(
            "POST",
            f"/internal/admin/clients/{client_id}/revoke",
            answer=Client,
            idempotent=True,
            problems=(ClientNotFound, InvalidId),
        )

    async def list_keys(self) -> Page[SigningKey]:
        return await self._client.request("GET", "/internal/admin/keys", answer=Page[SigningKey])

    async def retire_key(self, kid: str) -> SigningKey:
        """Raises KeyNotFound, also for a key that is retired already."""
        return await self._client.request(
            "POST", f"/internal/admin/keys/{kid}/retire", answer=SigningKey, problems=(KeyNotFound,)
        )

    async def revoke_everything(self) -> RevokedEverything:
        return await self._client.request(
            "POST", "/internal/admin/revoke-everything", answer=RevokedEverything, idempotent=True
        )


def _page(after: str | None, limit: int) -> str:
    return f"limit={limit}" + (f"&after={after}" if after else "")
