"""Writes the reference part of the documentation from the code, which is the one place where it is true.

Endpoints and messages come from the endpoint tables, facts from the charters and the messages that they name, alerts from the rules, problems from their
classes, the command line from its own help, the charter and the settings from their structs, metrics and log events from the calls that
make them.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path

from tallystick.chassis.charter import load_all
from tallystick.fabric import datamap
from tools.reference.alerts import alerts_page
from tools.reference.cli import cli_page
from tools.reference.facts import facts_page
from tools.reference.problems import problems_page
from tools.reference.services import service_page
from tools.reference.structs import charter_page, settings_page
from tools.reference.telemetry import ids_page, telemetry_page
from tools.reference.text import DOCS, GENERATED, SRC


def pages() -> dict[str, str]:
    """Path below docs/ -> text of everything that is generated."""
    import_everything()  # a problem is known when its module is
    charters = load_all()
    made = {f"reference/services/{name}.md": service_page(name) for name in charters}
    made["reference/index.md"] = index_page(charters)
    made["reference/facts.md"] = facts_page(charters)
    made["reference/charter.md"] = charter_page()
    made["reference/cli.md"] = cli_page()
    made["reference/settings.md"] = settings_page(charters)
    made["reference/telemetry.md"] = telemetry_page()
    made["reference/alerts.md"] = alerts_page(charters)
    made["reference/ids.md"] = ids_page()
    made["reference/data-map.md"] = GENERATED + "\n" + datamap.markdown(datamap.load(charters))
    made["problems/index.md"] = problems_page(charters)
    return made


def import_everything() -> None:
    for module in pkgutil.walk_packages([str(SRC)], "tallystick."):
        if not module.name.endswith("__main__"):
            import_module(module.name)


def index_page(charters: Iterable[str]) -> str:
    lines = [
        GENERATED,
        "# Reference",
        "",
        "Made from the code; a test fails when a page is not what the code says.",
        "",
        "| page | says |",
        "|---|---|",
        *(f"| [{name}](services/{name}.md) | the service: promises, endpoints, messages, calls |" for name in charters),
        "| [Facts and webhook events](facts.md) | what each service tells, what it means, and its fields |",
        "| [Problems](../problems/index.md) | every way to say no: type, status, whether to try again |",
        "| [Command line](cli.md) | every command and option |",
        "| [Settings](settings.md) | environment variables of a service process |",
        "| [Charter](charter.md) | every key of `charter.toml` |",
        "| [Telemetry](telemetry.md) | metrics and log events |",
        "| [Alerts](alerts.md) | what is alerted on, from which share of requests on |",
        "| [Ids](ids.md) | prefixes and what they name |",
        "| [Data map](data-map.md) | which data, why, for how long, where (GDPR Art. 30) |",
    ]
    return "\n".join(lines) + "\n"


def stale(made: Mapping[str, str]) -> list[str]:
    """Paths whose file is missing or says something else, and files that nothing makes any more."""
    wrong = [path for path, text in made.items() if not same(DOCS / path, text)]
    there = {
        path.relative_to(DOCS).as_posix()
        for folder in ("reference", "problems")
        for path in (DOCS / folder).rglob("*.md")
    }
    return sorted([*wrong, *(there - made.keys())])


def same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def write(made: Mapping[str, str]) -> list[str]:
    changed = stale(made)
    for path in changed:
        file = DOCS / path
        if path in made:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(made[path], encoding="utf-8")
        else:
            file.unlink()
    return changed
