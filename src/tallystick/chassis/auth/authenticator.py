"""Authentication of requests: at the edge by access token and proof of possession, inside by transaction token.

The edge's checks are ordered so that an invalid request leaves no state and causes no call: first token, expiry and revocation,
then the proof by the key that the token is bound to, and last whether that proof is new. A token that is bound to a certificate
(RFC 8705) needs no proof: the edge's TLS handshake has verified that the client holds the certificate's key, and the edge says
which certificate it was.
"""

import asyncio
import hmac
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.auth import certificate
from tallystick.chassis.auth.dpop import ProofVerifier
from tallystick.chassis.auth.flight import SingleFlight
from tallystick.chassis.auth.identity import Exchanged, Identity
from tallystick.chassis.auth.jose import Refused, sha256
from tallystick.chassis.auth.problems import (
    IdentityUnavailable,
    RevocationFeedStale,
    Scheme,
    invalid_proof,
    invalid_token,
    missing_token,
)
from tallystick.chassis.auth.replay import ProofStore
from tallystick.chassis.auth.revocation import RevocationFeed
from tallystick.chassis.auth.subject import Subject
from tallystick.chassis.auth.tokens import (
    MAX_AHEAD,
    MAX_TOKEN,
    KeySet,
    KeyUnknown,
    Verified,
    VerifiedTokens,
    access_token,
    transaction_token,
)
from tallystick.kernel.clock import Clock
from tallystick.kernel.deployment import service_of
from tallystick.kernel.problem import DeadlineExceeded, Forbidden

Headers = Sequence[tuple[bytes, bytes]]

PEER_HEADER: Final = b"x-tallystick-peer"
#: The edge's own id of a request. It stays the same when the edge retries at a second replica; one sent by a client is removed.
REQUEST_HEADER: Final = b"x-request-id"
#: Seconds. A cached transaction token is passed on only if it is valid for longer: it still has to arrive and be checked.
MARGIN: Final = 10.0
MAX_EXCHANGED: Final = 20_000


