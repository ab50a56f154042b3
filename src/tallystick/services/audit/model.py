"""Appending to the log: entries, hashes, tiles and the new head. Pure; the Merkle tree itself is in the chassis."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec

from tallystick.chassis.audit.merkle import TILE_WIDTH, Frontier, leaf_hash
from tallystick.chassis.audit.receipt import leaf

MAX_LEVEL: Final = 7
#: A bundle's entries are preceded by their length in two bytes (C2SP tlog-tiles).
LENGTH_BYTES: Final = 2


class Append(msgspec.Struct, frozen=True):
    """What an append writes: the digests in order, the hashes added to each tile, and the new head."""

    first: int
    digests: list[bytes]
    tiles: dict[tuple[int, int], bytes]
    size: int
    frontier: bytes


def append(size: int, frontier: bytes, service: str, facts: Sequence[tuple[int, bytes]]) -> Append:
    """The log after `facts` (number, bytes) of one service. `size` and `frontier` are the head's."""
    edge = Frontier(size, frontier)
    digests = []
    tiles: dict[tuple[int, int], bytes] = {}
    for seq, raw in facts:
        digest = sha256(raw).digest()
        digests.append(digest)
        index = edge.size
        for level, node in edge.append(leaf_hash(leaf(service, seq, digest))):
            # The node at this level covers 256**level leaves, of which the new one is the last.
            place = ((index + 1) >> (8 * level)) - 1
            key = (level, place // TILE_WIDTH)
            tiles[key] = tiles.get(key, b"") + node
    return Append(size, digests, tiles, edge.size, edge.packed())


def tile_address(path: str) -> tuple[int | str, int, int]:
    """`0/x001/234.p/17` -> (0, 1234, 17): level (or `entries`), index and width. ValueError for any other spelling."""
    parts = path.split("/")
    width = TILE_WIDTH
    if len(parts) >= 3 and parts[-2].endswith(".p"):
        width = _number(parts.pop(), 1, TILE_WIDTH - 1)
        parts[-1] = parts[-1].removesuffix(".p")
    if not 2 <= len(parts) <= 6:
        msg = "not a tile's path"
        raise ValueError(msg)
    level: int | str = "entries" if parts[0] == "entries" else _number(parts[0], 0, 63)
    *high, last = parts[1:]
    index = 0
    for i, group in enumerate([*high, last]):
        digits = group.removeprefix("x") if i < len(high) else group
        if (
            (i < len(high) and not group.startswith("x"))
            or len(digits) != 3
            or not (digits.isascii() and digits.isdigit())
        ):
            msg = "not a tile's path"
            raise ValueError(msg)
        index = index * 1000 + int(digits)
    if high and index < 1000 ** len(high):
        msg = "a tile has one path"
        raise ValueError(msg)
    return level, index, width


def _number(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit()) or (len(text) > 1 and text[0] == "0") or not low <= int(text) <= high:
        msg = "not a number of that range"
        raise ValueError(msg)
    return int(text)


def tile_width(size: int, level: int, index: int) -> int:
    """How many hashes the tile has in a tree of `size` leaves."""
    return max(0, min(TILE_WIDTH, (size >> (8 * level)) - index * TILE_WIDTH))


def bundle(entries: Sequence[tuple[str, int, bytes]]) -> bytes:
    """Entries (service, number, digest) as a bundle of tlog-tiles."""
    out = []
    for service, seq, digest in entries:
        data = leaf(service, seq, digest)
        out.append(len(data).to_bytes(LENGTH_BYTES, "big") + data)
    return b"".join(out)


def needed_tiles(index: int, size: int) -> list[tuple[int, int]]:
    """The tiles that an inclusion proof of `index` in a tree of `size` may read: the leaf's and the right edge's."""
    found = set()
    for level in range(MAX_LEVEL + 1):
        width = size >> (8 * level)
        if width == 0:
            break
        found.add((level, min(index >> (8 * level), width - 1) // TILE_WIDTH))
        found.add((level, (width - 1) // TILE_WIDTH))
    return sorted(found)
