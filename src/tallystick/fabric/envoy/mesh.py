"""The inner hops: `caller -> 0600 Unix socket -> mTLS -> access rules -> replicas`.

Whoever can open `<mesh_dir>/<caller>/<target>.sock` *is* the caller, so only its owner may open it. From there on nothing is trusted:
Envoy presents the caller's certificate; the inbound listener verifies it, and lets through what the target's charter grants to that
identity, by method and exact path.
"""

from __future__ import annotations

from collections.abc import Mapping

from tallystick.chassis.auth.authenticator import PEER_HEADER
from tallystick.chassis.charter import Charter, timeout_ms
from tallystick.fabric.envoy import parts
from tallystick.fabric.envoy.edge import CERTIFICATE
from tallystick.fabric.envoy.parts import Json, typed
from tallystick.fabric.envoy.topology import Topology

PEER = PEER_HEADER.decode()


def targets(charters: Mapping[str, Charter]) -> list[str]:
    """The services that others may call."""
    return [name for name, charter in charters.items() if charter.callers]


def outbound_listener(caller: str, target: str, charters: Mapping[str, Charter], topology: Topology) -> Json:
    """The listener to which `caller` sends its requests to `target`. It does not retry: the hop next to the replicas does."""
    name = f"out-{caller}-{target}"
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": f"mesh-{caller}-{target}", "timeout": parts.millis(timeout_ms(charters, caller, target))},
    }
    return _listener(
        name,
        parts.pipe(topology.outbound(caller, target), mode=parts.OWNER_ONLY),
        _manager(
            name,
            "out",
            [parts.router()],
            {"name": name, "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
            codec_type="HTTP1",
        ),
    )


def inbound_listener(target: str, charters: Mapping[str, Charter], topology: Topology) -> Json:
    """The listener at which all callers of `target` arrive, with their certificates."""
    callers = charters[target].callers
    longest = max(timeout_ms(charters, caller, target) for caller in callers)
    name = f"in-{target}"
    routes = {
        "name": name,
        "virtual_hosts": [
            {
                "name": name,
                "domains": ["*"],
                "routes": [
                    {
                        "match": {"prefix": "/"},
                        "route": {
                            "cluster": parts.replicas(target),
                            "timeout": parts.millis(longest),
                            "retry_policy": parts.retry(parts.SAFE_RETRIES),
                        },
                    }
                ],
                # Overwrites what the caller may have sent.
                "request_headers_to_add": parts.headers(
                    {PEER: "%DOWNSTREAM_PEER_URI_SAN%"}, "OVERWRITE_IF_EXISTS_OR_ADD"
                ),
                # Only the edge may set this, and its requests don't come this way.
                "request_headers_to_remove": [CERTIFICATE],
            }
        ],
    }
    return _listener(
        name,
        parts.pipe(topology.inbound(target), mode=parts.OWNER_ONLY),
        _manager(
            name,
            "mesh",
            [access_rules(target, charters, topology), parts.router()],
            routes,
            # No tracing here: the proxy would replace the caller's sampling decision by its own, and the trace would end at this hop.
            codec_type="HTTP2",
        ),
        transport_socket={
            "name": "envoy.transport_sockets.tls",
            "typed_config": typed(
                "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                require_client_certificate=True,
                common_tls_context=parts.tls_context(parts.identity(target), [{"prefix": topology.spiffe("")}]),
            ),
        },
    )


def access_rules(target: str, charters: Mapping[str, Charter], topology: Topology) -> Json:
    """The charter's `[callers]` as Envoy's RBAC; everything else is refused with 403."""
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": typed(
            "envoy.extensions.filters.http.rbac.v3.RBAC",
            rules={
                "action": "ALLOW",
                "policies": {
                    caller: {
                        "principals": [{"authenticated": {"principal_name": {"exact": topology.spiffe(caller)}}}],
                        "permissions": [_permission(action) for action in actions],
                    }
                    for caller, actions in charters[target].callers.items()
                },
            },
        ),
    }


def _permission(action: str) -> Json:
    method, path = action.split(" ", 1)
    if "{" in path:
        matcher: Json = {"safe_regex": {"regex": parts.path_regex(path)}}
    else:
        matcher = {"exact": path}
    return {
        "and_rules": {
            "rules": [
                {"header": parts.method(method)},
                {"url_path": {"path": matcher}},
            ]
        }
    }


