"""What there is: services that are built, their tables of endpoints and subscriptions, the source files."""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tallystick.chassis import charter as charters_module
from tallystick.chassis.web import Endpoint

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "tallystick"
SERVICES = SRC / "services"
CHARTERS = charters_module.load_all()

#: Declared by a charter and built: it has a wiring.
BUILT = [name for name in CHARTERS if (SERVICES / name / "app.py").exists()]


@cache
def endpoints(service: str) -> tuple[Endpoint, ...]:
    table: tuple[Endpoint, ...] = tuple(import_module(f"tallystick.services.{service}.api").ENDPOINTS)
    assert table, f"{service} has an empty endpoint table"
    return table


@cache
def subscriptions(service: str) -> tuple[Any, ...]:
    return tuple(import_module(f"tallystick.services.{service}.worker").SUBSCRIPTIONS)


def mesh_rows(service: str) -> dict[str, set[str]]:
    """Caller -> actions, from the endpoint table."""
    found: dict[str, set[str]] = {}
    for row in endpoints(service):
        for caller in row.mesh:
            found.setdefault(caller, set()).add(row.where)
    return found


@cache
def sources(*below: str) -> dict[Path, ast.Module]:
    """Every Python file of the platform (or below some folders of `src/tallystick`), parsed."""
    folders = [SRC / part for part in below] or [SRC]
    files = [path for folder in folders for path in ([folder] if folder.is_file() else sorted(folder.rglob("*.py")))]
    return {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in files}


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"
