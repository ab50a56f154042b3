"""The claims of access tokens (RFC 9068) and transaction tokens (draft-ietf-oauth-transaction-tokens), and introspection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from tallystick.kernel import ids
from tallystick.services.identity.model.clients import Client
from tallystick.services.identity.model.scopes import MONEY_LIFE, token_life

ACCESS_TYPE = "at+jwt"
TRANSACTION_TYPE = "txntoken+jwt"

#: The longest life of a transaction token. It never outlives its access token either.
TRANSACTION_LIFE = timedelta(seconds=120)

Claims = dict[str, Any]

TokenType = Literal["DPoP", "Bearer"]


@dataclass(frozen=True, slots=True)
class Binding:
    """What an access token is bound to: the member of `cnf` and its value, a SHA-256 in base64url."""

    method: Literal["jkt", "x5t#S256"]
    """A DPoP key (RFC 9449, 6.1) or a certificate (RFC 8705, 3.1)."""
    thumbprint: str

    @property
    def token_type(self) -> TokenType:
        """The token type. Tokens bound to a certificate keep the type `Bearer` (RFC 8705, 3)."""
        return "DPoP" if self.method == "jkt" else "Bearer"


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A verified access token of ours: signature, issuer, audience and times. Revocation is checked separately."""

    jti: str
    client_id: str
    tenant: str
    scopes: tuple[str, ...]
    issued_at: datetime
    expires_at: datetime
    kid: str
    claims: Mapping[str, Any]


def access_claims(
    client: Client, scopes: tuple[str, ...], *, issuer: str, audience: str, jti: str, bound_to: Binding, now: datetime
) -> Claims:
    """RFC 9068, 2.2. The subject is the client itself."""
    client_id = ids.clients.text(client.id)
    issued = int(now.timestamp())
    return {
        "iss": issuer,
        "aud": audience,
        "sub": client_id,
        "client_id": client_id,
        "tenant": client.tenant,
        "scope": " ".join(scopes),
        "iat": issued,
        "exp": issued + int(token_life(scopes).total_seconds()),
        "jti": jti,
        "cnf": {bound_to.method: bound_to.thumbprint},
    }


def read_access_claims(
    claims: Mapping[str, Any], kid: str, *, issuer: str, audience: str, now: datetime
) -> AccessToken | None:
    """The access token of verified claims; None if it has another issuer or audience, is malformed or has expired."""
    if claims.get("iss") != issuer or claims.get("aud") != audience:
        return None
    texts = [claims.get(name) for name in ("jti", "client_id", "tenant", "scope")]
    times = [claims.get(name) for name in ("iat", "exp")]
    if not all(isinstance(text, str) for text in texts):
        return None
    if not all(isinstance(time, int) and not isinstance(time, bool) and 0 <= time < 1 << 36 for time in times):
        return None
    jti, client_id, tenant, scope = (str(text) for text in texts)
    issued, expires = (datetime.fromtimestamp(int(str(time)), UTC) for time in times)
    if expires <= now:
        return None
    return AccessToken(jti, client_id, tenant, tuple(scope.split(" ")), issued, expires, kid, claims)


def transaction_claims(
    token: AccessToken, caller: str, *, issuer: str, trust_domain: str, jti: str, now: datetime
) -> Claims:
    """The same client, tenant and scopes as the access token, for internal use only; it never outlives the access token.

    All scopes are kept: the first service has checked the one that it needs, and the next ones may need others. `txn` is the access token's
    jti, so that revoking the access token revokes this one too.
    """
    issued = int(now.timestamp())
    return _transaction(
        issuer=issuer,
        trust_domain=trust_domain,
        jti=jti,
        tenant=token.tenant,
        subject=token.client_id,
        scopes=token.scopes,
        actor=caller,
        issued=issued,
        expires=min(int(token.expires_at.timestamp()), issued + int(TRANSACTION_LIFE.total_seconds())),
        transaction=token.jti,
    )


def service_claims(
    tenant: str,
    subject: str,
    purpose: str,
    caller: str,
    *,
    issuer: str,
    trust_domain: str,
    jti: str,
    now: datetime,
) -> Claims:
    """For background work: `act` is the service that does it, `purp` says why.

    It carries no scope: it is not a client's request, and what the service may do is for the callee's policy to say.
    """
    issued = int(now.timestamp())
    return _transaction(
        issuer=issuer,
        trust_domain=trust_domain,
        jti=jti,
        tenant=tenant,
        subject=subject,
        scopes=(),
        actor=caller,
        issued=issued,
        expires=issued + int(TRANSACTION_LIFE.total_seconds()),
        transaction=jti,
    ) | {"purp": purpose}


def _transaction(
    *,
    issuer: str,
    trust_domain: str,
    jti: str,
    tenant: str,
    subject: str,
    scopes: Sequence[str],
    actor: str,
    issued: int,
    expires: int,
    transaction: str,
) -> Claims:
    return {
        "iss": issuer,
        "aud": trust_domain,
        "iat": issued,
        "exp": expires,
        "jti": jti,
        "txn": transaction,
        "sub": subject,
        "azp": subject,
        "tenant": tenant,
        "scope": " ".join(scopes),
        "act": {"sub": actor},
    }


def introspection(token: AccessToken) -> Claims:
    """The answer for an active token (RFC 7662, 2.2; `cnf` by RFC 9449, 6.2, and RFC 8705, 3.2)."""
    kept = ("iss", "aud", "sub", "client_id", "tenant", "scope", "iat", "exp", "jti", "cnf")
    token_type: TokenType = "DPoP" if "jkt" in token.claims["cnf"] else "Bearer"
    return {"active": True, "token_type": token_type} | {
        name: token.claims[name] for name in kept if name in token.claims
    }


INACTIVE: Mapping[str, Any] = {"active": False}

__all__ = [
    "ACCESS_TYPE",
    "INACTIVE",
    "MONEY_LIFE",
    "TRANSACTION_LIFE",
    "TRANSACTION_TYPE",
    "AccessToken",
    "Binding",
    "Claims",
    "access_claims",
    "introspection",
    "read_access_claims",
    "service_claims",
    "transaction_claims",
]
