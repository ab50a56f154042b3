"""Stored keys: the table `data_key` of the service's own database, and the service key that wraps the keys in it."""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from tallystick.chassis import outbox
from tallystick.chassis.db import Queries
from tallystick.chassis.fact import PLATFORM
from tallystick.chassis.keys.envelope import (
    KEY_ID_BYTES,
    Forged,
    Header,
    KeyringError,
    Shredded,
    UnknownKey,
    fields,
)
from tallystick.chassis.keys.told import KeysFact, What, keys_fact
from tallystick.chassis.keys.xaes import KEY_BYTES, Tampered, Xaes

if TYPE_CHECKING:
    from tallystick.chassis.db import Database, Row, Transaction
    from tallystick.chassis.keys.root import Root
    from tallystick.kernel.clock import Clock

#: Opens the root. It is called only when a service key has to be wrapped or unwrapped, so the root does not stay in memory.
OpenRoot = Callable[[], Awaitable["Root"]]
Kind = Literal["service", "derivation", "tenant", "subject"]

Q: Final = Queries.load("tallystick.chassis.keys")
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Key:
    """One unwrapped key, ready for use."""

    header: Header
    kind: Kind
    tenant: str
    subject: str
    cipher: Xaes


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that is not stored yet, with its bytes, which are still needed to wrap it."""

    key: Key
    secret: bytes = field(repr=False)


class KeyStore:
    """Reads, makes, wraps and destroys the rows of `data_key`."""

    def __init__(
        self, database: Database, open_root: OpenRoot, environment: str, service: str, clock: Clock, *, tells: bool
    ) -> None:
        self.database = database
        self._tells = tells
        self.clock = clock
        self._open_root = open_root
        self._environment = environment
        self._service = service
        self._service_keys: dict[int, Xaes] = {}
        self._service_key_id = b""
        self._current = 0
        self.derivation = b""

    async def start(self) -> None:
        """Unwrap the service key and the derivation key, which are made at the first start of the service."""
        root = await self._open_root()
        await self._load(root)
        if not self._current:
            await self._add_service_key(root, 1)
            await self._load(root)
        await self._rewrap_under_root(root)
        if not self.derivation:
            async with self.database.transaction() as tx:
                await self.insert(tx, [self.new("derivation")])
            await self._load(root)

    # ---- making and finding keys

    def new(self, kind: Kind, tenant: str = "", subject: str = "", after: Header | None = None) -> NewKey:
        """A random key: the first of its id, or the version after `after`."""
        header = Header(os.urandom(KEY_ID_BYTES), 1) if after is None else Header(after.key_id, after.version + 1)
        secret = os.urandom(KEY_BYTES)
        return NewKey(Key(header, kind, tenant, subject, Xaes(secret)), secret)

    async def insert(self, tx: Transaction, keys: Sequence[NewKey]) -> int:
        """Wrap and store keys; returns how many were new (another replica may have made the same one first)."""
        stored = await self._try_insert(tx, keys)
        while stored < len(keys) and await tx.fetchval(Q.service_key_is_active, self._current) is None:
            # Another replica has rotated the service key: wrap by the new version, which the insert locks.
            await self._load(await self._open_root())
            stored += await self._try_insert(tx, keys)
        return stored

    async def _try_insert(self, tx: Transaction, keys: Sequence[NewKey]) -> int:
        if not keys:
            return 0
        rows = await tx.fetch(
            Q.insert_keys,
            self._current,
            [each.key.header.key_id for each in keys],
            [each.key.header.version for each in keys],
            [each.key.kind for each in keys],
            [each.key.tenant for each in keys],
            [each.key.subject for each in keys],
            [self._wrap(each) for each in keys],
            [_check_value(each.secret, each.key.header) for each in keys],
            self.clock.now(),
        )
        return len(rows)

    async def active_tenant_key(self, tenant: str) -> Key | None:
        row = await self.database.fetchrow(Q.active_tenant_key, tenant)
        return None if row is None else await self._key(row)

    async def find(self, headers: Sequence[Header]) -> dict[Header, Key | KeyringError]:
        """Each key, or why there is none, in one round trip."""
        found: dict[Header, Key | KeyringError] = {
            h: UnknownKey("the key of this value was never here") for h in headers
        }
        rows = await self.database.fetch(Q.keys_by_id, *_columns(found))
        for row in rows:
            header = Header(row["key_id"], row["version"])
            if row["wrapped"] is None:
                found[header] = Shredded("the key of this value was destroyed")
            elif row["kind"] in ("tenant", "subject"):
                found[header] = await self._key(row)
        return found

    async def for_update(self, tx: Transaction, headers: Sequence[Header]) -> dict[Header, Key | KeyringError]:
        """Those of these subject keys that are active, or why they can't be used; locked until `tx` ends."""
        found: dict[Header, Key | KeyringError] = {}
        for row in await tx.fetch(Q.subject_keys_for_update, *_columns(headers)):
            try:
                found[_of(row)] = await self._key(row)
            except KeyringError as error:
                found[_of(row)] = error
        return found

    async def retire(self, tx: Transaction, headers: Sequence[Header]) -> None:
        await tx.execute(Q.retire_subject_keys, *_columns(headers), self.clock.now())

    async def tell(self, tx: Transaction, what: What, said: KeysFact, tenant: str = PLATFORM) -> None:
        """Tell a fact about keys in `tx`, if this service tells facts."""
        if self._tells:
            await outbox.append(tx, [keys_fact(self._service, what, said, self.clock.now(), tenant)])

    # ---- rotation of the service key

    async def rotate_service_key(self) -> None:
        """Make a new version of the service key, re-wrap all keys by it, and destroy old versions that wrap nothing.

        This runs beside everything else and can be interrupted; the next run continues. New keys are wrapped by the new version as
        soon as it exists (`insert_keys` locks the version that it uses).
        """
        root = await self._open_root()
        await self._load(root)
        if not await self.database.fetchval(Q.count_wrapped_by_old, self._current):
            await self._add_service_key(root, self._current + 1)
            await self._load(root)
        while await self._rewrap_page():
            pass
        async with self.database.transaction() as tx:
            for row in await tx.fetch(Q.destroy_empty_service_keys, self._current, self.clock.now()):
                await self.tell(tx, "destroyed", KeysFact("service", 1, row["version"]))
        await self._load(root)

    async def _rewrap_page(self) -> int:
        async with self.database.transaction() as tx:
            rows = await tx.fetch(Q.keys_wrapped_by_old, self._current, _PAGE)
            wrapped = [
                self._seal(self._unwrap(row), _of(row), row["kind"], row["tenant"], row["subject"]) for row in rows
            ]
            if rows:
                await tx.execute(
                    Q.rewrap_keys,
                    self._current,
                    [row["key_id"] for row in rows],
                    [row["version"] for row in rows],
                    wrapped,
                )
        return len(rows)

    async def _add_service_key(self, root: Root, version: int) -> None:
        header = Header(self._service_key_id or os.urandom(KEY_ID_BYTES), version)
        secret = os.urandom(KEY_BYTES)
        wrapped = await root.wrap(secret, self._root_context(version))
        async with self.database.transaction() as tx:
            # Another replica may have made this version meanwhile. Then that one stays the active one.
            if version == 1 or await tx.fetchrow(Q.retire_active, "service", "", "", version - 1, self.clock.now()):
                check_value = _check_value(secret, header)
                await tx.execute(Q.insert_service_key, header.key_id, version, wrapped, check_value, self.clock.now())
                if version > 1:
                    await self.tell(tx, "rotated", KeysFact("service", 1, version))

    async def follow_root(self) -> None:
        """After a rotation of the root: wrap the service keys by its newest version."""
        await self._rewrap_under_root(await self._open_root())

    async def _rewrap_under_root(self, root: Root) -> None:
        rows = [r for r in await self.database.fetch(Q.service_keys) if r["kind"] == "service"]
        for row in rows:
            if root.is_current(row["wrapped"]):
                continue
            context = self._root_context(row["version"])
            wrapped = await root.wrap(await root.unwrap(row["wrapped"], context), context)
            async with self.database.transaction() as tx:
                await tx.execute(Q.rewrap_keys, 0, [row["key_id"]], [row["version"]], [wrapped])
                await self.tell(tx, "rewrapped", KeysFact("service", 1, row["version"]))

    # ---- wrapping

    async def _load(self, root: Root) -> None:
        rows = await self.database.fetch(Q.service_keys)
        keys: dict[int, Xaes] = {}
        for row in rows:
            if row["kind"] == "service":
                secret = await root.unwrap(row["wrapped"], self._root_context(row["version"]))
                _verify(secret, row)
                keys[row["version"]] = Xaes(secret)
                if row["state"] == "active":
                    self._current = row["version"]
                    self._service_key_id = row["key_id"]
        self._service_keys = keys
        for row in rows:
            if row["kind"] == "derivation" and row["state"] == "active":
                self.derivation = self._unwrap(row)

    async def _key(self, row: Row) -> Key:
        if row["wrapped_by"] not in self._service_keys:
            await self._load(await self._open_root())
        return Key(_of(row), row["kind"], row["tenant"], row["subject"], Xaes(self._unwrap(row)))

    def _wrap(self, new: NewKey) -> bytes:
        return self._seal(new.secret, new.key.header, new.key.kind, new.key.tenant, new.key.subject)

    def _seal(self, secret: bytes, header: Header, kind: str, tenant: str, subject: str) -> bytes:
        return self._service_keys[self._current].seal(secret, self._context(header, kind, tenant, subject))

    def _unwrap(self, row: Row) -> bytes:
        cipher = self._service_keys.get(row["wrapped_by"])
        if cipher is None:
            raise UnknownKey("the service key that wraps this key was destroyed")
        try:
            context = self._context(_of(row), row["kind"], row["tenant"], row["subject"])
            secret = bytes(cipher.unseal(row["wrapped"], context))
        except Tampered:
            raise Forged("a wrapped key was changed, or moved here from another row") from None
        _verify(secret, row)
        return secret

    def _context(self, header: Header, kind: str, tenant: str, subject: str) -> bytes:
        """The additional data of a wrapped key, which binds it to its row."""
        names = (self._environment, self._service, kind, tenant, subject, header.key_id.hex(), str(header.version))
        return fields("data-key", *names)

    def _root_context(self, version: int) -> bytes:
        return fields("service-key", self._environment, self._service, "data-keys", str(version))


def _columns(headers: Iterable[Header]) -> tuple[list[bytes], list[int]]:
    headers = list(headers)
    return [each.key_id for each in headers], [each.version for each in headers]


def _of(row: Row) -> Header:
    return Header(row["key_id"], row["version"])


def _check_value(secret: bytes, header: Header) -> bytes:
    """A commitment to the key. AES-GCM is not key-committing: a ciphertext can be made to open under two keys, so without this a key
    could be replaced unnoticed.
    """
    return hmac.digest(secret, b"commit" + header.bytes(), "sha256")[:16]


def _verify(secret: bytes, row: Row) -> None:
    if not hmac.compare_digest(_check_value(secret, _of(row)), row["check_value"]):
        raise Forged("a key does not match its check value")
