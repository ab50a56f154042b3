"""Metrics and log events from the calls that make them; the kinds of ids from their registry."""

from __future__ import annotations

import ast
from typing import Any

from tallystick.kernel import ids
from tools.reference.text import GENERATED, SRC

LEVELS = frozenset({"debug", "info", "warning", "error", "exception"})


def telemetry_page() -> str:
    metrics: dict[str, tuple[str, str, str, str]] = {}
    events: dict[str, tuple[str, set[str], set[str]]] = {}
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
                metrics[full] = (method, ", ".join(labels or ()), str(literal(node.args[1])), where)
            elif isinstance(name, str) and method in LEVELS and owner.endswith("log") and "." in name:
                _, places, keys = events.setdefault(name, (method, set(), set()))
                places.add(where)
                keys |= {word.arg for word in node.keywords if word.arg}
    lines = [
        GENERATED,
        "# Telemetry",
        "",
        "## Metrics",
        "",
        "Each service process answers `GET /metrics` in Prometheus' text format; `tallystick status` shows the address where all of",
        "them are collected on one machine (`/sd` is a list for Prometheus' HTTP service discovery).",
        "",
        "| metric | kind | labels | | from |",
        "|---|---|---|---|---|",
        *(
            f"| `{n}` | {k} | {labels} | {help_} | {where} |"
            for n, (k, labels, help_, where) in sorted(metrics.items())
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
    for event, (level, places, keys) in sorted(events.items()):
        lines.append(f"| `{event}` | {level} | {', '.join(sorted(keys))} | {', '.join(sorted(places))} |")
    return "\n".join(lines) + "\n"


LEVELS = frozenset({"debug", "info", "warning", "error", "exception"})


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
