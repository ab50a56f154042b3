"""The endpoint table: what a service answers by HTTP, one row each.

A row can't be written without saying who may use it: it has exactly one of `scope` (clients at the edge, with a token),
`mesh` (other services, by name) and `public` (the reason why it needs no token). A security review reads these tables.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from tallystick.chassis.web.messages import Reply
from tallystick.kernel.problem import Problem

Handler: TypeAlias = Callable[[Any, Any], Awaitable[Reply[Any]]]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

#: `{id}` matches one segment, `{tile:path}` the rest of the path, slashes included.
PARAMETER = re.compile(r"\{([a-z][a-z0-9_]*)(:path)?\}")


class Further(NamedTuple):
    """What another status of success means. `answer` is the type of its answer, where it differs from the row's."""

    meaning: str
    answer: Any = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row.

    `handler(service, request) -> Reply`; `action` is the Cedar action (rows may share one), `resource` the Cedar type that
    the action is about. `body`, `query` and `answer` are msgspec types. `rate` names a rate class of the charter's limits.
    `timeout` is the time budget in seconds of a request that brings none. `max_body` is the size limit in bytes, where it is lower
    than the charter's. `also` are further media types that the answer is available in.

    For the OpenAPI document alone: `segments` are the msgspec types of the path's parameters; `further` are statuses of success
    other than `status`.

    For OAuth's endpoints: `media="form"`, because RFC 6749 defines forms and no JSON. Without a `body` the handler decodes
    `raw_body` itself, because errors have OAuth's own format there: `refusal`, with the statuses 400 and 401 (section 5.2);
    `form` is then the type for the document. `ignores_query`: query parameters that are not known must be ignored
    (section 3.2), where other rows refuse them.
    """

    method: Method
    path: str
    handler: Handler
    scope: str | None = field(default=None, kw_only=True)
    mesh: tuple[str, ...] = field(default=(), kw_only=True)
    public: str | None = field(default=None, kw_only=True)
    action: str = field(default="", kw_only=True)
    resource: str = field(default="", kw_only=True)
    body: Any = field(default=None, kw_only=True)
    query: Any = field(default=None, kw_only=True)
    answer: Any = field(default=None, kw_only=True)
    status: int = field(default=200, kw_only=True)
    idempotency: Literal["required", "optional"] | None = field(default=None, kw_only=True)
    rate: str | None = field(default=None, kw_only=True)
    problems: tuple[type[Problem], ...] = field(default=(), kw_only=True)
    summary: str = field(default="", kw_only=True)
    timeout: float = field(default=10.0, kw_only=True)
    max_body: int | None = field(default=None, kw_only=True)
    media: Literal["json", "form"] = field(default="json", kw_only=True)
    ignores_query: bool = field(default=False, kw_only=True)
    produces: str = field(default="application/json", kw_only=True)
    also: tuple[str, ...] = field(default=(), kw_only=True)
    segments: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    further: Mapping[int, Further] = field(default_factory=dict, kw_only=True)
    form: Any = field(default=None, kw_only=True)
    refusal: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        where = f"{self.method} {self.path}"
        ways = [self.scope is not None, bool(self.mesh), self.public is not None]
        if sum(ways) != 1:
            msg = f"{where}: a row has exactly one of scope=, mesh= and public="
            raise ValueError(msg)
        if self.scope == "" or self.public == "":
            msg = f"{where}: scope= and public= are not empty (public= says why it may be public)"
            raise ValueError(msg)
        if not self.action and self.public is None:
            msg = f"{where}: a row with scope= or mesh= names its Cedar action="
            raise ValueError(msg)
        if not self.path.startswith("/") or "//" in self.path or (len(self.path) > 1 and self.path.endswith("/")):
            msg = f"{where}: a path begins with one slash and does not end with one"
            raise ValueError(msg)
        if "{" in PARAMETER.sub("", self.path) or "}" in PARAMETER.sub("", self.path):
            msg = f"{where}: parameters are written {{name}} or {{name:path}}"
            raise ValueError(msg)
        if self.body is not None and self.method in ("GET", "DELETE"):
            msg = f"{where}: {self.method} has no body"
            raise ValueError(msg)
        if self.idempotency is not None and self.method in ("GET", "DELETE"):
            msg = f"{where}: {self.method} is idempotent by itself"
            raise ValueError(msg)
        if set(self.segments) != set(self.parameters):
            msg = f"{where}: segments= says the type of each parameter of the path"
            raise ValueError(msg)
        if self.timeout <= 0:
            msg = f"{where}: a time budget is positive"
            raise ValueError(msg)

    @property
    def where(self) -> str:
        """`POST /v1/payments`: the row's name in metrics, logs and idempotency records."""
        return f"{self.method} {self.path}"

    @property
    def strict(self) -> bool:
        """Whether requests need a fresh revocation feed and a proof that is known to be new: all but reads do."""
        return self.method != "GET"

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(name for name, _ in PARAMETER.findall(self.path))

    @property
    def statuses(self) -> frozenset[int]:
        """The statuses of success."""
        return frozenset((self.status, *self.further))

    @property
    def entry(self) -> Literal["edge", "mesh", "public"]:
        if self.mesh:
            return "mesh"
        return "edge" if self.scope is not None else "public"
