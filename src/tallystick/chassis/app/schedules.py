"""Scheduled work. An exclusive schedule runs at the replica that holds its lock; the others stand by.

The lock is an advisory lock of a database session and lives as long as the session. When the session breaks during a run, another
replica may begin one as well. Runs have to tolerate that, as they have to tolerate being interrupted.
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
from tallystick.kernel.problem import Problem

MIN_RUN_SECONDS: Final = 60.0

_RUNS = telemetry.counter("schedule_runs", "Runs of scheduled work", ["schedule", "result"])
_SECONDS = telemetry.histogram("schedule_seconds", "How long a run takes", ["schedule"])


class Leadership:
    """Which exclusive schedules this replica runs: a database session with a lock for each."""

    def __init__(self, database: Database, service: str) -> None:
        self._database = database
        self._service = service
        self._one_at_a_time = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._session: Session | None = None
        self._held: set[str] = set()

    async def leads(self, name: str) -> bool:
        """Whether this replica has the lock for `name`; takes it if it is free. Raises the problems of `Session`."""
        async with self._one_at_a_time:
            if self._session is None or self._session.lost:
                await self._renew()
            if self._session is None:
                return False
            if name not in self._held and await self._session.lock(f"schedule:{self._service}:{name}"):
                self._held.add(name)
            return name in self._held

    async def close(self) -> None:
        """Release all locks, for the other replicas."""
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
    """Run `schedule` at its times until `stopping` is set; a run in progress ends first, unless the caller cancels it."""
    every = schedule.every.total_seconds()
    for result in ("done", "failed"):
        _RUNS.labels(
            schedule.name, result
        )  # 0 from the start: of a series that begins with 1, a monitor sees no increase
    # Random, so that replicas and schedules that start together don't run together.
    pause = random.uniform(0, min(every, 5.0))  # noqa: S311
    while not await set_within(stopping, pause):
        begun = monotonic()
        try:
            if not schedule.exclusive or leadership is None or await leadership.leads(schedule.name):
                await _run(schedule, service, max(every, MIN_RUN_SECONDS))
        except Problem as problem:
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
        except Exception as error:  # noqa: BLE001  # the next run is the retry; this is logged, counted and alerted on
            result = "failed"
            telemetry.log.error("schedule.failed", schedule=schedule.name, error=error)
    _RUNS.labels(schedule.name, result).inc()
    _SECONDS.labels(schedule.name).observe(monotonic() - begun)
