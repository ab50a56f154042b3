"""Who may do what, asked of the running edge by what it says of itself: its OpenAPI documents.

An endpoint that the documents don't list, or that INTERFACES.md promises and they don't have, fails here too.
"""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.support.stranger import Answer, Client, Edge, b64, refused
from tests.system.conftest import EVERY_SCOPE, Credentials, PlatformUnderTest

TENANT = "hostile-rights"
SERVICES = Path(__file__).parents[2] / "src" / "tallystick" / "services"

#: What docs/reference promises to clients -> the scope that it needs. Additions are free, losses are not.
PROMISED = {
    "POST /v1/tokens": "tokens:write",
    "GET /v1/tokens/{id}": "tokens:read",
    "DELETE /v1/tokens/{id}": "tokens:write",
    "POST /v1/tokens/{id}/reveal": "tokens:reveal",
    "POST /v1/accounts": "accounts:write",
    "GET /v1/accounts": "accounts:read",
    "GET /v1/accounts/{id}": "accounts:read",
    "GET /v1/accounts/{id}/entries": "accounts:read",
    "POST /v1/transfers": "transfers:write",
    "POST /v1/transfers/{id}/capture": "transfers:write",
    "POST /v1/transfers/{id}/void": "transfers:write",
    "POST /v1/transfers/{id}/reverse": "transfers:write",
    "GET /v1/transfers/{id}": "transfers:read",
    "POST /v1/payments": "payments:write",
    "GET /v1/payments": "payments:read",
    "GET /v1/payments/{id}": "payments:read",
    "POST /v1/payments/{id}/capture": "payments:write",
    "POST /v1/payments/{id}/cancel": "payments:write",
    "POST /v1/refunds": "refunds:write",
    "GET /v1/refunds/{id}": "payments:read",
    "GET /v1/audit/checkpoint": "audit:read",
    "GET /v1/audit/tile/{tile}": "audit:read",
    "GET /v1/audit/receipts/{id}": "audit:read",
    "POST /v1/webhook_endpoints": "webhooks:write",
    "GET /v1/webhook_endpoints/{id}/deliveries": "webhooks:write",
    "POST /v1/webhook_endpoints/{id}/deliveries/{delivery}/replay": "webhooks:write",
}

#: The only ones that need no token.
PUBLIC = {
    "GET /.well-known/openid-configuration",
    "GET /.well-known/oauth-authorization-server",
    "GET /.well-known/oauth-protected-resource",
    "GET /oauth2/jwks",
    "POST /oauth2/token",
    "POST /oauth2/revoke",
    "POST /oauth2/introspect",
}


class Operation(NamedTuple):
    where: str
    method: str
    path: str
    """With the parameters filled in."""
    scopes: frozenset[str]
    document: dict[str, Any]


async def documents(edge: Edge) -> dict[str, dict[str, Any]]:
    index = await edge.send("GET", "/openapi.json")
    assert index.status == 200, index
    found = {}
    for entry in index.json["data"]:
        answer = await edge.send("GET", entry["openapi"])
        assert answer.status == 200, (entry, answer)
        found[entry["service"]] = answer.json
    return found


def operations(found: dict[str, dict[str, Any]]) -> Iterator[Operation]:
    for document in found.values():
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                scopes = {scope for each in operation.get("security", []) for scope in each.get("dpop", [])}
                filled = path.replace("{tile}", "0/000")
                filled = re.sub(r"\{\w+\}", lambda _: "x_" + "0" * 26, filled)
                yield Operation(f"{method.upper()} {path}", method.upper(), filled, frozenset(scopes), operation)


async def token_for(client: Client, scope: str) -> str:
    answer = await client.post_form(client.form(scope=scope))
    assert (answer.status, answer.json["scope"]) == (200, scope), answer
    token: str = answer.json["access_token"]
    return token


async def ask(client: Client, operation: Operation, token: str | None) -> Answer:
    headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k")]
    if token is not None:
        proof = client.proof(operation.method, operation.path, token)
        headers += [("Authorization", f"DPoP {token}"), ("DPoP", proof)]
    body = b'{"no such member": 1}' if operation.method in {"POST", "PUT", "PATCH"} else None
    return await client.edge.send(operation.method, operation.path, headers, body)


