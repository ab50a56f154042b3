"""The internal certificate authority: a sealed root, an intermediate in memory, leaves that live for an hour.

* **Root** (P-256, 1 year): its key lies encrypted in `secrets/authority.json` under the root key of the key hierarchy, and is opened only
  to sign an intermediate. It is name-constrained to `localhost` and the trust domain: whoever adds `ca.pem` to a browser trusts us for
  nothing else.
* **Intermediate** (P-256, 30 days at most): made at each start, its key never leaves this process.
* **Leaves** (P-256, 1 hour): a service's has one URI SAN, its SPIFFE ID, and nothing else; the edge's has the host's names.

Rollover needs no moment at which both sides must change at once: a new root is trusted (`ANNOUNCE` before the old one ends) long before
anything is issued under it (`SWITCH`), and the old one is trusted until it ends.
"""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tallystick.chassis.keys.root import Root
from tallystick.chassis.keys.xaes import Xaes
from tallystick.kernel.clock import Clock
from tallystick.local.parts.process import write_private

ROOT_LIFE: Final = timedelta(days=365)
ANNOUNCE: Final = timedelta(days=90)
SWITCH: Final = timedelta(days=45)
INTERMEDIATE_LIFE: Final = timedelta(days=30)
LEAF_LIFE: Final = timedelta(hours=1)
#: Clocks of other machines may be behind; a certificate that isn't valid yet is the worst kind of outage to find.
BACKDATE: Final = timedelta(minutes=5)
_FORMAT: Final = "tallystick-authority/1"
_CONTEXT: Final = b"tallystick/authority/root-key"


OpenRoot = Callable[[], Awaitable[Root]]


class PkiError(Exception):
    """The authority can't be used; the message says what to do."""


class _SealedRoot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    certificate: str
    wrapped: bytes
    """A random key, wrapped by the root of the key hierarchy."""
    sealed: bytes
    """The private key (PKCS #8) under that random key; the certificate is authenticated with it."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    roots: list[_SealedRoot]


@dataclass(frozen=True, slots=True)
class RootCertificate:
    certificate: x509.Certificate
    sealed: _SealedRoot

    @property
    def begins(self) -> datetime:
        return self.certificate.not_valid_before_utc

    @property
    def ends(self) -> datetime:
        return self.certificate.not_valid_after_utc


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate chain and its key, PEM. The key is for Envoy only and is never written to disk."""

    chain: bytes
    key: bytes
    ends: datetime

    def __repr__(self) -> str:
        return f"Leaf(ends={self.ends.isoformat()})"


@dataclass(frozen=True, slots=True)
class _Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def issuing(ends: Sequence[datetime], now: datetime) -> int | None:
    """Which root signs now, by the roots' ends: the oldest that still has more than `SWITCH`; else the youngest valid one. Pure."""
    valid = [(end, index) for index, end in enumerate(ends) if end > now]
    lasting = [item for item in valid if item[0] - now > SWITCH]
    return min(lasting)[1] if lasting else max(valid)[1] if valid else None


def announce(ends: Sequence[datetime], now: datetime) -> bool:
    """Whether it is time to make the next root. Pure."""
    return all(end - now <= ANNOUNCE for end in ends)


