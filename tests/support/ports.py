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
#: Ports that a process takes at a time.
_BLOCK: Final = 256
#: A name for each block that this process has, in the namespace of Unix sockets that has no files: it is free again when the process has ended.
_held: Final[list[socket.socket]] = []


def blocks() -> Iterator[range]:
    """Those outside of the kernel's range, and then, since some machines' takes them all, those in it."""
    try:
        low, high = map(int, _RANGE.read_text().split())
    except OSError:  # a kernel that does not say
        low, high = 0, 0
    every = [range(start, start + _BLOCK) for start in range(20_000, 65_000, _BLOCK)]
    yield from (block for block in every if block.start > high or block.stop <= low)
    yield from (block for block in every if block.start <= high and block.stop > low)


def _own() -> Iterator[int]:
    for block in blocks():
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0tallystick-test-ports-{block.start}")
        except OSError:
            name.close()
            continue
        _held.append(name)
        yield from block
    raise AssertionError("all ports are taken")


_ports: Final = _own()


def free_ports(count: int) -> int:
    """The first of so many free ports in a row, given out once."""
    row: list[int] = []
    while len(row) < count:
        port = next(_ports)
        row = row if row and row[-1] == port - 1 else []
        if why_not(port):
            row = []
        else:
            row.append(port)
    return row[0]


def free_port() -> int:
    return free_ports(1)
