"""Ports that stay free until whoever asked for them listens there.

The kernel gives out any of a range of ports to whoever asks for some port, and to whoever connects to somewhere: what was free in that range a moment
ago, another process may have now. These are outside of it, and no two test processes of a machine get the same one.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tallystick.local.ports import why_not

_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
#: A name for each port that was given, in the namespace of Unix sockets that has no files: it is free again when this process has ended.
_held: dict[int, socket.socket] = {}


def candidates() -> Iterator[int]:
    """Those outside of the kernel's range, and then, since some machines' takes them all, those in it."""
    try:
        low, high = map(int, _RANGE.read_text().split())
    except OSError:  # a kernel that does not say
        low, high = 0, 0
    every = range(20_000, 65_000)
    yield from (port for port in every if not low <= port <= high)
    yield from (port for port in every if low <= port <= high)


def free_ports(count: int) -> int:
    """The first of so many free ports in a row, this process' own until it ends."""
    row: list[int] = []
    for port in candidates():
        row = row if row and row[-1] == port - 1 else []
        if _take(port):
            row.append(port)
            if len(row) == count:
                return row[0]
    raise AssertionError(f"no {count} ports in a row are free")


def free_port() -> int:
    return free_ports(1)


def _take(port: int) -> bool:
    if port in _held:
        return False
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0tallystick-test-port-{port}")
    except OSError:
        name.close()
        return False
    _held[port] = name
    return not why_not(port)
