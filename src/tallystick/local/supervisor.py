"""Keeps processes alive. A `Keeper` starts one unit (a part or a service's replica), and restarts it with backoff when it ends.

`next_delay` is the backoff rule, pure. A keeper's state is in its `view`, which `status` shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Final, Literal, Protocol, TypeVar

import msgspec

from tallystick.kernel.clock import Clock, rfc3339
from tallystick.local.parts import NoIdentity, Part, ProcessFailed

T = TypeVar("T")
Phase = Literal["waiting", "starting", "ready", "unready", "restarting", "stopping", "stopped", "failed"]

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 10.0
#: Seconds after which a unit counts as recovered: its next failure starts from the shortest delay again.
STEADY: Final = 30.0
#: Seconds without an answer after which a unit that can report whether it is alive is taken to hang, and is killed. Parts can't report that
#: and may be busy recovering, so they are left alone.
HANGS: Final = 20.0
CHECK_EVERY: Final = 1.0
#: Seconds that a unit may take to become ready again, when the start of another one depends on it.
BACK_WITHIN: Final = 120.0
#: How often a needed unit may go away during one start. That start may be the reason that it goes.
TIMES_AWAY: Final = 5


def next_delay(failures: int) -> float:
    """Seconds to wait before the start after `failures` failures in a row: 0.1, 0.2, 0.4 ... 10. Pure."""
    return min(FIRST_DELAY * 2.0 ** min(max(failures - 1, 0), 16), LONGEST_DELAY)


class View(msgspec.Struct, kw_only=True):
    """The state of one process, for `status`."""

    name: str
    phase: Phase = "waiting"
    pid: int | None = None
    version: str = ""
    """As of its last start. A version that was installed since is used from the next start."""
    started_at: str | None = None
    restarts: int = 0
    error: str | None = None
    """Why it last ended or could not start, with the end of its log."""

    @property
    def ready(self) -> bool:
        return self.phase == "ready"


class Alive(Protocol):
    """A unit that can report whether it is alive, even if it is not ready."""

    async def alive(self) -> bool: ...
    def kill(self, number: signal.Signals) -> bool: ...


class StartFailed(Exception):
    """A unit could not be started; the message names it and says why."""


class Keeper:
    """Keeps one unit running from `start()` until `stop()`.

    `on_change(keeper)` is called at each change of phase. `attempts`: how often the first start is tried before `until_ready` raises
    StartFailed. Once the unit has been ready, it is restarted for ever. If the first start fails while a unit that it `needs` is away, it is
    tried again when that one is back.
    """

    def __init__(
        self,
        unit: Part,
        *,
        name: str,
        clock: Clock,
        on_change: Callable[[Keeper], None],
        attempts: int = 1,
        needs: Iterable[Keeper] = (),
    ) -> None:
        self.unit = unit
        self.view = View(name=name)
        self._clock = clock
        self._on_change = on_change
        self._attempts = attempts
        self._needs = tuple(needs)
        self._left: float | None = None
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._hanging_since: float | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"keep:{self.view.name}")

    async def until_ready(self) -> None:
        """Wait until the unit has been ready for the first time. Raises StartFailed."""
        await asyncio.shield(self._first)

    async def until_back(self, within: float = BACK_WITHIN) -> None:
        """Wait until a unit that has been ready before is ready again. Raises StartFailed if it isn't `within` seconds."""
        clock = asyncio.get_running_loop().time
        ending = clock() + within
        while not self.view.ready:
            if clock() > ending:
                raise StartFailed(f"{self.view.name} went away and is not back after {within:g} s: {self.view.error}")
            await asyncio.sleep(0.05)

    def was_away(self, since: float) -> bool:
        """Whether it is not ready now, or was not at some moment since `since` (the loop's time)."""
        return not self.view.ready or (self._left is not None and self._left >= since)

    async def served(self, work: Callable[[], Awaitable[T]], lost: Callable[[Exception], bool]) -> T:
        """Run `work`, which needs the unit and is safe to repeat. If it fails because the unit went away (`lost` judges the error), it is run
        again when the unit is back. Raises what `work` raises, and StartFailed.
        """
        for times in range(TIMES_AWAY):
            try:
                return await work()
            except Exception as error:
                if times + 1 == TIMES_AWAY or not lost(error):
                    raise
            await asyncio.sleep(CHECK_EVERY)  # `work` may have noticed before this keeper did
            await self.until_back()
        raise AssertionError("the last time ends above")

    async def stop(self) -> None:
        """Stop the unit for good. Does nothing if it isn't running."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self.view.phase == "failed":
            return
        self._to("stopping")
        await self.unit.stop()
        self._to("stopped")
        if not self._first.done():
            self._first.cancel()

    async def _run(self) -> None:
        failures = 0
        while True:
            self._to("starting" if self.view.started_at is None else "restarting")
            began = asyncio.get_running_loop().time()
            try:
                await self.unit.start()
                self._started(self._clock.now())
                status = await self._watch()
                self.view.error = f"ended {_how(status)}"
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody else would restart the unit
                foreseen = isinstance(error, (ProcessFailed, NoIdentity, OSError))
                self.view.error = str(error) if foreseen else f"{type(error).__name__}: {error}"
                await self._end()
            if self._first.done() and asyncio.get_running_loop().time() - began > STEADY:
                failures = 0
            failures += 1
            if not self._first.done() and (failed := await self._why_not_again(failures, began)) is not None:
                self._first.set_exception(failed)
                self._first.exception()  # retrieved, so that asyncio does not warn if nobody awaits it
                self._to("failed")
                return
            self._to("restarting")
            await asyncio.sleep(next_delay(failures))
            self.view.restarts += 1

    async def _why_not_again(self, failures: int, began: float) -> StartFailed | None:
        """Why the first start is given up; None if it is to be tried again. Waits for the units that it needs."""
        if failures < self._attempts:
            return None
        away = [need for need in self._needs if need.was_away(began)]
        if not away or failures >= TIMES_AWAY:
            reason = str(self.view.error).removeprefix(f"{self.view.name} ")
            return StartFailed(f"{self.view.name} {reason}")
        self._to("restarting")
        for need in away:
            try:
                await need.until_back()
            except StartFailed as error:
                return error
        return None

    async def _end(self) -> None:
        try:
            await self.unit.stop()
        except Exception as error:  # noqa: BLE001 - if that matters, the next start fails and says why
            self.view.error = f"{self.view.error}; it could not be stopped: {error}"

    def _started(self, at: datetime) -> None:
        self.view.started_at = rfc3339(at)
        self.view.version = self.unit.version
        self._hanging_since = None
        self._to("ready")
        if not self._first.done():
            self._first.set_result(None)

    async def _watch(self) -> int:
        """Watch the unit until it ends, and return its exit status."""
        exited = asyncio.ensure_future(self.unit.exited())
        try:
            while True:
                await asyncio.wait({exited}, timeout=CHECK_EVERY)
                if exited.done():
                    return exited.result()
                ready = await self._is_ready()
                if not exited.done():
                    self._to("ready" if ready else "unready")
                    await self._end_if_hanging(ready=ready)
        finally:
            exited.cancel()

    async def _is_ready(self) -> bool:
        try:
            return await self.unit.ready()
        except Exception as error:  # noqa: BLE001 - a unit that can't be asked is not ready
            self.view.error = f"{type(error).__name__}: {error}"
            return False

    async def _end_if_hanging(self, *, ready: bool) -> None:
        alive: Alive | None = self.unit if hasattr(self.unit, "alive") else None  # type: ignore[assignment]
        if alive is None:
            return
        now = asyncio.get_running_loop().time()
        if ready or await alive.alive():
            self._hanging_since = None
        elif self._hanging_since is None:
            self._hanging_since = now
        elif now - self._hanging_since > HANGS:
            alive.kill(signal.SIGKILL)

    def _to(self, phase: Phase) -> None:
        pid = self.unit.pid
        if phase == self.view.phase and pid == self.view.pid:
            return
        if self.view.phase == "ready":
            self._left = asyncio.get_running_loop().time()
        self.view.phase = phase
        self.view.pid = pid
        try:
            self._on_change(self)
        except Exception as error:  # noqa: BLE001 - an observer's failure must not stop the keeper
            self.view.error = f"{type(error).__name__}: {error}"


def _how(status: int) -> str:
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"
