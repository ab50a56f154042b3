# ruff: noqa: INP001 (a script, not a package)
"""Verifies a receipt offline: that a fact is in the log whose public key you hold.

    python verify_receipt.py KEY RECEIPT

KEY is the file with the log's public key (GET /v1/audit/key), kept from before; RECEIPT is the file with the receipt
(GET /v1/audit/receipts/fct_...). Needs the standard library and `cryptography`; nothing of the platform. The formats are C2SP's
tlog-proof, tlog-checkpoint and signed-note; the tree is that of RFC 6962, the check that of RFC 9162, 2.1.3.2.

Exit status: 0 proved, and the fact is printed; 1 not proved, with the reason; 2 there is nothing to prove.
"""

from __future__ import annotations

import base64
import json
import sys
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class NotProved(ValueError):
    """Its text is the reason. Any other error means that a part of the key or the receipt can't be decoded."""


def verify(key: str, receipt: str) -> tuple[int, int, str, str]:
    """(index, size of the log, who told the fact, the fact as it was written). Raises NotProved with the reason."""
    head, _, note = receipt.partition("\n\n")
    lines = head.split("\n")
    if lines[0] != "c2sp.org/tlog-proof@v1" or len(lines) < 3:
        raise NotProved("this is not a receipt")
    extra, position, *proof = lines[1:]
    if not extra.startswith("extra ") or not position.startswith("index "):
        raise NotProved("this is not a receipt")
    index = int(position.removeprefix("index "))
    size, root = signed_head(key, note)

    # The log's entry is a commitment: who told the fact, the number it gave to it, and the hash of its bytes.
    told = base64.b64decode(extra.removeprefix("extra "), validate=True).decode()
    said = json.loads(told)
    fact = told[told.index('"fact":') + len('"fact":') : -1]
    digest = sha256(fact.encode()).hexdigest()
    entry = f'{{"service":"{said["service"]}","seq":{said["seq"]},"sha256":"{digest}"}}'

    # From the leaf up to the root, each time with the sibling that the proof gives.
    if not 0 <= index < size:
        raise NotProved(f"a log of {size} entries has no entry {index}")
    node, here, last = sha256(b"\x00" + entry.encode()).digest(), index, size - 1
    for line in proof:
        sibling = base64.b64decode(line, validate=True)
        if last == 0 or len(sibling) != 32:
            raise NotProved("the proof is not of this tree")
        if here & 1 or here == last:
            node = sha256(b"\x01" + sibling + node).digest()
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            node = sha256(b"\x01" + node + sibling).digest()
        here, last = here >> 1, last >> 1
    if last != 0 or node != root:
        raise NotProved("the fact is not in the log that was signed")

    # A type's first word is the service whose fact it is ("ledger-eu" is a shard of the ledger). Another service's word for it is a forgery.
    teller, type_ = said["service"], str(json.loads(fact).get("type"))
    if type_.partition(".")[0] != teller.partition("-")[0]:
        raise NotProved(f"{teller} has told this, but {type_} is not its to tell")
    return index, size, teller, fact


def signed_head(key: str, note: str) -> tuple[int, bytes]:
    """The size and the root that the log has signed. Raises NotProved."""
    if key.count("+") < 2:
        raise NotProved("this is not the public key of a log")
    name, _, encoded = key.strip().split("+", 2)
    typed = base64.b64decode(encoded, validate=True)
    if len(typed) != 33 or typed[0] != 1:
        raise NotProved("the log's key is not an Ed25519 key")
    mark = sha256(name.encode() + b"\n" + typed).digest()[:4]
    text, _, signatures = note.rpartition("\n\n")
    text += "\n"
    for line in signatures.splitlines():
        dash, signer, encoded = line.split(" ")
        signature = base64.b64decode(encoded, validate=True)
        if dash == "\u2014" and signer == name and signature[:4] == mark:
            try:
                Ed25519PublicKey.from_public_bytes(typed[1:]).verify(signature[4:], text.encode())
            except InvalidSignature:
                raise NotProved("the log's signature is wrong") from None
            origin, size, root = text.split("\n")[:3]
            if origin != name:
                raise NotProved("this head is another log's")
            return int(size), base64.b64decode(root, validate=True)
    raise NotProved("the log has not signed this")


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: verify_receipt.py KEY RECEIPT", file=sys.stderr)
        return 2
    try:
        key, receipt = (Path(name).read_text(encoding="utf-8") for name in sys.argv[1:])
        index, size, teller, fact = verify(key, receipt)
    except OSError as error:
        print(f"{error.filename} can't be read: {error.strerror}", file=sys.stderr)
        return 2
    except NotProved as error:
        print(f"NOT proved: {error}")
        return 1
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        print("NOT proved: the key or the receipt is damaged")
        return 1
    print(f"proved: entry {index} of the log's first {size}, told by {teller}")
    print(json.dumps(json.loads(fact), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
