"""Rules of the house that types and linters can't say. Each failure names the place, the rule and the reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import inspect

from tallystick.chassis.charter import OPERATOR
from tallystick.chassis.web.decode import texts
from tests.architecture.tree import BUILT, ROOT, SRC, endpoints, place, sources

MAX_LINES = 450

#: Folders and files (below src/tallystick) that do what others may not, and why.
CLOCKS = {
    "kernel": "it is where ids and clocks are made",
    "local": "it runs processes of this machine and its certificates; no business time",
    "cli": "it talks to a person, here and now",
    "chassis/telemetry": "a log line says when it was written",
    "chassis/outbox": "how old a message of a stream may be, by the machine's clock as the bus goes by it",
    "chassis/auth": "tokens' times are Unix seconds, given as arguments with these as defaults",
}
RANDOMS = {
    "kernel": "it is where ids are made",
    "chassis/keys": "key material",
    "chassis/bus": "dead letters' ids, which only operators see",
    "local": "sandbox, secrets and certificates of this machine",
    "cli": "demonstration data",
}

_SQL = re.compile(
    r"^\s*(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+TABLE)\b", re.IGNORECASE | re.DOTALL
)
_UNFINISHED = re.compile(r"\b(TODO|FIXME|HACK)\b")
#: Modules where an amount is at hand; a float there is a cent lost one day.
_MONEY = re.compile(r"^(kernel/money\.py|kernel/currencies\.py|services/(ledger|payments)/(model|service|store|api)\b)")

Finding = tuple[ast.AST, str]


def below(path: Path, allowed: dict[str, str]) -> bool:
    name = path.relative_to(SRC).as_posix()
    return any(name == part or name.startswith((f"{part}/", f"{part}.")) for part in allowed)


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def reads_the_clock(path: Path, tree: ast.Module) -> Iterator[Finding]:
    """The clock is an argument: what time it is can be tested, and replayed after a crash."""
    if below(path, CLOCKS):
        return
    for node, name in calls(tree):
        if re.search(r"(^|\.)(datetime\.(now|utcnow|today)|date\.today|time\.time(_ns)?)$", name):
            yield node, f"{name}(): take a Clock (kernel.clock) as an argument"


def makes_its_own_ids(path: Path, tree: ast.Module) -> Iterator[Finding]:
    """Ids come from kernel.ids, made before the effect and ordered by time; secrets from kernel.ids.secret_id."""
    if below(path, RANDOMS):
        return
    for node, name in calls(tree):
        if re.search(r"(^|\.)(uuid[1-8]|uuid_utils\.uuid[1-8]|urandom)$", name):
            yield node, f"{name}(): ids come from kernel.ids"
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import) and any(alias.name == "random" for alias in statement.names):
            used = {dotted(inner.func) for inner in ast.walk(tree) if isinstance(inner, ast.Call)}
            # jitter of a back-off is the one honest use: it must differ between replicas, and nothing depends on it
            wrong = {name for name in used if name.startswith("random.")} - {"random.random", "random.uniform"}
            if wrong:
                yield statement, f"{', '.join(sorted(wrong))}: random is for the jitter of a back-off only"


def floats_near_money(path: Path, tree: ast.Module) -> Iterator[Finding]:
    """Amounts are integers of minor units; a float loses cents."""
    if not _MONEY.match(path.relative_to(SRC).as_posix()):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) in {"float", "round", "decimal.Decimal", "Decimal"}:
            yield node, f"{dotted(node.func)}() near money"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and not _is_path(node):
            yield node, "/ gives a float: use // or Money.allocate"


def _is_path(node: ast.BinOp) -> bool:
    return any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in (node.left, node.right))


def builds_sql(path: Path, tree: ast.Module) -> Iterator[Finding]:
    """Statements come from .sql files, where a reviewer and the tests see them; a string put together is an injection."""
    if below(path, {"fabric/postgres.py": "roles and databases can't be parameters", "local": "looks at any database"}):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                part.value for part in node.values if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )
            if _SQL.match(text):
                yield node, "an f-string that is SQL"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mod, ast.Add)):
            left = node.left
            if isinstance(left, ast.Constant) and isinstance(left.value, str) and _SQL.match(left.value):
                yield node, "SQL put together from strings"


def loses_tasks(_: Path, tree: ast.Module) -> Iterator[Finding]:
    """A task whose handle nobody keeps may be collected halfway, and its exception is never seen: use a TaskGroup or keep it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            name = dotted(node.value.func)
            if name.endswith(("asyncio.create_task", "asyncio.ensure_future", "loop.create_task")) or name in {
                "create_task",
                "ensure_future",
            }:
                yield node, f"{name}() whose task nobody keeps"


