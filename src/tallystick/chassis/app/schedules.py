"""Work by the clock. An exclusive schedule runs on the replica that holds its lock; the others stand by.

The lock is an advisory lock of one database session, kept for as long as that lives. When the session breaks while a run
is under way another replica may begin one too: runs have to bear that, as they have to bear being cut off.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any, Final

from tallystick.chassis import telemetry
from tallystick.chassis.app.runtime import Schedule
from tallystick.chassis.db import Database, Session, session
from tallystick.chassis.deadline import Deadline
from tallystick.chassis.waiting import set_within
from tallystick.kernel.problem import Problem, Unavailable

MIN_RUN_SECONDS: Final = 60.0

_RUNS = telemetry.counter("schedule_runs", "Runs of scheduled work", ["schedule", "result"])
_SECONDS = telemetry.histogram("schedule_seconds", "How long a run takes", ["schedule"])


class Leadership:
    """Which exclusive work is this replica's: one session of the database with a lock for each."""

    def __init__(self, database: Database, service: str) -> None:
        self._database = database
        self._service = service
        self._one_at_a_time = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._session: Session | None = None
        self._held: set[str] = set()

    async def leads(self, name: str) -> bool:
        """Whether this replica has the lock for `name`, taking it if it is free. Raises DatabaseUnavailable."""
        async with self._one_at_a_time:
            if self._session is None or self._session.lost:
                await self._renew()
            if self._session is None:
                return False
            if name not in self._held and await self._session.lock(f"schedule:{self._service}:{name}"):
                self._held.add(name)
            return name in self._held

    async def close(self) -> None:
        """Give everything to the other replicas."""
        async with self._one_at_a_time:
            self._session = None
            self._held.clear()
            await self._stack.aclose()

    async def _renew(self) -> None:
        self._session = None
        self._held.clear()
        await self._stack.aclose()
        self._session = await self._stack.enter_async_context(session(self._database))


async def keep(schedule: Schedule, service: Any, leadership: Leadership | None, stopping: asyncio.Event) -> None:
    """Run `schedule` at its times until `stopping`; a run under way is ended first, by whoever cancels this."""
    every = schedule.every.total_seconds()
    # Replicas and schedules that start together don't run together.
    pause = random.uniform(0, min(every, 5.0))  # noqa: S311
    while not await set_within(stopping, pause):
        begun = monotonic()
        try:
            if not schedule.exclusive or leadership is None or await leadership.leads(schedule.name):
                await _run(schedule, service, max(every, MIN_RUN_SECONDS))
        except Unavailable as problem:
            telemetry.log.warning("schedule.not-led", schedule=schedule.name, slug=problem.slug)
        pause = max(0.0, every - (monotonic() - begun)) * random.uniform(0.95, 1.0)  # noqa: S311


async def _run(schedule: Schedule, service: Any, seconds: float) -> None:
    begun = monotonic()
    trace = telemetry.begin()
    result = "done"
    with telemetry.continued(trace.traceparent), Deadline.after(seconds).scope():
        try:
            async with asyncio.timeout(seconds):
                await schedule.run(service)
        except Problem as problem:
            result = "failed"
            level = telemetry.log.warning if problem.retryable else telemetry.log.error
            level("schedule.failed", **{**problem.context, "schedule": schedule.name, "error": problem})
        except Exception as error:  # noqa: BLE001  # the next turn is another try; it is told, counted and alerted on
            result = "failed"
            telemetry.log.error("schedule.failed", schedule=schedule.name, error=error)
    _RUNS.labels(schedule.name, result).inc()
    _SECONDS.labels(schedule.name).observe(monotonic() - begun)
