"""`tallystick doctor`: checks whether the platform can run on this machine, and says what to do if it can't."""

from __future__ import annotations

import os

from tallystick.cli.output import NO, OK, Common, console, emit, print_line
from tallystick.local.doctor import examine
from tallystick.local.layout import Layout, data_directory

_MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "failed": "[red]✗[/]"}


def doctor(*, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Check this machine, the parts and the settings and, if the platform is stopped, its data. Exit status 1 if something will not work."""
    from tallystick.cli.up import options

    findings = list(examine(Layout(data_directory(common.data)), options(os.environ).root_passphrase_file))
    if common.json:
        emit({"ok": all(finding.verdict != "failed" for finding in findings), "findings": findings}, common)
    else:
        from rich.markup import escape

        out = console()
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print_line(f"{_MARKS[finding.verdict]} {finding.name:<{width}}  {escape(finding.found)}", out)
            if finding.remedy:
                print_line(f"  {'':<{width}}  [bold]{escape(finding.remedy)}[/]", out)
    return NO if any(finding.verdict == "failed" for finding in findings) else OK
