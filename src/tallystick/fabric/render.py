"""`tallystick render TARGET`: what is derived from the charters, as files.

The examples under `deploy/rendered/` are made by this with `EXAMPLE`; a test fails when they are stale.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tallystick.chassis.charter import Charter, load_all
from tallystick.fabric import alerts, dashboards, datamap, diagram, envoy, nats, postgres, valkey
from tallystick.fabric.shards import with_shards

Files = dict[str, str]

#: The topology of the rendered examples. The one that a local platform runs with is in its data directory.
EXAMPLE = envoy.Topology(
    trust_domain="tallystick.example",
    public_port=8443,
    mtls_port=8446,
    mesh_dir=Path("/run/tallystick/mesh"),
    ads_socket=Path("/run/tallystick/ads.sock"),
    admin_socket=Path("/run/tallystick/envoy.sock"),
    collector_socket=Path("/run/tallystick/collector.sock"),
)


def _envoy(charters: Mapping[str, Charter]) -> Files:
    topology = _with_two_replicas(charters)
    found = envoy.resources(charters, topology)
    return {
        "bootstrap.json": _json(envoy.bootstrap(topology)),
        "listeners.json": _json(found.listeners),
        "clusters.json": _json(found.clusters),
        "endpoints.json": _json(found.endpoints),
        "secrets.json": _json(found.secrets),
    }


def _with_two_replicas(charters: Mapping[str, Charter]) -> envoy.Topology:
    sockets = {name: tuple(Path(f"/run/tallystick/svc/{name}-{n}.sock") for n in (0, 1)) for name in charters}
    return msgspec.structs.replace(EXAMPLE, replicas=sockets)


def _nats(charters: Mapping[str, Charter]) -> Files:
    made = nats.accounts(charters, lambda name: f"<bcrypt hash of {name}'s password>")
    return {"accounts.conf": _json({"accounts": made})}


def _postgres(charters: Mapping[str, Charter]) -> Files:
    return {"roles.sql": postgres.script(charters)}


def _valkey(charters: Mapping[str, Charter]) -> Files:
    return {"users.acl": valkey.users_acl(charters)}


def _datamap(charters: Mapping[str, Charter]) -> Files:
    found = datamap.load(charters)
    return {"data-map.md": datamap.markdown(found), "data-map.json": _json(datamap.document(found))}


def _diagram(charters: Mapping[str, Charter]) -> Files:
    return {"services.mmd": diagram.mermaid(charters)}


def _alerts(charters: Mapping[str, Charter]) -> Files:
    return {"tallystick.rules.yml": alerts.yaml(alerts.document(charters))}


def _dashboards(charters: Mapping[str, Charter]) -> Files:
    return {f"{name}.json": _json(made) for name, made in dashboards.documents(charters).items()}


TARGETS: dict[str, Callable[[Mapping[str, Charter]], Files]] = {
    "alerts": _alerts,
    "dashboards": _dashboards,
    "data-map": _datamap,
    "diagram": _diagram,
    "envoy": _envoy,
    "nats": _nats,
    "postgres": _postgres,
    "valkey": _valkey,
}


class UnknownTarget(Exception):
    """There is no such target; the message lists those that exist."""


def files(target: str, charters: Mapping[str, Charter] | None = None, shards: Iterable[str] = ()) -> Files:
    """The target's files, name -> text; with `shards`, also for these shards of the services that can have some.

    Raises `UnknownTarget`, `CharterError`.
    """
    if target not in TARGETS:
        raise UnknownTarget(f'no target "{target}": use one of {", ".join(TARGETS)}')
    return TARGETS[target](with_shards(charters if charters is not None else load_all(), shards))


def render(target: str, out: Path, shards: Iterable[str] = ()) -> list[Path]:
    """Write a target's files into `out`, which is created if necessary; returns their paths. Other files in it are left alone."""
    made = files(target, shards=shards)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in made.items():
        path = out / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
