"""Who asks: the result of authentication, and all that policies get to know about the sender of a request."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from tallystick.chassis.auth.problems import InsufficientScope
from tallystick.kernel.secret import Secret


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated client, at the edge (access token) or inside (transaction token).

    * `tenant` scopes every query. `client_id` is `cli_...`. `token_id` is the token's `jti`.
    * `actor` is who acts: the client, or the service that acts on its behalf in the background (claim `act`, RFC 8693
      section 4.1).
    * `caller` is the calling service, as authenticated by the mesh; empty at the edge.
    * `inner`: it came with a transaction token.
    * `jkt` is the thumbprint (RFC 7638) of the key that the access token is bound to; empty inside, and for a token that is bound
      to a certificate (RFC 8705).
    * `credential` is the token itself, kept for `Authenticator.exchange`; its repr shows nothing.
    """

    tenant: str
    client_id: str
    scopes: frozenset[str]
    token_id: str
    actor: str
    expires_at: datetime
    caller: str = ""
    inner: bool = False
    jkt: str = ""
    credential: Secret[str] | None = None

    def require_scope(self, scope: str) -> None:
        """Raise `InsufficientScope` (403, RFC 6750 section 3.1) unless the token carries `scope`."""
        if scope not in self.scopes:
            raise InsufficientScope(scope, "DPoP" if self.jkt or self.inner else "Bearer")


#: Attributes that a policy may look at: Cedar's strings, 64-bit integers, booleans and sets of strings.
Attribute = str | int | bool | frozenset[str]


class Resource(msgspec.Struct, frozen=True):
    """What is asked for: the Cedar entity `<type>::"<id>"`. `attrs` has at least `tenant`; `id` is empty for what doesn't exist yet."""

    type: str
    id: str
    attrs: Mapping[str, Attribute]
