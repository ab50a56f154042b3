"""The generated part of the documentation is what the code says, and every problem type is an address in the site."""

from __future__ import annotations

import ast
from difflib import unified_diff
from pathlib import Path

from tallystick.chassis.charter import heard, load_all
from tallystick.contracts.ledger.messages import Reason
from tallystick.contracts.notify.problems import EVENTS
from tallystick.contracts.payments.messages import Decline
from tallystick.fabric.envoy import parts
from tallystick.kernel.problem import SITE
from tallystick.services.payments.service.acquirer import DECLINES
from tools.reference import pages, stale
from tools.reference.__main__ import redirects
from tools.reference.problems import problem_classes
from tools.reference.structs import field_notes
from tools.reference.text import DOCS, SRC, anchor, lists_apart


def test_the_reference_is_what_the_code_says() -> None:
    made = pages()
    wrong = stale(made)
    for path in wrong:
        there = (DOCS / path).read_text(encoding="utf-8").splitlines() if (DOCS / path).exists() else []
        print(*unified_diff(there, made.get(path, "").splitlines(), path, "the code", lineterm=""), sep="\n")
    assert not wrong, f"no longer what the code says: {', '.join(wrong)}. Run: .venv/bin/python -m tools.reference"


def test_a_changed_page_and_one_too_many_are_noticed() -> None:
    made = pages()
    before = set(stale(made))
    made["reference/ids.md"] += "more"
    gone = made.pop("reference/cli.md")
    assert gone
    assert set(stale(made)) - before == {"reference/cli.md", "reference/ids.md"} - before


def test_each_problem_type_leads_to_its_section(tmp_path: Path) -> None:
    redirects(tmp_path)
    catalogue = (DOCS / "problems" / "index.md").read_text(encoding="utf-8")
    problems = problem_classes()
    assert len(problems) > 40
    for problem in problems:
        page = tmp_path / "problems" / problem.type_url().rsplit("/", 1)[1] / "index.html"
        assert f"url=../#{problem.slug}" in page.read_text(encoding="utf-8")
        assert f"{{ #{problem.slug} }}" in catalogue


def test_each_problem_says_why_and_what_to_do() -> None:
    """In words of its own, not those of a more general one. What is refused by the edge alone is in the catalogue as well."""
    problems = problem_classes()
    silent = [one.slug for one in problems if not one.__doc__ or one.__doc__ == getattr(one.__base__, "__doc__", None)]
    assert not silent, f"problems without a docstring of their own: {', '.join(silent)}"
    assert {kind.slug for kind, _ in parts.OWN.values()} <= {one.slug for one in problems}


def test_each_reason_of_a_refused_transfer_is_told() -> None:
    assert set(field_notes(Reason)) == set(Reason.__members__)
    page = (DOCS / "problems" / "index.md").read_text(encoding="utf-8")
    assert (
        "| `insufficient_funds` | The available balance would fall below the floor. | [insufficient-funds](#insufficient-funds) |"
        in page
    )


def test_each_code_of_a_declined_payment_is_told() -> None:
    made = {
        str(call.args[0].value)
        for path in (SRC / "services" / "payments").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func).endswith("Decline")
        and call.args
        and isinstance(call.args[0], ast.Constant)
    }
    codes = made | {code for code, _ in DECLINES.values()}
    assert len(codes) >= 8
    assert not {code for code in codes if f"`{code}`" not in (Decline.__doc__ or "")}


def test_where_an_answer_says_that_all_events_are_they_are() -> None:
    page = (DOCS / EVENTS.removeprefix(f"{SITE}/").removesuffix("/")).with_suffix(".md").read_text(encoding="utf-8")
    for type_ in heard("notify"):
        assert f"| `{type_.partition('.')[2]}` |" in page
    for name, charter in load_all().items():
        for told in charter.tells.values():
            assert told.message is None or f"\n### {told.message}\n" in page, f"{name}: {told.message}"


def test_lists_stand_apart_for_the_site() -> None:
    assert lists_apart("**Promises**\n- one\n  more\n- two\nend") == "**Promises**\n\n- one\n  more\n- two\nend"


def test_anchors_are_those_of_the_site() -> None:
    assert anchor("`POST /v1/payments/{id}/capture`") == "post-v1paymentsidcapture"
