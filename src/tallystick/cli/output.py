"""What commands print: for people on a terminal, one JSON document with `--json`; progress and errors go to standard error."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from tallystick.cli.failure import NO, NOT_RUNNING, OK, PART_FAILED, USAGE, Failed
from tallystick.cli.terminal import quiet_console, unheard
from tallystick.kernel.words import counted

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.table import Table
    from rich.text import Text

    from tallystick.local.layout import Layout

#: Columns of what is read by a program or a file: nothing is cut off.
UNBOUNDED: Final = 1000

#: A longer word is broken in a column that wraps; an id is not.
WORD: Final = 30

#: Where a line goes on that is wider than the terminal, and what of it is not broken.
BELOW: Final = 4
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
    "print_line",
    "print_table",
]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Common:
    """The options of every command: write `def command(..., *, common: Common = Common())`."""

    data: Annotated[
        Path | None, Parameter(help="the platform's data directory [$TALLYSTICK_HOME, else .tallystick here]")
    ] = None
    json: Annotated[bool, Parameter(help="print one JSON document; progress goes to standard error", negative="")] = (
        False
    )

    @property
    def layout(self) -> Layout:
        """Where everything lies. Raises LayoutError for what can't be a data directory of ours."""
        from tallystick.local.layout import Layout, data_directory

        layout = Layout(data_directory(self.data))
        layout.check()
        return layout


def emit(document: Any, common: Common) -> None:
    """Print the answer as JSON, if that was asked for. `document` is anything that msgspec encodes."""
    if common.json:
        with unheard():
            print(msgspec.json.format(msgspec.json.encode(document)).decode())


def console(*, error: bool = False) -> Console:
    """Rich, for tables and colours; plain text when it isn't a terminal, as wide as it needs to be unless COLUMNS says how wide."""
    out = quiet_console(stderr=error, highlight=False, soft_wrap=True)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = UNBOUNDED
    return out


def escaped(text: str) -> str:
    """A text that somebody typed, for rich: no markup, no control characters."""
    from rich.markup import escape

    return escape("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text))


def print_line(text: str, out: Console | None = None) -> None:
    """Print a line with its markup. Where a terminal has no room for it, it goes on below, indented: half an id is none."""
    from rich.text import Text

    _print_parts(Text.from_markup(text, emoji=False), out or console())


def _print_parts(line: Text, out: Console) -> None:
    """What stands apart from the rest by more than a space stays whole if a line has room for it, and each word does in any case: one that is
    wider than the terminal is left to it.
    """
    from rich.cells import cell_len
    from rich.text import Text

    if line.cell_len <= out.width or out.width >= UNBOUNDED:
        out.print(line)
        return
    room, cuts, begin = out.width, [], 0
    for kept in _PARTS.finditer(line.plain):
        whole = cell_len(kept[0]) <= out.width - BELOW
        for piece in [kept] if whole else _WORDS.finditer(line.plain, *kept.span()):
            if piece.start() > begin and cell_len(line.plain[begin : piece.end()]) > room:
                cuts.append(begin := piece.start())
                room = out.width - BELOW
    for number, part in enumerate(line.divide(cuts)):
        part.rstrip()
        out.print(Text(" " * BELOW if number else "") + part)


def columns(sides: dict[str, JustifyMethod], *, wraps: str) -> Table:
    """A table of these columns, each on its side, for `print_table`. On a narrow terminal the one that `wraps` goes on in the next line."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="dim")
    for name, side in sides.items():
        made.add_column(name, justify=side, no_wrap=name != wraps, overflow="fold")
    return made


def print_table(table: Table, out: Console | None = None) -> None:
    """Print a table of which nothing is cut off: half an amount is another amount, and half an id is none. Rich cuts columns that must not wrap
    down to the console; here the lines are as long as they have to be, and go on below between columns.
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
