"""A client of the platform's own, for commands that act at the edge as any client would: demo, replay, bench.

Its key is in `secrets/clients/NAME.json` of the data directory, made the first time and used again afterwards.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tallystick.cli.administration import administer
from tallystick.cli.client import fresh_key, new_file
from tallystick.cli.output import Common
from tallystick.local import control

if TYPE_CHECKING:
    from tallystick.cli.apiclient import Credentials

TENANT = "default"


def own_client(common: Common, name: str, scope: str) -> Credentials:
    """The credentials of the client `name` of the default tenant. Raises NotRunning, Failed."""
    from tallystick.cli.apiclient import Credentials
    from tallystick.contracts.identity.messages import PublicJwks

    edge = asyncio.run(control.ask(common.layout, control.GetStatus(), control.Status)).edge
    directory = common.layout.secrets / "clients"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = directory / f"{name}.json"
    if not file.exists():
        private, public = fresh_key()
        with new_file(file) as write:
            made = administer(
                common, lambda identity: identity.create_client(TENANT, name, scope, PublicJwks(keys=[public]))
            )
            write(
                {
                    "client_id": made.client_id,
                    "tenant": made.tenant,
                    "issuer": edge,
                    "api": edge,
                    "scope": made.scope,
                    "private_key_jwk": private,
                    "ca": str(common.layout.ca),
                }
            )
    return Credentials.load(file)
