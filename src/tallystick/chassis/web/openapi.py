"""OpenAPI 3.1 out of the endpoint table: msgspec's schemas are JSON Schema 2020-12, which is what 3.1 takes.

The public document has the rows that are reachable from the edge. Mesh rows are left out unless asked for: what services
say to each other concerns nobody outside.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import msgspec

from tallystick.chassis.web.bound import common_problems
from tallystick.chassis.web.table import PARAMETER, Endpoint
from tallystick.kernel.deployment import HOME, SHARD_HEADER
from tallystick.kernel.problem import Problem, Unauthenticated

DPOP = "dpop"
CERTIFICATE = "certificate"
MESH = "mesh"
_COMPONENTS = "#/components/"
_SCHEMAS = f"{_COMPONENTS}schemas/"
_REF = _SCHEMAS + "{name}"

_PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457. `retryable`: the same request, sent again unchanged, may succeed.",
    "type": "object",
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "retryable": {"type": "boolean"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {"type": "string", "description": "RFC 6901; empty for the whole body"},
                    "detail": {"type": "string"},
                },
                "required": ["pointer", "detail"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "retryable", "request_id"],
}

_HEADERS: dict[str, dict[str, Any]] = {
    "Request-Id": {
        "description": "The trace id of this request: 32 hex digits, or a number of the edge's for what it refused itself",
        "schema": {"type": "string"},
    },
    "Idempotent-Replayed": {
        "description": "`true` if this is the stored answer of an earlier request with the same key",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {
        "description": "In how many seconds to ask again, where that may help",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "WWW-Authenticate": {
        "description": "How to authenticate, and what is wrong with the token or its proof (RFC 9110, RFC 6750, RFC 9449)",
        "schema": {"type": "string"},
    },
    "Tallystick-As-Of": {
        "description": "Of a file: the book's sequence as of which it is",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "Link": {"description": "Of a file: its next page (RFC 8288)", "schema": {"type": "string"}},
}

_HEAD = "Each path that takes GET takes HEAD too: the same checks, status and headers, without the content (RFC 9110)."


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def openapi(
    service: str, endpoints: Iterable[Endpoint], *, mesh: bool = False, shards: Sequence[str] = ()
) -> dict[str, Any]:
    """The document of one service. `mesh=True` describes its inner endpoints instead. `shards` are the names of its shards, if it has
    any.
    """
    rows = [row for row in endpoints if bool(row.mesh) == mesh]
    types = [kind for row in rows for kind in _types(row) if kind is not None]
    schemas, components = msgspec.json.schema_components(types, schema_hook=_schema_of, ref_template=_REF)
    schema_of = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    actions = Counter(row.action for row in rows)
    for row in rows:
        operation = _operation(row, schema_of, components)
        if shards and not mesh:
            operation["parameters"].append(_shard(shards))
        operation["operationId"] = row.action if actions[row.action] == 1 and row.action else _named_by_path(row)
        paths[PARAMETER.sub(r"{\1}", row.path)][row.method.lower()] = operation
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": f"Tallystick: {service}",
            "version": version("tallystick"),
            "description": _HEAD,
            "license": _license(),
        },
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {**components, "Problem": _PROBLEM_SCHEMA},
            "headers": _HEADERS,
            "securitySchemes": _security_schemes(rows),
        },
    }
    return _with_public_names(_referred_to(document))


def _referred_to(document: dict[str, Any]) -> dict[str, Any]:
    """The document without components that no operation refers to, such as the type of a query, whose fields became parameters.
    A generated client would have a useless type for each, and linters complain about them.
    """
    components = document["components"]
    found: set[str] = set()
    waiting: list[Any] = [document["paths"]]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and value.startswith(_COMPONENTS) and value not in found:
            found.add(value)
            kind, name = value.removeprefix(_COMPONENTS).split("/")
            waiting.append(components[kind][name])
    for kind in ("schemas", "headers"):
        components[kind] = {
            name: each for name, each in components[kind].items() if f"{_COMPONENTS}{kind}/{name}" in found
        }
    return document


def _with_public_names(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the names that clients use: `Money` for `MoneyWire`, `PaymentPage` for `Page_Payment_`. Raises ValueError
    when two types would get the same name.
    """
    schemas = document["components"]["schemas"]
    named = {name: re.sub(r"Wire$", "", re.sub(r"^Page_(\w+)_$", r"\1Page", name)) for name in schemas}
    if len(set(named.values())) < len(named):
        msg = f"two types of the same public name: {sorted(named.values())}"
        raise ValueError(msg)

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(each) for key, each in value.items()}
        if isinstance(value, list):
            return [renamed(each) for each in value]
        if isinstance(value, str) and value.startswith(_SCHEMAS):  # a `$ref`, or the mapping of a discriminator
            return _SCHEMAS + named[value.removeprefix(_SCHEMAS)]
        return value

    document = renamed(document)
    document["components"]["schemas"] = {
        named[name]: schema | ({"title": named[name]} if "title" in schema else {})
        for name, schema in document["components"]["schemas"].items()
    }
    return document


