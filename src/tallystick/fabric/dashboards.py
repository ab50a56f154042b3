"""Dashboards for Grafana: one of each service, with the panels that its charter calls for, and an overview of all.

A panel is data: a title, a unit, and what it plots as PromQL. Rates are over `WINDOW`, which is written out, so that each expression can
be tried as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tallystick.chassis.charter import Charter
from tallystick.fabric.slo import (
    LATE_BUDGET,
    REQUESTS,
    counted,
    failed_budget,
    failed_ratio,
    late_ratio,
    succeeded,
)
from tallystick.kernel.deployment import service_of

WINDOW: Final = "5m"
#: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
#: That of Grafana 9; later ones migrate it when they import it.
SCHEMA_VERSION: Final = 36
COLUMNS, WIDTH, HEIGHT = 3, 8, 8
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """`plots` are (PromQL, legend); a legend may name labels: `{{route}}`. `unit` is one of Grafana's ids; `note` explains."""

    title: str
    unit: str
    plots: tuple[tuple[str, str], ...]
    note: str = ""


def documents(charters: Mapping[str, Charter]) -> dict[str, dict[str, Any]]:
    """The dashboards by file name: `overview`, and each deployment's own."""
    made = {"overview": _dashboard("overview", "Tallystick: overview", list(_overview(charters)))}
    for job, charter in charters.items():
        made[job] = _dashboard(job, f"Tallystick: {job}", list(_service(job, charter)))
    return made


def _overview(charters: Mapping[str, Charter]) -> Iterator[Panel]:
    jobs = "|".join(charters)
    of_all = f'{{job=~"{jobs}"}}'
    burning = "of 1 and less the promise is kept, if it stays so"
    yield Panel(
        "Alerts that fire",
        "short",
        (
            (
                'count by (alertname, job, severity) (ALERTS{alertname=~"Tallystick.*",alertstate="firing"})',
                "{{severity}}: {{alertname}} {{job}}",
            ),
        ),
    )
    yield Panel("Requests", "reqps", ((f"sum by (job) ({_rate(f'{REQUESTS}_count', of_all)})", "{{job}}"),))
    yield Panel(
        "Processes that are ready",
        "short",
        (
            (f'count by (job) (up{{job=~"{jobs}"}} == 1)', "{{job}}"),
            ("tallystick_process_up == 0", "not ready: {{process}}"),
        ),
    )
    yield Panel(
        "Burn rate of failures",
        "none",
        tuple(
            (f"({failed_ratio(job, WINDOW)}) / {failed_budget(charter.slo):f}", job)
            for job, charter in charters.items()
        ),
        f"How many times faster than allowed the budget of failures is used up; {burning}.",
    )
    yield Panel(
        "Burn rate of late answers",
        "none",
        tuple(
            (f"({late_ratio(job, charter.slo, WINDOW)}) / {LATE_BUDGET:f}", job) for job, charter in charters.items()
        ),
        f"How many times faster than allowed the budget of late answers is used up; {burning}.",
    )
    yield Panel(
        "p99",
        "s",
        tuple((_quantile(0.99, f"{REQUESTS}_bucket", succeeded(job)), job) for job in charters),
        "Estimated from the buckets.",
    )
    yield Panel("In flight", "short", ((f"sum by (job) (tallystick_requests_in_flight{of_all})", "{{job}}"),))
    yield Panel(
        "Calls without an answer",
        "reqps",
        ((f"sum by (job, target) ({_rate('tallystick_call_failures_total', of_all)})", "{{job}} to {{target}}"),),
    )
    yield Panel(
        "What must not be",
        "short",
        (
            ("sum(tallystick_ledger_books_quarantined)", "books in quarantine"),
            ("sum(tallystick_ledger_check_faults_total)", "faults of the continuous check"),
            ("sum(tallystick_bus_dead_letters_total)", "dead letters"),
            ("sum(tallystick_bus_holes_total)", "holes"),
            ("sum(tallystick_requests_failed_total)", "requests that crashed"),
            ("sum(tallystick_errors_logged_total)", "errors logged"),
        ),
        "Counted since the start of each process: of a count that begins with 1, a rate sees nothing.",
    )


