"""What goes into a handler and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic

import msgspec
from typing_extensions import TypeVar

from tallystick.kernel.problem import InvalidRequest, Problem

if TYPE_CHECKING:
    from tallystick.chassis.auth import Subject
    from tallystick.chassis.deadline import Deadline

T = TypeVar("T")
B = TypeVar("B", default=None)
Q = TypeVar("Q", default=None)

#: `await judge(tokens)`: for each transaction token its subject, or the problem why not, in order.
Judge = Callable[[Sequence[str]], Any]


class Headers(Mapping[str, str]):
    """Request headers, by name in any case. Values of a name that came twice are joined by `, ` (RFC 9110 section 5.2)."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        values = self.all(name)
        if not values:
            raise KeyError(name)
        return values[0] if len(values) == 1 else ", ".join(values)

    def all(self, name: str) -> list[str]:
        """Every value in the order received, for headers where a second value is an attack and not a list."""
        wanted = name.lower().encode("latin-1")
        return [value.decode("latin-1") for key, value in self._raw if key == wanted]

    def __iter__(self) -> Iterator[str]:
        return iter({key.decode("latin-1"): None for key, _ in self._raw})

    def __len__(self) -> int:
        return len({key for key, _ in self._raw})

    def __repr__(self) -> str:
        """Names only, because values hold tokens and proofs."""
        return f"Headers({', '.join(self)})"


class Request(Generic[B, Q]):
    """One request, already checked and decoded: `Request[Body]` or `Request[None, Query]`.

    `path` holds the path's parameters, `raw_body` the bytes as received (for digests), `caller` the calling service
    (mesh rows only), `idempotency_key` the checked header, `trace_id` the 32 hex digits that are the `Request-Id`.
    """

    __slots__ = (
        "_judge",
        "_subject",
        "body",
        "caller",
        "deadline",
        "headers",
        "idempotency_key",
        "path",
        "query",
        "raw_body",
        "route",
        "trace_id",
    )

    def __init__(
        self,
        *,
        body: B,
        query: Q,
        path: dict[str, str],
        headers: Headers,
        raw_body: bytes,
        route: str,
        trace_id: str,
        deadline: Deadline,
        subject: Subject | None = None,
        caller: str | None = None,
        idempotency_key: str | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.body = body
        self.query = query
        self.path = path
        self.headers = headers
        self.raw_body = raw_body
        self.route = route
        self.trace_id = trace_id
        self.deadline = deadline
        self.caller = caller
        self.idempotency_key = idempotency_key
        self._subject = subject
        self._judge = judge

    @property
    def subject(self) -> Subject:
        """Who asks. On edge rows it is always there, on mesh rows when the call carried a `Txn-Token` header."""
        if self._subject is None:
            msg = f"{self.route} has no subject: it is a public row, or a mesh call whose tokens are in its items"
            raise RuntimeError(msg)
        return self._subject

    async def judge(self, tokens: Sequence[str]) -> list[Subject | Problem]:
        """For each transaction token its subject, if that may do this row's action, or else the problem that says why not.

        A bad token never fails the other items of a batch, which belong to other requests.
        """
        if self._judge is None:
            msg = f"{self.route} is not a mesh row: its subject is request.subject"
            raise RuntimeError(msg)
        judged: list[Subject | Problem] = await self._judge(tokens)
        return judged

    async def subjects(self, tokens: Sequence[str]) -> list[Subject]:
        """Like `judge`, for a call that stands or falls as a whole: raises the first problem."""
        found: list[Subject] = []
        for each in await self.judge(tokens):
            if isinstance(each, Problem):
                raise each
            found.append(each)
        return found


def subject_at(subjects: Sequence[Subject | Problem], index: int) -> Subject:
    """The subject of a batch's item, out of what `judge` returned; `index` is the item's reference into the batch's tokens.

    Raises InvalidRequest for an index that the batch does not have, and the problem that `judge` found with the token.
    """
    if index >= len(subjects):
        raise InvalidRequest("an item's token is the index of one of the batch's tokens")
    subject = subjects[index]
    if isinstance(subject, Problem):
        raise subject
    return subject


class Reply(Generic[T]):
    """An answer. `status=None` stands for the row's own. `replayed`: this is the stored answer of an earlier request."""

    __slots__ = ("content", "headers", "replayed", "status", "value")

    def __init__(
        self,
        value: T,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        replayed: bool = False,
    ) -> None:
        self.value = value
        self.status = status
        self.headers = headers
        self.replayed = replayed
        self.content: bytes | None = None

    @classmethod
    def raw(
        cls,
        content: bytes,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        replayed: bool = False,
    ) -> Reply[Any]:
        """An answer that is already encoded: a stored one, or one of another media type."""
        reply: Reply[Any] = Reply(None, status, headers, replayed=replayed)
        reply.content = content
        return reply


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a list. `next` is the cursor for `?after=`, null on the last page."""

    data: list[T]
    has_more: bool
    next: str | None = None
