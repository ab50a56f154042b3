"""The alerts, from the rules that `tallystick render alerts` makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tallystick.chassis.charter import Charter
from tallystick.fabric import alerts
from tallystick.fabric.slo import LATE_BUDGET, failed_budget
from tools.reference.text import GENERATED, cell


def alerts_page(charters: Mapping[str, Charter]) -> str:
    rules = [rule for group in alerts.document(charters)["groups"] for rule in group["rules"] if "alert" in rule]
    lines = [
        GENERATED,
        "# Alerts",
        "",
        "What `tallystick render alerts` makes from the charters. [Watch the platform](../how-to/watch-the-platform.md) says how to use it, and",
        "what each alert means; [decision 44](../adr/0044-what-counts-as-a-failure.md) says why.",
        "",
        "## Service levels",
        "",
        "The share of requests that fail, or are late, above which an alert fires: in both windows of a column.",
        "",
        f"| service | promised | {' | '.join(f'{burn.long} and {burn.short} ({burn.severity})' for burn in alerts.BURNS)} |",
        f"|---|---|{'---|' * len(alerts.BURNS)}",
    ]
    for name, charter in charters.items():
        slo = charter.slo
        for promise, budget in (
            (f"{slo.availability_percent:g} % don't fail", failed_budget(slo)),
            (f"99 % within {slo.p99_ms} ms", LATE_BUDGET),
        ):
            shares = (f"{(100 * burn.rate(slo) * budget).normalize():f} %" for burn in alerts.BURNS)
            lines.append(f"| {name} | {promise}, over {slo.window_days} days | {' | '.join(shares)} |")
    lines += ["", "## What must not be", "", "| alert | severity | for | fires while |", "|---|---|---|---|"]
    lines += list(dict.fromkeys(_row(rule, charters) for rule in rules if "window" not in rule["labels"]))
    return "\n".join(lines) + "\n"


def _row(rule: Mapping[str, Any], charters: Mapping[str, Charter]) -> str:
    name, labels = rule["alert"], rule["labels"]
    expr = rule["expr"].replace(f'"{labels["job"]}"', '"SERVICE"') if labels.get("job") in charters else rule["expr"]
    link = f"[{name}](../how-to/watch-the-platform.md#{name.lower()})"
    return f"| {link} | {labels['severity']} | {rule.get('for', '')} | `{cell(expr)}` |"
