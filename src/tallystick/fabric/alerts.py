"""Rules for Prometheus: the service levels of the charters as alerts on burn rates, and alerts for what must never be.

An error budget is what may fail, or be late, within the days of the promise. Its burn rate is 1 when exactly all of it is used up in that
time. A rule compares the burn rate of a long window, so that it does not fire for a blip, and of a short one, so that it ends soon after
the cause does ("The Site Reliability Workbook", chapter 5, https://sre.google/workbook/alerting-on-slos/).

Each alert has a `severity`: `page` (somebody has to look now) or `ticket` (within days), and a `runbook_url`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Final, Literal

from tallystick.chassis.charter import Charter, Slo
from tallystick.fabric.slo import LATE_BUDGET, failed_budget, failed_ratio, late_ratio
from tallystick.kernel.problem import SITE

Severity = Literal["page", "ticket"]

RUNBOOK: Final = f"{SITE}/how-to/watch-the-platform/"


@dataclass(frozen=True, slots=True)
class Burn:
    """A part of the budget, the time in which using it up is worth an alert, and a short window that says whether it goes on."""

    percent: int
    hours: int
    long: str
    short: str
    severity: Severity

    def rate(self, slo: Slo) -> Decimal:
        """The burn rate; for a budget of 30 days those of the workbook: 14.4, 6 and 1. Never below 1, at which the promise is kept."""
        return max(Decimal(1), Decimal(self.percent * slo.window_days * 24) / (100 * self.hours))


BURNS: Final = (
    Burn(2, 1, "1h", "5m", "page"),
    Burn(5, 6, "6h", "30m", "page"),
    Burn(10, 72, "3d", "6h", "ticket"),
)
WINDOWS: Final = ("5m", "30m", "1h", "6h", "3d")


@dataclass(frozen=True, slots=True)
class Alert:
    """`expr` is PromQL; `hold` is how long it must be true; `summary` may contain Prometheus' templates."""

    name: str
    expr: str
    severity: Severity
    summary: str
    hold: str = "0s"


#: Error events that mean that money, history or keys may not be what they should be. Every other one makes a ticket.
GRAVE: Final = (
    "audit.head_and_tiles_differ",
    "audit.other_key",
    "audit.rewritten",
    "audit.rolled_back",
    "audit.tiles_missing",
    "keys.unreadable",
    "ledger.guard.refused",
    "ledger.report.unsound",
    "payment.acquirer.disagrees",
    "policy.evaluation_failed",
)
#: Error events that have an alert of their own.
TOLD_OTHERWISE: Final = (
    "auth.replay_store_failed",
    "bus.dead_letter",
    "ledger.book.quarantined",
    "request.failed",
    "schedule.failed",
)


def raised(counter: str, by: str, window: str = "15m", matchers: str = "") -> str:
    """True for `window` after the counter has risen. A series that was not there before begins with its first count, of which
    `increase` sees nothing.
    """
    series = f"{counter}{matchers}"
    return f"sum by ({by}) (increase({series}[{window}]) > 0 or (({series} > 0) unless {series} offset {window}))"


def current(gauge: str, schedule: str) -> str:
    """A gauge that a schedule of one replica sets, of replicas that run it. One that has lost the lead keeps its last value."""
    runs = f'increase(tallystick_schedule_runs_total{{schedule="{schedule}"}}[15m])'
    return f"max by (job) ({gauge} and on (job, replica) sum by (job, replica) ({runs}) > 0)"


def _never() -> Iterator[Alert]:
    grave = "|".join(_literal(event) for event in GRAVE)
    known = "|".join(_literal(event) for event in (*GRAVE, *TOLD_OTHERWISE))
    yield Alert(
        "TallystickBookQuarantined",
        f"{current('tallystick_ledger_books_quarantined', 'ledger.check')} > 0",
        "page",
        "{{ $labels.job }}: {{ $value }} books are in quarantine; nothing can be posted to them",
    )
    yield Alert(
        "TallystickCheckFoundFaults",
        raised("tallystick_ledger_check_faults_total", "job"),
        "page",
        "{{ $labels.job }}: the continuous check found totals that do not follow from the transfers",
    )
    yield Alert(
        "TallystickCheckStandsStill",
        "sum by (job) (increase(tallystick_ledger_check_rounds_total[15m])) == 0",
        "ticket",
        "{{ $labels.job }}: the continuous check of the books has ended no round for 15 minutes",
        hold="5m",
    )
    yield Alert(
        "TallystickGraveError",
        raised("tallystick_errors_logged_total", "job, event", matchers=f'{{event=~"{grave}"}}'),
        "page",
        "{{ $labels.job }}: the log has the error {{ $labels.event }}",
    )
    yield Alert(
        "TallystickErrorLogged",
        raised("tallystick_errors_logged_total", "job, event", matchers=f'{{event!~"{known}"}}'),
        "ticket",
        "{{ $labels.job }}: the log has the error {{ $labels.event }}",
    )
    yield Alert(
        "TallystickRequestCrashed",
        raised("tallystick_requests_failed_total", "job, route"),
        "ticket",
        "{{ $labels.job }}: {{ $labels.route }} ended in an unexpected exception",
    )
    yield Alert(
        "TallystickAnswerUnlisted",
        raised("tallystick_answers_unlisted_total", "job, route, what"),
        "ticket",
        "{{ $labels.job }}: {{ $labels.route }} answered with {{ $labels.what }}, which its documentation does not list",
    )


