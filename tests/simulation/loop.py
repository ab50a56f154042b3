"""An event loop whose time is its own: when everybody waits, it is at once later. What runs in it depends on nothing but its program."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Stuck(Exception):
    """Everybody waits for something that will not come."""


class _Never(selectors.SelectSelector):
    """No file is ever ready. To wait is to move the clock."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck
        if timeout > 0:
            self.loop.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Seconds since its beginning, in `now`."""

    def __init__(self) -> None:
        selector = _Never()
        selector.loop = self
        self.now = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run(main: Coroutine[Any, Any, T], over: Callable[[], None], wrong: Callable[[str], None]) -> T:
    """Runs `main` in virtual time. When it is done `over` is called and what was left running is cancelled. Errors that nobody looks at are told to
    `wrong`. Raises Stuck.
    """
    loop = VirtualLoop()
    loop.set_exception_handler(lambda _, context: wrong(f"unseen: {context['message']} {context.get('exception')!r}"))
    try:
        return loop.run_until_complete(main)
    finally:
        over()
        loop.set_exception_handler(lambda _, context: None)
        while left := asyncio.all_tasks(loop):
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test of nothing but its own program: what it waits takes as long as it says, to the last digit, however busy the machine is."""

    @functools.wraps(test)
    def timed(*args: P.args, **kwargs: P.kwargs) -> None:
        unseen: list[str] = []
        run(test(*args, **kwargs), lambda: None, unseen.append)
        assert unseen == []

    return timed
