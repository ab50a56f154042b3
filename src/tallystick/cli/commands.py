"""The table of commands, and the dispatcher. A command's module is imported only when the command is used.

A command is a function (or a `cyclopts.App` with subcommands) that takes `common: Common` and returns its exit status, or None for 0.
It raises `Failed` when it can't do what was asked. To add one, write a module and add a row here.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from tallystick.cli.failure import NOT_RUNNING, OK, PART_FAILED, USAGE, Failed


@dataclass(frozen=True, slots=True)
class Command:
    module: str
    help: str
    group: str
    attribute: str = ""
    """The name of the function or app in the module. Default: the command's name with `_` for `-`."""


PLATFORM: Final = "Platform"
USE: Final = "Use"
LOOK: Final = "Look inside"
CHECK: Final = "Check and measure"

COMMANDS: Final[dict[str, Command]] = {
    "up": Command("up", "Start the platform and keep it running", PLATFORM),
    "down": Command("status", "Stop the platform", PLATFORM),
    "status": Command("status", "Show what is running, since when, and how to reach it", PLATFORM),
    "doctor": Command("doctor", "Check this machine, the parts and the data, and say what to fix", PLATFORM),
    "backup": Command("backup", "Back up the platform, running or stopped, to one file", PLATFORM),
    "restore": Command("backup", "Restore a backup into an empty data directory", PLATFORM),
    "tenant": Command("tenant", "Create and list tenants", USE),
    "client": Command("client", "Register, list and revoke API clients", USE),
    "keys": Command("keys", "Inspect and rotate the root key and the services' keys", PLATFORM),
    "risk": Command("risk", "Manage the deny and allow lists", USE),
    "ledger": Command("ledger", "Work with the books: accounts, postings, reports, imports", USE),
    "call": Command("call", "Send one signed request to the edge", USE),
    "demo": Command("demo", "Run real payments on the running platform, step by step", USE),
    "replay": Command("replay", "Send a file of card payments through the edge", USE),
    "logs": Command("logs", "Show the logs of all processes, in time order", LOOK),
    "trace": Command("trace", "Show one request as a waterfall", LOOK),
    "dead-letters": Command("dead_letters", "List, replay and discard facts that no consumer could process", LOOK),
    "render": Command("render", "Show or write what is derived from the charters", LOOK),
    "verify": Command("verify", "Re-derive the books and the audit log, and compare", CHECK),
    "bench": Command("bench", "Measure the platform, relative to PostgreSQL alone", CHECK),
    "run": Command("run", "Run one service process, as the supervisor does", PLATFORM),
}


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command line and return the exit status."""
    status = OK
    try:
        status = _answered(arguments)
        sys.stdout.flush()  # here, so that a full disk fails the command
    except Failed as failure:
        return _fail(failure, json="--json" in arguments)
    except KeyboardInterrupt:
        return _fail(Failed("interrupted", 130), json=False)
    except UnicodeEncodeError:
        if all(map(_is_text, arguments)):
            raise
        return _fail(Failed("an argument is not valid UTF-8", USAGE), json="--json" in arguments)
    except BrokenPipeError:
        pass  # `tallystick logs | head`: the reader has seen enough
    return status


def _is_text(argument: str) -> bool:
    """Whether it is valid UTF-8. The name of a file need not be; whatever is sent or stored must be."""
    return argument == argument.encode(errors="replace").decode()


def _answered(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(overview())
        return OK if arguments else USAGE
    if arguments[0] in {"-V", "--version"}:
        from tallystick.local.program import program_version

        print(f"tallystick {program_version()}")
        return OK
    name = arguments[0]
    command = COMMANDS.get(name)
    if command is None:
        raise Failed(_no_command(name, COMMANDS), USAGE)
    return _run(name, command, arguments)


def _no_command(word: str, among: Iterable[str], *before: str) -> str:
    """`before`: the command whose subcommands are in `among`."""
    words = " ".join(("tallystick", *before))
    near = difflib.get_close_matches(word, among, n=1, cutoff=0.7)
    hint = f"did you mean `{words} {near[0]}`?" if near else f"`{words} --help` lists the commands"
    return f"there is no command {' '.join((*before, word))!r}: {hint}"


def _run(name: str, command: Command, arguments: Sequence[str]) -> int:
    import cyclopts

    from tallystick.local.control import ControlFailed, NotRunning
    from tallystick.local.layout import LayoutError

    target = getattr(import_module(f"tallystick.cli.{command.module}"), command.attribute or name.replace("-", "_"))
    app: Any = cyclopts.App(
        name="tallystick",
        help_flags=["--help", "-h"],
        version_flags=[],
        result_action="return_value",
        default_parameter=cyclopts.Parameter(show_default=_default),
    )
    app.command(target, name=name)
    console = None
    if not {"--help", "-h"}.isdisjoint(arguments):
        from tallystick.cli.terminal import quiet_console

        # cyclopts keeps the first console that it made, with the width that the terminal had then. Each help takes a new one.
        console = quiet_console()
    try:
        result = app(list(arguments), console=console, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        words = error.command_chain or (name,)
        if isinstance(error, cyclopts.UnknownCommandError) and error.unused_tokens and error.app:
            raise Failed(_no_command(error.unused_tokens[0], list(error.app), *words), USAGE) from error
        raise Failed(f"{_wrong(error)}\n`tallystick {' '.join(words)} --help` shows the usage", USAGE) from error
    except NotRunning as error:
        raise Failed(str(error), NOT_RUNNING) from error
    except (ControlFailed, LayoutError) as error:
        raise Failed(str(error), PART_FAILED) from error
    if isinstance(target, cyclopts.App) and len(arguments) == 1:
        return USAGE  # cyclopts has shown the help, and nothing was done
    return result if isinstance(result, int) else OK


def _wrong(error: Any) -> str:
    """A usage error in our words."""
    import cyclopts

    if isinstance(error, cyclopts.UnusedCliTokensError):
        return f"too many arguments: {' '.join(error.unused_tokens or ())}"
    if isinstance(error, cyclopts.MissingArgumentError) and error.argument is not None:
        return f"{error.keyword} needs a value" if error.keyword else f"{error.argument.name} is missing"
    return str(error)


def _default(value: Any) -> str | None:
    """A default as help shows it. None, False and "" mean "not given", and are not shown."""
    return None if value in (None, False, "") else str(value)


def overview() -> str:
    """The text of `tallystick --help`, made from the table alone: no command is imported."""
    lines = ["Usage: tallystick COMMAND [ARGUMENTS]", "", "The secure transaction platform for fintechs.", ""]
    width = max(map(len, COMMANDS))
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines.append(f"{group}:")
        lines += [f"  {name:<{width}}  {each.help}" for name, each in COMMANDS.items() if each.group == group]
        lines.append("")
    lines += [
        "`tallystick COMMAND --help` says more about a command. All commands except run",
        "take --json and --data DIR (default: $TALLYSTICK_HOME, else ./.tallystick).",
        "",
        "Exit status: 0 success, 1 the answer is no, 2 wrong usage, 3 the platform is",
        "not running, 4 a part failed.",
    ]
    return "\n".join(lines)


def _fail(failure: Failed, *, json: bool) -> int:
    said = str(failure).encode(errors="backslashreplace").decode()  # an argument may be no valid UTF-8
    with suppress(BrokenPipeError, Failed):  # when nothing can be printed, the exit status still tells
        if json:
            import msgspec

            print(msgspec.json.encode({"error": said, "status": failure.status}).decode(), flush=True)
    with suppress(OSError):
        print(f"tallystick: {said}", file=sys.stderr)
    return failure.status