def mesh_cluster(caller: str, target: str, topology: Topology) -> Json:
    """The hop from caller to target: it presents the caller's certificate and accepts none but the target's."""
    return {
        "name": f"mesh-{caller}-{target}",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": f"mesh-{caller}-{target}",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": parts.pipe(topology.inbound(target))}}]}],
        },
        "typed_extension_protocol_options": _protocol(
            {
                "http2_protocol_options": {
                    "max_concurrent_streams": 1024,
                    "initial_stream_window_size": 1 << 20,
                    "initial_connection_window_size": 8 << 20,
                }
            },
            idle_timeout="300s",
            max_connection_duration=parts.seconds(parts.CLIENT_CONNECTION_S),
        ),
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": typed(
                "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                sni=target,
                common_tls_context=parts.tls_context(parts.identity(caller), [{"exact": topology.spiffe(target)}]),
            ),
        },
    }


def replica_cluster(name: str, charter: Charter, topology: Topology) -> Json:
    """A service's replicas: health-checked each second, ejected when they fail, with the limits of the charter."""
    limits = charter.limits
    bound = (limits.max_in_flight + limits.max_queue) * max(1, len(topology.replicas.get(name, ())))
    return {
        "name": parts.replicas(name),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": parts.ads()},
        "connect_timeout": "0.5s",
        "lb_policy": "LEAST_REQUEST",
        "per_connection_buffer_limit_bytes": 1 << 20,
        # A replica that is no longer listed is dropped at once, even if it still passes its health check.
        "ignore_health_on_host_removal": True,
        "common_lb_config": {
            # Never use all replicas because all are unhealthy: an honest 503 is better than sending a payment to a dying process.
            "healthy_panic_threshold": {"value": 0},
            # By default an ejection takes effect a second later, with a second of wrong answers.
            "update_merge_window": "0s",
        },
        "health_checks": [
            {
                # Long, because a dead replica refuses at once anyway, and a slow answer on a busy machine must not remove the last one.
                "timeout": "3s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_interval": "0.5s",
                "initial_jitter": "0.1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "reuse_connection": True,
                "http_health_check": {"path": "/health/ready", "host": name},
            }
        ],
        "outlier_detection": {
            "consecutive_5xx": 5,
            "consecutive_gateway_failure": 5,
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "enforcing_consecutive_gateway_failure": 100,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "enforcing_failure_percentage": 0,
            "interval": "1s",
            "base_ejection_time": "5s",
            "max_ejection_time": "30s",
            # Half of the replicas at most, and never the only one, which is better than none.
            "max_ejection_percent": 50,
            "always_eject_one_host": False,
            # A replica that fails requests may pass its health check all the time; that must not bring it back early.
            "successful_active_health_check_uneject_host": False,
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": limits.max_connections,
                    "max_pending_requests": bound,
                    "max_requests": bound,
                    "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 32},
                }
            ]
        },
        # Shorter than the server's keep-alive (10 min): Envoy must be the one that closes, or a request could meet a closing connection.
        "typed_extension_protocol_options": _protocol({"http_protocol_options": {}}, idle_timeout="60s"),
    }


def collector_cluster(topology: Topology) -> Json:
    """The collector of spans. When it is away spans are dropped: tracing never delays a payment."""
    return {
        "name": "collector",
        "type": "STATIC",
        "connect_timeout": "0.5s",
        "load_assignment": {
            "cluster_name": "collector",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": parts.pipe(topology.collector_socket)}}]}],
        },
        "circuit_breakers": {"thresholds": [{"max_connections": 4, "max_pending_requests": 64, "max_requests": 64}]},
        "typed_extension_protocol_options": _protocol({"http_protocol_options": {}}, idle_timeout="30s"),
    }


def _protocol(explicit: Json, **common: str) -> Json:
    return {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            explicit_http_config=explicit,
            common_http_protocol_options=common,
        )
    }


def _manager(name: str, kind: str, filters: list[Json], routes: Json, *, codec_type: str, **more: Json) -> Json:
    return typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        codec_type=codec_type,
        server_header_transformation="PASS_THROUGH",
        generate_request_id=False,
        forward_client_cert_details="SANITIZE",
        normalize_path=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        max_request_headers_kb=32,
        request_headers_timeout="10s",
        stream_idle_timeout="60s",
        drain_timeout="5s",
        common_http_protocol_options={
            "idle_timeout": "600s",
            "max_connection_duration": parts.seconds(parts.SERVER_CONNECTION_S),
        },
        http1_safe_max_connection_duration=True,
        http2_protocol_options={
            "max_concurrent_streams": 1024,
            "initial_stream_window_size": 1 << 20,
            "initial_connection_window_size": 8 << 20,
        },
        local_reply_config=parts.local_replies({"cache-control": "no-store"}, inner=True),
        access_log=parts.access_log(kind),
        http_filters=filters,
        route_config=routes,
        **more,
    )


def _listener(name: str, address: Json, manager: Json, **chain: Json) -> Json:
    return {
        "name": name,
        "address": address,
        "per_connection_buffer_limit_bytes": 1 << 20,
        # The global limit on connections protects the edge against strangers.
        "ignore_global_conn_limit": True,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}], **chain}
        ],
    }
