"""Issues (RFC 6749, 4.4, with RFC 9449), revokes (RFC 7009) and introspects (RFC 7662) access tokens."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from tallystick.chassis.auth import jose
from tallystick.chassis.auth.dpop import Proof, ProofVerifier
from tallystick.chassis.auth.replay import ProofStore
from tallystick.chassis.db import Database
from tallystick.chassis.outbox import Outbox
from tallystick.contracts.identity.messages import TokenRevoked
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.services.identity.model import scopes, tokens
from tallystick.services.identity.model.clients import Client
from tallystick.services.identity.model.forms import required
from tallystick.services.identity.model.refusals import Refusal
from tallystick.services.identity.model.revocations import revoked_token
from tallystick.services.identity.service import metadata
from tallystick.services.identity.service.facts import fact
from tallystick.services.identity.service.revocations import Revocations
from tallystick.services.identity.service.signing import SigningKeys
from tallystick.services.identity.store import Store


class AccessTokens:
    """`issuer` is also the audience: authorization server and API have one origin. `mtls_origin` is the origin for clients with a certificate.
    Tokens issued there have the same issuer and audience, since it is the same server (RFC 8705, 5).
    """

    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        outbox: Outbox,
        clock: Clock,
        issuer: str,
        mtls_origin: str,
        keys: SigningKeys,
        revocations: Revocations,
        seen: ProofStore,
    ) -> None:
        self._database = database
        self._store = store
        self._outbox = outbox
        self._clock = clock
        self._issuer = issuer
        self._mtls_origin = mtls_origin
        self._keys = keys
        self._revocations = revocations
        self._seen = seen
        self._proofs = ProofVerifier()

    async def issue(
        self, client: Client, form: Mapping[str, str], proofs: Sequence[str], certificate: str | None
    ) -> dict[str, Any]:
        """The answer of the token endpoint (RFC 6749, 5.1). `certificate` is the thumbprint of the client's TLS certificate, as the edge
        reports it. Raises Refusal.
        """
        if required(form, "grant_type") != "client_credentials":
            raise Refusal("unsupported_grant_type", "This server supports client_credentials.")
        if form.get("resource", self._issuer) != self._issuer:
            raise Refusal("invalid_target", "The only resource is the issuer itself.")
        granted = scopes.granted(form.get("scope"), client.scopes)
        if client.certificate_bound:
            bound_to = _to_certificate(certificate, proofs)
        else:
            origin = self._issuer if certificate is None else self._mtls_origin
            bound_to = tokens.Binding("jkt", (await self._prove(proofs, origin)).jkt)
        now = self._clock.now()
        claims = tokens.access_claims(
            client,
            granted,
            issuer=self._issuer,
            audience=self._issuer,
            jti=secrets.token_urlsafe(16),
            bound_to=bound_to,
            now=now,
        )
        return {
            "access_token": await self._keys.sign("access", tokens.ACCESS_TYPE, claims),
            "token_type": bound_to.token_type,
            "expires_in": claims["exp"] - claims["iat"],
            "scope": claims["scope"],
        }

    async def _prove(self, proofs: Sequence[str], origin: str) -> Proof:
        """The key that the token will be bound to (RFC 9449, 5), from exactly one proof, for this endpoint at this origin, not used before."""
        if len(proofs) != 1 or "," in proofs[0]:  # a proxy may join several headers into one line (RFC 9110, 5.3)
            raise Refusal("invalid_dpop_proof", "The request needs one DPoP proof.", reason="dpop-count")
        try:
            proof = self._proofs.verify(
                proofs[0],
                method="POST",
                url=origin + metadata.TOKEN,
                now=self._clock.now().timestamp(),
            )
            # Fails closed while Valkey is away: a token can wait, but a stolen proof must not get one.
            await self._seen.claim(proof, strict=True)
        except jose.Refused as error:
            description = f"The DPoP proof is not valid: {error.reason}."
            raise Refusal("invalid_dpop_proof", description, reason="dpop") from error
        return proof

    async def read(self, token: str) -> tokens.AccessToken | None:
        """The token, if it is ours, intact and not expired. Does not check revocation."""
        verified = await self._keys.verify("access", tokens.ACCESS_TYPE, token)
        if verified is None:
            return None
        claims, kid = verified
        return tokens.read_access_claims(claims, kid, issuer=self._issuer, audience=self._issuer, now=self._clock.now())

    async def check(self, token: str) -> tokens.AccessToken | None:
        """Like `read`, and also checks in the database that neither the token, its client nor its key is revoked."""
        read = await self.read(token)
        if read is None:
            return None
        stands = await self._store.token_stands(
            ids.clients.parse(read.client_id),
            read.tenant,
            jti=read.jti,
            client_text=read.client_id,
            kid=read.kid,
            issued_at=read.issued_at,
        )
        return read if stands else None

    async def revoke(self, client: Client, form: Mapping[str, str]) -> None:
        """RFC 7009: afterwards the token is invalid, whether it was valid before or not. Raises Refusal for another client's token (2.1)."""
        token = await self.read(required(form, "token"))
        if token is None:
            return
        client_id = ids.clients.text(client.id)
        if token.client_id != client_id:
            raise Refusal("invalid_request", "The token was issued to another client.", reason="foreign-token")
        now = self._clock.now()
        async with self._database.transaction() as tx:
            announce = await self._revocations.record(tx, revoked_token(token.jti, token.expires_at))
            told = fact(
                "identity.token.revoked",
                tenant=client.tenant,
                actor=client_id,
                resource=client_id,
                at=now,
                data=TokenRevoked(jti=token.jti),
            )
            await self._outbox.append(tx, [told])
        await announce()

    async def introspect(self, client: Client, form: Mapping[str, str]) -> Mapping[str, Any]:
        """RFC 7662: what the token says, for clients of its own tenant. In all other cases the answer is the same: inactive."""
        token = await self.check(required(form, "token"))
        if token is None or token.tenant != client.tenant:
            return tokens.INACTIVE
        return tokens.introspection(token)


def _to_certificate(certificate: str | None, proofs: Sequence[str]) -> tokens.Binding:
    """The binding to the client's certificate (RFC 8705, 3). Raises Refusal."""
    if certificate is None:
        raise Refusal(
            "invalid_request",
            "The tokens of this client are bound to a certificate: ask at the token endpoint for mutual TLS.",
            reason="no-certificate",
        )
    if proofs:  # the client would believe that its token is bound to that key
        raise Refusal(
            "invalid_request",
            "The tokens of this client are bound to a certificate: it sends no DPoP proof.",
            reason="proof-and-certificate",
        )
    return tokens.Binding("x5t#S256", certificate)
