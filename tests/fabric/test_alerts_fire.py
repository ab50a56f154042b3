"""Each alert fires when it should and not while all is well, as Prometheus' own `promtool` evaluates the rules.

Skipped where `promtool` is not installed (Debian: the package `prometheus`). What can be known without it is in `test_monitoring.py`.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tallystick.chassis.charter import load_all
from tallystick.fabric import alerts, render

PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")

RULES = alerts.document(load_all())
NAMES = sorted({rule["alert"] for group in RULES["groups"] for rule in group["rules"] if "alert" in rule})
JOBS = sorted(load_all())
COUNT, BUCKET = "tallystick_request_seconds_count", "tallystick_request_seconds_bucket"


def answered(job: str, status: str, count: str, within: str | None = None, le: str = "0.1") -> dict[str, str]:
    """The series of a route's answers with one status: how many, and how many within the bound `le`."""
    labels = f'job="{job}",replica="0",route="POST /v1/x",status="{status}"'
    return {f"{COUNT}{{{labels}}}": count, f'{BUCKET}{{{labels},le="{le}"}}': within or count}


def constant(metric: str, labels: str, value: int = 0) -> dict[str, str]:
    return {f'{metric}{{{labels},replica="0"}}': f"{value}+0x200"}


#: A platform on which all is well for two hours: 100 requests a minute, counters at rest, work being done.
WELL: dict[str, str] = {
    **{key: values for job in JOBS for key, values in constant("up", f'job="{job}"', 1).items()},
    **constant("up", 'job="supervisor"', 1),
    **constant("tallystick_process_up", 'job="supervisor",process="ledger-0"', 1),
    **constant("tallystick_process_restarts", 'job="supervisor",process="ledger-0"', 4),
    **answered("ledger", "201", "0+100x200"),
    **answered("ledger", "409", "0+20x200"),
    **constant("tallystick_ledger_books_quarantined", 'job="ledger"'),
    **constant("tallystick_ledger_check_faults_total", 'job="ledger"', 3),
    'tallystick_ledger_check_rounds_total{job="ledger",replica="0"}': "0+1x200",
    **constant("tallystick_ledger_interbook_in_flight", 'job="ledger"'),
    **constant("tallystick_errors_logged_total", 'job="ledger",event="audit.rewritten"', 1),
    **constant("tallystick_errors_logged_total", 'job="ledger",event="library.log"', 1),
    **constant("tallystick_requests_failed_total", 'job="ledger",route="POST /v1/x"', 1),
    **constant("tallystick_answers_unlisted_total", 'job="ledger",route="POST /v1/x",what="418"', 1),
    **constant("tallystick_bus_holes_total", 'job="risk",source="payments",consumer="main"'),
    **constant("tallystick_bus_dead_letters_total", 'job="risk",source="payments",consumer="main"', 2),
    **constant("tallystick_bus_consumer_failures_total", 'job="risk",source="payments",consumer="main"', 9),
    **constant("tallystick_outbox_relay_failures_total", 'job="ledger"', 9),
    **constant("tallystick_requests_shed_total", 'job="ledger"', 9),
    'tallystick_schedule_runs_total{job="ledger",schedule="tick",result="done",replica="0"}': "0+60x200",
    'tallystick_schedule_runs_total{job="ledger",schedule="tick",result="failed",replica="0"}': "0+1x200",
    **{
        f'tallystick_schedule_runs_total{{job="{job}",schedule="{schedule}",result="done",replica="0"}}': "0+6x200"
        for job, schedule in (
            ("ledger", "ledger.check"),
            ("ledger", "ledger.interbook"),
            ("vault", "chassis.data-keys"),
        )
    },
    'tallystick_call_seconds_count{job="payments",target="risk",replica="0"}': "0+100x200",
    'tallystick_call_failures_total{job="payments",target="risk",replica="0"}': "0+1x200",
    **constant("tallystick_auth_replay_fallbacks_total", 'job="ledger"', 5),
    **constant("tallystick_rates_counted_locally_total", 'job="ledger"', 5),
    **constant("tallystick_risk_unmetered_total", 'job="risk"', 5),
    **constant("tallystick_keys_values_behind", 'job="vault"'),
    **constant("tallystick_proxy_spans_dropped_total", 'job="supervisor"'),
}


