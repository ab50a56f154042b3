"""What `up` shows while the platform starts and runs: a live list on a terminal, else plain lines."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

from tallystick.cli.output import Common, console, emit
from tallystick.cli.terminal import unheard

if TYPE_CHECKING:
    from rich.live import Live

    from tallystick.local.control import Status
    from tallystick.local.platform import Platform


class UpProgress(Protocol):
    def process(self, name: str, phase: str, detail: str) -> None: ...
    def ready(self, platform: Platform, seconds: float) -> None: ...
    def status(self, found: Status) -> None: ...
    def announce(self, found: Status, seconds: float) -> None: ...
    def stopping(self) -> None: ...
    def close(self) -> None: ...


def reached(found: Status) -> dict[str, object]:
    """How to reach a platform, for programs: the same fields whether this command started it or it was already running."""
    return {
        "ready": found.ready,
        "edge": found.edge,
        "mtls": found.mtls,
        "ca": found.ca,
        "ops": found.ops,
        "pid": found.pid,
    }


def addresses(found: Status) -> list[str]:
    """How to reach a platform, for people. One line each, so that none is wider than a terminal."""
    return [
        f"API      {found.edge}",
        f"mTLS     {found.mtls}",
        f"CA file  {found.ca}",
        f"metrics  {found.ops}/sd",
    ]


def progress_for(common: Common) -> UpProgress:
    stream = sys.stderr if common.json else sys.stdout
    return LiveProgress(common) if stream.isatty() else LineProgress(common)


class LineProgress:
    """`postgres ready 1.2 s`: one line per change, for logs and pipes."""

    def __init__(self, common: Common) -> None:
        self._common = common
        self._began = time.monotonic()
        self._phases: dict[str, str] = {}

    def process(self, name: str, phase: str, detail: str) -> None:
        if self._phases.get(name) == phase or phase in {"waiting", "stopping", "stopped"}:
            return  # `stopping` is printed once for the whole platform
        self._phases[name] = phase
        first = detail.splitlines()[0].rstrip(":") if detail and phase != "ready" else ""
        self._say(f"{name} {phase} {time.monotonic() - self._began:.1f} s{': ' + first if first else ''}")

    def status(self, found: Status) -> None:
        for part in found.parts:
            self.process(part.name, part.phase, part.error or "")
        for name, file in found.migrating.items():
            self.process(name, "migrating", file)
        for service in found.services:
            for number, replica in enumerate(service.replicas):
                self.process(f"{service.name}-{number}", replica.phase, replica.error or "")

    def ready(self, platform: Platform, seconds: float) -> None:
        self.announce(platform.status(), seconds)

    def announce(self, found: Status, seconds: float) -> None:
        if self._common.json:
            emit({"already_running": False, **reached(found), "seconds": round(seconds, 2)}, self._common)
            sys.stdout.flush()
            return
        self._say(f"ready in {seconds:.1f} s")
        for line in addresses(found):
            self._say(line)

    def stopping(self) -> None:
        self._say("stopping")

    def close(self) -> None:
        pass

    def _say(self, text: str) -> None:
        with unheard():
            print(text, file=sys.stderr if self._common.json else sys.stdout, flush=True)


class LiveProgress(LineProgress):
    """A list that is redrawn in place until everything is ready. Later changes are printed as lines."""

    def __init__(self, common: Common) -> None:
        super().__init__(common)
        self._live: Live | None = None
        self._at: dict[str, float] = {}
        self._started = False

    def process(self, name: str, phase: str, detail: str) -> None:
        if self._started or phase == "error":
            super().process(name, phase, detail)
            return
        if self._phases.get(name) != phase:
            self._phases[name] = phase
            self._at[name] = time.monotonic() - self._began
        self._draw()

    def announce(self, found: Status, seconds: float) -> None:
        self._end_live()
        super().announce(found, seconds)

    def stopping(self) -> None:
        self._end_live()
        super().stopping()

    def close(self) -> None:
        self._end_live()

    def _end_live(self) -> None:
        self._started = True
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        from rich.live import Live
        from rich.text import Text

        colours = {"ready": "green", "starting": "yellow", "restarting": "red", "waiting": "dim"}
        lines = Text()
        for name, phase in self._phases.items():
            mark = "✓" if phase == "ready" else "…"
            lines.append(f" {mark} {name:<14} {phase:<11} {self._at[name]:5.1f} s\n", style=colours.get(phase, ""))
        if self._live is None:
            self._live = Live(lines, console=console(error=self._common.json), refresh_per_second=10)
            self._live.start()
        else:
            self._live.update(lines)
