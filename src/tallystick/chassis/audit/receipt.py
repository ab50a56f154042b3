"""Receipts: proofs that a fact is in the log, which anybody can verify offline (C2SP tlog-proof).

A log entry is a commitment: the service, the number that it gave to the fact, and the SHA-256 of the fact's bytes. So everybody may read
the log without learning anybody's business. A fact that has to be erased leaves a hash from which it can't be guessed, because a fact
contains an id of 74 random bits. The receipt's `extra` line carries the fact itself. It need not be trusted, because the proof is about
its hash. Verifying also checks that the fact's type belongs to the service that told it (`fact.tells`), so that somebody who has
taken over one service can't speak for another.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import msgspec

from tallystick.chassis.audit.merkle import check_inclusion, leaf_hash
from tallystick.chassis.audit.note import MAX_NOTE, Checkpoint, VerifierKey, decimal, verify_checkpoint
from tallystick.chassis.fact import tells

HEADER: Final = "c2sp.org/tlog-proof@v1"
#: A fact, a proof and a note.
MAX_RECEIPT: Final = MAX_NOTE + 256 * 1024


class ReceiptError(ValueError):
    """The receipt is not valid; the message says why."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A verified receipt: it proves that fact `seq` of `service` is entry `index` of the log with this checkpoint."""

    index: int
    checkpoint: Checkpoint
    service: str
    seq: int
    fact: dict[str, Any]


class _Extra(msgspec.Struct, forbid_unknown_fields=True):
    service: str
    seq: int
    fact: msgspec.Raw


_SERVICE: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def leaf(service: str, seq: int, digest: bytes) -> bytes:
    """The log's entry for a service's fact number `seq`; `digest` is the SHA-256 of the fact's bytes."""
    begin = _begin(service)
    if not begin or seq < 1 or len(digest) != 32:
        msg = "an entry needs a service's name, a number from 1 and a SHA-256"
        raise ValueError(msg)
    return b'%s%d,"sha256":"%s"}' % (begin, seq, digest.hex().encode())


@lru_cache(maxsize=64)
def _begin(service: str) -> bytes:
    """The beginning of a service's entries; empty if that is no valid name of a service."""
    return b'{"service":"%s","seq":' % service.encode() if _SERVICE.fullmatch(service) else b""


def write(index: int, proof: Sequence[bytes], checkpoint: str, *, service: str, seq: int, fact: bytes) -> str:
    """The text of a receipt, the content of a `.tlog-proof` file. `fact` is the fact's own bytes, as in the outbox."""
    extra = b'{"service":"%s","seq":%d,"fact":%s}' % (service.encode(), seq, fact)
    lines = [HEADER, f"extra {base64.b64encode(extra).decode()}", f"index {index}"]
    lines += [base64.b64encode(each).decode() for each in proof]
    return "\n".join(lines) + "\n\n" + checkpoint


def verify_receipt(text: str, key: VerifierKey, *, fact: str | None = None) -> Receipt:
    """Verify a receipt; with `fact`, an id, also that it is about this fact. Raises ReceiptError."""
    if len(text) > MAX_RECEIPT:
        raise ReceiptError("a receipt is smaller than that")
    head, separator, note = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or lines[0] != HEADER or len(lines) < 3:
        raise ReceiptError(f"a receipt begins with {HEADER}, has an index, and a checkpoint after an empty line")
    if not lines[1].startswith("extra ") or not lines[2].startswith("index "):
        raise ReceiptError("a receipt of this platform has an extra line with the fact, and an index")
    try:
        said = msgspec.json.decode(base64.b64decode(lines[1].removeprefix("extra "), validate=True), type=_Extra)
        entry = leaf(said.service, said.seq, sha256(said.fact).digest())
        proof = [base64.b64decode(line, validate=True) for line in lines[3:]]
        index = decimal(lines[2].removeprefix("index "))
        checkpoint = verify_checkpoint(note, key)
        check_inclusion(index, checkpoint.size, leaf_hash(entry), proof, checkpoint.root)
        told = msgspec.json.decode(said.fact, type=dict[str, Any])
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise ReceiptError(str(error)) from error
    if not tells(said.service, str(told.get("type"))):
        raise ReceiptError(
            f"{said.service} has told this, but it is not {said.service}'s to tell: {told.get('type')!s:.40}"
        )
    if fact is not None and told.get("id") != fact:
        raise ReceiptError(f"this is the receipt of {told.get('id')!s:.40}, not of {fact}")
    return Receipt(index, checkpoint, said.service, said.seq, told)
