"""The Merkle tree of RFC 6962 section 2: hashing, appending, making and checking proofs. Pure; it needs nothing but SHA-256.

Ranges are half-open, sizes count leaves. A *tile* is 256 consecutive hashes of one level (C2SP tlog-tiles): level 0 holds leaf
hashes, and each hash of level L+1 is the root of a full tile of level L.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final

HASH_SIZE: Final = 32
TILE_WIDTH: Final = 256
TILE_HEIGHT: Final = 8
EMPTY_ROOT: Final = sha256(b"").digest()

#: `read(level, index)` returns the hashes of a tile, as far as it is filled, concatenated.
ReadTile = Callable[[int, int], bytes]


class ProofError(ValueError):
    """A proof does not prove what it should."""


def leaf_hash(leaf: bytes) -> bytes:
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: the roots of its perfect subtrees, widest first. Appending needs nothing else."""

    __slots__ = ("_nodes", "size")

    def __init__(self, size: int = 0, packed: bytes = b"") -> None:
        nodes = [packed[i : i + HASH_SIZE] for i in range(0, len(packed), HASH_SIZE)]
        if size < 0 or len(nodes) != size.bit_count() or any(len(node) != HASH_SIZE for node in nodes):
            msg = f"a tree of {size} leaves has {max(size, 0).bit_count()} perfect subtrees"
            raise ValueError(msg)
        self.size = size
        self._nodes = nodes

    def packed(self) -> bytes:
        return b"".join(self._nodes)

    def append(self, leaf: bytes) -> list[tuple[int, bytes]]:
        """Append a leaf by its *hash*; returns the hashes that this adds to tiles: (level, hash) in order of level."""
        grown = [(0, leaf)]
        node, height, size = leaf, 0, self.size
        while size & 1:
            node = node_hash(self._nodes.pop(), node)
            height += 1
            size >>= 1
            if height % TILE_HEIGHT == 0:
                grown.append((height // TILE_HEIGHT, node))
        self._nodes.append(node)
        self.size += 1
        return grown

    def root(self) -> bytes:
        if not self._nodes:
            return EMPTY_ROOT
        root = self._nodes[-1]
        for node in reversed(self._nodes[:-1]):
            root = node_hash(node, root)
        return root


def _split(width: int) -> int:
    """The largest power of two below `width` (more than one)."""
    return 1 << ((width - 1).bit_length() - 1)


def subtree(read: ReadTile, low: int, high: int) -> bytes:
    """MTH(D[low:high]), computed from tiles. `low` must be a multiple of the range's power of two, as in all ranges of proofs."""
    width = high - low
    if width & (width - 1) == 0:
        return _perfect(read, low, width)
    k = _split(width)
    return node_hash(_perfect(read, low, k), subtree(read, low + k, high))


def _perfect(read: ReadTile, low: int, width: int) -> bytes:
    level, height = divmod(width.bit_length() - 1, TILE_HEIGHT)
    first = low >> (level * TILE_HEIGHT)
    tile, offset = divmod(first, TILE_WIDTH)
    count = 1 << height
    data = read(level, tile)[offset * HASH_SIZE : (offset + count) * HASH_SIZE]
    if len(data) != count * HASH_SIZE:
        msg = f"tile {level}/{tile} is too short for {count} hashes from {offset}"
        raise ProofError(msg)
    return _reduced(data)


@lru_cache(maxsize=512)
def _reduced(data: bytes) -> bytes:
    """The root over a power of two of hashes. Cached by its input: a growing log needs the same left parts at each signature, so that
    only the newest have to be hashed.
    """
    nodes = [data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)]
    while len(nodes) > 1:
        nodes = [node_hash(nodes[i], nodes[i + 1]) for i in range(0, len(nodes), 2)]
    return nodes[0]


def prove_inclusion(read: ReadTile, index: int, size: int) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 section 2.1.1, from the leaf's sibling up."""
    if not 0 <= index < size:
        msg = f"a tree of {size} leaves has no leaf {index}"
        raise ProofError(msg)
    proof: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        k = low + _split(high - low)
        if index < k:
            proof.append(subtree(read, k, high))
            high = k
        else:
            proof.append(subtree(read, low, k))
            low = k
    proof.reverse()
    return proof


def prove_consistency(read: ReadTile, old: int, new: int) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962 section 2.1.2. Empty when `old` is 0 or `new`."""
    if not 0 <= old <= new:
        msg = f"a tree of {new} leaves did not grow out of one of {old}"
        raise ProofError(msg)
    if old in (0, new):
        return []
    proof: list[bytes] = []
    low, high = 0, new
    whole = True
    while old != high:
        k = low + _split(high - low)
        if old <= k:
            proof.append(subtree(read, k, high))
            high = k
        else:
            proof.append(subtree(read, low, k))
            low = k
            whole = False
    if not whole:
        proof.append(subtree(read, low, high))
    proof.reverse()
    return proof


def check_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Raises ProofError unless `proof` shows that the leaf hash `leaf` is at `index` of the tree (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        msg = f"a tree of {size} leaves has no leaf {index}"
        raise ProofError(msg)
    _check_hashes([leaf, root, *proof])
    node, last, here = leaf, size - 1, index
    for sibling in proof:
        if last == 0:
            raise ProofError("the proof is too long")
        if here & 1 or here == last:
            node = node_hash(sibling, node)
            if not here & 1:
                while here and not here & 1:
                    here >>= 1
                    last >>= 1
        else:
            node = node_hash(node, sibling)
        here >>= 1
        last >>= 1
    if last != 0:
        raise ProofError("the proof is too short")
    if node != root:
        raise ProofError("the leaf is not in the tree with this root")


def check_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Raises ProofError unless `proof` shows that the tree of `new` leaves begins with that of `old` (RFC 9162 2.1.4.2)."""
    if not 0 <= old <= new:
        msg = f"a tree of {new} leaves did not grow out of one of {old}"
        raise ProofError(msg)
    _check_hashes([old_root, new_root, *proof])
    if old in (0, new):
        if proof:
            raise ProofError("the proof is too long")
        if old == new and old_root != new_root:
            raise ProofError("two roots for one size")
        if old == 0 and old_root != EMPTY_ROOT:
            raise ProofError("this is not the root of an empty tree")
        return
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise ProofError("the proof is too short")
    here, last = old - 1, new - 1
    while here & 1:
        here >>= 1
        last >>= 1
    was = now = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError("the proof is too long")
        if here & 1 or here == last:
            was = node_hash(sibling, was)
            now = node_hash(sibling, now)
            if not here & 1:
                while here and not here & 1:
                    here >>= 1
                    last >>= 1
        else:
            now = node_hash(now, sibling)
        here >>= 1
        last >>= 1
    if last != 0:
        raise ProofError("the proof is too short")
    if was != old_root:
        raise ProofError("the proof starts from another tree")
    if now != new_root:
        raise ProofError("the newer tree does not begin with the older one")


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(each) != HASH_SIZE for each in hashes):
        raise ProofError("a hash has 32 bytes")


def tile_path(level: int | str, index: int, width: int = TILE_WIDTH) -> str:
    """The path of a tile, such as `tile/0/x001/234.p/17` (C2SP tlog-tiles); entry bundles have the level `entries`."""
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.insert(0, f"x{index % 1000:03d}")
    partial = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(groups)}{partial}"
