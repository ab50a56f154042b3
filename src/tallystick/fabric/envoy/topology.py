"""An installation's sockets, ports and names of workloads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

#: Bytes. `sun_path` has 108, with the terminating zero. It is checked here because Envoy's error for a longer path does not name it.
MAX_SOCKET_PATH = 103


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """What the charters can't know. Paths are absolute."""

    trust_domain: str
    public_port: int
    mtls_port: int
    """The edge's port for clients with a certificate (RFC 8705)."""
    mesh_dir: Path
    """A caller connects to `<mesh_dir>/<caller>/<target>.sock`; to `<mesh_dir>/in/<target>.sock` only Envoy itself does."""
    ads_socket: Path
    admin_socket: Path
    collector_socket: Path
    """OTLP/HTTP over a Unix socket."""
    replicas: Mapping[str, tuple[Path, ...]] = {}
    """The sockets of each service's replicas. For a service without any, Envoy answers 503."""
    namespace: str = "tallystick"
    public_address: str = "127.0.0.1"
    node: str = "tallystick-edge"
    trace_percent: float = 1.0
    """Percentage of requests whose trace is recorded; the runtime key `tracing.random_sampling` overrides it."""
    max_public_connections: int = 4096
    runtime: Mapping[str, int | float | bool] = {}

    def spiffe(self, service: str) -> str:
        """The identity of a service: the URI SAN of its certificate, in the form that Istio issues as well."""
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{service}"

    def outbound(self, caller: str, target: str) -> Path:
        return short(self.mesh_dir / caller / f"{target}.sock")

    def inbound(self, target: str) -> Path:
        return short(self.mesh_dir / "in" / f"{target}.sock")


def short(path: Path) -> Path:
    """The path itself. Raises ValueError if it is too long for a Unix socket."""
    if len(str(path).encode()) > MAX_SOCKET_PATH:
        msg = (
            f"{path}: longer than the {MAX_SOCKET_PATH} bytes of a Unix socket's path; choose a shorter data directory"
        )
        raise ValueError(msg)
    return path
