"""Transaction tokens: the context of a request or of background work, for internal calls (RFC 8693, OAuth transaction tokens).

An access token is exchanged once. After that the mesh identifies the callers, and the transaction token says on whose behalf they act.
"""

from __future__ import annotations

import secrets

from tallystick.chassis.auth import Authorizer, Resource
from tallystick.chassis.db import Database
from tallystick.chassis.outbox import Outbox
from tallystick.contracts.identity.messages import ServiceTokenIssued, ServiceTokenRequest, TransactionToken
from tallystick.contracts.identity.problems import ClientNotFound, TokenRefused
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.services.identity.model import tokens
from tallystick.services.identity.service.facts import fact
from tallystick.services.identity.service.peers import peer
from tallystick.services.identity.service.signing import SigningKeys
from tallystick.services.identity.service.tokens import AccessTokens
from tallystick.services.identity.store import Store


class TransactionTokens:
    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        outbox: Outbox,
        clock: Clock,
        authorizer: Authorizer,
        keys: SigningKeys,
        access_tokens: AccessTokens,
        issuer: str,
        trust_domain: str,
    ) -> None:
        self._database = database
        self._store = store
        self._outbox = outbox
        self._clock = clock
        self._authorizer = authorizer
        self._keys = keys
        self._access_tokens = access_tokens
        self._issuer = issuer
        self._trust_domain = trust_domain

    async def exchange(self, access_token: str, caller: str) -> TransactionToken:
        """Exchange an access token that a service received at the edge. Raises TokenRefused for any token that is not valid.

        The caller has checked the proof of possession: it belongs to the request, which only the caller has seen.
        """
        token = await self._access_tokens.check(access_token)
        if token is None:
            raise TokenRefused
        now = self._clock.now()
        self._authorizer.require(
            peer(caller, token.tenant, now),
            action="exchangeToken",
            resource=Resource("Client", token.client_id, {"tenant": token.tenant}),
        )
        claims = tokens.transaction_claims(
            token,
            caller,
            issuer=self._issuer,
            trust_domain=self._trust_domain,
            jti=secrets.token_urlsafe(16),
            now=now,
        )
        if claims["exp"] <= claims["iat"]:  # its last second
            raise TokenRefused
        return await self._signed(claims)

    async def for_service(self, request: ServiceTokenRequest, caller: str) -> TransactionToken:
        """A token for work without its client, such as resuming a payment after a crash. Each one is told as a fact.

        The client may be revoked by now: what it began with a valid token must still be completed. Raises Forbidden by policy, and
        ClientNotFound if the tenant has no such client.
        """
        now = self._clock.now()
        self._authorizer.require(
            peer(caller, request.tenant, now),
            action="issueServiceToken",
            resource=Resource("Tenant", request.tenant, {"tenant": request.tenant}),
        )
        client = await self._store.get_client(_client_id(request.subject))
        if client is None or client.tenant != request.tenant:
            raise ClientNotFound("the tenant has no such client")
        claims = tokens.service_claims(
            request.tenant,
            request.subject,
            request.purpose,
            caller,
            issuer=self._issuer,
            trust_domain=self._trust_domain,
            jti=secrets.token_urlsafe(16),
            now=now,
        )
        answer = await self._signed(claims)
        told = fact(
            "identity.service_token.issued",
            tenant=request.tenant,
            actor=caller,
            resource=request.subject,
            at=now,
            data=ServiceTokenIssued(jti=claims["jti"], purpose=request.purpose, expires_in=answer.expires_in),
        )
        async with self._database.transaction() as tx:
            await self._outbox.append(tx, [told])
        return answer

    async def _signed(self, claims: tokens.Claims) -> TransactionToken:
        token = await self._keys.sign("transaction", tokens.TRANSACTION_TYPE, claims)
        return TransactionToken(transaction_token=token, expires_in=claims["exp"] - claims["iat"])


def _client_id(text: str) -> ids.ClientId:
    try:
        return ids.clients.parse(text)
    except ids.InvalidId:
        raise ClientNotFound("the tenant has no such client") from None
