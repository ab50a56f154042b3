"""Standard output as it is: whoever reads it may go away (`| head`), the disk that it goes to may be full, its encoding may lack a letter."""

from __future__ import annotations

import io
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from tallystick.cli.failure import PART_FAILED, Failed

if TYPE_CHECKING:
    from rich.console import Console


class _Output(io.FileIO):
    """What can't be written is told once, by BrokenPipeError or Failed; what comes after it goes nowhere, also at the end of the process."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                raise
            raise Failed(f"standard output can't be written: {error.strerror}", PART_FAILED) from error


def standard_output() -> None:
    """Take the place of Python's own."""
    before = sys.stdout
    if before is not None:  # `>&-`
        raw = io.BufferedWriter(_Output(before.fileno(), "w", closefd=False))
        # As standard error does it: where the locale's encoding has no `✓`, `\u2713` is said rather than nothing.
        sys.stdout = io.TextIOWrapper(
            raw, encoding=before.encoding, errors="backslashreplace", line_buffering=before.isatty()
        )


def quiet_console(**options: Any) -> Console:
    """Rich's console, which says no more when nobody reads it: the command goes on, and its exit status is what came of it."""
    return _quiet()(**options)


@cache
def _quiet() -> type[Console]:
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True

    return Quiet
