"""Our own tokens: access tokens of the edge (RFC 9068) and transaction tokens of inner calls
(draft-ietf-oauth-transaction-tokens), both ES256 by identity's keys. Each `typ` has its own function, so that one kind of token is
never accepted as the other.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.auth.certificate import header_of
from tallystick.chassis.auth.flight import SingleFlight
from tallystick.chassis.auth.jose import Jwk, PublicKey, Refused, parse, public_key, verify
from tallystick.chassis.auth.problems import IdentityUnavailable
from tallystick.chassis.auth.subject import Subject
from tallystick.kernel.problem import Problem
from tallystick.kernel.secret import Secret

MAX_TOKEN: Final = 4096  # characters; ours take about 900
MAX_AHEAD: Final = 5  # seconds that identity's clock may be ahead of ours

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Verified(msgspec.Struct, frozen=True):
    """A token whose signature and claims were found valid. Expiry and revocation are checked again at each use.

    An access token is bound either to a key, of which `jkt` is the thumbprint (RFC 9449), or to a certificate (RFC 8705), of which
    `certificate` is the SHA-256 in hex, as the edge passes it; exactly one of the two is set. `ids` are the token ids by which it
    can be revoked: its own, and for a transaction token also that of the access token it was exchanged for. `background`: identity
    gave it to a service for work that goes on without the client.
    """

    subject: Subject
    kid: str
    ids: tuple[str, ...]
    issued_at: float
    expires_at: float
    jkt: str = ""
    certificate: bytes = b""
    background: bool = False


class _Header(msgspec.Struct):
    typ: str
    alg: str
    kid: Text
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


Thumbprint = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{43}$", max_length=43)]
"""A SHA-256 in base64url."""


class _Confirmation(msgspec.Struct):
    """RFC 7800, section 3.1."""

    jkt: Thumbprint | None = None
    x5t: Thumbprint | None = msgspec.field(default=None, name="x5t#S256")


class _Claims(msgspec.Struct):
    iss: str
    aud: str
    exp: int | float
    iat: int | float
    jti: Text
    sub: Text
    tenant: Text


class _AccessClaims(_Claims):
    client_id: Text
    cnf: _Confirmation
    scope: str = ""


class _Actor(msgspec.Struct):
    sub: Text


class _TransactionClaims(_Claims):
    txn: Text
    scope: str = ""
    act: _Actor | None = None
    purp: Text | None = None


_header = msgspec.json.Decoder(_Header)
_access = msgspec.json.Decoder(_AccessClaims)
_transaction = msgspec.json.Decoder(_TransactionClaims)


C = TypeVar("C", bound=_Claims)


class KeyUnknown(Refused):
    """The token names a key that isn't known here, perhaps a new one."""

    def __init__(self, kid: str) -> None:
        super().__init__("it is signed by a key that isn't known")
        self.kid = kid


def access_token(token: str, keys: Mapping[str, PublicKey], *, issuer: str, audience: str, now: float) -> Verified:
    """Check an access token, except for its binding, revocation and replay. Raises Refused, `KeyUnknown` for an unknown `kid`."""
    kid, claims = _open(token, "at+jwt", _access, keys=keys, issuer=issuer, audience=audience, now=now)
    jkt, x5t = claims.cnf.jkt, claims.cnf.x5t
    if (jkt is None) == (x5t is None):
        raise Refused("it isn't bound to either a key or a certificate")
    subject = Subject(
        tenant=claims.tenant,
        client_id=claims.client_id,
        scopes=frozenset(claims.scope.split()),
        token_id=claims.jti,
        actor=claims.client_id,
        expires_at=datetime.fromtimestamp(claims.exp, UTC),
        credential=Secret(token),
        jkt=jkt or "",
    )
    certificate = header_of(x5t) if x5t else b""
    return Verified(subject, kid, (claims.jti,), claims.iat, claims.exp, jkt or "", certificate)


def transaction_token(
    token: str, keys: Mapping[str, PublicKey], *, issuer: str, trust_domain: str, caller: str, now: float
) -> Verified:
    """Check a transaction token, except for revocation. `caller` is the service that presented it. Raises like `access_token`."""
    kid, claims = _open(token, "txntoken+jwt", _transaction, keys=keys, issuer=issuer, audience=trust_domain, now=now)
    subject = Subject(
        tenant=claims.tenant,
        client_id=claims.sub,
        scopes=frozenset(claims.scope.split()),
        token_id=claims.jti,
        actor=claims.act.sub if claims.act else claims.sub,
        expires_at=datetime.fromtimestamp(claims.exp, UTC),
        caller=caller,
        credential=Secret(token),
        inner=True,
    )
    # Tokens with a purpose are given to services only, as identity's policy allows: without scopes, never for an access token.
    background = claims.purp is not None and claims.act is not None and claims.txn == claims.jti
    return Verified(subject, kid, (claims.jti, claims.txn), claims.iat, claims.exp, background=background)


