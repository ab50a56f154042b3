"""The operator's own calls to services of the running platform: `tallystick tenant create` and others like it.

They go the way of every inner call, through the proxy with an identity of their own; what the operator may do is in each service's
charter. The socket is the proof of who it is: only the platform's user can open it.
"""

from __future__ import annotations

from tallystick.chassis.call import Client
from tallystick.chassis.charter import OPERATOR, OPERATOR_TIMEOUT_MS
from tallystick.local import control
from tallystick.local.layout import Layout


async def client(layout: Layout, target: str) -> Client:
    """A client for the operator's calls to `target`; close it at the end. Raises `control.NotRunning`."""
    await control.ask(layout, control.GetStatus(), control.Status)
    socket = layout.mesh / OPERATOR / f"{target}.sock"
    return Client(socket, target, timeout=OPERATOR_TIMEOUT_MS / 1000, retries=2)
