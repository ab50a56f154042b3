"""Pieces that listeners and clusters share, as JSON of Envoy's v3 API."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, TypeAlias

from tallystick.fabric.envoy.problems import (
    CertificateRequired,
    HeadersTooLarge,
    HttpVersionUnknown,
    TransferCodingUnknown,
)
from tallystick.kernel import problem

Json: TypeAlias = dict[str, Any]

TYPE = "type.googleapis.com/"
OWNER_ONLY = 0o600

#: A certificate lives for an hour (identity agent): a connection made with it must not outlive the next one. The
#: client side closes first, so that no request meets a connection that the server is closing.
CLIENT_CONNECTION_S = 900
SERVER_CONNECTION_S = 1200

#: What may be sent again although it may move money: the request never reached the application.
SAFE_RETRIES = "connect-failure,refused-stream,reset-before-request"
#: A read, or a request with an Idempotency-Key, that got lost on its way back may be sent again too.
KEYED_RETRIES = SAFE_RETRIES + ",reset"

BUNDLE = "bundle"
EDGE_IDENTITY = "edge"


def identity(service: str) -> str:
    """The name of the SDS secret with the certificate and key of a service."""
    return f"identity-{service}"


def replicas(service: str) -> str:
    """The name of the cluster of a service's replicas (EDS)."""
    return f"replicas-{service}"


def typed(kind: str, **fields: Any) -> Json:
    """An `Any`: `typed("envoy....v3.Router", ...)`."""
    return {"@type": TYPE + kind, **fields}


def seconds(value: float) -> str:
    """A protobuf Duration in JSON."""
    return f"{value:g}s"


def millis(value: int) -> str:
    return seconds(value / 1000)


def path_regex(path: str) -> str:
    """For the paths that a path of an endpoint table, with parameters in braces, stands for."""
    return re.sub(r"\\\{[a-z_]+\\\}", "[^/]+", re.escape(path))


def method(name: str) -> Json:
    """The condition that a request has this method. Who may GET may ask for the head of the same answer."""
    wanted: Json = {"safe_regex": {"regex": "GET|HEAD"}} if name == "GET" else {"exact": name}
    return {"name": ":method", "string_match": wanted}


def pipe(path: Path, *, mode: int | None = None) -> Json:
    return {"pipe": {"path": str(path)} | ({"mode": mode} if mode is not None else {})}


def ads() -> Json:
    return {"ads": {}, "resource_api_version": "V3"}


def retry(conditions: str) -> Json:
    """Bounded by the cluster's retry budget; another replica than the one that failed."""
    return {
        "retry_on": conditions,
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.100s"},
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
            }
        ],
        # a dead replica has the fewest requests, so the balancer likes it: ask again until it names another
        "host_selection_retry_max_attempts": 10,
    }


#: Of every connection with TLS. Maximum set beside the minimum: with a minimum of 1.3 alone Envoy's client side offers up to its default of 1.2.
#: Who speaks the hybrid of X25519 and ML-KEM-768 (FIPS 203) gets it: a card number that is recorded on its way today is not read with a
#: quantum computer later. BoringSSL leaves it out unless it is asked for.
TLS: Final[Json] = {
    "tls_minimum_protocol_version": "TLSv1_3",
    "tls_maximum_protocol_version": "TLSv1_3",
    "ecdh_curves": ["X25519MLKEM768", "X25519", "P-256"],
}


def tls_context(service_secret: str, peers: list[Json]) -> Json:
    """Both sides of an inner hop: own certificate by SDS, the peer's checked against the bundle and its URI SAN."""
    return {
        "tls_params": TLS,
        "alpn_protocols": ["h2"],
        "tls_certificate_sds_secret_configs": [{"name": service_secret, "sds_config": ads()}],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": matcher} for matcher in peers]
            },
            "validation_context_sds_secret_config": {"name": BUNDLE, "sds_config": ads()},
        },
    }


