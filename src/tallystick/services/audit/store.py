"""The log in PostgreSQL: one method per named query."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from tallystick.chassis.db import Database, Queries, Transaction
from tallystick.chassis.keys import TenantKeyColumn
from tallystick.kernel.ids import FactId
from tallystick.services.audit.model import Append

queries = Queries.load("tallystick.services.audit")

#: The log's signing key.
LOG_KEY: Final = TenantKeyColumn(
    table="log_key",
    name="sealed",
    under=queries.log_keys_under,
    left=queries.count_log_keys_under,
    save=queries.save_log_keys,
)
SEALED: Final = (LOG_KEY,)


class Recorded(msgspec.Struct, frozen=True):
    """A fact's place in the log. `fact` is None if it was erased."""

    index: int
    tenant: str
    service: str
    seq: int
    fact: bytes | None


class Head(msgspec.Struct, frozen=True):
    """The head of the tree, and the newest checkpoint's size and text (0 and None if nothing was signed yet)."""

    size: int
    frontier: bytes
    signed: int
    note: str | None


class Store:
    async def head_for_update(self, tx: Transaction) -> tuple[int, bytes]:
        row = await tx.fetchrow(queries.head_for_update)
        if row is None:
            raise RuntimeError("the log has no head: its migration did not run")
        return row["size"], row["frontier"]

    async def head(self, database: Database) -> Head:
        row = await database.fetchrow(queries.head_and_signed)
        if row is None:
            raise RuntimeError("the log has no head: its migration did not run")
        return Head(row["size"], row["frontier"], row["signed"] or 0, row["note"])

    async def append(
        self, tx: Transaction, service: str, change: Append, facts: Sequence[tuple[FactId, str, int, bytes]]
    ) -> None:
        """`facts` are (id, tenant, number, bytes), in the order of the change's digests."""
        keys = sorted(change.tiles)
        await tx.execute(
            queries.append,
            change.first,
            service,
            [fact[0] for fact in facts],
            [fact[1] for fact in facts],
            [fact[2] for fact in facts],
            change.digests,
            [fact[3] for fact in facts],
            [level for level, _ in keys],
            [index for _, index in keys],
            [change.tiles[key] for key in keys],
            change.size,
            change.frontier,
        )

    async def tile(self, database: Database, level: int, index: int) -> bytes | None:
        found: bytes | None = await database.fetchval(queries.tile, level, index)
        return found

    async def tiles(self, database: Database, keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        rows = await database.fetch(queries.tiles, [level for level, _ in keys], [index for _, index in keys])
        return {(row["level"], row["index"]): row["hashes"] for row in rows}

    async def entries(self, database: Database, first: int, end: int) -> list[tuple[str, int, bytes]]:
        rows = await database.fetch(queries.entries, first, end)
        return [(row["service"], row["seq"], row["digest"]) for row in rows]

    async def recorded(
        self, database: Database, fact: FactId, *, tenant: str | None = None, service: str | None = None
    ) -> Recorded | None:
        row = await database.fetchrow(queries.entry_by_id, fact, tenant, service)
        if row is None:
            return None
        return Recorded(row["index"], row["tenant"], row["service"], row["seq"], row["fact"])

    async def newest_checkpoint(self, database: Database) -> tuple[int, str] | None:
        row = await database.fetchrow(queries.newest_checkpoint)
        return None if row is None else (row["size"], row["note"])

    async def insert_checkpoint(self, database: Database, size: int, note: str, now: datetime) -> None:
        await database.execute(queries.insert_checkpoint, size, note, now)

    async def thin_checkpoints(self, database: Database, after: datetime, before: datetime) -> None:
        await database.execute(queries.thin_checkpoints, after, before)

    async def log_key(self, database: Database, name: str) -> tuple[bytes, bytes] | None:
        row = await database.fetchrow(queries.log_key, name)
        return None if row is None else (row["public"], row["sealed"])

    async def insert_log_key(self, database: Database, name: str, public: bytes, sealed: bytes, now: datetime) -> None:
        await database.execute(queries.insert_log_key, name, public, sealed, now)
