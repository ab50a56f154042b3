"""Reading another service's answer: a problem of its own, the mesh's report that it can't be reached, or nonsense."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from tallystick.kernel.problem import DOCS, RESERVED, Overloaded, Problem, RateLimited, Upstream

#: What Envoy says when it has not sent the request to any replica, so that it certainly had no effect. This is Envoy's own wording,
#: as it occurs in any mesh; where our charters configure Envoy, the problem document says `"sent": false` (fabric.envoy).
_NOT_SENT: Final = (
    b"no healthy upstream",
    b"upstream connect error or disconnect/reset before headers. reset reason: overflow",
)
_GATEWAY: Final = frozenset({502, 503, 504})

_document = msgspec.json.Decoder(dict[str, Any])


class Answered(msgspec.Struct, frozen=True):
    """What came back over the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Failed(Exception):
    """An attempt brought no usable answer.

    `sent`: the target may have acted. `again`: another attempt may help. `down`: it suggests that the target can't be reached.
    """

    def __init__(self, problem: Problem, *, sent: bool, again: bool, down: bool) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.sent = sent
        self.again = again
        self.down = down


@lru_cache(maxsize=256)
def _by_slug(classes: tuple[type[Problem], ...]) -> Mapping[str, type[Problem]]:
    known: list[type[Problem]] = [Overloaded, RateLimited, *classes]
    return {kind.slug: kind for kind in known}


def problem_of(target: str, answered: Answered, classes: tuple[type[Problem], ...]) -> Problem:
    """The problem in an answer of status 300 or more. Raises Failed where that is not of a class that the caller expects.

    A problem of an expected class comes back as that class, with its extensions. Any other becomes an `Upstream`: what one service
    says to another is not passed on outside.
    """
    document = _read(answered)
    slug = str(document.get("type", "")).removeprefix(f"{DOCS}/")
    if (kind := _by_slug(classes).get(slug)) is not None:
        again = answered.headers.get("Retry-After")
        return _rebuilt(kind, document, {"Retry-After": again} if again else {})
    context = {"target": target, "status": answered.status, "slug": slug}
    gateway = answered.status in _GATEWAY
    unsent = gateway and (document.get("sent") is False or (not document and _not_sent(answered)))
    what = "is not available" if gateway else "did not answer as agreed"
    sent = answered.status >= 500 and not unsent
    raise Failed(Upstream(f"The service {target} {what}.", context=context), sent=sent, again=gateway, down=gateway)


def _not_sent(answered: Answered) -> bool:
    return answered.headers.get("x-envoy-overloaded") == "true" or answered.body.strip().startswith(_NOT_SENT)


def _read(answered: Answered) -> dict[str, Any]:
    if answered.headers.get("Content-Type", "").partition(";")[0].strip() != "application/problem+json":
        return {}
    try:
        return _document.decode(answered.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _rebuilt(kind: type[Problem], document: dict[str, Any], headers: dict[str, str]) -> Problem:
    """The problem as the target raised it, made without the class's own constructor, which may take other arguments."""
    problem = kind.__new__(kind)
    Problem.__init__(problem, str(document.get("detail", "")), context=None, headers=headers)
    # Not passed as arguments: a member may have the name of a parameter.
    problem.extensions = {name: value for name, value in document.items() if name not in RESERVED}
    return problem