def _service(job: str, charter: Charter) -> Iterator[Panel]:
    own, limits = f'{{job="{job}"}}', charter.limits
    yield from _requests(job, charter)
    yield Panel(
        "In flight and waiting, by replica",
        "short",
        (
            (f"tallystick_requests_in_flight{own}", "in flight: {{replica}}"),
            (f"tallystick_requests_queued{own}", "waiting: {{replica}}"),
            (f"vector({limits.max_in_flight})", "limit of a replica"),
        ),
    )
    refused = [(f"sum({_rate('tallystick_requests_shed_total', own)})", "shed")]
    if limits.rates:
        refused.append((f"sum by (class) ({_rate('tallystick_rate_limited_total', own)})", "rate class {{class}}"))
    yield Panel("Refused: too many in flight, or above a rate", "reqps", tuple(refused))
    yield Panel(
        "Connections to the database, by replica",
        "short",
        (
            (f"tallystick_database_connections_busy{own}", "in use: {{replica}}"),
            (f"tallystick_database_waiting{own}", "requests waiting: {{replica}}"),
            (f"vector({limits.database_connections})", "limit of a replica"),
        ),
    )
    yield Panel(
        "Items that one flush takes",
        "short",
        (
            (
                f"sum by (batcher) ({_rate('tallystick_batch_items_sum', own)}) / sum by (batcher) ({_rate('tallystick_batch_items_count', own)})",
                "{{batcher}}",
            ),
        ),
    )
    if charter.calls:
        yield from _calls(own)
    if charter.tells or charter.consumes or charter.keys:
        yield from _facts(own, consumes=bool(charter.consumes))
    yield Panel(
        "Schedules that failed",
        "short",
        (
            (
                f'sum by (schedule) (increase(tallystick_schedule_runs_total{{job="{job}",result="failed"}}[{WINDOW}]))',
                "{{schedule}}",
            ),
        ),
    )
    yield Panel(
        "Time in schedules",
        "percentunit",
        ((f"sum by (schedule) ({_rate('tallystick_schedule_seconds_sum', own)})", "{{schedule}}"),),
        "1 is a schedule that runs all the time.",
    )
    if charter.keys:
        yield Panel("Values under an older key", "short", ((f"max(tallystick_keys_values_behind{own})", "values"),))
    yield Panel(
        "Errors since the start of each process",
        "short",
        (
            (f"sum by (event) (tallystick_errors_logged_total{own})", "{{event}}"),
            (f"sum by (route) (tallystick_requests_failed_total{own})", "crashed: {{route}}"),
            (f"sum by (route, what) (tallystick_answers_unlisted_total{own})", "unlisted: {{route}} {{what}}"),
        ),
        "Of a count that begins with 1, a rate sees nothing.",
    )
    for title, unit, expr, legend in OWN.get(service_of(job), ()):
        yield Panel(title, unit, ((expr.replace("$own", own), legend),))


#: What only one service counts: (title, unit, PromQL, legend); `$own` stands for the matchers of its job.
OWN: Final[Mapping[str, tuple[tuple[str, str, str, str], ...]]] = {
    "identity": (
        (
            "Clients that could not prove who they are",
            "reqps",
            f"sum by (reason) (rate(tallystick_identity_authentication_failures_total$own[{WINDOW}]))",
            "{{reason}}",
        ),
    ),
    "ledger": (
        (
            "Transfers",
            "ops",
            f"sum by (kind, status) (rate(tallystick_ledger_transfers_total$own[{WINDOW}]))",
            "{{kind}} {{status}}",
        ),
        (
            "Rows that the continuous check looked at",
            "ops",
            f"sum(rate(tallystick_ledger_check_rows_total$own[{WINDOW}]))",
            "rows",
        ),
        ("Last round of the continuous check", "s", "max(tallystick_ledger_check_round_seconds$own)", "round"),
        (
            "Transfers between books, by how they ended",
            "ops",
            f"sum by (state) (rate(tallystick_ledger_interbook_total$own[{WINDOW}]))",
            "{{state}}",
        ),
        (
            "Lines of imports",
            "ops",
            f"sum by (result) (rate(tallystick_ledger_import_lines_total$own[{WINDOW}]))",
            "{{result}}",
        ),
        ("Books in quarantine", "short", "max(tallystick_ledger_books_quarantined$own)", "books"),
        (
            "Transfers between books on their way",
            "short",
            "max(tallystick_ledger_interbook_in_flight$own)",
            "transfers",
        ),
    ),
    "notify": (
        (
            "Webhooks sent",
            "ops",
            f"sum by (result) (rate(tallystick_webhook_attempts_total$own[{WINDOW}]))",
            "{{result}}",
        ),
    ),
    "risk": (
        (
            "Payments decided without velocities",
            "ops",
            f"sum(rate(tallystick_risk_unmetered_total$own[{WINDOW}]))",
            "payments",
        ),
    ),
}