def router() -> Json:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": typed("envoy.extensions.filters.http.router.v3.Router", suppress_envoy_headers=True),
    }


def tracing(percent: float, *, operation: str) -> Json:
    """Spans by OTLP/HTTP. For the edge, which decides what is sampled; inside, services follow the traceparent's flag."""
    return {
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": typed(
                "envoy.config.trace.v3.OpenTelemetryConfig",
                service_name="envoy",
                http_service={
                    "http_uri": {"uri": "http://collector/v1/traces", "cluster": "collector", "timeout": "1s"}
                },
            ),
        },
        "client_sampling": {"value": 0},
        "random_sampling": {"value": percent},
        "overall_sampling": {"value": 100},
        "max_path_tag_length": 128,
        "operation": operation,
    }


def access_log(kind: str) -> list[Json]:
    """One JSON line on standard output for failures, refusals of the mesh and sampled requests; never headers or queries.

    Of a path at the edge only which route took it: what a stranger writes there may be a card number.
    """
    place = {"route": "%ROUTE_NAME%"} if kind == "edge" else {"path": "%PATH(NQ:PATH:128)%"}
    return [
        {
            "name": "envoy.access_loggers.stdout",
            "filter": {
                "or_filter": {
                    "filters": [
                        status_filter("GE", 500),
                        {"traceable_filter": {}},
                        *([status_filter("EQ", 403)] if kind == "mesh" else []),
                    ]
                }
            },
            "typed_config": typed(
                "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
                log_format={
                    "json_format": {
                        "event": "proxy.request",
                        "at": "%START_TIME%",
                        "entry": kind,
                        "trace_id": "%TRACE_ID%",
                        "request_id": "%STREAM_ID%",
                        "connection": "%CONNECTION_ID%",
                        "method": "%REQ(:METHOD)%",
                        **place,
                        "status": "%RESPONSE_CODE%",
                        "details": "%RESPONSE_CODE_DETAILS%",
                        "flags": "%RESPONSE_FLAGS%",
                        "cluster": "%UPSTREAM_CLUSTER%",
                        "peer": "%DOWNSTREAM_PEER_URI_SAN%",
                        "duration_ms": "%DURATION%",
                        "request_bytes": "%BYTES_RECEIVED%",
                        "answer_bytes": "%BYTES_SENT%",
                    }
                },
            ),
        }
    ]


def status_filter(operator: str, value: int) -> Json:
    comparison = {"op": operator, "value": {"default_value": value, "runtime_key": "tallystick.unused"}}
    return {"status_code_filter": {"comparison": comparison}}


