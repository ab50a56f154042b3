"""Whether a process is alive, according to PostgreSQL: its session holds a lock, which the server releases when the process ends,
however it ends.

Work that a process has begun is marked with its `number`. When nobody holds that number any more, another process may continue the
work at once. This is a hint that saves waiting and no fence: a process can lose its session and live on, so work must tolerate
being taken over from a process that still runs.
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

#: How often a process checks that its session is still there.
LOOK_SECONDS: Final = 0.5
#: A number that nobody has held for so long belongs to a dead process: after a restart of the server those alive hold theirs again
#: sooner.
ABSENT_SECONDS: Final = 1.5


class Life:
    """The life of this process. Each process draws its own random `number`, also one that is started in the place of another."""

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
        """Take the number; to be called before any work is marked with it. Raises DatabaseUnavailable."""
        life = cls(database, absent_seconds=absent_seconds)
        await life._look()
        return life

    async def keep(self) -> NoReturn:
        """Hold the number for as long as the process runs, with a new session when one is lost."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except Unavailable:
                continue  # the server is away, which the probe logs; the number is held again once it is back

    async def absent(self, numbers: Iterable[int]) -> list[int]:
        """Those of the numbers whose process has ended. Read them from the store before calling this: a process holds its number
        before it writes it, so a number that was read and is not held was given up.
        """
        asked = set(numbers) - {self.number}
        held = {row[0] for row in await self._database.fetch(Q.held)} if asked else set()
        now = monotonic()
        self._missing = {number: self._missing.get(number, now) for number in asked - held}
        return [number for number, since in self._missing.items() if now - since >= self._absent_seconds]

    async def end(self) -> None:
        """Give the number up, after the last work: from now on others may continue what is left."""
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
            # False until the server has noticed that the lost session is gone.
            self._held = await self._session.lock(self._name)
        else:
            await self._session.fetchval(Q.look)
