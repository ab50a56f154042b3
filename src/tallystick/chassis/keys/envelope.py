"""The format of a sealed value, and what the value is bound to.

    0x54 | format 1 | algorithm 1 | key id 8 | key version 2 | nonce 24 | ciphertext | tag 16

The header (the first 13 bytes) is authenticated together with the place that the value belongs to (`Aad`), so a ciphertext opens only
in the row, column, table, tenant, service and environment that it was sealed for: values can't be swapped between rows. What this
does not detect is an older value of the same place, which opens as long as its key exists.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from tallystick.chassis.keys.xaes import NONCE_BYTES, TAG_BYTES

MAGIC: Final = 0x54
FORMAT: Final = 1
XAES_256_GCM: Final = 1
KEY_ID_BYTES: Final = 8
HEADER_BYTES: Final = 3 + KEY_ID_BYTES + 2
OVERHEAD_BYTES: Final = HEADER_BYTES + NONCE_BYTES + TAG_BYTES

_HEADER: Final = struct.Struct(">BBB8sH")
#: The last field of each place. It has no meaning, but every existing value is bound to it.
_RECORD: Final = "1"


class KeyringError(Exception):
    """A sealed value can't be opened, or a key can't be used. The message never holds a key or a plaintext."""


class Malformed(KeyringError):
    """These bytes are not a sealed value of this format."""


class UnknownKey(KeyringError):
    """The key that the header names was never here: the value is another service's, or another installation's."""


class Shredded(KeyringError):
    """The key that the header names was destroyed, and the value with it."""


class Forged(KeyringError):
    """The value was changed, or belongs to another place than the one it was read from."""


@dataclass(frozen=True, slots=True)
class Aad:
    """The place that a sealed value belongs to."""

    tenant: str
    table: str
    column: str
    row: str

    def bytes(self, environment: str, service: str) -> bytes:
        return fields(environment, service, self.tenant, self.table, self.column, self.row, _RECORD)


@dataclass(frozen=True, slots=True)
class Header:
    key_id: bytes
    version: int

    def bytes(self) -> bytes:
        return _HEADER.pack(MAGIC, FORMAT, XAES_256_GCM, self.key_id, self.version)


def fields(*parts: str) -> bytes:
    """An unambiguous encoding of a list of texts: each text follows its length, so that no two lists have the same encoding."""
    out = bytearray()
    for part in parts:
        encoded = part.encode()
        out += len(encoded).to_bytes(2, "big")
        out += encoded
    return bytes(out)


def parse(blob: bytes) -> tuple[Header, bytes]:
    """The header and `nonce | ciphertext | tag`. Raises Malformed."""
    if len(blob) < OVERHEAD_BYTES:
        raise Malformed(f"a sealed value has at least {OVERHEAD_BYTES} bytes, this has {len(blob)}")
    magic, form, algorithm, key_id, version = _HEADER.unpack_from(blob)
    if (magic, form, algorithm) != (MAGIC, FORMAT, XAES_256_GCM):
        raise Malformed("not a sealed value of a known format and algorithm")
    return Header(key_id, version), blob[HEADER_BYTES:]