@dataclass(frozen=True, slots=True)
class Case:
    """What is different from a platform on which all is well, and the alert that then fires at `at`."""

    alert: str
    differs: dict[str, str]
    labels: str
    """Some of the labels of the alert that fires, as PromQL matchers."""
    at: str = "110m"


def of(metric: str, labels: str, values: str) -> dict[str, str]:
    return {f'{metric}{{{labels},replica="0"}}': values}


#: 0 until the 105th minute, then 1: the alert is still there at the 110th.
ONCE = "0+0x104 1+0x95"
#: Not there until the 105th minute, then 1 at once.
NEW = "_x105 1+0x95"
BUS = 'job="risk",source="payments",consumer="main"'

CASES = (
    # 1.4 % of the requests fail, of which 0.05 % may: a burn rate of 28.
    Case("TallystickRequestsFail", answered("ledger", "503", "0+1.4x200"), 'job="ledger",window="1h",severity="page"'),
    # 0.4 %: a burn rate of 8, above 5.6, below 13.44.
    Case("TallystickRequestsFail", answered("ledger", "500", "0+0.5x200"), 'job="ledger",window="6h",severity="page"'),
    # Everything fails, and has never failed before.
    Case("TallystickRequestsFail", answered("vault", "503", "0+9x200"), 'job="vault",window="1h"'),
    # 20 % take longer than 100 ms, of which 1 % may.
    Case("TallystickRequestsLate", answered("ledger", "201", "0+100x200", "0+80x200"), 'job="ledger",window="1h"'),
    # 8 %: above 5.6 %, below 13.44 %.
    Case("TallystickRequestsLate", answered("ledger", "201", "0+100x200", "0+90x200"), 'job="ledger",window="6h"'),
    Case("TallystickServiceAway", of("up", 'job="vault"', "1+0x100 0+0x99"), 'job="vault",severity="page"'),
    Case("TallystickServiceAway", of("up", 'job="vault"', "1+0x100"), 'job="vault",severity="page"', at="120m"),
    Case("TallystickProcessDown", of("up", 'job="vault"', "1+0x100 0+0x99"), 'job="vault",severity="page"'),
    Case(
        "TallystickProcessDown",
        of("tallystick_process_up", 'job="supervisor",process="ledger-0"', "1+0x100 0+0x99"),
        'process="ledger-0"',
    ),
    Case(
        "TallystickProcessRestarts",
        of("tallystick_process_restarts", 'job="supervisor",process="ledger-0"', "4+0x100 5 6 7 7+0x90"),
        'process="ledger-0",severity="ticket"',
    ),
    Case(
        "TallystickBookQuarantined", of("tallystick_ledger_books_quarantined", 'job="ledger"', ONCE), 'severity="page"'
    ),
    Case(
        "TallystickCheckFoundFaults",
        of("tallystick_ledger_check_faults_total", 'job="ledger"', ONCE),
        'severity="page"',
    ),
    Case(
        "TallystickCheckStandsStill",
        of("tallystick_ledger_check_rounds_total", 'job="ledger"', "0+1x80 80+0x119"),
        'job="ledger"',
    ),
    Case(
        "TallystickGraveError",
        of("tallystick_errors_logged_total", 'job="audit",event="audit.rolled_back"', NEW),
        'event="audit.rolled_back",severity="page"',
    ),
    Case(
        "TallystickErrorLogged",
        of("tallystick_errors_logged_total", 'job="notify",event="webhook.secret_unreadable"', NEW),
        'event="webhook.secret_unreadable",severity="ticket"',
    ),
    Case(
        "TallystickRequestCrashed",
        of("tallystick_requests_failed_total", 'job="ledger",route="GET /v1/x"', NEW),
        'route="GET /v1/x"',
    ),
    Case(
        "TallystickRequestCrashed",
        of("tallystick_requests_failed_total", 'job="ledger",route="POST /v1/x"', "1+0x104 2+0x95"),
        'route="POST /v1/x"',
    ),
    Case(
        "TallystickAnswerUnlisted",
        of("tallystick_answers_unlisted_total", 'job="ledger",route="GET /v1/x",what="not-found"', NEW),
        'what="not-found"',
    ),
    Case("TallystickBusHole", of("tallystick_bus_holes_total", BUS, ONCE), 'source="payments",severity="page"'),
    Case(
        "TallystickDeadLetter", of("tallystick_bus_dead_letters_total", BUS, ONCE), 'consumer="main",severity="ticket"'
    ),
    Case(
        "TallystickRelayFails",
        of("tallystick_outbox_relay_failures_total", 'job="ledger"', "0+0x90 0+12x109"),
        'job="ledger"',
    ),
    Case(
        "TallystickConsumerFails",
        of("tallystick_bus_consumer_failures_total", BUS, "0+0x80 0+6x119"),
        'source="payments"',
    ),
    Case(
        "TallystickInterbookWaits",
        of("tallystick_ledger_interbook_in_flight", 'job="ledger"', "0+0x80 2+0x119"),
        'job="ledger"',
    ),
    Case(
        "TallystickScheduleFails",
        {
            **of("tallystick_schedule_runs_total", 'job="ledger",schedule="tick",result="done"', "0+1x80 80+0x119"),
            **of("tallystick_schedule_runs_total", 'job="ledger",schedule="tick",result="failed"', "0+1x200"),
        },
        'schedule="tick"',
    ),
    Case(
        "TallystickRequestsShed", of("tallystick_requests_shed_total", 'job="ledger"', "0+0x90 0+5x109"), 'job="ledger"'
    ),
    Case(
        "TallystickCallsFail",
        of("tallystick_call_failures_total", 'job="payments",target="risk"', "0+10x200"),
        'target="risk"',
    ),
    Case(
        "TallystickValkeyAway",
        of("tallystick_rates_counted_locally_total", 'job="ledger"', "0+0x90 0+5x109"),
        'job="ledger"',
    ),
    Case(
        "TallystickValkeyAway",
        of("tallystick_auth_replay_fallbacks_total", 'job="ledger"', "0+0x90 0+5x109"),
        'job="ledger"',
    ),
    Case("TallystickValkeyAway", of("tallystick_risk_unmetered_total", 'job="risk"', "0+0x90 0+5x109"), 'job="risk"'),
    Case(
        "TallystickSpansDropped",
        of("tallystick_proxy_spans_dropped_total", 'job="supervisor"', ONCE),
        'job="supervisor"',
    ),
)

