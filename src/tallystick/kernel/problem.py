"""Problems: every refusal has a name, a documentation page, and an answer to "may I try again?" (RFC 9457).

A problem speaks to two audiences: `detail` and the extensions are for the caller; `context` is for our log and is never sent.
A class is a *type* of problem, and its URL is stable: `{DOCS}/{slug}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Self

#: The documentation. Answers given long ago contain addresses below it, so it can't be moved.
SITE = "https://tallystick.dev"
DOCS = f"{SITE}/problems"

#: Members that RFC 9457 or this platform defines. An extension can't have one of these names.
RESERVED = frozenset({"type", "title", "status", "detail", "instance", "retryable", "request_id"})


class Problem(Exception):
    """A refusal with its reason. `retryable`: the same request, sent again unchanged, may succeed.

    Answered under this name itself, it is an unexpected failure on our side. Give the `request_id` to the operator: the log says what
    happened.
    """

    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Something failed on our side"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str = "",
        *,
        context: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        **extensions: Any,
    ) -> None:
        if taken := RESERVED & extensions.keys():
            msg = f"extension members with a meaning of their own: {sorted(taken)}"
            raise ValueError(msg)
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.context = context or {}
        self.headers = headers or {}
        self.extensions = extensions

    def at(self, pointer: str) -> Self:
        """Add the place in the request (RFC 6901) that this problem is about, unless it names one already. Returns itself."""
        self.extensions.setdefault("errors", [{"pointer": pointer, "detail": self.detail}])
        return self

    @classmethod
    def type_url(cls) -> str:
        return f"{DOCS}/{cls.slug}"

    def document(self, request_id: str = "") -> dict[str, Any]:
        """The problem document: RFC 9457 members, `retryable`, `request_id`, then the extensions."""
        body: dict[str, Any] = {
            "type": self.type_url(),
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "retryable": self.retryable,
        }
        if request_id:
            body["request_id"] = request_id
        body.update(self.extensions)
        return body


class InvalidRequest(Problem):
    """The request does not have the form that the endpoint expects. Each of the `errors` says what is wrong (`detail`) and where
    (`pointer`, a JSON pointer or the name of a parameter). Correct the request and send it again.
    """

    slug, title, status = "invalid-request", "Invalid request", 400


class Unauthenticated(Problem):
    """The request has no token, the token has expired or was revoked, or the proof of possession does not belong to this request.
    `error` and the header `WWW-Authenticate` say which. For `invalid_token` get a new token, and try again once. For
    `invalid_dpop_proof` make a new proof for each attempt, with the method and URL of the request, and check that your clock is right.
    """

    slug, title, status = "unauthenticated", "Not authenticated", 401


class Forbidden(Problem):
    """The service's policy does not allow this to the client; between services of the platform it is the charter that does not allow
    it. A new token does not help: what a client may do is decided when it is registered. The edge gives this answer also to a
    request for a protocol upgrade.
    """

    slug, title, status = "forbidden", "Forbidden", 403


class NotFound(Problem):
    """There is nothing at this path, or it belongs to somebody else: the answer does not tell which. Check the path, and that you use a
    client of the right tenant.
    """

    slug, title, status = "not-found", "Not found", 404


class MethodNotAllowed(Problem):
    """The path does not support this method. The header `Allow` lists the methods that it supports."""

    slug, title, status = "method-not-allowed", "Method not allowed", 405


class RequestTimeout(Problem):
    """The request or its body took too long to arrive. Nothing was done. Send it again."""

    slug, title, status, retryable = "request-timeout", "The request did not arrive in time", 408, True


class Conflict(Problem):
    """The state of an object does not allow the request. Answers use a more specific type, which says what stands in the way."""

    slug, title, status = "conflict", "Conflict with the current state", 409


class PayloadTooLarge(Problem):
    """The body is larger than the endpoint accepts; `limit`, where it is given, is the number of bytes. Send less at once: fewer
    transfers in a request, or a file in parts.
    """

    slug, title, status = "payload-too-large", "The body is too large", 413


class UnsupportedMediaType(Problem):
    """Send the body as `Content-Type: application/json`, in UTF-8 and not compressed; to the OAuth endpoints as a form."""

    slug, title, status = "unsupported-media-type", "The body must be application/json", 415


class Unprocessable(Problem):
    """The request is well-formed and can't be carried out. Answers use a more specific type, which says why."""

    slug, title, status = "unprocessable", "The request is well-formed, but can't be carried out", 422


