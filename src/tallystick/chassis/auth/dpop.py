"""Proof of possession (RFC 9449, DPoP): the checks of section 4.3. Apart from a cache of keys they are pure.

Replay is checked elsewhere (`replay`), and only after all of these checks have passed: otherwise anybody could fill its store.
An ES256 proof by a cached key costs about 75 us of CPU, 63 of them in OpenSSL (2 slow cores); the whole of `authenticator.edge`,
with its share of a batch to Valkey, about 105 at 64 concurrent requests. The server's nonce (section 8) is not used: an `iat`
within a minute and the `jti` limit what a stolen proof is good for.
"""

import re
from collections import OrderedDict
from typing import Final
from urllib.parse import urlsplit

import msgspec

from tallystick.chassis.auth.jose import Jwk, PublicKey, Refused, encode, parse, public_key, thumbprint, verify
from tallystick.chassis.auth.problems import PROOF_ALGORITHMS

MAX_AGE: Final = 60  # seconds since `iat`
MAX_AHEAD: Final = 10  # seconds that the client's clock may be ahead of ours, as FAPI 2.0, 5.3.2.1, demands
MAX_PROOF: Final = 4096  # characters; an RSA-4096 key takes about 700 of them
MAX_JTI: Final = 256

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
#: Python's URL parser drops line feeds and tabs anywhere, and leading spaces, and so takes what is no address.
_PRINTABLE: Final = re.compile(r"[!-~]+")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
#: Unreserved characters, and the colon: libraries sign one spelling of it and send the other, and `web` reads both as one path.
_UNESCAPED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:")


class Proof(msgspec.Struct, frozen=True):
    """A checked proof. `jkt` is the thumbprint (RFC 7638) of the key that made it, `issued_at` its `iat` in Unix seconds."""

    jkt: str
    jti: str
    issued_at: float


class _Header(msgspec.Struct):
    typ: str
    alg: str
    jwk: Jwk
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Claims(msgspec.Struct):
    jti: str
    htm: str
    htu: str
    iat: int | float
    ath: str | None = None
    nbf: int | float | None = None
    exp: int | float | None = None


_header = msgspec.json.Decoder(_Header)
_claims = msgspec.json.Decoder(_Claims)


class ProofVerifier:
    """Checks proofs. It caches the parsed keys of valid ones (bounded LRU), because a client uses one key for a long time."""

    def __init__(self, *, remembered: int = 4096) -> None:
        self._remembered = remembered
        self._keys: OrderedDict[tuple[str, ...], tuple[PublicKey, str]] = OrderedDict()

    def verify(
        self, proof: str, *, method: str, url: str, now: float, token_hash: bytes | None = None, jkt: str | None = None
    ) -> Proof:
        """Check the proof of a request. Raises Refused.

        `url` is the request's: the configured public origin and the path as sent, without the query. `now` is Unix seconds. For a
        request with an access token, `token_hash` is the token's SHA-256 (claim `ath`) and `jkt` the thumbprint of the key that it
        is bound to; the token endpoint passes neither.
        """
        compact = parse(proof, MAX_PROOF)
        try:
            header = _header.decode(compact.header)
            claims = _claims.decode(compact.payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # the last: nested too deeply
            raise Refused("the proof lacks a member or has one of a wrong type") from error
        if header.typ != "dpop+jwt":
            raise Refused("typ is not dpop+jwt")
        if header.alg not in PROOF_ALGORITHMS:
            raise Refused("alg is not one of those taken here")
        if header.crit is not msgspec.UNSET:
            raise Refused("crit is not taken here")
        jwk = header.jwk
        if jwk.private:
            raise Refused("the key has private members")
        members = (jwk.kty, jwk.crv, jwk.x, jwk.y, jwk.n, jwk.e)
        known = self._keys.get(members)
        made_by = known[1] if known else thumbprint(jwk)
        if jkt is not None and made_by != jkt:
            raise Refused("the proof is by another key than the token is bound to")
        _check_claims(claims, method, url, now, token_hash)
        key = known[0] if known else public_key(jwk)  # last, because parsing a key costs more than the checks before
        verify(header.alg, key, compact)
        if known is None:
            self._keys[members] = (key, made_by)
            if len(self._keys) > self._remembered:
                self._keys.popitem(last=False)
        else:
            self._keys.move_to_end(members)
        return Proof(made_by, claims.jti, claims.iat)


def _check_claims(claims: _Claims, method: str, url: str, now: float, token_hash: bytes | None) -> None:
    if not 1 <= len(claims.jti) <= MAX_JTI:
        raise Refused("jti is empty or too long")
    if claims.htm != method:
        raise Refused("htm is another method")
    if claims.htu != url and normalised(claims.htu) != normalised(url):
        raise Refused("htu is another address")
    if claims.iat > now + MAX_AHEAD or (claims.nbf is not None and claims.nbf > now + MAX_AHEAD):
        raise Refused("the proof is from the future")
    if claims.iat < now - MAX_AGE or (claims.exp is not None and claims.exp <= now):
        raise Refused("the proof is too old")
    if token_hash is not None and claims.ath != encode(token_hash):
        raise Refused("ath is not the hash of the access token")


def normalised(url: str) -> str:
    """An HTTP URL in the normal form that is compared (RFC 3986 sections 6.2.2 and 6.2.3; an escaped colon is a colon), without query
    and fragment, which RFC 9449 section 4.3 says to ignore. Raises Refused for anything that is no HTTP URL.
    """
    if _PRINTABLE.fullmatch(url) is None:
        raise Refused("htu is not an HTTP address")
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError as error:
        raise Refused("htu is not an HTTP address") from error
    if scheme not in _DEFAULT_PORTS or not host or "@" in parts.netloc:
        raise Refused("htu is not an HTTP address")
    if ":" in host:
        host = f"[{host}]"
    if port is not None and port != _DEFAULT_PORTS[scheme]:
        host = f"{host}:{port}"
    return f"{scheme}://{host}{_without_dots(_ESCAPE.sub(_normal_escape, parts.path))}"


def _normal_escape(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in _UNESCAPED else match[0].upper()


def _without_dots(path: str) -> str:
    """Remove dot segments (RFC 3986 section 5.2.4)."""
    out: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            out[-1:] = []
        elif segment != ".":
            out.append(segment)
    if segments and segments[-1] in {".", ".."}:
        out.append("")
    return "/" + "/".join(out)
