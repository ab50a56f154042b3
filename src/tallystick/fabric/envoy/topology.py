"""Where one installation keeps its sockets, and what its workloads are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

#: `sun_path` has 108 bytes, one for the zero; Envoy's error for a longer one names no path.
MAX_SOCKET_PATH = 103


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """What the charters can't know. Paths are absolute."""

    trust_domain: str
    public_port: int
    mtls_port: int
    """The same edge for clients that come with a certificate (RFC 8705)."""
    mesh_dir: Path
    """`<mesh_dir>/<caller>/<target>.sock` is written by the caller, `<mesh_dir>/in/<target>.sock` only by Envoy."""
    ads_socket: Path
    admin_socket: Path
    collector_socket: Path
    """OTLP/HTTP over a Unix socket."""
    replicas: Mapping[str, tuple[Path, ...]] = {}
    """Each service's replicas' sockets; a service without one answers 503."""
    namespace: str = "tallystick"
    public_address: str = "127.0.0.1"
    node: str = "tallystick-edge"
    trace_percent: float = 1.0
    """Share of requests whose trace is recorded; the runtime key `tracing.random_sampling` overrides it."""
    max_public_connections: int = 4096
    runtime: Mapping[str, int | float | bool] = {}

    def spiffe(self, service: str) -> str:
        """The identity of a service: the URI SAN of its certificate, of the form that Istio issues too."""
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{service}"

    def outbound(self, caller: str, target: str) -> Path:
        return short(self.mesh_dir / caller / f"{target}.sock")

    def inbound(self, target: str) -> Path:
        return short(self.mesh_dir / "in" / f"{target}.sock")


def short(path: Path) -> Path:
    """The path, if a Unix socket can have it."""
    if len(str(path).encode()) > MAX_SOCKET_PATH:
        msg = (
            f"{path}: longer than the {MAX_SOCKET_PATH} bytes of a Unix socket's path; choose a shorter data directory"
        )
        raise ValueError(msg)
    return path