#: What has to go on for more than hours: (alert, series, labels, time between samples, when it does not fire yet, when it does).
LONG = (
    (
        "TallystickRequestsFail",
        {**answered("ledger", "200", "0+1000x120"), **answered("ledger", "500", "0+0x20 0+2x99")},
        'window="3d"',
        "1h",
        "20h",
        "90h",
    ),
    (
        "TallystickKeysBehind",
        {
            **of("tallystick_keys_values_behind", 'job="vault"', "0+0x120 7+0x480"),
            **of(
                "tallystick_schedule_runs_total", 'job="vault",schedule="chassis.data-keys",result="done"', "0+30x600"
            ),
        },
        'job="vault"',
        "5m",
        "30h",
        "40h",
    ),
)

#: Gauges that only the leading replica sets. (Keys have to be behind for a day.)
LED = ("tallystick_ledger_books_quarantined", "tallystick_ledger_interbook_in_flight")

#: What is no failure, whatever there is of it.
HARMLESS = (
    answered("ledger", "404", "0+900x200"),
    answered("ledger", "422", "0+900x200"),
    # Refused at the door, or sent slowly: counted neither as good nor as late.
    {
        key: values
        for status in ("401", "403", "408", "429")
        for key, values in answered("ledger", status, "0+900x200", "0+0x200").items()
    },
    # A path that no row of the endpoint table has.
    {f'{COUNT}{{job="ledger",replica="0",route="(none)",status="500"}}': "0+900x200"},
    # A restart: the counters begin again.
    answered("ledger", "201", "0+100x60 0+100x139"),
    of("tallystick_bus_dead_letters_total", BUS, "2+0x104 0+0x95"),
    # A replica that has lost the lead keeps what it knew last.
    {f'{gauge}{{job="ledger",replica="1"}}': "1+0x200" for gauge in LED},
    # Few calls, half of which failed for three minutes.
    of("tallystick_call_seconds_count", 'job="payments",target="risk"', "0+0x98 0+2x3 6+0x97")
    | of("tallystick_call_failures_total", 'job="payments",target="risk"', "0+0x98 0+1x3 3+0x97"),
    of("tallystick_process_restarts", 'job="supervisor",process="ledger-0"', "4+0x104 0+0x95"),
)


