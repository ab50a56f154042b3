"""`tallystick run SERVICE`: one process of one service, as the supervisor or a cluster starts it."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

from cyclopts import Parameter

from tallystick.chassis import app


def run_service(service: str) -> int:
    """Run until SIGTERM; return the exit status. Settings come from the environment, see docs/explanation/chassis.md."""
    module = f"tallystick.services.{service}.app"
    if not service.isidentifier() or find_spec("tallystick.services." + service) is None or find_spec(module) is None:
        print(f"tallystick: there is no service {service!r}", file=sys.stderr)
        return 2
    return app.run(service, import_module(module).wire)


def run(service: Annotated[str, Parameter(help="its name, such as `ledger`")], /) -> int:
    """Run one process of a service, as the supervisor does. Its settings come from environment variables; it has no options."""
    return run_service(service)
