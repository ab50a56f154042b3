"""Tenants and clients, by the operator only; and what the server says of itself."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from joserfc.jwk import ECKey

from tallystick.chassis.charter import load
from tallystick.contracts.identity.messages import SCOPES
from tallystick.services.identity.api import ENDPOINTS
from tests.services.identity.conftest import World, ed_key, rsa_key
from tests.services.identity.support import ISSUER, Answer, SigningJwk, inner, send


def slug(answer: Answer) -> str:
    return str(answer.json["type"]).rsplit("/", 1)[-1]


def registration(**changes: Any) -> dict[str, Any]:
    key = ECKey.generate_key("P-256", auto_kid=True).as_dict(private=False)
    return {"tenant": "default", "name": "shop", "scope": "accounts:read", "jwks": {"keys": [key]}} | changes


async def create(world: World, body: dict[str, Any]) -> Answer:
    return await inner(world.app, "operator", "POST", "/internal/admin/clients", body)


async def test_the_default_tenant_is_there(world: World) -> None:
    answer = await inner(world.app, "operator", "GET", "/internal/admin/tenants")
    assert [each["name"] for each in answer.json["data"]] == ["default"]


async def test_tenants(world: World) -> None:
    for name in ("acme", "beta", "zeta"):
        await world.tenant(name)
    again = await inner(world.app, "operator", "POST", "/internal/admin/tenants", {"name": "acme"})
    assert (again.status, slug(again)) == (409, "tenant-exists")
    first = (await inner(world.app, "operator", "GET", "/internal/admin/tenants?limit=3")).json
    assert [each["name"] for each in first["data"]] == ["acme", "beta", "default"]
    rest = (await inner(world.app, "operator", "GET", f"/internal/admin/tenants?limit=3&after={first['next']}")).json
    assert ([each["name"] for each in rest["data"]], rest["has_more"]) == (["zeta"], False)
    assert [fact["resource"] for fact in await world.facts("identity.tenant.created")] == ["acme", "beta", "zeta"]


@pytest.mark.parametrize("name", ["", "A", "1a", "a_b", "a" * 41, "a\n", "é", "a b", "-a"])
async def test_tenants_have_plain_names(world: World, name: str) -> None:
    assert (await inner(world.app, "operator", "POST", "/internal/admin/tenants", {"name": name})).status == 400


async def test_the_platform_is_no_tenant(world: World) -> None:
    assert (await inner(world.app, "operator", "POST", "/internal/admin/tenants", {"name": "platform"})).status == 409


async def test_a_client(world: World) -> None:
    answer = await create(world, registration(scope="payments:write accounts:read"))
    assert answer.status == 201
    assert answer.json["scope"] == "accounts:read payments:write"
    assert "revoked_at" not in answer.json
    (fact,) = await world.facts("identity.client.created")
    assert (fact["resource"], fact["tenant"], fact["actor"]) == (answer.json["client_id"], "default", "operator")


@pytest.mark.parametrize("make", [rsa_key, ed_key])
async def test_keys_of_all_kinds(world: World, make: Any) -> None:
    assert (await create(world, registration(jwks={"keys": [make().as_dict(private=False)]}))).status == 201


async def test_several_keys(world: World) -> None:
    keys: list[SigningJwk] = [rsa_key(), ed_key(), ECKey.generate_key("P-256", auto_kid=True)]
    answer = await create(world, registration(jwks={"keys": [key.as_dict(private=False) for key in keys]}))
    assert sorted(answer.json["key_ids"]) == sorted(str(key.kid) for key in keys)


def _changed(**members: Any) -> dict[str, Any]:
    key = dict(ECKey.generate_key("P-256", auto_kid=True).as_dict(private=False)) | members
    return {"keys": [{name: value for name, value in key.items() if value is not None}]}


def _number(bits: int) -> str:
    """An odd number of that many bits, as a JWK member."""
    octets = ((1 << (bits - 1)) + 1).to_bytes(bits // 8, "big")
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _off_curve() -> dict[str, Any]:
    return _changed(x=base64.urlsafe_b64encode(b"\1" * 32).rstrip(b"=").decode())


@pytest.mark.parametrize(
    "jwks",
    [
        {"keys": []},
        _changed(kid=None),
        _changed(kid=""),
        _changed(d="AAAA"),
        _changed(alg="RS256"),
        _changed(use="enc"),
        _changed(kty="oct"),
        _changed(crv="P-384"),
        _changed(x="AAAA"),
        _changed(y=None),
        _off_curve(),
        {"keys": [ECKey.generate_key("P-256", {"kid": "1"}).as_dict(private=True)]},
        {"keys": [ECKey.generate_key("P-384", {"kid": "1"}).as_dict(private=False)]},
        {"keys": [{"kty": "RSA", "kid": "1", "e": "AQAB", "n": _number(1024)}]},
        {"keys": [{"kty": "RSA", "kid": "1", "e": "Aw", "n": _number(2048)}]},
        {"keys": [{"kty": "RSA", "kid": "1", "e": "AQAB", "n": _number(8192)}]},
        {"keys": [ECKey.generate_key("P-256", {"kid": "1"}).as_dict(private=False)] * 2},
        {"keys": [ECKey.generate_key("P-256", {"kid": str(n)}).as_dict(private=False) for n in range(9)]},
    ],
)
async def test_keys_that_are_not_taken(world: World, jwks: dict[str, Any]) -> None:
    answer = await create(world, registration(jwks=jwks))
    assert answer.status == 400, answer.content
    assert await world.tables.query("SELECT FROM client") == []


async def test_members_of_a_key_that_are_not_understood_are_ignored(world: World) -> None:
    answer = await create(world, registration(jwks=_changed(ext=True, x5u="https://evil.example")))
    assert answer.status == 201, answer.content
    assert b"evil" not in (await world.tables.query("SELECT keys FROM client"))[0]["keys"].encode()


async def test_a_private_member_is_refused_by_its_name(world: World) -> None:
    answer = await create(world, registration(jwks=_changed(d="AAAA")))
    assert [each["pointer"] for each in answer.json["errors"]] == ["/jwks/keys/0/d"]


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(b"\1" + bytes(31)).rstrip(b"=").decode()},
        {"kty": "RSA", "e": "AQAB", "n": _number(2048)},  # 3 divides it
    ],
    ids=["Ed25519", "RSA"],
)
async def test_keys_that_everybody_can_sign_for(world: World, jwk: dict[str, Any]) -> None:
    answer = await create(world, registration(jwks={"keys": [jwk | {"kid": "1"}]}))
    assert (answer.status, slug(answer)) == (400, "invalid-client-key")
    assert "everybody can sign for this key" in answer.json["detail"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"scope": "admin"}, 400),
        ({"scope": ""}, 400),
        ({"scope": "accounts:read accounts:read"}, 400),
        ({"tenant": "nobody"}, 404),
        ({"name": ""}, 400),
        ({"name": "a\nb"}, 400),
        ({"name": "n" * 101}, 400),
        ({"redirect_uris": []}, 400),
    ],
)
async def test_registrations_that_are_refused(world: World, changes: dict[str, Any], status: int) -> None:
    assert (await create(world, registration(**changes))).status == status


async def test_clients_are_listed_by_tenant(world: World) -> None:
    await world.tenant("acme")
    mine = [(await world.client()).client_id for _ in range(3)]
    other = (await world.client(tenant="acme")).client_id
    path = "/internal/admin/clients"
    first = (await inner(world.app, "operator", "GET", f"{path}?tenant=default&limit=2")).json
    assert [each["client_id"] for each in first["data"]] == mine[:2]
    rest = (await inner(world.app, "operator", "GET", f"{path}?tenant=default&limit=2&after={first['next']}")).json
    assert [each["client_id"] for each in rest["data"]] == mine[2:]
    everyone = (await inner(world.app, "operator", "GET", path)).json
    assert {each["client_id"] for each in everyone["data"]} == {*mine, other}
    assert (await inner(world.app, "operator", "GET", f"{path}?after=zzz")).status == 400


async def test_revoking_a_client_twice(world: World) -> None:
    client = await world.client()
    path = f"/internal/admin/clients/{client.client_id}/revoke"
    first, second = [(await inner(world.app, "operator", "POST", path)).json for _ in range(2)]
    assert first == second
    assert len(await world.facts("identity.client.revoked")) == 1
    nobody = f"/internal/admin/clients/cli_{'0' * 26}/revoke"
    assert (await inner(world.app, "operator", "POST", nobody)).status == 404
    assert (await inner(world.app, "operator", "POST", "/internal/admin/clients/x/revoke")).status == 400


@pytest.mark.parametrize("caller", ["payments", "ledger", "audit", "identity"])
async def test_only_the_operator_administers(world: World, caller: str) -> None:
    admin = [row for row in ENDPOINTS if row.path.startswith("/internal/admin/")]
    assert len(admin) == 8
    for row in admin:
        path = row.path.replace("{id}", "cli_" + "0" * 26).replace("{kid}", "k")
        assert (await inner(world.app, caller, row.method, path, {} if row.body else None)).status == 403, row.where


async def test_the_edge_is_no_way_to_the_inside(world: World) -> None:
    for row in ENDPOINTS:
        if row.mesh:
            path = row.path.replace("{id}", "x").replace("{kid}", "x")
            assert (await send(world.app, row.method, path)).status == 403, row.where


def test_the_table_and_the_charter_agree() -> None:
    by_caller: dict[str, set[str]] = {}
    for row in ENDPOINTS:
        for caller in row.mesh:
            by_caller.setdefault(caller, set()).add(row.where)
    assert by_caller == {caller: set(actions) for caller, actions in load("identity").callers.items()}


async def test_metadata(world: World) -> None:
    answer = await send(world.app, "GET", "/.well-known/oauth-authorization-server")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "public, max-age=300"
    document = answer.json
    assert document["issuer"] == ISSUER
    assert document["grant_types_supported"] == ["client_credentials"]
    assert document["token_endpoint_auth_methods_supported"] == ["private_key_jwt"]
    assert document["scopes_supported"] == list(SCOPES)
    assert (await send(world.app, "GET", "/.well-known/openid-configuration")).json == document
    # every endpoint that is advertised exists, and none is advertised that does not
    served = {row.path for row in ENDPOINTS}
    advertised = {value for name, value in document.items() if name.endswith(("_endpoint", "_uri"))}
    assert {value.removeprefix(ISSUER) for value in advertised} <= served
    assert not {"authorization_endpoint", "userinfo_endpoint", "registration_endpoint"} & set(document)


async def test_the_resource_takes_tokens_that_are_bound(world: World) -> None:
    document = (await send(world.app, "GET", "/.well-known/oauth-protected-resource")).json
    assert document["resource"] == ISSUER
    assert document["authorization_servers"] == [ISSUER]
    assert document["tls_client_certificate_bound_access_tokens"] is True
    assert document["dpop_signing_alg_values_supported"]
    assert document["bearer_methods_supported"] == ["header"], "in no form and no query"
