"""`tallystick up`: start everything here and keep it running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter

from tallystick.cli.output import NO, OK, PART_FAILED, USAGE, Common, Failed, emit
from tallystick.kernel.deployment import HOME
from tallystick.local import control
from tallystick.local import state as states
from tallystick.local.layout import Layout
from tallystick.local.ports import ports, why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tallystick.chassis.charter import Charter
    from tallystick.local.environment import Options

DETACHED_WITHIN = 300.0
#: How long it may take until whoever has the data lets go of it, or says that it runs: about what `down` waits for the former.
TURN_WITHIN = 120.0
#: Names the file with what opens the sealed root key.
OPENED_BY = "TALLYSTICK_ROOT_PASSPHRASE_FILE"
#: Three ports come after the edge's: metrics, bus, and the edge's other one for clients with a certificate. One more, should
#: `--ops-port` have taken one of these.
MAX_PORT = 65531
#: What a supervisor that was killed has left is killed with it, and its ports are free soon after.
PREDECESSOR_GONE = 2.0
#: A deployment's name is in the paths of sockets, which are short (`layout.LONGEST_BELOW_RUN`).
SHARD = re.compile(r"[a-z0-9]{1,12}")


def up(
    *,
    detach: Annotated[bool, Parameter(alias="-d", negative="", help="return once it is ready, and let it run")] = False,
    port: Annotated[
        int | None, Parameter(help="the edge's port on loopback, the first of four; kept for the next start [8443]")
    ] = None,
    ops_port: Annotated[int | None, Parameter(help="the metrics' port on loopback [the edge's + 1]")] = None,
    replicas: Annotated[
        list[str] | None, Parameter(negative="", help="SERVICE=N, as often as needed; kept for the next start")
    ] = None,
    shard: Annotated[
        list[str] | None,
        Parameter(
            negative="", help="a further shard of the ledger, as often as needed; there from then on at each start"
        ),
    ] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Start PostgreSQL, NATS, Valkey, Envoy and all services, and keep them running until Ctrl-C.

    A second `up` on the same data says that it runs and exits 0, or 1 when it runs with other settings than these options ask for; while the
    first one stops it waits its turn.
    """
    from tallystick.chassis.charter import CharterError, load_all
    from tallystick.fabric.shards import with_shards

    os.umask(0o077)  # whatever is made from here on is its owner's alone, and the owner gets at it
    layout = common.layout
    more, edge, metrics = shards(shard or []), _port(port), _port(ops_port)
    try:
        services = load_all()
    except CharterError as error:
        raise Failed(str(error), PART_FAILED) from error

    def planned(previous: states.State | None) -> dict[str, Charter]:
        return with_shards(services, [*(previous.shards if previous else ()), *more])

    asked = _replicas(replicas or [], planned(states.read(layout)))
    with _disk(layout):
        layout.prepare()
        lock = states.Lock(layout.lock)
        if (running := _turn(lock, layout)) is not None:
            if other := list(_other(running, edge, metrics, asked, more)):
                raise Failed(
                    f"the platform runs already on {layout.data}, with other settings than {', '.join(other)}: "
                    "`tallystick down`, then up with these",
                    NO,
                )
            return _runs_already(running, layout, common, detach=detach)
        try:
            # Whoever had the lock until now may have changed it.
            previous = states.read(layout)
            charters = planned(previous)
            merged = {**(previous.replicas if previous else {}), **asked} if asked else None
            state = states.plan(previous, edge, metrics, merged, more)
            _have(state)
            states.write(layout, state)  # what can't be had is not kept for the next start
            if detach:
                lock.release()
                return _detach(layout, common)
            return _foreground(layout, state, charters, common)
        finally:
            lock.release()


@contextlib.contextmanager
def _disk(layout: Layout) -> Iterator[None]:
    """A data directory that can't be written, or is full, is said. Raises Failed."""
    try:
        yield
    except BrokenPipeError:
        raise  # nobody reads what we print
    except OSError as error:
        raise Failed(f"not started: {error.filename or layout.data}: {error.strerror or error}", PART_FAILED) from error


def _have(state: states.State) -> None:
    """Whether the ports can be had, before anything is started or kept. Raises Failed."""
    if state.ops_port == state.port:
        raise Failed(f"port {state.port} can't be both the edge's and that of the metrics: see --ops-port", USAGE)
    for port in ports(state):
        if why := why_not(port.number, within=PREDECESSOR_GONE):
            raise Failed(
                f"not started: port {port.number} ({port.what}) can't be had: {why}; choose another with {port.option}",
                PART_FAILED,
            )


def _foreground(layout: Layout, state: states.State, charters: Mapping[str, Charter], common: Common) -> int:
    from tallystick.cli.progress import progress_for
    from tallystick.local.session import serve
    from tallystick.local.supervisor import StartFailed

    progress = progress_for(common)
    try:
        asyncio.run(serve(layout, state, charters, options=options(os.environ), progress=progress))
    except StartFailed as error:
        raise Failed(f"not started: {error}", PART_FAILED) from error
    finally:
        progress.close()
    return OK


def options(environ: Mapping[str, str]) -> Options:
    """What the environment of `up` says: where traces go, how much is logged, what opens the sealed root key."""
    from tallystick.local.environment import Options

    passphrase = environ.get(OPENED_BY)
    return Options(
        root_passphrase_file=Path(passphrase).resolve() if passphrase else None,
        otlp_endpoint=environ.get("TALLYSTICK_OTLP_ENDPOINT") or None,
        log_level=environ.get("TALLYSTICK_LOG_LEVEL", "info"),
    )


