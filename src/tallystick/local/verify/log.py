"""Compares the transparency log with the facts that the services told, and its tree with its entries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tallystick.chassis.audit import NoteError, VerifierKey, leaf, leaf_hash, verify_checkpoint
from tallystick.chassis.audit.merkle import TILE_WIDTH, Frontier
from tallystick.kernel.words import counted
from tallystick.local.verify.source import Source

RECORDS = "The log holds every fact that a service told, with the same content and in the same order, and nothing else."
TREE = "The tree, its tiles and the signed checkpoints follow from the entries."
DRAINED = "Every fact has left its outbox, is in the log, and is signed."
AUDIT = "audit"
SHOWN = 20
PAUSE_SECONDS = 0.1
#: Seconds after which a relay has recorded what it published, even if another replica takes over in between.
NOTED_SECONDS = 10.0

_KEPT = "SELECT count(*) FROM outbox WHERE (xid, position) <= (SELECT xid, position FROM outbox_cursor)"
_FACTS = "SELECT id, fact FROM outbox WHERE (xid, position) <= (SELECT xid, position FROM outbox_cursor) ORDER BY xid, position"
_NEWEST = (
    "SELECT max(xid)::text AS xid, (SELECT max(position) FROM outbox WHERE xid = (SELECT max(xid) FROM outbox)) AS position "
    "FROM outbox"
)
_RELAYED = (
    "SELECT seq, (SELECT count(*) FROM outbox AS o WHERE (o.xid, o.position) > (c.xid, c.position) "
    "AND (o.xid, o.position) <= ($1::text::xid8, $2::bigint)) AS waiting FROM outbox_cursor AS c"
)


async def drained(source: Source, seconds: float) -> list[str]:
    """Wait until the log holds, and has signed, what the outboxes hold now. Returns what is still missing after `seconds`."""
    outboxes = {service: await source.live(service) for service in source.services if service != AUDIT}
    audit = await source.live(AUDIT)
    newest = {service: await connection.fetchrow(_NEWEST) for service, connection in outboxes.items()}
    told: dict[str, int] = {}
    size: int | None = None

    async def look() -> list[str]:
        nonlocal size
        late = []
        for service, connection in outboxes.items():
            if service not in told:
                row = await connection.fetchrow(_RELAYED, newest[service]["xid"], newest[service]["position"])
                if row["waiting"]:
                    late.append(f"{service}: {row['waiting']} facts are waiting in the outbox")
                else:
                    told[service] = row["seq"]
        late += await _missing(source, told)
        if not late:
            head = await audit.fetchrow("SELECT size, (SELECT max(size) FROM checkpoint) AS signed FROM head")
            size = head["size"] if size is None else size
            if size and (head["signed"] or 0) < size:
                late.append(f"the log has {size} entries, but only {head['signed'] or 0} are signed")
        return late

    return await _within(seconds, look)


async def followed(source: Source, seconds: float) -> list[str]:
    """Wait until the log holds what was relayed by the moments at which the services' databases are read. Returns what is still missing."""
    told = {service: await _relayed(source, service) for service in source.services if service != AUDIT}
    return await _within(seconds, lambda: _missing(source, told))


