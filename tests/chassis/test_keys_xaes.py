"""XAES-256-GCM against the vectors of its specification (https://c2sp.org/XAES-256-GCM)."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.chassis.keys.xaes import NONCE_BYTES, TAG_BYTES, Tampered, Xaes

NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"


@pytest.mark.parametrize(
    ("key", "aad", "expected"),
    [
        (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (b"\x03" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
    ids=["top bit of L clear", "top bit of L set"],
)
def test_specification_vectors(key: bytes, aad: bytes, expected: str) -> None:
    sealed = Xaes(key).encrypt(NONCE, b"XAES-256-GCM", aad)
    assert sealed.hex() == expected
    assert Xaes(key).unseal(NONCE + sealed, aad) == b"XAES-256-GCM"


def test_accumulated_vectors() -> None:
    """10,000 messages drawn from SHAKE-128; the specification gives the hash of all ciphertexts."""
    stream = hashlib.shake_128().digest(10_000 * (32 + 24 + 2 * 256))
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        return stream[at - count : at]

    total = hashlib.shake_128()
    for _ in range(10_000):
        key, nonce = take(32), take(24)
        plain = take(take(1)[0])
        aad = take(take(1)[0])
        cipher = Xaes(key)
        sealed = cipher.encrypt(nonce, plain, aad)
        assert cipher.unseal(nonce + sealed, aad) == plain
        total.update(sealed)
    assert total.hexdigest(32) == "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


@given(plain=st.binary(max_size=200), aad=st.binary(max_size=80), at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_any_changed_bit_is_noticed(plain: bytes, aad: bytes, at: int, bit: int) -> None:
    cipher = Xaes(b"k" * 32)
    sealed = bytearray(cipher.seal(plain, aad))
    sealed[at % len(sealed)] ^= 1 << bit
    with pytest.raises(Tampered):
        cipher.unseal(bytes(sealed), aad)


@pytest.mark.parametrize("length", [0, 1, NONCE_BYTES, NONCE_BYTES + TAG_BYTES - 1])
def test_too_short(length: int) -> None:
    with pytest.raises(Tampered):
        Xaes(b"k" * 32).unseal(bytes(length), b"")


def test_other_key_other_aad() -> None:
    sealed = Xaes(b"k" * 32).seal(b"number", b"here")
    with pytest.raises(Tampered):
        Xaes(b"j" * 32).unseal(sealed, b"here")
    with pytest.raises(Tampered):
        Xaes(b"k" * 32).unseal(sealed, b"there")


def test_nonces_differ() -> None:
    cipher = Xaes(b"k" * 32)
    assert len({cipher.seal(b"same", b"")[:NONCE_BYTES] for _ in range(2000)}) == 2000


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_wrong_key_length(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Xaes(bytes(length))


def test_wrong_nonce_length() -> None:
    with pytest.raises(ValueError, match="24 bytes"):
        Xaes(bytes(32)).encrypt(bytes(12), b"", b"")