def _facts() -> Iterator[Alert]:
    yield Alert(
        "TallystickBusHole",
        raised("tallystick_bus_holes_total", "job, source, consumer"),
        "page",
        "{{ $labels.job }}: facts of {{ $labels.source }} are missing on the bus, so {{ $labels.consumer }} has stopped before them",
    )
    yield Alert(
        "TallystickDeadLetter",
        raised("tallystick_bus_dead_letters_total", "job, source, consumer"),
        "ticket",
        "{{ $labels.job }}: {{ $labels.consumer }} could not process a fact of {{ $labels.source }}",
    )
    yield Alert(
        "TallystickRelayFails",
        "sum by (job) (increase(tallystick_outbox_relay_failures_total[5m])) > 3",
        "page",
        "{{ $labels.job }}: facts stay in the outbox, since the relay can't publish them",
        hold="5m",
    )
    yield Alert(
        "TallystickConsumerFails",
        "sum by (job, source, consumer) (increase(tallystick_bus_consumer_failures_total[5m])) > 3",
        "ticket",
        "{{ $labels.job }}: {{ $labels.consumer }} can't process the facts of {{ $labels.source }} at present",
        hold="10m",
    )
    yield Alert(
        "TallystickInterbookWaits",
        f"{current('min_over_time(tallystick_ledger_interbook_in_flight[15m])', 'ledger.interbook')} > 0",
        "ticket",
        "{{ $labels.job }}: transfers between books have been on their way for 15 minutes",
    )


def _work() -> Iterator[Alert]:
    runs = "sum by (job, schedule) (increase(tallystick_schedule_runs_total{{result={result}}}[15m])) > 0"
    failed, done = (runs.format(result=f'"{result}"') for result in ("failed", "done"))
    # Held for longer than the window: what failed while the platform started is not enough.
    calls = "sum by (job, target) (rate(tallystick_call_{what}[5m]))"
    failures, all_calls = (calls.format(what=what) for what in ("failures_total", "seconds_count"))
    yield Alert(
        "TallystickScheduleFails",
        f"({failed}) unless ({done})",
        "ticket",
        "{{ $labels.job }}: the schedule {{ $labels.schedule }} has failed and not succeeded for 15 minutes",
    )
    yield Alert(
        "TallystickRequestsShed",
        "sum by (job) (rate(tallystick_requests_shed_total[5m])) > 0",
        "ticket",
        "{{ $labels.job }}: {{ $value | humanize }} requests a second are refused since too many are in flight",
        hold="5m",
    )
    yield Alert(
        "TallystickCallsFail",
        f"{failures} / {all_calls} > 0.05",
        "ticket",
        "{{ $labels.job }}: {{ $value | humanizePercentage }} of the calls to {{ $labels.target }} brought no answer",
        hold="10m",
    )
    yield Alert(
        "TallystickValkeyAway",
        "sum by (job) (increase(tallystick_auth_replay_fallbacks_total[5m])) > 0"
        " or sum by (job) (increase(tallystick_rates_counted_locally_total[5m])) > 0"
        " or sum by (job) (increase(tallystick_risk_unmetered_total[5m])) > 0",
        "ticket",
        "{{ $labels.job }}: Valkey does not answer; proofs, rates or velocities are judged without it",
        hold="5m",
    )
    yield Alert(
        "TallystickKeysBehind",
        f"{current('tallystick_keys_values_behind', 'chassis.data-keys')} > 0",
        "ticket",
        "{{ $labels.job }}: {{ $value }} values have been under an older key for a day",
        hold="1d",
    )
    yield Alert(
        "TallystickSpansDropped",
        raised("tallystick_proxy_spans_dropped_total", "job"),
        "ticket",
        "{{ $labels.job }}: spans of the proxy were neither stored nor passed on",
    )