def _types(row: Endpoint) -> tuple[Any, ...]:
    further = (each.answer for each in row.further.values())
    return (row.body, row.query, row.answer, row.form, row.refusal, *row.segments.values(), *further)


def _shard(names: Sequence[str]) -> dict[str, Any]:
    return {
        "name": SHARD_HEADER,
        "in": "header",
        "required": False,
        "description": "Which shard of the service the request is for; without it the one at home",
        "schema": {"type": "string", "enum": list(names), "default": HOME},
    }


def _schema_of(kind: type) -> dict[str, Any]:
    """The schema of `object`: an answer may contain any JSON, such as a problem document. A body may not."""
    if kind is object:
        return {"description": "any JSON"}
    raise NotImplementedError


def _named_by_path(row: Endpoint) -> str:
    """An operation id made from the path, such as `getV1AuditKey`, where several rows share one Cedar action."""
    words = re.findall(r"[A-Za-z0-9]+", PARAMETER.sub(r"\1", row.path))
    return row.method.lower() + "".join(word[:1].upper() + word[1:] for word in words)


def _license() -> dict[str, str]:
    return {"name": "Apache-2.0", "identifier": "Apache-2.0"}


def _operation(row: Endpoint, schema_of: dict[int, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": row.summary or row.where,
        "parameters": [
            *_path_parameters(row, schema_of),
            *_query_parameters(row, schema_of, components),
            *_header_parameters(row),
        ],
        "responses": {**_success(row, schema_of), **_refusals(row, schema_of)},
        "security": _security(row),
    }
    if row.action:
        operation["x-action"] = row.action
    if row.public is not None:
        operation["description"] = f"Public: {row.public}."
    if row.rate is not None:
        operation["x-rate-class"] = row.rate
    if row.mesh:
        operation["x-callers"] = list(row.mesh)
    if (body := row.form if row.body is None else row.body) is not None:
        media = "application/json" if row.media == "json" else "application/x-www-form-urlencoded"
        operation["requestBody"] = {
            "required": not _may_be_left_out(body),
            "content": {media: {"schema": schema_of[id(body)]}},
        }
    return operation


def _may_be_left_out(body: Any) -> bool:
    try:
        msgspec.convert({}, body)
    except msgspec.ValidationError:
        return False
    return True


def _path_parameters(row: Endpoint, schema_of: dict[int, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": schema_of[id(row.segments[name])]}
        for name in row.parameters
    ]


def _query_parameters(row: Endpoint, schema_of: dict[int, Any], components: dict[str, Any]) -> list[dict[str, Any]]:
    if row.query is None:
        return []
    schema = schema_of[id(row.query)]
    if "$ref" in schema:
        schema = components[schema["$ref"].rsplit("/", 1)[1]]
    required = set(schema.get("required", ()))
    return [
        {"name": name, "in": "query", "required": name in required, "schema": kind}
        for name, kind in schema["properties"].items()
    ]


def _header_parameters(row: Endpoint) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if row.idempotency is not None:
        found.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": row.idempotency == "required",
                "description": "A name of the client's own for this one request: a repeat gets the first answer.",
                "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
            }
        )
    if row.scope is not None:
        found.append(
            {
                "name": "DPoP",
                "in": "header",
                "required": False,
                "description": "Proof of possession of the token's key for this request (RFC 9449), if it is bound to one",
                "schema": {"type": "string"},
            }
        )
    return found


