"""Who may do what, by policy.cedar alone: the second lock behind the mesh's access rules."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tallystick.chassis.auth import Authorizer, Resource
from tallystick.chassis.charter import load
from tallystick.chassis.web import Endpoint
from tallystick.services.identity.api import ENDPOINTS
from tallystick.services.identity.service.peers import peer

POLICY = Authorizer.load("tallystick.services.identity")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CALLERS = (*load("identity").callers, "identity", "stranger", "")
ROWS = [row for row in ENDPOINTS if row.mesh]


def allowed(caller: str, action: str, kind: str, tenant: str = "acme", of: str = "acme") -> bool:
    resource = Resource(kind, "x", {"tenant": of})
    return POLICY.decide(peer(caller, tenant, NOW), action=action, resource=resource).allowed


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.action)
def test_the_policy_permits_what_the_table_does(caller: str, row: Endpoint) -> None:
    assert allowed(caller, row.action, row.resource) == (caller in row.mesh)


@pytest.mark.parametrize("action", ["exchangeToken", "issueServiceToken"])
def test_tokens_stay_in_their_tenant(action: str) -> None:
    kind = "Client" if action == "exchangeToken" else "Tenant"
    assert allowed("payments", action, kind)
    assert not allowed("payments", action, kind, tenant="acme", of="other")


def test_what_is_not_written_is_not_permitted() -> None:
    assert not any(allowed(caller, "deleteTenant", "Tenant") for caller in CALLERS)