def _processes(charters: Mapping[str, Charter]) -> Iterator[tuple[Alert, dict[str, str]]]:
    jobs = "|".join((*charters, "envoy", "supervisor"))
    for job in charters:
        yield (
            Alert(
                "TallystickServiceAway",
                f'absent(up{{job="{job}"}} == 1)',
                "page",
                f"{job}: no process of it has been seen for a minute",
                hold="1m",
            ),
            {"job": job},
        )
    yield (
        Alert(
            "TallystickProcessDown",
            f'up{{job=~"{jobs}"}} == 0 or tallystick_process_up == 0',
            "page",
            "{{ $labels.job }} {{ with $labels.process }}{{ . }}{{ else }}{{ $labels.replica }}{{ end }}: not ready for two minutes",
            hold="2m",
        ),
        {},
    )
    yield (
        Alert(
            "TallystickProcessRestarts",
            "tallystick_process_restarts - min_over_time(tallystick_process_restarts[15m]) > 2",
            "ticket",
            "{{ $labels.process }}: restarted more than twice within 15 minutes",
        ),
        {},
    )


def document(charters: Mapping[str, Charter]) -> dict[str, Any]:
    """A Prometheus rule file: https://prometheus.io/docs/prometheus/latest/configuration/recording_rules/."""
    processes = [_rule(alert, labels) for alert, labels in _processes(charters)]
    groups = [
        {"name": f"tallystick-slo-{job}", "rules": list(_slo(job, charter.slo))} for job, charter in charters.items()
    ]
    groups.append({"name": "tallystick-processes", "rules": processes})
    groups += [
        {"name": f"tallystick-{name}", "rules": [_rule(alert, {}) for alert in alerts()]}
        for name, alerts in (("never", _never), ("facts", _facts), ("work", _work))
    ]
    return {"groups": groups}


def _slo(job: str, slo: Slo) -> Iterator[dict[str, Any]]:
    failed, late = partial(failed_ratio, job), partial(late_ratio, job, slo)
    yield from _burns(job, slo, "failed", failed, failed_budget(slo), "TallystickRequestsFail", "failed")
    told = f"took longer than {slo.p99_ms} ms"
    yield from _burns(job, slo, "late", late, LATE_BUDGET, "TallystickRequestsLate", told)


def _burns(  # noqa: PLR0917 - the parts of a promise
    job: str, slo: Slo, kind: str, ratio: Callable[[str], str], budget: Decimal, name: str, told: str
) -> Iterator[dict[str, Any]]:
    """The recording and alerting rules of one promise."""
    for window in WINDOWS:
        yield {"record": recorded(kind, window), "expr": ratio(window), "labels": {"job": job}}
    for burn in BURNS:
        limit = f"{burn.rate(slo):f} * {budget:f}"
        expr = " and ".join(f'{recorded(kind, window)}{{job="{job}"}} > {limit}' for window in (burn.long, burn.short))
        summary = (
            f"{job}: {{{{ $value | humanizePercentage }}}} of the requests of the last {burn.long} {told};"
            f" {(100 * budget).normalize():f} % may, over {slo.window_days} days"
        )
        yield _rule(Alert(name, expr, burn.severity, summary), {"job": job, "window": burn.long})


def recorded(kind: str, window: str) -> str:
    """The name of a recorded ratio, by Prometheus' convention: level, metric, operation."""
    return f"job:tallystick_requests_{kind}:ratio_rate{window}"


def _rule(alert: Alert, labels: Mapping[str, str]) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": alert.name, "expr": alert.expr}
    if alert.hold != "0s":
        rule["for"] = alert.hold
    rule["labels"] = {**labels, "severity": alert.severity}
    rule["annotations"] = {"summary": alert.summary, "runbook_url": f"{RUNBOOK}#{alert.name.lower()}"}
    return rule


def _literal(event: str) -> str:
    """An event in a regular expression of Prometheus, inside a quoted string."""
    return event.replace(".", "[.]")


def yaml(rules: Mapping[str, Any]) -> str:
    """The document as YAML. Strings are in single quotes, in which only that quote itself is special."""
    lines = ["groups:"]
    for group in rules["groups"]:
        lines += [f"  - name: {group['name']}", "    rules:"]
        for rule in group["rules"]:
            lead = "      - "
            for key, value in rule.items():
                if isinstance(value, Mapping):
                    lines += [f"{lead}{key}:", *(f"          {name}: {_quoted(text)}" for name, text in value.items())]
                else:
                    lines.append(f"{lead}{key}: {_quoted(value)}")
                lead = "        "
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
