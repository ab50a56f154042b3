"""How much time is left: one time budget for a request and every call that it makes.

A deadline is an instant of the monotonic clock. A context variable holds it, so that a database query deep inside a use case
knows it without being passed it, and tasks that the request starts inherit it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from time import monotonic

_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


class Deadline:
    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        """`at` is an instant of `time.monotonic()`, in seconds."""
        self.at = at

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(monotonic() + seconds)

    @classmethod
    def current(cls) -> Deadline | None:
        """The deadline of the current task, if it has one."""
        return _current.get()

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - monotonic())

    @property
    def expired(self) -> bool:
        return monotonic() >= self.at

    def sooner(self, seconds: float) -> float:
        """The budget of one step: `seconds`, but no more than what is left."""
        return min(seconds, self.remaining())

    def enter(self) -> Token[Deadline | None]:
        """Make this the current deadline without a `with` block; give the token to `leave`."""
        return _current.set(self)

    @staticmethod
    def leave(token: Token[Deadline | None]) -> None:
        _current.reset(token)

    @contextmanager
    def scope(self) -> Iterator[Deadline]:
        """Make this the current deadline for a block."""
        token = self.enter()
        try:
            yield self
        finally:
            self.leave(token)

    def __repr__(self) -> str:
        return f"Deadline({self.remaining():.3f} s left)"


def budget(seconds: float) -> float:
    """The time budget of one step, in seconds: `seconds`, but no more than the current deadline leaves."""
    deadline = _current.get()
    return seconds if deadline is None else deadline.sooner(seconds)