async def test_the_documents_are_valid_and_say_what_is_promised(platform: PlatformUnderTest) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        found = await documents(edge)
        assert set(found) == {folder.parent.name for folder in SERVICES.glob("*/charter.toml")}
        for service, document in found.items():
            errors = list(OpenAPIV31SpecValidator(document).iter_errors())
            assert not errors, (service, errors)
        said = {operation.where: operation.scopes for operation in operations(found)}
        for where, scope in PROMISED.items():
            assert said.get(where) == frozenset({scope}), (where, said.get(where))
        assert {where for where, scopes in said.items() if not scopes} == PUBLIC
        assert {scope for scopes in said.values() for scope in scopes} <= set(EVERY_SCOPE.split())
        # none of the edge's prefixes is without a document, and nothing inside is in one
        prefixes = {
            path["prefix"]
            for charter in SERVICES.glob("*/charter.toml")
            for path in tomllib.loads(charter.read_text()).get("edge", {}).get("paths", [])
        }
        for prefix in prefixes:
            assert any(where.split(" ")[1].startswith(prefix) for where in said), prefix
        for where in said:
            assert any(where.split(" ")[1].startswith(prefix) for prefix in prefixes), where
            assert "/internal" not in where
        text = json.dumps(found)
        assert "spiffe" not in text
        assert "x-tallystick-peer" not in text


async def test_every_endpoint_wants_a_token_with_its_scope(
    platform: PlatformUnderTest, credentials: Credentials
) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        every = set(EVERY_SCOPE.split())
        without = {scope: await token_for(client, " ".join(sorted(every - {scope}))) for scope in sorted(every)}
        alone = {scope: await token_for(client, scope) for scope in sorted(every)}
        asked = 0
        for operation in operations(await documents(edge)):
            if not operation.scopes:
                continue
            [scope] = operation.scopes
            where = operation.where
            document = refused(await ask(client, operation, None), 401, "unauthenticated", where=where)
            assert document["error"] == "missing_token", where
            forged = alone[scope][:-8] + b64(b"abcdef")
            refused(await ask(client, operation, forged), 401, "unauthenticated", where=where)
            answer = await ask(client, operation, without[scope])
            refused(answer, 403, "insufficient-scope", scope, where=where)
            assert 'error="insufficient_scope"' in answer.header("www-authenticate"), where
            assert f'scope="{scope}"' in answer.header("www-authenticate"), where
            # and the scope is all that was missing: what is wrong now is the request
            answer = await ask(client, operation, alone[scope])
            assert answer.status in {200, 400, 404}, (where, answer)
            # every answer that was given is one that the document lists
            assert {"401", "403", str(answer.status)} <= set(operation.document["responses"]), where
            asked += 1
        assert asked >= len(PROMISED)


async def test_a_token_keeps_the_scope_that_it_was_asked_for(
    platform: PlatformUnderTest, credentials: Credentials
) -> None:
    """Less than the client may have stays less, by whatever way the request comes in, and for the services behind too."""
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        reading = await token_for(client, "payments:read")
        path = "/v1/payments"
        for name, value in (
            ("scope", "payments:write"),
            ("x-scope", "payments:write"),
            ("x-http-method-override", "POST"),
            ("txn-token", reading),
        ):
            headers = [
                ("Authorization", f"DPoP {reading}"),
                ("DPoP", client.proof("POST", path, reading)),
                ("Content-Type", "application/json"),
                ("Idempotency-Key", "k"),
                (name, value),
            ]
            refused(await edge.send("POST", path, headers, b"{}"), 403, "insufficient-scope", where=name)
        # a payment needs accounts, tokens and transfers of other services: their scopes are not needed, nor given
        writing = await token_for(client, "payments:write")
        for other in ("/v1/accounts", "/v1/audit/key", "/v1/webhook_endpoints", "/v1/payments"):
            headers = [("Authorization", f"DPoP {writing}"), ("DPoP", client.proof("GET", other, writing))]
            refused(await edge.send("GET", other, headers), 403, "insufficient-scope", where=other)


async def test_a_revoked_client_is_out_within_a_moment(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT, name="short-lived"))
        assert (await client.call("GET", "/v1/accounts")).status == 200
        done = await asyncio.to_thread(platform.cli, "client", "revoke", client.id)
        assert done.status == 0, done
        async with asyncio.timeout(30):
            while (answer := await client.call("GET", "/v1/accounts")).status != 401:
                await asyncio.sleep(0.05)
        refused(answer, 401, "unauthenticated")
        assert (await client.post_form(client.form())).status == 401
