"""Standard output and error as they are: closed (`>&-`), read by somebody who goes away (`| head`), on a disk that is full, in an encoding
that lacks a letter. What a command does and answers does not depend on who hears its progress.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import AbstractContextManager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

from tallystick.cli.failure import PART_FAILED, Failed

if TYPE_CHECKING:
    from rich.console import Console


class _Output(io.FileIO):
    """What can't be written is told once, by BrokenPipeError or Failed; what comes after it goes nowhere, also at the end of the process."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _to_nowhere(self.fileno())
            if isinstance(error, BrokenPipeError):
                raise
            raise Failed(f"standard output can't be written: {error.strerror}", PART_FAILED) from error


class _Aside(io.FileIO):
    """Standard error: there is nowhere to tell that it can't be written, and nothing of the answer is in it."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            _to_nowhere(self.fileno())
            return super().write(data)


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def standard_streams() -> None:
    """Take the place of Python's own. What the caller has closed is open, to nowhere: else the next file to be opened would have its number,
    and what is printed to standard error would go to standard output.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - as long as the process
        elif name != "stdin":
            setattr(sys, name, _kept(getattr(sys, name), _Output if name == "stdout" else _Aside))


def _kept(before: TextIO, kind: type[io.FileIO]) -> TextIO:
    raw = io.BufferedWriter(kind(before.fileno(), "w", closefd=False))
    # As standard error does it: where the locale's encoding has no `✓`, `\u2713` is said rather than nothing.
    return io.TextIOWrapper(
        raw, encoding=before.encoding, errors="backslashreplace", line_buffering=bool(before.line_buffering)
    )


def unheard() -> AbstractContextManager[None]:
    """Around what is printed before a command is through: when its reader is gone it goes on, and its exit status is what came of it."""
    return suppress(BrokenPipeError)


def quiet_console(**options: Any) -> Console:
    """Rich's console, which says no more when nobody reads it: the command goes on, and its exit status is what came of it. Words between
    colons are what they are, and no pictures: paths of accounts are made of them.
    """
    return _quiet()(emoji=False, **options)


@cache
def _quiet() -> type[Console]:
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True

    return Quiet
