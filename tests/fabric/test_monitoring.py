"""Alerts and dashboards: what they name exists in the code, what they promise is the charters', and where they lead there is a page."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import yaml

from tallystick.chassis.charter import DURATION_BOUNDS_MS, Charter, load_all
from tallystick.fabric import alerts, dashboards, render
from tallystick.fabric.shards import with_shards
from tests.support import promql
from tools.reference.telemetry import telemetry
from tools.reference.text import DOCS, SRC, anchor

CHARTERS = load_all()
METRICS, EVENTS = telemetry()
RULES: dict[str, Any] = alerts.document(CHARTERS)
DASHBOARDS = dashboards.documents(CHARTERS)
#: The labels that a scrape adds.
SCRAPED = {"job", "replica", "instance"}
#: What Prometheus itself makes.
OWN = {"up": set[str](), "ALERTS": {"alertname", "alertstate", "severity"}}
RISING = {"rate", "increase"}


def rules(document: Mapping[str, Any] = RULES, kind: str = "alert") -> list[dict[str, Any]]:
    return [rule for group in document["groups"] for rule in group["rules"] if kind in rule]


RECORDED = {rule["record"] for rule in rules(kind="record")}


def metric_of(name: str) -> tuple[str, str]:
    """The metric that a series is of, and its suffix, if it is one of a histogram."""
    for suffix in ("_bucket", "_count", "_sum"):
        base = name.removesuffix(suffix)
        if base != name and base in METRICS and METRICS[base].kind == "histogram":
            return base, suffix
    return name, ""


def labels_of(name: str) -> set[str]:
    base, suffix = metric_of(name)
    own = OWN[name] if name in OWN else {"job"} if name in RECORDED else set(METRICS[base].labels)
    return own | SCRAPED | ({"le"} if suffix == "_bucket" else set())


def wrong(expr: str, allowed_where: str | None = None) -> list[str]:
    """What an expression names that does not exist. With `allowed_where`, metrics that only other services have are wrong too."""
    found = []
    for name, matched in promql.selectors(expr):
        base, suffix = metric_of(name)
        if name not in OWN and name not in RECORDED and base not in METRICS:
            found.append(f"no metric {name}")
            continue
        found += [f"{name} has no label {label}" for label in matched.keys() - labels_of(name)]
        if base in METRICS:
            metric = METRICS[base]
            if metric.kind == "histogram" and not suffix:
                found.append(f"{name} is a histogram: only its _bucket, _count and _sum are series")
            if metric.where.startswith("services/") and allowed_where not in (None, metric.where.split("/")[1]):
                found.append(f"{name} is of {metric.where}")
        if suffix == "_bucket" and "le" in matched and float(matched["le"]) * 1000 not in DURATION_BOUNDS_MS:
            found.append(f"{name} has no bucket {matched['le']}")
    if found:
        return found
    for kept, names in promql.aggregations(expr):
        found += [f"{name} has no label {label}" for name in names for label in kept - labels_of(name)]
    for function, names in promql.functions(expr):
        kinds = {METRICS[base].kind for base in (metric_of(name)[0] for name in names) if base in METRICS}
        if function in RISING and "gauge" in kinds:
            found.append(f"{function} of a gauge: {', '.join(sorted(names))}")
    return found


def plots() -> Iterator[tuple[str, str, str, str]]:
    for name, made in DASHBOARDS.items():
        for panel in made["panels"]:
            for target in panel["targets"]:
                yield name, panel["title"], target["expr"], target["legendFormat"]


def test_each_metric_and_label_of_a_rule_exists() -> None:
    for rule in rules() + rules(kind="record"):
        assert not wrong(rule["expr"]), f"{rule.get('alert', rule.get('record'))}: {wrong(rule['expr'])}"


def test_each_metric_and_label_of_a_panel_exists_in_its_service() -> None:
    for dashboard, title, expr, _ in plots():
        service = None if dashboard == "overview" else dashboard
        assert not wrong(expr, service), f"{dashboard}: {title}: {wrong(expr, service)}"
        assert service is None or all(matched.get("job") == service for _, matched in promql.selectors(expr)), (
            f"{dashboard}: {title}: not of this service alone"
        )


@pytest.mark.parametrize(
    ("expr", "says"),
    [
        ("rate(tallystick_reqests_shed_total[5m])", "no metric tallystick_reqests_shed_total"),
        ("rate(tallystick_call_seconds[5m])", "tallystick_call_seconds is a histogram"),
        ('tallystick_schedule_runs_total{outcome="failed"}', "has no label outcome"),
        ("sum by (route) (tallystick_call_failures_total)", "has no label route"),
        ("rate(tallystick_requests_in_flight[5m])", "rate of a gauge"),
        ('tallystick_request_seconds_bucket{le="0.12"}', "has no bucket 0.12"),
        ("tallystick_ledger_check_rows_total", "is of services/ledger"),
    ],
)
def test_what_does_not_exist_is_found(expr: str, says: str) -> None:
    assert any(says in each for each in wrong(expr, "vault"))
    with pytest.raises(ValueError):
        promql.nodes("sum(rate(x[5m])")


def test_labels_in_texts_are_those_of_the_series() -> None:
    """Of an aggregation those that it keeps; an alert also has those that its rule adds."""

    def kept(expr: str) -> set[str]:
        by = [labels for labels, _ in promql.aggregations(expr) if labels]
        return set().union(*by) if by else set().union(*(labels_of(name) for name, _ in promql.selectors(expr)), set())

    for rule in rules():
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert named <= kept(rule["expr"]) | rule["labels"].keys(), rule["alert"]
    for dashboard, title, expr, legend in plots():
        assert set(re.findall(r"{{(\w+)}}", legend)) <= kept(expr) | {"alertname"}, f"{dashboard}: {title}: {legend}"


def test_events_that_an_alert_names_are_errors_in_the_code() -> None:
    for event in (*alerts.GRAVE, *alerts.TOLD_OTHERWISE):
        assert EVENTS[event].level == "error", event


def test_schedules_that_an_alert_names_are_in_the_code() -> None:
    named = {
        str(keyword.value.value)
        for path in SRC.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Schedule"
        for keyword in call.keywords
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant)
    }
    asked = {
        matched["schedule"]
        for rule in rules()
        for metric, matched in promql.selectors(rule["expr"])
        if metric == "tallystick_schedule_runs_total" and "schedule" in matched
    }
    assert asked == {"ledger.check", "ledger.interbook", "chassis.data-keys"}
    assert asked <= named


def slo_rules(document: Mapping[str, Any], job: str) -> dict[str, list[tuple[str, str]]]:
    """By alert: (window, expression)."""
    found: dict[str, list[tuple[str, str]]] = {}
    (group,) = [group for group in document["groups"] if group["name"] == f"tallystick-slo-{job}"]
    for rule in group["rules"]:
        if "alert" in rule:
            found.setdefault(rule["alert"], []).append((rule["labels"]["window"], rule["expr"]))
    return found


@pytest.mark.parametrize("job", [*CHARTERS, "ledger-eu"])
def test_each_service_and_shard_has_its_rules(job: str) -> None:
    document = alerts.document(with_shards(CHARTERS, ["eu"]))
    found = slo_rules(document, job)
    assert {name: [window for window, _ in each] for name, each in found.items()} == {
        "TallystickRequestsFail": ["1h", "6h", "3d"],
        "TallystickRequestsLate": ["1h", "6h", "3d"],
    }
    (group,) = [group for group in document["groups"] if group["name"] == f"tallystick-slo-{job}"]
    assert all(rule["labels"]["job"] == job for rule in group["rules"])
    recorded = {rule["record"] for rule in group["rules"] if "record" in rule}
    used = {name for each in found.values() for _, expr in each for name, _ in promql.selectors(expr)}
    assert recorded == used
    assert all(f'job="{job}"' in rule["expr"] for rule in group["rules"])
    away = [rule for rule in rules(document) if rule["alert"] == "TallystickServiceAway"]
    assert job in {rule["labels"]["job"] for rule in away}
    assert job in dashboards.documents(with_shards(CHARTERS, ["eu"]))


def changed(**slo: Any) -> dict[str, Charter]:
    ledger = CHARTERS["ledger"]
    return {**CHARTERS, "ledger": msgspec.structs.replace(ledger, slo=msgspec.structs.replace(ledger.slo, **slo))}


def limits(document: Mapping[str, Any], alert: str) -> list[str]:
    return [expr.rsplit(" > ", 1)[1] for _, expr in slo_rules(document, "ledger")[alert]]


def test_the_numbers_of_the_rules_are_the_charters() -> None:
    months = changed(availability_percent=99.9, window_days=30)
    # The workbook's example: 99.9 % over 30 days.
    assert limits(alerts.document(months), "TallystickRequestsFail") == ["14.4 * 0.001", "6 * 0.001", "1 * 0.001"]
    assert limits(RULES, "TallystickRequestsFail") == ["13.44 * 0.0005", "5.6 * 0.0005", "1 * 0.0005"]
    assert limits(alerts.document(months), "TallystickRequestsLate") == ["14.4 * 0.01", "6 * 0.01", "1 * 0.01"]
    for p99_ms, le in ((100, "0.1"), (1000, "1.0"), (250, "0.25")):
        made = alerts.document(changed(p99_ms=p99_ms))
        late = [
            rule["expr"] for rule in rules(made, "record") if rule["record"].startswith(alerts.recorded("late", ""))
        ]
        of_ledger = [expr for expr in late if 'job="ledger"' in expr]
        assert len(of_ledger) == len(alerts.WINDOWS)
        bounds = {matched["le"] for expr in of_ledger for _, matched in promql.selectors(expr) if "le" in matched}
        assert bounds == {le}
        assert slo_rules(made, "vault") == slo_rules(RULES, "vault")


def test_the_numbers_of_the_dashboards_are_the_charters() -> None:
    made = dashboards.documents(changed(availability_percent=99.9, p99_ms=250, window_days=30))["ledger"]
    exprs = {target["expr"] for panel in made["panels"] for target in panel["targets"]}
    assert {"vector(0.001)", "vector(0.25)", "vector(0.01)"} <= exprs
    before = {target["expr"] for panel in DASHBOARDS["ledger"]["panels"] for target in panel["targets"]}
    assert {"vector(0.0005)", "vector(0.1)", "vector(0.01)"} <= before


@pytest.mark.parametrize("percent", [99, 99.5, 99.95, 99.999])
@pytest.mark.parametrize("days", [1, 28, 90])
def test_each_burn_rate_can_be_reached_and_is_no_lower_than_what_is_promised(percent: float, days: int) -> None:
    for expr in limits(
        alerts.document(changed(availability_percent=percent, window_days=days)), "TallystickRequestsFail"
    ):
        rate, budget = map(Decimal, expr.split(" * "))
        assert rate >= 1
        assert rate * budget < 1


def test_requests_that_say_nothing_are_counted_nowhere() -> None:
    for rule in rules(kind="record"):
        for _, matched in promql.selectors(rule["expr"]):
            assert matched["route"] == "(none)"
            assert 'route!="(none)",status!~"401|403|408|429"' in rule["expr"]


def test_each_alert_leads_to_its_section_and_each_section_to_an_alert() -> None:
    page = (DOCS / "how-to" / "watch-the-platform.md").read_text(encoding="utf-8")
    sections = {anchor(title): title for title in re.findall(r"^### (Tallystick\w+)$", page, re.MULTILINE)}
    for rule in rules():
        site, _, part = rule["annotations"]["runbook_url"].partition("#")
        assert site == alerts.RUNBOOK == "https://tallystick.dev/how-to/watch-the-platform/"
        assert sections.get(part) == rule["alert"], f"how-to/watch-the-platform.md: no section {rule['alert']}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(sections.values()) == {rule["alert"] for rule in rules()}


def test_the_file_says_what_the_document_says() -> None:
    assert yaml.safe_load(render.files("alerts")["tallystick.rules.yml"]) == RULES
    odd = {"groups": [{"name": "odd", "rules": [{"alert": "A", "expr": "it's: # {x}", "labels": {"a": "'"}}]}]}
    assert yaml.safe_load(alerts.yaml(odd)) == odd


def test_dashboards_are_whole() -> None:
    assert set(DASHBOARDS) == {"overview", *CHARTERS}
    for name, text in render.files("dashboards").items():
        made = json.loads(text)
        assert made["uid"] == f"tallystick-{name.removesuffix('.json')}"
        assert len(made["uid"]) <= 40  # Grafana's limit
        assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
        places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in made["panels"]}
        assert len(places) == len(made["panels"])
        assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in made["panels"])
        assert all(panel["targets"] for panel in made["panels"])


def test_a_dashboard_has_the_panels_that_its_charter_calls_for() -> None:
    def titles(charter: Charter) -> str:
        return json.dumps(dashboards.documents({"payments": charter})["payments"]["panels"])

    payments = CHARTERS["payments"]
    assert "tallystick_call_failures_total" in titles(payments)
    assert "tallystick_call_failures_total" not in titles(msgspec.structs.replace(payments, calls={}))
    assert "tallystick_keys_values_behind" in titles(payments)
    assert "tallystick_keys_values_behind" not in titles(msgspec.structs.replace(payments, keys=None))
    assert "tallystick_bus_handled_total" not in titles(payments)
    assert "tallystick_rate_limited_total" in titles(payments)
    assert "tallystick_rate_limited_total" not in titles(CHARTERS["risk"])
    assert "tallystick_bus_handled_total" in titles(CHARTERS["risk"])
    for name, metric in METRICS.items():
        if metric.where.startswith("services/") and name not in UNPLOTTED:
            service = metric.where.split("/")[1]
            assert name in json.dumps(DASHBOARDS[service]), f"{name} is on no dashboard"


#: Metrics of one service that tell nothing over time.
UNPLOTTED = {
    "tallystick_ledger_check_faults_total",  # on the overview
    "tallystick_ledger_check_rounds_total",  # an alert
    "tallystick_ledger_check_history_seconds",
    "tallystick_ledger_flush_transfers",  # the same as the flushes of the batcher ledger.post
}
