"""What identity's inner endpoints refuse. Its OAuth endpoints answer errors as RFC 6749, section 5.2, says."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, InvalidRequest, NotFound, Unauthenticated


class TenantExists(Conflict):
    slug, title = "tenant-exists", "A tenant of this name exists"


class TenantNotFound(NotFound):
    slug, title = "tenant-not-found", "There is no such tenant"


class ClientNotFound(NotFound):
    slug, title = "client-not-found", "There is no such client"


class KeyNotFound(NotFound):
    slug, title = "signing-key-not-found", "There is no such signing key, or it is retired"


class InvalidScope(InvalidRequest):
    slug, title = "invalid-scope", "This is not a list of the platform's scopes"


class InvalidClientKey(InvalidRequest):
    slug, title = "invalid-client-key", "This is not a public key that a client may use"


class TokenRefused(Unauthenticated):
    slug, title = "token-refused", "The token is not valid"
