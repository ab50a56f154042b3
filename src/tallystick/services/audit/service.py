"""The log's use cases: record facts, sign the tree, serve tiles, prove inclusion."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from valkey.exceptions import ValkeyError

from tallystick.chassis import telemetry
from tallystick.chassis.audit import note, receipt
from tallystick.chassis.audit.merkle import (
    EMPTY_ROOT,
    HASH_SIZE,
    TILE_WIDTH,
    Frontier,
    ProofError,
    prove_inclusion,
    subtree,
)
from tallystick.chassis.audit.note import Checkpoint, NoteError, VerifierKey
from tallystick.chassis.db import Database, Transaction
from tallystick.chassis.keys import Keyring
from tallystick.contracts.audit.problems import LogEmpty, ReceiptNotFound, TileNotFound
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import FactId
from tallystick.kernel.problem import Overloaded, RateLimited
from tallystick.services.audit.model import append, bundle, needed_tiles, tile_address, tile_width
from tallystick.services.audit.store import LOG_KEY, Head, Recorded, Store

#: The tenant whose keys seal what belongs to no tenant.
PLATFORM: Final = "platform"
#: The key in Valkey of the newest checkpoint. It is remembered outside of the database, to notice a log that was rolled back.
REMEMBERED: Final = "audit:signed"
#: How long all checkpoints are kept; of older ones, one a minute.
KEEP_ALL: Final = timedelta(hours=1)
#: How far back thinning looks. If it did not run for longer, older checkpoints stay.
_THIN_BACK: Final = timedelta(days=2)
#: How often Valkey is asked whether it still has the newest checkpoint, while the log does not grow.
LOOK_AGAIN: Final = timedelta(seconds=2)
_POLL_SECONDS: Final = 0.05
#: The most requests that wait for a receipt at the same time: of services (reveals in the vault depend on it), of all tenants, of one tenant.
#: None takes the others' places. A request over a limit is refused at once.
SERVICES_WAITING: Final = 32
TENANTS_WAITING: Final = 32
TENANT_WAITING: Final = 4
#: Instead of a checkpoint: Valkey did not answer.
_UNKNOWN: Final = ""


class RolledBack(RuntimeError):
    """The log does not continue what was signed: its database was restored to an earlier time or rewritten. Nothing is signed."""


def _root(tiles: Mapping[tuple[int, int], bytes], size: int) -> bytes:
    """The root of the tree's first `size` entries, computed from the tiles."""
    try:
        return subtree(lambda level, index: tiles[level, index], 0, size)
    except (KeyError, ProofError) as error:
        telemetry.log.error("audit.tiles_missing", size=size)
        raise RolledBack(f"tiles of the first {size} entries are missing") from error


