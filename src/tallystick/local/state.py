"""The platform's settings in `platform.json`: ports and names, nothing secret.

The ports stay as they were at the first start, because the public URL is in every client's settings and in every token.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec

from tallystick.local.layout import Layout, LayoutError
from tallystick.local.parts.process import write_private

DEFAULT_PORT: Final = 8443
TRUST_DOMAIN: Final = "tallystick.local"

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Replicas = Annotated[int, msgspec.Meta(ge=1)]


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    port: Port
    """The edge, on loopback."""
    ops_port: Port
    """Metrics and their discovery, on loopback."""
    nats_port: Port
    mtls_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """The edge for clients with a certificate, on loopback. 0 in a file of an older version; `read` then chooses one."""
    host: str = "localhost"
    trust_domain: str = TRUST_DOMAIN
    replicas: dict[str, Replicas] = {}
    """Numbers of replicas set by `--replicas`, by deployment; the others have the charter's minimum."""
    shards: list[str] = []
    """Shards of the ledger added by `--shard`, beside the one at home. They hold books, so they are never removed."""

    @property
    def url(self) -> str:
        """The edge's origin: what clients call, and what DPoP proofs are made for."""
        return _origin(self.host, self.port)

    @property
    def mtls_url(self) -> str:
        """The edge's origin for clients with a certificate."""
        return _origin(self.host, self.mtls_port)


def _origin(host: str, port: int) -> str:
    return f"https://{host}" + ("" if port == 443 else f":{port}")


def read(layout: Layout) -> State | None:
    """The platform's state, or None when it was never started here. Raises LayoutError when the file is damaged."""
    try:
        found = msgspec.json.decode(layout.state.read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        if "unknown field" in str(error):
            raise LayoutError(
                f"{layout.state} has a setting that this version does not know ({error}): if a newer version wrote it, use that version"
            ) from error
        raise LayoutError(
            f"{layout.state} is damaged ({error}): correct it, or delete it and give the next `tallystick up` its ports, replicas "
            "and shards again"
        ) from error
    except OSError as error:
        raise LayoutError(f"can't read {layout.state} ({error.strerror}): it must be a file of this user") from error
    if found.mtls_port:
        return found
    return msgspec.structs.replace(found, mtls_port=_next(found.port + 3, found.ops_port, found.nats_port))


def write(layout: Layout, state: State) -> None:
    write_private(layout.state, msgspec.json.format(msgspec.json.encode(state)).decode() + "\n")


def plan(
    previous: State | None,
    port: int | None,
    ops_port: int | None,
    replicas: dict[str, int] | None,
    shards: Sequence[str] = (),
) -> State:
    """The settings of the next start: those asked for, else the previous ones, else the defaults. Shards are added to the previous ones. Pure."""
    edge = port or (previous.port if previous else DEFAULT_PORT)
    moved = previous is None or previous.port != edge
    ops = ops_port or (edge + 1 if moved or previous is None else previous.ops_port)
    bus = _next(edge + 2 if moved or previous is None else previous.nats_port, ops)
    mtls = _next(edge + 3 if moved or previous is None else previous.mtls_port, ops, bus)
    return State(
        port=edge,
        ops_port=ops,
        nats_port=bus,
        mtls_port=mtls,
        replicas=replicas if replicas is not None else (previous.replicas if previous else {}),
        shards=list(dict.fromkeys([*(previous.shards if previous else ()), *shards])),
    )


def _next(port: int, *taken: int) -> int:
    """The first port from `port` on that is not `taken`."""
    while port in taken:
        port += 1
    return port


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

    @staticmethod
    def held(path: Path) -> bool:
        """Whether some process holds the lock on this file right now."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
