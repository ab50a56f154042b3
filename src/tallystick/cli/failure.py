"""Exit statuses, and the exception by which a command fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

OK: Final = 0
NO: Final = 1
"""The answer is no: a check failed, a payment was declined, something isn't ready."""
USAGE: Final = 2
NOT_RUNNING: Final = 3
PART_FAILED: Final = 4


class Failed(Exception):
    """A command can't do what was asked. The message says why and what to do; `status` is the exit status."""

    def __init__(self, message: str, status: int = NO) -> None:
        super().__init__(message)
        self.status = status


def places(said: str, errors: Iterable[Mapping[str, object]]) -> list[str]:
    """Lines for a problem's `errors`: where each is in the request, and what is wrong unless `said`, the problem's detail, says it."""
    lines = []
    for error in errors:
        pointer, detail = str(error.get("pointer") or ""), str(error.get("detail") or "")
        if said not in {detail, f"{pointer}: {detail}"}:
            lines.append(f"  {pointer}: {detail}")
        elif pointer and said == detail:
            lines.append(f"  at {pointer}")
    return lines
