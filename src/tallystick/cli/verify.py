"""`tallystick verify`: re-derives the books and the audit log, checks that the services agree, and names what is wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tallystick.cli.output import NO, OK, PART_FAILED, Common, Failed, console, emit, print_line
from tallystick.local import control

if TYPE_CHECKING:
    from tallystick.local.verify import Check


def verify(*, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Check what is stored, through none of the services. Exit status 1 if anything is wrong.

    Every book balances; entries, totals and running balances agree; payments agree with the ledger; outboxes are drained; the audit log is
    consistent and complete; no card number or IBAN is stored in clear. The platform may be in use meanwhile: work in flight is not a fault.
    """
    checks = asyncio.run(_verify(common))
    wrong = [check for check in checks if check.faults]
    if common.json:
        emit({"ok": not wrong, "checks": checks}, common)
    elif wrong:
        console().print(f"[red]{len(wrong)} of {len(checks)} checks failed[/]")
    else:
        console().print(f"[green]all {len(checks)} checks passed[/]")
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
        raise Failed(f"{error}; `tallystick status` shows what is not ready", PART_FAILED) from error
    return checks
