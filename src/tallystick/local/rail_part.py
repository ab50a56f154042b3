"""The sandbox card rail as a part of the platform."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from tallystick.local.parts.envoy import unix_http
from tallystick.local.parts.process import Child
from tallystick.local.program import installed_version


class RailPart:
    """`python -m tallystick.local.rail`: plays the acquirer on the Unix socket `socket`, remembers in the file `data`."""

    name: Final = "rail"

    def __init__(self, socket: Path, data: Path, log: Path) -> None:
        self.socket = socket
        self._child = Child(
            self.name,
            [sys.executable, "-I", "-m", "tallystick.local.rail", "--socket", str(socket), "--data", str(data)],
            log=log,
            stop_within=5.0,
        )

    @property
    def version(self) -> str:
        return installed_version()

    @property
    def pid(self) -> int | None:
        return self._child.pid

    async def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        await self._child.start()
        await self._child.until_ready(self.ready, within=30.0, every=0.05)

    async def ready(self) -> bool:
        """True when it answers; which status doesn't matter, asking costs it nothing."""
        try:
            await unix_http(self.socket, "GET", "/disputes?after=0&limit=1", timeout=2.0)
        except (OSError, TimeoutError, ValueError):
            return False
        return self._child.running

    async def stop(self) -> None:
        await self._child.stop()
        self.socket.unlink(missing_ok=True)

    async def exited(self) -> int:
        return await self._child.wait()
