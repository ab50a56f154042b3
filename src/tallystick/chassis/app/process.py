"""One process of one service: from its environment to its exit status.

It starts completely or not at all. A background task that ends while the process runs is a fault: the process logs which one,
drains and exits with an error, and the supervisor starts another. A service that silently stopped relaying its facts would be worse.
On SIGTERM it becomes unready, finishes what it has begun, and exits with 0.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from typing import Any, Final, NoReturn

import uvloop

from tallystick.chassis import charter as charters
from tallystick.chassis import idempotency, outbox, telemetry
from tallystick.chassis import settings as environment
from tallystick.chassis.app.opening import IDENTITY, open_runtime
from tallystick.chassis.app.runtime import NotOpened, Runtime, Schedule, Wiring
from tallystick.chassis.app.schedules import Leadership, keep
from tallystick.chassis.app.server import Server
from tallystick.chassis.bus import Consumer, Subscription
from tallystick.chassis.charter import Charter, CharterError
from tallystick.chassis.db import Queries
from tallystick.chassis.keys import DataKeys
from tallystick.chassis.outbox.relay import Relay
from tallystick.chassis.settings import Settings, SettingsError
from tallystick.chassis.web import Application
from tallystick.kernel.deployment import HOME, deployment
from tallystick.kernel.problem import Problem

Wire = Callable[[Runtime], Awaitable[Wiring]]

Q: Final = Queries.load("tallystick.chassis", "app")

#: Seconds between probes of the database, and for which a probe may take.
PROBE_SECONDS: Final = 2.0

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def run(service: str, wire: Wire | None = None, *, environ: Mapping[str, str] | None = None) -> int:
    """Run a service until SIGTERM or SIGINT. Returns the exit status: 0 stopped by a signal, 1 failed, 2 wrongly configured.

    By default `wire` is that of `tallystick.services.<service>.app`, imported by name because the chassis knows no service. A
    `SETTINGS` in the same module is the service's settings type. The environment is read once, here.
    """
    environ = os.environ if environ is None else environ
    os.umask(0o077)  # files that a service writes are readable by itself alone
    try:
        module = import_module(f"tallystick.services.{service}.app") if wire is None else sys.modules[wire.__module__]
        wire = wire or module.wire
        kind: type[Settings] = getattr(module, "SETTINGS", Settings)
        settings = environment.load(kind, environ)
        if settings.service != service:
            raise SettingsError([f"TALLYSTICK_SERVICE is {settings.service}, but {service} is to be run"])
        charter = charters.load(service)
        if settings.shard != HOME and not charter.scale.shards:
            raise SettingsError([f"TALLYSTICK_SHARD is {settings.shard}, but {service} has no shards (scale.shards)"])
    except (SettingsError, CharterError) as error:
        for fault in getattr(error, "faults", [str(error)]):
            print(f"tallystick run {service}: {fault}", file=sys.stderr)
        return EXIT_USAGE
    telemetry.setup(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(settings, charter, wire))
    finally:
        telemetry.close()


async def serve(settings: Settings, charter: Charter, wire: Wire, *, package: str = "") -> int:
    """Open, wire, serve, drain, close. Returns the exit status, like `run`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with AsyncExitStack() as stack:
            runtime = await open_runtime(settings, charter, stack, package=package)
            wiring = await wire(runtime)
            if wiring.close is not None:
                stack.push_async_callback(wiring.close)
            _check_callers(wiring, charter)
            process = Process(runtime, wiring)
            settle_memory()
            return await process.run(stop)
    except Exception as error:  # noqa: BLE001  # it can't start or can't close: logged here, and told by the exit status
        told: dict[str, Any] = dict(error.context) if isinstance(error, Problem) else {}
        if isinstance(error, (NotOpened, ValueError, TypeError)):
            told["reason"] = str(error)
        telemetry.log.error("process.failed", **{**told, "error": error})
        return EXIT_FAILED
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class Process:
    """A running service."""

    def __init__(self, runtime: Runtime, wiring: Wiring) -> None:
        self._runtime = runtime
        self._wiring = wiring
        self._drain_seconds = runtime.settings.drain_seconds
        self._draining = False
        self._was_ready = False
        self._answers = False
        self._ended = asyncio.Event()
        self._schedules_stop = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._consumers: list[Consumer] = []
        self._relay: Relay | None = None
        self._leadership: Leadership | None = None
        charter = runtime.charter
        needs_tokens = any(row.public is None for row in wiring.endpoints)
        app = Application(
            charter.name,
            wiring.service,
            wiring.endpoints,
            authenticator=runtime.authenticator if needs_tokens else None,
            authorizer=runtime.authorizer if needs_tokens else None,
            limits=runtime.limits,
            shard=runtime.settings.shard,
            shards=runtime.settings.all_shards if charter.scale.shards else (),
            max_body_bytes=charter.limits.max_body_bytes,
            max_mesh_body_bytes=charter.limits.max_mesh_body_bytes,
            ready=self.readiness,
        )
        self._server = Server(app, runtime.settings.listen, drain_seconds=self._drain_seconds)

    def readiness(self) -> tuple[bool, dict[str, bool]]:
        """Whether requests may be sent here, and the state of each part.

        A process becomes ready once all parts have been available, and unready when it drains. A part that goes away in between does
        not make it unready: all replicas share the part, and a clear problem document is a better answer than the proxy's "no healthy
        upstream".
        """
        runtime = self._runtime
        parts: dict[str, bool] = {}
        if runtime.has("database"):
            parts["database"] = self._answers
        if runtime.has("bus"):
            parts["bus"] = runtime.bus.connected
        if IDENTITY in runtime.charter.calls and runtime.has("authenticator"):
            parts["feed"] = runtime.authenticator.ready
        for name, holds in self._wiring.ready.items():
            parts[name] = holds()
        self._was_ready = self._was_ready or all(parts.values())
        return self._was_ready and not self._draining, parts

    async def run(self, stop: asyncio.Event) -> int:
        """Serve until `stop` is set, or a background task ends. Returns the exit status."""
        self._begin()
        log = telemetry.log
        log.info("process.started", pid=os.getpid(), socket=str(self._runtime.settings.listen))
        waiter = asyncio.create_task(stop.wait())
        ended = asyncio.create_task(self._ended.wait())
        await asyncio.wait({waiter, ended}, return_when=asyncio.FIRST_COMPLETED)
        failed = [name for name, task in self._tasks.items() if task.done()]
        for name in failed:
            task = self._tasks[name]
            log.error("process.task-ended", task=name, error=None if task.cancelled() else task.exception())
        waiter.cancel()
        ended.cancel()
        log.info("process.draining")
        await self._drain()
        log.info("process.stopped", pid=os.getpid())
        return EXIT_FAILED if failed else 0

    def _begin(self) -> None:
        runtime, wiring = self._runtime, self._wiring
        self._start("server", self._server.serve())
        if IDENTITY in runtime.charter.calls and runtime.has("authenticator"):
            self._start("authentication", runtime.authenticator.run())
        schedules = list(wiring.schedules)
        if runtime.has("database"):
            self._start("probe", self._probe())
            self._leadership = Leadership(runtime.database, runtime.name)
            schedules += self._housekeeping()
            if runtime.has("bus"):
                self._relay = Relay(runtime.database, runtime.bus, runtime.name)
                self._start("relay", self._relay.run())
                for subscription in of_all_shards(wiring.subscriptions, runtime.settings):
                    consumer = Consumer(runtime.database, runtime.bus, subscription, wiring.service)
                    self._consumers.append(consumer)
                    self._start(f"consumer:{subscription.source}:{subscription.name}", consumer.run())
        if wiring.subscriptions and not self._consumers:
            msg = "subscriptions need a database and a bus: set TALLYSTICK_DATABASE_HOST and TALLYSTICK_NATS_URL"
            raise NotOpened(msg)
        for schedule in schedules:
            self._start(
                f"schedule:{schedule.name}", keep(schedule, wiring.service, self._leadership, self._schedules_stop)
            )
        for number, make in enumerate(wiring.tasks):
            self._start(f"task:{getattr(make, '__qualname__', number)}", make())

    def _start(self, name: str, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._ended.set())
        self._tasks[name] = task

    def _housekeeping(self) -> list[Schedule]:
        """Schedules for the chassis's own tables and keys."""
        database, clock = self._runtime.database, self._runtime.clock

        async def forget_facts(_: Any) -> None:
            await outbox.purge(database, clock.now())

        async def forget_answers(_: Any) -> None:
            await idempotency.purge(database, clock.now())

        schedules = [
            Schedule(name="chassis.outbox-retention", every=timedelta(minutes=30), run=forget_facts),
            Schedule(name="chassis.idempotency-retention", every=timedelta(minutes=30), run=forget_answers),
        ]
        keys = self._runtime.charter.keys
        if keys is not None and self._runtime.has("keyring"):
            ring, life = self._runtime.keyring, timedelta(days=keys.rotation_days)
            data_keys = DataKeys(
                database, ring, self._wiring.sealed, clock, life=timedelta(days=keys.data_rotation_days)
            )

            async def rotate_keys(_: Any) -> None:
                if await ring.keep_rotated(life):
                    telemetry.log.info("keys.rotated")

            async def rotate_data_keys(_: Any) -> None:
                await data_keys.look()

            schedules += [
                Schedule(name="chassis.keys", every=timedelta(hours=1), run=rotate_keys),
                Schedule(name="chassis.data-keys", every=timedelta(seconds=10), run=rotate_data_keys),
            ]
        return schedules

    async def _probe(self) -> NoReturn:
        told = True
        while True:
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await self._runtime.database.fetchval(Q.ping)
            except (Problem, TimeoutError) as error:
                self._answers = False
                if told:
                    telemetry.log.warning("process.part-away", part="database", error=error)
                told = False
            else:
                self._answers = told = True
            await asyncio.sleep(PROBE_SECONDS)

    async def _drain(self) -> None:
        """Stop in this order: requests, then consumers and schedules, then the relay, which publishes the facts of all of them."""
        self._draining = True
        self._server.stop()
        await self._within("server")
        self._schedules_stop.set()
        for consumer in self._consumers:
            consumer.stop()
        await self._within(*(name for name in self._tasks if name.startswith(("schedule:", "consumer:"))))
        if self._relay is not None:
            self._relay.stop()
            await self._within("relay")
        await self._within(*self._tasks, seconds=0)
        if self._leadership is not None:
            await self._leadership.close()

    async def _within(self, *names: str, seconds: float | None = None) -> None:
        """Wait for tasks to end, then cancel those that did not."""
        tasks = {self._tasks[name] for name in names}
        if not tasks:
            return
        # The server bounds its requests itself, and needs a moment more to answer those it cancels.
        limit = self._drain_seconds + 1 if seconds is None else seconds
        _, late = await asyncio.wait(tasks, timeout=limit)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def of_all_shards(subscriptions: Iterable[Subscription], settings: Settings) -> Iterator[Subscription]:
    """Each subscription, and a copy of it for every further shard of its source, because each shard has its own stream of facts."""
    for subscription in subscriptions:
        yield subscription
        for shard in settings.all_shards[1:]:
            if charters.load(subscription.source).scale.shards:
                yield replace(subscription, source=deployment(subscription.source, shard))


def _check_callers(wiring: Wiring, charter: Charter) -> None:
    """Check that endpoint table and charter agree on who may call through the mesh: the charter has configured the proxy. Raises
    ValueError.
    """
    said = {(caller, row.where) for row in wiring.endpoints for caller in row.mesh}
    written = {(caller, action) for caller, actions in charter.callers.items() for action in actions}
    if said != written:
        only_table = sorted(f"{caller}: {where}" for caller, where in said - written)
        only_charter = sorted(f"{caller}: {where}" for caller, where in written - said)
        msg = f"endpoint table and [callers] differ: only in the table {only_table}, only in the charter {only_charter}"
        raise ValueError(msg)


def settle_memory() -> None:
    """Exempt what was made at the start from garbage collection: it lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
