"""Clients whose tokens are bound to the certificate that they come with (RFC 8705): registration, token, and what is done with it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from joserfc.jwk import ECKey

from tests.services.identity.conftest import World
from tests.services.identity.support import ISSUER, MTLS_ORIGIN, Answer, ApiClient, decoded, inner, send
from tests.services.identity.test_token import refused, unauthenticated
from tests.support.tokens import b64

NAME = "tls_client_certificate_bound_access_tokens"
PATH = "/v1/payments"


@dataclass
class Shown:
    """A certificate, as the edge tells of it."""

    of: str = "certificate"

    @property
    def header(self) -> tuple[str, str]:
        return "x-tallystick-certificate", hashlib.sha256(self.of.encode()).hexdigest()

    @property
    def x5t(self) -> str:
        return b64(hashlib.sha256(self.of.encode()).digest())

    async def token(self, client: ApiClient, *more: tuple[str, str], assertion: str | None = None) -> Answer:
        form = client.form(assertion, grant_type="client_credentials")
        return await client.post("/oauth2/token", form, [self.header, *more])


async def registered(world: World, scope: str = "accounts:read payments:write", tenant: str = "default") -> ApiClient:
    key = ECKey.generate_key("P-256", auto_kid=True)
    jwk = {name: value for name, value in key.as_dict(private=False).items() if name in {"kty", "kid", "crv", "x", "y"}}
    body = {"tenant": tenant, "name": "shop", "scope": scope, "jwks": {"keys": [jwk]}, NAME: True}
    answer = await inner(world.app, "operator", "POST", "/internal/admin/clients", body)
    assert (answer.status, answer.json[NAME]) == (201, True), answer.content
    return ApiClient(world.app, world.clock, answer.json["client_id"], key)


async def test_registration_says_so_and_is_told(world: World) -> None:
    bound, plain = await registered(world), await world.client()
    listed = await inner(world.app, "operator", "GET", "/internal/admin/clients?limit=100")
    found = {each["client_id"]: each[NAME] for each in listed.json["data"]}
    assert (found[bound.client_id], found[plain.client_id]) == (True, False)
    facts: dict[Any, Any] = {fact["resource"]: fact["data"] for fact in await world.facts("identity.client.created")}
    assert facts[bound.client_id][NAME] is True
    assert facts[plain.client_id][NAME] is False


async def test_a_token_is_bound_to_the_certificate(world: World) -> None:
    client = await registered(world)
    answer = await Shown().token(client)
    assert (answer.status, answer.json["token_type"], answer.json["expires_in"]) == (200, "Bearer", 120)
    header, claims = decoded(answer.json["access_token"])
    assert (header["typ"], claims["iss"], claims["aud"]) == ("at+jwt", ISSUER, ISSUER)
    assert claims["cnf"] == {"x5t#S256": Shown().x5t}
    # whichever it comes with: the client proves itself by its assertion, and may take a new certificate at any time
    answer = await Shown("another").token(client)
    assert decoded(answer.json["access_token"])[1]["cnf"] == {"x5t#S256": Shown("another").x5t}


async def test_without_a_certificate_there_is_none(world: World) -> None:
    client = await registered(world)
    for headers in (
        [],
        [("x-tallystick-certificate", "-")],
        [Shown().header, Shown("other").header],
        [Shown().header] * 2,
    ):
        answer = await client.post("/oauth2/token", client.form(grant_type="client_credentials"), headers)
        refused(answer, "invalid_request")
        assert "mutual TLS" in answer.json["error_description"]
    refused(await client.token(), "invalid_request")


async def test_a_proof_with_it_is_refused_rather_than_ignored(world: World) -> None:
    client = await registered(world)
    for url in (ISSUER, MTLS_ORIGIN):
        refused(await Shown().token(client, ("dpop", client.proof(url=url + "/oauth2/token"))), "invalid_request")
    assert (await Shown().token(client)).status == 200


async def test_the_audience_of_assertions_stays_the_issuer(world: World) -> None:
    """FAPI 2.0, 5.3.2.1: one audience, whichever endpoint; what was meant for another door is not good at any."""
    client = await registered(world)
    for audience in (MTLS_ORIGIN, MTLS_ORIGIN + "/oauth2/token"):
        unauthenticated(await Shown().token(client, assertion=client.assertion(aud=audience)))
    assert (await Shown().token(client, assertion=client.assertion(aud=ISSUER))).status == 200


async def test_other_clients_may_come_there_with_a_proof_for_there(world: World) -> None:
    client = await world.client()
    answer = await Shown().token(client, ("dpop", client.proof(url=MTLS_ORIGIN + "/oauth2/token")))
    assert (answer.status, answer.json["token_type"]) == (200, "DPoP")
    assert decoded(answer.json["access_token"])[1]["cnf"] == {"jkt": client.dpop.thumbprint()}
    refused(await Shown().token(client, ("dpop", client.proof())), "invalid_dpop_proof")
    refused(await client.token(proofs=[client.proof(url=MTLS_ORIGIN + "/oauth2/token")]), "invalid_dpop_proof")
    refused(await Shown().token(client), "invalid_dpop_proof")


async def test_metadata_names_the_other_origin(world: World) -> None:
    for path in ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"):
        said = (await send(world.app, "GET", path)).json
        assert said["issuer"] == ISSUER
        assert said[NAME] is True
        assert said["mtls_endpoint_aliases"] == {
            name: said[name].replace(ISSUER, MTLS_ORIGIN)
            for name in ("token_endpoint", "revocation_endpoint", "introspection_endpoint")
        }
        assert "tls_client_auth" not in said["token_endpoint_auth_methods_supported"], "RFC 8705, 2, is not spoken here"
    api = (await send(world.app, "GET", "/.well-known/oauth-protected-resource")).json
    assert (api[NAME], api["dpop_bound_access_tokens_required"]) == (True, False)


async def test_introspection_shows_the_binding(world: World) -> None:
    client, other = await registered(world), await world.client()
    token = (await Shown().token(client)).json["access_token"]
    for asking in (client, other):
        said = (await asking.introspect(token)).json
        assert (said["active"], said["token_type"], said["cnf"]) == (True, "Bearer", {"x5t#S256": Shown().x5t})
    mine = (await other.introspect(await other.access_token())).json
    assert (mine["token_type"], mine["cnf"]) == ("DPoP", {"jkt": other.dpop.thumbprint()})


async def test_exchange_and_revocation(world: World) -> None:
    """The whole way: a service takes the token, exchanges it, and both end with its revocation."""
    client = await registered(world)
    token = (await Shown().token(client)).json["access_token"]
    exchanged = await inner(world.app, "payments", "POST", "/internal/token-exchange", {"access_token": token})
    assert exchanged.status == 200, exchanged.content
    claims = decoded(exchanged.json["transaction_token"])[1]
    assert (claims["sub"], claims["txn"]) == (client.client_id, decoded(token)[1]["jti"])
    assert "cnf" not in claims, "inside, the mesh says who calls"
    assert (await client.revoke(token)).status == 200
    assert (await client.introspect(token)).json == {"active": False}
    again = await inner(world.app, "payments", "POST", "/internal/token-exchange", {"access_token": token})
    assert again.status == 401
    assert json.loads(again.content)["type"].endswith("/token-refused")
