"""`tallystick up`: start the platform on this machine and keep it running."""

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

#: Seconds that `--detach` waits for the platform to become ready; migrations are not counted.
DETACHED_WITHIN = 300.0
#: Seconds to wait for the lock, while another process stops or starts. As long as `down` waits for the platform to stop.
LOCK_WITHIN = 120.0
#: The environment variable that names the file with the root key's passphrase.
PASSPHRASE_FILE = "TALLYSTICK_ROOT_PASSPHRASE_FILE"  # noqa: S105 - a variable's name
#: Three ports follow the edge's: metrics, bus, and mutual TLS. One more is needed if `--ops-port` takes one of these.
MAX_PORT = 65531
#: Seconds until the ports are free after a supervisor was killed: its processes die with it.
PREDECESSOR_GONE = 2.0
#: A shard's name becomes part of the paths of sockets, whose length is limited (`layout.LONGEST_BELOW_RUN`).
SHARD = re.compile(r"[a-z0-9]{1,12}")


def up(
    *,
    detach: Annotated[
        bool, Parameter(alias="-d", negative="", help="start in the background; return when ready")
    ] = False,
    port: Annotated[int | None, Parameter(help="the edge's port, the first of four; remembered [8443]")] = None,
    ops_port: Annotated[int | None, Parameter(help="the port for metrics [the edge's + 1]")] = None,
    replicas: Annotated[list[str] | None, Parameter(negative="", help="SERVICE=N, may be repeated; remembered")] = None,
    shard: Annotated[
        list[str] | None,
        Parameter(negative="", help="the name of a further shard of the ledger; may be repeated; remembered"),
    ] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Start PostgreSQL, NATS, Valkey, Envoy and all services, and keep them running until Ctrl-C.

    All ports are on loopback. Options marked "remembered" also apply to later starts. If the platform is already running, `up` says so and
    exits with status 0, or with 1 if it runs with settings other than those given here. If it is stopping, `up` waits and then starts it.
    """
    from tallystick.chassis.charter import CharterError, load_all
    from tallystick.fabric.shards import with_shards

    os.umask(0o077)  # everything created from here on is for its owner only, who can read and write it
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
        if (running := _acquire(lock, layout)) is not None:
            if other := list(_differences(running, edge, metrics, asked, more)):
                raise Failed(
                    f"the platform is already running on {layout.data} with other settings than {', '.join(other)}; "
                    "run `tallystick down`, then `up` with the new ones",
                    NO,
                )
            return _already_running(running, layout, common, detach=detach)
        try:
            # Read again: the previous owner of the lock may have changed it.
            previous = states.read(layout)
            charters = planned(previous)
            merged = {**(previous.replicas if previous else {}), **asked} if asked else None
            state = states.plan(previous, edge, metrics, merged, more)
            _check_ports(state)
            states.write(layout, state)  # after the check: an unusable port must not be remembered
            if detach:
                lock.release()
                return _detach(layout, common)
            return _foreground(layout, state, charters, common)
        finally:
            lock.release()


@contextlib.contextmanager
def _disk(layout: Layout) -> Iterator[None]:
    """Report a data directory that can't be written or is full. Raises Failed."""
    try:
        yield
    except BrokenPipeError:
        raise  # not the data directory: whoever read our output is gone
    except OSError as error:
        raise Failed(f"not started: {error.filename or layout.data}: {error.strerror or error}", PART_FAILED) from error


def _check_ports(state: states.State) -> None:
    """Check that the ports are free, before anything is started or stored. Raises Failed."""
    if state.ops_port == state.port:
        raise Failed(f"--ops-port {state.port} is the edge's port; choose another", USAGE)
    for port in ports(state):
        if why := why_not(port.number, within=PREDECESSOR_GONE):
            raise Failed(
                f"not started: port {port.number} ({port.what}) is not available: {why}; choose another with {port.option}",
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
    """The options that `up` takes from environment variables: where traces go, the log level, the root key's passphrase."""
    from tallystick.local.environment import Options

    passphrase = environ.get(PASSPHRASE_FILE)
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
            env=_with_absolute_paths(os.environ),
        )

    def ended() -> bool:
        """Whether the child has ended with status 0. Raises Failed with its error message if it ended with another."""
        if child.poll() in (None, OK):
            return child.returncode == OK
        said = output.read_bytes()[start:].decode(errors="replace").rpartition("tallystick: ")[2].strip()
        raise Failed(said or f"not started: the supervisor ended with status {child.returncode}", PART_FAILED)

    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _until_ready(layout, common, ended)
    except KeyboardInterrupt:
        child.terminate()  # it has its own session, so Ctrl-C did not reach it
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, terminated)