def _requests(job: str, charter: Charter) -> Iterator[Panel]:
    own, slo = f'{{job="{job}"}}', charter.slo
    buckets = f"{REQUESTS}_bucket"
    yield Panel("Requests, by route", "reqps", ((f"sum by (route) ({_rate(f'{REQUESTS}_count', own)})", "{{route}}"),))
    yield Panel(
        "Answers, by status", "reqps", ((f"sum by (status) ({_rate(f'{REQUESTS}_count', own)})", "{{status}}"),)
    )
    yield Panel(
        "Share of requests that fail",
        "percentunit",
        (
            (failed_ratio(job, WINDOW), "failed"),
            (f"vector({failed_budget(slo):f})", f"promised over {slo.window_days} days"),
        ),
    )
    yield Panel(
        "Duration",
        "s",
        (
            (_quantile(0.5, buckets, succeeded(job)), "p50"),
            (_quantile(0.99, buckets, succeeded(job)), "p99"),
            (f"vector({slo.p99_ms / 1000})", "promised p99"),
        ),
        "Of the requests that count and did not fail; estimated from the buckets.",
    )
    yield Panel(
        f"Share of requests that take longer than {slo.p99_ms} ms",
        "percentunit",
        ((late_ratio(job, slo, WINDOW), "late"), (f"vector({LATE_BUDGET:f})", f"promised over {slo.window_days} days")),
    )
    yield Panel(
        "The five slowest routes: p99",
        "s",
        (
            (
                f"topk(5, histogram_quantile(0.99, sum by (le, route) ({_rate(buckets, counted(job))})))",
                "{{route}}",
            ),
        ),
    )


def _calls(own: str) -> Iterator[Panel]:
    seconds = "tallystick_call_seconds"
    yield Panel("Calls", "reqps", ((f"sum by (target) ({_rate(f'{seconds}_count', own)})", "{{target}}"),))
    yield Panel(
        "Calls without an answer, and tried again",
        "reqps",
        (
            (f"sum by (target) ({_rate('tallystick_call_failures_total', own)})", "no answer: {{target}}"),
            (f"sum by (target) ({_rate('tallystick_call_retries_total', own)})", "again: {{target}}"),
        ),
    )
    yield Panel(
        "Duration of calls: p99",
        "s",
        ((f"histogram_quantile(0.99, sum by (le, target) ({_rate(f'{seconds}_bucket', own)}))", "{{target}}"),),
    )


def _facts(own: str, *, consumes: bool) -> Iterator[Panel]:
    yield Panel(
        "Outbox: facts published, and failures of the relay",
        "ops",
        (
            (f"sum({_rate('tallystick_outbox_relayed_total', own)})", "published"),
            (f"sum({_rate('tallystick_outbox_relay_failures_total', own)})", "failures"),
        ),
    )
    if not consumes:
        return
    yield Panel(
        "Bus: facts handled",
        "ops",
        ((f"sum by (source, consumer) ({_rate('tallystick_bus_handled_total', own)})", "{{source}} by {{consumer}}"),),
    )
    yield Panel(
        "Bus: dead letters, holes, failures",
        "short",
        tuple(
            (
                f"sum by (source, consumer) (increase(tallystick_bus_{what}_total{own}[{WINDOW}]))",
                f"{what}: {{{{source}}}} by {{{{consumer}}}}",
            )
            for what in ("dead_letters", "holes", "consumer_failures")
        ),
    )


def _rate(metric: str, matchers: str) -> str:
    return f"rate({metric}{matchers}[{WINDOW}])"


def _quantile(quantile: float, buckets: str, matchers: str) -> str:
    return f"histogram_quantile({quantile}, sum by (le) ({_rate(buckets, matchers)}))"


def _dashboard(name: str, title: str, panels: list[Panel]) -> dict[str, Any]:
    return {
        "uid": f"tallystick-{name}",
        "title": title,
        "tags": ["tallystick"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "links": [
            {"type": "dashboards", "title": "Tallystick", "tags": ["tallystick"], "asDropdown": True, "keepTime": True}
        ],
        "panels": [_drawn(number, panel) for number, panel in enumerate(panels)],
    }


def _drawn(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.note,
        "datasource": DATASOURCE,
        "gridPos": {"x": number % COLUMNS * WIDTH, "y": number // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend}
            for at, (expr, legend) in enumerate(panel.plots)
        ],
    }
