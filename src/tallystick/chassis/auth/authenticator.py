"""Authentication of a request: at the edge by access token and proof of possession, inside by transaction token.

The order of the edge's checks is chosen so that nothing is remembered for, and nothing is sent out for, a request that isn't good:
token, expiry, revocation, then the proof by the key that the token is bound to, then whether the proof is new. A token that is bound to a
certificate (RFC 8705) needs no proof: the edge says which certificate the connection came with, and has made sure of its key.
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
#: The edge's own name for a request, the same when it gives it to a second replica; a client's is removed there.
REQUEST_HEADER: Final = b"x-request-id"
#: A transaction token is handed out while it lives at least this long: it still has to arrive and be checked.
MARGIN: Final = 10.0
MAX_EXCHANGED: Final = 20_000


class Authenticator:
    """One per process. `run` is a task that lives as long; before it has keys and revocations every token is answered 503."""

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
        """`public_url` is the edge's origin: the issuer and the audience of access tokens, and what proofs are made for. `mtls_url` is its
        other one, for clients with a certificate: what proofs are made for that are sent there.
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

        `path` is the path as it was sent, without the query; `headers` are ASGI's, all of them, so that a header that came twice
        is seen. `strict` is for all but reads: it fails closed where a read goes on by what this process knows. Raises
        CredentialsRefused (401), RevocationFeedStale, ReplayCheckUnavailable, IdentityUnavailable (503).
        """
        sent = _sent(headers)
        digest = sha256(sent.token)
        now = self._clock.now().timestamp()
        try:
            verified = await self._access(sent.token, digest, now)
        except Refused as refused:
            raise invalid_token(f"The access token is not valid: {refused.reason}.", sent.scheme) from None
        if strict and self._feed.stale:
            raise RevocationFeedStale
        if verified.certificate:
            _shown(verified.certificate, sent)
        else:
            await self._proved(verified.jkt, sent, digest=digest, now=now, method=method, path=path, strict=strict)
        return verified.subject

    async def _proved(
        self, jkt: str, sent: "_Sent", *, digest: bytes, now: float, method: str, path: str, strict: bool
    ) -> None:
        """The token came with a new proof by its key, for this request (RFC 9449 section 4.3)."""
        if sent.scheme != "DPoP":  # section 7.2: or binding it would have been for nothing
            raise invalid_token(
                "This access token is bound to a key: it is presented with the DPoP scheme.", sent.scheme
            )
        if not sent.proof or b"," in sent.proof:
            raise invalid_proof("There has to be exactly one DPoP header.")
        try:
            proof = self._verifier.verify(
                sent.proof.decode("latin-1"),
                method=method,
                # the origin is ours by configuration; which of both it was is for the edge to say
                url=(self._mtls_url if sent.certificate else self._public_url) + path,
                now=now,
                token_hash=digest,
                jkt=jkt,
            )
            await self._proofs.claim(proof, strict=strict, request=sent.request)
        except Refused as refused:
            raise invalid_proof(f"The DPoP proof is not valid: {refused.reason}.") from None

    async def _access(self, text: str, digest: bytes, now: float) -> Verified:
        verified = self._tokens.get(digest)
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
            verified = self._tokens.get(digest, caller)
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
        """The transaction token to pass on in this subject's name: its own if it came by one, else the one that identity gives
        for its access token, asked for once and kept. Raises what the call to identity raises.
        """
        if subject.credential is None:
            msg = "a subject without its token has nothing to exchange"
            raise ValueError(msg)
        credential = subject.credential.reveal()
        if subject.inner:
            return credential
        # No exchange gives more time than the access token has: near its end, what is at hand is as good as another one.
        last = subject.expires_at.timestamp() - 2.0
        return await self._exchange((subject.token_id,), lambda: self._identity.exchange(credential), last)

    async def service_token(self, tenant: str, subject: str, purpose: str) -> str:
        """A transaction token for work that goes on without the client, such as resuming a payment. Identity decides by its
        policy which service may have one for what. Kept for its life. Raises what the call to identity raises.
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
            and kept.swept == self._feed.swept
            and kept.since <= now + MAX_AHEAD
            and (kept.until > now + MARGIN or (kept.until > now and kept.until >= last))
        ):
            self._exchanged.move_to_end(key)
            return kept.token

        async def load() -> str:
            asked_at, swept = self._clock.now().timestamp(), self._feed.swept
            exchanged = await ask()
            # `expires_in` counts from the whole second in which the token was issued.
            until = asked_at + exchanged.expires_in - 1.0
            self._exchanged[key] = _Kept(exchanged.transaction_token, asked_at, until, swept)
            self._exchanged.move_to_end(key)
            if len(self._exchanged) > MAX_EXCHANGED:
                self._exchanged.popitem(last=False)
            return exchanged.transaction_token

        try:
            return await self._exchanging.do(key, load)
        except TimeoutError:
            raise DeadlineExceeded("The service identity did not answer in time.", outcome_unknown=False) from None

    def peer(self, headers: Headers) -> str:
        """The calling service, from the SPIFFE id that the mesh took from its certificate; which of its shards it is, is the mesh's to
        look at. Raises Forbidden.

        Only the mesh's inner listener sets this header; every other way in removes it.
        """
        found = [value for name, value in headers if name == PEER_HEADER]
        match = self._peer.fullmatch(found[0].decode("latin-1")) if len(found) == 1 else None
        if match is None:
            raise Forbidden("This is for services of the platform, through the mesh.")
        return service_of(match[1])

    # ---- both -------------------------------------------------------------------------------------------------------

    def _current(self, verified: Verified, digest: bytes, now: float, caller: str = "") -> Verified:
        """What can change during a token's life, asked each time."""
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
    """A transaction token that is passed on until `until`, or until a key or all tokens of a time are taken back (`RevocationFeed.swept`); nor
    before `since`, when the clock was set back: it would be refused as one from the future.
    """

    token: str
    since: float
    until: float
    swept: int


class _Sent(msgspec.Struct, frozen=True):
    """What a request says of who sends it. `proof`, `certificate` and `request` are empty where there is none, or more than one."""

    scheme: Scheme
    token: str
    proof: bytes
    certificate: bytes
    request: bytes


_READ: Final = frozenset({b"authorization", b"dpop", REQUEST_HEADER, certificate.HEADER})
_SCHEMES: Final[dict[str, Scheme]] = {"dpop": "DPoP", "bearer": "Bearer"}


def _sent(headers: Headers) -> _Sent:
    """Reads the headers, in one pass. Raises CredentialsRefused for what is no token."""
    found: dict[bytes, bytes | None] = {}
    for name, value in headers:
        if name in _READ:
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
    if "," in token:  # a proxy makes one line of several (RFC 9110 section 5.3); no token has a comma
        raise invalid_token("There has to be exactly one Authorization header.", offered)
    if len(token) > MAX_TOKEN:
        raise invalid_token("The access token is too long.", scheme)
    return _Sent(scheme, token, found.get(b"dpop") or b"", shown, found.get(REQUEST_HEADER) or b"")


def _shown(bound_to: bytes, sent: _Sent) -> None:
    """The connection came with the certificate that the token is bound to (RFC 8705 section 3). Raises CredentialsRefused."""
    if sent.scheme != "Bearer":
        raise invalid_token(
            "This access token is bound to a certificate: it is presented with the Bearer scheme.", sent.scheme
        )
    if not sent.certificate:
        raise invalid_token("This access token is bound to a certificate: it is good over mutual TLS only.", "Bearer")
    if not hmac.compare_digest(sent.certificate, bound_to):
        raise invalid_token("This access token is bound to another certificate.", "Bearer")
