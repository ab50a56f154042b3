"""Plots a balance's history, in the terminal or as a picture in a file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cyclopts import Parameter

from tallystick.cli.failure import USAGE, Failed
from tallystick.cli.ledger.app import ask, at
from tallystick.cli.ledger.picture import picture
from tallystick.cli.ledger.series import Series, day, rising, since, span
from tallystick.cli.output import UNBOUNDED, console
from tallystick.kernel.money import in_units

if TYPE_CHECKING:
    from tallystick.cli.apiclient import ApiClient

Plot = Annotated[
    bool | Path | None,
    Parameter(help="plot the balance's history here, or to FILE.png or FILE.svg; put it after ACCOUNT", negative=""),
]
By = Literal["recorded", "effective"]

#: The most entries of one plot. More would be unreadable; a shorter period is easy to ask for.
MOST: Final = 50_000
TERMINAL: Final = Path("-")
_WIDTH, _HEIGHT = 72, 16
_LEAST: Final = 20
_LABEL: Final = 10


def wanted(plot: bool | Path | None) -> Path | None:  # noqa: FBT001 - what the command line says
    """Where to draw: None for nowhere, TERMINAL, or a file. Raises Failed if the file can't be written as a picture."""
    if plot is None or plot is False:
        return None
    if plot is True:
        return TERMINAL
    if plot.suffix.lower() not in {".png", ".svg"}:
        raise Failed(f"--plot={plot}: the file's name must end in .png or .svg", USAGE)
    if plot.suffix.lower() == ".png":
        from importlib.util import find_spec

        if find_spec("PIL") is None:
            raise Failed("PNG needs Pillow: pip install 'tallystick[png]', or use a .svg file", USAGE)
    if not plot.parent.is_dir():
        raise Failed(f"{plot.parent} is not a directory", USAGE)
    return plot


async def balances_between(api: ApiClient, account: str, query: Mapping[str, object]) -> Series:
    """The history of an account's posted balance, from the statement that `query` asks for. Raises Failed."""
    whole: dict[str, Any] | None = None
    after: str | None = None
    while True:
        page = await ask(api, "GET", at(account, "/statement"), query={**query, "limit": 5000, "after": after})
        if whole is None:
            whole = page
            if page["entries"] > MOST:
                raise Failed(
                    f"{page['entries']:,} entries are too many for a plot; narrow it with --from and --to", USAGE
                )
        else:
            whole["data"] += page["data"]
        if not page["has_more"]:
            return series_of(whole)
        after = page["next"]


def series_of(statement: Mapping[str, Any]) -> Series:
    """The series of a complete statement, along the time that it is ordered by. Entries of the same instant are one step."""
    by = statement["by"]
    steps = [(_when(statement["from"]), int(statement["opening"]["amount"]))]
    for one in statement["data"]:
        step = (_when(one[f"{by}_at"]), int(one["balance"]["amount"]))
        if step[0] == steps[-1][0]:
            steps[-1] = step
        else:
            steps.append(step)
    title = statement["path"] or statement["account"]
    return Series(title, statement["currency"], steps, _when(statement["to"]), effective=by == "effective")


def draw(series: Series, target: Path, *, quiet: bool) -> None:
    """Draw in the terminal or to a file. Raises Failed if the file can't be written."""
    if target == TERMINAL:
        if not quiet:
            print(in_terminal(series, console().width))
        return
    content = picture(series, png=target.suffix.lower() == ".png")
    try:
        target.write_bytes(content)
    except OSError as error:
        raise Failed(f"can't write {target}: {error.strerror}", USAGE) from error
    if not quiet:
        print(f"plot in {target}")


def in_terminal(series: Series, room: int = UNBOUNDED) -> str:
    """The plot as lines of text, at most `room` columns wide if that is enough for one."""
    width = _WIDTH
    while (excess := max(map(len, (text := _plotted(series, width)).splitlines())) - room) > 0 and width > _LEAST:
        width = max(width - excess, _LEAST)
    return text


def _plotted(series: Series, width: int, height: int = _HEIGHT) -> str:
    """At most `height` lines beside the axis. Each stands for a round amount."""
    import plotille

    line = series.drawn()
    low, high = span([minor for _, minor in line])
    begin, end = line[0][0].replace(tzinfo=None), line[-1][0].replace(tzinfo=None)
    step = next(each for each in rising() if -(-high // each) - low // each <= height)
    low, high = low // step * step, -(-high // step) * step
    figure = plotille.Figure()
    figure.width, figure.height = width, (high - low) // step
    figure.with_colors = False
    figure.x_label = f"effective, {since(begin, end)}" if series.effective else since(begin, end)
    figure.y_label = series.currency
    figure.set_y_limits(float(low), float(high))
    # plotille's canvas has two dots to a column and leaves out its right edge: move the edge, so that the end is the last dot.
    figure.set_x_limits(begin, end + (end - begin) / (2 * width - 1))

    widest = max(len(in_units(minor, series.currency)) for minor in range(low, high + 1, step))
    more = max(widest - _LABEL, 0)

    def amount(val: Any, chars: int, delta: Any, left: bool = False) -> str:  # noqa: ARG001, FBT001, FBT002 - plotille's own
        return in_units(round(val), series.currency).rjust(chars + more)

    def time(val: Any, chars: int, delta: Any, left: bool = False) -> str:  # noqa: ARG001, FBT001, FBT002 - plotille's own
        return f"{day(val, begin, end):<{chars}}"

    figure.register_label_formatter(float, amount)
    figure.register_label_formatter(datetime, time)
    figure.plot([when.replace(tzinfo=None) for when, _ in line], [float(minor) for _, minor in line])
    head, *rows, axis, times = str(figure.show()).splitlines()
    # It keeps _LABEL columns for an amount: what has none is moved to where the longer ones end.
    return "\n".join([" " * more + head, *rows, "-" * more + axis, " " * more + times])


def _when(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
