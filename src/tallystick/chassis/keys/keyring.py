"""A service's key ring: root -> service key -> tenant keys, subject keys, and one derivation key for keyed hashes.

* The *service key* is wrapped by the root and wraps all other keys of the service. Rotating it re-wraps keys, not data.
* A *tenant key* seals a tenant's values. After a rotation new values are sealed under the new version; `DataKeys` re-seals the old.
* A *subject key* seals one value, that of one shreddable subject. Destroying the key (`shred`) destroys the value, wherever copies of
  the ciphertext are. A database backup still has the wrapped key, until it expires or the root version is forgotten. Rotating a
  subject key re-seals its value.
* From the *derivation key* `derive` and `mac` make an independent key for each purpose and tenant (HKDF-SHA256, RFC 5869). It is
  not rotated, because hashes made with it are compared with each other.

Unwrapped tenant and subject keys stay in this process's memory for at most `cache_seconds`. Nothing here ever logs.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tallystick.chassis.keys.envelope import Aad, Forged, Header, KeyringError, UnknownKey, fields, parse
from tallystick.chassis.keys.store import Key, KeyStore, NewKey, OpenRoot, Q
from tallystick.chassis.keys.told import KeysFact
from tallystick.chassis.keys.xaes import KEY_BYTES, Tampered
from tallystick.kernel.clock import Clock, SystemClock

if TYPE_CHECKING:
    from tallystick.chassis.db import Database, Transaction

#: How many derived keys are cached: an HKDF step costs 3 us, a look-up 0.1.
_DERIVED_KEPT: Final = 4096

Plain = bytes | bytearray


@dataclass(slots=True)
class SubjectKey:
    """A new subject key, stored in the caller's transaction. It seals one value, which must be stored in the same transaction."""

    _ring: Keyring
    _key: Key
    _used: bool = False

    def seal(self, plain: Plain, aad: Aad) -> bytes:
        """Seal the subject's value. A second call raises KeyringError: a rotation re-seals one value and destroys the old key."""
        if self._used:
            raise KeyringError("a subject's key seals one value")
        self._used = True
        return self._ring._seal(self._key, plain, aad)


