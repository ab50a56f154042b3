"""The transparency log against what the services told, and against its own mathematics."""

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

RECORDS = "Every fact that a service told is in the log, with the same content, in its order, and nothing else is."
TREE = "The tree, its tiles and the signed head follow from the entries."
DRAINED = "Every fact that was told has left its outbox, is in the log and is signed."
AUDIT = "audit"
SHOWN = 20
PAUSE_SECONDS = 0.1
#: A relay that is gone on with by another one notes what it told this late at most.
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
    """Waits until the log has, and has signed, what the outboxes hold now; what is still missing after `seconds`."""
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
                    late.append(f"{service}: {row['waiting']} facts wait in the outbox")
                else:
                    told[service] = row["seq"]
        late += await _missing(source, told)
        if not late:
            head = await audit.fetchrow("SELECT size, (SELECT max(size) FROM checkpoint) AS signed FROM head")
            size = head["size"] if size is None else size
            if size and (head["signed"] or 0) < size:
                late.append(f"the log has {size} entries, {head['signed'] or 0} are signed")
        return late

    return await _within(seconds, look)


async def followed(source: Source, seconds: float) -> list[str]:
    """Waits until the log has what was relayed by the moments at which the services' databases are looked at; what is still missing."""
    told = {service: await _relayed(source, service) for service in source.services if service != AUDIT}
    return await _within(seconds, lambda: _missing(source, told))


async def _within(seconds: float, look: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """What is found wrong, once that is nothing, or when the time is over."""
    ends = time.monotonic() + seconds
    while (wrong := await look()) and time.monotonic() <= ends:
        await asyncio.sleep(PAUSE_SECONDS)
    return wrong


async def _missing(source: Source, told: Mapping[str, int]) -> list[str]:
    rows = await (await source.live(AUDIT)).fetch("SELECT source, last_seq FROM inbox")
    inbox = {row["source"]: row["last_seq"] for row in rows}
    return [
        f"{service}: told {seq} facts, the log has {inbox.get(service, 0)}"
        for service, seq in told.items()
        if inbox.get(service, 0) < seq
    ]


async def _relayed(source: Source, service: str) -> int:
    relayed: int = (await source.rows(service, "SELECT seq FROM outbox_cursor"))[0]["seq"]
    return relayed


async def records(source: Source) -> tuple[list[str], str]:
    """What was relayed when each service's database was looked at, against the log of later."""
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
            faults.append(f"{service} told {total} facts, the log has {logged['count']} of them")
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
                        f"{service}: fact {seq} is in the log as {entry['service']} {entry['seq']}, or with another content"
                    )
            seen += len(rows)
            if len(faults) > SHOWN:
                break
    return faults[:SHOWN], counted(seen, "fact")


async def _untold(source: Source, service: str, logged: int) -> list[str]:
    """A relay notes what it has told right after it told it, so the log may have more for a moment."""
    told = await (await source.live(service)).fetchval("SELECT seq FROM outbox_cursor")
    return [] if told >= logged else [f"{service} told {told} facts, the log has {logged}"]


async def tree(source: Source, pinned: VerifierKey | None) -> tuple[list[str], str]:
    """`pinned` is the log's key as it was when the log first signed."""
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
            except ValueError as error:  # without it there is no tree to compare with
                return [f"entry {row['index']} is none: {error}"], counted(index, "entry", "entries")
            for level, node in frontier.append(leaf_hash(entry)):
                place = ((index + 1) >> (8 * level)) - 1
                tiles.setdefault((level, place // TILE_WIDTH), []).append(node)
            if frontier.size in signed:
                roots[frontier.size] = frontier.root()
    if (frontier.size, frontier.packed()) != (head["size"], head["frontier"]):
        faults.append(
            f"the head says {head['size']} entries, {frontier.size} are there, or they hash to something else"
        )
    stored = 0
    async for rows in source.pages(AUDIT, "SELECT level, index, hashes FROM tile"):
        for row in rows:
            stored += 1
            if b"".join(tiles.get((row["level"], row["index"]), [])) != row["hashes"]:
                faults.append(f"tile {row['level']}/{row['index']} is not what its entries hash to")
    if stored != len(tiles):
        faults.append(f"{stored} tiles are stored, {len(tiles)} follow from the entries")
    if signed:
        faults += await _signed(source, roots, pinned)
    elif head["size"]:
        faults += await _within(NOTED_SECONDS, partial(_unsigned, source))
    return faults[:SHOWN], f"{counted(frontier.size, 'entry', 'entries')}, {counted(stored, 'tile')}"


async def _unsigned(source: Source) -> list[str]:
    """The first checkpoint is signed a moment after the first entry is there."""
    signed = await (await source.live(AUDIT)).fetchval("SELECT count(*) FROM checkpoint")
    return [] if signed else ["nothing was signed"]


async def _signed(source: Source, roots: Mapping[int, bytes], pinned: VerifierKey | None) -> list[str]:
    """`roots`: that of the entries, for the size of each checkpoint."""
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
                    faults.append(f"the root signed at {row['size']} is not that of the entries")
        if len(faults) > SHOWN:
            break
    return faults