def swallows_errors(_: Path, tree: ast.Module) -> Iterator[Finding]:
    """An error that is caught is handled, logged or raised again; `pass` makes it a mystery."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            names = {dotted(part) for part in ast.walk(node.type)} if node.type else {""}
            broad = node.type is None or names & {"Exception", "BaseException"}
            if broad and all(isinstance(line, ast.Pass) for line in node.body):
                yield node, "a broad except that passes"
        elif (
            isinstance(node, ast.Call)
            and dotted(node.func).endswith("suppress")
            and any(dotted(argument) in {"Exception", "BaseException"} for argument in node.args)
        ):
            yield node, "suppress(Exception)"


def calls_inside_a_transaction(_: Path, tree: ast.Module) -> Iterator[Finding]:
    """A transaction is never open across a network call: locks would be held for as long as another service likes."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.AsyncWith):
            continue
        if not any(
            isinstance(item.context_expr, ast.Call) and dotted(item.context_expr.func).endswith(".transaction")
            for item in node.items
        ):
            continue
        for inner in ast.walk(node):
            if isinstance(inner, ast.Await) and isinstance(inner.value, ast.Call):
                parts = dotted(inner.value.func).lower().split(".")[:-1]
                if any(
                    re.fullmatch(r"_?(client|ledger|vault|risk|audit|identity|rail|http|session|bus)", part)
                    for part in parts
                ):
                    yield inner, f"await {dotted(inner.value.func)}() inside of a transaction"


def unbounded_patterns(_: Path, tree: ast.Module) -> Iterator[Finding]:
    """A pattern is matched against all of the text first: without max_length the text may be as long as the body."""
    for node, name in calls(tree):
        if name.endswith("Meta"):
            words = {word.arg for word in node.keywords}
            if "pattern" in words and "max_length" not in words:
                yield node, "Meta(pattern=...) without max_length="


RULES: dict[str, Callable[[Path, ast.Module], Iterator[Finding]]] = {
    rule.__name__: rule
    for rule in (
        reads_the_clock,
        makes_its_own_ids,
        floats_near_money,
        builds_sql,
        loses_tasks,
        swallows_errors,
        calls_inside_a_transaction,
        unbounded_patterns,
    )
}


@pytest.mark.parametrize("rule", list(RULES))
def test_rule(rule: str) -> None:
    found = [
        f"{place(path, node)}: {what}" for path, tree in sources().items() for node, what in RULES[rule](path, tree)
    ]
    assert not found, f"{RULES[rule].__doc__}\n  " + "\n  ".join(found)


#: What each rule must find: a rule that finds nothing anywhere may be blind.
WRONG = {
    "reads_the_clock": "from datetime import datetime, UTC\nx = datetime.now(UTC)",
    "makes_its_own_ids": "import uuid\nx = uuid.uuid4()",
    "floats_near_money": "x = amount / 3",
    "builds_sql": "x = f'SELECT a FROM {table}'",
    "loses_tasks": "import asyncio\nasyncio.create_task(work())",
    "swallows_errors": "try:\n    x()\nexcept Exception:\n    pass",
    "calls_inside_a_transaction": "async def f(s):\n    async with s.database.transaction() as tx:\n        await s.ledger.post(1)",
    "unbounded_patterns": "import msgspec\nx = msgspec.Meta(pattern='^a$')",
}


@pytest.mark.parametrize("rule", list(RULES))
def test_a_rule_finds_what_it_forbids(rule: str) -> None:
    assert list(RULES[rule](SRC / "services" / "payments" / "service.py", ast.parse(WRONG[rule])))


def test_nothing_is_left_for_later() -> None:
    """There is no list of things to do in the code: they are issues, or they are done."""
    found = []
    for folder in ("src", "tests", "docs", "deploy", "tools", "bench"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in {".py", ".sql", ".toml", ".cedar", ".md", ".sh"} or path == Path(__file__):
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if _UNFINISHED.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "unfinished work in the code:\n  " + "\n  ".join(found)


def test_a_module_fits_in_a_head() -> None:
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in sources()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long, f"longer than {MAX_LINES} lines; make each a package of the same name: {long}"


@pytest.mark.parametrize("service", BUILT)
def test_a_long_number_belongs_into_few_fields(service: str) -> None:
    """Everywhere else in a body from outside, whatever its pattern, a card number or an IBAN is refused before it is kept."""
    belongs = {"amount", "floor", "ceiling", "above", "card.number", "bank_account.iban"}
    for row in endpoints(service):
        if row.entry == "edge" and row.body is not None and row.media == "json":
            for path in (text.path for text in texts(inspect.type_info(row.body)) if text.number):
                assert path[-1] in belongs or ".".join(path[-2:]) in belongs, f"{row.where}: {'.'.join(path)}"


@pytest.mark.parametrize("service", BUILT)
def test_a_text_with_a_pattern_says_in_words_what_it_is(service: str) -> None:
    """Whoever sends another is told the words (`description`), and never a pattern."""
    silent = [
        f"{row.where} {'.'.join(text.path)}"
        for row in endpoints(service)
        if row.entry == "edge" or OPERATOR in row.mesh
        for kind in (row.body, row.query)
        if kind is not None
        for text in texts(inspect.type_info(kind))
        if text.form.pattern is not None and not text.words
    ]
    assert not silent, f"{service}: patterns without words: {', '.join(silent)}"
