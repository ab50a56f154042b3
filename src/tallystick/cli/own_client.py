"""Clients whose credentials are in the data directory: they go where that platform is now, whatever it was when they were written.

Commands that act at the edge as any client would (demo, replay, bench, ledger) have one of their own: its key is in
`secrets/clients/NAME.json`, made the first time and used again afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.cli.client import Binding, Registration, default_file, register, running
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
    return Credentials.load(file).at(edge.edge, edge.mtls, common.layout.ca)


def only_client(common: Common) -> Credentials:
    """The credentials of the only client that was registered here for others. Raises NotRunning, Failed."""
    from tallystick.cli.credentials import Credentials

    found = Credentials.load(default_file(common.layout))
    edge = running(common)
    return found.at(edge.edge, edge.mtls, common.layout.ca)
