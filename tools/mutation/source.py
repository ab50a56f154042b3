"""Small changes to Python source, one at a time. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
#: Of these functions the other one.
_OTHER: dict[str, str] = {"max": "min", "min": "max", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """`what` says the change, as `line: old -> new`."""

    path: Path
    line: int
    what: str
    source: str


def mutants(path: Path) -> Iterator[Mutant]:
    """Every change to the module at `path`, in the order of its text."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    seen = {ast.unparse(tree)}
    for node, parent in list(_places(tree)):
        for what in _changes(node, parent):
            source = ast.unparse(tree)
            if source not in seen:
                seen.add(source)
                yield Mutant(path, node.lineno, what, source)


Statement = ast.AugAssign | ast.Assign | ast.Expr | ast.Raise | ast.If | ast.Return | ast.Continue
Place = tuple[ast.expr | Statement, ast.AST]


#: What stands in their brackets, or in a class's, is a type or how it is laid out.
_TYPES = frozenset({"Final", "Literal", "TypeVar", "dict", "list", "tuple"})


def _places(tree: ast.AST) -> Iterator[Place]:
    types: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in _TYPES:
            types.update(ast.walk(node))
        elif isinstance(node, ast.arg | ast.FunctionDef | ast.AsyncFunctionDef):
            said = node.annotation if isinstance(node, ast.arg) else node.returns
            types.update(ast.walk(said) if said is not None else ())
        elif isinstance(node, ast.AnnAssign):
            types.update(ast.walk(node.annotation))
        elif isinstance(node, ast.ClassDef):
            types.update(part for keyword in node.keywords for part in ast.walk(keyword))
    for parent in ast.walk(tree):
        if parent in types:
            continue
        for name, value in ast.iter_fields(parent):
            if name in {"annotation", "returns", "decorator_list"}:
                continue
            for node in value if isinstance(value, list) else [value]:
                if isinstance(node, ast.expr | Statement):
                    yield node, parent


def _changes(node: ast.expr | Statement, parent: ast.AST) -> Iterator[str]:
    """Changes the node, says how, and changes it back."""
    before = ast.unparse(node).partition("\n")[0]
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            other = _COMPARE.get(type(operator))
            if other is not None:
                node.ops[place] = other()
                yield f"{before} -> {ast.unparse(node)}"
                node.ops[place] = operator
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _ARITHMETIC:
        arithmetic = node.op
        node.op = _ARITHMETIC[type(arithmetic)]()
        yield f"{before} -> {ast.unparse(node)}"
        node.op = arithmetic
    elif isinstance(node, ast.BoolOp):
        joined = node.op
        node.op = ast.And() if isinstance(joined, ast.Or) else ast.Or()
        yield f"{before} -> {ast.unparse(node)}"
        node.op = joined
        for place in range(len(node.values)):
            values = node.values
            node.values = values[:place] + values[place + 1 :]
            yield f"{before} -> without {ast.unparse(values[place])}"
            node.values = values
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield from _put(parent, node, node.operand, before)
    elif isinstance(node, ast.IfExp):
        yield from _put(parent, node, node.body, before)
        yield from _put(parent, node, node.orelse, before)
    elif isinstance(node, ast.Constant):
        yield from _constant(node, parent, before)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _OTHER:
        name = node.func.id
        node.func.id = _OTHER[name]
        yield f"{before} -> {ast.unparse(node)}"
        node.func.id = name
    if isinstance(node, ast.Call):
        for keyword in [one for one in node.keywords if one.arg is not None]:
            keywords = node.keywords
            node.keywords = [one for one in keywords if one is not keyword]
            yield f"{ast.unparse(node.func)}(...) -> without {ast.unparse(keyword)}"
            node.keywords = keywords
    if (
        isinstance(node, ast.AugAssign | ast.Raise | ast.Continue)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript))
    ):
        yield from _put(parent, node, ast.Pass(), before)
    elif isinstance(node, ast.If) and isinstance(node.test, ast.Name | ast.Attribute | ast.Call):
        test = node.test
        node.test = ast.UnaryOp(ast.Not(), test)
        yield f"if {ast.unparse(test)} -> if not"
        node.test = test


def _constant(node: ast.Constant, parent: ast.AST, before: str) -> Iterator[str]:
    value = node.value
    if isinstance(parent, ast.Expr | ast.Subscript | ast.FormattedValue | ast.JoinedStr):
        return  # docstrings and types
    if isinstance(value, bool):
        changed: object = not value
    elif isinstance(value, int):
        changed = value + 1
    elif isinstance(value, str | bytes):
        changed = value + (b"x" if isinstance(value, bytes) else "x")  # type: ignore[operator]
    else:
        return
    node.value = changed  # type: ignore[assignment]
    yield f"{before} -> {ast.unparse(node)}"
    node.value = value


def _put(parent: ast.AST, node: ast.AST, other: ast.AST, before: str) -> Iterator[str]:
    """`other` in the place of `node`."""
    for name, value in ast.iter_fields(parent):
        if value is node:
            setattr(parent, name, other)
            yield f"{before} -> {ast.unparse(other)}"
            setattr(parent, name, node)
        elif isinstance(value, list) and node in value:
            place = value.index(node)
            value[place] = other
            yield f"{before} -> {ast.unparse(other)}"
            value[place] = node
