"""Patterns for dotted names: types of facts, and names of webhook events."""

from __future__ import annotations

from collections.abc import Iterable


def matches(patterns: Iterable[str], name: str) -> bool:
    """Whether one of `patterns` matches the name. A pattern is a name, ends in `.*`, or is `*`."""
    return any(
        pattern in ("*", name) or (pattern.endswith(".*") and name.startswith(pattern[:-1])) for pattern in patterns
    )
