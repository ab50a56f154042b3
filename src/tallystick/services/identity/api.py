"""All that arrives at identity by HTTP: OAuth for clients, tokens and keys for services, administration for the operator.

The OAuth endpoints answer errors as RFC 6749, section 5.2, says; everything else by problem documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tallystick.chassis.auth import certificate
from tallystick.chassis.web import Endpoint, Page, Reply, Request
from tallystick.chassis.web.paging import Paging, page, read_cursor
from tallystick.contracts.identity import messages
from tallystick.contracts.identity.problems import (
    ClientNotFound,
    InvalidClientKey,
    InvalidScope,
    KeyNotFound,
    TenantExists,
    TenantNotFound,
    TokenRefused,
)
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.problem import Forbidden
from tallystick.services.identity.model.clients import Client, Tenant
from tallystick.services.identity.model.forms import parse_form
from tallystick.services.identity.model.refusals import Refusal
from tallystick.services.identity.model.signing import Key
from tallystick.services.identity.service import Identity, metadata

JSON = {"Content-Type": "application/json"}
CACHED = JSON | {"Cache-Control": f"public, max-age={metadata.MAX_AGE_SECONDS}"}
#: RFC 6749, 5.1: what holds a token is kept by nobody. The chassis sets no-store; Pragma is for older caches.
NO_CACHE = {"Pragma": "no-cache"}
UNCACHED = JSON | NO_CACHE


class ClientList(Paging, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tenant: ids.TenantName | None = None


# ---- OAuth, at the edge ---------------------------------------------------------------------------------------------


async def token(service: Identity, request: Request) -> Reply[Any]:
    try:
        form = _form(request)
        client = await _authenticated(service, request, form)
        proofs = request.headers.all("dpop")
        return _oauth(await service.tokens.issue(client, form, proofs, _certificate(request)))
    except Refusal as refusal:
        return _refused(refusal)


async def revoke(service: Identity, request: Request) -> Reply[Any]:
    try:
        form = _form(request)
        client = await _authenticated(service, request, form)
        await service.tokens.revoke(client, form)
    except Refusal as refusal:
        return _refused(refusal)
    return Reply.raw(b"", headers=NO_CACHE)  # no type either: nothing is not JSON


async def introspect(service: Identity, request: Request) -> Reply[Any]:
    try:
        form = _form(request)
        client = await _authenticated(service, request, form)
        return _oauth(await service.tokens.introspect(client, form))
    except Refusal as refusal:
        return _refused(refusal)


async def authorization_server(service: Identity, request: Request) -> Reply[Any]:  # noqa: ARG001
    return Reply.raw(
        msgspec.json.encode(metadata.authorization_server(service.issuer, service.mtls_origin)), headers=CACHED
    )


async def protected_resource(service: Identity, request: Request) -> Reply[Any]:  # noqa: ARG001
    return Reply.raw(msgspec.json.encode(metadata.protected_resource(service.issuer)), headers=CACHED)


async def jwks(service: Identity, request: Request) -> Reply[Any]:  # noqa: ARG001
    keys = await service.keys.published(frozenset({"access"}))
    return Reply.raw(msgspec.json.encode({"keys": keys}), headers=CACHED)


def _form(request: Request) -> Mapping[str, str]:
    headers = request.headers
    return parse_form(headers.get("content-type"), request.raw_body, encoding=headers.get("content-encoding"))


async def _authenticated(service: Identity, request: Request, form: Any) -> Client:
    source = request.headers.get("x-envoy-external-address", "")  # set by the edge, whatever the client says
    return await service.authentication.authenticate(form, source, authorization=request.headers.get("authorization"))


def _certificate(request: Request) -> str | None:
    """The `x5t#S256` of the certificate that the client came with, set by the edge, whatever the client says."""
    told = request.headers.all(certificate.HEADER.decode())
    return certificate.thumbprint(told[0]) if len(told) == 1 else None


def _oauth(value: Any) -> Reply[Any]:
    return Reply.raw(msgspec.json.encode(value), headers=UNCACHED)


def _refused(refusal: Refusal) -> Reply[Any]:
    content = msgspec.json.encode({"error": refusal.code, "error_description": refusal.description})
    return Reply.raw(content, status=refusal.status, headers=UNCACHED | refusal.headers)


# ---- for services ---------------------------------------------------------------------------------------------------


async def inner_jwks(service: Identity, request: Request) -> Reply[messages.KeySet]:
    service.administration.allow(_caller(request), "readKeys")
    return Reply(messages.KeySet(keys=await service.keys.published()))


async def revocations(service: Identity, request: Request) -> Reply[messages.Revocations]:
    service.administration.allow(_caller(request), "readRevocations")
    return Reply(await service.revocations.snapshot())


async def exchange(service: Identity, request: Request[messages.TokenExchange]) -> Reply[messages.TransactionToken]:
    return Reply(await service.transactions.exchange(request.body.access_token, _caller(request)))


async def service_token(
    service: Identity, request: Request[messages.ServiceTokenRequest]
) -> Reply[messages.TransactionToken]:
    return Reply(await service.transactions.for_service(request.body, _caller(request)))


# ---- for the operator -----------------------------------------------------------------------------------------------


async def create_tenant(service: Identity, request: Request[messages.CreateTenant]) -> Reply[messages.Tenant]:
    return Reply(_tenant(await service.administration.create_tenant(request.body.name, _caller(request))))


async def list_tenants(service: Identity, request: Request[None, Paging]) -> Reply[Page[messages.Tenant]]:
    after = read_cursor(request.query.after, str) or ("",)
    found = await service.administration.list_tenants(_caller(request), str(after[0]), request.query.limit)
    return Reply(page([_tenant(each) for each in found], request.query.limit, lambda tenant: (tenant.name,)))


async def create_client(service: Identity, request: Request[messages.CreateClient]) -> Reply[messages.Client]:
    return Reply(_client(await service.administration.create_client(request.body, _caller(request))))


async def list_clients(service: Identity, request: Request[None, ClientList]) -> Reply[Page[messages.Client]]:
    query = request.query
    after = read_cursor(query.after, str)
    found = await service.administration.list_clients(
        _caller(request), query.tenant, str(after[0]) if after else None, query.limit
    )
    return Reply(page([_client(each) for each in found], query.limit, lambda client: (client.client_id,)))


async def revoke_client(service: Identity, request: Request) -> Reply[messages.Client]:
    return Reply(_client(await service.administration.revoke_client(request.path["id"], _caller(request))))


async def revoke_everything(service: Identity, request: Request) -> Reply[messages.RevokedEverything]:
    before = await service.administration.revoke_everything(_caller(request))
    return Reply(messages.RevokedEverything(issued_before=rfc3339(before)))


async def list_keys(service: Identity, request: Request) -> Reply[Page[messages.SigningKey]]:
    keys = await service.administration.list_keys(_caller(request))
    return Reply(Page(data=[_key(key) for key in keys], has_more=False))


async def retire_key(service: Identity, request: Request) -> Reply[messages.SigningKey]:
    return Reply(_key(await service.administration.retire_key(request.path["kid"], _caller(request))))


def _caller(request: Request[Any, Any]) -> str:
    if request.caller is None:
        raise Forbidden
    return request.caller


def _tenant(tenant: Tenant) -> messages.Tenant:
    return messages.Tenant(name=tenant.name, created_at=rfc3339(tenant.created_at))


def _client(client: Client) -> messages.Client:
    return messages.Client(
        client_id=ids.clients.text(client.id),
        tenant=client.tenant,
        name=client.name,
        scope=" ".join(client.scopes),
        key_ids=[key.kid for key in client.keys],
        tls_client_certificate_bound_access_tokens=client.certificate_bound,
        created_at=rfc3339(client.created_at),
        revoked_at=rfc3339(client.revoked_at) if client.revoked_at else None,
    )


def _key(key: Key) -> messages.SigningKey:
    return messages.SigningKey(
        kid=key.kid,
        purpose=key.purpose,
        state=key.state,
        created_at=rfc3339(key.created_at),
        activated_at=rfc3339(key.activated_at) if key.activated_at else None,
        retiring_at=rfc3339(key.retiring_at) if key.retiring_at else None,
        retired_at=rfc3339(key.retired_at) if key.retired_at else None,
    )


SERVICES = ("audit", "ledger", "notify", "payments", "risk", "vault")
OPERATOR = ("operator",)
BY_ASSERTION = "The client authenticates in the request itself, by private_key_jwt (RFC 7523)"
METADATA = "Says what this server can do; everyone may know"

ENDPOINTS = (
    Endpoint(
        "POST", "/oauth2/token", token, public=BY_ASSERTION, media="form", rate="token", form=messages.TokenRequest,
        ignores_query=True, answer=messages.AccessToken, refusal=messages.OAuthError,
        summary="Get an access token by client credentials (RFC 6749, 4.4), bound to a DPoP key (RFC 9449) or to a certificate (RFC 8705)",
    ),
    Endpoint(
        "POST", "/oauth2/revoke", revoke, public=BY_ASSERTION, media="form", rate="token", form=messages.AboutToken,
        ignores_query=True, refusal=messages.OAuthError,
        summary="Revoke an access token (RFC 7009)",
    ),
    Endpoint(
        "POST", "/oauth2/introspect", introspect, public=BY_ASSERTION, media="form", rate="token", form=messages.AboutToken,
        ignores_query=True, answer=messages.Introspection, refusal=messages.OAuthError,
        summary="Ask whether a token of your tenant is good, and what it says (RFC 7662)",
    ),
    Endpoint(
        "GET", "/oauth2/jwks", jwks, public="Public keys are public by nature", rate="read", answer=messages.KeySet,
        ignores_query=True, summary="The keys that access tokens are signed with (RFC 7517)",
    ),
    Endpoint(
        "GET", "/.well-known/oauth-authorization-server", authorization_server, public=METADATA, rate="read", answer=dict[str, object],
        ignores_query=True, summary="Metadata of the authorization server (RFC 8414)",
    ),
    Endpoint(
        "GET", "/.well-known/openid-configuration", authorization_server, public=METADATA, rate="read", answer=dict[str, object],
        ignores_query=True, summary="The same under OpenID Connect Discovery's name",
    ),
    Endpoint(
        "GET", "/.well-known/oauth-protected-resource", protected_resource, public=METADATA, rate="read", answer=dict[str, object],
        ignores_query=True, summary="Metadata of the API as a protected resource (RFC 9728)",
    ),
    Endpoint(
        "GET", "/internal/jwks", inner_jwks, mesh=SERVICES, action="readKeys", resource="Tenant",
        answer=messages.KeySet, summary="The keys of access tokens and of transaction tokens",
    ),
    Endpoint(
        "GET", "/internal/revocations", revocations, mesh=SERVICES, action="readRevocations", resource="Tenant",
        answer=messages.Revocations, summary="All that is revoked and still matters, as of an epoch",
    ),
    Endpoint(
        "POST", "/internal/token-exchange", exchange, mesh=SERVICES, action="exchangeToken", resource="Client",
        body=messages.TokenExchange, answer=messages.TransactionToken, problems=(TokenRefused, Forbidden),
        summary="The transaction token of an access token",
    ),
    Endpoint(
        "POST", "/internal/service-tokens", service_token, mesh=("ledger", "payments"), action="issueServiceToken",
        resource="Tenant", body=messages.ServiceTokenRequest, answer=messages.TransactionToken,
        problems=(ClientNotFound, Forbidden), summary="A transaction token for work without its client",
    ),
    Endpoint(
        "POST", "/internal/admin/tenants", create_tenant, mesh=OPERATOR, action="createTenant", resource="Tenant",
        body=messages.CreateTenant, answer=messages.Tenant, status=201, problems=(TenantExists,),
        summary="Create a tenant",
    ),
    Endpoint(
        "GET", "/internal/admin/tenants", list_tenants, mesh=OPERATOR, action="listTenants", resource="Tenant",
        query=Paging, answer=Page[messages.Tenant], summary="List the tenants",
    ),
    Endpoint(
        "POST", "/internal/admin/clients", create_client, mesh=OPERATOR, action="createClient", resource="Tenant",
        body=messages.CreateClient, answer=messages.Client, status=201,
        problems=(TenantNotFound, InvalidScope, InvalidClientKey), summary="Register a client with its public keys",
    ),
    Endpoint(
        "GET", "/internal/admin/clients", list_clients, mesh=OPERATOR, action="listClients", resource="Tenant",
        query=ClientList, answer=Page[messages.Client], problems=(ids.InvalidId,),
        summary="List the clients, of one tenant or of all",
    ),
    Endpoint(
        "POST", "/internal/admin/clients/{id}/revoke", revoke_client, mesh=OPERATOR, action="revokeClient",
        resource="Tenant", answer=messages.Client, problems=(ClientNotFound, ids.InvalidId),
        segments={"id": ids.ClientIdWire}, summary="Revoke a client and all of its tokens",
    ),
    Endpoint(
        "POST", "/internal/admin/revoke-everything", revoke_everything, mesh=OPERATOR, action="revokeEverything",
        resource="Tenant", answer=messages.RevokedEverything, summary="Revoke all tokens issued until now",
    ),
    Endpoint(
        "GET", "/internal/admin/keys", list_keys, mesh=OPERATOR, action="listKeys", resource="Tenant",
        answer=Page[messages.SigningKey], summary="List the signing keys and their states",
    ),
    Endpoint(
        "POST", "/internal/admin/keys/{kid}/retire", retire_key, mesh=OPERATOR, action="retireKey", resource="Tenant",
        answer=messages.SigningKey, problems=(KeyNotFound,), segments={"kid": str}, summary="Retire a signing key that leaked, at once",
    ),
)  # fmt: skip
