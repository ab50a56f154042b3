"""A progress bar on standard error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tallystick.cli.output import console


@asynccontextmanager
async def bar(total: int | None, what: str, *, quiet: bool) -> AsyncIterator[Callable[[int], None]]:
    """Yields `advance(n)`. Shown on a terminal only."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    out = console(error=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=out,
        disable=quiet or not out.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
