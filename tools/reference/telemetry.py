"""Metrics and log events from the calls that make them; the kinds of ids from their registry."""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

from tallystick.kernel import ids
from tools.reference.text import GENERATED, SRC

LEVELS = frozenset({"debug", "info", "warning", "error", "exception"})


class Metric(NamedTuple):
    """What the call that makes a metric says. `labels` without those that every scrape adds; `where` is a module."""

    kind: str
    labels: tuple[str, ...]
    help: str
    where: str


class Event(NamedTuple):
    level: str
    keys: set[str]
    places: set[str]


def telemetry() -> tuple[dict[str, Metric], dict[str, Event]]:
    """All metrics and log events of the code, by name."""
    metrics: dict[str, Metric] = {}
    events: dict[str, Event] = {}
    for path in sorted(SRC.rglob("*.py")):
        where = path.relative_to(SRC).as_posix().removesuffix(".py").removesuffix("/__init__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            name, method = literal(node.args[0]), node.func.attr
            owner = ast.unparse(node.func.value)
            if isinstance(name, str) and method in {"counter", "gauge", "histogram"}:
                labels = literal(node.args[2]) if len(node.args) > 2 else ()
                full = name if name.startswith("tallystick_") else f"tallystick_{name}"
                full += "_total" if method == "counter" and not full.endswith("_total") else ""
                metrics[full] = Metric(method, tuple(labels or ()), str(literal(node.args[1])), where)
            elif isinstance(name, str) and method in LEVELS and owner.endswith("log") and "." in name:
                event = events.setdefault(name, Event(method, set(), set()))
                event.places.add(where)
                event.keys.update(word.arg for word in node.keywords if word.arg)
    return metrics, events


def telemetry_page() -> str:
    metrics, events = telemetry()
    lines = [
        GENERATED,
        "# Telemetry",
        "",
        "## Metrics",
        "",
        "Each service process answers `GET /metrics` in Prometheus' text format; `tallystick status` shows the address where all of",
        "them are collected on one machine (`/sd` is a list for Prometheus' HTTP service discovery). [Alerts](alerts.md) and dashboards use",
        "them: [watch the platform](../how-to/watch-the-platform.md).",
        "",
        "| metric | kind | labels | | from |",
        "|---|---|---|---|---|",
        *(
            f"| `{name}` | {each.kind} | {', '.join(each.labels)} | {each.help} | {each.where} |"
            for name, each in sorted(metrics.items())
        ),
        "",
        "## Log events",
        "",
        "One JSON document a line: `time`, `level`, `event`, `service`, `replica`, `trace`, then the event's own keys. Keys are on an",
        "allow-list; what looks like a card number, an IBAN, a token or a key is masked. A request leaves one line, `request.done`.",
        "",
        "| event | level | keys | from |",
        "|---|---|---|---|",
    ]
    for name, event in sorted(events.items()):
        lines.append(
            f"| `{name}` | {event.level} | {', '.join(sorted(event.keys))} | {', '.join(sorted(event.places))} |"
        )
    return "\n".join(lines) + "\n"


def literal(node: ast.AST) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def ids_page() -> str:
    lines = [
        GENERATED,
        "# Ids",
        "",
        "A prefix and 26 characters of Crockford's base 32 in lower case: 128 bits. Most are UUIDv7 and sort by time; those of card and",
        "bank account tokens are random.",
        "",
        "| prefix | names |",
        "|---|---|",
    ]
    kinds: list[ids.Kind[Any]] = [value for value in vars(ids).values() if isinstance(value, ids.Kind)]
    lines += [f"| `{each.prefix}_` | {each.name} |" for each in sorted(kinds, key=lambda each: each.prefix)]
    return "\n".join(lines) + "\n"
