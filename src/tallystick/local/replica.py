"""A replica of a service as a child process: `python -m tallystick run SERVICE`, answering on its own Unix socket."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tallystick.kernel.deployment import service_of
from tallystick.local.parts.envoy import unix_http
from tallystick.local.parts.process import Child
from tallystick.local.program import installed_version

READY_WITHIN: Final = 60.0


class Replica:
    """One process of a service, or of a shard of it. `environment` is all that it is told; it holds paths, never secrets.

    It is given `drain_seconds` and a little more to end its requests after SIGTERM.
    """

    def __init__(
        self,
        service: str,
        number: int,
        *,
        listen: Path,
        environment: Mapping[str, str],
        log: Path,
        drain_seconds: float = 10.0,
    ) -> None:
        self.service = service
        self.number = number
        self.name = f"{service}-{number}"
        self.listen = listen
        self._child = Child(
            self.name,
            # -I: no variables of Python's own, no current folder on the path
            [sys.executable, "-I", "-m", "tallystick", "run", service_of(service)],
            log=log,
            environment={**environment, "MALLOC_ARENA_MAX": "2"},  # a heap per thread would cost memory for nothing
            stop_within=drain_seconds + 5.0,
        )

    @property
    def version(self) -> str:
        return installed_version()

    @property
    def pid(self) -> int | None:
        return self._child.pid

    async def start(self) -> None:
        self.listen.unlink(missing_ok=True)
        await self._child.start()
        await self._child.until_ready(self.ready, within=READY_WITHIN, every=0.05)

    async def ready(self) -> bool:
        return await self._says_yes("/health/ready")

    async def alive(self) -> bool:
        """Whether it answers at all; a replica may be alive and not ready while something that it needs is away."""
        return await self._says_yes("/health/live")

    def kill(self, number: signal.Signals) -> bool:
        return self._child.send(number)

    async def stop(self) -> None:
        await self._child.stop()
        self.listen.unlink(missing_ok=True)

    async def exited(self) -> int:
        return await self._child.wait()

    async def _says_yes(self, path: str) -> bool:
        if not self._child.running:
            return False
        try:
            return (await unix_http(self.listen, "GET", path, timeout=2.0))[0] == 200
        except (OSError, TimeoutError, ValueError):
            return False
