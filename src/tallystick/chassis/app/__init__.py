"""A service as a process: what it is given (`Runtime`), what it says of itself (`Wiring`), and how it runs and stops."""

from tallystick.chassis.app.process import run, serve
from tallystick.chassis.app.runtime import NotOpened, Runtime, Schedule, Wiring

__all__ = ["NotOpened", "Runtime", "Schedule", "Wiring", "run", "serve"]
