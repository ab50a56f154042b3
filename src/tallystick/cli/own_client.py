"""The credentials that commands use. Those in the data directory get the platform's current addresses, not the ones stored in the file.

Commands that use the edge as any client does (demo, replay, bench, ledger) have a client of their own. It is registered on first use, and
its key is in `secrets/clients/NAME.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tallystick.chassis.exclusive import exclusive
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
    with exclusive(directory):  # of two commands at once the second finds the first one's client
        if not file.exists():
            register(common, edge, Registration(TENANT, name, scope, bind), file)
    return Credentials.load(file).at(edge.edge, edge.mtls, common.layout.ca)


def chosen_client(common: Common, file: Path | None) -> Credentials:
    """The credentials in `file`, or of the only client that was registered here. Raises NotRunning, Failed."""
    from tallystick.cli.credentials import Credentials

    file = file or default_file(common.layout)
    found = Credentials.load(file)
    if file.resolve().parent != common.layout.data / "clients":
        return found  # it may belong to another platform
    edge = running(common)
    return found.at(edge.edge, edge.mtls, common.layout.ca)
