"""Numbers as people say them."""

from __future__ import annotations

import pytest

from tallystick.kernel.words import counted


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (0, ("fact",), "0 facts"),
        (1, ("fact",), "1 fact"),
        (1200, ("fact",), "1,200 facts"),
        (1, ("entry", "entries"), "1 entry"),
        (2, ("entry", "entries"), "2 entries"),
    ],
)
def test_one_is_one_and_others_are_more(count: int, words: tuple[str, ...], said: str) -> None:
    assert counted(count, *words) == said
