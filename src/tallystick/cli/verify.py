"""`tallystick verify`: re-derives the books, the log and what lies between them, and names what is wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tallystick.cli.output import NO, OK, PART_FAILED, Common, Failed, console, emit, print_line
from tallystick.local import control

if TYPE_CHECKING:
    from tallystick.local.verify import Check


def verify(*, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Check that every book balances, entries = totals = running balances, payments agree with the ledger, outboxes are drained, the
    log is consistent and complete, and no card number or IBAN lies anywhere in clear. Exit status 1 when anything is wrong. The
    platform may go on meanwhile: what is on its way is no fault.
    """
    checks = asyncio.run(_verify(common))
    wrong = [check for check in checks if check.faults]
    if common.json:
        emit({"ok": not wrong, "checks": checks}, common)
    elif wrong:
        console().print(f"[red]{len(wrong)} of {len(checks)} checks found something wrong[/]")
    else:
        console().print(f"[green]all {len(checks)} checks hold[/]")
    return NO if wrong else OK


async def _verify(common: Common) -> list[Check]:
    from rich.markup import escape

    from tallystick.local.verify import Unreadable
    from tallystick.local.verify import verify as run

    await control.ask(common.layout, control.GetStatus(), control.Status)
    out = console(error=common.json)
    checks = []
    try:
        async for check in run(common.layout):
            checks.append(check)
            mark = "[red]✗[/]" if check.faults else "[green]✓[/]"
            seen = f"  [dim]{check.looked_at}[/]" if check.looked_at else ""
            print_line(f"{mark} {check.name:<44} [dim]{check.promise}[/]{seen}", out)
            for fault in check.faults:
                out.print(f"    [red]{escape(fault)}[/]")
    except Unreadable as error:
        raise Failed(f"{error}: `tallystick status` says what is not ready", PART_FAILED) from error
    return checks
