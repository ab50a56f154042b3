"""The catalogue of problems, from their classes."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib import import_module

from tallystick.chassis.web.bound import common_problems
from tallystick.kernel.problem import DOCS as TYPES
from tallystick.kernel.problem import Problem
from tools.reference.text import GENERATED, cell, prose


def problems_page(charters: Iterable[str]) -> str:
    answered: dict[str, set[str]] = defaultdict(set)
    everywhere: set[str] = set()
    for name in charters:
        for row in import_module(f"tallystick.services.{name}.api").ENDPOINTS:
            everywhere |= {problem.slug for problem in common_problems(row)}
            for problem in row.problems:
                answered[problem.slug].add(f"`{row.where}` ({name})")
    lines = [
        GENERATED,
        "# Problems",
        "",
        "Every refusal is a problem document ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) with the media type",
        f"`application/problem+json`. Its `type` is `{TYPES}/<slug>`, which leads to the section of that name on this page. Decide",
        "by `type`, or by `status` where you don't know the type; `title` and `detail` are for people and may change.",
        "",
        "`retryable` says whether the same request, sent again unchanged, may succeed. For anything that moves money send it with the same",
        "`Idempotency-Key`. `request_id` is the id to give when you ask somebody about it.",
        "",
        "| type | status | again? | |",
        "|---|---|---|---|",
    ]
    found = problem_classes()
    lines += [
        f"| [{p.slug}](#{p.slug}) | {p.status} | {'yes' if p.retryable else 'no'} | {cell(p.title)} |" for p in found
    ]
    for problem in found:
        lines += ["", f"## {problem.slug} {{ #{problem.slug} }}", "", f"**{problem.title}.**", ""]
        if problem.__doc__ and problem.__doc__ != getattr(problem.__base__, "__doc__", None):
            lines += [prose(inspect.getdoc(problem) or ""), ""]
        again = "may be sent again unchanged" if problem.retryable else "the same request will be refused again"
        lines.append(f"Status {problem.status}; {again}.")
        if problem.slug in everywhere:
            lines.append("Any endpoint may answer with it, where it applies.")
        if answered[problem.slug]:
            lines.append(f"Answered by {', '.join(sorted(answered[problem.slug]))}.")
    return "\n".join(lines) + "\n"


def problem_classes() -> list[type[Problem]]:
    """Each type of problem, by slug. Raises SystemExit when two classes share one with different meanings."""
    found: dict[str, type[Problem]] = {}
    for each in subclasses(Problem):
        if not each.__module__.startswith("tallystick.") or "slug" not in vars(each):
            continue
        other = found.setdefault(each.slug, each)
        if (other.status, other.retryable, other.title) != (each.status, each.retryable, each.title):
            raise SystemExit(f"{each.slug} means two things: {other.__module__} and {each.__module__}")
    found[Problem.slug] = Problem
    return [found[slug] for slug in sorted(found)]


def subclasses(kind: type[Problem]) -> Iterator[type[Problem]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)