def _open(
    token: str,
    typ: str,
    decoder: "msgspec.json.Decoder[C]",
    *,
    keys: Mapping[str, PublicKey],
    issuer: str,
    audience: str,
    now: float,
) -> tuple[str, C]:
    compact = parse(token, MAX_TOKEN)
    try:
        header = _header.decode(compact.header)
        claims = decoder.decode(compact.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # the last: nested too deeply
        raise Refused("it lacks a member or has one of a wrong type") from error
    if header.typ != typ or header.alg != "ES256" or header.crit is not msgspec.UNSET:
        raise Refused("it isn't a token of the kind that is taken here")
    if (key := keys.get(header.kid)) is None:
        raise KeyUnknown(header.kid)
    verify("ES256", key, compact)
    # From here on the claims are known to be identity's.
    if claims.iss != issuer:
        raise Refused("it is by another issuer")
    if claims.aud != audience:
        raise Refused("it is for another audience")
    if claims.exp <= now:
        raise Refused("it has expired")
    if claims.iat > now + MAX_AHEAD:
        raise Refused("it is from the future")
    return header.kid, claims


class VerifiedTokens:
    """A bounded LRU cache of valid tokens, by the SHA-256 of their text and the caller."""

    def __init__(self, *, remembered: int = 20_000) -> None:
        self._remembered = remembered
        self._tokens: OrderedDict[tuple[bytes, str], Verified] = OrderedDict()

    def get(self, digest: bytes, caller: str = "") -> Verified | None:
        key = (digest, caller)
        if (found := self._tokens.get(key)) is not None:
            self._tokens.move_to_end(key)
        return found

    def put(self, digest: bytes, verified: Verified, caller: str = "") -> None:
        self._tokens[digest, caller] = verified
        if len(self._tokens) > self._remembered:
            self._tokens.popitem(last=False)

    def drop(self, digest: bytes, caller: str = "") -> None:
        self._tokens.pop((digest, caller), None)

    def __len__(self) -> int:
        return len(self._tokens)


class KeySet:
    """Identity's public keys. They are fetched again for an unknown `kid`. So that made-up tokens don't become load on identity,
    there is one fetch at a time, which all callers wait for, at most one a second, and none for a `kid` that was found to be
    unknown within the last half minute.
    """

    NEGATIVE = 30.0  # seconds
    SPACING = 1.0  # seconds
    REFRESH = 300.0  # seconds between refreshes by the clock

    def __init__(
        self, fetch: Callable[[], Awaitable[list[Jwk]]], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._flight: SingleFlight[str, None] = SingleFlight(timeout=5.0)
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._asked_at = float("-inf")
        self.keys: Mapping[str, PublicKey] = {}

    @property
    def loaded(self) -> bool:
        return bool(self.keys)

    async def refresh(self) -> None:
        """Fetch the keys. Raises IdentityUnavailable, and then keeps the keys it has."""
        try:
            await self._flight.do("keys", self._load)
        except (Problem, TimeoutError, OSError, msgspec.DecodeError) as error:
            raise IdentityUnavailable(context={"error": type(error).__name__}) from error

    async def learn(self, kid: str) -> None:
        """Return once `kid` is among the keys. Raises KeyUnknown, or IdentityUnavailable when there are no keys at all."""
        now = self._monotonic()
        joins = self._flight.under_way("keys")
        lately = self.loaded and not joins and now - self._asked_at < self.SPACING
        if lately or self._unknown.get(kid, float("-inf")) > now:
            raise KeyUnknown(kid)
        try:
            await self.refresh()
        except IdentityUnavailable:
            if not self.loaded:
                raise
            raise KeyUnknown(kid) from None
        if kid not in self.keys:
            if not joins:  # a fetch that began before this token came may be older than the token's key
                self._unknown[kid] = self._monotonic() + self.NEGATIVE
                if len(self._unknown) > 1024:
                    self._unknown.popitem(last=False)
            raise KeyUnknown(kid)

    async def _load(self) -> None:
        self._asked_at = self._monotonic()
        found: dict[str, PublicKey] = {}
        for jwk in await self._fetch():
            if jwk.kid and jwk.kty == "EC" and jwk.alg in {None, "ES256"} and jwk.use in {None, "sig"}:
                try:
                    found[jwk.kid] = public_key(jwk)
                except Refused as refused:
                    telemetry.log.error("auth.key_refused", kid=jwk.kid, reason=refused.reason)
        self.keys = found
        for kid in found:
            self._unknown.pop(kid, None)
