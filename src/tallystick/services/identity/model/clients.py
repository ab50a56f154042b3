"""API clients and their public keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from tallystick.contracts.identity.messages import PublicJwk
from tallystick.contracts.identity.problems import InvalidClientKey
from tallystick.kernel.ids import ClientId

#: The algorithms that a key may be used with: FAPI 2.0, 5.4. RFC 9864 names `EdDSA` with Ed25519 after the curve.
ALGORITHMS: dict[tuple[str, str | None], tuple[str, ...]] = {
    ("EC", "P-256"): ("ES256",),
    ("RSA", None): ("PS256",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),
}

_MEMBERS = {"EC": ("crv", "x", "y"), "RSA": ("n", "e"), "OKP": ("crv", "x")}


@dataclass(frozen=True, slots=True)
class ClientKey:
    kid: str
    jwk: Mapping[str, str]
    """The members that make the key, and `kid`."""
    algorithms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Client:
    id: ClientId
    tenant: str
    name: str
    scopes: tuple[str, ...]
    keys: tuple[ClientKey, ...]
    created_at: datetime
    revoked_at: datetime | None = None
    certificate_bound: bool = False
    """Its tokens are bound to its TLS client certificate (RFC 8705, 3.4), not to a DPoP key."""

    @property
    def active(self) -> bool:
        return self.revoked_at is None

    def key_for(self, kid: str | None, alg: str) -> ClientKey | None:
        """The key with this `kid`. Without a `kid`, the only key that fits the algorithm; None if several do: it never guesses."""
        fitting = [key for key in self.keys if alg in key.algorithms and (kid is None or key.kid == kid)]
        return fitting[0] if len(fitting) == 1 else None


@dataclass(frozen=True, slots=True)
class Tenant:
    name: str
    created_at: datetime


def client_keys(jwks: Sequence[PublicJwk]) -> tuple[ClientKey, ...]:
    """The keys of a registration. Raises InvalidClientKey for anything that a client may not authenticate with.

    Whether the numbers form a valid key (a point on the curve, an RSA modulus of the right size) is checked when the key is loaded.
    """
    if len({jwk.kid for jwk in jwks}) != len(jwks):
        raise InvalidClientKey("two keys have the same kid")
    return tuple(_client_key(jwk) for jwk in jwks)


def _client_key(jwk: PublicJwk) -> ClientKey:
    algorithms = ALGORITHMS.get((jwk.kty, jwk.crv))
    if algorithms is None:
        raise InvalidClientKey("use EC P-256, RSA or OKP Ed25519", kid=jwk.kid)
    if jwk.alg is not None:
        if jwk.alg not in algorithms:
            raise InvalidClientKey(f"a key of this type is for {algorithms[0]}", kid=jwk.kid)
        # Both names of the Ed25519 algorithm stay usable.
        algorithms = algorithms if jwk.kty == "OKP" else (jwk.alg,)
    members: dict[str, str] = {"kty": jwk.kty}
    given = msgspec.structs.asdict(jwk)
    for name in _MEMBERS[jwk.kty]:
        if not given[name]:
            raise InvalidClientKey(f"the member {name} is missing", kid=jwk.kid)
        members[name] = given[name]
    foreign = {name for name in ("crv", "x", "y", "n", "e") if given[name] is not None} - members.keys()
    if foreign:
        raise InvalidClientKey(f"members of another key type: {', '.join(sorted(foreign))}", kid=jwk.kid)
    return ClientKey(jwk.kid, members | {"kid": jwk.kid}, algorithms)
