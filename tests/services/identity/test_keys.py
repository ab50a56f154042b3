"""Signing keys: published before use, kept after, sealed at rest, rotated by one of many."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from tallystick.services.identity.store import SEALED
from tests.services.identity.conftest import World
from tests.services.identity.support import ISSUER, decoded, inner, send
from tests.support.sealed import a_year_passes, faults


async def public_kids(world: World) -> list[str]:
    answer = await send(world.app, "GET", "/oauth2/jwks")
    assert answer.status == 200
    for key in answer.json["keys"]:
        assert set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
        assert (key["kty"], key["alg"], key["use"]) == ("EC", "ES256", "sig")
    return [key["kid"] for key in answer.json["keys"]]


async def states(world: World, purpose: str = "access") -> dict[str, str]:
    answer = await inner(world.app, "operator", "GET", "/internal/admin/keys")
    return {key["kid"]: key["state"] for key in answer.json["data"] if key["purpose"] == purpose}


async def test_the_public_sees_the_keys_of_access_tokens_only(world: World) -> None:
    inside = [key["kid"] for key in (await inner(world.app, "ledger", "GET", "/internal/jwks")).json["keys"]]
    outside = await public_kids(world)
    assert len(outside) == 1
    assert len(inside) == 2
    assert set(outside) < set(inside)


async def test_rotation(world: World) -> None:
    client = await world.client()
    rotate = world.identity.keys.rotate
    (first,) = await public_kids(world)
    assert await rotate() == []

    world.clock.advance(timedelta(days=7) - timedelta(minutes=20))
    await rotate()
    first_again, second = await public_kids(world)
    assert first_again == first
    assert await states(world) == {first: "active", second: "pending"}
    assert decoded(await client.access_token())[0]["kid"] == first

    world.clock.advance(timedelta(minutes=19))
    assert await rotate() == []
    old = await client.access_token(scope="accounts:read")
    world.clock.advance(timedelta(minutes=1))
    await rotate()
    assert await states(world) == {first: "retiring", second: "active"}
    assert decoded(await client.access_token())[0]["kid"] == second
    assert await public_kids(world) == [first, second]
    assert (await client.introspect(old)).json["active"] is True, "a rotated key still verifies its tokens"

    world.clock.advance(timedelta(minutes=15))
    await rotate()
    assert await states(world) == {first: "retired", second: "active"}
    assert await public_kids(world) == [second]
    row = await world.tables.query("SELECT sealed_private FROM signing_key WHERE kid = $1", first)
    assert row[0]["sealed_private"] is None, "it can't sign again"
    told = {
        (fact["resource"], fact["type"])
        for type_ in ("pending", "active", "retiring", "retired")
        for fact in await world.facts(f"identity.key.{type_}")
    }
    assert {(first, "identity.key.retired"), (second, "identity.key.pending"), (second, "identity.key.active")} <= told


async def test_a_retired_key_verifies_nothing(world: World) -> None:
    """Whatever the times in the token say."""
    client = await world.client()
    token = await client.access_token(scope="accounts:read")
    (first,) = await public_kids(world)
    assert (await client.introspect(token)).json["active"] is True
    await world.tables.query("UPDATE signing_key SET state = 'retired', sealed_private = NULL WHERE kid = $1", first)
    assert (await client.introspect(token)).json == {"active": False}
    answer = await inner(world.app, "payments", "POST", "/internal/token-exchange", {"access_token": token})
    assert answer.status == 401


async def test_many_replicas_rotate_once(world: World) -> None:
    replicas = [world.replica()[0] for _ in range(4)]
    for step in (timedelta(days=7) - timedelta(minutes=20), timedelta(minutes=20), timedelta(minutes=15)):
        world.clock.advance(step)
        await asyncio.gather(*(replica.keys.rotate() for replica in replicas))
    assert sorted((await states(world)).values()) == ["active", "retired"]
    assert sorted((await states(world, "transaction")).values()) == ["active", "retired"]
    assert len(await world.facts("identity.key.retired")) == 2


async def test_first_starts_at_once_make_one_key_each(world: World) -> None:
    await world.tables.query("DELETE FROM signing_key")
    replicas = [world.replica()[0] for _ in range(4)]
    await asyncio.gather(*(replica.keys.rotate() for replica in replicas))
    assert list((await states(world)).values()) == ["active"]
    assert list((await states(world, "transaction")).values()) == ["active"]


async def test_another_replica_verifies_and_signs_with_the_same_keys(world: World) -> None:
    client = await world.client()
    token = await client.access_token()
    _, client.app = world.replica()
    assert (await client.introspect(token)).json["active"] is True
    assert decoded(await client.access_token())[0]["kid"] == decoded(token)[0]["kid"]


async def test_private_halves_are_sealed(world: World) -> None:
    rows = await world.tables.query("SELECT kid, sealed_private FROM signing_key")
    assert rows
    for row in rows:
        sealed = bytes(row["sealed_private"])
        assert b"\x30\x81\x87\x02\x01" not in sealed  # PKCS#8 of a P-256 key
        other = await world.tables.query("SELECT sealed_private FROM signing_key WHERE kid <> $1", row["kid"])
        assert bytes(other[0]["sealed_private"]) != sealed


async def test_sealed_halves_can_not_be_swapped(world: World) -> None:
    """A database writer can't make one key sign under the other's name."""
    await world.tables.query(
        "UPDATE signing_key SET sealed_private = (SELECT sealed_private FROM signing_key k WHERE k.purpose = 'transaction')"
        " WHERE purpose = 'access'"
    )
    client = await world.client()
    _, client.app = world.replica()
    assert (await client.token()).status == 500


async def test_a_leaked_key_is_retired_at_once(world: World) -> None:
    client = await world.client()
    token = await client.access_token(scope="accounts:read")
    (first,) = await public_kids(world)
    answer = await inner(world.app, "operator", "POST", f"/internal/admin/keys/{first}/retire")
    assert (answer.status, answer.json["state"]) == (200, "retired")
    assert first not in await public_kids(world)
    assert (await client.introspect(token)).json == {"active": False}
    new = await client.access_token()
    assert decoded(new)[0]["kid"] != first
    snapshot: Any = (await inner(world.app, "ledger", "GET", "/internal/revocations")).json
    assert [(each["kind"], each["id"]) for each in snapshot["revocations"]] == [("kid", first)]
    again = await inner(world.app, "operator", "POST", f"/internal/admin/keys/{first}/retire")
    assert again.status == 404
    (fact,) = await world.facts("identity.key.retired")
    assert fact["actor"] == "operator"


async def test_of_two_who_retire_a_key_at_once_one_is_told_that_it_is_retired(world: World) -> None:
    (first,) = await public_kids(world)
    _, other = world.replica()
    path = f"/internal/admin/keys/{first}/retire"
    answers = await asyncio.gather(*(inner(app, "operator", "POST", path) for app in (world.app, other)))
    assert sorted(answer.status for answer in answers) == [200, 404]
    assert len(await world.facts("identity.key.retired")) == 1
    assert len(await public_kids(world)) == 1


async def test_a_leaked_key_is_retired_at_every_replica(world: World) -> None:
    """Nobody waits for a copy to grow old: not for one that signs by the old key, and not for one that does not know the new one."""
    client = await world.client()
    (first,) = await public_kids(world)
    _, client.app = world.replica()
    assert decoded(await client.access_token())[0]["kid"] == first
    await inner(world.app, "operator", "POST", f"/internal/admin/keys/{first}/retire")
    second = decoded(await client.access_token())[0]["kid"]
    assert second != first
    for app in (world.app, client.app):
        inside = [key["kid"] for key in (await inner(app, "payments", "GET", "/internal/jwks")).json["keys"]]
        assert second in inside
        assert first not in inside


async def test_a_service_takes_the_tokens_of_the_key_that_took_over(world: World) -> None:
    client = await world.client()
    checks = world.authenticator()
    await checks.feed.fetch()
    url = ISSUER + "/v1/payments"
    await checks.edge("GET", "/v1/payments", client.edge_headers(await client.access_token(), "GET", url))
    (first,) = await public_kids(world)
    _, other = world.replica()
    assert first in [key["kid"] for key in (await send(other, "GET", "/oauth2/jwks")).json["keys"]]
    await inner(world.app, "operator", "POST", f"/internal/admin/keys/{first}/retire")
    token = await client.access_token()
    world.app = other  # whom the service asks
    checks._keys._asked_at = float("-inf")  # longer than a second ago
    asked = [client.edge_headers(token, "GET", url) for _ in range(5)]
    await asyncio.gather(*(checks.edge("GET", "/v1/payments", headers) for headers in asked))


async def test_a_leaked_key_hands_over_to_the_pending_one(world: World) -> None:
    world.clock.advance(timedelta(days=7) - timedelta(minutes=20))
    await world.identity.keys.rotate()
    first, second = await public_kids(world)
    await inner(world.app, "operator", "POST", f"/internal/admin/keys/{first}/retire")
    assert await states(world) == {first: "retired", second: "active"}


async def test_a_year_passes_over_the_key_of_the_signing_keys(world: World) -> None:
    """Their private halves are under a new key, and sign as before: here, and at a replica that starts now."""
    token = await world.identity.keys.sign("access", "at+jwt", {"sub": "x"})
    await a_year_passes(world.tables, world.keyring, SEALED)
    assert await faults(world.tables, "identity") == []
    other, _ = world.replica()
    for one in (world.identity, other):
        assert await one.keys.verify("access", "at+jwt", token)
        assert await one.keys.verify("access", "at+jwt", await other.keys.sign("access", "at+jwt", {"sub": "y"}))