#: Security headers of every answer; an answer that says otherwise itself (the console's pages) keeps its own.
ANSWER_HEADERS = {
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


REQUEST_ID = "%STREAM_ID%"
#: Of a request that could not be read, which gets no id: when, and on which connection, as the access log says it.
UNREAD_ID = "edge-%START_TIME(%s%6f)%-%CONNECTION_ID%"
#: Member of the problem document of a request that was passed on to nobody.
UNSENT = ',"sent":false'
#: `OPTIONS *`, and an address without a path, are answered 404 before there is an id.
WITHOUT_PATH: Json = {"header_filter": {"header": {"name": "x-request-id", "present_match": False}}}
#: The one reason for which the edge itself says 403; inside it is the access rules'.
NO_UPGRADE = "A connection is not upgraded to another protocol here."
INNER = frozenset({403, 503, 504})
UNREAD = frozenset({400, 408, 426, 431, 501})


def headers(values: dict[str, str], action: str) -> list[Json]:
    return [{"header": {"key": key, "value": value}, "append_action": action} for key, value in values.items()]


#: Envoy's own answers, by their status.
OWN: dict[int, tuple[type[problem.Problem], str]] = {
    kind.status: (kind, detail)
    for kind, detail in (
        (problem.InvalidRequest, "The request could not be read as HTTP."),
        (problem.Forbidden, "This caller may not use this endpoint."),
        (problem.NotFound, "There is nothing at this path."),
        (problem.RequestTimeout, "The request took too long to arrive."),
        (problem.PayloadTooLarge, problem.PayloadTooLarge.title),
        # RFC 9110, 15.5.20: another connection may do, one that shows a certificate
        (CertificateRequired, "Connect again with a client certificate (RFC 8705), or use the API's other port."),
        (HttpVersionUnknown, "Send HTTP/1.1 or HTTP/2."),
        (problem.RateLimited, "This service takes no more requests just now."),
        (HeadersTooLarge, "Send fewer or smaller headers."),
        (
            TransferCodingUnknown,
            "Send a body with its Content-Length, or with the transfer coding chunked and no other.",
        ),
        (problem.Unavailable, "The connection to the service broke; its outcome is not known."),
        (problem.DeadlineExceeded, "The service did not answer in time; its outcome is not known."),
    )
}


def local_replies(extra: dict[str, str], *, inner: bool = False) -> Json:
    """Envoy's own 4xx and 5xx as problem documents (RFC 9457).

    Their `request_id` is Envoy's own (the tag `guid:x-request-id` of the span): where these are made there is no trace id
    to be had. Inside (`inner`) they bear none, the caller knows its trace, and fewer kinds can happen.
    """

    def mapper(condition: Json, fields: str, name: str, *, again: bool = False) -> Json:
        member = f',"request_id":"{name}"' if not inner else ""
        more = {} if inner else {"request-id": name} | ({"retry-after": "1"} if again else {})
        return {
            "filter": condition,
            "body_format_override": {
                "text_format_source": {"inline_string": "{" + fields + member + "}"},
                "content_type": "application/problem+json",
            },
            "headers_to_add": headers(extra | more, "OVERWRITE_IF_EXISTS_OR_ADD"),
        }

    def document(kind: type[problem.Problem], detail: str, more: str = "") -> str:
        return (
            f'"type":"{kind.type_url()}","title":"{kind.title}","status":{kind.status},'
            f'"detail":"{detail}","retryable":{"true" if kind.retryable else "false"}{more}'
        )

    def own(status: int, name: str, *conditions: Json) -> Json:
        kind, detail = OWN[status]
        if kind is problem.Forbidden and not inner:
            detail = NO_UPGRADE
        filters = [status_filter("EQ", status), *conditions]
        return mapper(
            {"and_filter": {"filters": filters}} if conditions else filters[0],
            document(kind, detail),
            name,
            again=kind.retryable and status >= 500,
        )

    # No healthy host, circuit open, connection failed: inside these reached nobody, so `chassis.call` may repeat them safely. At the edge
    # it is the last try that reached nobody: the replica that had the one before may have died after it acted.
    unsent: Json = {"response_flag_filter": {"flags": ["UH", "UO", "UF"]}}
    detail, more = (
        ("No replica could take this request.", UNSENT)
        if inner
        else ("No replica can take this request now. If one had it before, its outcome is not known.", "")
    )
    mappers = [
        mapper(
            {"and_filter": {"filters": [status_filter("EQ", 503), unsent]}},
            document(problem.Unavailable, detail, more),
            REQUEST_ID,
            again=True,
        ),
        *([] if inner else [own(404, UNREAD_ID, WITHOUT_PATH)]),
        *(
            own(status, UNREAD_ID if status in UNREAD else REQUEST_ID)
            for status in sorted(OWN)
            if not inner or status in INNER
        ),
    ]
    other = (
        '"type":"about:blank","title":"%RESPONSE_CODE_DETAILS%","status":%RESPONSE_CODE%,'
        '"detail":"The proxy answered this itself.","retryable":false'
    )
    return {"mappers": [*mappers, mapper(status_filter("GE", 400), other, REQUEST_ID)]}
