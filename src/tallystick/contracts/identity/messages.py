"""Identity's messages. Those at the edge are defined by RFCs: 6749, 7009, 7523, 7662, 8414, 9449, 9728."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec

from tallystick.kernel.clock import InstantWire
from tallystick.kernel.ids import ClientIdWire, TenantName

#: All scopes of the platform, and what each lets a client do. A client is registered for some of them.
SCOPES: dict[str, str] = {
    "tokens:write": "store and destroy cards and bank accounts",
    "tokens:read": "see stored cards and bank accounts, masked",
    "tokens:reveal": "see a stored number in clear",
    "books:write": "open books, set their charts and seal them",
    "books:read": "see books and what they add up to",
    "books:import": "bring accounts and history into a book from a file",
    "books:export": "take all of a book away as a file",
    "accounts:write": "open, change, freeze and close accounts",
    "accounts:read": "see accounts, balances and entries",
    "transfers:write": "move money between accounts",
    "transfers:read": "see transfers",
    "approvals:write": "say which transactions need approvals, and whose",
    "approvals:sign": "approve or reject what others propose",
    "payments:write": "take and cancel payments",
    "payments:read": "see payments and refunds",
    "refunds:write": "give money back",
    "audit:read": "read the transparency log",
    "webhooks:write": "manage webhook endpoints",
}

#: Scopes that move money. A token with one of them is valid for 120 s instead of 300 s.
MONEY_SCOPES = frozenset({"payments:write", "transfers:write", "refunds:write", "approvals:sign", "books:import"})

ClientName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[^\x00-\x1f\x7f]+$", min_length=1, max_length=100, description="a name without control characters"
    ),
]
ScopeText = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
"""Scopes separated by single spaces (RFC 6749, 3.3)."""
Purpose = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9._-]*$", min_length=3, max_length=64)]
SubjectName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]*$", min_length=3, max_length=64)]


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Immutable; unknown fields are refused."""


# ---- tokens inside the mesh ----------------------------------------------------------------------------------------


class TokenExchange(_Message, frozen=True):
    """An access token (RFC 9068) as received at the edge."""

    access_token: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class TransactionToken(_Message, frozen=True):
    """A token with the user's context for inner calls (`typ: txntoken+jwt`), valid for `expires_in` seconds."""

    transaction_token: str
    expires_in: int


class ServiceTokenRequest(_Message, frozen=True):
    """Asks for a token for a service's background work in the name of a tenant's client, with its purpose."""

    tenant: TenantName
    subject: SubjectName
    purpose: Purpose


RevocationKind = Literal["jti", "client", "kid", "all-before"]


class Revocation(_Message, frozen=True):
    """A revocation. `until` (Unix seconds) is when the last token that it concerns expires.

    `id` is a token's jti, a client's id, a signing key's kid, or for `all-before` a Unix time: tokens issued before it are revoked.
    Epochs count 1, 2, 3 ... without gaps, in the order in which the revocations took effect.
    """

    epoch: int
    kind: RevocationKind
    id: str
    until: int


class Revocations(_Message, frozen=True):
    """All revocations that have not expired, as of `epoch`."""

    epoch: int
    revocations: list[Revocation]


class KeySet(_Message, frozen=True):
    """RFC 7517, section 5."""

    keys: list[dict[str, Any]]


# ---- OAuth, at the edge: forms and answers for the OpenAPI document; identity decodes and encodes them itself --------

_Assertion = Annotated[str, msgspec.Meta(description="a JWT signed by the client's key (RFC 7523)")]


class _Authenticated(msgspec.Struct, frozen=True, kw_only=True):
    client_assertion_type: Literal["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"]
    client_assertion: _Assertion
    client_id: ClientIdWire | None = None
    """Optional, because the assertion identifies the client. If given, it has to be the same."""


class TokenRequest(_Authenticated, frozen=True, kw_only=True):
    """`scope`: scopes separated by spaces; if left out, all that the client is registered for."""

    grant_type: Literal["client_credentials"]
    scope: ScopeText | None = None
    resource: str | None = None


class AboutToken(_Authenticated, frozen=True, kw_only=True):
    """The token to revoke or to introspect."""

    token: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    token_type_hint: Literal["access_token"] | None = None


