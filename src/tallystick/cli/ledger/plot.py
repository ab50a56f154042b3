"""A balance's history as a plot: in the terminal, or as a picture in a file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from tallystick.cli.failure import USAGE, Failed
from tallystick.cli.ledger.app import ask, at
from tallystick.cli.ledger.picture import picture
from tallystick.cli.ledger.series import Series, day, span
from tallystick.kernel.money import in_units

if TYPE_CHECKING:
    from tallystick.cli.apiclient import ApiClient

Plot = Annotated[
    bool | Path | None,
    Parameter(
        help="draw the balance's history here, or into FILE.png or FILE.svg; write it after the account", negative=""
    ),
]

#: Entries of one plot. More are no picture any more, and a shorter time is asked for quickly.
MOST: Final = 50_000
TERMINAL: Final = Path("-")
_WIDTH, _HEIGHT = 72, 16


def wanted(plot: bool | Path | None) -> Path | None:  # noqa: FBT001 - what the command line says
    """Where to draw: None nowhere, TERMINAL here, else a file. Raises Failed for a file that can't become a picture."""
    if plot is None or plot is False:
        return None
    if plot is True:
        return TERMINAL
    if plot.suffix.lower() not in {".png", ".svg"}:
        raise Failed(f"a plot goes to the terminal or to a file called .png or .svg, not {plot}", USAGE)
    if plot.suffix.lower() == ".png":
        from importlib.util import find_spec

        if find_spec("PIL") is None:
            raise Failed("a PNG needs Pillow: pip install 'tallystick[png]', or name the file .svg", USAGE)
    if not plot.parent.is_dir():
        raise Failed(f"{plot.parent} is no folder", USAGE)
    return plot


async def balances_between(api: ApiClient, account: str, book: str, since: str | None, until: str | None) -> Series:
    """The history of an account's posted balance, from its statement. Raises Failed."""
    first: dict[str, Any] | None = None
    steps: list[tuple[datetime, int]] = []
    after: str | None = None
    while True:
        query = {"book": book, "from": since, "to": until, "limit": 5000, "after": after}
        page = await ask(api, "GET", at(account, "/statement"), query=query)
        if first is None:
            first = page
            if page["entries"] > MOST:
                raise Failed(f"{page['entries']:,} entries are too many for a plot: say --from and --to", USAGE)
            steps.append((_when(page["from"]), int(page["opening"]["amount"])))
        steps += [(_when(one["recorded_at"]), int(one["balance"]["amount"])) for one in page["data"]]
        if not page["has_more"]:
            title = first["path"] or first["account"]
            return Series(title, first["currency"], steps, _when(first["to"]))
        after = page["next"]


def draw(series: Series, target: Path, *, quiet: bool) -> None:
    """In the terminal, or into the file. Raises Failed when that can't be written."""
    if target == TERMINAL:
        if not quiet:
            print(in_terminal(series))
        return
    content = picture(series, png=target.suffix.lower() == ".png")
    try:
        target.write_bytes(content)
    except OSError as error:
        raise Failed(f"{target} can't be written: {error.strerror}", USAGE) from error
    if not quiet:
        print(f"plot in {target}")


def in_terminal(series: Series, width: int = _WIDTH, height: int = _HEIGHT) -> str:
    """The plot as lines of text."""
    import plotille

    line = series.drawn()
    low, high = span([minor for _, minor in line])
    begin, end = line[0][0], line[-1][0]
    figure = plotille.Figure()
    figure.width, figure.height = width, height
    figure.with_colors = False
    figure.x_label, figure.y_label = "UTC", series.currency
    figure.set_y_limits(float(low), float(high))

    def amount(val: Any, chars: int, delta: Any, left: bool = False) -> str:  # noqa: ARG001, FBT001, FBT002 - plotille's own
        return in_units(round(val), series.currency).rjust(chars)

    def time(val: Any, chars: int, delta: Any, left: bool = False) -> str:  # noqa: ARG001, FBT001, FBT002 - plotille's own
        return f"{day(val, begin, end):<{chars}}"

    figure.register_label_formatter(float, amount)
    figure.register_label_formatter(datetime, time)
    figure.plot([when.replace(tzinfo=None) for when, _ in line], [float(minor) for _, minor in line])
    return str(figure.show())


def _when(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
