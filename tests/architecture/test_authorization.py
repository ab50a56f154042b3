"""Authorization of every endpoint, from the tables: a new row is tested by being there.

Each table is served by the real application with the real authenticator and the service's own policy. Behind it stands
a service that must not be reached: whatever says no, says it before any handler runs. What a handler itself must refuse
(another tenant's resource by its id) is asked of the running platform, `tests/system/test_authorization.py`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from valkey.asyncio import Valkey

from tallystick.chassis.auth import Authorizer, Resource, Subject
from tallystick.chassis.web import Application, Endpoint
from tests.architecture.tree import BUILT, CHARTERS, SERVICES, endpoints
from tests.support.http import World, ask, world

#: INTERFACES: the scopes that a client can have.
SCOPES = frozenset(
    f"{kind}:{right}"
    for kind, rights in {
        "accounts": ("read", "write"),
        "approvals": ("sign", "write"),
        "audit": ("read",),
        "books": ("export", "import", "read", "write"),
        "payments": ("read", "write"),
        "refunds": ("write",),
        "tokens": ("read", "reveal", "write"),
        "transfers": ("read", "write"),
        "webhooks": ("write",),
    }.items()
    for right in rights
)

EDGE = [(service, row) for service in BUILT for row in endpoints(service) if row.scope is not None]
MESH = [(service, row) for service in BUILT for row in endpoints(service) if row.mesh]


def named(cases: list[tuple[str, Endpoint]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("service", "row"), cases, ids=[f"{name} {row.where}" for name, row in cases])


class Untouchable:
    """A service that no refused request may reach."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a refused request reached the service: .{name}")


def authorizer(service: str) -> Authorizer:
    return Authorizer.load(f"tallystick.services.{service}")


def path_of(row: Endpoint) -> str:
    return re.sub(r"\{[^}]+\}", "x", row.path)


@pytest_asyncio.fixture
async def around(directory: Path, valkey: Valkey) -> AsyncIterator[World]:
    async with world(directory, valkey) as made:
        yield made


def application(service: str, around: World) -> Application:
    return Application(
        service, Untouchable(), endpoints(service), authenticator=around.authenticator, authorizer=authorizer(service)
    )


def subject(tenant: str, scopes: frozenset[str], caller: str) -> Subject:
    return Subject(
        tenant=tenant,
        client_id="cli_one",
        scopes=scopes,
        token_id="t",
        actor="cli_one",
        expires_at=datetime.max.replace(tzinfo=UTC),
        caller=caller,
    )


@named(EDGE)
async def test_without_a_token_nobody_gets_in(service: str, row: Endpoint, around: World) -> None:
    answer = await ask(application(service, around), row.method, path_of(row))
    assert answer.status == 401, answer.content
    assert (answer.header("www-authenticate") or "").startswith("DPoP")


@named(EDGE)
async def test_a_token_for_other_things_is_not_enough(service: str, row: Endpoint, around: World) -> None:
    others = " ".join(sorted(SCOPES - {row.scope or ""}))
    headers = around.edge(row.method, path_of(row), scope=others)
    answer = await ask(application(service, around), row.method, path_of(row), headers=headers)
    assert answer.status == 403, answer.content


@named(EDGE)
async def test_a_service_does_not_come_by_the_front_door(service: str, row: Endpoint, around: World) -> None:
    headers = [*around.edge(row.method, path_of(row), scope=row.scope or ""), *World.mesh("payments")]
    answer = await ask(application(service, around), row.method, path_of(row), headers=headers)
    assert answer.status == 404, answer.content


@named(MESH)
async def test_the_mesh_is_for_the_callers_that_the_row_names(service: str, row: Endpoint, around: World) -> None:
    app = application(service, around)
    strangers = sorted({*CHARTERS, "operator", "nobody"} - set(row.mesh))
    for headers in (
        [],
        around.edge(row.method, path_of(row), scope=" ".join(sorted(SCOPES))),
        *(World.mesh(stranger) for stranger in strangers),
        [(b"x-tallystick-peer", f"spiffe://elsewhere/ns/default/sa/{row.mesh[0]}".encode())],
        [*World.mesh(row.mesh[0]), *World.mesh(row.mesh[0])],
    ):
        answer = await ask(app, row.method, path_of(row), headers=headers)
        assert answer.status in {400, 401, 403}, (headers, answer.content)


@named(EDGE)
def test_the_policy_permits_the_own_tenant_and_nobody_elses(service: str, row: Endpoint) -> None:
    policy = authorizer(service)

    def allowed(tenant: str, scopes: frozenset[str], resource_tenant: str, caller: str = "") -> bool:
        resource = Resource(row.resource, "x", {"tenant": resource_tenant})
        return policy.decide(subject(tenant, scopes, caller), action=row.action, resource=resource).allowed

    own = frozenset({row.scope or ""})
    assert allowed("acme", own, "acme"), (
        f"{service} {row.where}: the policy permits {row.action} to nobody with {row.scope}"
    )
    if not shared(service, row):
        assert not allowed("acme", SCOPES, "globex"), f"{service} {row.where}: another tenant may {row.action}"


#: What is the same for all tenants, and why.
SHARED = {("audit", "readLog"): "a Merkle log holds commitments; each tenant must be able to check the whole tree"}


def shared(service: str, row: Endpoint) -> bool:
    return (service, row.action) in SHARED


@named(MESH)
def test_the_policy_permits_the_callers_of_a_row_and_no_other(service: str, row: Endpoint) -> None:
    policy = authorizer(service)
    resource = Resource(row.resource, "x", {"tenant": "acme"})
    for caller in ("", "nobody", *sorted(set(CHARTERS) - set(row.mesh))):
        decision = policy.decide(subject("acme", SCOPES, caller), action=row.action, resource=resource)
        same_action = [other for other in endpoints(service) if other.action == row.action and other.scope is not None]
        assert not decision.allowed or same_action, f"{service} {row.where}: the policy lets {caller!r} {row.action}"


@pytest.mark.parametrize("service", BUILT)
def test_actions_of_table_and_policy_are_the_same(service: str) -> None:
    policy = (SERVICES / service / "policy.cedar").read_text()
    written = set(re.findall(r'Action::"([A-Za-z]+)"', re.sub(r"//[^\n]*", "", policy)))
    rows = [row for row in endpoints(service) if row.public is None]
    # a row for other services alone may have no rule: then what they bring of a user decides nothing, the peer does
    edge = {row.action for row in rows if row.scope is not None}
    assert edge <= written, f"{service}: no rule in policy.cedar for {sorted(edge - written)}: every request is refused"
    assert written <= {row.action for row in rows}, (
        f"{service}: policy.cedar has rules for {sorted(written - {row.action for row in rows})}, which no row uses"
    )
    for row in rows:
        assert row.resource, f"{service} {row.where} names no Cedar resource type"


@pytest.mark.parametrize("service", BUILT)
def test_scopes_are_those_that_a_client_can_have(service: str) -> None:
    for row in endpoints(service):
        if row.scope is not None:
            assert row.scope in SCOPES, f"{service} {row.where}: {row.scope} is no scope of the platform"


@pytest.mark.parametrize("service", BUILT)
def test_what_moves_money_needs_a_key_and_a_fresh_feed(service: str) -> None:
    for row in endpoints(service):
        if row.method == "POST" and row.scope in {"payments:write", "refunds:write", "transfers:write"}:
            assert row.idempotency == "required", f"{service} {row.where}: a lost answer must not cost a second payment"
            assert row.rate == "money", (
                f"{service} {row.where}: refuses while revocations may be unknown, by rate='money'"
            )
