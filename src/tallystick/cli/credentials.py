"""A client's credentials file, and the DPoP proofs (RFC 9449) and client assertions (RFC 7523) made with its key."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import ssl
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tallystick.cli.failure import USAGE, Failed

_ECDSA: Final = ec.ECDSA(hashes.SHA256())


class CredentialsError(Failed):
    """The credentials file is unusable. The message says why and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message, USAGE)


class Credentials(msgspec.Struct, frozen=True):
    """The file that `tallystick client create` writes. `ca` is the path of the CA's PEM file; `api` and `issuer` are origins.

    If there is a `tls_client_certificate` (PEM, with its key), tokens are bound to it (RFC 8705), and `api` is the edge's mutual TLS origin.
    """

    client_id: str
    tenant: str
    issuer: str
    api: str
    scope: str
    private_key_jwk: dict[str, Any]
    ca: str
    tls_client_certificate: str | None = None
    tls_client_key: str | None = None

    def __repr__(self) -> str:  # without the keys
        return f"<credentials of {self.client_id}>"

    @property
    def certificate_bound(self) -> bool:
        return self.tls_client_certificate is not None

    @classmethod
    def load(cls, path: Path) -> Credentials:
        """Read a credentials file. It holds a private key, so it is refused if other users can read it. Raises CredentialsError."""
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & 0o077:
                    raise CredentialsError(f"{path} is open to other users (mode {mode:o}); run `chmod 600 {path}`")
                return msgspec.json.decode(file.read(64 * 1024), type=cls)
        except OSError as error:
            raise CredentialsError(f"can't read {path}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError):
            # The decoder's message and cause may quote the file, so they are dropped.
            raise CredentialsError(f"{path} is not a credentials file; `tallystick client create` writes one") from None

    def at(self, edge: str, mtls: str, ca: Path) -> Credentials:
        """The same client with the platform's current addresses: ports or directory may have changed since the file was written."""
        return msgspec.structs.replace(self, issuer=edge, api=mtls if self.certificate_bound else edge, ca=str(ca))

    def key(self) -> ec.EllipticCurvePrivateKey:
        """The private key. Raises CredentialsError."""
        jwk = self.private_key_jwk
        try:
            if (jwk["kty"], jwk["crv"]) != ("EC", "P-256"):
                raise CredentialsError("the private key isn't an EC key on P-256")
            private, x, y = (int.from_bytes(_unb64(jwk[name])) for name in ("d", "x", "y"))
            public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1())
            return ec.EllipticCurvePrivateNumbers(private, public).private_key()
        except (KeyError, ValueError, TypeError, AttributeError):
            raise CredentialsError("the private key is not a valid JWK") from None

    def tls(self) -> ssl.SSLContext:
        """TLS 1.3 with the CA and, if there is one, the certificate. Raises CredentialsError."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or "it holds no certificates"
            raise CredentialsError(f"can't use the CA file {self.ca} named in the credentials: {reason}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.tls_client_certificate is not None:
            pem = f"{self.tls_client_certificate}\n{self.tls_client_key or ''}\n"
            # OpenSSL reads it from a file only, so it gets an anonymous one in memory.
            with os.fdopen(os.memfd_create("certificate"), "wb") as file:
                file.write(pem.encode())
                file.flush()
                try:
                    context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
                except ssl.SSLError:
                    raise CredentialsError("the client certificate and its key do not belong together") from None
        return context


class Signer:
    """A P-256 key, and the proofs and assertions signed with it. Without a key it makes a new one."""

    def __init__(self, key: ec.EllipticCurvePrivateKey | None = None, kid: str | None = None) -> None:
        self._key = key or ec.generate_private_key(ec.SECP256R1())
        self._kid = kid
        numbers = self._key.public_key().public_numbers()
        self._jwk = {"kty": "EC", "crv": "P-256", "x": _b64(numbers.x.to_bytes(32)), "y": _b64(numbers.y.to_bytes(32))}
        self._proof_header = self._header("dpop+jwt")

    def proof(self, method: str, url: str, token: str | None = None) -> str:
        """A DPoP proof for one request to `url`, which has no query; bound to `token` if that is given."""
        claims: dict[str, Any] = {"jti": secrets.token_urlsafe(16), "htm": method, "htu": url, "iat": int(time.time())}
        if token is not None:
            claims["ath"] = _b64(hashlib.sha256(token.encode()).digest())
        return self.sign_claims(_json(claims))

    def sign_claims(self, claims: bytes) -> str:
        """A DPoP proof with these claims, already encoded: for load generators, which make thousands a second."""
        return self._sign(f"{self._proof_header}.{_b64(claims)}")

    def statement(self, typ: str, said: Mapping[str, Any]) -> str:
        """A signed statement: a compact JWS of this type, with the public key in its header."""
        return self._sign(f"{self._header(typ)}.{_b64(_json(said))}")

    def assertion(self, client_id: str, issuer: str) -> str:
        """A client assertion for one token request, valid for 60 s. Its only audience is the issuer (FAPI 2.0, 5.3.2.1)."""
        now = int(time.time())
        header = {"typ": "client-authentication+jwt", "alg": "ES256", "kid": self._kid}
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": issuer,
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + 60,
        }
        return self._sign(f"{_b64(_json(header))}.{_b64(_json(claims))}")

    def _header(self, typ: str) -> str:
        return _b64(_json({"typ": typ, "alg": "ES256", "jwk": self._jwk}))

    def _sign(self, text: str) -> str:
        r, s = decode_dss_signature(self._key.sign(text.encode(), _ECDSA))
        return f"{text}.{_b64(r.to_bytes(32) + s.to_bytes(32))}"


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