def evaluate(
    tmp_path: Path, series: dict[str, str], checks: list[tuple[str, str, bool]], step: str = "1m", every: str = "5m"
) -> None:
    """Let promtool check that, at each (time, PromQL), the expression has a result, or none. Samples are a `step` apart; the rules are
    evaluated `every` so often.
    """
    (tmp_path / "rules.yml").write_text(render.files("alerts")["tallystick.rules.yml"], encoding="utf-8")
    test: dict[str, Any] = {
        "interval": step,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": f"count({expr})", "eval_time": at, "exp_samples": [{"value": 1, "labels": "{}"}] if there else []}
            for at, expr, there in checks
        ],
    }
    document = {"rule_files": ["rules.yml"], "evaluation_interval": every, "tests": [test]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def firing(alert: str, labels: str = "") -> str:
    return f'ALERTS{{alertname="{alert}",alertstate="firing"{"," if labels else ""}{labels}}}'


def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(render.files("alerts")["tallystick.rules.yml"], encoding="utf-8")
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "check", "rules", "--lint=all", "--lint-fatal", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    assert sorted({case.alert for case in CASES} | {alert for alert, *_ in LONG}) == NAMES


def test_none_fires_while_all_is_well(tmp_path: Path) -> None:
    times = ("30m", "70m", "110m")
    evaluate(tmp_path, WELL, [(at, firing(alert), False) for at in times for alert in NAMES])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_fires(tmp_path: Path, case: Case) -> None:
    evaluate(tmp_path, WELL | case.differs, [(case.at, firing(case.alert, case.labels), True)])


def test_a_slow_burn_is_no_fast_one(tmp_path: Path) -> None:
    series = WELL | answered("ledger", "500", "0+0.5x200")
    evaluate(tmp_path, series, [("110m", firing("TallystickRequestsFail", 'window="1h"'), False)])
    series = WELL | answered("ledger", "201", "0+100x200", "0+90x200")
    evaluate(tmp_path, series, [("110m", firing("TallystickRequestsLate", 'window="1h"'), False)])


def test_without_a_failure_there_is_a_ratio_of_none(tmp_path: Path) -> None:
    ratio = 'job:tallystick_requests_failed:ratio_rate5m{job="ledger"}'
    evaluate(tmp_path, WELL, [("110m", f"{ratio} == 0", True)])


def test_fast_failures_do_not_make_up_for_what_is_late(tmp_path: Path) -> None:
    series = WELL | answered("ledger", "201", "0+100x200", "0+80x200") | answered("ledger", "503", "0+50x200")
    evaluate(tmp_path, series, [("110m", firing("TallystickRequestsLate", 'window="1h"'), True)])


def test_what_fails_is_not_late_as_well(tmp_path: Path) -> None:
    series = WELL | answered("ledger", "503", "0+50x200", "0+0x200")
    late, failed = firing("TallystickRequestsLate"), firing("TallystickRequestsFail", 'window="1h"')
    evaluate(tmp_path, series, [("110m", late, False), ("110m", failed, True)])


def test_an_alert_ends_soon_after_the_failures_do(tmp_path: Path) -> None:
    series = WELL | answered("ledger", "503", "0+0x60 0+20x30 600+0x109")
    fast = firing("TallystickRequestsFail", 'window="1h",job="ledger"')
    evaluate(tmp_path, series, [("90m", fast, True), ("100m", fast, False)])


@pytest.mark.parametrize("differs", HARMLESS, ids=range(len(HARMLESS)))
def test_what_is_no_failure_makes_no_alert(tmp_path: Path, differs: dict[str, str]) -> None:
    evaluate(tmp_path, WELL | differs, [("110m", firing(alert), False) for alert in NAMES])


@pytest.mark.parametrize(
    ("alert", "series", "labels", "step", "not_yet", "then"), LONG, ids=[alert for alert, *_ in LONG]
)
def test_what_goes_on_for_days_fires(  # noqa: PLR0917 - a case
    tmp_path: Path, alert: str, series: dict[str, str], labels: str, step: str, not_yet: str, then: str
) -> None:
    one = firing(alert, labels)
    evaluate(tmp_path, series, [(not_yet, one, False), (then, one, True)], step=step, every="1h")