def _detach(layout: Layout, common: Common) -> int:
    output = layout.log("up")
    with output.open("ab") as log:
        output.chmod(0o600)
        start = log.tell()
        child = subprocess.Popen(
            [sys.executable, "-I", "-m", "tallystick", "up", "--data", str(layout.data)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env=_from_anywhere(os.environ),
        )

    def ended() -> bool:
        """Whether it came to its end in peace. Raises Failed with what it said last, after its progress."""
        if child.poll() in (None, OK):
            return child.returncode == OK
        said = output.read_bytes()[start:].decode(errors="replace").rpartition("tallystick: ")[2].strip()
        raise Failed(said or f"it ended with status {child.returncode}", PART_FAILED)

    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _until_ready(layout, common, ended)
    except KeyboardInterrupt:
        child.terminate()  # it has a session of its own: no Ctrl-C reached it
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, terminated)


def _until_ready(layout: Layout, common: Common, ended: Callable[[], bool]) -> int:
    """Shows how a platform in the background starts. `ended` says whether the process that was to start it is gone: when another one had the
    lock before it, that is the one to wait for.
    """
    from tallystick.cli.progress import progress_for

    began = waited_from = time.monotonic()
    progress = progress_for(common)
    try:
        while True:
            gone = ended()
            try:
                found = asyncio.run(control.ask(layout, control.GetStatus(), control.Status))
            except control.NotRunning as error:
                if gone:
                    raise Failed("it was stopped before it was ready", PART_FAILED) from error
            except control.ControlFailed:
                pass  # under load it may take its time
            else:
                progress.status(found)
                if found.migrating:
                    waited_from = time.monotonic()  # that takes as long as there is data
                if found.ready:
                    progress.announce(found, time.monotonic() - began)
                    return OK
            if time.monotonic() - waited_from > DETACHED_WITHIN:
                raise Failed(
                    f"not ready after {DETACHED_WITHIN:g} s; `tallystick status` and {layout.logs} say more",
                    PART_FAILED,
                )
            time.sleep(0.1)
    finally:
        progress.close()


def _from_anywhere(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child that is in another folder."""
    passphrase = environ.get(OPENED_BY)
    return {**environ, OPENED_BY: str(Path(passphrase).resolve())} if passphrase else dict(environ)


def shards(given: list[str]) -> list[str]:
    """What `--shard` names. Raises Failed."""
    for name in given:
        if not SHARD.fullmatch(name) or name == HOME:
            raise Failed(f"--shard {name}: a shard has a name of 1 to 12 of a-z and 0-9, such as `eu`", USAGE)
    return given


def _turn(lock: states.Lock, layout: Layout) -> control.Status | None:
    """Takes the lock, or answers what the platform that has it says of itself. One that stops is waited for, and one that is about to say
    something. Raises Failed, control.ControlFailed.
    """
    ending = time.monotonic() + TURN_WITHIN
    told = False
    while not lock.acquire():
        with contextlib.suppress(control.NotRunning):
            found = asyncio.run(control.ask(layout, control.GetStatus(), control.Status))
            if not found.stopping:
                return found
            if not told:
                print(f"the platform on {layout.data} is stopping: waiting for it", file=sys.stderr, flush=True)
                told = True
        if time.monotonic() > ending:
            raise Failed(f"another process has {layout.lock} and does not let go of it: `fuser` names it", PART_FAILED)
        time.sleep(0.1)
    return None


def _other(
    found: control.Status, port: int | None, ops_port: int | None, replicas: Mapping[str, int], more: list[str]
) -> Iterator[str]:
    """Each option that a platform which runs does not run with, and what it has instead."""
    for option, asked, url in (("--port", port, found.edge), ("--ops-port", ops_port, found.ops)):
        has = urlsplit(url).port or 443
        if asked not in (None, has):
            yield f"{option} {asked} (it has {has})"
    for name, count in replicas.items():
        if (runs := found.replicas.get(name, 0)) != count:
            yield f"--replicas {name}={count} (it has {runs})"
    for name in more:
        if name not in found.shards:
            yield f"--shard {name} (it has {', '.join((HOME, *found.shards))})"


def _runs_already(found: control.Status, layout: Layout, common: Common, *, detach: bool) -> int:
    if detach and not found.ready:
        return _until_ready(layout, common, lambda: True)  # another `up` is at it
    if common.json:
        from tallystick.cli.progress import reached

        emit({"already_running": True, **reached(found)}, common)
    else:
        yet = "" if found.ready else ", and is not ready: `tallystick status` says more"
        print(f"the platform runs already on {layout.data} (pid {found.pid}): {found.edge}, CA {found.ca}{yet}")
    return OK


def _replicas(given: list[str], charters: Mapping[str, Charter]) -> dict[str, int]:
    found = {}
    for text in given:
        service, _, number = text.partition("=")
        if service not in charters:
            raise Failed(f"--replicas {text}: there is no service {service!r}; there are {', '.join(charters)}", USAGE)
        most = charters[service].scale.max_replicas
        if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= most:
            raise Failed(f"--replicas {text}: give {service} 1 to {most} replicas, as {service}=2", USAGE)
        found[service] = int(number)
    return found


def _port(port: int | None) -> int | None:
    if port is not None and not 1 <= port <= MAX_PORT:
        raise Failed(f"{port} is not a port that can be had: 1 to {MAX_PORT}, the next ones are used as well", USAGE)
    return port