class AccessToken(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 6749, section 5.1. `expires_in`: seconds."""

    access_token: str
    token_type: Literal["DPoP", "Bearer"]
    expires_in: int
    scope: str


class Introspection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 7662, section 2.2. Of an invalid token, and of another tenant's, it tells only that the token is not active."""

    active: bool
    scope: str | None = None
    client_id: ClientIdWire | None = None
    tenant: str | None = None
    token_type: str | None = None
    exp: int | None = None
    iat: int | None = None
    sub: str | None = None
    aud: str | None = None
    iss: str | None = None
    jti: str | None = None
    cnf: dict[str, str] | None = None


class OAuthError(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 6749, section 5.2."""

    error: str
    error_description: str


# ---- administration, by the operator -------------------------------------------------------------------------------


class CreateTenant(_Message, frozen=True):
    name: TenantName


class Tenant(_Message, frozen=True):
    name: str
    created_at: InstantWire


_Private = Annotated[None, msgspec.Meta(description="private: never sent")]


class PublicJwk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A client's public key. Unknown members are ignored, but those of a private key are refused: a key whose private part was sent by
    mistake must not be used.
    """

    IGNORES: ClassVar[str] = "what is not understood (RFC 7517, 4)"

    kty: Literal["EC", "RSA", "OKP"]
    kid: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[\x21-\x7e]+$",
            min_length=1,
            max_length=128,
            description="a key's id: printable ASCII without spaces",
        ),
    ]
    alg: Literal["ES256", "PS256", "EdDSA", "Ed25519"] | None = None
    use: Literal["sig"] | None = None
    key_ops: list[Literal["verify"]] | None = None
    crv: Literal["P-256", "Ed25519"] | None = None
    x: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    y: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    n: Annotated[str, msgspec.Meta(max_length=1400)] | None = None
    e: Annotated[str, msgspec.Meta(max_length=16)] | None = None
    d: _Private = None
    p: _Private = None
    q: _Private = None
    dp: _Private = None
    dq: _Private = None
    qi: _Private = None
    oth: _Private = None
    k: _Private = None


class PublicJwks(_Message, frozen=True):
    keys: Annotated[list[PublicJwk], msgspec.Meta(min_length=1, max_length=8)]


class CreateClient(_Message, frozen=True):
    tenant: TenantName
    name: ClientName
    scope: ScopeText
    jwks: PublicJwks
    tls_client_certificate_bound_access_tokens: bool = False
    """RFC 8705, 3.4: whether the client's tokens are bound to its certificate. Otherwise they are bound to a DPoP key (RFC 9449)."""


class Client(_Message, frozen=True):
    client_id: ClientIdWire
    tenant: str
    name: str
    scope: str
    key_ids: list[str]
    tls_client_certificate_bound_access_tokens: bool
    created_at: InstantWire
    revoked_at: InstantWire | None = None


class RevokedEverything(_Message, frozen=True):
    """Tokens that were issued before this time are revoked."""

    issued_before: InstantWire


class SigningKey(_Message, frozen=True):
    kid: str
    purpose: Literal["access", "transaction"]
    state: Literal["pending", "active", "retiring", "retired"]
    created_at: InstantWire
    activated_at: InstantWire | None = None
    retiring_at: InstantWire | None = None
    retired_at: InstantWire | None = None


# ---- what identity tells -------------------------------------------------------------------------------------------


class ClientCreated(_Message, frozen=True):
    scope: ScopeText
    key_ids: tuple[str, ...]
    key_thumbprints: tuple[str, ...]
    """The RFC 7638 thumbprints of the keys, in the order of `key_ids`, which the client chose itself."""
    tls_client_certificate_bound_access_tokens: bool


class TokenRevoked(_Message, frozen=True):
    jti: str | None = None
    """The id of the revoked token. Without it, all tokens that were issued before were revoked."""


class ServiceTokenIssued(_Message, frozen=True):
    jti: str
    purpose: Purpose
    expires_in: int
    """Seconds."""


class AuthenticationsFailed(_Message, frozen=True):
    minute: InstantWire
    """The beginning of the minute in which they were counted."""
    count: int
    reasons: dict[str, int]


class PlatformRestored(_Message, frozen=True):
    taken_at: InstantWire
    """When the backup was taken."""
    program: str
    """The version that made the backup."""
    log_size: int
    """How many entries the audit log had then. The log goes on from there: checkpoints of more entries, signed before the restore, are of a
    history that was lost.
    """


class SigningKeyFact(_Message, frozen=True):
    """A signing key, whose id is the fact's resource."""

    purpose: Literal["access", "transaction"]
    leaked: bool
    """Whether the key was retired because somebody else may have it."""