class Authority:
    """Issues certificates. Make one with `await Authority.open(...)`; safe to use from several threads."""

    def __init__(self, path: Path, open_root: OpenRoot, trust_domain: str, hosts: Sequence[str], clock: Clock) -> None:
        self._path = path
        self._open_root = open_root
        self._trust_domain = trust_domain
        self._hosts = tuple(hosts)
        self._clock = clock
        self._roots: list[RootCertificate] = []
        self._issuer: _Issuer | None = None
        self._lock = threading.Lock()

    @classmethod
    async def open(
        cls, path: Path, open_root: OpenRoot, *, trust_domain: str, hosts: Sequence[str], clock: Clock
    ) -> Authority:
        """Reads the authority's file, or makes it; renews what is due.

        `open_root` gives the root of the key hierarchy, which wraps the private key; it is asked for when that key is needed, and let go.

        Raises PkiError (damaged file) and `keys.root.RootError` (sealed under another root key).
        """
        authority = cls(path, open_root, trust_domain, hosts, clock)
        authority._roots = _read(path)
        await authority._rewrap()
        await authority.renew()
        return authority

    async def renew(self) -> None:
        """Makes the next root or intermediate when it is due; the bundle then has another root. Raises OSError, and is as it was."""
        now = self._clock.now()
        alive = [root for root in self._roots if root.ends > now]
        # One of the future was made before the clock was set back: nobody trusts it yet, and it is kept until it is needed.
        begun = [root for root in alive if root.begins <= now]
        due = announce([root.ends for root in begun], now)
        if due:
            begun.append(await self._new_root(now))
            alive.append(begun[-1])
        if due or len(alive) != len(self._roots):
            self._save(alive)
        index = issuing([root.ends for root in begun], now)
        if index is None:
            raise PkiError("no root certificate is valid: is this machine's clock right?")
        await self._renew_issuer(begun[index], now)

    @property
    def bundle(self) -> bytes:
        """All trusted roots, PEM: during a rollover the old and the new one."""
        return b"".join(root.certificate.public_bytes(serialization.Encoding.PEM) for root in self._roots)

    def service(self, spiffe_id: str) -> Leaf:
        """An identity for a workload: for both sides of an inner hop, by its URI only."""
        return self._leaf(
            [x509.UniformResourceIdentifier(spiffe_id)],
            [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH],
        )

    def edge(self) -> Leaf:
        """The certificate of the public listener. It carries no URI, so that it opens no inner door."""
        return self._leaf([_general_name(host) for host in self._hosts], [ExtendedKeyUsageOID.SERVER_AUTH])

    def _leaf(self, names: list[x509.GeneralName], usages: list[x509.ObjectIdentifier]) -> Leaf:
        with self._lock:
            issuer = self._issuer
        if issuer is None:
            raise PkiError("the authority isn't open")
        now = self._clock.now()
        key = ec.generate_private_key(ec.SECP256R1())
        ends = min(now + LEAF_LIFE, issuer.certificate.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))  # a name would be a second place to look for who it is
            .issuer_name(issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)  # RFC 5280 4.2.1.6: the subject is empty
            .add_extension(_authority_id(issuer.key), critical=False)
            .sign(issuer.key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        return Leaf(
            chain=certificate.public_bytes(pem) + issuer.certificate.public_bytes(pem),
            key=key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
            ends=ends,
        )

    async def _new_root(self, now: datetime) -> RootCertificate:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tallystick"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{self._trust_domain} root {os.urandom(4).hex()}"),
            ]
        )
        permitted = [_constraint(host) for host in self._hosts]
        constraints = x509.NameConstraints([*permitted, x509.UniformResourceIdentifier(self._trust_domain)], None)
        certificate = (
            _authority_certificate(name, name, key, now, now + ROOT_LIFE, path_length=1)
            .add_extension(constraints, critical=True)
            .sign(key, hashes.SHA256())
        )
        return RootCertificate(certificate, await self._seal(certificate, key))

    async def _renew_issuer(self, root: RootCertificate, now: datetime) -> None:
        with self._lock:
            issuer = self._issuer
        if issuer is not None and issuer.certificate.issuer == root.certificate.subject:
            left = issuer.certificate.not_valid_after_utc - now
            # One of the future was made before the clock was set back.
            begun = issuer.certificate.not_valid_before_utc <= now
            if begun and (left > INTERMEDIATE_LIFE / 2 or issuer.certificate.not_valid_after_utc == root.ends):
                return
        root_key = await self._unseal(root.sealed)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tallystick"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{self._trust_domain} issuing {os.urandom(4).hex()}"),
            ]
        )
        ends = min(now + INTERMEDIATE_LIFE, root.ends)
        certificate = (
            _authority_certificate(name, root.certificate.subject, key, now, ends, path_length=0)
            .add_extension(_authority_id(root_key), critical=False)
            .sign(root_key, hashes.SHA256())
        )
        with self._lock:
            self._issuer = _Issuer(certificate, key)

    async def _seal(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> _SealedRoot:
        der = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        wrapping = os.urandom(32)
        root = await self._open_root()
        return _SealedRoot(pem, await root.wrap(wrapping, _CONTEXT), Xaes(wrapping).seal(der, pem.encode()))

    async def _unseal(self, sealed: _SealedRoot) -> ec.EllipticCurvePrivateKey:
        root = await self._open_root()
        wrapping = await root.unwrap(sealed.wrapped, _CONTEXT)
        der = bytes(Xaes(wrapping).unseal(sealed.sealed, sealed.certificate.encode()))
        key = serialization.load_der_private_key(der, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise PkiError("the authority's key is of another kind than this version makes")
        return key

    async def _rewrap(self) -> None:
        """After the root key was rotated: so that its old version can be forgotten."""
        root_key = await self._open_root() if self._roots else None
        if root_key is None or all(root_key.is_current(root.sealed.wrapped) for root in self._roots):
            return
        self._save(
            [
                RootCertificate(root.certificate, await self._seal(root.certificate, await self._unseal(root.sealed)))
                for root in self._roots
            ]
        )

    def _save(self, roots: list[RootCertificate]) -> None:
        """They are the roots once they are on disk: one that is not would be gone with this process, with all that it had signed."""
        file = _File(_FORMAT, [root.sealed for root in roots])
        write_private(self._path, msgspec.json.format(msgspec.json.encode(file)).decode() + "\n")
        self._roots = roots


def wrapped_keys(path: Path) -> list[bytes]:
    """What is wrapped by the root key in the authority's file; nothing when there is none. Raises PkiError (damaged file)."""
    return [root.sealed.wrapped for root in _read(path)]


async def check_root(path: Path, root: Root) -> None:
    """Raises RootError if `root` is not the one that this authority's keys are wrapped by, PkiError for a damaged file."""
    for wrapped in wrapped_keys(path):
        await root.unwrap(wrapped, _CONTEXT)


def _read(path: Path) -> list[RootCertificate]:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return []
    except msgspec.DecodeError as error:
        raise PkiError(
            f"{path} is damaged: restore it, or delete it for a new authority (clients need the new ca.pem)"
        ) from error
    if file.format != _FORMAT:
        raise PkiError(f"{path} is of format {file.format}, this version reads {_FORMAT}")
    return [RootCertificate(x509.load_pem_x509_certificate(root.certificate.encode()), root) for root in file.roots]


def _authority_certificate(
    name: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    ends: datetime,
    *,
    path_length: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _authority_id(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _constraint(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_network(host))
    except ValueError:
        return x509.DNSName(host)
