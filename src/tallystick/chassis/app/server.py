"""uvicorn on a Unix socket, without its own handling of signals, logs and periodic ticks.

The socket file has mode 0600 from the start, because whoever can open it can claim to be any peer of the mesh.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

#: Longer than any proxy keeps an idle connection: it must be the proxy that closes it, or a request could meet a closing connection.
KEEP_ALIVE_SECONDS = 600
#: The kernel's limit: `sun_path` without its terminating zero.
MAX_PATH_BYTES = 107


class Server(uvicorn.Server):
    """`serve()` runs until `stop()`. Then it accepts no new connections, and requests in flight may take `drain_seconds` to end."""

    def __init__(self, app: Any, listen: Path, *, drain_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                uds=str(listen),
                http="httptools",
                loop="none",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=math.ceil(drain_seconds),
                backlog=4096,
            )
        )
        self._listen = listen
        self._stopping = asyncio.Event()
        self.listening = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        _reserve(self._listen)
        await super().startup(sockets)
        self._inode = self._listen.stat().st_ino
        self.listening.set()

    async def main_loop(self) -> None:
        # uvicorn's own loop wakes up ten times a second, for a date header that we do not send.
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # A successor may already have its own socket at this path.
        with contextlib.suppress(FileNotFoundError):
            if self._listen.stat().st_ino == self._inode:
                self._listen.unlink()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # `Process` handles signals and sets the exit status.
        yield


def _reserve(path: Path) -> None:
    """Create a socket file of mode 0600 at `path`: uvicorn keeps the mode of the file that it replaces."""
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        msg = f"the path of a Unix socket has at most {MAX_PATH_BYTES} bytes: {path}"
        raise ValueError(msg)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as placeholder:
        placeholder.bind(str(path))
    path.chmod(0o600)
