"""A whole platform for tests: `tallystick up` on free ports and a directory of its own, one for the whole run.

| fixture | is |
|---|---|
| `platform` | the shared `PlatformUnderTest`, ready. A test that kills something waits until it is ready again (`until_ready`) |
| `credentials` | `credentials("acme", "accounts:read")` -> the file of a client of that tenant with that scope, made when first asked for |
| `new_platform` | `new_platform("--replicas", "ledger=2")` -> a further one, not started; stopped and removed after the test |
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from tests.conftest import APART
from tests.support import ports
from tests.support.parts import remove, short_directory

NewPlatform = Callable[..., "PlatformUnderTest"]
Credentials = Callable[..., Path]

#: All scopes of INTERFACES.md.
EVERY_SCOPE = (
    "accounts:read accounts:write approvals:sign approvals:write audit:read books:export books:import books:read books:write"
    " payments:read payments:write refunds:write tokens:read tokens:reveal tokens:write transfers:read transfers:write webhooks:write"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.system)
            if item.path.stem.removeprefix("test_") in APART and "_shared" in getattr(item, "fixturenames", ()):
                raise pytest.UsageError(f"{item.nodeid} takes the shared platform, and its module is one of APART")


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def free_ports() -> int:
    """The first of four free ports in a row: edge, metrics, bus, and the edge's other one, for clients with a certificate."""
    return ports.free_ports(4)


@dataclass
class PlatformUnderTest:
    data: Path
    port: int
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    around: tuple[str, ...] = ()
    """What comes before the command `tallystick up`."""
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def mtls_port(self) -> int:
        return self.port + 3

    @property
    def ops(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}"

    @property
    def ca(self) -> Path:
        return self.data / "ca.pem"

    def tls(self) -> ssl.SSLContext:
        """What a client of the edge uses: our CA and nothing else."""
        return ssl.create_default_context(cafile=str(self.ca))

    def start(self, within: float = 180) -> None:
        """`tallystick up` in the foreground; returns when it says that it is ready."""
        with (self.data.parent / "up.log").open("a") as log:
            self.process = subprocess.Popen(
                [*self.around, *self._command("up"), "--port", str(self.port), *self.options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                env={**os.environ, **self.environment},
            )
        self.until_ready(within)

    def stop(self, within: float = 60) -> int:
        """Ctrl-C; answers the exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        status = self.process.wait(within)
        self.process = None
        return status

    def cli(self, command: str, *arguments: str, within: float = 120) -> Result:
        """One command on this platform."""
        done = subprocess.run(
            [sys.executable, "-m", "tallystick", command, *arguments, "--data", str(self.data)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
            env={**os.environ, **self.environment},
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def verified(self) -> set[str]:
        """The names of the checks of `tallystick verify`, all of which hold."""
        found = self.cli("verify", "--json")
        assert found.out, found
        wrong = {check["name"]: check["faults"] for check in found.json["checks"] if check["faults"]}
        assert (found.status, wrong) == (0, {}), wrong
        return {check["name"] for check in found.json["checks"]}

    def status(self) -> Any:
        """`tallystick status --json`, or None while there is no answer."""
        found = self.cli("status", "--json")
        return found.json if found.status in {0, 1} and found.out else None

    def until_ready(self, within: float = 120) -> Any:
        return self.until(lambda found: bool(found["ready"]), within)

    def until(self, condition: Callable[[Any], bool], within: float = 120) -> Any:
        """Wait until the status fulfils a condition; answers that status."""
        ending = time.monotonic() + within
        found = None
        while time.monotonic() < ending:
            if self.process is not None and self.process.poll() is not None:
                break
            found = self.status()
            if found is not None and condition(found):
                return found
            time.sleep(0.2)
        raise AssertionError(f"not within {within} s; {found}\n{self.said()[-4000:]}")

    def said(self) -> str:
        log = self.data.parent / "up.log"
        return log.read_text() if log.exists() else ""

    def pids(self) -> dict[str, int]:
        """Every process of the platform by name: `postgres`, `ledger-0`; the supervisor is `supervisor`."""
        return pids_of(self.status())

    @asynccontextmanager
    async def superuser(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A connection to one of its databases, as PostgreSQL's superuser."""
        password = (self.data / "secrets" / "postgres").read_text().strip()
        connection = await asyncpg.connect(
            host=str(self.data / "run" / "pg"), user="postgres", password=password, database=database
        )
        try:
            yield connection
        finally:
            await connection.close()

    def processes(self) -> list[psutil.Process]:
        """All processes that have this platform's directory in their command line or environment, this test's apart."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = [*process.cmdline(), *process.environ().values()]
                own = process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE
                if not own and any(str(self.data) in word for word in words):
                    found.append(process)
        return found

    def _command(self, command: str) -> list[str]:
        return [sys.executable, "-m", "tallystick", command, "--data", str(self.data)]


def pids_of(found: Any) -> dict[str, int]:
    """The processes that a status tells of, by name."""
    by_name = {part["name"]: part["pid"] for part in found["parts"]}
    for service in found["services"]:
        by_name |= {f"{service['name']}-{n}": replica["pid"] for n, replica in enumerate(service["replicas"])}
    return by_name | {"supervisor": found["pid"]}


def replicated(**replicas: int) -> AbstractContextManager[PlatformUnderTest]:
    """A platform that runs, with so many replicas of these services."""
    return running(*(part for name, count in replicas.items() for part in ("--replicas", f"{name}={count}")))


@contextmanager
def running(*options: str) -> Iterator[PlatformUnderTest]:
    """A platform that runs, started with these options."""
    one = PlatformUnderTest(short_directory() / "data", free_ports(), options)
    try:
        one.start()
        yield one
    finally:
        one.stop()
        remove(one.data.parent)


@pytest.fixture
def new_platform() -> Iterator[NewPlatform]:
    made: list[PlatformUnderTest] = []

    def make(*options: str, **environment: str) -> PlatformUnderTest:
        one = PlatformUnderTest(short_directory() / "data", free_ports(), options, environment)
        made.append(one)
        return one

    yield make
    for one in made:
        _end(one)


@pytest.fixture(scope="session")
def _shared() -> Iterator[PlatformUnderTest]:
    one = PlatformUnderTest(short_directory() / "data", free_ports())
    try:
        one.start()
        yield one
    finally:
        _end(one)


@pytest.fixture
def platform(_shared: PlatformUnderTest) -> PlatformUnderTest:
    _shared.until_ready()
    return _shared


@pytest.fixture(scope="session")
def _files(_shared: PlatformUnderTest) -> Iterator[Callable[[str, str, str], Path]]:
    folder = short_directory()
    made: dict[tuple[str, str, str], Path] = {}

    def make(tenant: str, scope: str, name: str) -> Path:
        key = (tenant, scope, name)
        if key not in made:
            file = folder / f"{len(made)}.json"
            # a tenant that is there already is as good
            _shared.cli("tenant", "create", tenant)
            done = _shared.cli("client", "create", name, "--tenant", tenant, "--scope", scope, "--out", str(file))
            assert done.status == 0, done.err
            made[key] = file
        return made[key]

    yield make
    remove(folder)


@pytest.fixture
def credentials(platform: PlatformUnderTest, _files: Callable[[str, str, str], Path]) -> Credentials:
    def make(tenant: str, scope: str = EVERY_SCOPE, name: str = "one") -> Path:
        return _files(tenant, scope, name)

    return make


def _end(one: PlatformUnderTest) -> None:
    if one.process is not None and one.process.poll() is None:
        try:
            one.stop()
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
    remove(one.data.parent)
