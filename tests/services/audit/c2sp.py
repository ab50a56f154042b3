"""A client of a transparency log, written from the specifications alone and without any of the platform's code.

c2sp.org/signed-note, c2sp.org/tlog-checkpoint, c2sp.org/tlog-tiles, c2sp.org/tlog-proof, RFC 6962 section 2.1.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Fetch = Callable[[str], Awaitable[bytes]]


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def tree_hash(hashes: list[bytes]) -> bytes:
    """MTH over leaf hashes (RFC 6962, 2.1)."""
    if not hashes:
        return sha256(b"")
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return sha256(b"\x01" + tree_hash(hashes[:k]) + tree_hash(hashes[k:]))


def root_of_path(index: int, size: int, leaf: bytes, path: list[bytes]) -> bytes:
    """The root that PATH(index, D[size]) leads to, by the definition of PATH (RFC 6962, 2.1.1). `path` is used up."""
    if size == 1:
        assert not path
        return leaf
    k = 1
    while k * 2 < size:
        k *= 2
    last = path.pop()
    if index < k:
        return sha256(b"\x01" + root_of_path(index, k, leaf, path) + last)
    return sha256(b"\x01" + last + root_of_path(index - k, size - k, leaf, path))


@dataclass
class Key:
    name: str
    id: bytes
    public: Ed25519PublicKey

    @classmethod
    def parse(cls, vkey: str) -> Key:
        name, id_, data = vkey.strip().split("+", 2)
        raw = base64.b64decode(data, validate=True)
        assert raw[0] == 1 and len(raw) == 33, "Ed25519"
        assert sha256(name.encode() + b"\n" + raw)[:4].hex() == id_
        return cls(name, bytes.fromhex(id_), Ed25519PublicKey.from_public_bytes(raw[1:]))


def checkpoint(note: str, key: Key) -> tuple[int, bytes]:
    """Size and root of a checkpoint, its signature verified."""
    text, _, signatures = note.rpartition("\n\n")
    text += "\n"
    assert signatures.endswith("\n")
    signed = False
    for line in signatures.splitlines():
        dash, name, data = line.split(" ")
        assert dash == "—"
        raw = base64.b64decode(data, validate=True)
        if name == key.name and raw[:4] == key.id:
            key.public.verify(raw[4:], text.encode())
            signed = True
    assert signed, "nobody that we know has signed"
    origin, size, root = text.splitlines()[:3]
    assert origin == key.name
    return int(size), base64.b64decode(root, validate=True)


def path(level: str, index: int, width: int) -> str:
    digits = f"{index:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    element = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return f"tile/{level}/{element}" + ("" if width == 256 else f".p/{width}")


async def entries(fetch: Fetch, size: int) -> list[bytes]:
    """All entries of a tree of that size, out of its bundles."""
    found: list[bytes] = []
    for index in range(-(-size // 256)):
        width = min(256, size - index * 256)
        data = await fetch(path("entries", index, width))
        count = 0
        while data:
            length = int.from_bytes(data[:2], "big")
            found.append(data[2 : 2 + length])
            assert len(found[-1]) == length
            data = data[2 + length :]
            count += 1
        assert count == width
    return found


async def check_log(fetch: Fetch, key: Key) -> list[dict[str, Any]]:
    """Rebuilds the whole tree from its entries and compares each tile and the checkpoint with it. The entries, decoded."""
    size, root = checkpoint((await fetch("checkpoint")).decode(), key)
    raw = await entries(fetch, size)
    hashes = [sha256(b"\x00" + entry) for entry in raw]
    assert tree_hash(hashes) == root
    level = 0
    while hashes:
        for index in range(-(-len(hashes) // 256)):
            tile = hashes[index * 256 : index * 256 + 256]
            assert await fetch(path(str(level), index, len(tile))) == b"".join(tile), (level, index)
        hashes = [tree_hash(hashes[i * 256 : i * 256 + 256]) for i in range(len(hashes) // 256)]
        level += 1
    return [json.loads(entry) for entry in raw]


def check_receipt(text: str, key: Key) -> tuple[dict[str, Any], int, int]:
    """The fact that a tlog-proof proves, the entry's index and the tree's size. What it says is checked to the root."""
    head, _, note = text.partition("\n\n")
    header, extra, index_line, *path_lines = head.split("\n")
    assert header == "c2sp.org/tlog-proof@v1"
    size, root = checkpoint(note, key)
    told = base64.b64decode(extra.removeprefix("extra "), validate=True)
    index = int(index_line.removeprefix("index "))
    said = json.loads(told)
    # The fact's own bytes, as they stand in the extra line.
    fact = told[told.index(b'"fact":') + len(b'"fact":') : -1]
    entry = json.dumps(
        {"service": said["service"], "seq": said["seq"], "sha256": sha256(fact).hex()}, separators=(",", ":")
    ).encode()
    proof = [base64.b64decode(line, validate=True) for line in path_lines]
    assert root_of_path(index, size, sha256(b"\x00" + entry), proof) == root
    assert not proof
    found: dict[str, Any] = json.loads(fact)
    return found, index, size
