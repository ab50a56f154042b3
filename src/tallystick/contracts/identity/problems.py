"""The problems of identity's inner endpoints. Its OAuth endpoints answer errors as RFC 6749, section 5.2, says."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, InvalidRequest, NotFound, Unauthenticated


class TenantExists(Conflict):
    """Names of tenants are unique, and the platform's own name is reserved. Choose another name."""

    slug, title = "tenant-exists", "A tenant of this name exists"


class TenantNotFound(NotFound):
    """No tenant has this name. `tallystick tenant list` lists the tenants, `tallystick tenant create` makes one."""

    slug, title = "tenant-not-found", "Tenant not found"


class ClientNotFound(NotFound):
    """No client has this id. `tallystick client list` lists the clients."""

    slug, title = "client-not-found", "Client not found"


class KeyNotFound(NotFound):
    """No signing key has this id, or it is retired already. `GET /internal/admin/keys` lists the keys that can be retired."""

    slug, title = "signing-key-not-found", "Signing key not found, or retired"


class InvalidScope(InvalidRequest):
    """Scopes are separated by single spaces, and none is repeated. The detail names the scope that the platform does not know, and
    lists those that exist.
    """

    slug, title = "invalid-scope", "Invalid scope"


class InvalidClientKey(InvalidRequest):
    """A client's key is a public JWK of type EC P-256, RSA or Ed25519, with the members of its type and a fitting algorithm. The detail
    says what is wrong, and `kid` with which key. A key for which everybody can make signatures is refused too.
    """

    slug, title = "invalid-client-key", "Invalid client key"


class TokenRefused(Unauthenticated):
    """Identity does not exchange this token: it has expired, was revoked, or is no access token of the platform. Get a new one."""

    slug, title = "token-refused", "The token is not valid"
