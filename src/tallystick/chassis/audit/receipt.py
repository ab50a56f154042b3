"""Receipts: the proof that a fact is in the log, to be checked by anybody, offline (C2SP tlog-proof).

A receipt needs the leaf itself and the log's public key. The `extra` line carries the leaf, so that one file is enough:
nobody has to believe it, because its hash is what is proved.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tallystick.chassis.audit.merkle import ProofError, check_inclusion, leaf_hash
from tallystick.chassis.audit.note import Checkpoint, NoteError, VerifierKey, decimal, verify_checkpoint

HEADER: Final = "c2sp.org/tlog-proof@v1"
#: An entry's length is written in two bytes (tlog-tiles).
MAX_LEAF: Final = 65_535
MAX_RECEIPT: Final = 256 * 1024


class ReceiptError(ValueError):
    """The receipt proves nothing: the message says why."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A verified receipt: entry `index` of the log whose checkpoint this is, and what it says."""

    index: int
    checkpoint: Checkpoint
    leaf: bytes
    service: str
    seq: int
    fact: dict[str, Any]


class _Leaf(msgspec.Struct, forbid_unknown_fields=True):
    service: str
    seq: int
    fact: msgspec.Raw


def leaf(service: str, seq: int, raw_fact: bytes) -> bytes:
    """The log's entry for a service's fact number `seq`: the fact's own bytes, as its outbox wrote them."""
    return b'{"service":"%s","seq":%d,"fact":%s}' % (service.encode(), seq, raw_fact)


def write(index: int, proof: Sequence[bytes], checkpoint: str, entry: bytes) -> str:
    """The text of a receipt: `<name>.tlog-proof`."""
    lines = [HEADER, f"extra {base64.b64encode(entry).decode()}", f"index {index}"]
    lines += [base64.b64encode(each).decode() for each in proof]
    return "\n".join(lines) + "\n\n" + checkpoint


def verify_receipt(text: str, key: VerifierKey, *, fact: str | None = None) -> Receipt:
    """What a receipt proves; `fact` is the id that it must be about. Raises ReceiptError for whatever is wrong with it."""
    if len(text) > MAX_RECEIPT:
        raise ReceiptError("a receipt is smaller than that")
    head, separator, note = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or lines[0] != HEADER or len(lines) < 3:
        raise ReceiptError(f"a receipt begins with {HEADER}, has an index, and a checkpoint after an empty line")
    if not lines[1].startswith("extra ") or not lines[2].startswith("index "):
        raise ReceiptError("a receipt of this platform has an extra line with the entry, and an index")
    try:
        entry = base64.b64decode(lines[1].removeprefix("extra "), validate=True)
        proof = [base64.b64decode(line, validate=True) for line in lines[3:]]
        index = decimal(lines[2].removeprefix("index "))
        checkpoint = verify_checkpoint(note, key)
        check_inclusion(index, checkpoint.size, leaf_hash(entry), proof, checkpoint.root)
        said = msgspec.json.decode(entry, type=_Leaf)
        told = msgspec.json.decode(said.fact, type=dict[str, Any])
    except (binascii.Error, NoteError, ProofError, msgspec.DecodeError) as error:
        raise ReceiptError(str(error)) from error
    if fact is not None and told.get("id") != fact:
        raise ReceiptError(f"this is the receipt of {told.get('id')!s:.40}, not of {fact}")
    return Receipt(index, checkpoint, entry, said.service, said.seq, told)
