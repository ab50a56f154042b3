"""Client authentication by a signed assertion: RFC 7523, section 3, as FAPI 2.0 (final, 5.3.2.1) narrows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tallystick.services.identity.model.refusals import AuthenticationFailed

TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

#: FAPI 2.0, 5.4.1, and the fully-specified name of EdDSA with Ed25519 (RFC 9864).
ALGORITHMS = ("ES256", "PS256", "EdDSA", "Ed25519")

#: `typ` of an assertion, so that no other token can be used as one (RFC 8725, 3.11). It may be absent.
TYPES = frozenset({"client-authentication+jwt", "jwt"})

#: How far a client's clock may be ahead. FAPI requires 10 s to be accepted and 60 s to be refused.
AHEAD = timedelta(seconds=10)
#: The longest life of an assertion. It is made for one request, and its jti is remembered until it expires.
LONGEST = timedelta(minutes=10)
#: How much longer a jti is remembered: by another replica's clock the assertion may still be valid.
CLOCKS = timedelta(seconds=60)
#: The greatest age of an assertion, whatever its `exp`.
OLDEST = timedelta(minutes=10)

MAX_JTI = 256


@dataclass(frozen=True, slots=True)
class Assertion:
    """A valid assertion: its client, and what identifies it, so that it is used once."""

    client: str
    jti: str
    expires_at: datetime


def claimed_client(claims: Mapping[str, Any], form_client_id: str | None) -> str:
    """The client that an unchecked assertion claims to be from. Raises AuthenticationFailed if it contradicts itself or the form."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 64:
        raise AuthenticationFailed("subject")
    if claims.get("iss") != subject:
        raise AuthenticationFailed("issuer-is-not-subject")
    if form_client_id is not None and form_client_id != subject:
        raise AuthenticationFailed("client-id-differs")
    return subject


def check_header(header: Mapping[str, Any]) -> tuple[str, str | None]:
    """`(alg, kid)`. Raises AuthenticationFailed for other algorithms, other types of token, and any `crit`.

    `jwk`, `jku` and `x5u` in the header are ignored: the key comes from the registration only.
    """
    alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(alg, str) or alg not in ALGORITHMS:
        raise AuthenticationFailed("algorithm")
    if typ is not None and (not isinstance(typ, str) or typ.lower().removeprefix("application/") not in TYPES):
        raise AuthenticationFailed("type")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= 128):
        raise AuthenticationFailed("kid")
    if "crit" in header or "b64" in header:
        raise AuthenticationFailed("critical")
    return alg, kid


def check_claims(claims: Mapping[str, Any], client: str, *, issuer: str, now: datetime) -> Assertion:
    """Check the claims of an assertion whose signature is valid. Raises AuthenticationFailed.

    `aud` must be the issuer, as one string. If a list or the URL of an endpoint were accepted, a hostile server could make a client sign an
    assertion for this one (FAPI 2.0 final, 5.3.2.1; draft-ietf-oauth-rfc7523bis).
    """
    if claims.get("aud") != issuer:
        raise AuthenticationFailed("audience", client)
    expires = _instant(claims, "exp", client)
    issued = _instant(claims, "iat", client)
    not_before = _instant(claims, "nbf", client)
    if expires is None or expires <= now:
        raise AuthenticationFailed("expired", client)
    if expires > now + LONGEST + AHEAD:
        raise AuthenticationFailed("lasts-too-long", client)
    for instant in (issued, not_before):
        if instant is not None and instant > now + AHEAD:
            raise AuthenticationFailed("from-the-future", client)
    if issued is not None and issued < now - OLDEST:
        raise AuthenticationFailed("too-old", client)
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI:
        raise AuthenticationFailed("jti", client)
    return Assertion(client, jti, expires)


def _instant(claims: Mapping[str, Any], name: str, client: str) -> datetime | None:
    """A NumericDate (RFC 7519, 2), which may have decimals; None when it is absent."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 36:
        raise AuthenticationFailed("time", client)
    return datetime.fromtimestamp(value, UTC)
