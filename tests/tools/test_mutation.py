"""The driver of mutation tests: it makes the changes that it says, and a handful of them, others in each run, is tried."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.mutation import rules
from tools.mutation.guards import of_constraint, of_function, of_trigger
from tools.mutation.source import mutants

ROOT = Path(__file__).parents[2]

SOURCE = '''
"""A docstring is no rule."""

LIMIT: Final = 5
owner: Owner | str | None = None


def taken(a: int, b: int | str | None) -> bool | int | None:
    """Nor is this."""
    if b is not None and a + b > LIMIT:
        raise ValueError("too much")
    total.value -= max(a, 0)
    for one in a:
        if all(one):
            continue
        total.move(-one, one * 2, by=a)
    return not a
'''


def test_each_change_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "rules.py"
    path.write_text(SOURCE)
    made = list(mutants(path))
    whats = [one.what for one in made]
    for wanted in (
        "a + b -> a - b",
        "a + b > LIMIT -> a + b >= LIMIT",
        "b is not None -> b is None",
        "b is not None and a + b > LIMIT -> b is not None or a + b > LIMIT",
        "b is not None and a + b > LIMIT -> without b is not None",
        "raise ValueError('too much') -> pass",
        "total.value -= max(a, 0) -> total.value += max(a, 0)",
        "total.value -= max(a, 0) -> pass",
        "max(a, 0) -> min(a, 0)",
        "not a -> a",
        "-one -> one",
        "one * 2 -> one // 2",
        "all(one) -> any(one)",
        "continue -> pass",
        "total.move(...) -> without by=a",
        "0 -> 1",
        "5 -> 6",
    ):
        assert wanted in whats, wanted
    sources = [one.source for one in made]
    assert len(set(sources)) == len(sources)
    assert ast.unparse(ast.parse(SOURCE)) not in sources
    assert not any("docstring" in what or "int |" in what or "Owner" in what for what in whats)


GUARD = """CREATE FUNCTION guard() RETURNS trigger AS $function$
    IF (a.version, a.total) IS DISTINCT FROM (b.version, b.total + 1) OR a.id <> b.id THEN
        RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation';
    END IF;
    IF bad IS NOT NULL THEN RETURN NULL; END IF;
$function$"""


def test_each_change_to_a_guard_is_one_place() -> None:
    made = {change.name.partition(": ")[2]: change.sql for change in of_function("guard", GUARD)}
    assert made.keys() >= {
        "IS DISTINCT FROM -> IS NOT DISTINCT FROM",
        "<> -> =",
        "OR -> AND",
        "+ 1 -> + 2",
        "IF bad IS NOT NULL THEN -> IF false THEN",
        "does not compare a.version",
        "does not compare a.total",
    }
    assert "(a.total) IS DISTINCT FROM (b.total + 1)" in made["does not compare a.version"]
    assert all("ERRCODE = 'check_violation'" in sql for sql in made.values())


TRIGGER = (
    "CREATE TRIGGER asks AFTER UPDATE OF a, b ON t FOR EACH ROW"
    " WHEN ((ROW(new.a, new.b) IS DISTINCT FROM ROW(old.a, old.b))) EXECUTE FUNCTION ask()"
)


def test_each_change_to_a_trigger_puts_another_in_its_place() -> None:
    made = {change.name.partition(": ")[2]: change.sql for change in of_trigger("t", "asks", TRIGGER)}
    assert made["without TRIGGER asks"] == "DROP TRIGGER asks ON t"
    assert "UPDATE OF b ON t" in made["without a in the list"]
    assert "(ROW(new.a) IS DISTINCT FROM ROW(old.a))" in made["does not compare new.b"]
    assert all(sql.startswith("DROP TRIGGER asks ON t") for sql in made.values())


def test_each_change_to_a_check_puts_another_in_its_place() -> None:
    text = "CHECK (((amount > 0) AND (kind = ANY (ARRAY['a'::text, 'b'::text]))))"
    made = {change.name.partition(": ")[2]: change.sql for change in of_constraint("t", "fits", "c", text)}
    assert made["without CHECK fits"] == "ALTER TABLE t DROP CONSTRAINT fits"
    for what, now in (
        ("> -> >=", "(amount >= 0)"), ("0 -> 1", "(amount > 1)"), ("AND -> OR", ") OR ("), ("without 'a'::text in the list", "ARRAY['b'::text]"),
    ):  # fmt: skip
        assert now in made[what], what
        assert made[what].startswith("ALTER TABLE t DROP CONSTRAINT fits; ALTER TABLE t ADD CONSTRAINT fits CHECK ("), what  # fmt: skip
        assert made[what].endswith(" NOT VALID"), what


def test_what_tests_a_module_is_there() -> None:
    modules = {path.stem: path for path in rules.modules()}
    assert len(modules) == len(rules.modules()), "a module's tests are named by its name alone"
    assert rules.OF.keys() <= modules.keys()
    for name, path in modules.items():
        for test in rules.OF.get(name, rules.DECIDING):
            assert (rules.tests_of(path) / test).is_file(), (name, test)


def test_how_slow_a_machine_is_kills_no_mutant() -> None:
    """A test that fails because an example took its time would be taken for one that noticed the change."""

    @rules.QUICK
    @given(st.booleans())
    def slow(_: bool) -> None:
        time.sleep(0.3)

    slow()


@pytest.mark.timeout(600)
def test_most_of_a_sample_of_mutants_dies() -> None:
    """Of the smallest module of the rules, so that it does not take long. Which are tried differs from run to run; the scores are in
    bench/results/mutation.md.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tools.mutation", "python", "--only", "savepoint.py", "--sample", "8"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    killed = re.search(r"^killed (\d+) of 8", done.stdout, re.MULTILINE)
    assert killed is not None, done.stderr
    assert int(killed[1]) >= 5, done.stdout
