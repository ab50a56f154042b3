"""The command line. `tallystick.cli.commands` has the table of commands; each lives in a module of its own."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point of `tallystick` and of `python -m tallystick`."""
    arguments = sys.argv[1:]
    if len(arguments) == 2 and arguments[0] == "run" and not arguments[1].startswith("-"):
        # A service process: the supervisor starts many, so nothing of the command line is loaded.
        from tallystick.cli.run import run_service

        sys.exit(run_service(arguments[1]))
    from tallystick.cli.commands import dispatch
    from tallystick.cli.terminal import standard_streams

    standard_streams()
    sys.exit(dispatch(arguments))
