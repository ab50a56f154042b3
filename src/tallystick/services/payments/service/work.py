"""Work that outlives the request that started it. It runs until its lease ends, whether or not anybody still waits for it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from tallystick.chassis import telemetry
from tallystick.chassis.db import CommitUnknown
from tallystick.chassis.deadline import Deadline
from tallystick.kernel.problem import Problem
from tallystick.services.payments.model import LEASE

T = TypeVar("T")

#: Seconds that a caller without a deadline waits for an answer.
LONGEST_WAIT: Final = 15.0
#: Reserved from a request's deadline for sending the answer.
RESERVE_SECONDS: Final = 0.5
#: Seconds before a failed write is repeated: the first pause, which doubles each time, and the longest.
WRITE_PAUSES: Final = (0.1, 2.0)
DRAIN_SECONDS: Final = 10.0


class Work:
    """The work in flight in this process."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def in_time(self, work: Coroutine[Any, Any, T], lease: Deadline) -> T | None:
        """The result of the work, or None if it takes longer than the caller can wait; then it goes on in the background."""
        task = self.start(work, lease)
        deadline = Deadline.current()
        seconds = LONGEST_WAIT if deadline is None else max(deadline.remaining() - RESERVE_SECONDS, 0.1)
        done, _ = await asyncio.wait((task,), timeout=seconds)
        return task.result() if done else None

    async def find_out(
        self,
        unknown: CommitUnknown,
        lease: Deadline,
        is_stored: Callable[[], Awaitable[bool]],
        go_on: Callable[[], Coroutine[Any, Any, object]],
    ) -> None:
        """After a COMMIT without an answer: returns if what was to be stored is stored and still ours, and raises `unknown` otherwise.
        If the caller has no time to wait for that, the question is asked until the lease ends, and `go_on` does the work: nobody
        else would before that.
        """
        try:
            if await persistently(is_stored):
                return
        except Problem:
            _ = self.start(self._go_on_if_stored(is_stored, go_on), lease)
        raise unknown

    async def _go_on_if_stored(
        self, is_stored: Callable[[], Awaitable[bool]], go_on: Callable[[], Coroutine[Any, Any, object]]
    ) -> None:
        if await persistently(is_stored):
            await go_on()

    def start(self, work: Coroutine[Any, Any, T], lease: Deadline) -> asyncio.Task[T]:
        """Starts work with its lease as its deadline, not what is left of the request's."""
        context = contextvars.copy_context()
        context.run(lease.enter)
        task = asyncio.create_task(work, context=context)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Nothing is lost: the background worker resumes it when the lease ends. It is logged here because the caller, who
            # would get the exception, may be gone.
            level = telemetry.log.warning if isinstance(error, Problem) else telemetry.log.error
            level("payment.advance.failed", error=error)

    async def drain(self) -> None:
        """Waits up to DRAIN_SECONDS for the work in flight. What is unfinished then is resumed from the store."""
        if self._running:
            await asyncio.wait(self._running, timeout=DRAIN_SECONDS)


def new_lease() -> Deadline:
    """The deadline of work that is about to be claimed. To be taken before the claim's time is, so that it ends no later than what
    is stored says.
    """
    return Deadline.after(LEASE.total_seconds())


async def persistently(write: Callable[[], Awaitable[T]]) -> T:
    """Repeats a write, or the question what was stored, that failed with a retryable problem, for as long as the deadline allows:
    effects outside this service should be recorded here before the lease ends. A repeat is harmless even if the write before it
    succeeded, because the version in the row tells.
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
