"""The command line, from its own help."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from importlib import import_module

from tallystick.cli import commands
from tools.reference.text import GENERATED

WIDTH = "100"


def cli_page() -> str:
    lines = [GENERATED, "# Command line", "", "```text", captured([]).rstrip(), "```"]
    for name, command in commands.COMMANDS.items():
        target = getattr(import_module(f"tallystick.cli.{command.module}"), command.attribute or name.replace("-", "_"))
        lines += ["", f"## tallystick {name}", "", "```text", captured([name]), "```"]
        for sub in sorted(getattr(target, "_commands", {})):
            if not sub.startswith("-"):
                lines += ["", f"### tallystick {name} {sub}", "", "```text", captured([name, sub]), "```"]
    return "\n".join(lines) + "\n"


def captured(command: list[str]) -> str:
    out = io.StringIO()
    with plain_terminal(), contextlib.redirect_stdout(out):
        commands.dispatch([*command, "--help"])
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


@contextlib.contextmanager
def plain_terminal() -> Iterator[None]:
    wanted = {"COLUMNS": WIDTH, "TERM": "dumb", "NO_COLOR": "1"}
    before = {name: os.environ.get(name) for name in (*wanted, "FORCE_COLOR")}
    os.environ.update(wanted)
    os.environ.pop("FORCE_COLOR", None)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
