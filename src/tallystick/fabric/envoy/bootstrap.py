"""The file that Envoy is started with: its own settings, and where it gets the rest of its configuration."""

from __future__ import annotations

from tallystick.fabric.envoy import parts
from tallystick.fabric.envoy.parts import Json, typed
from tallystick.fabric.envoy.topology import Topology, short

#: Arguments besides `--config-path`. Old connections of a changed listener are closed after 5 s (the default is 600). One worker serves
#: everything, so that there is one set of connection pools to the replicas, and because two cores have other work to do.
ARGUMENTS = ("--concurrency", "1", "--drain-time-s", "5", "--drain-strategy", "immediate")


def bootstrap(topology: Topology) -> Json:
    """The bootstrap configuration: admin, node, the aggregated discovery service (state of the world, v3), limits."""
    return {
        "node": {"id": topology.node, "cluster": "tallystick"},
        "admin": {"address": parts.pipe(short(topology.admin_socket), mode=parts.OWNER_ONLY)},
        "dynamic_resources": {
            "lds_config": parts.ads(),
            "cds_config": parts.ads(),
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}, "timeout": "1s"}],
                "set_node_on_first_message_only": True,
            },
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "ads",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "load_assignment": {
                        "cluster_name": "ads",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": parts.pipe(short(topology.ads_socket))}}]}
                        ],
                    },
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            explicit_http_config={"http2_protocol_options": {}},
                        )
                    },
                }
            ]
        },
        "layered_runtime": {
            "layers": [
                {"name": "static", "static_layer": dict(topology.runtime)},
                # `POST /runtime_modify?tracing.random_sampling=10000` on the admin socket records every trace
                {"name": "admin", "admin_layer": {}},
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": typed(
                        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        max_active_downstream_connections=topology.max_public_connections,
                    ),
                }
            ]
        },
    }
