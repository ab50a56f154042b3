"""The trace of the current task (W3C Trace Context, https://www.w3.org/TR/trace-context/).

A context variable holds it, so that every log line has the trace id and tasks that a request starts inherit it. An unsampled
span costs no more than reading this variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from random import getrandbits

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16


class Trace:
    """A position in a trace: the trace's id (32 hex digits), and that of the span (16) which is the parent of the next one."""

    __slots__ = ("sampled", "span_id", "trace_id")

    def __init__(self, trace_id: str, span_id: str, *, sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.sampled = sampled

    @property
    def traceparent(self) -> str:
        """The header that passes this position on."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def __repr__(self) -> str:
        return f"Trace({self.traceparent})"


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def parse(traceparent: str | None) -> Trace | None:
    """The position in a header, or None if the header is malformed: the standard says to begin a new trace then."""
    if traceparent is None or len(traceparent) > 512:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Trace(trace_id, span_id, sampled=int(flags, 16) & 1 == 1)


def begin(*, sampled: bool = False) -> Trace:
    """A new trace. Its ids are names and not secrets, so they need no cryptographic randomness."""
    return Trace(f"{getrandbits(128) or 1:032x}", f"{getrandbits(64) or 1:016x}", sampled=sampled)


def current() -> Trace | None:
    return _current.get()


def trace_id() -> str:
    """The current trace's id, or "" outside of any."""
    trace = _current.get()
    return "" if trace is None else trace.trace_id


def traceparent() -> str:
    """The header for a call to another service; outside of any trace, that of a new one."""
    return (_current.get() or begin()).traceparent


def enter(trace: Trace) -> Token[Trace | None]:
    return _current.set(trace)


def leave(token: Token[Trace | None]) -> None:
    _current.reset(token)


@contextmanager
def continued(header: str | None) -> Iterator[Trace]:
    """Make the trace in `header` (of a fact, of a job) the current one for a block, or else a new trace."""
    trace = parse(header) or begin()
    token = enter(trace)
    try:
        yield trace
    finally:
        leave(token)
