"""Revocation (RFC 7009), introspection (RFC 7662), and the feed that tells every service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from tallystick.chassis.auth import CredentialsRefused, revocation
from tallystick.chassis.auth.authenticator import Authenticator
from tallystick.chassis.bus import REVOCATIONS
from tallystick.services.identity.model.revocations import revoked_token
from tests.services.identity.conftest import World
from tests.services.identity.support import ISSUER, ApiClient, forged, inner

PATH = "/v1/payments"


@pytest.fixture(autouse=True)
def by_the_bus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is fetched at the start and when something was missed, and not since the bus was quiet: so what is known soon came by the bus."""
    monkeypatch.setattr(revocation, "QUIET_AFTER", float("inf"))
    monkeypatch.setattr(revocation, "REFRESH", float("inf"))
    monkeypatch.setattr(revocation, "STALE_AFTER", float("inf"))


@asynccontextmanager
async def service(world: World, name: str = "payments") -> AsyncIterator[Authenticator]:
    """Another service as far as tokens go: keys and list by HTTP, news by the real bus."""
    checks = world.authenticator(name)

    async def receive(message: Any) -> None:
        checks.feed.receive(message.data)

    subscription = await world.nats.subscribe(REVOCATIONS, cb=receive)
    await world.nats.flush()
    running = asyncio.create_task(checks.run())
    try:
        async with asyncio.timeout(60):
            while not checks.ready:
                await asyncio.sleep(0.01)
        yield checks
    finally:
        await subscription.unsubscribe()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def allowed(checks: Authenticator, client: ApiClient, token: str) -> bool:
    headers = client.edge_headers(token, "POST", ISSUER + PATH)
    try:
        subject = await checks.edge("POST", PATH, headers, strict=True)
    except CredentialsRefused:
        return False
    assert subject.client_id == client.client_id
    return True


async def until_refused(checks: Authenticator, client: ApiClient, token: str) -> None:
    async with asyncio.timeout(60):
        while await allowed(checks, client, token):
            await asyncio.sleep(0.005)


# ---- RFC 7009


async def test_a_revoked_token_is_refused_everywhere(world: World) -> None:
    client = await world.client()
    token, other = await client.access_token(), await client.access_token()
    async with service(world) as checks:
        assert await allowed(checks, client, token)
        answer = await client.revoke(token)
        assert (answer.status, answer.content, "content-type" in answer.headers) == (200, b"", False)
        await until_refused(checks, client, token)
        assert await allowed(checks, client, other)


async def test_a_revoked_client_loses_all_tokens(world: World) -> None:
    client, other = await world.client(), await world.client()
    tokens = [await client.access_token() for _ in range(3)]
    others = await other.access_token()
    async with service(world) as checks:
        answer = await inner(world.app, "operator", "POST", f"/internal/admin/clients/{client.client_id}/revoke")
        assert answer.status == 200
        assert answer.json["revoked_at"]
        for token in tokens:
            await until_refused(checks, client, token)
        assert await allowed(checks, other, others)
    assert (await client.token()).json["error"] == "invalid_client"


async def test_everything_can_be_revoked_and_life_goes_on(world: World) -> None:
    client = await world.client()
    token = await client.access_token()
    async with service(world) as checks:
        assert (await inner(world.app, "operator", "POST", "/internal/admin/revoke-everything")).status == 200
        await until_refused(checks, client, token)
        assert (await client.introspect(token)).json == {"active": False}
        world.clock.advance(timedelta(seconds=2))
        assert await allowed(checks, client, await client.access_token())


async def test_revoking_what_is_no_token_is_fine(world: World) -> None:
    client = await world.client()
    token = await client.access_token()
    for text in ("x", token[:-8] + "AAAAAAAA", forged({"alg": "none", "typ": "at+jwt"}, {"jti": "1"})):
        assert (await client.revoke(text)).status == 200
    world.clock.advance(timedelta(seconds=301))
    assert (await client.revoke(token)).status == 200
    assert (await client.revoke(None)).json["error"] == "invalid_request"
    assert await world.tables.query("SELECT FROM revocation") == []


async def test_nobody_revokes_anothers_token(world: World) -> None:
    client, thief = await world.client(), await world.client()
    token = await client.access_token()
    assert (await thief.revoke(token)).status == 400
    assert (await client.introspect(token)).json["active"] is True
    anonymous = await client.post("/oauth2/revoke", {"token": token})
    assert (anonymous.status, anonymous.json["error"]) == (401, "invalid_client")


async def test_revoking_twice_is_one_revocation(world: World) -> None:
    client = await world.client()
    token = await client.access_token()
    answers = await asyncio.gather(*(client.revoke(token) for _ in range(8)))
    assert {answer.status for answer in answers} == {200}
    assert len(await world.tables.query("SELECT FROM revocation")) == 1
    assert (await world.tables.query("SELECT epoch FROM revocation_epoch"))[0]["epoch"] == 1


async def test_replicas_that_revoke_the_same_at_once(world: World) -> None:
    """All have looked before any has stored: the second waits for the first, and then finds it."""
    together = asyncio.Barrier(4)
    revoked = revoked_token("j", world.clock.now())

    async def revoke() -> None:
        async with world.database.transaction() as tx:
            await together.wait()
            await world.identity.revocations.record(tx, revoked)

    await asyncio.gather(*(revoke() for _ in range(4)))
    assert len(await world.tables.query("SELECT FROM revocation")) == 1
    assert (await world.tables.query("SELECT epoch FROM revocation_epoch"))[0]["epoch"] == 1


# ---- the feed


