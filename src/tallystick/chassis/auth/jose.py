"""JWS compact serialisation and JWK public keys: the small part that we need (RFC 7515, 7517, 7518, 7638, 8037, 8725).

Why not a JOSE library on this path: verification by one costs twice what `cryptography` alone does, and its defaults
(algorithm lists, `typ` not checked, private keys accepted silently) would each have to be switched off. A token can't ask for what
isn't implemented here: no `jku`, no `x5u`, no `none`, no HMAC, no nesting, no compression, no `crit`.

A signature never identifies anything: anybody can change a valid ECDSA signature into another valid one.
"""

import base64
import binascii
import hashlib
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_ECDSA: Final = ec.ECDSA(hashes.SHA256())
_PSS: Final = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=32)  # RFC 7518 section 3.5: as long as the hash

#: Coordinates are below this prime (RFC 8032 section 5.1). The 255 bits of the encoding can hold more, so that without a check
#: some points would have two encodings.
_P25519: Final = 2**255 - 19
#: The y coordinates of the points of order 1, 2, 4 and 8. With such a point as key, the signature R = [S]B is valid for at least
#: one message in eight, and with the neutral element (y = 1) for every message.
_SMALL_ORDER: Final = frozenset(
    {
        0,
        1,
        _P25519 - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    }
)
_SMALL_PRIMES: Final = math.prod(n for n in range(2, 752) if all(n % d for d in range(2, math.isqrt(n) + 1)))