class Log:
    def __init__(
        self, *, database: Database, store: Store, keyring: Keyring, valkey: Any, clock: Clock, name: str
    ) -> None:
        self._database = database
        self._store = store
        self._keyring = keyring
        self._valkey = valkey
        self._clock = clock
        self.name = name
        self._key: Ed25519PrivateKey | None = None
        #: Requests that wait for a receipt, by tenant; those of services under None.
        self._waiting: Counter[str | None] = Counter()
        #: The checkpoint on which database and Valkey agreed when last compared, and when that was.
        self._settled: str | None = None
        self._looked = datetime.min.replace(tzinfo=UTC)
        #: The last checkpoint that this process signed or verified: it need not be verified again.
        self._own_text = ""
        self._own = Checkpoint(name, 0, EMPTY_ROOT)

    # ---- writing

    async def record(self, tx: Transaction, service: str, facts: Sequence[tuple[FactId, str, int, bytes]]) -> None:
        """Append facts (id, tenant, number, bytes) of one service, in the transaction that moves the inbox past them."""
        size, frontier = await self._store.head_for_update(tx)
        change = append(size, frontier, service, [(seq, raw) for _, _, seq, raw in facts])
        await self._store.append(tx, service, change, facts)

    async def sign(self) -> None:
        """Sign the head if the log has grown. Raises RolledBack if the log does not continue everything that was signed before."""
        head = await self._store.head(self._database)
        now = self._clock.now()
        looked_lately = timedelta() <= now - self._looked < LOOK_AGAIN  # the clock may have been set back
        if head.size == head.signed and head.note == self._settled and looked_lately:
            return
        remembered = await self._remembered()
        if head.size == head.signed and remembered in (head.note, _UNKNOWN):
            self._settled, self._looked = head.note, now
            return
        texts = [text for text in (head.note, remembered) if text]
        signed = {text: await self._checked(text, head.size) for text in dict.fromkeys(texts)}
        sizes = {each.size for each in signed.values() if each.size} | ({head.size} if head.size else set())
        tiles = await self._store.tiles(
            self._database, sorted({key for size in sizes for key in needed_tiles(size - 1, size)})
        )
        for each in signed.values():
            if each.size and _root(tiles, each.size) != each.root:
                telemetry.log.error("audit.rewritten", size=head.size, signed=each.size)
                raise RolledBack(f"the log's first {each.size} entries are not the ones that were signed")
        last = max(signed, key=lambda text: signed[text].size, default=None)
        if last is None or signed[last].size < head.size:
            text, size = await self._signed(head, tiles), head.size
        else:
            # Nothing to sign, but the database or Valkey lacks the newest checkpoint.
            text, size = last, signed[last].size
        await self._store.insert_checkpoint(self._database, size, text, now)
        if remembered is not _UNKNOWN:
            await self._remember(text)

    async def _checked(self, text: str, size: int) -> Checkpoint:
        """Verify an earlier checkpoint: signed by this log's key, and of no larger tree. Raises RolledBack."""
        if text != self._own_text or self._key is None:
            try:
                self._own = note.verify_checkpoint(text, await self._verifier())
            except NoteError as error:
                telemetry.log.error("audit.other_key")
                raise RolledBack("an earlier checkpoint was not signed by this log's key") from error
            self._own_text = text
        if size < self._own.size:
            telemetry.log.error("audit.rolled_back", size=size, signed=self._own.size)
            raise RolledBack(f"the log has {size} entries, but {self._own.size} were signed")
        return self._own

    async def _signed(self, head: Head, tiles: Mapping[tuple[int, int], bytes]) -> str:
        root = Frontier(head.size, head.frontier).root()
        if head.size and root != _root(tiles, head.size):
            telemetry.log.error("audit.head_and_tiles_differ", size=head.size)
            raise RolledBack(f"the head of {head.size} entries does not match its tiles")
        checkpoint = Checkpoint(self.name, head.size, root)
        text = note.sign(checkpoint.text(), self.name, await self._signing_key())
        self._own_text, self._own = text, checkpoint
        return text

    async def _remembered(self) -> str | None:
        """The checkpoint in Valkey; None if it has none, `_UNKNOWN` if it does not answer."""
        try:
            found = await self._valkey.get(REMEMBERED)
            return None if found is None else bytes(found).decode()
        except (ValkeyError, OSError, TimeoutError, UnicodeError) as error:
            telemetry.log.warning("audit.memory.unavailable", error=type(error).__name__)
            return _UNKNOWN

    async def _remember(self, text: str) -> None:
        try:
            await self._valkey.set(REMEMBERED, text)
        except (ValkeyError, OSError, TimeoutError) as error:
            telemetry.log.warning("audit.memory.unavailable", error=type(error).__name__)

    async def thin(self) -> None:
        before = self._clock.now() - KEEP_ALL
        await self._store.thin_checkpoints(self._database, before - _THIN_BACK, before)

    async def _verifier(self) -> VerifierKey:
        return VerifierKey(self.name, (await self._signing_key()).public_key())

    async def _signing_key(self) -> Ed25519PrivateKey:
        """The log's key, sealed by the key ring. The first replica that needs it makes it."""
        if self._key is None:
            aad = LOG_KEY.aad(PLATFORM, self.name)
            found = await self._store.log_key(self._database, self.name)
            if found is None:
                fresh = Ed25519PrivateKey.generate()
                sealed = await self._keyring.seal(fresh.private_bytes_raw(), aad)
                public = fresh.public_key().public_bytes_raw()
                await self._store.insert_log_key(self._database, self.name, public, sealed, self._clock.now())
                found = await self._store.log_key(self._database, self.name)
            if found is None:
                raise RuntimeError("the log's key was stored, but can't be found")
            key = Ed25519PrivateKey.from_private_bytes(await self._keyring.open_sealed(found[1], aad))
            if key.public_key().public_bytes_raw() != found[0]:
                raise RuntimeError("the log's private key does not belong to its public one")
            self._key = key
        return self._key

    # ---- showing

    async def verifier_key(self) -> str:
        """The log's public key, as `<name>+<id>+<key>`."""
        return str(await self._verifier())

    async def checkpoint(self) -> str:
        newest = await self._store.newest_checkpoint(self._database)
        if newest is None:
            raise LogEmpty("nothing was signed yet")
        return newest[1]

    async def tile(self, path: str) -> bytes:
        """A tile or an entry bundle of the signed tree, by its path after `tile/`."""
        try:
            level, index, width = tile_address(path)
        except ValueError as error:
            raise TileNotFound(
                "a tile's path is <level>/<index>[.p/<width>], the index in groups of three digits"
            ) from error
        newest = await self._store.newest_checkpoint(self._database)
        size = 0 if newest is None else newest[0]
        if width > tile_width(size, 0 if isinstance(level, str) else level, index):
            raise TileNotFound("the signed tree does not fill this tile so far")
        if isinstance(level, str):
            first = index * TILE_WIDTH
            return bundle(await self._store.entries(self._database, first, first + width))
        hashes = await self._store.tile(self._database, level, index)
        if hashes is None:
            raise TileNotFound("there is no such tile")
        return hashes[: width * HASH_SIZE]

    # ---- proving

    async def receipt(
        self, fact: FactId, *, tenant: str | None = None, service: str | None = None, wait: float = 0.0
    ) -> tuple[str, int]:
        """The receipt's text and the entry's index, for the fact's tenant or the service that told it.

        Waits up to `wait` seconds for a fact that is on its way. Raises ReceiptNotFound, and RateLimited or Overloaded if too many wait already.
        """
        found = await self._receipt(fact, tenant, service)
        if found is None and wait > 0:
            with self._place(tenant):
                ends = asyncio.get_running_loop().time() + wait
                while found is None and asyncio.get_running_loop().time() < ends:
                    await asyncio.sleep(_POLL_SECONDS)
                    found = await self._receipt(fact, tenant, service)
        if found is None:
            raise ReceiptNotFound(f"there is no receipt {ids.facts.text(fact)} yet, or not for you")
        return found

    @contextmanager
    def _place(self, tenant: str | None) -> Iterator[None]:
        """Take a place among the waiting requests, for a tenant, or for a service if `tenant` is None."""
        if tenant is not None and self._waiting[tenant] >= TENANT_WAITING:
            detail = f"at most {TENANT_WAITING} requests of a tenant wait for a receipt at once; ask again later, or without wait_ms"
            raise RateLimited(detail, headers={"Retry-After": "1"})
        services = self._waiting[None]
        tenants = self._waiting.total() - services
        if services >= SERVICES_WAITING if tenant is None else tenants >= TENANTS_WAITING:
            raise Overloaded("too many requests wait for a receipt", headers={"Retry-After": "1"})
        self._waiting[tenant] += 1
        try:
            yield
        finally:
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant]

    async def _receipt(self, fact: FactId, tenant: str | None, service: str | None) -> tuple[str, int] | None:
        recorded = await self._store.recorded(self._database, fact, tenant=tenant, service=service)
        if recorded is None:
            return None
        newest = await self._store.newest_checkpoint(self._database)
        if newest is None or newest[0] <= recorded.index:
            return None
        return await self._proved(recorded, *newest), recorded.index

    async def _proved(self, recorded: Recorded, size: int, checkpoint: str) -> str:
        if recorded.fact is None:
            raise ReceiptNotFound("this fact was erased; its commitment is still in the log")
        tiles = await self._store.tiles(self._database, needed_tiles(recorded.index, size))
        proof = prove_inclusion(lambda level, index: tiles[level, index], recorded.index, size)
        return receipt.write(
            recorded.index, proof, checkpoint, service=recorded.service, seq=recorded.seq, fact=recorded.fact
        )
