"""Turns JSON of the v3 API into protobuf messages, with the types of `xds-protos`."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

from google.protobuf import json_format

from tallystick.fabric.envoy.parts import TYPE, Json

Kind = Literal["listener", "cluster", "endpoints", "secret", "bootstrap"]

_ROOTS = {
    "listener": ("envoy.config.listener.v3.listener_pb2", "Listener"),
    "cluster": ("envoy.config.cluster.v3.cluster_pb2", "Cluster"),
    "endpoints": ("envoy.config.endpoint.v3.endpoint_pb2", "ClusterLoadAssignment"),
    "secret": ("envoy.extensions.transport_sockets.tls.v3.secret_pb2", "Secret"),
    "bootstrap": ("envoy.config.bootstrap.v3.bootstrap_pb2", "Bootstrap"),
}

#: The modules that define the types inside `Any`; importing a module registers its types.
_MODULES = (
    "envoy.config.trace.v3.opentelemetry_pb2",
    "envoy.extensions.access_loggers.stream.v3.stream_pb2",
    "envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2",
    "envoy.extensions.filters.http.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2",
    "envoy.extensions.resource_monitors.downstream_connections.v3.downstream_connections_pb2",
    "envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2",
    "envoy.extensions.transport_sockets.tls.v3.tls_pb2",
    "envoy.extensions.upstreams.http.v3.http_protocol_options_pb2",
)


def message(kind: Kind, resource: Json) -> Any:
    """The protobuf message of a resource. Raises `google.protobuf.json_format.ParseError` for a field that the API doesn't know."""
    for module in _MODULES:
        import_module(module)
    module, name = _ROOTS[kind]
    return json_format.ParseDict(resource, getattr(import_module(module), name)())  # type: ignore[no-untyped-call]


def type_url(kind: Kind) -> str:
    """`type.googleapis.com/envoy.config.listener.v3.Listener`: the name under which ADS serves it."""
    module, name = _ROOTS[kind]
    return TYPE + str(getattr(import_module(module), name).DESCRIPTOR.full_name)