class Refused(Exception):
    """A token or proof is not valid. `reason` is a fixed text of ours that may be shown to anybody."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Jwk(msgspec.Struct, frozen=True):
    """The public members of an EC, RSA or OKP key (RFC 7518 section 6, RFC 8037), and the private ones, in order to refuse them."""

    kty: str
    crv: str = ""
    x: str = ""
    y: str = ""
    n: str = ""
    e: str = ""
    alg: str | None = None
    kid: str | None = None
    use: str | None = None
    d: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    p: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    q: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    dp: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    dq: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    qi: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    oth: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    k: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def private(self) -> bool:
        unset = msgspec.UNSET
        return not (
            self.d is unset
            and self.k is unset
            and self.p is unset
            and self.q is unset
            and self.dp is unset
            and self.dq is unset
            and self.qi is unset
            and self.oth is unset
        )


class Compact(msgspec.Struct, frozen=True):
    """The three parts of a compact JWS: `header` and `payload` decoded, `signed` the bytes that the signature covers."""

    header: bytes
    payload: bytes
    signed: bytes
    signature: bytes


def parse(text: str, max_length: int) -> Compact:
    """Take a compact JWS apart. Raises Refused."""
    if len(text) > max_length:
        raise Refused("it is too long")
    raw = text.encode("utf-8", "surrogatepass")
    # Three parts, none of them empty; apart from characters of the alphabet there are just the two dots between them.
    parts = raw.split(b".")
    if len(parts) != 3 or not all(parts) or raw.translate(None, _ALPHABET) != b"..":
        raise Refused("it is not a compact JWS")
    header, payload, signature = parts
    return Compact(_decode(header), _decode(payload), raw[: -len(signature) - 1], _decode(signature))


def decode(text: str) -> bytes:
    """Base64url without padding. Characters outside its alphabet are skipped: a caller to whom that matters compares the text with
    what `encode` gives. Raises Refused.
    """
    try:
        return _decode(text.encode("ascii"))
    except UnicodeEncodeError as error:
        raise Refused("a part is not base64url") from error


def _decode(raw: bytes) -> bytes:
    try:
        return binascii.a2b_base64(raw.translate(_URL_SAFE) + b"==")
    except binascii.Error as error:
        raise Refused("a part is not base64url") from error


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()


def thumbprint(jwk: Jwk) -> str:
    """The JWK thumbprint of RFC 7638. It identifies a key only once `public_key` has accepted the JWK: members are not checked here."""
    if jwk.kty == "EC":
        text = f'{{"crv":"{jwk.crv}","kty":"EC","x":"{jwk.x}","y":"{jwk.y}"}}'
    elif jwk.kty == "RSA":
        text = f'{{"e":"{jwk.e}","kty":"RSA","n":"{jwk.n}"}}'
    else:
        text = f'{{"crv":"{jwk.crv}","kty":"OKP","x":"{jwk.x}"}}'
    return encode(sha256(text))


def public_key(jwk: Jwk) -> PublicKey:
    """The key that a JWK describes: P-256, Ed25519, or RSA of 2048 to 4096 bits with e = 65537. Raises Refused.

    The upper bound on RSA protects us as well: verifying with a 16384-bit key of the sender's choice would be a way to overload
    the service. A key for which everybody can make signatures is refused, as far as that can be seen at little cost.
    """
    if jwk.private:
        raise Refused("the key has private members")
    try:
        if jwk.kty == "EC" and jwk.crv == "P-256":
            return ec.EllipticCurvePublicNumbers(
                int.from_bytes(_octets(jwk.x, 32)), int.from_bytes(_octets(jwk.y, 32)), ec.SECP256R1()
            ).public_key()
        if jwk.kty == "OKP" and jwk.crv == "Ed25519":
            point = _octets(jwk.x, 32)
            y = int.from_bytes(point, "little") & ((1 << 255) - 1)
            if y >= _P25519 or y in _SMALL_ORDER:
                raise Refused("everybody can sign for this key")
            return ed25519.Ed25519PublicKey.from_public_bytes(point)
        if jwk.kty == "RSA":
            modulus = int.from_bytes(_octets(jwk.n, None))
            if not 2048 <= modulus.bit_length() <= 4096 or modulus % 2 == 0 or jwk.e != "AQAB":
                raise Refused("RSA keys have an odd modulus of 2048 to 4096 bits and the exponent 65537")
            if math.gcd(modulus, _SMALL_PRIMES) != 1:
                raise Refused("everybody can sign for this key")
            return rsa.RSAPublicNumbers(65537, modulus).public_key()
    except ValueError as error:  # not a point of the curve
        raise Refused("the key is not valid") from error
    raise Refused("the key is of a kind that is not taken here")


def attributable_key(jwk: Jwk) -> PublicKey:
    """Like `public_key`, for a key that has to prove who signed: a client's registered key, or that of a signed statement. It makes
    sure that not everybody can sign for the key.

    For a new RSA key that takes long and stops the whole process meanwhile, while making up another key costs a sender nothing.
    So the key of a proof, which a client chooses for a few minutes and for itself, is not checked this way: with a weak one the
    client gives away its own token, and it can do that with a strong one too.
    """
    key = public_key(jwk)
    if isinstance(key, rsa.RSAPublicKey) and _power_of_a_prime(key.public_numbers().n):
        raise Refused("everybody can sign for this key")
    return key


@lru_cache(maxsize=4096)
def _power_of_a_prime(modulus: int) -> bool:
    """Whether the modulus is a prime or the power of one (NIST SP 800-89 section 5.3.3, together with the check for small factors).
    The prime of such a modulus n divides 2^n - 2 by Fermat's theorem; the two primes of a real key do not. It takes 20 ms for
    2048 bits and 150 ms for 4096, so it is done once for each key.
    """
    return math.gcd(pow(2, modulus, modulus) - 2, modulus) != 1


def _octets(text: str, length: int | None) -> bytes:
    """A member of a key, of `length` bytes or, with None, without leading zeros. Raises Refused for any other spelling: one key
    would have several thumbprints.
    """
    raw = decode(text)
    canonical = not raw.startswith(b"\0") if length is None else len(raw) == length
    if encode(raw) != text or not canonical:
        raise Refused("a member of the key is not in its canonical form")
    return raw


def _es256(key: PublicKey, signature: bytes, signed: bytes) -> None:
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(signature) != 64:
        raise InvalidSignature
    der = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    key.verify(der, signed, _ECDSA)


def _ps256(key: PublicKey, signature: bytes, signed: bytes) -> None:
    if not isinstance(key, rsa.RSAPublicKey):
        raise InvalidSignature
    key.verify(signature, signed, _PSS, hashes.SHA256())


def _ed25519(key: PublicKey, signature: bytes, signed: bytes) -> None:
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise InvalidSignature
    key.verify(signature, signed)


_VERIFY: Final[dict[str, Callable[[PublicKey, bytes, bytes], None]]] = {
    "ES256": _es256,
    "PS256": _ps256,
    "EdDSA": _ed25519,
    "Ed25519": _ed25519,  # RFC 9864
}


def verify(algorithm: str, key: PublicKey, compact: Compact) -> None:
    """Check the signature. The caller has checked that it accepts `algorithm`. A key of another kind fails. Raises Refused."""
    try:
        _VERIFY[algorithm](key, compact.signature, compact.signed)
    except (InvalidSignature, KeyError, ValueError) as error:
        raise Refused("the signature is not valid") from error
