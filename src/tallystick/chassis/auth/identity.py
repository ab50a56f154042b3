"""What authentication asks the service identity for, through the mesh."""

from typing import Protocol

import msgspec

from tallystick.chassis.auth.jose import Jwk
from tallystick.chassis.auth.problems import invalid_token
from tallystick.chassis.auth.revocation import Snapshot
from tallystick.chassis.call import Client
from tallystick.kernel.problem import Unauthenticated


class Exchanged(msgspec.Struct, frozen=True):
    """A transaction token that is valid for `expires_in` seconds."""

    transaction_token: str
    expires_in: int

    def __repr__(self) -> str:
        return f"Exchanged(expires_in={self.expires_in})"


class Identity(Protocol):
    """What `Authenticator` needs of identity. The service identity has its own implementation that doesn't leave its process."""

    async def keys(self) -> list[Jwk]: ...
    async def revocations(self) -> Snapshot: ...
    async def exchange(self, access_token: str) -> Exchanged: ...
    async def service_token(self, tenant: str, subject: str, purpose: str) -> Exchanged: ...


class _Jwks(msgspec.Struct, frozen=True):
    keys: list[Jwk]


class _TokenExchange(msgspec.Struct, frozen=True):
    access_token: str

    def __repr__(self) -> str:
        return "_TokenExchange(****)"


class _ServiceToken(msgspec.Struct, frozen=True):
    tenant: str
    subject: str
    purpose: str


class _TokenRefused(Unauthenticated):
    """Identity's answer to a token that it doesn't exchange."""

    slug, title = "token-refused", "The token is not valid"


class MeshIdentity:
    """Identity behind the mesh. Raises what `Client.request` raises, and CredentialsRefused for a token that is not exchanged."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def keys(self) -> list[Jwk]:
        return (await self._client.request("GET", "/internal/jwks", answer=_Jwks)).keys

    async def revocations(self) -> Snapshot:
        return await self._client.request("GET", "/internal/revocations", answer=Snapshot)

    async def exchange(self, access_token: str) -> Exchanged:
        try:
            return await self._client.request(
                "POST",
                "/internal/token-exchange",
                _TokenExchange(access_token),
                answer=Exchanged,
                idempotent=True,
                problems=(_TokenRefused,),
            )
        except _TokenRefused:  # it has been revoked or has expired since it was checked here
            raise invalid_token("The access token is not valid any more.") from None

    async def service_token(self, tenant: str, subject: str, purpose: str) -> Exchanged:
        asked = _ServiceToken(tenant, subject, purpose)
        return await self._client.request("POST", "/internal/service-tokens", asked, answer=Exchanged, idempotent=True)
