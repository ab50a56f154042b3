"""The transparency log against what the services told, and against its own mathematics."""

from __future__ import annotations

import asyncio
import time
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tallystick.chassis.audit import NoteError, VerifierKey, leaf, leaf_hash, verify_checkpoint
from tallystick.chassis.audit.merkle import TILE_WIDTH, Frontier
from tallystick.local.verify.source import Source

RECORDS = "Every fact that a service told is in the log, with the same content, in its order, and nothing else is."
TREE = "The tree, its tiles and the signed head follow from the entries."
SHOWN = 20


async def drained(source: Source, seconds: float) -> list[str]:
    """Waits until the log has what the outboxes hold; what is still missing after `seconds`."""
    watched = {service: await source.fresh(service) for service in source.services}
    ends = time.monotonic() + seconds
    while True:
        late = []
        inbox = {
            row["source"]: row["last_seq"] for row in await watched["audit"].fetch("SELECT source, last_seq FROM inbox")
        }
        for service, connection in watched.items():
            if service == "audit":
                continue
            row = await connection.fetchrow(
                "SELECT seq, (SELECT count(*) FROM outbox WHERE (xid, position) > "
                "((SELECT xid FROM outbox_cursor), (SELECT position FROM outbox_cursor))) AS waiting FROM outbox_cursor"
            )
            if row["waiting"]:
                late.append(f"{service}: {row['waiting']} facts wait in the outbox")
            elif inbox.get(service, 0) < row["seq"]:
                late.append(f"{service}: told {row['seq']} facts, the log has {inbox.get(service, 0)}")
        head = await watched["audit"].fetchrow("SELECT size, (SELECT max(size) FROM checkpoint) AS signed FROM head")
        if head["size"] and head["signed"] != head["size"]:
            late.append(f"the log has {head['size']} entries, {head['signed'] or 0} are signed")
        if not late or time.monotonic() > ends:
            return late
        await asyncio.sleep(0.1)


async def records(source: Source) -> tuple[list[str], str]:
    faults: list[str] = []
    seen = 0
    for service in source.services:
        if service == "audit":
            continue
        statement = "SELECT id, fact FROM outbox ORDER BY xid, position"
        total = (await source.rows(service, "SELECT seq FROM outbox_cursor"))[0]["seq"]
        kept = (await source.rows(service, "SELECT count(*) FROM outbox"))[0]["count"]
        logged = (await source.rows("audit", "SELECT count(*) FROM entry WHERE service = $1", service))[0]["count"]
        if logged != total:
            faults.append(f"{service} told {total} facts, the log has {logged}")
        seq = total - kept
        async for rows in source.pages(service, statement):
            entries = {
                row["id"]: row
                for row in await source.rows(
                    "audit",
                    "SELECT id, service, seq, digest FROM entry WHERE id = ANY($1::uuid[])",
                    [row["id"] for row in rows],
                )
            }
            for row in rows:
                seq += 1
                entry = entries.get(row["id"])
                if entry is None:
                    faults.append(f"{service}: fact {seq} is not in the log")
                elif (entry["service"], entry["seq"], entry["digest"]) != (service, seq, sha256(row["fact"]).digest()):
                    faults.append(
                        f"{service}: fact {seq} is in the log as {entry['service']} {entry['seq']}, or with another content"
                    )
            seen += len(rows)
            if len(faults) > SHOWN:
                break
    return faults[:SHOWN], f"{seen:,} facts"


async def tree(source: Source, pinned: VerifierKey | None) -> tuple[list[str], str]:
    """`pinned` is the log's key as it was when the log first signed."""
    faults: list[str] = []
    frontier = Frontier()
    tiles: dict[tuple[int, int], list[bytes]] = {}
    head = (await source.rows("audit", "SELECT size, frontier FROM head"))[0]
    newest = await source.rows("audit", "SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1")
    roots: dict[int, bytes] = {}
    async for rows in source.pages("audit", "SELECT index, service, seq, digest FROM entry ORDER BY index"):
        for row in rows:
            index = frontier.size
            try:
                entry = leaf(row["service"], row["seq"], row["digest"])
            except ValueError as error:  # without it there is no tree to compare with
                return [f"entry {row['index']} is none: {error}"], f"{index:,} entries"
            for level, node in frontier.append(leaf_hash(entry)):
                place = ((index + 1) >> (8 * level)) - 1
                tiles.setdefault((level, place // TILE_WIDTH), []).append(node)
            if newest and frontier.size == newest[0]["size"]:
                roots[frontier.size] = frontier.root()
    if (frontier.size, frontier.packed()) != (head["size"], head["frontier"]):
        faults.append(
            f"the head says {head['size']} entries, {frontier.size} are there, or they hash to something else"
        )
    stored = 0
    async for rows in source.pages("audit", "SELECT level, index, hashes FROM tile"):
        for row in rows:
            stored += 1
            if b"".join(tiles.get((row["level"], row["index"]), [])) != row["hashes"]:
                faults.append(f"tile {row['level']}/{row['index']} is not what its entries hash to")
    if stored != len(tiles):
        faults.append(f"{stored} tiles are stored, {len(tiles)} follow from the entries")
    if newest:
        faults += await _signed(source, newest[0]["note"], roots.get(newest[0]["size"]), pinned)
    elif head["size"]:
        faults.append("nothing was signed")
    return faults[:SHOWN], f"{frontier.size:,} entries, {stored:,} tiles"


async def _signed(source: Source, note: str, root: bytes | None, pinned: VerifierKey | None) -> list[str]:
    rows = await source.rows("audit", "SELECT name, public FROM log_key")
    for row in rows:
        try:
            key = VerifierKey(row["name"], Ed25519PublicKey.from_public_bytes(row["public"]))
        except ValueError as error:
            return [f"the log's key: {error}"]
        if pinned is not None and str(key) != str(pinned):
            return ["the log's key is not the one that was pinned when it first signed"]
        try:
            checkpoint = verify_checkpoint(note, key)
        except NoteError as error:
            return [f"the newest checkpoint: {error}"]
        return [] if checkpoint.root == root else ["the signed root is not that of the entries"]
    return ["the log has no key"]
