"""Every "no" has a name, a page and an answer to "may I try again?" (RFC 9457).

A problem has two audiences and two messages: `detail` and the extensions are for the caller; `context` is for our log
and has no way to the wire. A class is a *type* of problem and its URL is stable: `{DOCS}/{slug}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

#: The documentation. Addresses below it are in answers that were given long ago.
SITE = "https://tallystick.dev"
DOCS = f"{SITE}/problems"

#: Members that RFC 9457 and this platform give a meaning to: an extension can't take their name.
RESERVED = frozenset({"type", "title", "status", "detail", "instance", "retryable", "request_id"})


class Problem(Exception):
    """An answer that says no, and why. `retryable` means: the same request, sent again unchanged, may succeed.

    Under its own name, a fault of ours that nobody foresaw: give `request_id` to the operator, whose log has the place.
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
        """The same with the place in the request (RFC 6901) that it is about, unless it says one already."""
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
    """The request does not have the form that the endpoint takes. `errors` has each place, as a JSON pointer or a parameter's name, and
    what is wrong there; mend it and send it again.
    """

    slug, title, status = "invalid-request", "The request is not valid", 400


class Unauthenticated(Problem):
    """There is no token, it has expired or was revoked, or its proof is not one for this request. `error` and the header `WWW-Authenticate`
    say which. `invalid_token`: get a new one, once. `invalid_dpop_proof`: make a new proof for each attempt, for this method and URL, by a
    right clock.
    """

    slug, title, status = "unauthenticated", "The request is not authenticated", 401


class Forbidden(Problem):
    """The service's policy does not let this caller do this; inside of the platform, its charter does not. A new token changes nothing:
    what the client may do is decided when it is registered. The edge says it to who wants a connection upgraded.
    """

    slug, title, status = "forbidden", "You may not do this", 403


class NotFound(Problem):
    """There is nothing at this path, or what is there is somebody else's: the two look alike. Look at the path, and at whose client asks."""

    slug, title, status = "not-found", "There is no such thing, or not for you", 404


class MethodNotAllowed(Problem):
    """The header `Allow` says which methods the path takes."""

    slug, title, status = "method-not-allowed", "This path has no such method", 405


class RequestTimeout(Problem):
    """The request, or its body, took too long to arrive. Nothing was done. Send it again."""

    slug, title, status, retryable = "request-timeout", "The request did not arrive in time", 408, True


class Conflict(Problem):
    """Answered only by a more particular name, which says what stands in the way."""

    slug, title, status = "conflict", "The state of the thing forbids this", 409


class PayloadTooLarge(Problem):
    """The endpoint takes `limit` bytes at most, where that is said. Send less at once: fewer transfers in a request, a file in parts."""

    slug, title, status = "payload-too-large", "The body is larger than this endpoint takes", 413


class UnsupportedMediaType(Problem):
    """Send `Content-Type: application/json` in UTF-8 and not compressed; to the token endpoint a form."""

    slug, title, status = "unsupported-media-type", "The body must be application/json", 415


class Unprocessable(Problem):
    """Answered only by a more particular name, which says why."""

    slug, title, status = "unprocessable", "The request is well-formed, but can't be carried out", 422


class RateLimited(Problem):
    """The client, or all of a service's together, have used up the rate for such requests. Nothing was done. Wait as long as the header
    `Retry-After` says, then send the same again.
    """

    slug, title, status, retryable = "rate-limited", "Too many requests", 429, True


class Unavailable(Problem):
    """A part of the platform is down, starts or ends just now. Send the same again when `Retry-After` says, with the same idempotency key:
    it may have been begun.
    """

    slug, title, status, retryable = "unavailable", "A part that this needs is not available", 503, True


class Overloaded(Problem):
    """As many requests as can be are at work, and as many wait; this one was not begun. Send it again when `Retry-After` says, with pauses
    that grow.
    """

    slug, title, status, retryable = "overloaded", "More work is waiting than can be done in time", 503, True


class Upstream(Problem):
    """Another service did not answer as agreed; it may have acted all the same. Send the same again, with the same idempotency key."""

    slug, title, status, retryable = "upstream-failed", "A service that this needs did not answer", 503, True

    def __init__(self, detail: str = "", *, outcome_unknown: bool = False, **rest: Any) -> None:
        super().__init__(detail, **rest)
        self.outcome_unknown = outcome_unknown


class DeadlineExceeded(Problem):
    """The time of the request ended before there was an answer, and what was asked for may still be done. Send the same again, with the
    same idempotency key.
    """

    slug, title, status, retryable = "deadline-exceeded", "There was no answer in time", 504, True

    def __init__(self, detail: str = "", *, outcome_unknown: bool = True, **rest: Any) -> None:
        super().__init__(detail, **rest)
        self.outcome_unknown = outcome_unknown


class StorageFull(Problem):
    """The database's disk is full. When the operator has made room, send the same again."""

    slug, title, status, retryable = (
        "storage-full",
        "There is no room left to store this; nothing was changed",
        507,
        True,
    )


def decode(document: Mapping[str, Any], known: Iterable[type[Problem]] = ()) -> Problem:
    """The problem that another service's document says: of its own class if that is `known` or a common one, otherwise
    Upstream, whose context holds the document's type and status.
    """
    url = document.get("type")
    for kind in (*known, *COMMON):
        if kind.type_url() == url:
            detail = document.get("detail")
            extensions = {k: v for k, v in document.items() if k not in RESERVED and k.isidentifier()}
            problem = kind(detail if isinstance(detail, str) else "")
            problem.extensions = extensions
            return problem
    return Upstream(context={"type": str(url)[:200], "status": document.get("status")})


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
