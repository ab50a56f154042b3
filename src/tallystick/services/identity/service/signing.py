"""The platform's signing keys: sign, verify, publish, rotate.

All replicas sign with the same keys, which are in the database with their private halves sealed by the key ring. The list of keys is read
each time, and only the opened private keys are cached. With a cached list, a replica would go on signing with, and publishing, a leaked key
that was retired at another replica; and it would not know the key that replaced it when a service asks for that.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tallystick.chassis.auth import jose
from tallystick.chassis.auth.tokens import MAX_TOKEN
from tallystick.chassis.db import Database, Transaction
from tallystick.chassis.fact import PLATFORM
from tallystick.chassis.keys import Keyring
from tallystick.chassis.outbox import Fact, Outbox
from tallystick.contracts.identity.messages import SigningKeyFact
from tallystick.contracts.identity.problems import KeyNotFound
from tallystick.kernel.clock import Clock
from tallystick.services.identity.model.revocations import revoked_key
from tallystick.services.identity.model.signing import (
    PURPOSES,
    Create,
    Key,
    Move,
    Purpose,
    Rotation,
    State,
    Step,
    created,
    plan,
)
from tallystick.services.identity.service.facts import SELF, fact
from tallystick.services.identity.service.revocations import Revocations
from tallystick.services.identity.store import SIGNING_KEY, Store

_ES256 = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A key that was made and sealed, but is not stored yet."""

    kid: str
    public_jwk: dict[str, Any]
    sealed: bytes


class NoSigningKey(Exception):
    """There is no active key. The schedule will make one; until then no token can be issued."""