class Keyring:
    """The open key ring of one service process, for the tasks of one event loop."""

    def __init__(
        self, store: KeyStore, environment: str, service: str, *, cache_seconds: float = 300.0, cache_keys: int = 20_000
    ) -> None:
        self._store = store
        self._environment = environment
        self._service = service
        self._cache_seconds = cache_seconds
        self._cache_keys = cache_keys
        self._derived: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._cache: OrderedDict[Header, tuple[float, Key]] = OrderedDict()
        self._tenants: dict[str, tuple[float, Key]] = {}
        self._making = asyncio.Lock()
        #: How often keys were dropped from the cache.
        self._drops = 0

    @classmethod
    async def open(
        cls,
        database: Database,
        open_root: OpenRoot,
        *,
        environment: str,
        service: str,
        clock: Clock | None = None,
        cache_seconds: float = 300.0,
        tells: bool = False,
    ) -> Keyring:
        """Unwrap the service key, or make the first one. Raises RootError when the root is not the one of this data. `tells`: rotations
        and destructions of keys are told as facts of the service.
        """
        store = KeyStore(database, open_root, environment, service, clock or SystemClock(), tells=tells)
        await store.start()
        return cls(store, environment, service, cache_seconds=cache_seconds)

    # ---- sealing and opening

    async def seal(self, plain: Plain, aad: Aad) -> bytes:
        """Seal under the tenant's current key.

        Call it before a transaction, not inside one: for the first value of a tenant the key is made, in a transaction of its own. If
        all connections of the pool were held by callers that wait here for one more, none would ever come free.
        """
        return self._seal(await self._tenant_key(aad.tenant), plain, aad)

    async def open_sealed(self, blob: bytes, aad: Aad) -> bytes:
        """The plaintext. Raises a KeyringError: Malformed, UnknownKey, Shredded, Forged."""
        (plain,) = await self.open_many([(blob, aad)])
        if isinstance(plain, KeyringError):
            raise plain
        return bytes(plain)

    async def open_many(self, items: Sequence[tuple[bytes, Aad]]) -> list[bytearray | KeyringError]:
        """For each value the plaintext, in a buffer that the caller can overwrite, or the error. At most one round trip."""
        parsed = [_parsed(blob) for blob, _ in items]
        keys = await self._keys({each[0] for each in parsed if not isinstance(each, KeyringError)})
        opened: list[bytearray | KeyringError] = []
        for (_, aad), each in zip(items, parsed, strict=True):
            if isinstance(each, KeyringError):
                opened.append(each)
                continue
            try:
                opened.append(self._unseal(keys[each[0]], each[1], aad))
            except KeyringError as error:
                opened.append(error)
        return opened

    # ---- keyed hashes

    def derive(self, purpose: str, tenant: str = "") -> bytes:
        """A key of 32 bytes for this purpose (and tenant) alone. Every replica derives the same one, at every start."""
        name = (purpose, tenant)
        if (known := self._derived.get(name)) is not None:
            self._derived.move_to_end(name)
            return known
        info = fields("derive", self._environment, self._service, purpose, tenant)
        key = HKDFExpand(hashes.SHA256(), KEY_BYTES, info).derive(self._store.derivation)
        self._derived[name] = key
        if len(self._derived) > _DERIVED_KEPT:
            self._derived.popitem(last=False)
        return key

    def mac(self, purpose: str, data: Plain, tenant: str = "") -> bytes:
        """HMAC-SHA256 under `derive(purpose, tenant)`: 32 bytes, for fingerprints and digests of guessable values."""
        return hmac.digest(self.derive(purpose, tenant), data, "sha256")

    # ---- subjects

    async def new_subject_keys(self, tx: Transaction, owners: Sequence[tuple[str, str]]) -> list[SubjectKey]:
        """A new key for each (tenant, subject), in order, stored in `tx`. Raises KeyringError when a subject has a key already."""
        keys = [self._store.new("subject", tenant, subject) for tenant, subject in owners]
        if await self._store.insert(tx, keys) != len(keys):
            raise KeyringError("one of these subjects has a key already")
        # Not cached: the transaction may be rolled back, and the key with it.
        return [SubjectKey(self, each.key) for each in keys]

    async def shred(self, tx: Transaction, tenant: str, subjects: Sequence[str]) -> int:
        """Destroy the subjects' keys in `tx`; returns how many. Once it is committed their values are `Shredded`: here at once, at other
        replicas when the key leaves their caches.
        """
        await tx.fetch(Q.lock_subject_keys, tenant, list(subjects))
        rows = await tx.fetch(Q.shred, tenant, list(subjects), self._store.clock.now())
        self._drop(tx, [Header(row["key_id"], row["version"]) for row in rows])
        return len(rows)

    # ---- rotation

    async def rotate_service_key(self) -> None:
        """See `KeyStore.rotate_service_key`."""
        await self._store.rotate_service_key()

    async def keep_rotated(self, life: timedelta) -> bool:
        """Rotate the service key if it is older than `life`, if that was asked for, or if an earlier rotation was interrupted; whether it
        did. Before that, keys that are wrapped by an older version of the root are wrapped by the newest one.

        Called by a schedule, at one replica at a time.
        """
        await self._store.follow_root()
        row = await self._store.database.fetchrow(Q.service_key_age)
        due = row is not None and (
            row["unfinished"] or row["asked"] or row["created_at"] + life <= self._store.clock.now()
        )
        if due:
            await self._store.rotate_service_key()
        return due

    async def rotate_tenant(self, tenant: str) -> None:
        """Give the tenant a new key for new values. The old one still opens the old values."""
        current = await self._fetch_tenant_key(tenant)
        successor = self._store.new("tenant", tenant, after=current.header)
        async with self._store.database.transaction() as tx:
            # When another replica rotated in between, its new key is as good as ours, and stays the active one.
            if await tx.fetchrow(
                Q.retire_active, "tenant", tenant, "", current.header.version, self._store.clock.now()
            ):
                await self._store.insert(tx, [successor])
                await self._store.tell(tx, "rotated", KeysFact("tenant", 1, successor.key.header.version), tenant)
        self._tenants.pop(tenant, None)

    async def moves(self, old: Header, tenant: str) -> Callable[[bytes, Aad], bytes]:
        """A function that re-seals a value of the tenant from the older key `old` under the current one; it makes no call to the database,
        and raises Forged. Raises Shredded, UnknownKey.
        """
        # Another replica may have rotated since this one last looked.
        self._tenants.pop(tenant, None)
        current = await self._tenant_key(tenant)
        (key,) = (await self._keys({old})).values()

        def move(blob: bytes, aad: Aad) -> bytes:
            return self._moved(key, parse(blob)[1], current, aad)

        return move

    async def succeed(self, tx: Transaction, values: Sequence[tuple[bytes, Aad]]) -> list[bytes | KeyringError | None]:
        """Re-seal each value under a new version of its subject's key. `tx` has to store the results, because the old versions are marked
        as empty in it.

        The result is None where the key was destroyed or rotated since the value was read, and an error where the value does not open;
        such values stay as they are.
        """
        parsed = [_parsed(blob) for blob, _ in values]
        keys = await self._store.for_update(tx, [each[0] for each in parsed if not isinstance(each, KeyringError)])
        moved: list[bytes | KeyringError | None] = []
        successors: list[NewKey] = []
        for (_, aad), each in zip(values, parsed, strict=True):
            if isinstance(each, KeyringError):
                moved.append(each)
                continue
            if not isinstance(key := keys.pop(each[0], None), Key):
                moved.append(key)
                continue
            successor = self._store.new("subject", key.tenant, key.subject, after=key.header)
            try:
                moved.append(self._moved(key, each[1], successor.key, aad))
                successors.append(successor)
            except KeyringError as error:
                moved.append(error)
        await self._store.retire(tx, [Header(s.key.header.key_id, s.key.header.version - 1) for s in successors])
        if await self._store.insert(tx, successors) != len(successors):
            raise KeyringError("one of these subjects has a newer key already")
        for tenant, count in Counter(each.key.tenant for each in successors).items():
            await self._store.tell(tx, "rotated", KeysFact("value", count), tenant)
        return moved

    async def tell_destroyed(self, tx: Transaction, destroyed: KeysFact, tenant: str) -> None:
        """Tell that keys were destroyed at the end of a rotation."""
        await self._store.tell(tx, "destroyed", destroyed, tenant)

    # ---- inside

    def _moved(self, old: Key | KeyringError, body: bytes, new: Key, aad: Aad) -> bytes:
        plain = self._unseal(old, body, aad)
        try:
            return self._seal(new, plain, aad)
        finally:
            plain[:] = bytes(len(plain))

    def _seal(self, key: Key, plain: Plain, aad: Aad) -> bytes:
        if key.tenant != aad.tenant:
            raise Forged("a value can only be sealed under a key of its own tenant")
        header = key.header.bytes()
        return header + key.cipher.seal(plain, header + aad.bytes(self._environment, self._service))

    def _unseal(self, key: Key | KeyringError, body: bytes, aad: Aad) -> bytearray:
        if isinstance(key, KeyringError):
            raise key
        try:
            return key.cipher.unseal(body, key.header.bytes() + aad.bytes(self._environment, self._service))
        except Tampered:
            raise Forged("the value was changed, or belongs to another place") from None

    async def _tenant_key(self, tenant: str) -> Key:
        known = self._tenants.get(tenant)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        async with self._making:
            known = self._tenants.get(tenant)
            if known is not None and known[0] > time.monotonic():
                return known[1]
            return await self._fetch_tenant_key(tenant)

    async def _fetch_tenant_key(self, tenant: str) -> Key:
        """The tenant's current key, made if it has none."""
        expires = time.monotonic() + self._cache_seconds
        key = await self._store.active_tenant_key(tenant)
        if key is None:
            async with self._store.database.transaction() as tx:
                await self._store.insert(tx, [self._store.new("tenant", tenant)])
            key = await self._store.active_tenant_key(tenant)
            if key is None:
                raise UnknownKey("a key was made for this tenant, but is not there")
        if len(self._tenants) >= self._cache_keys:
            self._tenants.clear()
        self._tenants[tenant] = (expires, key)
        self._remember(key, expires)
        return key

    async def _keys(self, headers: set[Header]) -> dict[Header, Key | KeyringError]:
        now = time.monotonic()
        keys: dict[Header, Key | KeyringError] = {}
        missing: list[Header] = []
        for header in headers:
            known = self._cache.get(header)
            if known is not None and known[0] > now:
                keys[header] = known[1]
                self._cache.move_to_end(header)
            else:
                missing.append(header)
        if missing:
            drops = self._drops
            found = await self._store.find(missing)
            # Not if keys were destroyed meanwhile: the answer may still have one of them.
            if drops == self._drops:
                for key in found.values():
                    if isinstance(key, Key):
                        self._remember(key, now + self._cache_seconds)
            keys.update(found)
        return keys

    def _remember(self, key: Key, expires: float) -> None:
        self._cache[key.header] = (expires, key)
        self._cache.move_to_end(key.header)
        while len(self._cache) > self._cache_keys:
            self._cache.popitem(last=False)

    def _drop(self, tx: Transaction, headers: Sequence[Header]) -> None:
        """Drop keys that `tx` destroys from the cache, now and again after the commit: until then other tasks still find them in the
        database, and cache them again.
        """

        def drop() -> None:
            self._drops += 1
            for header in headers:
                self._cache.pop(header, None)

        if headers:
            drop()
            tx.on_commit(drop)


def _parsed(blob: bytes) -> tuple[Header, bytes] | KeyringError:
    try:
        return parse(blob)
    except KeyringError as error:
        return error
