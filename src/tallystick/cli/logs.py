"""`tallystick logs`: the log lines of all processes, merged by time."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import chain
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from tallystick.chassis.telemetry.store import TRACE_ID
from tallystick.cli.output import NO, USAGE, Common, Failed
from tallystick.local import logs as reader

_COLOURS = {"error": "31", "warning": "33"}


def logs(
    process: Annotated[
        str | None, Parameter(help="a service, a replica (`ledger-0`) or a part [all processes]")
    ] = None,
    /,
    *,
    trace: Annotated[str | None, Parameter(help="only the lines of this request, by its Request-Id")] = None,
    follow: Annotated[bool, Parameter(alias="-f", negative="", help="keep printing new lines until Ctrl-C")] = False,
    lines: Annotated[int, Parameter(alias="-n", help="the number of last lines; 0 for all")] = 200,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Show the logs of all processes, in time order. With `--json`, print one document per line, as written."""
    if lines < 0:
        raise Failed("--lines must be 0 (all lines) or more", USAGE)
    directory = common.layout.logs
    if trace is not None and not TRACE_ID.fullmatch(trace := trace.strip().lower()):
        raise Failed(f"{trace!r} is not a Request-Id: it has 32 hex digits", USAGE)
    if not follow and not reader.files(directory, None):
        raise Failed(f"there are no logs in {directory}; was the platform ever started?", USAGE)
    found = reader.files(directory, process)
    if process is not None and not found:
        names = sorted({name.rsplit("-", 1)[0] for name in reader.files(directory, None)})
        raise Failed(
            f"there is no log of {process!r}; there are {', '.join(names) or 'none: was the platform ever started?'}",
            USAGE,
        )
    wanted = reader.Lines(directory, process, trace=trace)
    stream = wanted.read() if follow else chain(wanted.read(), wanted.unfinished())
    shown = False
    for line in deque(stream, lines) if lines and trace is None else stream:
        _print(line, common)
        shown = True
    if trace is not None and not shown and not follow:
        raise Failed("there are no log lines of this request; old lines are deleted", NO)
    if follow:
        try:
            asyncio.run(_follow(wanted, common))
        except KeyboardInterrupt:
            return


async def _follow(wanted: reader.Lines, common: Common) -> None:
    async for line in wanted.follow():
        _print(line, common)


def _print(line: reader.Line, common: Common) -> None:
    if common.json:
        document = line.fields if line.fields is not None else {"time": line.at, "text": line.text}
        print(msgspec.json.encode({"process": line.process, **document}).decode(), flush=True)
        return
    print(render(line, colour=_colour()), flush=True)


def _colour() -> bool:
    import os
    import sys

    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def render(line: reader.Line, *, colour: bool) -> str:
    """`12:31:07.123 ledger-0   request.done route="POST /internal/transfers" status=200`. Pure."""
    moment = line.at.strftime("%H:%M:%S.%f")[:-3]
    if line.fields is None:
        return f"{moment} {line.process:<12} {line.text}"
    fields = dict(line.fields)
    level = str(fields.pop("level", "info"))
    event = fields.pop("event", "")
    for key in ("time", "at", "service", "replica"):
        fields.pop(key, None)
    rest = " ".join(f"{key}={_value(value)}" for key, value in fields.items() if value not in (None, "", "-"))
    if colour and level in _COLOURS:
        event = f"\033[{_COLOURS[level]}m{event}\033[0m"
    return f"{moment} {line.process:<12} {event} {rest}".rstrip()


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return msgspec.json.encode(text).decode() if isinstance(value, str) and (" " in text or '"' in text) else text
