"""The charter and the settings, from their structs and the notes below their fields."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from tallystick.chassis import charter, settings
from tools.reference.text import GENERATED, cell, default, kind, prose


def charter_page() -> str:
    lines = [
        GENERATED,
        "# The charter",
        "",
        "`services/<name>/charter.toml` declares a service. Unknown keys are errors; every error names file, key and remedy.",
        "[Why](../explanation/charters.md) there is such a file.",
        "",
        "| section | |",
        "|---|---|",
    ]
    sections: list[tuple[str, type]] = []
    for field in msgspec.structs.fields(charter.Charter):
        name, inner = field.encode_name, struct_in(field.type)
        if inner is None:
            raise SystemExit(f"charter: {name} is no section")
        many = "dict" in str(field.type) or "Meta" in str(field.type)
        title = f"[[{name}]]" if "tuple" in str(field.type) else f"[{name}.*]" if many else f"[{name}]"
        title = "[callers]" if name == "callers" else title
        lines.append(f"| `{title}` | {'required' if field.required else 'may be left out'} |")
        if inner is not str:
            sections.append((title, inner))
    lines += [
        "",
        "## `[callers]`",
        "",
        "A list of actions (`POST /internal/transfers`) for each service that may call this one.",
    ]
    lines.append("The caller's own charter must say the same in `[calls.*]`, or nothing starts.")
    for title, struct in sections:
        lines += ["", f"## `{title}`", "", *struct_table(struct)]
    return "\n".join(lines) + "\n"


def struct_table(struct: type, seen: frozenset[type] = frozenset()) -> list[str]:
    lines = []
    if struct.__doc__ and not struct.__doc__.startswith(struct.__name__ + "("):
        lines += [prose(inspect.getdoc(struct) or ""), ""]
    schema = msgspec.json.schema(struct)["$defs"][struct.__name__]
    notes = field_notes(struct)
    lines += ["| key | type | | |", "|---|---|---|---|"]
    inner = []
    for field in msgspec.structs.fields(struct):
        of = schema["properties"][field.encode_name]
        below = struct_in(field.type)
        if below is not None and below is not str and below not in seen:
            inner.append((field.encode_name, below))
        said = re.sub(r"\[(\w+)\]\(#\w+\)", r"\1", kind(of))
        need = "required" if field.required else default(of)
        lines.append(f"| `{field.encode_name}` | {said} | {need} | {cell(notes.get(field.name, ''))} |")
    for name, below in inner:
        lines += ["", f"Each of `{name}`:", "", *struct_table(below, seen | {struct})]
    return lines


def struct_in(hint: object) -> type | None:
    """The struct inside of `dict[str, S]`, `tuple[S, ...]`, `S | None`; str for what has none."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    for part in (*getattr(hint, "__args__", ()), getattr(hint, "__origin__", None)):
        if part is not None and part is not hint and (found := struct_in(part)) not in (None, str):
            return found
    return str


@cache
def field_notes(of: type) -> dict[str, str]:
    """The sentence below a field, or a member of an enumeration, in the source, as the house writes them."""
    found: dict[str, str] = {}
    for base in reversed(of.__mro__):
        if not base.__module__.startswith("tallystick."):
            continue
        (node,) = ast.parse(inspect.getsource(base)).body
        body = node.body if isinstance(node, ast.ClassDef) else []
        for field, note in itertools.pairwise(body):
            targets: list[ast.expr] = []
            if isinstance(field, ast.AnnAssign):
                targets = [field.target]
            elif isinstance(field, ast.Assign):
                targets = field.targets
            if targets and isinstance(target := targets[0], ast.Name) and (said := text_of(note)):
                found[target.id] = prose(said)
    return found


def text_of(node: ast.AST) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return inspect.cleandoc(node.value.value)
    return ""


def settings_page(charters: Iterable[str]) -> str:
    lines = [
        GENERATED,
        "# Settings",
        "",
        "A service process reads its settings once, from its environment. A variable that begins with `TALLYSTICK_` and that nothing",
        "reads is an error. Secrets are never in the environment: the variable names a file (mode 0600). On one machine",
        "`tallystick up` sets all of them; `tallystick run SERVICE` is a process that reads them.",
        "",
        "## Every service",
        "",
        *settings_table(settings.Settings, frozenset()),
    ]
    common = frozenset(field.name for field in msgspec.structs.fields(settings.Settings))
    for name in charters:
        own = import_module(f"tallystick.services.{name}.settings").Settings
        table = settings_table(own, common)
        if len(table) > 2:
            lines += ["", f"## {name}", "", *table]
    lines += [
        "",
        "## The command line",
        "",
        "| variable | |",
        "|---|---|",
        "| `TALLYSTICK_HOME` | the data directory when `--data` is not given; otherwise `.tallystick` in the current folder |",
        "| `TALLYSTICK_ROOT_PASSPHRASE_FILE` | `up`, `keys`: the file (mode 0600) with the passphrase that seals the root key |",
        "| `TALLYSTICK_OTLP_ENDPOINT` | `up`: where traces go, instead of into the data directory |",
        "| `TALLYSTICK_LOG_LEVEL` | `up`: how much the services log |",
    ]
    return "\n".join(lines) + "\n"


def settings_table(struct: Any, known: frozenset[str]) -> list[str]:
    notes = field_notes(struct)
    lines = ["| variable | type | default | |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(struct):
        if field.name in known:
            continue
        hint = settings._type(struct, field)
        secret = settings._is_secret(hint)
        given = "required" if field.required else "" if field.default is None else f"`{field.default}`"
        lines.append(
            f"| `{settings.variable(field.name, secret=secret)}` | {'file' if secret else hint_text(hint)} | {given} | {cell(notes.get(field.name, ''))} |"
        )
    return lines


def hint_text(hint: Any) -> str:
    members = settings._members(hint)
    if Path in members:
        return "path"
    return kind(msgspec.json.schema(members[0]))