def _until_ready(layout: Layout, common: Common, ended: Callable[[], bool]) -> int:
    """Show the start of a platform in the background until it is ready. `ended` tells whether the process that should start it has ended in
    peace: it does when another process got the lock first, whose platform is then waited for.
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
                    raise Failed("the platform was stopped before it was ready", PART_FAILED) from error
            except control.ControlFailed:
                pass  # under load it may be slow to answer: ask again
            else:
                progress.status(found)
                if found.migrating:
                    waited_from = time.monotonic()  # how long a migration takes depends on the data
                if found.ready:
                    progress.announce(found, time.monotonic() - began)
                    return OK
            if time.monotonic() - waited_from > DETACHED_WITHIN:
                raise Failed(
                    f"not ready after {DETACHED_WITHIN:g} s; see `tallystick status` and the logs in {layout.logs}",
                    PART_FAILED,
                )
            time.sleep(0.1)
    finally:
        progress.close()


def _with_absolute_paths(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child with another working directory."""
    passphrase = environ.get(PASSPHRASE_FILE)
    return {**environ, PASSPHRASE_FILE: str(Path(passphrase).resolve())} if passphrase else dict(environ)


def shards(given: list[str]) -> list[str]:
    """Check the names given by `--shard`. Raises Failed."""
    for name in given:
        if not SHARD.fullmatch(name) or name == HOME:
            raise Failed(
                f"--shard {name}: a name has 1 to 12 characters of a-z and 0-9, such as `eu`, and is not `{HOME}`",
                USAGE,
            )
    return given


def _acquire(lock: states.Lock, layout: Layout) -> control.Status | None:
    """Take the lock, or return the status of the running platform that holds it. A platform that is stopping is waited for, and so is one
    that does not answer yet. Raises Failed, control.ControlFailed.
    """
    ending = time.monotonic() + LOCK_WITHIN
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
            raise Failed(
                f"another process holds the lock {layout.lock} and does not release it; `fuser {layout.lock}` shows its pid",
                PART_FAILED,
            )
        time.sleep(0.1)
    return None


def _differences(
    found: control.Status, port: int | None, ops_port: int | None, replicas: Mapping[str, int], more: list[str]
) -> Iterator[str]:
    """Each given option that differs from the running platform's, with the running value."""
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


def _already_running(found: control.Status, layout: Layout, common: Common, *, detach: bool) -> int:
    if detach and not found.ready:
        return _until_ready(layout, common, lambda: True)  # another `up` is starting it
    if common.json:
        from tallystick.cli.progress import reached

        emit({"already_running": True, **reached(found)}, common)
    else:
        yet = "" if found.ready else "; it is not ready, see `tallystick status`"
        print(f"the platform is already running on {layout.data} (pid {found.pid}): {found.edge}, CA {found.ca}{yet}")
    return OK


def _replicas(given: list[str], charters: Mapping[str, Charter]) -> dict[str, int]:
    found = {}
    for text in given:
        service, _, number = text.partition("=")
        if service not in charters:
            raise Failed(
                f"--replicas {text}: there is no service {service!r}; the services are {', '.join(charters)}", USAGE
            )
        most = charters[service].scale.max_replicas
        if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= most:
            raise Failed(f"--replicas {text}: {service} takes 1 to {most} replicas, such as {service}=2", USAGE)
        found[service] = int(number)
    return found


def _port(port: int | None) -> int | None:
    if port is not None and not 1 <= port <= MAX_PORT:
        raise Failed(f"port {port} is not between 1 and {MAX_PORT} (the ports after it are used as well)", USAGE)
    return port