class RateLimited(Problem):
    """The client, or all clients of a service together, have reached the rate limit for such requests. Nothing was done. Wait for the
    number of seconds in the header `Retry-After`, then send the same request again.
    """

    slug, title, status, retryable = "rate-limited", "Too many requests", 429, True


class Unavailable(Problem):
    """A part of the platform is down, starting or stopping. The request may have been begun. Send it again unchanged after the time in
    `Retry-After`, with the same idempotency key.
    """

    slug, title, status, retryable = "unavailable", "A required component is not available", 503, True


class Overloaded(Problem):
    """The service is handling as many requests as it can, and its queue is full. This request was not begun. Send it again after the time
    in `Retry-After`, and then with growing pauses.
    """

    slug, title, status, retryable = "overloaded", "The service is overloaded", 503, True


class Upstream(Problem):
    """Another service of the platform did not answer as expected. It may have acted nevertheless. Send the same request again, with the
    same idempotency key.
    """

    slug, title, status, retryable = "upstream-failed", "A required service did not respond", 503, True
    outcome_unknown = False

    def __init__(self, detail: str = "", *, outcome_unknown: bool = False, **rest: Any) -> None:
        super().__init__(detail, **rest)
        self.outcome_unknown = outcome_unknown


class DeadlineExceeded(Problem):
    """The request's time ran out before there was an answer. What was asked for may still be carried out. Send the same request again,
    with the same idempotency key.
    """

    slug, title, status, retryable = "deadline-exceeded", "No response in time", 504, True
    outcome_unknown = True

    def __init__(self, detail: str = "", *, outcome_unknown: bool = True, **rest: Any) -> None:
        super().__init__(detail, **rest)
        self.outcome_unknown = outcome_unknown


class StorageFull(Problem):
    """The database's disk is full. Nothing was stored. Send the same request again when the operator has made room."""

    slug, title, status, retryable = (
        "storage-full",
        "The database's disk is full; nothing was stored",
        507,
        True,
    )


def decode(document: Mapping[str, Any], known: Iterable[type[Problem]] = ()) -> Problem:
    """The problem in another service's document: of its own class if that is among `known` or `COMMON`, otherwise an Upstream, whose
    context holds the document's type and status. After an unknown problem the service may have acted, unless it is a refusal (below 500).
    """
    if (found := rebuilt(document, (*known, *COMMON))) is not None:
        return found
    status = document.get("status")
    refused = isinstance(status, int) and status < 500
    return Upstream(outcome_unknown=not refused, context={"type": str(document.get("type"))[:200], "status": status})


def rebuilt(document: Mapping[str, Any], known: tuple[type[Problem], ...]) -> Problem | None:
    """The problem in another service's document with its detail and extensions, if its class is among `known`. Of two classes with one
    slug the first counts.
    """
    url, detail = document.get("type"), document.get("detail")
    kind = _by_url(known).get(url) if isinstance(url, str) else None
    if kind is None:
        return None
    # Without the class's own constructor, which may take other arguments.
    problem = kind.__new__(kind)
    Problem.__init__(problem, detail if isinstance(detail, str) else "")
    # Not passed as arguments: a member may have the name of a parameter.
    problem.extensions = {name: value for name, value in document.items() if name not in RESERVED}
    return problem


@lru_cache(maxsize=256)
def _by_url(known: tuple[type[Problem], ...]) -> Mapping[str, type[Problem]]:
    return {kind.type_url(): kind for kind in reversed(known)}


#: Problems that any service may answer with and every client understands.
COMMON: tuple[type[Problem], ...] = (
    InvalidRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    Conflict,
    Unprocessable,
    RateLimited,
    Unavailable,
    Overloaded,
    StorageFull,
    DeadlineExceeded,
)
