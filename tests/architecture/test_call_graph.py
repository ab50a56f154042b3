"""Who calls whom, said in four places, must be one thing: charters, endpoint tables, imports of clients, Envoy's rules.

The charters are the origin. The endpoint table says who may use a row, the import of `contracts.X.client` who does, and
Envoy enforces it.
"""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path
from typing import Any

import grimp
import msgspec
import pytest

from tallystick.chassis.charter import OPERATOR, pairs
from tallystick.fabric import envoy
from tests.architecture.tree import BUILT, CHARTERS, ROOT, SRC, endpoints, mesh_rows, place, sources, subscriptions

#: Checking and getting tokens is the chassis' own business: services need no client of their own for it.
CHASSIS_CALLS = {
    "GET /internal/jwks",
    "GET /internal/revocations",
    "POST /internal/service-tokens",
    "POST /internal/token-exchange",
}


@pytest.mark.parametrize("service", BUILT)
def test_the_mesh_rows_are_the_charters_callers(service: str) -> None:
    declared = {caller: set(actions) for caller, actions in CHARTERS[service].callers.items()}
    rows = mesh_rows(service)
    for caller in sorted(declared.keys() | rows.keys()):
        lacking = rows.get(caller, set()) - declared.get(caller, set())
        idle = declared.get(caller, set()) - rows.get(caller, set())
        assert not lacking, (
            f"{service}/api.py lets {caller} use {sorted(lacking)}, but services/{service}/charter.toml doesn't: Envoy "
            f"answers 403. Add them to [callers] {caller} (and to [calls.{service}] of {caller}), or change mesh=."
        )
        assert not idle, (
            f"services/{service}/charter.toml lets {caller} use {sorted(idle)}, but no row of {service}/api.py has "
            f'mesh=("{caller}",) there: a permission that nobody needs. Remove it on both sides, or write the row.'
        )


