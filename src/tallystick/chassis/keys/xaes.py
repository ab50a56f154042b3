"""XAES-256-GCM: AES-256-GCM with a nonce that is long enough to be random (C2SP, https://c2sp.org/XAES-256-GCM).

A key per message is derived from the input key and the first half of the nonce (NIST SP 800-108r1, CMAC in counter mode);
AES-256-GCM uses it with the second half. After 2**80 messages under one key the chance of a collision is 2**-32, so messages need
not be counted; plain AES-GCM with random nonces is limited to 2**32 (SP 800-38D). The construction is neither misuse-resistant nor
key-committing. So nonces are made here only, by the system's generator, and stored keys have a check value.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16

_HALF: Final = 12
#: The two CMAC input blocks `counter(2) | "X" | 0 | nonce half`, without the nonce half, as one number of 256 bits.
_BLOCKS: Final = (0x0001_5800 << (96 + 128)) | (0x0002_5800 << 96)
_TWICE: Final = (1 << 128) | 1


class Tampered(Exception):
    """The ciphertext, its additional data or the key is not the one that was used to seal."""


class Xaes:
    """One input key, ready for use. `seal` and `unseal` work on `nonce | ciphertext | tag`."""

    __slots__ = ("_aes", "_mask")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"an XAES-256-GCM key has {KEY_BYTES} bytes, this has {len(key)}")
        # ECB of single blocks is the bare block cipher, on which the key derivation is defined.
        self._aes = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305
        zero = int.from_bytes(self._aes.encryptor().update(bytes(16)), "big")
        doubled = (zero << 1) & ((1 << 128) - 1)
        k1 = doubled ^ 0b10000111 if zero >> 127 else doubled
        self._mask = _BLOCKS ^ (k1 * _TWICE)

    def _subkey(self, nonce: bytes) -> AESGCM:
        half = int.from_bytes(nonce[:_HALF], "big")
        return AESGCM(self._aes.encryptor().update((self._mask ^ (half * _TWICE)).to_bytes(32, "big")))

    def encrypt(self, nonce: bytes, plain: bytes | bytearray, aad: bytes) -> bytes:
        """Ciphertext and tag for a given nonce. For test vectors only: all other code calls `seal`, which picks the nonce."""
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"an XAES-256-GCM nonce has {NONCE_BYTES} bytes, this has {len(nonce)}")
        return self._subkey(nonce).encrypt(nonce[_HALF:], plain, aad)

    def seal(self, plain: bytes | bytearray, aad: bytes) -> bytes:
        """`nonce | ciphertext | tag` under a fresh random nonce."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._subkey(nonce).encrypt(nonce[_HALF:], plain, aad)

    def unseal(self, sealed: bytes, aad: bytes) -> bytearray:
        """The plaintext, in a buffer that the caller can overwrite. Raises Tampered."""
        length = len(sealed) - NONCE_BYTES - TAG_BYTES
        if length < 0:
            raise Tampered
        nonce = sealed[:NONCE_BYTES]
        plain = bytearray(length)
        try:
            self._subkey(nonce).decrypt_into(nonce[_HALF:], sealed[NONCE_BYTES:], aad, plain)
        except InvalidTag:
            raise Tampered from None
        return plain
