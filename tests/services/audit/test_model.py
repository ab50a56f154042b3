"""What appending means, purely: digests, tiles, head, paths."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.chassis.audit.merkle import tile_path
from tallystick.services.audit.model import append, bundle, needed_tiles, tile_address, tile_width
from tests.services.audit import c2sp

LEVELS = st.sampled_from([0, 1, 2, 7, "entries"])


def leaf(seq: int) -> bytes:
    digest = hashlib.sha256(b"%d" % seq).hexdigest()
    return b'{"service":"ledger","seq":%d,"sha256":"%s"}' % (seq, digest.encode())


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6))
@settings(max_examples=30)
def test_appended_in_any_portions_the_tree_is_that_of_the_specification(portions: list[int]) -> None:
    size, frontier, seq = 0, b"", 0
    tiles: dict[tuple[int, int], bytes] = {}
    for portion in portions:
        change = append(size, frontier, "ledger", [(seq + n, b"%d" % (seq + n)) for n in range(1, portion + 1)])
        assert change.first == size
        for key, grown in change.tiles.items():
            tiles[key] = tiles.get(key, b"") + grown
        size, frontier, seq = change.size, change.frontier, seq + portion
    hashes = [c2sp.sha256(b"\x00" + leaf(n)) for n in range(1, size + 1)]
    assert b"".join(tiles[0, i] for i in range(-(-size // 256))) == b"".join(hashes)
    above = [c2sp.tree_hash(hashes[i * 256 : i * 256 + 256]) for i in range(size // 256)]
    assert tiles.get((1, 0), b"") == b"".join(above)
    assert set(tiles) == {(0, i) for i in range(-(-size // 256))} | ({(1, 0)} if above else set())


def test_three_levels() -> None:
    count = 256 * 256 + 300
    change = append(0, b"", "ledger", [(n, b"%d" % n) for n in range(1, count + 1)])
    assert len(change.tiles[2, 0]) == 32
    assert len(change.tiles[1, 1]) == 32
    for level, index in [*random.Random(1).sample(sorted(change.tiles), 20), (2, 0), (1, 0), (1, 1)]:
        assert len(change.tiles[level, index]) == 32 * tile_width(count, level, index)
        if level:
            below = change.tiles[level - 1, index * 256]
            nodes = [below[i : i + 32] for i in range(0, len(below), 32)]
            assert c2sp.tree_hash(nodes) == change.tiles[level, index][:32]


def test_a_bundle_is_length_prefixed_entries() -> None:
    digest = hashlib.sha256(b"7").digest()
    raw = bundle([("ledger", 7, digest), ("vault", 1, digest)])
    length = int.from_bytes(raw[:2], "big")
    assert raw[2 : 2 + length] == leaf(7)
    assert raw[2 + length + 2 :].startswith(b'{"service":"vault","seq":1,')


@given(LEVELS, st.integers(0, 10**12), st.integers(1, 256))
def test_a_path_is_read_as_it_is_written(level: int | str, index: int, width: int) -> None:
    path = tile_path(level, index, width)
    assert path == c2sp.path(str(level), index, width)
    assert tile_address(path.removeprefix("tile/")) == (level, index, width)


@pytest.mark.parametrize(
    "path",
    [
        "", "0", "0/", "0/0", "0/00", "0/0000", "0/abc", "0/x001", "0/001/002", "0/x000/001", "0/000.p/0", "0/000.p/256",
        "0/000.p/01", "0/000.p", "0/000.p/1/2", "00/000", "-1/000", "64/000", "+0/000", "entry/000", "entries/x00/000",
        "0/٠٠٠", "0/x001/x002/x003/x004/x005/006", "0/ 00", "data/000", "0/000.p/x",
    ],
)  # fmt: skip
def test_there_is_one_spelling(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|number"):
        tile_address(path)


@given(st.integers(1, 2**40), st.data())
def test_an_inclusion_proof_reads_few_tiles(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    needed = needed_tiles(index, size)
    assert len(needed) <= 2 * 6
    assert all(tile_width(size, level, tile) > 0 for level, tile in needed)
