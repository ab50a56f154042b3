"""The ports of a platform, all on loopback: what each is for, which option changes it, and whether it is available."""

from __future__ import annotations

import socket
import time
from typing import NamedTuple

from tallystick.local.state import State


class Port(NamedTuple):
    number: int
    what: str
    option: str


def ports(state: State) -> list[Port]:
    return [
        Port(state.port, "edge", "--port"),
        Port(state.mtls_port, "edge, mutual TLS", "--port"),
        Port(state.ops_port, "metrics", "--ops-port"),
        Port(state.nats_port, "bus", "--port"),
    ]


def why_not(number: int, within: float = 0.0) -> str:
    """Why the port is not available; empty if it is, or becomes so `within` these seconds. (A platform that was killed frees its ports soon.)"""
    ending = time.monotonic() + within
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except PermissionError as error:
                return str(error.strerror)
            except OSError as error:
                if time.monotonic() >= ending:
                    return str(error.strerror)
            else:
                return ""
        time.sleep(0.05)