def _success(row: Endpoint, schema_of: dict[int, Any]) -> dict[str, Any]:
    headers = _headers("Request-Id")
    if row.idempotency is not None:
        headers |= _headers("Idempotent-Replayed")
    if row.also:
        headers |= _headers("Tallystick-As-Of", "Link")
    response: dict[str, Any] = {"headers": headers}
    if row.answer is not None:
        response["content"] = {row.produces: {"schema": schema_of[id(row.answer)]}}
        response["content"] |= {media: {"schema": {"type": "string"}} for media in row.also}
    elif row.produces != "application/json":
        response["content"] = {row.produces: {"schema": {"type": "string"}}}
    found = {row.status: {"description": "Done", **response}}
    for status, (meaning, answer) in row.further.items():
        found[status] = {"description": meaning, **response}
        if status == HTTPStatus.ACCEPTED:
            found[status]["headers"] = headers | _headers("Retry-After")
        if answer is not None:
            found[status]["content"] = {row.produces: {"schema": schema_of[id(answer)]}}
    return {str(status): found[status] for status in sorted(found)}


def _refusals(row: Endpoint, schema_of: dict[int, Any]) -> dict[str, Any]:
    by_status: dict[int, list[type[Problem]]] = defaultdict(list)
    listed: tuple[type[Problem], ...] = (*row.problems, *common_problems(row), Problem)
    for problem in listed:
        if problem not in by_status[problem.status]:
            by_status[problem.status].append(problem)
    found = {str(status): _refusal(problems) for status, problems in sorted(by_status.items())}
    if row.refusal is not None:
        for status, meaning, headers in (
            ("400", "What was sent is refused", _headers("Request-Id")),
            ("401", "The client is not authenticated", _headers("Request-Id", "WWW-Authenticate")),
        ):
            refused = found.setdefault(status, {"description": meaning, "headers": headers, "content": {}})
            refused["content"] = {"application/json": {"schema": schema_of[id(row.refusal)]}, **refused["content"]}
    return dict(sorted(found.items()))


def _refusal(problems: Sequence[type[Problem]]) -> dict[str, Any]:
    headers = _headers("Request-Id")
    if problems[0].status == Unauthenticated.status:
        headers |= _headers("WWW-Authenticate")
    if any(problem.retryable for problem in problems):
        headers |= _headers("Retry-After")
    return {
        "description": "; ".join(problem.title for problem in problems),
        "headers": headers,
        "content": {
            "application/problem+json": {
                "schema": {
                    "allOf": [{"$ref": _REF.format(name="Problem")}],
                    "properties": {"type": {"examples": [problem.type_url() for problem in problems]}},
                }
            }
        },
    }


def _security(row: Endpoint) -> list[dict[str, list[str]]]:
    if row.public is not None:
        return []
    return [{MESH: []}] if row.mesh else [{DPOP: [row.scope or ""]}, {CERTIFICATE: [row.scope or ""]}]


def _security_schemes(rows: Sequence[Endpoint]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if any(row.mesh for row in rows):
        found[MESH] = {"type": "mutualTLS", "description": "The caller's SPIFFE id, and who may call is in the charter"}
    if scopes := sorted({row.scope for row in rows if row.scope is not None}):
        flows = {"clientCredentials": {"tokenUrl": "/oauth2/token", "scopes": dict.fromkeys(scopes, "")}}
        found[DPOP] = {
            "type": "oauth2",
            "description": "RFC 9068 access tokens bound to a key: Authorization: DPoP (RFC 9449)",
            "flows": flows,
        }
        found[CERTIFICATE] = {
            "type": "oauth2",
            "description": "The same bound to a certificate: Authorization: Bearer, at the edge's port for mutual TLS (RFC 8705)",
            "flows": flows,
        }
    return found
