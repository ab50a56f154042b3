"""Work that outlives the request that began it: for as long as its lease, whoever still waits for it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from tallystick.chassis import telemetry
from tallystick.chassis.deadline import Deadline
from tallystick.kernel.problem import Problem
from tallystick.services.payments.model import LEASE

T = TypeVar("T")

#: How long a caller without a deadline waits for an answer.
LONGEST_WAIT: Final = 15.0
#: Kept back from a request's deadline for writing the answer.
RESERVE_SECONDS: Final = 0.5
#: The first pause before writing again what could not be written; doubled each time, up to the second.
WRITE_PAUSES: Final = (0.1, 2.0)
DRAIN_SECONDS: Final = 10.0


class Work:
    """The work of this process."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def in_time(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What comes of the work, or None when it takes longer than the caller waits; then it goes on alone."""
        task = self.start(work)
        deadline = Deadline.current()
        seconds = LONGEST_WAIT if deadline is None else max(deadline.remaining() - RESERVE_SECONDS, 0.1)
        done, _ = await asyncio.wait((task,), timeout=seconds)
        return task.result() if done else None

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Its budget is its lease, not what is left of a request's."""
        context = contextvars.copy_context()
        context.run(Deadline.after(LEASE.total_seconds()).enter)
        task = asyncio.create_task(work, context=context)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Nothing is lost: when the lease ends the worker takes it up. But who asked may be gone, and nobody else tells.
            level = telemetry.log.warning if isinstance(error, Problem) else telemetry.log.error
            level("payment.advance.failed", error=error)

    async def drain(self) -> None:
        """Waits for the work in flight; what is not done by then is resumed from the store."""
        if self._running:
            await asyncio.wait(self._running, timeout=DRAIN_SECONDS)


async def persistently(write: Callable[[], Awaitable[T]]) -> T:
    """Tries for as long as the deadline allows: what was done to others is to be known here before the lease is over.
    A repeat does no harm, whatever became of the one before: the version tells.
    """
    deadline = Deadline.current()
    pause, longest = WRITE_PAUSES
    while True:
        try:
            return await write()
        except Problem as problem:
            if not problem.retryable or deadline is None or deadline.remaining() < 2 * pause:
                raise
            telemetry.log.warning("payment.write.again", problem=problem.slug)
        await asyncio.sleep(pause)
        pause = min(2 * pause, longest)
