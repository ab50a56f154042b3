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

#: Seconds for a clean stop: the services and the proxy drain, and PostgreSQL writes its last checkpoint.
DOWN_WITHIN = 120.0
#: Seconds until an `up` that has just begun answers: it may wait for each of its ports first.
ANSWERS_WITHIN = 10.0


def status(*, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Show what is running, its version, since when, and how to reach it. Exit status 1 while something is not ready."""
    found = asyncio.run(control.ask(common.layout, control.GetStatus(), control.Status))
    if common.json:
        emit(found, common)
    else:
        _show(found)
    return OK if found.ready else NO


def down(*, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Stop the platform cleanly: finish the requests under way, then stop the services, the proxy and the parts."""
    pid = asyncio.run(_down(common.layout))
    _until_gone(pid)
    if common.json:
        emit({"stopped": str(common.layout.data)}, common)
    else:
        print("stopped")
    return OK


async def _down(layout: Layout) -> int:
    found = await _status_of_starting(layout)
    await control.ask(layout, control.Down(), control.Done, timeout=DOWN_WITHIN)
    return found.pid


async def _status_of_starting(layout: Layout) -> control.Status:
    """The platform's status. One that has just begun to start holds the lock, but does not answer yet: it is waited for."""
    ending = time.monotonic() + ANSWERS_WITHIN
    while True:
        try:
            return await control.ask(layout, control.GetStatus(), control.Status)
        except control.NotRunning:
            if not Lock.held(layout.lock) or time.monotonic() > ending:
                raise
        await asyncio.sleep(0.1)


def _until_gone(pid: int) -> None:
    """Wait for the supervisor to exit. It has answered, but whoever starts the platform or deletes its data next must not meet it."""
    import psutil

    ending = time.monotonic() + 10
    while time.monotonic() < ending:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return  # ended; its parent has not reaped it yet
        except psutil.NoSuchProcess:
            return
        time.sleep(0.02)
    raise Failed(f"everything has stopped, except for the supervisor itself (pid {pid})", PART_FAILED)


def _show(found: control.Status) -> None:
    from rich.markup import escape

    out = console()
    state = "ready" if found.ready else "stopping" if found.stopping else "not ready"
    out.print(f"[bold]{state}[/]  version {found.program or '?'}")
    if found.program != (own := program_version()):
        print_line(
            f"[yellow]the platform runs {found.program or 'an older version'}, but this command is {own}[/]: run `tallystick down`, then "
            "`tallystick up`, to use one version",
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
            "memory": "right",
            "version": "left",
        },
        wraps="version",
    )
    rows: list[tuple[str, control.ProcessStatus]] = [(part.name, part) for part in found.parts]
    memory: dict[str, str] = {}
    more = list[str]()
    for service in found.services:
        for number, replica in enumerate(service.replicas):
            rows.append((name := f"{service.name}-{number}", replica))
            if (takes := replica.memory_mib) is not None:
                memory[name] = f"{takes} MiB"
                if service.memory_mib is not None and takes > service.memory_mib:
                    more.append(
                        f"[yellow]{name}[/]: takes {takes} MiB of memory; its charter plans {service.memory_mib}"
                    )
    for name, row in rows:
        colour = "green" if row.ready else "yellow"
        table.add_row(
            name,
            f"[{colour}]{row.phase}[/]",
            str(row.pid or "-"),
            _ago(row.started_at if row.pid else None),
            str(row.restarts or ""),
            memory.get(name, ""),
            row.version,
        )
    print_table(table, out)
    for name, file in found.migrating.items():
        print_line(f"[yellow]{name}[/]: its database is being migrated ({file}); please wait", out)
    for name, row in rows:
        if row.error and not row.ready:
            print_line(f"[yellow]{name}[/]: {escape(row.error)}", out)
    for line in more:
        print_line(line, out)
    for text in found.rejections:
        print_line(f"[red]envoy refused[/]: {escape(text)}", out)


def _ago(started_at: str | None) -> str:
    if started_at is None:
        return "-"
    # The clock may have been set back since.
    seconds = max(0, int((datetime.now(UTC) - datetime.fromisoformat(started_at)).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