async def test_epochs_have_no_gaps_whatever_races(world: World) -> None:
    client = await world.client()
    tokens = [await client.access_token() for _ in range(20)]
    await asyncio.gather(*(client.revoke(token) for token in tokens))
    rows = await world.tables.query("SELECT epoch FROM revocation ORDER BY epoch")
    assert [row["epoch"] for row in rows] == list(range(1, 21))
    snapshot = (await inner(world.app, "ledger", "GET", "/internal/revocations")).json
    assert snapshot["epoch"] == 20
    assert sorted(each["epoch"] for each in snapshot["revocations"]) == list(range(1, 21))


async def test_a_message_that_was_lost_is_told_by_the_heartbeat(world: World) -> None:
    client = await world.client()
    token = await client.access_token()
    await world.identity.revocations.heartbeat()
    async with service(world) as checks:
        world.bus_works = False
        assert (await client.revoke(token)).status == 200, "what is stored is revoked, bus or not"
        assert await allowed(checks, client, token)
        world.bus_works = True
        await world.identity.revocations.heartbeat()
        await until_refused(checks, client, token)


async def test_a_replica_that_knows_nothing_reveals_the_gap(world: World) -> None:
    """The one that revoked dies before it publishes; another one takes the heartbeat over, and has never seen the revocation."""
    client = await world.client()
    token = await client.access_token()
    async with service(world) as checks:
        world.bus_works = False
        await client.revoke(token)
        world.bus_works = True
        other, _ = world.replica()
        await other.revocations.heartbeat()
        assert json.loads(world.published[-1]) == {"epoch": 1, "kind": "heartbeat"}
        await until_refused(checks, client, token)


async def test_who_leads_again_tells_the_epoch_of_today(world: World) -> None:
    """What another replica told meanwhile may be forgotten by then: no row says that there was one."""
    first, (second, _) = world.identity, world.replica()
    await first.revocations.heartbeat()
    client = await world.client()
    await client.revoke(await client.access_token())
    await second.revocations.heartbeat()
    world.clock.advance(timedelta(minutes=10))
    await second.revocations.forget()
    await first.revocations.heartbeat()
    assert json.loads(world.published[-1]) == {"epoch": 1, "kind": "heartbeat"}
    await world.tables.query("UPDATE revocation_epoch SET epoch = 0")  # restored to an earlier time
    await first.revocations.heartbeat()
    assert json.loads(world.published[-1]) == {"epoch": 0, "kind": "heartbeat"}


async def test_a_service_that_starts_later_knows(world: World) -> None:
    client = await world.client()
    token = await client.access_token()
    await client.revoke(token)
    async with service(world) as checks:
        assert not await allowed(checks, client, token)


async def test_the_list_forgets_what_nobody_can_show(world: World) -> None:
    client = await world.client()
    await client.revoke(await client.access_token())
    world.clock.advance(timedelta(minutes=10))
    await world.identity.revocations.forget()
    snapshot = (await inner(world.app, "ledger", "GET", "/internal/revocations")).json
    assert snapshot == {"epoch": 1, "revocations": []}
    assert await world.tables.query("SELECT FROM revocation") == []
    await client.revoke(await client.access_token())
    assert (await inner(world.app, "ledger", "GET", "/internal/revocations")).json["epoch"] == 2


# ---- RFC 7662


async def test_introspection(world: World) -> None:
    client = await world.client()
    token = await client.access_token()
    answer = (await client.introspect(token)).json
    assert answer["active"] is True
    assert answer["token_type"] == "DPoP"
    assert answer["client_id"] == answer["sub"] == client.client_id
    assert answer["scope"] == "accounts:read payments:write"
    assert answer["cnf"] == {"jkt": client.dpop.thumbprint()}
    assert {"iss", "aud", "exp", "iat", "jti", "tenant"} <= set(answer)


async def test_introspection_is_silent_about_everything_else(world: World) -> None:
    await world.tenant("acme")
    client, sibling, foreign = await world.client(), await world.client(), await world.client(tenant="acme")
    token = await client.access_token()
    assert (await sibling.introspect(token)).json["active"] is True
    revoked = await client.access_token()
    await client.revoke(revoked)
    header, payload, signature = token.split(".")
    for asker, text in (
        (foreign, token),
        (client, revoked),
        (client, "x"),
        (client, f"{header}.{payload}.{signature[:-8]}AAAAAAAA"),
        (client, client.assertion()),
        (client, client.proof()),
    ):
        answer = await asker.introspect(text)
        assert (answer.status, answer.json) == (200, {"active": False})
    world.clock.advance(timedelta(seconds=301))
    assert (await client.introspect(token)).json == {"active": False}


async def test_introspection_needs_authentication(world: World) -> None:
    client = await world.client()
    token = await client.access_token()
    answer = await client.post("/oauth2/introspect", {"token": token})
    assert (answer.status, answer.json["error"]) == (401, "invalid_client")


# ---- what other services make of our tokens


async def test_other_services_take_our_tokens(world: World) -> None:
    client = await world.client("payments:write")
    token = await client.access_token()
    async with service(world) as checks:
        subject = await checks.edge("POST", PATH, client.edge_headers(token, "POST", ISSUER + PATH), strict=True)
        assert (subject.tenant, subject.client_id) == ("default", client.client_id)
        assert subject.scopes == {"payments:write"}
        inner_token = await checks.exchange(subject)
    async with service(world, "ledger") as ledger:
        seen = await ledger.transaction(inner_token, "payments")
        assert (seen.tenant, seen.client_id, seen.scopes) == (
            "default",
            client.client_id,
            frozenset({"payments:write"}),
        )
        assert (seen.actor, seen.caller) == ("payments", "payments")
        await client.revoke(token)
        async with asyncio.timeout(60):
            with pytest.raises(CredentialsRefused):
                while True:
                    await ledger.transaction(inner_token, "payments")
                    await asyncio.sleep(0.005)
