"""Runs a platform in the foreground: control socket, signals, progress, log. `tallystick up` is a thin layer over it."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from tallystick.chassis.charter import Charter
from tallystick.local import control
from tallystick.local.environment import Options
from tallystick.local.layout import Layout
from tallystick.local.logs import LIMIT, cut
from tallystick.local.platform import Platform
from tallystick.local.state import State
from tallystick.local.supervisor import StartFailed

#: The log levels of phases that an operator should see; all other phases are `info`.
LEVELS: Final = {
    "unready": "warning",
    "restarting": "warning",
    "failed": "error",
    "rejected": "error",
    "error": "error",
}


class Progress(Protocol):
    """Shows what happens. Phases are those of a `Keeper`, plus `rejected` and `error`."""

    def process(self, name: str, phase: str, detail: str) -> None: ...
    def ready(self, platform: Platform, seconds: float) -> None: ...
    def stopping(self) -> None: ...


@dataclass(slots=True)
class Journal:
    """The supervisor's own log: JSON lines in `logs/supervisor.log`."""

    layout: Layout

    def process(self, name: str, phase: str, detail: str) -> None:
        said = {"detail": detail[:2000]} if detail else {}
        self.write(f"process.{phase}", level=LEVELS.get(phase, "info"), process=name, **said)

    def write(self, event: str, *, level: str = "info", **fields: object) -> None:
        line = {"time": datetime.now(UTC), "level": level, "event": event, "service": "supervisor", **fields}
        path = self.layout.log("supervisor")
        try:
            cut(path, LIMIT)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, msgspec.json.encode(line) + b"\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            # A full disk must not keep the supervisor from restarting processes.
            with suppress(OSError):
                print(f"{path}: {error}: {event} {fields}", file=sys.stderr, flush=True)


async def serve(
    layout: Layout, state: State, charters: Mapping[str, Charter], *, options: Options, progress: Progress
) -> None:
    """Start the platform, run it until SIGINT, SIGTERM, SIGHUP (unless under `nohup`) or `down`, and stop it. The caller holds the lock.

    Raises StartFailed.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the authority's keys
    loop = asyncio.get_running_loop()
    began = loop.time()
    journal = Journal(layout)
    asked = asyncio.Event()
    started: asyncio.Future[None] = loop.create_future()
    stopped = asyncio.Event()

    def report(name: str, phase: str, detail: str) -> None:
        journal.process(name, phase, detail)
        progress.process(name, phase, detail)

    platform = Platform(layout, state, charters, options=options, report=report)

    async def handle(request: control.Request) -> control.Answer:
        if isinstance(request, control.Down):
            asked.set()
            await stopped.wait()
            return control.Done()
        if isinstance(request, control.WaitReady):
            try:
                await asyncio.shield(started)
            except StartFailed as error:
                return control.Refused(str(error))
        return platform.status()

    def interrupted() -> None:
        if asked.is_set():
            # A second Ctrl-C ends at once. The kernel kills the children, and the next start cleans up.
            os._exit(130)
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under `nohup` the platform must outlive its terminal.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, interrupted)
    server = control.ControlServer(layout.control, handle)
    await server.start()
    starting = asyncio.create_task(platform.start(), name="start")
    stop_asked = asyncio.create_task(asked.wait(), name="stop-asked")
    try:
        await asyncio.wait({starting, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            seconds = loop.time() - began
            journal.write("platform.ready", seconds=round(seconds, 2))
            started.set_result(None)
            progress.ready(platform, seconds)
            await stop_asked
    except StartFailed as error:
        journal.write("platform.not-started", level="error", detail=str(error)[:2000])
        started.set_exception(error)
        started.exception()
        raise
    finally:
        if not started.done():
            started.set_exception(StartFailed("the platform was stopped before it was ready"))
            started.exception()
        stop_asked.cancel()
        progress.stopping()
        try:
            if not starting.done():
                starting.cancel()  # it stops what it had started
                await asyncio.wait({starting})
            elif starting.exception() is None:
                await platform.stop()
            journal.write("platform.stopped")
        finally:
            stopped.set()
            await server.stop()
