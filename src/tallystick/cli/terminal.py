"""Standard output and standard error that may be closed (`>&-`), be a pipe whose reader leaves (`| head`), lie on a full disk, or have an
encoding that lacks a character. None of these changes what a command does or its exit status.
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
    """Standard output. The first failed write raises BrokenPipeError or Failed. After it, everything is discarded, including what Python
    flushes at exit.
    """

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _discard(self.fileno())
            if isinstance(error, BrokenPipeError):
                raise
            raise Failed(f"can't write to standard output: {error.strerror}", PART_FAILED) from error


class _ErrorOutput(io.FileIO):
    """Standard error. A failed write is ignored: there is nowhere left to report it, and the answer is on standard output."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            _discard(self.fileno())
            return super().write(data)


def _discard(descriptor: int) -> None:
    """Point a file descriptor at /dev/null."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, descriptor)
    os.close(devnull)


def standard_streams() -> None:
    """Replace Python's own streams. A stream that the caller closed is opened on /dev/null. Otherwise the next file to be opened would get
    its number, and what is printed would end up in that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their descriptors
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - as long as the process
        elif name != "stdin":
            setattr(sys, name, _wrapped(getattr(sys, name), _Output if name == "stdout" else _ErrorOutput))


def _wrapped(before: TextIO, kind: type[io.FileIO]) -> TextIO:
    raw = io.BufferedWriter(kind(before.fileno(), "w", closefd=False))
    # As Python's own standard error: where the locale's encoding has no `✓`, `\u2713` is printed.
    return io.TextIOWrapper(
        raw, encoding=before.encoding, errors="backslashreplace", line_buffering=bool(before.line_buffering)
    )


def unheard() -> AbstractContextManager[None]:
    """Wrap what is printed while a command still works: if the reader is gone, the command goes on, and its exit status tells the outcome."""
    return suppress(BrokenPipeError)


def quiet_console(**options: Any) -> Console:
    """Rich's console that falls silent when its reader is gone, so that the command goes on. Words between colons are not replaced by emoji:
    they occur in account paths.
    """
    return _quiet()(emoji=False, **options)


@cache
def _quiet() -> type[Console]:
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True

    return Quiet