async def _within(seconds: float, look: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """Repeat `look` until it finds nothing wrong or the time is over; returns what it found last."""
    ends = time.monotonic() + seconds
    while (wrong := await look()) and time.monotonic() <= ends:
        await asyncio.sleep(PAUSE_SECONDS)
    return wrong


async def _missing(source: Source, told: Mapping[str, int]) -> list[str]:
    rows = await (await source.live(AUDIT)).fetch("SELECT source, last_seq FROM inbox")
    inbox = {row["source"]: row["last_seq"] for row in rows}
    return [
        f"{service}: told {seq} facts, but the log has {inbox.get(service, 0)}"
        for service, seq in told.items()
        if inbox.get(service, 0) < seq
    ]


async def _relayed(source: Source, service: str) -> int:
    relayed: int = (await source.rows(service, "SELECT seq FROM outbox_cursor"))[0]["seq"]
    return relayed


async def records(source: Source) -> tuple[list[str], str]:
    """Compare what each service had relayed when its database was read with the log, which is read later."""
    faults: list[str] = []
    seen = 0
    for service in source.services:
        if service == AUDIT:
            continue
        total = await _relayed(source, service)
        kept = (await source.rows(service, _KEPT))[0]["count"]
        logged = (
            await source.rows(
                AUDIT,
                "SELECT count(*) FILTER (WHERE seq <= $2) AS count, max(seq) AS last FROM entry WHERE service = $1",
                service,
                total,
            )
        )[0]
        if logged["count"] != total:
            faults.append(f"{service} told {total} facts, but the log has {logged['count']} of them")
        if (last := logged["last"] or 0) > total:
            faults += await _within(NOTED_SECONDS, partial(_untold, source, service, last))
        seq = total - kept
        async for rows in source.pages(service, _FACTS):
            entries = {
                row["id"]: row
                for row in await source.rows(
                    AUDIT,
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
                        f"{service}: fact {seq} is in the log as {entry['service']} {entry['seq']}, or with other content"
                    )
            seen += len(rows)
            if len(faults) > SHOWN:
                break
    return faults[:SHOWN], counted(seen, "fact")


async def _untold(source: Source, service: str, logged: int) -> list[str]:
    """A relay records what it published right after publishing it, so for a moment the log may have more."""
    told = await (await source.live(service)).fetchval("SELECT seq FROM outbox_cursor")
    return [] if told >= logged else [f"{service} told {told} facts, but the log has {logged}"]


async def tree(source: Source, pinned: VerifierKey | None) -> tuple[list[str], str]:
    """Rebuild the tree from the entries, and compare. `pinned`: the log's key, as stored when the log first signed."""
    faults: list[str] = []
    frontier = Frontier()
    tiles: dict[tuple[int, int], list[bytes]] = {}
    head = (await source.rows(AUDIT, "SELECT size, frontier FROM head"))[0]
    signed = {row["size"] for row in await source.rows(AUDIT, "SELECT size FROM checkpoint")}
    roots: dict[int, bytes] = {}
    async for rows in source.pages(AUDIT, "SELECT index, service, seq, digest FROM entry ORDER BY index"):
        for row in rows:
            index = frontier.size
            try:
                entry = leaf(row["service"], row["seq"], row["digest"])
            except ValueError as error:  # without this entry the tree can't be rebuilt
                return [f"entry {row['index']} is not valid: {error}"], counted(index, "entry", "entries")
            for level, node in frontier.append(leaf_hash(entry)):
                place = ((index + 1) >> (8 * level)) - 1
                tiles.setdefault((level, place // TILE_WIDTH), []).append(node)
            if frontier.size in signed:
                roots[frontier.size] = frontier.root()
    if frontier.size != head["size"]:
        faults.append(f"the head is of {head['size']} entries, but there are {frontier.size}")
    elif frontier.packed() != head["frontier"]:
        faults.append(f"the head is not what the {frontier.size} entries hash to")
    stored = 0
    async for rows in source.pages(AUDIT, "SELECT level, index, hashes FROM tile"):
        for row in rows:
            stored += 1
            if b"".join(tiles.get((row["level"], row["index"]), [])) != row["hashes"]:
                faults.append(f"tile {row['level']}/{row['index']} does not follow from its entries")
    if stored != len(tiles):
        faults.append(f"{stored} tiles are stored, but {len(tiles)} follow from the entries")
    if signed:
        faults += await _signed(source, roots, pinned)
    elif head["size"]:
        faults += await _within(NOTED_SECONDS, partial(_unsigned, source))
    return faults[:SHOWN], f"{counted(frontier.size, 'entry', 'entries')}, {counted(stored, 'tile')}"


async def _unsigned(source: Source) -> list[str]:
    """The first checkpoint is signed a moment after the first entry is stored."""
    signed = await (await source.live(AUDIT)).fetchval("SELECT count(*) FROM checkpoint")
    return [] if signed else ["no checkpoint was signed"]


async def _signed(source: Source, roots: Mapping[int, bytes], pinned: VerifierKey | None) -> list[str]:
    """Check the signed checkpoints. `roots`: the entries' root for each checkpoint's size."""
    rows = await source.rows(AUDIT, "SELECT name, public FROM log_key")
    if not rows:
        return ["the log has no key"]
    try:
        key = VerifierKey(rows[0]["name"], Ed25519PublicKey.from_public_bytes(rows[0]["public"]))
    except ValueError as error:
        return [f"the log's key: {error}"]
    if pinned is not None and str(key) != str(pinned):
        return ["the log's key is not the one that was pinned when it first signed"]
    faults = []
    async for checkpoints in source.pages(AUDIT, "SELECT size, note FROM checkpoint ORDER BY size"):
        for row in checkpoints:
            try:
                checkpoint = verify_checkpoint(row["note"], key)
            except NoteError as error:
                faults.append(f"the checkpoint at {row['size']}: {error}")
            else:
                if (checkpoint.size, checkpoint.root) != (row["size"], roots.get(row["size"])):
                    faults.append(f"the root signed at size {row['size']} is not that of the entries")
        if len(faults) > SHOWN:
            break
    return faults
