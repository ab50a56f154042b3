"""The whole configuration in one file.

`envoy --mode validate` does not check what a control plane would serve, so that a typo in a listener would pass. For the check all of
it is folded into `static_resources`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from tallystick.fabric.envoy.parts import Json


def fold(
    bootstrap: Json, listeners: Iterable[Json], clusters: Iterable[Json], endpoints: Iterable[Json], secrets: list[Json]
) -> Json:
    """A bootstrap without discovery. `secrets` are the `Secret` messages of all names that the resources refer to."""
    assignments = {assignment["cluster_name"]: assignment for assignment in endpoints}
    folded = copy.deepcopy(bootstrap)
    folded.pop("dynamic_resources")
    folded["static_resources"] = {
        "listeners": [_without_discovery(listener) for listener in listeners],
        "clusters": [_static(_without_discovery(cluster), assignments) for cluster in clusters],
        "secrets": secrets,
    }
    return folded


def _static(cluster: Json, assignments: dict[str, Json]) -> Json:
    if cluster.pop("eds_cluster_config", None) is None:
        return cluster
    return cluster | {"type": "STATIC", "load_assignment": assignments[cluster["name"]]}


def _without_discovery(value: Any) -> Any:
    """The value without `sds_config`: a secret that is referred to by name alone is a static one."""
    if isinstance(value, dict):
        return {key: _without_discovery(part) for key, part in value.items() if key != "sds_config"}
    if isinstance(value, list):
        return [_without_discovery(part) for part in value]
    return value
