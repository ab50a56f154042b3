"""`tallystick status` and `tallystick down`."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from tallystick.cli.output import NO, OK, PART_FAILED, Common, Failed, columns, console, emit, print_line, print_table
from tallystick.cli.progress import addresses
from tallystick.kernel.deployment import HOME
from tallystick.local import control
from tallystick.local.layout import Layout
from tallystick.local.program import program_version
from tallystick.local.state import Lock

#: The services' own drain, the proxy's and PostgreSQL's last checkpoint.
DOWN_WITHIN = 120.0
#: How long an `up` that has begun may take until it answers: it may wait for each of its ports first.
ANSWERS_WITHIN = 10.0


def status(*, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """What runs, of which version, since when, and how to reach it. Exit status 1 while something isn't ready."""
    found = asyncio.run(control.ask(common.layout, control.GetStatus(), control.Status))
    if common.json:
        emit(found, common)
    else:
        _show(found)
    return OK if found.ready else NO


def down(*, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Stop everything: no new requests, those under way end, then services, proxy and parts."""
    pid = asyncio.run(_down(common.layout))
    _until_gone(pid)
    if common.json:
        emit({"stopped": str(common.layout.data)}, common)
    else:
        print("stopped")
    return OK


async def _down(layout: Layout) -> int:
    found = await _begun(layout)
    await control.ask(layout, control.Down(), control.Done, timeout=DOWN_WITHIN)
    return found.pid


async def _begun(layout: Layout) -> control.Status:
    """What the platform says of itself, once it answers: one that has just begun is not stopped by saying that it isn't there."""
    ending = time.monotonic() + ANSWERS_WITHIN
    while True:
        try:
            return await control.ask(layout, control.GetStatus(), control.Status)
        except control.NotRunning:
            if not Lock.held(layout.lock) or time.monotonic() > ending:
                raise
        await asyncio.sleep(0.1)


def _until_gone(pid: int) -> None:
    """The supervisor has answered and is about to end; whoever starts or deletes something next must not meet it."""
    import psutil

    ending = time.monotonic() + 10
    while time.monotonic() < ending:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return  # whoever started it hasn't collected it yet
        except psutil.NoSuchProcess:
            return
        time.sleep(0.02)
    raise Failed(f"everything has stopped, but the supervisor itself (pid {pid}) has not ended yet", PART_FAILED)


def _show(found: control.Status) -> None:
    from rich.markup import escape

    out = console()
    state = "ready" if found.ready else "stopping" if found.stopping else "not ready"
    out.print(f"[bold]{state}[/]  version {found.program or '?'}")
    if found.program != (own := program_version()):
        print_line(
            f"[yellow]it runs {found.program or 'an older version'}, and this command is {own}[/]: `tallystick down`, then up, for all of "
            "it to be of one version",
            out,
        )
    for line in addresses(found):
        out.print(escape(line))
    if found.shards:
        out.print(f"shards of the ledger: {', '.join((HOME, *found.shards))}")
    table = columns(
        {
            "process": "left",
            "state": "left",
            "pid": "right",
            "since": "left",
            "restarts": "right",
            "version": "left",
        },
        wraps="version",
    )
    rows: list[tuple[str, control.PartStatus | control.ReplicaStatus]] = [(part.name, part) for part in found.parts]
    for service in found.services:
        rows += [(f"{service.name}-{number}", replica) for number, replica in enumerate(service.replicas)]
    for name, row in rows:
        colour = "green" if row.ready else "yellow"
        table.add_row(
            name,
            f"[{colour}]{row.phase}[/]",
            str(row.pid or "-"),
            _ago(row.started_at if row.pid else None),
            str(row.restarts or ""),
            row.version,
        )
    print_table(table, out)
    for name, file in found.migrating.items():
        print_line(
            f"[yellow]{name}[/]: its database is being migrated, {file}; nothing else is to be done than to wait", out
        )
    for name, row in rows:
        if row.error and not row.ready:
            print_line(f"[yellow]{name}[/]: {escape(row.error)}", out)
    for text in found.rejections:
        print_line(f"[red]envoy refused[/]: {escape(text)}", out)


def _ago(started_at: str | None) -> str:
    if started_at is None:
        return "-"
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(started_at)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
