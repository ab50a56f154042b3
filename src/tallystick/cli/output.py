"""What commands print: text and tables for people, or one JSON document with `--json`. Errors go to standard error, and so does progress
with `--json`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from tallystick.cli.failure import NO, NOT_RUNNING, OK, PART_FAILED, USAGE, Failed, places
from tallystick.cli.terminal import quiet_console, unheard
from tallystick.kernel.words import counted

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.table import Table
    from rich.text import Text

    from tallystick.local.layout import Layout

#: The width, in columns, where output is not a terminal: nothing is wrapped or cut off.
UNBOUNDED: Final = 1000

#: A column that wraps breaks words longer than this. An id is shorter, and stays whole.
WORD: Final = 30

#: How far the continuation of a long line is indented.
INDENT: Final = 4
#: What is kept on one line if possible (texts apart by more than a space), and what is never broken.
_PARTS: Final = re.compile(r"\S+(?: \S+)*")
_WORDS: Final = re.compile(r"\S+")

__all__ = [
    "NO",
    "NOT_RUNNING",
    "OK",
    "PART_FAILED",
    "USAGE",
    "Common",
    "Failed",
    "columns",
    "console",
    "counted",
    "emit",
    "escaped",
    "places",
    "print_line",
    "print_table",
]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Common:
    """The options of every command: write `def command(..., *, common: Common = Common())`."""

    data: Annotated[
        Path | None, Parameter(help="the platform's data directory [$TALLYSTICK_HOME, else ./.tallystick]")
    ] = None
    json: Annotated[bool, Parameter(help="print one JSON document; progress goes to standard error", negative="")] = (
        False
    )

    @property
    def layout(self) -> Layout:
        """The paths in the data directory. Raises LayoutError if it can't be used as one."""
        from tallystick.local.layout import Layout, data_directory

        layout = Layout(data_directory(self.data))
        layout.check()
        return layout


def emit(document: Any, common: Common) -> None:
    """With `--json`, print the answer as JSON. `document` is anything that msgspec encodes."""
    if common.json:
        with unheard():
            print(msgspec.json.format(msgspec.json.encode(document)).decode())


def console(*, error: bool = False) -> Console:
    """Rich, for tables and colours. Off a terminal it prints plain text of any width, unless COLUMNS sets one."""
    out = quiet_console(stderr=error, highlight=False, soft_wrap=True)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = UNBOUNDED
    return out


def escaped(text: str) -> str:
    """A user's text, safe to print with rich: markup escaped, control characters replaced."""
    from rich.markup import escape

    return escape("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text))


def print_line(text: str, out: Console | None = None) -> None:
    """Print a line of markup. A line wider than the terminal continues below, indented; ids are never broken."""
    from rich.text import Text

    _print_parts(Text.from_markup(text, emoji=False), out or console())


def _print_parts(line: Text, out: Console) -> None:
    """Break a line at gaps of two or more spaces where the pieces fit, else between words. A word wider than the terminal is left to it."""
    from rich.cells import cell_len
    from rich.text import Text

    if line.cell_len <= out.width or out.width >= UNBOUNDED:
        out.print(line)
        return
    room, cuts, begin = out.width, [], 0
    for kept in _PARTS.finditer(line.plain):
        whole = cell_len(kept[0]) <= out.width - INDENT
        for piece in [kept] if whole else _WORDS.finditer(line.plain, *kept.span()):
            if piece.start() > begin and cell_len(line.plain[begin : piece.end()]) > room:
                cuts.append(begin := piece.start())
                room = out.width - INDENT
    for number, part in enumerate(line.divide(cuts)):
        part.rstrip()
        out.print(Text(" " * INDENT if number else "") + part)


def columns(sides: dict[str, JustifyMethod], *, wraps: str) -> Table:
    """A table for `print_table`, with these columns and their alignment. On a narrow terminal the column `wraps` is wrapped."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="dim")
    for name, side in sides.items():
        made.add_column(name, justify=side, no_wrap=name != wraps, overflow="fold")
    return made


def print_table(table: Table, out: Console | None = None) -> None:
    """Print a table without cutting anything off: half an amount is a wrong amount, and half an id is useless.

    Rich cuts columns that must not wrap. Here a line too wide for the terminal continues below, broken between columns.
    """
    from rich.measure import Measurement, measure_renderables
    from rich.text import Text

    out = out or console()
    room = out.options.update(width=UNBOUNDED)
    for column in table.columns:
        found = measure_renderables(out, room, [column.header, *column.cells])
        column.min_width = found.maximum if column.no_wrap else min(found.minimum, WORD)
    needed = Measurement.get(out, room, table)
    if needed.minimum <= out.width:
        out.print(table)
        return
    for row in out.render_lines(table, out.options.update(width=needed.maximum)):
        _print_parts(Text.assemble(*((segment.text, segment.style or "") for segment in row)), out)
