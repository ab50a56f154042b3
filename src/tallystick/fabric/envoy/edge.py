"""The two listeners that are reachable from outside: TLS 1.3, the charters' edge paths and nothing else.

They differ in one thing: the second asks for the client's certificate and passes its SHA-256 to the services, so that access tokens
can be bound to it (RFC 8705, section 3). It has its own port, because a browser that is asked for a certificate shows its user a
list of them (section 5).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from tallystick.chassis.auth import certificate
from tallystick.chassis.auth.authenticator import REQUEST_HEADER
from tallystick.chassis.call import TIMEOUT_HEADER
from tallystick.chassis.charter import Charter
from tallystick.fabric.envoy import parts
from tallystick.fabric.envoy.parts import Json, typed
from tallystick.fabric.envoy.topology import Topology
from tallystick.kernel.deployment import HOME, SHARD_HEADER
from tallystick.kernel.deployment import parts as parts_of

#: Headers that only the platform itself may set, removed before anything reads them: the peer's name, controls of the proxy
#: (timeouts, retries), the chain of addresses, and the trace context, whose sampling flag would make us work.
FOREIGN_PREFIXES = ("x-tallystick-", "x-envoy-", "x-forwarded-")
FOREIGN = (
    "forwarded",
    REQUEST_HEADER.decode(),
    "x-real-ip",
    "traceparent",
    "tracestate",
    "baggage",
    TIMEOUT_HEADER.lower(),
)

#: The header by which the second listener passes the SHA-256 of the client's certificate, in hex. Its prefix is among those above, so
#: both listeners remove it from a client's request, and `mesh` removes it from a service's.
CERTIFICATE = certificate.HEADER.decode()

#: Bytes that Envoy buffers for a client that reads or writes slowly, and of a body that it may have to send again.
BUFFER_BYTES = 64 << 10

#: The namespace of the route metadata that names the service, for the rate limit.
METADATA = "tallystick"

#: The methods of RFC 9110, and PATCH. Which of them a path accepts is decided by its service.
METHODS = "GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE"

PLAIN = "edge"
MUTUAL = "edge-mtls"
LISTENERS = (PLAIN, MUTUAL)

#: Any certificate is accepted, whoever issued it and whatever it says: a token is bound to it by its hash, and the handshake proves
#: that the client has its key (TLS 1.3, CertificateVerify). The request for it names no authorities, because some clients would use
#: them to choose a certificate.
ANY_CERTIFICATE: Json = {"validation_context": {"trust_chain_verification": "ACCEPT_UNTRUSTED"}}
#: Sessions can't be resumed: a resumed one takes the certificate from its ticket without a new signature, so that whoever stole the
#: ticket would not need the key. Although "required", Envoy lets a client connect without a certificate as long as there is no
#: authority to verify it; `_uncertified` refuses such clients.
PROVED_EACH_TIME: Json = {
    "require_client_certificate": True,
    "disable_stateless_session_resumption": True,
    "disable_stateful_session_resumption": True,
}


def listeners(charters: Mapping[str, Charter], topology: Topology) -> list[Json]:
    """The listener for everybody, and the one for clients with a certificate."""
    return [
        _listener(PLAIN, topology.public_port, charters, topology),
        _listener(MUTUAL, topology.mtls_port, charters, topology),
    ]


def _listener(name: str, port: int, charters: Mapping[str, Charter], topology: Topology) -> Json:
    mutual = name == MUTUAL
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=PLAIN,  # one set of statistics for both
        codec_type="AUTO",
        server_name="tallystick",
        # The client's address is that of the connection; what it claims about itself is ignored.
        use_remote_address=True,
        # Nobody is "internal". An empty list would mean Envoy's default: private networks and loopback.
        internal_address_config={"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        forward_client_cert_details="SANITIZE",
        early_header_mutation_extensions=[_strip()],
        generate_request_id=True,
        normalize_path=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        max_request_headers_kb=24,
        request_headers_timeout="10s",
        request_timeout="20s",
        stream_idle_timeout="60s",
        drain_timeout="5s",
        common_http_protocol_options={
            "idle_timeout": "60s",
            "max_connection_duration": parts.seconds(parts.CLIENT_CONNECTION_S),
            "max_headers_count": 64,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        http1_safe_max_connection_duration=True,
        http2_protocol_options={
            "max_concurrent_streams": 128,
            "initial_stream_window_size": BUFFER_BYTES,
            "initial_connection_window_size": 1 << 20,
        },
        local_reply_config=parts.local_replies(parts.ANSWER_HEADERS),
        tracing=parts.tracing(topology.trace_percent, operation="edge"),
        access_log=parts.access_log("edge"),
        http_filters=[_rate_limit(charters), parts.router()],
        route_config=_routes(name, charters),
    )
    return {
        "name": name,
        "address": {"socket_address": {"address": topology.public_address, "port_value": port}},
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [
            {
                "transport_socket_connect_timeout": "10s",
                "transport_socket": {
                    "name": "envoy.transport_sockets.tls",
                    "typed_config": typed(
                        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                        common_tls_context={
                            "tls_params": parts.TLS,
                            "alpn_protocols": ["h2", "http/1.1"],
                            "tls_certificate_sds_secret_configs": [
                                {"name": parts.EDGE_IDENTITY, "sds_config": parts.ads()}
                            ],
                            **(ANY_CERTIFICATE if mutual else {}),
                        },
                        **(PROVED_EACH_TIME if mutual else {}),
                    ),
                },
                "filters": [
                    {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
                ],
            }
        ],
    }


def _strip() -> Json:
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": typed(
            "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            mutations=[
                *({"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in FOREIGN_PREFIXES),
                *({"remove": name} for name in FOREIGN),
            ],
        ),
    }


def _rate_limit(charters: Mapping[str, Charter]) -> Json:
    """One bucket per service for all clients together, against floods; it applies before any token is checked."""
    return {
        "name": "envoy.filters.http.local_ratelimit",
        "typed_config": typed(
            "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            stat_prefix="edge",
            # Paths without a bucket of their own share this one: unknown paths, and the list of API documents.
            token_bucket={"max_tokens": 1000, "tokens_per_fill": 1000, "fill_interval": "1s"},
            always_consume_default_token_bucket=False,
            filter_enabled={"default_value": {"numerator": 100}},
            filter_enforced={"default_value": {"numerator": 100}},
            response_headers_to_add=parts.headers({"retry-after": "1"}, "OVERWRITE_IF_EXISTS_OR_ADD"),
            rate_limits=[
                {
                    "actions": [
                        {
                            "metadata": {
                                "descriptor_key": "service",
                                "metadata_key": {"key": METADATA, "path": [{"key": "service"}]},
                                "source": "ROUTE_ENTRY",
                            }
                        }
                    ]
                }
            ],
            descriptors=[
                {
                    "entries": [{"key": "service", "value": name}],
                    # Refilled ten times a second: a whole second's tokens at once would let requests through in bursts.
                    "token_bucket": {
                        "max_tokens": charter.edge.burst,
                        "tokens_per_fill": max(1, charter.edge.per_second // 10),
                        "fill_interval": "0.1s",
                    },
                }
                for name, charter in charters.items()
                if charter.edge.paths
            ],
        ),
    }


def _routes(listener: str, charters: Mapping[str, Charter]) -> Json:
    routes = _unread()
    if listener == MUTUAL:
        routes.append(_uncertified())
    # The first match wins, so routes with conditions besides the path come before those without.
    for name, charter in sorted(charters.items(), key=lambda item: _is_home(item[0])):
        for path in charter.edge.paths:
            routes += _service_routes(
                name, charter, {"path_separated_prefix": path.prefix}, meant=_meant_for(name), keyed=path.keyed
            )
    routes += [_document(name, charter) for name, charter in charters.items() if _is_home(name)]
    routes.append(_index(charters))
    # Deny by default: a path that no charter names does not exist. The local reply mapper makes the body.
    routes.append({"name": "nowhere", "match": {"prefix": "/"}, "direct_response": {"status": 404}})
    return {
        "name": listener,
        "virtual_hosts": [{"name": listener, "domains": ["*"], "routes": routes}],
        "response_headers_to_add": parts.headers(parts.ANSWER_HEADERS, "ADD_IF_ABSENT"),
        "request_headers_to_remove": ["x-envoy-expected-rq-timeout-ms"],
        **(
            {
                "request_headers_to_add": parts.headers(
                    {CERTIFICATE: "%DOWNSTREAM_PEER_FINGERPRINT_256%"}, "OVERWRITE_IF_EXISTS_OR_ADD"
                )
            }
            if listener == MUTUAL
            else {}
        ),
    }


def _unread() -> list[Json]:
    """Routes that refuse what the proxy accepts and others would not. Over HTTP/2 any word can be a method, and a query can have any
    byte, which the service's HTTP parser would refuse with an answer of its own. Two Host headers become one with a comma
    (RFC 9112 section 3.2), and a user name before the host is there to mislead (RFC 9110 section 4.2.4).
    """

    def unlike(header: str, pattern: str) -> Json:
        matcher = {"name": header, "string_match": {"safe_regex": {"regex": pattern}}, "invert_match": True}
        return {
            "name": "unread",
            "match": {"prefix": "/", "headers": [matcher]},
            "direct_response": {"status": 400},
        }

    return [unlike(":method", METHODS), unlike(":path", "[!-~]*"), unlike(":authority", "[^,@]*")]


def _uncertified() -> Json:
    """The route that refuses a client without a certificate; nothing of its request goes further."""
    return {
        "name": "uncertified",
        "match": {"prefix": "/", "tls_context": {"presented": False}},
        "direct_response": {"status": 421},
    }


def _is_home(name: str) -> bool:
    return parts_of(name)[1] == HOME


def _meant_for(name: str) -> Json:
    """The condition that a request is for this shard of a service. The shard at home gets all others: those that name no shard, and
    those that name an unknown one, which it refuses.
    """
    if _is_home(name):
        return {}
    return {"headers": [{"name": SHARD_HEADER.lower(), "string_match": {"exact": parts_of(name)[1]}}]}


def _service_routes(
    name: str, charter: Charter, path: Json, *, meant: Json | None = None, keyed: Sequence[str] = ()
) -> list[Json]:
    """The routes of a service's path. `keyed` are the paths at which a POST with an Idempotency-Key may be retried; at others the
    header has no meaning.
    """
    meant = meant or {}

    def match(which: Json, *conditions: Json) -> Json:
        return which | {"headers": [*meant.get("headers", ()), *conditions]}

    def route(suffix: str, match: Json, retries: str) -> Json:
        action = {
            "cluster": parts.replicas(name),
            "timeout": parts.millis(charter.limits.request_timeout_ms),
            "retry_policy": parts.retry(retries),
        }
        metadata = {"filter_metadata": {METADATA: {"service": name}}}
        return {"name": name + suffix, "match": match, "route": action, "metadata": metadata}

    too_large = {"start": charter.limits.max_body_bytes + 1, "end": 2**63 - 1}
    routes: list[Json] = [
        # Refused by the announced length, without reading the body. The chassis limits bodies of unknown length.
        {
            "name": f"{name}-too-large",
            "match": match(path, {"name": "content-length", "range_match": too_large}),
            "direct_response": {"status": 413},
        }
    ]
    if keyed:
        paths = {"safe_regex": {"regex": "|".join(map(parts.path_regex, keyed))}}
        has_key = {"name": "idempotency-key", "present_match": True}
        routes.append(route("-keyed", match(paths, parts.method("POST"), has_key), parts.KEYED_RETRIES))
    # A read is retried when the connection breaks: it changes nothing, so no client needs to notice that a replica died.
    routes.append(route("-read", match(path, parts.method("GET")), parts.KEYED_RETRIES))
    routes.append(route("", path | meant, parts.SAFE_RETRIES))
    return routes


def _document(name: str, charter: Charter) -> Json:
    """A service's OpenAPI document, which it serves itself."""
    *_, read, _ = _service_routes(name, charter, {"path": f"/openapi/{name}.json"})
    return read | {"name": f"{name}-openapi"}


def _index(charters: Mapping[str, Charter]) -> Json:
    """The list of all API documents, which is known from the charters, so that no service needs it."""
    body = {"data": [{"service": name, "openapi": f"/openapi/{name}.json"} for name in charters if _is_home(name)]}
    return {
        "name": "openapi",
        "match": {"path": "/openapi.json", "headers": [parts.method("GET")]},
        "direct_response": {"status": 200, "body": {"inline_string": json.dumps(body, separators=(",", ":"))}},
        "response_headers_to_add": parts.headers(
            {"content-type": "application/json", "request-id": parts.REQUEST_ID}, "OVERWRITE_IF_EXISTS_OR_ADD"
        ),
    }
