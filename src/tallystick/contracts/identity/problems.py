"""What identity's inner endpoints refuse. Its OAuth endpoints answer errors as RFC 6749, section 5.2, says."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, InvalidRequest, NotFound, Unauthenticated


class TenantExists(Conflict):
    """Names of tenants are unique; that of the platform itself is taken too. Choose another."""

    slug, title = "tenant-exists", "A tenant of this name exists"


class TenantNotFound(NotFound):
    """`tallystick tenant list` has those that there are, `tallystick tenant create` makes one."""

    slug, title = "tenant-not-found", "There is no such tenant"


class ClientNotFound(NotFound):
    """`tallystick client list` has those that there are."""

    slug, title = "client-not-found", "There is no such client"


class KeyNotFound(NotFound):
    """`GET /internal/admin/keys` has those that can be retired."""

    slug, title = "signing-key-not-found", "There is no such signing key, or it is retired"


class InvalidScope(InvalidRequest):
    """Scopes are separated by one space and each is there once. The detail says which one is not the platform's, and which there are."""

    slug, title = "invalid-scope", "This is not a list of the platform's scopes"


class InvalidClientKey(InvalidRequest):
    """EC P-256, RSA or Ed25519, as a public JWK with the members of its type and an algorithm that fits. The detail says what is wrong,
    `kid` with which key; a key that everybody can sign for is none.
    """

    slug, title = "invalid-client-key", "This is not a public key that a client may use"


class TokenRefused(Unauthenticated):
    """Identity does not exchange this token: it has expired, was revoked, or is no access token of ours. Get a new one."""

    slug, title = "token-refused", "The token is not valid"
