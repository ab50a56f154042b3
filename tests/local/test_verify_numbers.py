"""The search for card numbers: what it must find, and what only looks like one."""

from __future__ import annotations

import pytest

from tallystick.local.verify.numbers import _numbers


@pytest.mark.parametrize(
    "text",
    [
        b'{"number":"4242424242424242"}',
        b"4000000000000002",
        b"card=4111111111111111;",
        b'{"spanish":"4111111111111111"}',
        b"\x00\x104242424242424242\x00",
    ],
)
def test_a_number_in_clear_is_found(text: bytes) -> None:
    assert len(list(_numbers(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"4111111111111112",  # the check digit is wrong
        b"41111111111111110",  # seventeen digits
        b"a4111111111111111",  # in a hexadecimal word
        b"\\x4111111111111111",  # bytes as PostgreSQL prints them: the id of a key
        b'{"trace":"...","span":"4111111111111111","parent":"4111111111111111"}',
        b"2026.4111111111111111",
    ],
)
def test_what_only_looks_like_one_is_not(text: bytes) -> None:
    assert not list(_numbers(text))
