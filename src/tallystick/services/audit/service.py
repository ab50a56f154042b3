"""The log's intentions: record, sign, show, prove."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from valkey.exceptions import ValkeyError

from tallystick.chassis import telemetry
from tallystick.chassis.audit import note, receipt
from tallystick.chassis.audit.merkle import TILE_WIDTH, Frontier, prove_inclusion
from tallystick.chassis.audit.note import Checkpoint, VerifierKey
from tallystick.chassis.db import Database, Transaction
from tallystick.chassis.keys import Aad, Keyring
from tallystick.contracts.audit.problems import LogEmpty, ReceiptNotFound, TileNotFound
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import FactId
from tallystick.services.audit.model import append, bundle, needed_tiles, tile_address, tile_width
from tallystick.services.audit.store import Recorded, Store

#: The tenant under whose keys the platform seals what is nobody's.
PLATFORM: Final = "platform"
#: The name in Valkey of the size that was signed last: a memory apart from the database, against a rolled-back log.
REMEMBERED: Final = "audit:signed-size"
#: All checkpoints are kept for this long, then one a minute.
KEEP_ALL: Final = timedelta(hours=1)
_POLL_SECONDS: Final = 0.05


class RolledBack(RuntimeError):
    """The log is shorter than what was already signed: its database was restored or rewritten. Nothing is signed."""


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

    # ---- writing

    async def record(self, tx: Transaction, service: str, facts: Sequence[tuple[FactId, str, int, bytes]]) -> None:
        """Appends facts (id, tenant, number, bytes) of one service, in the transaction that moves its inbox."""
        size, frontier = await self._store.head_for_update(tx)
        change = append(size, frontier, service, [(seq, raw) for _, _, seq, raw in facts])
        await self._store.append(tx, service, change, facts)

    async def sign(self) -> None:
        """Signs the head if it grew. Refuses, loudly, to sign a log that is shorter than what was signed before."""
        size, frontier = await self._store.head(self._database)
        newest = await self._store.newest_checkpoint(self._database)
        signed = 0 if newest is None else newest[0]
        remembered = await self._remembered()
        if size < max(signed, remembered):
            telemetry.log.error("audit.rolled_back", size=size, signed=max(signed, remembered))
            raise RolledBack(f"the log has {size} entries, but {max(signed, remembered)} were signed")
        if size == signed:
            return
        checkpoint = Checkpoint(self.name, size, Frontier(size, frontier).root())
        text = note.sign(checkpoint.text(), self.name, await self._signing_key())
        await self._store.insert_checkpoint(self._database, size, text, self._clock.now())
        try:
            await self._valkey.set(REMEMBERED, size)
        except (ValkeyError, OSError, TimeoutError) as error:
            telemetry.log.warning("audit.memory.unavailable", error=type(error).__name__)

    async def _remembered(self) -> int:
        try:
            return int(await self._valkey.get(REMEMBERED) or 0)
        except (ValkeyError, OSError, TimeoutError) as error:
            telemetry.log.warning("audit.memory.unavailable", error=type(error).__name__)
            return 0

    async def thin(self) -> None:
        await self._store.thin_checkpoints(self._database, self._clock.now() - KEEP_ALL)

    async def _signing_key(self) -> Ed25519PrivateKey:
        """The log's key; made by the first replica that needs it, sealed by the key ring."""
        if self._key is None:
            aad = Aad(tenant=PLATFORM, table="log_key", column="sealed", row=self.name, version=1)
            found = await self._store.log_key(self._database, self.name)
            if found is None:
                fresh = Ed25519PrivateKey.generate()
                sealed = await self._keyring.seal(fresh.private_bytes_raw(), aad)
                public = fresh.public_key().public_bytes_raw()
                await self._store.insert_log_key(self._database, self.name, public, sealed, self._clock.now())
                found = await self._store.log_key(self._database, self.name)
            if found is None:
                raise RuntimeError("the log's key was stored and is not there")
            key = Ed25519PrivateKey.from_private_bytes(await self._keyring.open_sealed(found[1], aad))
            if key.public_key().public_bytes_raw() != found[0]:
                raise RuntimeError("the log's private key does not belong to its public one")
            self._key = key
        return self._key

    # ---- showing

    async def verifier_key(self) -> str:
        """The log's public key, as `<name>+<id>+<key>`."""
        return str(VerifierKey(self.name, (await self._signing_key()).public_key()))

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
        return hashes[: width * 32]

    # ---- proving

    async def receipt(self, fact: FactId, *, tenant: str | None, wait: float = 0.0) -> tuple[str, int]:
        """The receipt's text and the entry's index. `tenant` None is for services. Raises ReceiptNotFound."""
        ends = asyncio.get_running_loop().time() + wait
        while True:
            recorded = await self._store.recorded(self._database, fact)
            if recorded is not None and tenant is not None and recorded.tenant != tenant:
                recorded = None
                ends = 0.0
            newest = await self._store.newest_checkpoint(self._database)
            if recorded is not None and newest is not None and recorded.index < newest[0]:
                return await self._proved(recorded, *newest), recorded.index
            if asyncio.get_running_loop().time() >= ends:
                raise ReceiptNotFound(f"there is no receipt {ids.facts.text(fact)} yet, or not for you")
            await asyncio.sleep(_POLL_SECONDS)

    async def _proved(self, recorded: Recorded, size: int, checkpoint: str) -> str:
        if recorded.fact is None:
            raise ReceiptNotFound("this fact was erased; its commitment is still in the log")
        tiles = await self._store.tiles(self._database, needed_tiles(recorded.index, size))
        proof = prove_inclusion(lambda level, index: tiles[level, index], recorded.index, size)
        return receipt.write(
            recorded.index, proof, checkpoint, service=recorded.service, seq=recorded.seq, fact=recorded.fact
        )
