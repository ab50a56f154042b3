"""What a platform remembers and tells about itself in `platform.json`: ports and names, nothing secret.

The ports stay what they were at the first start, because the public URL is in every client's settings and in every token.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

import msgspec

from tallystick.local.layout import Layout, LayoutError
from tallystick.local.parts.process import write_private

DEFAULT_PORT: Final = 8443
TRUST_DOMAIN: Final = "tallystick.local"


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    port: int
    """The edge, on loopback."""
    ops_port: int
    """Metrics and their discovery, on loopback."""
    nats_port: int
    host: str = "localhost"
    trust_domain: str = TRUST_DOMAIN
    replicas: dict[str, int] = {}
    """What `--replicas` asked for, by service; others have the charter's minimum."""

    @property
    def url(self) -> str:
        """The edge's origin: what clients call, and what DPoP proofs are made for."""
        return f"https://{self.host}" + ("" if self.port == 443 else f":{self.port}")


def read(layout: Layout) -> State | None:
    """The platform's state, or None when it was never started here. Raises LayoutError when the file is damaged."""
    try:
        return msgspec.json.decode(layout.state.read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise LayoutError(f"{layout.state} is damaged ({error}): correct or delete it; it only holds ports") from error


def write(layout: Layout, state: State) -> None:
    write_private(layout.state, msgspec.json.format(msgspec.json.encode(state)).decode() + "\n")


def plan(previous: State | None, port: int | None, ops_port: int | None, replicas: dict[str, int] | None) -> State:
    """The state of the next start: what is asked for, else what was, else the defaults. Pure."""
    edge = port or (previous.port if previous else DEFAULT_PORT)
    moved = previous is None or previous.port != edge
    ops = ops_port or (edge + 1 if moved or previous is None else previous.ops_port)
    bus = edge + 2 if moved or previous is None else previous.nats_port
    if bus == ops:
        bus += 1
    return State(
        port=edge,
        ops_port=ops,
        nats_port=bus,
        replicas=replicas if replicas is not None else (previous.replicas if previous else {}),
    )


class Lock:
    """One supervisor per data directory. The kernel releases it when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """False when another process holds it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