class SigningKeys:
    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        outbox: Outbox,
        keyring: Keyring,
        clock: Clock,
        revocations: Revocations,
        rotation: Rotation,
    ) -> None:
        self._database = database
        self._store = store
        self._outbox = outbox
        self._keyring = keyring
        self._clock = clock
        self._revocations = revocations
        self._rotation = rotation
        self._opened: dict[str, ec.EllipticCurvePrivateKey] = {}

    async def sign(self, purpose: Purpose, typ: str, claims: dict[str, Any]) -> str:
        """A compact ES256 JWS, signed by the active key of that purpose. Raises NoSigningKey."""
        for key, private in await self._usable():
            if key.purpose == purpose and key.state == "active":
                return _signed(key, private, typ, claims)
        raise NoSigningKey(f"no active signing key for {purpose} tokens")

    async def verify(self, purpose: Purpose, typ: str, token: str) -> tuple[dict[str, Any], str] | None:
        """The claims and the key's id; None if it is not a token of ours of that type, signed by a key that is still in use."""
        try:
            compact = jose.parse(token, MAX_TOKEN)
            header = _json_object(compact.header)
            if header.get("typ") != typ or header.get("alg") != "ES256" or "crit" in header:
                return None
            for key, private in await self._usable():
                if key.kid == header.get("kid") and key.purpose == purpose:
                    jose.verify("ES256", private.public_key(), compact)
                    return _json_object(compact.payload), key.kid
            return None
        except (jose.Refused, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    async def published(self, purposes: Collection[Purpose] = PURPOSES) -> list[dict[str, Any]]:
        """The public keys (RFC 7517) of valid tokens, and those that will sign next."""
        return [dict(key.public_jwk) for key, _ in await self._store.usable_signing_keys() if key.purpose in purposes]

    async def list_keys(self) -> list[Key]:
        return await self._store.list_signing_keys()

    async def rotate(self) -> list[Step]:
        """Carry out `plan`; returns the steps done. Any replica may do so at any time."""
        # Keys are made and sealed before the transaction, so that nothing slow happens while it holds the lock.
        foreseen = plan(await self._store.list_signing_keys(), self._clock.now(), self._rotation)
        if not foreseen:
            return []
        fresh = {step.purpose: await self._make() for step in foreseen if isinstance(step, Create)}
        async with self._database.transaction() as tx:
            return await self._carry_out(tx, fresh)

    async def _carry_out(self, tx: Transaction, fresh: dict[Purpose, _Fresh]) -> list[Step]:
        now = self._clock.now()
        done: list[Step] = []
        for step in plan(await self._store.lock_signing_keys(tx), now, self._rotation):
            if isinstance(step, Move):
                await self._store.move_signing_key(tx, step, now)
                await self._outbox.append(tx, [_told(step.kid, step.purpose, step.to, now)])
            elif (made := fresh.pop(step.purpose, None)) is not None:
                key = created(made.kid, step, made.public_jwk, now)
                await self._store.insert_signing_key(tx, key, made.sealed)
                await self._outbox.append(tx, [_told(key.kid, key.purpose, key.state, now)])
            else:  # it became due only now: the next run makes the key
                continue
            done.append(step)
        return done

    async def retire(self, kid: str, actor: str) -> Key:
        """Retire a leaked key: erase it, revoke its tokens, and make another key active at once. Raises KeyNotFound."""
        made = await self._make()
        async with self._database.transaction() as tx:
            keys = {key.kid: key for key in await self._store.lock_signing_keys(tx)}
            if kid not in keys or not keys[kid].published:
                raise KeyNotFound("no such signing key, or it is retired already")
            now, purpose = self._clock.now(), keys[kid].purpose
            await self._store.move_signing_key(tx, Move(kid, purpose, "retired"), now)
            await self._outbox.append(tx, [_told(kid, purpose, "retired", now, actor=actor, leaked=True)])
            announce = await self._revocations.record(tx, revoked_key(kid, now))
            if keys[kid].state == "active":
                await self._succeed(tx, purpose, [key for key in keys.values() if key.kid != kid], made, now)
        await announce()
        return next(key for key in await self._store.list_signing_keys() if key.kid == kid)

    async def _succeed(self, tx: Transaction, purpose: Purpose, others: list[Key], made: _Fresh, now: datetime) -> None:
        """Activate the pending key or, without one, a new key. Nobody has cached that one, but verifiers fetch a key that they don't know."""
        pending = next((key for key in others if key.purpose == purpose and key.state == "pending"), None)
        if pending is not None:
            await self._store.move_signing_key(tx, Move(pending.kid, purpose, "active"), now)
        else:
            key = created(made.kid, Create(purpose, "active"), made.public_jwk, now)
            await self._store.insert_signing_key(tx, key, made.sealed)
        await self._outbox.append(tx, [_told(pending.kid if pending else made.kid, purpose, "active", now)])

    async def _make(self) -> _Fresh:
        private = ec.generate_private_key(ec.SECP256R1())
        numbers = private.public_key().public_numbers()
        x, y = (jose.encode(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        kid = jose.thumbprint(jose.Jwk(kty="EC", crv="P-256", x=x, y=y))
        jwk = {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "use": "sig", "alg": "ES256"}
        plain = private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return _Fresh(kid, jwk, await self._keyring.seal(plain, SIGNING_KEY.aad(PLATFORM, kid)))

    async def _usable(self) -> list[tuple[Key, ec.EllipticCurvePrivateKey]]:
        usable = [
            (key, self._opened.get(key.kid) or await self._open(key.kid, sealed))
            for key, sealed in await self._store.usable_signing_keys()
        ]
        self._opened = {key.kid: private for key, private in usable}
        return usable

    async def _open(self, kid: str, sealed: bytes) -> ec.EllipticCurvePrivateKey:
        private = serialization.load_der_private_key(
            await self._keyring.open_sealed(sealed, SIGNING_KEY.aad(PLATFORM, kid)), None
        )
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            msg = f"the signing key {kid} is not an EC key"
            raise TypeError(msg)
        return private


def _signed(key: Key, private: ec.EllipticCurvePrivateKey, typ: str, claims: dict[str, Any]) -> str:
    header = msgspec.json.encode({"alg": "ES256", "typ": typ, "kid": key.kid})
    signed = f"{jose.encode(header)}.{jose.encode(msgspec.json.encode(claims))}"
    r, s = decode_dss_signature(private.sign(signed.encode("ascii"), _ES256))
    return f"{signed}.{jose.encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _json_object(raw: bytes) -> dict[str, Any]:
    return msgspec.json.decode(raw, type=dict[str, Any])


#: The type of the fact that tells of a key's new state.
_TOLD: Final[dict[State, str]] = {
    "pending": "identity.key.pending",
    "active": "identity.key.active",
    "retiring": "identity.key.retiring",
    "retired": "identity.key.retired",
}


def _told(kid: str, purpose: Purpose, state: State, now: datetime, *, actor: str = SELF, leaked: bool = False) -> Fact:
    data = SigningKeyFact(purpose=purpose, leaked=leaked)
    return fact(_TOLD[state], tenant=PLATFORM, actor=actor, resource=kid, at=now, data=data)
