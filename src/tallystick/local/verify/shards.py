"""Checks between the shards of the ledger: which shard keeps a book, and the money in transit between shards."""

from __future__ import annotations

from collections.abc import Sequence

from tallystick.chassis.db import Queries
from tallystick.kernel.deployment import HOME, parts
from tallystick.kernel.words import counted
from tallystick.local.verify.source import Source
from tallystick.services.ledger.model import InTransit, disagreements

DIRECTORY = "Each book is kept by exactly one shard, the one that home names for it."
TRANSIT = "Money that entered a book from another shard has left that shard's book, or is held there; and all that left has arrived."

_QUERIES = Queries.load("tallystick.services.ledger", "interbook")


async def directory(source: Source, ledgers: Sequence[str]) -> tuple[list[str], str]:
    """The shards are read before home, which names a shard for a book before it is opened there."""
    kept: list[tuple[str, str, str]] = []
    for ledger in ledgers:
        shard = parts(ledger)[1]
        if shard != HOME:
            connection = await source.live(ledger)
            rows = await connection.fetch("SELECT tenant, name FROM book WHERE shard = $1", shard)
            kept += [(row["tenant"], row["name"], shard) for row in rows]
    home = await (await source.live(ledgers[0])).fetch("SELECT tenant, name, shard FROM book")
    named = {(row["tenant"], row["name"]): row["shard"] for row in home}
    faults = [
        f"{tenant}, {book}: kept by the shard {shard}, but home names {named.get((tenant, book), 'none')}"
        for tenant, book, shard in kept
        if named.get((tenant, book)) != shard
    ]
    return faults, counted(len(kept), "book")


async def transit(source: Source, ledgers: Sequence[str]) -> tuple[list[str], str]:
    """Three readings one after the other, each of all shards: see `disagreements`."""
    connections = [await source.live(ledger) for ledger in ledgers]
    readings = [
        [InTransit(*row) for connection in connections for row in await connection.fetch(_QUERIES.in_transit.sql, None)]
        for _ in range(3)
    ]
    held = sum(row.pending for row in readings[-1] if row.way == "out")
    return disagreements(*readings), f"{counted(len(readings[-1]), 'account')}, {held:,} minor units in flight"
