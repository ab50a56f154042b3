"""Signed notes and checkpoints (C2SP signed-note, tlog-checkpoint): how a log states its size and its root.

A note is a text with signature lines; a checkpoint is a note of three lines: origin, size, root. Signatures by keys that
the verifier does not know are ignored, as the specification demands, because a witness may have added its own.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519: Final = 0x01
#: The specification demands room for sixteen signatures of nearly 5 kB (ML-DSA-87 has 4,627 bytes) beside the log's; this is more.
MAX_NOTE: Final = 256 * 1024
MAX_SIGNATURES: Final = 64


class NoteError(ValueError):
    """A note is malformed, or not signed by a known key."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A named public key. As text: `<name>+<key id in hex>+<base64 of type and key>` (signed-note's vkey)."""

    name: str
    key: Ed25519PublicKey

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + self._typed()).digest()[:4]

    def _typed(self) -> bytes:
        return bytes([ED25519]) + self.key.public_bytes_raw()

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(self._typed()).decode()}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        parts = text.strip().split("+", 2)
        if len(parts) != 3 or not valid_name(parts[0]):
            raise NoteError("a verifier key is <name>+<id>+<key>")
        typed = _decoded(parts[2], "the verifier key")
        if len(typed) != 33 or typed[0] != ED25519:
            raise NoteError("only Ed25519 verifier keys are known here")
        key = cls(parts[0], Ed25519PublicKey.from_public_bytes(typed[1:]))
        if key.id.hex() != parts[1]:
            raise NoteError("the verifier key's id is not its own")
        return key


def valid_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() or ord(c) < 0x20 for c in name)


def sign(text: str, name: str, key: Ed25519PrivateKey) -> str:
    """The signed note of `text`, which must end in a newline. Raises NoteError."""
    if not text.endswith("\n") or not valid_name(name):
        raise NoteError("a note's text ends in a newline and its key has a name without spaces or plus signs")
    verifier = VerifierKey(name, key.public_key())
    signature = base64.b64encode(verifier.id + key.sign(text.encode())).decode()
    return f"{text}\n\u2014 {name} {signature}\n"


def verify(note: str, *known: VerifierKey) -> str:
    """The text of a note that has a valid signature by at least one known key, and no invalid one by any of them. Raises NoteError."""
    if len(note) > MAX_NOTE or any(ord(c) < 0x20 and c != "\n" for c in note):
        raise NoteError("a note is text without control characters, of at most 256 KiB")
    body, separator, block = note.rpartition("\n\n")
    if not separator or not block.endswith("\n"):
        raise NoteError("a note has text, an empty line and signatures")
    text = body + "\n"
    lines = block[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError("the note has too many signatures")
    signed = False
    for line in lines:
        name, signature = _signature(line)
        for key in known:
            if key.name == name and key.id == signature[:4]:
                try:
                    key.key.verify(signature[4:], text.encode())
                except InvalidSignature as error:
                    raise NoteError(f"the signature of {name} is wrong") from error
                signed = True
    if not signed:
        raise NoteError("no key that we know has signed this note")
    return text


def _signature(line: str) -> tuple[str, bytes]:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "\u2014" or not valid_name(parts[1]):
        raise NoteError("a signature line is a dash, a name and a signature")
    signature = _decoded(parts[2], "a signature")
    if len(signature) < 5:
        raise NoteError("a signature is longer than its key's id")
    return parts[1], signature


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The statement of the log `origin` that its first `size` entries have the root hash `root`."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint in a note's text, whose signature `verify` has checked. Extension lines are ignored. Raises NoteError."""
        lines = text.split("\n")
        if len(lines) < 4 or not lines[0]:
            raise NoteError("a checkpoint has an origin, a size and a root")
        size = decimal(lines[1])
        root = _decoded(lines[2], "a checkpoint's root")
        if len(root) != 32:
            raise NoteError("a checkpoint's root has 32 bytes")
        return cls(lines[0], size, root)


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # not just binascii.Error: text that is not ASCII raises a plain ValueError
        raise NoteError(f"{what} is base64") from error


def decimal(text: str) -> int:
    """A number without sign or leading zeroes, of at most 18 digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and (text == "0" or text[0] != "0")):
        raise NoteError("a number has digits and no leading zeroes")
    return int(text)


def verify_checkpoint(note: str, key: VerifierKey) -> Checkpoint:
    """The checkpoint in a note that is signed by the log's `key` and whose origin is the key's name. Raises NoteError."""
    checkpoint = Checkpoint.parse(verify(note, key))
    if checkpoint.origin != key.name:
        raise NoteError(f"this is a checkpoint of {checkpoint.origin:.60}, not of {key.name}")
    return checkpoint
