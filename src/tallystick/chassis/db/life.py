"""Whether a process lives, said by PostgreSQL: a session holds a lock, and the server lets it go when the process ends, however it ends.

Work that a process has begun is marked with its `number`; another may go on with it at once when nobody holds that number any more. It is a
hint that saves waiting and no fence: a process can lose its session and live, so whoever is taken over has to bear that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, NoReturn, Self

from tallystick.chassis.db.query import Queries
from tallystick.chassis.db.session import Session, lock_key, session
from tallystick.kernel.ids import secret_id
from tallystick.kernel.problem import Unavailable

if TYPE_CHECKING:
    from tallystick.chassis.db.database import Database

Q: Final = Queries.load("tallystick.chassis", "locks")

#: How often a process looks whether its session still stands.
LOOK_SECONDS: Final = 0.5
#: A number that nobody has held for so long is a dead process's: all who live are back sooner after the server was restarted.
ABSENT_SECONDS: Final = 1.5


class Life:
    """The life of this process. `number` is drawn anew for each process: who starts in its place is another."""

    def __init__(self, database: Database, *, absent_seconds: float = ABSENT_SECONDS) -> None:
        self._database = database
        self._absent_seconds = absent_seconds
        self._name = secret_id("life")
        self.number = lock_key(self._name)
        self._stack = AsyncExitStack()
        self._session: Session | None = None
        self._held = False
        self._missing: dict[int, float] = {}

    @classmethod
    async def begin(cls, database: Database, *, absent_seconds: float = ABSENT_SECONDS) -> Self:
        """Before the first work is marked with it. Raises DatabaseUnavailable."""
        life = cls(database, absent_seconds=absent_seconds)
        await life._look()
        return life

    async def keep(self) -> NoReturn:
        """Holds the number for as long as the process runs; a session that is lost is followed by another."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except Unavailable:
                continue  # the server is away, which the probe tells; others see it as soon as it is back

    async def absent(self, numbers: Iterable[int]) -> list[int]:
        """Those whose process has ended. They were read from the store before this is asked: a number is held before it is written."""
        asked = set(numbers) - {self.number}
        held = {row[0] for row in await self._database.fetch(Q.held)} if asked else set()
        now = monotonic()
        self._missing = {number: self._missing.get(number, now) for number in asked - held}
        return [number for number, since in self._missing.items() if now - since >= self._absent_seconds]

    async def end(self) -> None:
        """After the last work: what is left of it is for others, from now on."""
        held, self._session = self._session, None
        try:
            if held is not None and not held.lost:
                with suppress(Unavailable):  # then the session is gone, and the locks with it
                    await held.let_go()
        finally:
            await self._stack.aclose()

    async def _look(self) -> None:
        if self._session is None or self._session.lost:
            self._session, self._held = None, False
            await self._stack.aclose()
            self._session = await self._stack.enter_async_context(session(self._database))
        if not self._held:
            # False while the server has not noticed yet that the session before is lost.
            self._held = await self._session.lock(self._name)
        else:
            await self._session.fetchval(Q.look)
