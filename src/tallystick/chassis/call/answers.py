"""Reading another service's answer: a problem of its own, the mesh's report that it can't be reached, or nonsense."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tallystick.kernel.problem import DOCS, Overloaded, Problem, RateLimited, Upstream, rebuilt

#: What Envoy says when it has not sent the request to any replica, so that it certainly had no effect. This is Envoy's own wording,
#: as it occurs in any mesh; where our charters configure Envoy, the problem document says `"sent": false` (fabric.envoy).
_NOT_SENT: Final = (
    b"no healthy upstream",
    b"upstream connect error or disconnect/reset before headers. reset reason: overflow",
)
_GATEWAY: Final = frozenset({502, 503, 504})
#: Every caller expects these.
_BUSY: Final = (Overloaded, RateLimited)

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


def problem_of(target: str, answered: Answered, classes: tuple[type[Problem], ...]) -> Problem:
    """The problem in an answer of status 300 or more. Raises Failed where that is not of a class that the caller expects.

    A problem of an expected class comes back as that class, with its extensions. Any other becomes an `Upstream`: what one service
    says to another is not passed on outside.
    """
    document = _read(answered)
    if (problem := rebuilt(document, (*classes, *_BUSY))) is not None:
        if again := answered.headers.get("Retry-After"):
            problem.headers["Retry-After"] = again
        return problem
    slug = str(document.get("type", "")).removeprefix(f"{DOCS}/")
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
