"""A client of the platform's own, for commands that act at the edge as any client would: demo, replay, bench.

Its key is in `secrets/clients/NAME.json` of the data directory, made the first time and used again afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.cli.client import Binding, Registration, register, running
from tallystick.cli.output import Common

if TYPE_CHECKING:
    from tallystick.cli.credentials import Credentials

TENANT = "default"


def own_client(common: Common, name: str, scope: str, bind: Binding = "dpop") -> Credentials:
    """The credentials of the client `name` of the default tenant. Raises NotRunning, Failed."""
    from tallystick.cli.credentials import Credentials

    edge = running(common)
    directory = common.layout.secrets / "clients"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = directory / f"{name}.json"
    if not file.exists():
        register(common, edge, Registration(TENANT, name, scope, bind), file)
    return Credentials.load(file)
