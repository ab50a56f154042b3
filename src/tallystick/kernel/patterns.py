"""Patterns over names with dots in them: types of facts, and the events of webhooks that are made of them."""

from __future__ import annotations

from collections.abc import Iterable


def matches(patterns: Iterable[str], name: str) -> bool:
    """Whether one of `patterns` is this name: each is a name, or ends in `.*`, or is `*`."""
    return any(
        pattern in ("*", name) or (pattern.endswith(".*") and name.startswith(pattern[:-1])) for pattern in patterns
    )
