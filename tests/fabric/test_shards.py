"""A second shard of the ledger: everything of its own, derived from the one charter, and nobody more may reach it."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest
import valkey.asyncio
from valkey.exceptions import NoPermissionError

from tallystick.chassis import charter as charters_module
from tallystick.chassis.auth import replay
from tallystick.chassis.bus import streams
from tallystick.chassis.charter import OPERATOR, pairs, workloads
from tallystick.fabric import datamap, diagram, envoy, nats, postgres, render
from tallystick.fabric import valkey as rendered
from tallystick.fabric.envoy import mesh
from tallystick.fabric.shards import with_shards
from tallystick.kernel.secret import Secret
from tallystick.local.parts import Valkey, ValkeyUser
from tallystick.local.parts.valkey import hash_password
from tests.fabric import support

CHARTERS = charters_module.load_all()
TWO = with_shards(CHARTERS, ["eu"])
THREE = with_shards(CHARTERS, ["eu", "us", "eu"])


def test_without_shards_nothing_changes() -> None:
    assert with_shards(CHARTERS, []) == CHARTERS


def test_only_a_service_that_says_so_comes_in_shards() -> None:
    assert set(THREE) - set(CHARTERS) == {"ledger-eu", "ledger-us"}
    assert [name for name in THREE if name.startswith("ledger")] == ["ledger", "ledger-eu", "ledger-us"]


def test_shards_call_each_other_and_are_called_by_nobody_else() -> None:
    # their paths at the edge are the same: a header says which is meant
    assert {key for _, key, _, _ in charters_module.disagreements(THREE)} == {"edge.paths"}
    eu = THREE["ledger-eu"]
    assert eu.name == "ledger-eu"
    assert set(eu.callers) == {OPERATOR, "ledger", "ledger-us"}
    assert eu.callers["ledger"] == CHARTERS["ledger"].callers["ledger"]
    assert {target for caller, target in pairs(THREE) if caller == "ledger-eu"} == {"identity", "ledger", "ledger-us"}
    # payments asks the one at home, as its charter says; its callers are those it had, and the other shards
    assert set(THREE["ledger"].callers) == {OPERATOR, "payments", "ledger-eu", "ledger-us"}
    assert THREE["payments"].calls == CHARTERS["payments"].calls
    assert {"ledger-eu", "ledger-us"} <= set(workloads(THREE))


def test_the_access_rules_of_a_shard_name_the_other_shards_steps_only() -> None:
    topology = support.topology_in(Path("/tmp/t"))
    policies = mesh.access_rules("ledger-eu", TWO, topology)["typed_config"]["rules"]["policies"]
    assert set(policies) == {OPERATOR, "ledger"}
    assert policies["ledger"]["principals"] == [
        {"authenticated": {"principal_name": {"exact": topology.spiffe("ledger")}}}
    ]
    paths = {
        rule["url_path"]["path"]["exact"]
        for permission in policies["ledger"]["permissions"]
        for rule in permission["and_rules"]["rules"]
        if "url_path" in rule
    }
    assert paths == {"/internal/arrivals", "/internal/books/lookups"}


def test_whoever_hears_the_ledgers_facts_hears_those_of_all_shards() -> None:
    heard = nats.permissions(TWO)
    for name in ("audit", "notify"):
        assert {"stored.ledger", "stored.ledger-eu"} <= set(heard[name].subscribe)
        assert streams.get_subject("ledger-eu") in heard[name].publish
    assert "stored.ledger-eu" not in heard["risk"].subscribe
    # and it tells in its own name, not in that of the one at home
    assert "facts.ledger-eu" in heard["ledger-eu"].publish
    assert "facts.ledger" not in heard["ledger-eu"].publish
    # its stream is apart from that at home, and read by the same
    made = nats.accounts(TWO, str)
    reading = {name: made[nats.stream_account(name)]["exports"][-1] for name in ("ledger", "ledger-eu")}
    assert reading["ledger-eu"]["accounts"] == ["ledger-eu", "audit", "notify"]
    assert reading["ledger"]["accounts"] == ["ledger", "audit", "notify"]
    assert {"stream": {"account": "ledger-eu", "subject": "stored.ledger-eu"}} in made["notify"]["imports"]


def test_it_has_a_database_an_owner_and_a_role_of_its_own() -> None:
    plan = postgres.plans(TWO)["ledger-eu"]
    assert (plan.database, plan.service_role, plan.owner_role) == ("ledger-eu", "ledger-eu", "ledger-eu_owner")
    assert plan.grants[1] == 'GRANT CONNECT ON DATABASE "ledger-eu" TO "ledger-eu"'
    assert 'GRANT CONNECT ON DATABASE "ledger" TO "ledger-eu"' not in postgres.script(TWO)


def test_a_client_reaches_a_shard_by_naming_it() -> None:
    listener = envoy.resources(TWO, support.topology_in(Path("/tmp/t"))).listeners[0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    routes: list[dict[str, Any]] = manager["route_config"]["virtual_hosts"][0]["routes"]
    of = {name: [n for n, route in enumerate(routes) if _cluster(route) == f"replicas-{name}"] for name in TWO}
    named = {"name": "tallystick-shard", "string_match": {"exact": "eu"}}
    assert of["ledger-eu"]
    assert all(named in routes[n]["match"]["headers"] for n in of["ledger-eu"])
    assert all(named not in routes[n]["match"].get("headers", ()) for n in of["ledger"])
    by_path = [n for n in of["ledger"] if "path_separated_prefix" in routes[n]["match"]]
    assert max(of["ledger-eu"]) < min(by_path), "the first that matches is taken"
    for n in of["ledger-eu"]:
        assert routes[n]["metadata"]["filter_metadata"]["tallystick"]["service"] == "ledger-eu"
    assert "/openapi/ledger-eu.json" not in json.dumps(routes)


def _cluster(route: dict[str, Any]) -> str:
    return str(route.get("route", {}).get("cluster", ""))


def test_the_real_envoy_accepts_it(tmp_path: Path) -> None:
    topology = support.topology_in(Path("/tmp/t"), replicas={name: (Path(f"/tmp/t/{name}-0.sock"),) for name in TWO})
    resources = envoy.resources(TWO, topology)
    assert "identity-ledger-eu" in resources.secrets
    held = support.secrets(support.Authority(tmp_path), topology, resources.secrets)
    folded = envoy.fold(envoy.bootstrap(topology), resources.listeners, resources.clusters, resources.endpoints, held)
    assert support.validate(folded, tmp_path / "envoy.json") == ""


def test_the_data_map_knows_what_lies_there() -> None:
    found = datamap.load(TWO)
    assert found.columns["ledger-eu"] == found.columns["ledger"]
    assert datamap.undeclared(found) == []
    assert "## ledger-eu" in datamap.markdown(found)
    assert "ledger-eu -.-> audit" in diagram.mermaid(TWO)


@pytest.mark.parametrize("target", list(render.TARGETS))
def test_every_target_shows_a_shard_when_it_is_asked_for(target: str) -> None:
    assert "ledger-eu" in "".join(render.files(target, shards=["eu"]).values())
    assert "ledger-eu" not in "".join(render.files(target).values())


async def test_a_proof_is_good_once_for_all_shards(directory: Path) -> None:
    password = Secret(secrets.token_urlsafe(32))
    users = [ValkeyUser(name, hash_password(password), words) for name, words in rendered.rules(TWO).items()]
    part = Valkey(directory / "data", directory / "valkey.sock", users=users, log=directory / "valkey.log")
    await part.start()
    try:
        async with valkey.asyncio.Valkey(
            unix_socket_path=str(directory / "valkey.sock"), username="ledger-eu", password=password.reveal()
        ) as eu:
            assert await eu.set(f"{replay.key_prefix('ledger')}a", "1", nx=True, ex=60)
            assert await eu.set("ledger-eu:a", "1")
            for key in ("ledger:a", "ledger:{ledger-rate}:money:x", f"{replay.key_prefix('payments')}a"):
                with pytest.raises(NoPermissionError):
                    await eu.set(key, "1")
    finally:
        await part.stop()