class Authenticator:
    """One per process; `run` is a task that runs as long as the process. Until it has fetched keys and revocations every token is
    answered 503.
    """

    def __init__(
        self,
        *,
        public_url: str,
        mtls_url: str,
        trust_domain: str,
        identity: Identity,
        proofs: ProofStore,
        feed: RevocationFeed,
        clock: Clock,
    ) -> None:
        """`public_url` is the edge's origin: the issuer and the audience of access tokens, and the origin in proofs. `mtls_url` is the
        edge's other origin, for clients with a certificate, and the one in proofs that are sent there.
        """
        self._public_url = public_url.rstrip("/")
        self._mtls_url = mtls_url.rstrip("/")
        self._trust_domain = trust_domain
        self._identity = identity
        self._proofs = proofs
        self._feed = feed
        self._clock = clock
        self._keys = KeySet(identity.keys)
        self._verifier = ProofVerifier()
        self._tokens = VerifiedTokens()
        self._exchanged: OrderedDict[tuple[str, ...], _Kept] = OrderedDict()
        self._exchanging: SingleFlight[tuple[str, ...], str] = SingleFlight(timeout=5.0)
        self._peer = re.compile(
            rf"spiffe://{re.escape(trust_domain)}/ns/[a-z0-9-]{{1,63}}/sa/([a-z][a-z0-9_-]{{0,62}})", re.ASCII
        )

    @property
    def ready(self) -> bool:
        return self._keys.loaded and self._feed.loaded

    @property
    def feed(self) -> RevocationFeed:
        return self._feed

    async def run(self) -> None:
        """Fetch keys and revocations and keep them fresh, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed.run(), name="auth.revocations")
            tasks.create_task(self._refresh_keys(), name="auth.keys")

    async def _refresh_keys(self) -> None:
        failed = False
        while True:
            try:
                await self._keys.refresh()
            except IdentityUnavailable as problem:
                if not failed:
                    telemetry.log.warning("auth.keys_not_fetched", reason=problem.context.get("error"))
                failed = True
                await asyncio.sleep(5.0 if self._keys.loaded else 0.5)
            else:
                failed = False
                await asyncio.sleep(self._keys.REFRESH)

    # ---- the edge ---------------------------------------------------------------------------------------------------

    async def edge(self, method: str, path: str, headers: Headers, *, strict: bool = False) -> Subject:
        """Authenticate a request from outside.

        `path` is the path as sent, without the query; `headers` are all of ASGI's raw headers, so that a repeated one is noticed.
        `strict` is for everything but reads: when revocations or replay can't be checked it fails closed, where a read is allowed on
        what this process knows. Raises CredentialsRefused (401), RevocationFeedStale, ReplayCheckUnavailable, IdentityUnavailable
        (503).
        """
        sent = _credentials(headers)
        digest = sha256(sent.token)
        now = self._clock.now().timestamp()
        try:
            verified = await self._access(sent.token, digest, now)
        except Refused as refused:
            raise invalid_token(f"The access token is not valid: {refused.reason}.", sent.scheme) from None
        if strict and self._feed.stale:
            raise RevocationFeedStale
        if verified.certificate:
            _check_certificate(verified.certificate, sent)
        else:
            await self._check_proof(verified.jkt, sent, digest=digest, now=now, method=method, path=path, strict=strict)
        return verified.subject

    async def _check_proof(
        self, jkt: str, sent: "_Credentials", *, digest: bytes, now: float, method: str, path: str, strict: bool
    ) -> None:
        """Check that the token came with a new proof by its key, made for this request (RFC 9449 section 4.3)."""
        if sent.scheme != "DPoP":  # section 7.2: as a bearer token the binding would protect nothing
            raise invalid_token(
                "This access token is bound to a key: it is presented with the DPoP scheme.", sent.scheme
            )
        if not sent.proof or b"," in sent.proof:
            raise invalid_proof("There has to be exactly one DPoP header.")
        try:
            proof = self._verifier.verify(
                sent.proof.decode("latin-1"),
                method=method,
                # Our origins are configured, never taken from `Host`; the edge says which of the two the request came to.
                url=(self._mtls_url if sent.certificate else self._public_url) + path,
                now=now,
                token_hash=digest,
                jkt=jkt,
            )
            await self._proofs.claim(proof, strict=strict, request=sent.request)
        except Refused as refused:
            raise invalid_proof(f"The DPoP proof is not valid: {refused.reason}.") from None

    async def _access(self, text: str, digest: bytes, now: float) -> Verified:
        verified = self._known(digest)
        if verified is None:
            verified = await self._with_keys(
                lambda: access_token(text, self._keys.keys, issuer=self._public_url, audience=self._public_url, now=now)
            )
            self._tokens.put(digest, verified)
        return self._current(verified, digest, now)

    # ---- inside -----------------------------------------------------------------------------------------------------

    async def transaction(self, token: str, caller: str) -> Subject:
        """The subject of a transaction token that the service `caller` presented. Raises CredentialsRefused (401),
        IdentityUnavailable (503).
        """
        if len(token) > MAX_TOKEN:
            raise invalid_token("The transaction token is too long.")
        digest = sha256(token)
        now = self._clock.now().timestamp()
        try:
            verified = self._known(digest, caller)
            if verified is None:
                verified = await self._with_keys(
                    lambda: transaction_token(
                        token,
                        self._keys.keys,
                        issuer=self._public_url,
                        trust_domain=self._trust_domain,
                        caller=caller,
                        now=now,
                    )
                )
                self._tokens.put(digest, verified, caller)
            return self._current(verified, digest, now, caller).subject
        except Refused as refused:
            raise invalid_token(f"The transaction token is not valid: {refused.reason}.") from None

    async def exchange(self, subject: Subject) -> str:
        """The transaction token to pass on for this subject: its own if it came with one, otherwise the one that identity gives in
        exchange for its access token, asked for once and cached. Raises what the call to identity raises, and DeadlineExceeded.
        """
        if subject.credential is None:
            msg = "a subject without its token has nothing to exchange"
            raise ValueError(msg)
        credential = subject.credential.reveal()
        if subject.inner:
            return credential
        # A transaction token never outlives its access token, so near that one's end the cached token is as good as a new one.
        last = subject.expires_at.timestamp() - 2.0
        return await self._exchange((subject.token_id,), lambda: self._identity.exchange(credential), last)

    async def service_token(self, tenant: str, subject: str, purpose: str) -> str:
        """A transaction token for work that goes on without the client, such as resuming a payment. Identity's policy decides which
        service may have one for which purpose. Cached while it is valid. Raises what the call to identity raises, and
        DeadlineExceeded.
        """
        return await self._exchange(
            (tenant, subject, purpose), lambda: self._identity.service_token(tenant, subject, purpose)
        )

    async def _exchange(
        self, key: tuple[str, ...], ask: Callable[[], Awaitable[Exchanged]], last: float = float("inf")
    ) -> str:
        now = self._clock.now().timestamp()
        kept = self._exchanged.get(key)
        if (
            kept is not None
            and kept.generation == self._feed.generation
            and kept.since <= now + MAX_AHEAD
            and (kept.until > now + MARGIN or (kept.until > now and kept.until >= last))
        ):
            self._exchanged.move_to_end(key)
            return kept.token

        async def load() -> str:
            asked_at, generation = self._clock.now().timestamp(), self._feed.generation
            exchanged = await ask()
            # `expires_in` counts from the time of issue, which identity rounds down to a whole second.
            until = asked_at + exchanged.expires_in - 1.0
            self._exchanged[key] = _Kept(exchanged.transaction_token, asked_at, until, generation)
            self._exchanged.move_to_end(key)
            if len(self._exchanged) > MAX_EXCHANGED:
                self._exchanged.popitem(last=False)
            return exchanged.transaction_token

        try:
            return await self._exchanging.do(key, load)
        except TimeoutError:
            raise DeadlineExceeded("The service identity did not answer in time.", outcome_unknown=False) from None

    def peer(self, headers: Headers) -> str:
        """The calling service, from the SPIFFE id in its certificate, as the mesh tells it. The mesh has checked which shards of a
        service may call, so the shard is dropped here. Raises Forbidden.

        Only the mesh's inner listener sets this header; every other listener removes it.
        """
        found = [value for name, value in headers if name == PEER_HEADER]
        match = self._peer.fullmatch(found[0].decode("latin-1")) if len(found) == 1 else None
        if match is None:
            raise Forbidden("This is for services of the platform, through the mesh.")
        return service_of(match[1])

    # ---- both -------------------------------------------------------------------------------------------------------

    def _known(self, digest: bytes, caller: str = "") -> Verified | None:
        """A token that was found valid before, unless its key has left the key set since.

        A revoked key is remembered for as long as identity's own tokens live. Whoever has stolen the key can sign tokens that live
        longer.
        """
        verified = self._tokens.get(digest, caller)
        if verified is not None and verified.kid not in self._keys.keys:
            self._tokens.drop(digest, caller)
            return None
        return verified

    def _current(self, verified: Verified, digest: bytes, now: float, caller: str = "") -> Verified:
        """Check what can change while a token is valid: expiry and revocation. Done at each use."""
        if verified.expires_at <= now:
            self._tokens.drop(digest, caller)
            raise Refused("it has expired")
        if not self._feed.loaded:
            raise IdentityUnavailable
        if self._feed.concerns(verified):
            raise Refused("it was revoked")
        return verified

    async def _with_keys(self, check: Callable[[], Verified]) -> Verified:
        try:
            return check()
        except KeyUnknown as unknown:
            await self._keys.learn(unknown.kid)
            return check()


class _Kept(msgspec.Struct, frozen=True):
    """A cached transaction token. It is passed on from `since` to `until` (Unix seconds) and while the feed's `generation` is the
    same. Before `since`, which happens when the clock is set back, others would refuse it as one from the future.
    """

    token: str
    since: float
    until: float
    generation: int

    def __repr__(self) -> str:
        return f"_Kept(since={self.since}, until={self.until})"


class _Credentials(msgspec.Struct, frozen=True):
    """What a request says about its sender. `proof`, `certificate` and `request` are empty where there is none, or more than one."""

    scheme: Scheme
    token: str
    proof: bytes
    certificate: bytes
    request: bytes

    def __repr__(self) -> str:
        return f"_Credentials({self.scheme})"


_HEADERS: Final = frozenset({b"authorization", b"dpop", REQUEST_HEADER, certificate.HEADER})
_SCHEMES: Final[dict[str, Scheme]] = {"dpop": "DPoP", "bearer": "Bearer"}


def _credentials(headers: Headers) -> _Credentials:
    """Read the credentials from the headers, in one pass. Raises CredentialsRefused where no token can be found."""
    found: dict[bytes, bytes | None] = {}
    for name, value in headers:
        if name in _HEADERS:
            found[name] = None if name in found else value
    shown = found.get(certificate.HEADER) or b""
    offered: Scheme = "Bearer" if shown else "DPoP"
    if b"authorization" not in found:
        raise missing_token(offered)
    authorization = found[b"authorization"]
    if authorization is None:
        raise invalid_token("There has to be exactly one Authorization header.", offered)
    asked, _, token = authorization.decode("latin-1").partition(" ")
    scheme = _SCHEMES.get(asked.lower())
    if scheme is None:
        raise missing_token(offered, "Access tokens are presented with the DPoP or the Bearer scheme.")
    token = token.lstrip(" ")
    if "," in token:  # a proxy may join repeated headers by commas (RFC 9110 section 5.3); no token has one
        raise invalid_token("There has to be exactly one Authorization header.", offered)
    if len(token) > MAX_TOKEN:
        raise invalid_token("The access token is too long.", scheme)
    return _Credentials(scheme, token, found.get(b"dpop") or b"", shown, found.get(REQUEST_HEADER) or b"")


def _check_certificate(bound_to: bytes, sent: _Credentials) -> None:
    """Check that the connection came with the certificate that the token is bound to (RFC 8705 section 3). Raises
    CredentialsRefused.
    """
    if sent.scheme != "Bearer":
        raise invalid_token(
            "This access token is bound to a certificate: it is presented with the Bearer scheme.", sent.scheme
        )
    if not sent.certificate:
        raise invalid_token("This access token is bound to a certificate: it is good over mutual TLS only.", "Bearer")
    if not hmac.compare_digest(sent.certificate, bound_to):
        raise invalid_token("This access token is bound to another certificate.", "Bearer")
