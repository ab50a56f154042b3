"""What a PromQL expression names, by a real parser."""

from __future__ import annotations

import promql_parser as promql


def nodes(expr: str) -> list[promql.Expr]:
    """Every node of the expression. Raises ValueError for what is not PromQL."""
    found: list[promql.Expr] = []
    promql.walk(promql.parse(expr), found.append)
    return found


def selectors(expr: str) -> list[tuple[str, dict[str, str]]]:
    """Each selector: the metric, and what its labels are matched with."""
    return [
        (str(node.name), {each.name: each.value for each in node.matchers.matchers})
        for node in nodes(expr)
        if isinstance(node, promql.VectorSelector)
    ]


def aggregations(expr: str) -> list[tuple[set[str], set[str]]]:
    """Each aggregation: the labels that it keeps, and the metrics in it."""
    return [
        (
            set(node.modifier.labels) if node.modifier is not None else set(),
            {name for name, _ in selectors(node.expr.prettify())},
        )
        for node in nodes(expr)
        if isinstance(node, promql.AggregateExpr)
    ]


def functions(expr: str) -> list[tuple[str, set[str]]]:
    """Each call of a function: its name, and the metrics in its arguments."""
    return [
        (node.func.name, {name for each in node.args for name, _ in selectors(each.prettify())})
        for node in nodes(expr)
        if isinstance(node, promql.Call)
    ]
