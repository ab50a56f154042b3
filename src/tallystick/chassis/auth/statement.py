"""Statements that a subject signs with the key that its token is bound to, so that they can be shown to others afterwards."""

from typing import Final

import msgspec

from tallystick.chassis.auth.jose import Jwk, Refused, attributable_key, parse, public_key, thumbprint, verify
from tallystick.chassis.auth.problems import PROOF_ALGORITHMS

MAX_STATEMENT: Final = 4096  # characters; an RSA-4096 key and its signature take about 1400 of them


class _Header(msgspec.Struct):
    typ: str
    alg: str
    jwk: Jwk
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_header = msgspec.json.Decoder(_Header)


def statement(text: str, *, typ: str, jkt: str) -> bytes:
    """The payload of a compact JWS of this `typ` (RFC 8725 section 3.11), signed by the key in its header (`jwk`), which must have the
    thumbprint `jkt`. Raises Refused.
    """
    compact = parse(text, MAX_STATEMENT)
    try:
        header = _header.decode(compact.header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # the last: nested too deeply
        raise Refused("its header lacks a member or has one of a wrong type") from error
    if header.typ != typ:
        raise Refused(f"typ is not {typ}")
    if header.alg not in PROOF_ALGORITHMS:
        raise Refused("alg is not one of those taken here")
    if header.crit is not msgspec.UNSET:
        raise Refused("crit is not taken here")
    if not jkt:  # the key of a certificate signs TLS handshakes, and nothing that could be shown to others
        raise Refused("the token is not bound to a key by DPoP, so it says of no key that it is yours")
    if thumbprint(header.jwk) != jkt:
        raise Refused("it is by another key than the token is bound to")
    verify(header.alg, public_key(header.jwk), compact)
    return compact.payload


def attributable(text: str) -> None:
    """Make sure that nobody else can have signed what `statement` accepted. Call it last: for a new RSA key it takes up to 150 ms,
    during which the process does nothing else. Raises Refused.
    """
    attributable_key(_header.decode(parse(text, MAX_STATEMENT).header).jwk)