@pytest.mark.parametrize("service", BUILT)
def test_who_imports_a_client_may_call_and_who_may_call_does(service: str) -> None:
    graph = grimp.build_graph("tallystick", include_external_packages=False, cache_dir=None)
    imported = {
        match[1]
        for module in graph.find_descendants(f"tallystick.services.{service}")
        for name in graph.find_modules_directly_imported_by(module)
        if (match := re.fullmatch(r"tallystick\.contracts\.(\w+)\.client", name)) and match[1] != service
    }
    # in the wiring: `runtime.client("ledger")`
    wired = {
        str(node.args[0].value)
        for tree in sources(f"services/{service}").values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "client"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    own = {target for target, call in CHARTERS[service].calls.items() if set(call.actions) - CHASSIS_CALLS}
    assert imported | wired <= own, (
        f"{service} calls {sorted((imported | wired) - own)}; its charter has no such [calls]"
    )
    assert own <= wired, f"{service}'s charter has [calls] of {sorted(own - wired)}, which app.py wires no client for"


def test_a_client_asks_only_for_what_its_service_offers_to_others() -> None:
    for path, tree in sources("contracts").items():
        if path.name != "client.py" and path.parent.name != "client":
            continue
        target = path.relative_to(SRC / "contracts").parts[0]
        offered = {action.split(" ")[1] for actions in CHARTERS[target].callers.values() for action in actions}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/internal/"):
                # an f-string's first part ends where its parameter begins
                asked = node.value.partition("?")[0]
                known = any(known == asked or known.startswith(asked) for known in offered)
                assert known, f"{place(path, node)}: {node.value} is not among {target}'s [callers]: {sorted(offered)}"


def test_the_linters_call_graph_is_the_charters() -> None:
    """`.importlinter` repeats it so that `make lint` says it early; here it is held against the origin."""
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    said = {
        section.removeprefix("importlinter:contract:calls-"): {
            line.removeprefix("tallystick.services.")
            for line in config[section]["allowed_importers"].split()
            if line.startswith("tallystick.services.")
        }
        for section in config.sections()
        if section.startswith("importlinter:contract:calls-")
    }
    expected = {
        name: {
            caller for caller, actions in charter.callers.items() if caller != OPERATOR and set(actions) - CHASSIS_CALLS
        }
        for name, charter in CHARTERS.items()
    }
    assert {name: callers for name, callers in said.items() if callers} == {
        name: callers for name, callers in expected.items() if callers
    }


def test_envoys_access_rules_are_the_charters() -> None:
    topology = envoy.Topology(
        trust_domain="td",
        public_port=1,
        mtls_port=2,
        mesh_dir=Path("/m"),
        ads_socket=Path("/a"),
        admin_socket=Path("/b"),
        collector_socket=Path("/c"),
    )
    found: dict[str, dict[str, set[str]]] = {}
    outbound = set()
    for listener in envoy.resources(CHARTERS, topology).listeners:
        (chain,) = listener["filter_chains"]
        manager = chain["filters"][0]["typed_config"]
        if listener["name"].startswith("out-"):
            outbound.add(listener["address"]["pipe"]["path"])
        if not listener["name"].startswith("in-"):
            continue
        rbac = manager["http_filters"][0]["typed_config"]
        assert rbac["rules"]["action"] == "ALLOW", "deny by default"
        for policy in rbac["rules"]["policies"].values():
            (principal,) = policy["principals"]
            caller = principal["authenticated"]["principal_name"]["exact"].removeprefix("spiffe://td/ns/tallystick/sa/")
            for permission in policy["permissions"]:
                method, path = permission["and_rules"]["rules"]
                matcher = path["url_path"]["path"]
                text = matcher.get("exact") or re.sub(r"\\(.)", r"\1", matcher["safe_regex"]["regex"])
                said = method["header"]["string_match"]
                granted = said.get("exact") or {"GET|HEAD": "GET"}[said["safe_regex"]["regex"]]
                found.setdefault(listener["name"].removeprefix("in-"), {}).setdefault(caller, set()).add(
                    f"{granted} {text}"
                )
    expected = {
        name: {
            caller: {re.sub(r"\{[a-z_]+\}", "[^/]+", action) for action in actions}
            for caller, actions in charter.callers.items()
        }
        for name, charter in CHARTERS.items()
        if charter.callers
    }
    assert found == expected
    assert outbound == {f"/m/{caller}/{target}.sock" for caller, target in pairs(CHARTERS)}


@pytest.mark.parametrize("service", BUILT)
def test_what_a_service_takes_from_the_bus_is_what_its_charter_says(service: str) -> None:
    declared = CHARTERS[service].consumes
    taken: dict[str, set[str]] = {}
    for subscription in subscriptions(service):
        types = {f"{subscription.source}.*" if one == "*" else one for one in subscription.types}
        taken.setdefault(subscription.source, set()).update(types)
    assert taken.keys() == declared.keys(), (
        f"{service}/worker.py takes facts of {sorted(taken)}, its charter's [consumes] says {sorted(declared)}"
    )
    for source, types in taken.items():
        assert types == set(declared[source].types), (
            f"{service}/worker.py takes {sorted(types)} of {source}, its charter says {sorted(declared[source].types)}"
        )


@pytest.mark.parametrize("service", BUILT)
def test_every_path_from_outside_is_the_charters_and_every_path_of_the_charter_is_served(service: str) -> None:
    charter = CHARTERS[service]
    served = set()
    for row in endpoints(service):
        if row.mesh:
            assert row.path.startswith("/internal/"), f"{service} {row.where}: paths of the mesh lie below /internal"
            continue
        prefix = next(
            (path.prefix for path in charter.edge.paths if (row.path + "/").startswith(path.prefix + "/")), None
        )
        assert prefix, f"{service} {row.where}: no [edge] path of its charter leads there; Envoy answers 404"
        served.add(prefix)
    idle = {path.prefix for path in charter.edge.paths} - served
    assert not idle, f"{service}'s charter opens {sorted(idle)} to the outside, and no endpoint is there"


@pytest.mark.parametrize("service", BUILT)
def test_the_proxy_repeats_a_post_where_its_key_is_honoured_and_nowhere_else(service: str) -> None:
    declared = {keyed for path in CHARTERS[service].edge.paths for keyed in path.keyed}
    rows = {(row.method, row.path) for row in endpoints(service) if not row.mesh and row.idempotency}
    assert rows == {("POST", path) for path in declared}, f"[edge] keyed of {service}'s charter"


@pytest.mark.parametrize("service", BUILT)
def test_every_row_from_outside_is_limited_by_a_class_of_the_charter(service: str) -> None:
    for row in endpoints(service):
        if row.mesh:
            continue
        assert row.rate, f"{service} {row.where}: a path from outside has a rate class"
        assert row.rate in CHARTERS[service].limits.rates, (
            f"{service} {row.where}: rate class {row.rate} is not in its charter's [limits.rates]"
        )


@pytest.mark.parametrize("service", BUILT)
def test_every_class_of_the_charter_limits_a_row(service: str) -> None:
    """One that limits nothing is a limit that only the charter believes in."""
    charter = CHARTERS[service]
    rows = [row for row in endpoints(service) if not row.mesh]
    idle = set(charter.limits.rates) - {row.rate for row in rows}
    assert not idle, f"{service}'s charter has [limits.rates] {sorted(idle)}, which no row of api.py takes"
    for path in charter.edge.paths:
        below = {row.rate for row in rows if (row.path + "/").startswith(path.prefix + "/")}
        assert path.rate in below, f"{service}: [edge] {path.prefix} says {path.rate}, its rows take {below}"


def test_calls_have_no_cycle() -> None:
    """Two services that wait for each other wait for ever when both are busy."""
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle of calls: {' -> '.join((*way, name))}"
        if name not in done:
            for target in CHARTERS[name].calls:
                # A shard's call to another of the same service: what is asked there asks nobody further.
                if target != name or not CHARTERS[name].scale.shards:
                    walk(target, (*way, name))
            done.add(name)

    for name in CHARTERS:
        walk(name, ())


@pytest.mark.parametrize("service", list(CHARTERS))
def test_the_proof_of_a_control_exists(service: str) -> None:
    for control in CHARTERS[service].controls:
        file, _, test = control.proof.partition("::")
        path = ROOT / file
        assert path.exists(), (
            f"{service}'s charter proves {control.regulation} {control.requirement} by {file}: not there"
        )
        assert f"def {test}(" in path.read_text() if test else True, f"{file} has no test {test}"


def _structs(info: Any, seen: set[type]) -> set[type]:
    """All msgspec types that a type is made of."""
    if isinstance(info, msgspec.inspect.StructType) and info.cls not in seen:
        seen.add(info.cls)
        for field in info.fields:
            _structs(field.type, seen)
    for name in ("type", "item_type", "value_type"):
        if isinstance(inner := getattr(info, name, None), msgspec.inspect.Type):
            _structs(inner, seen)
    for name in ("types", "item_types"):
        for inner in getattr(info, name, ()):
            _structs(inner, seen)
    return seen


@pytest.mark.parametrize("service", BUILT)
def test_a_field_that_a_later_release_adds_does_not_change_the_digest_of_a_request(service: str) -> None:
    """A retry under an old key would be told that its body is another one."""
    for row in endpoints(service):
        if row.idempotency and row.body is not None:
            for kind in _structs(msgspec.inspect.type_info(row.body), set()):
                fields = msgspec.structs.fields(kind)
                assert kind.__struct_config__.omit_defaults or all(field.required for field in fields), (  # type: ignore[attr-defined]
                    f"{service} {row.where}: {kind.__name__} takes omit_defaults=True"
                )
