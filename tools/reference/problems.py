"""The catalogue of problems, from their classes."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib import import_module

from tallystick.chassis.web.bound import common_problems
from tallystick.contracts.ledger.messages import Reason
from tallystick.contracts.ledger.problems import TransferRefused
from tallystick.fabric.envoy.parts import OWN
from tallystick.fabric.envoy.problems import EDGE_ONLY
from tallystick.kernel import ids
from tallystick.kernel.problem import DOCS as TYPES
from tallystick.kernel.problem import Problem
from tallystick.services.ledger.api.views import refusal
from tallystick.services.ledger.model import Result
from tools.reference.structs import field_notes
from tools.reference.text import GENERATED, cell, prose


def problems_page(charters: Iterable[str]) -> str:
    answered: dict[str, set[str]] = defaultdict(set)
    everywhere: set[type[Problem]] = set()
    for name in charters:
        for row in import_module(f"tallystick.services.{name}.api").ENDPOINTS:
            everywhere |= set(common_problems(row))
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
        "`Idempotency-Key`. `request_id` is the id to give when you ask somebody about it. Members of single problems are named in their sections.",
        "",
        "Two answers are none of these: the OAuth endpoints refuse as [RFC 6749](https://www.rfc-editor.org/rfc/rfc6749#section-5.2), 5.2, says",
        "(`error`, `error_description`), and a declined payment is a payment whose `status` and `decline` say so.",
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
        again = (
            "may be sent again unchanged"
            if problem.retryable
            else "sent again unchanged it is refused again, as things stand"
        )
        lines.append(f"Status {problem.status}; {again}.")
        # The chassis answers everywhere, also with what is a kind of these: a database that is away is a part that is not available.
        if problem in everywhere or (_of_chassis(problem) and issubclass(problem, tuple(everywhere))):
            lines.append("Any endpoint may answer with it, where it applies.")
        if problem in EDGE_ONLY:
            lines.append("Answered by the edge itself.")
        elif problem in {kind for kind, _ in OWN.values()}:
            lines.append("The edge answers with it too.")
        if answered[problem.slug]:
            lines.append(f"Answered by {', '.join(sorted(answered[problem.slug]))}.")
        if problem is TransferRefused:
            lines += ["", *reasons()]
    return "\n".join(lines) + "\n"


def _of_chassis(problem: type[Problem]) -> bool:
    return problem.__module__.startswith("tallystick.chassis.")


def reasons() -> Iterator[str]:
    """Each reason of a refused transfer, with the problem that a request about one transfer is answered with instead."""
    notes = field_notes(Reason)
    yield "| `reason` | | in a request about one transfer |"
    yield "|---|---|---|"
    for reason in Reason:
        alone = refusal(Result(ids.transfers.new(), "rejected", reason=reason)).slug
        yield f"| `{reason}` | {cell(notes[reason.name])} | [{alone}](#{alone}) |"


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
