"""The rendered configuration as such; what it does is in `test_conformance.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseError

from tallystick.chassis import charter as charters_module
from tallystick.fabric import envoy
from tests.fabric import support

CHARTERS = charters_module.load_all()


def config(folder: Path) -> dict[str, Any]:
    topology = support.topology_in(
        Path("/tmp/t"), replicas={name: (Path(f"/tmp/t/{name}-0.sock"),) for name in CHARTERS}
    )
    resources = envoy.resources(CHARTERS, topology)
    held = support.secrets(support.Authority(folder), topology, resources.secrets)
    return envoy.fold(envoy.bootstrap(topology), resources.listeners, resources.clusters, resources.endpoints, held)


def test_the_real_envoy_accepts_it_without_a_warning(tmp_path: Path) -> None:
    assert support.validate(config(tmp_path), tmp_path / "envoy.json") == ""


def test_the_check_sees_a_mistake(tmp_path: Path) -> None:
    wrong = config(tmp_path)
    wrong["static_resources"]["clusters"][0]["helth_checks"] = []
    assert "helth_checks" in support.validate(wrong, tmp_path / "envoy.json")


def test_every_resource_is_a_message_of_the_api() -> None:
    resources = envoy.resources(CHARTERS, support.topology_in(Path("/tmp/t")))
    for listener in resources.listeners:
        assert envoy.message("listener", listener).name == listener["name"]
    for cluster in resources.clusters:
        assert envoy.message("cluster", cluster).name == cluster["name"]
    for assignment in resources.endpoints:
        assert envoy.message("endpoints", assignment).cluster_name == assignment["cluster_name"]
    assert envoy.message("bootstrap", envoy.bootstrap(support.topology_in(Path("/tmp/t")))).node.id
    with pytest.raises(ParseError):
        envoy.message("cluster", {"helth_checks": []})


def test_equal_charters_give_equal_bytes() -> None:
    topology = support.topology_in(Path("/tmp/t"), public_port=8443)
    once, again = (envoy.resources(charters_module.load_all(), topology) for _ in range(2))
    assert json.dumps(once.listeners) == json.dumps(again.listeners)


def test_a_socket_path_that_no_socket_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter data directory"):
        envoy.resources(CHARTERS, support.topology_in(Path("/tmp/" + "x" * 90)))


def test_settings_that_measurements_forced() -> None:
    """Each of these cost a failing run once (reference: mesh measurements); none may go missing quietly."""
    resources = envoy.resources(CHARTERS, support.topology_in(Path("/tmp/t")))
    by_name = {cluster["name"]: cluster for cluster in resources.clusters}
    for name in CHARTERS:
        cluster = by_name[f"replicas-{name}"]
        assert cluster["ignore_health_on_host_removal"] is True
        assert cluster["outlier_detection"]["successful_active_health_check_uneject_host"] is False
        assert cluster["common_lb_config"] == {"update_merge_window": "0s", "healthy_panic_threshold": {"value": 0}}
    for context in _all(resources.listeners + resources.clusters, "common_tls_context"):
        parameters = context["tls_params"]
        assert parameters["tls_minimum_protocol_version"] == parameters["tls_maximum_protocol_version"] == "TLSv1_3"
    for name, cluster in by_name.items():
        if name.startswith("mesh-"):
            (options,) = cluster["typed_extension_protocol_options"].values()
            assert options["common_http_protocol_options"]["max_connection_duration"] == "900s", "below a leaf's hour"
    assert envoy.ARGUMENTS[envoy.ARGUMENTS.index("--drain-time-s") + 1] == "5"
    assert envoy.bootstrap(support.topology_in(Path("/tmp/t")))["admin"]["address"]["pipe"]["mode"] == 0o600


def test_retries_are_at_one_hop_only() -> None:
    resources = envoy.resources(CHARTERS, support.topology_in(Path("/tmp/t")))
    for listener in resources.listeners:
        policies = list(_all([listener], "retry_policy"))
        assert bool(policies) is not listener["name"].startswith("out-"), listener["name"]
        for policy in policies:
            assert {"5xx", "gateway-error", "retriable-status-codes"}.isdisjoint(policy["retry_on"].split(","))


def _all(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, part in value.items():
            if name == key:
                yield part
            yield from _all(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from _all(part, key)
