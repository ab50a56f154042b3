"""Reports steps that take longer than a moment, and only those."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Self

#: Seconds after which it takes longer.
MOMENT_S: Final = 2.0


class Slowly:
    """`with Slowly(tell) as told`: `told.begins(what)` as each thing begins; `tell(what)` of those that take longer than a moment, and
    `tell(None)` when all are done. What fails is for others to tell.
    """

    def __init__(self, tell: Callable[[str | None], None], moment: float = MOMENT_S) -> None:
        self._tell = tell
        self._moment = moment
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop()
        if kind is None:
            self._tell(None)

    def begins(self, what: str) -> None:
        self._stop()
        self._timer = asyncio.get_running_loop().call_later(self._moment, self._tell, what)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
