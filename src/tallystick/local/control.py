"""How commands talk to the running supervisor: one JSON document per line over a Unix socket of mode 0600.

A request is a `Request`, answered by one line: a `Status`, a `Done` or a `Refused`. `Down` is answered when everything has stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from tallystick.local.layout import Layout

LIMIT: Final = 1 << 20


class GetStatus(msgspec.Struct, frozen=True, tag="status", forbid_unknown_fields=True):
    pass


class Down(msgspec.Struct, frozen=True, tag="down", forbid_unknown_fields=True):
    pass


class WaitReady(msgspec.Struct, frozen=True, tag="wait-ready", forbid_unknown_fields=True):
    """Answered by a `Status` once the platform is ready, or by `Refused` when it can't start."""


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    version: str = ""
    """Empty from an older supervisor, which does not send it."""
    pid: int | None
    ready: bool
    phase: str
    restarts: int
    started_at: str | None
    error: str | None


class PartStatus(ProcessStatus, frozen=True, kw_only=True):
    name: str


class ReplicaStatus(ProcessStatus, frozen=True, kw_only=True):
    memory_mib: int | None = None
    """Its resident memory; None if it does not run, or from an older supervisor."""
    socket: str
    """The path that it listens on, for the operator's own calls."""


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    memory_mib: int | None = None
    """The memory that the charter plans for a replica; None from an older supervisor."""
    replicas: list[ReplicaStatus]


class Status(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    edge: str
    mtls: str
    """The same edge, for clients with a certificate."""
    ca: str
    ops: str
    data: str
    program: str = ""
    """The running program's version, as of its start; empty from an older supervisor, which does not send it."""
    pid: int
    ready: bool
    stopping: bool = False
    """It is stopping, or its start has failed."""
    started_at: str
    parts: list[PartStatus]
    services: list[ServiceStatus]
    """Each further shard of a service is listed separately, under the name of its deployment."""
    shards: list[str] = []
    """The shards of the ledger beside the one at home."""
    replicas: dict[str, int] = {}
    """The intended number of replicas of each deployment; `services` lists those that have been started."""
    migrating: dict[str, str] = {}
    """Deployments whose database is being migrated, if that takes longer than a moment, and the migration under way."""
    rejections: list[str]
    """Envoy's errors about its present configuration; empty on a sound installation."""


class Done(msgspec.Struct, frozen=True, tag="done"):
    pass


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    reason: str


Request = GetStatus | Down | WaitReady
Answer = Status | Done | Refused
Handler = Callable[[Request], Awaitable[Answer]]

_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)

A = TypeVar("A")


class NotRunning(Exception):
    """No platform runs on this data directory."""

    def __init__(self, data: Path) -> None:
        super().__init__(f"the platform isn't running on {data}; start it with `tallystick up`")


class ControlFailed(Exception):
    """The supervisor refused, did not answer in time, or sent an answer that can't be read."""


class ControlServer:
    def __init__(self, socket: Path, handle: Handler) -> None:
        self._socket = socket
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._socket), limit=LIMIT)
        self._socket.chmod(0o600)  # its directory is 0700, so nobody could connect before this line either

    async def stop(self) -> None:
        """Answer the requests under way, for at most 2 s, then close."""
        if self._server is None:
            return
        self._server.close()
        self._socket.unlink(missing_ok=True)
        if self._connections:
            await asyncio.wait(self._connections, timeout=2)
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            line = await asyncio.wait_for(reader.readline(), 10)
            if not line:
                return
            try:
                answer = await self._handle(_requests.decode(line))
            except msgspec.DecodeError as error:
                answer = Refused(f"not a request: {error}")
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()
        except (OSError, TimeoutError, ValueError):
            return  # the command has gone away or sent half a line: there is nobody to answer
        finally:
            writer.close()


async def ask(layout: Layout, request: Request, kind: type[A], timeout: float = 10.0) -> A:
    """Send one request; the answer must be a `kind`. Raises NotRunning, ControlFailed."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(str(layout.control), limit=LIMIT)
            try:
                writer.write(msgspec.json.encode(request) + b"\n")
                await writer.drain()
                line = await reader.readline()
            finally:
                writer.close()
    except (FileNotFoundError, ConnectionError) as error:
        raise NotRunning(layout.data) from error
    except TimeoutError as error:
        raise ControlFailed(f"the supervisor did not answer within {timeout:g} s") from error
    except OSError as error:
        raise ControlFailed(f"can't connect to the supervisor at {layout.control}: {error.strerror}") from error
    except ValueError as error:  # a line without an end
        raise ControlFailed("the supervisor's answer is too long") from error
    if not line:
        raise NotRunning(layout.data)
    try:
        answer = _answers.decode(line)
    except msgspec.DecodeError as error:
        raise ControlFailed(
            f"can't read the supervisor's answer ({error}); if it is of another version, stop it with the program that started it"
        ) from error
    if isinstance(answer, kind):
        return answer
    raise ControlFailed(answer.reason if isinstance(answer, Refused) else f"unexpected answer {type(answer).__name__}")
