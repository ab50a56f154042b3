"""The configuration, derived from the charters, of the one Envoy that is both edge and mesh.

`resources` returns everything that the control plane serves, `endpoints` the part that changes when a replica comes or goes,
`bootstrap` the file that Envoy starts with, and `fold` all of it as one static file, for `envoy --mode validate` and for
tests. All are dicts of Envoy's v3 API in its JSON form; `message` turns one into its protobuf message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from tallystick.chassis.charter import Charter, pairs, workloads
from tallystick.fabric.envoy import edge, mesh, parts
from tallystick.fabric.envoy.bootstrap import ARGUMENTS, bootstrap
from tallystick.fabric.envoy.edge import LISTENERS as EDGE_LISTENERS
from tallystick.fabric.envoy.parts import BUNDLE, EDGE_IDENTITY, Json, identity
from tallystick.fabric.envoy.static import fold
from tallystick.fabric.envoy.topology import Topology, short
from tallystick.fabric.envoy.wire import message

__all__ = (
    "ARGUMENTS",
    "BUNDLE",
    "EDGE_IDENTITY",
    "EDGE_LISTENERS",
    "Json",
    "Resources",
    "Topology",
    "bootstrap",
    "endpoints",
    "fold",
    "identity",
    "message",
    "resources",
)


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """All that the control plane serves. `secrets` are names only; the identity agent provides the content.

    `identity-<service>` is a `TlsCertificate`, `edge` the certificate of the public listeners, `bundle` a
    `CertificateValidationContext` with the platform's trusted roots.
    """

    listeners: list[Json]
    clusters: list[Json]
    endpoints: list[Json]
    secrets: list[str]


def resources(charters: Mapping[str, Charter], topology: Topology) -> Resources:
    """All resources for these charters. Raises `ValueError` for a socket path that is too long."""
    hops = list(pairs(charters))
    return Resources(
        listeners=[
            *edge.listeners(charters, topology),
            *(mesh.inbound_listener(target, charters, topology) for target in mesh.targets(charters)),
            *(mesh.outbound_listener(caller, target, charters, topology) for caller, target in hops),
        ],
        clusters=[
            *(mesh.replica_cluster(name, charter, topology) for name, charter in charters.items()),
            *(mesh.mesh_cluster(caller, target, topology) for caller, target in hops),
            mesh.collector_cluster(topology),
        ],
        endpoints=[endpoints(name, topology.replicas.get(name, ())) for name in charters],
        secrets=[EDGE_IDENTITY, BUNDLE, *(identity(name) for name in workloads(charters))],
    )


def endpoints(service: str, sockets: Iterable[Path]) -> Json:
    """The `ClusterLoadAssignment` of a service: its replicas' sockets, in the order given."""
    hosts = [{"endpoint": {"address": parts.pipe(short(Path(socket)))}} for socket in sockets]
    return {"cluster_name": parts.replicas(service), "endpoints": [{"lb_endpoints": hosts}] if hosts else []}
