"""Client authentication by `private_key_jwt` (RFC 7523): signed with a registered key, meant for this server, current, and used once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tallystick.chassis.auth import jose
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.services.identity.model import assertions
from tallystick.services.identity.model.clients import Client
from tallystick.services.identity.model.forms import required
from tallystick.services.identity.model.refusals import AuthenticationFailed
from tallystick.services.identity.service.failures import FailureLog
from tallystick.services.identity.store import Store

MAX_ASSERTION = 6 * 1024


class ClientAuthentication:
    """`authenticate` is the only way in for the token, revocation and introspection endpoints."""

    def __init__(self, store: Store, clock: Clock, issuer: str, failures: FailureLog) -> None:
        self._store = store
        self._clock = clock
        self._issuer = issuer
        self._failures = failures
        self._nobody = _keys_of_nobody()

    async def authenticate(self, form: Mapping[str, str], source: str, *, authorization: str | None) -> Client:
        """The client that sent the request.

        `source` is the address that it came from, `authorization` the header of that name, if there was one. Raises AuthenticationFailed,
        which is counted and looks the same to the caller whatever the cause, and RateLimited after too many failures from that address.
        """
        self._failures.admit(source)
        try:
            return await self._authenticate(form, authorization=authorization)
        except AuthenticationFailed as failure:
            self._failures.add(source, failure)
            raise

    async def _authenticate(self, form: Mapping[str, str], *, authorization: str | None) -> Client:
        if authorization is not None:
            raise AuthenticationFailed("another-method", scheme=authorization.partition(" ")[0])
        if "client_secret" in form:
            raise AuthenticationFailed("another-method")
        if form.get("client_assertion_type") != assertions.TYPE:
            raise AuthenticationFailed("assertion-type")
        if "client_assertion" not in form:
            raise AuthenticationFailed("no-assertion")
        try:
            compact = jose.parse(required(form, "client_assertion"), MAX_ASSERTION)
        except jose.Refused as error:
            raise AuthenticationFailed("not-a-jws") from error
        algorithm, kid = assertions.check_header(json_object(compact.header))
        claims = json_object(compact.payload)
        claimed = assertions.claimed_client(claims, form.get("client_id"))
        client, client_id = await self._client(claimed)
        key = client.key_for(kid, algorithm) if client is not None and client.active else None
        # A signature is always verified, so that the time taken does not reveal which clients and keys exist.
        public = jose.attributable_key(msgspec.convert(dict(key.jwk), jose.Jwk)) if key else self._nobody[algorithm]
        try:
            jose.verify(algorithm, public, compact)
        except jose.Refused as error:
            raise AuthenticationFailed("signature" if key else "unknown", client_id) from error
        if client is None or key is None:
            raise AuthenticationFailed("unknown", client_id)
        now = self._clock.now()
        assertion = assertions.check_claims(claims, claimed, issuer=self._issuer, now=now)
        # Last, so that only the holder of the key can add rows to this table.
        if not await self._store.use_assertion(
            client.id, hashlib.sha256(assertion.jti.encode()).digest(), assertion.expires_at
        ):
            raise AuthenticationFailed("replayed", client_id)
        return client

    async def _client(self, claimed: str) -> tuple[Client | None, str | None]:
        """The claimed client, and its id if it exists: unknown ids are not counted by name."""
        try:
            client = await self._store.get_client(ids.clients.parse(claimed))
        except ids.InvalidId:
            return None, None
        return client, claimed if client is not None else None

    async def forget(self) -> None:
        """Delete used assertions that have expired by every replica's clock, and are refused for that reason."""
        await self._store.forget_assertions(self._clock.now() - assertions.CLOCKS)


def json_object(raw: bytes) -> dict[str, Any]:
    """A part of a JWS as a JSON object. Raises AuthenticationFailed. (Deep nesting ends in a RecursionError.)"""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AuthenticationFailed("not-json") from error


def _keys_of_nobody() -> dict[str, jose.PublicKey]:
    """A key for each algorithm that never signed anything."""
    ed = ed25519.Ed25519PrivateKey.generate().public_key()
    # The modulus need not be a product of primes: a verification takes as long with any.
    modulus = (1 << 2047) | int.from_bytes(hashlib.shake_256(b"nobody's key").digest(255), "big") | 1
    return {
        "ES256": ec.generate_private_key(ec.SECP256R1()).public_key(),
        "PS256": rsa.RSAPublicNumbers(65537, modulus).public_key(),
        "EdDSA": ed,
        "Ed25519": ed,
    }
