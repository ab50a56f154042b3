"""A row of the endpoint table, prepared: what can be worked out once is not worked out for each request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from prometheus_client import Histogram

from tallystick.chassis.auth import Resource
from tallystick.chassis.charter import DURATION_BOUNDS_MS, OPERATOR
from tallystick.chassis.telemetry import metrics
from tallystick.chassis.web.decode import body_decoder, form_decoder, invalid, query_decoder
from tallystick.chassis.web.table import Endpoint
from tallystick.kernel.problem import (
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    Problem,
    RateLimited,
    RequestTimeout,
    StorageFull,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    Upstream,
)

MAX_TENANTS_REMEMBERED = 4096

SECONDS = metrics.histogram(
    "request_seconds",
    "Time from the head of a request to its answer",
    ["route", "status"],
    buckets=[bound / 1000 for bound in DURATION_BOUNDS_MS],
)


def common_problems(endpoint: Endpoint) -> tuple[type[Problem], ...]:
    """The problems that the chassis itself may answer any request to this row with, whether the row lists them or not."""
    found: list[type[Problem]] = [InvalidRequest, Overloaded, Unavailable, Upstream, DeadlineExceeded, StorageFull]
    if endpoint.method != "GET":
        found += [PayloadTooLarge, RequestTimeout]
    if endpoint.body is not None:
        found.append(UnsupportedMediaType)
    if endpoint.parameters:
        found.append(NotFound)
    if endpoint.public is None:
        found += [Unauthenticated, Forbidden]
    if endpoint.rate is not None:
        found.append(RateLimited)
    if endpoint.idempotency is not None:
        from tallystick.chassis.idempotency import InProgress, KeyReused

        found += [KeyReused, InProgress]
    return tuple(found)


class Bound:
    """One prepared row: its decoders, its metrics by status, its Cedar resource by tenant."""

    __slots__ = (
        "_body",
        "_listed",
        "_media",
        "_resources",
        "_seconds",
        "_unsent",
        "callers",
        "endpoint",
        "entry",
        "max_body",
        "query",
        "route",
        "statuses",
        "strict",
        "timeout",
    )

    def __init__(self, endpoint: Endpoint, *, max_body: int) -> None:
        self.endpoint = endpoint
        self.route = endpoint.where
        self.statuses = endpoint.statuses
        self.entry = endpoint.entry
        self.callers = frozenset(endpoint.mesh)
        self.strict = endpoint.strict
        self.timeout = endpoint.timeout
        self.max_body = max_body
        self._media = b"application/json" if endpoint.media == "json" else b"application/x-www-form-urlencoded"
        self._body = self._decoder(endpoint)
        self._unsent = self._when_unsent()
        self.query: Callable[[bytes], Any] | None = None if endpoint.query is None else query_decoder(endpoint.query)
        # The last two: a client may send a body with a GET as well, slowly or without end, although none is taken.
        self._listed = (*endpoint.problems, *common_problems(endpoint), PayloadTooLarge, RequestTimeout)
        self._resources: dict[str, Resource] = {}
        self._seconds: dict[int, Histogram] = {}

    def body(self, raw: bytes, headers: dict[bytes, bytes]) -> Any:
        """The decoded body. Raises InvalidRequest and UnsupportedMediaType."""
        if self.endpoint.media == "form" and self.endpoint.body is None:
            return None  # the handler reads raw_body itself: OAuth has its own rules and answers for bad forms
        if not raw:
            if self._unsent is _REQUIRED:
                raise invalid("", "this endpoint needs a body")
            return self._unsent
        if self._body is None:
            if raw == b"{}":
                return None  # clients that always send an object
            raise invalid("", "this endpoint takes no body")
        media = headers.get(b"content-type", b"")
        if media != self._media:
            self._check_media(media)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UnsupportedMediaType("The body must not be compressed.")
        return self._body(raw)

    def resource(self, tenant: str) -> Resource:
        """The Cedar resource of the row's action before the one object is known: any object of the subject's tenant."""
        found = self._resources.get(tenant)
        if found is None:
            if len(self._resources) >= MAX_TENANTS_REMEMBERED:
                self._resources.clear()
            found = self._resources[tenant] = Resource(self.endpoint.resource or "Thing", "", {"tenant": tenant})
        return found

    def lists(self, problem: Problem) -> bool:
        """Whether the row declares this problem, or the chassis may answer with it."""
        return isinstance(problem, self._listed)

    def observe(self, status: int, seconds: float) -> None:
        child = self._seconds.get(status)
        if child is None:
            child = self._seconds[status] = SECONDS.labels(self.route, str(status))
        child.observe(seconds)

    def _check_media(self, media: bytes) -> None:
        kind, _, parameters = media.partition(b";")
        charset = parameters.strip().lower().replace(b'"', b"").replace(b" ", b"")
        if kind.strip().lower() != self._media or charset not in (b"", b"charset=utf-8"):
            raise UnsupportedMediaType(f"The body must be {self._media.decode()} in UTF-8.")

    @staticmethod
    def _decoder(endpoint: Endpoint) -> Callable[[bytes], Any] | None:
        if endpoint.body is None:
            return None
        return (
            body_decoder(endpoint.body, guarded=endpoint.entry == "edge" or OPERATOR in endpoint.mesh)
            if endpoint.media == "json"
            else form_decoder(endpoint.body)
        )

    def _when_unsent(self) -> Any:
        """What a request without a body means: an object of defaults, if every field has one."""
        if self._body is None:
            return None
        try:
            return msgspec.convert({}, self.endpoint.body)
        except msgspec.ValidationError:
            return _REQUIRED


_REQUIRED: Any = object()
