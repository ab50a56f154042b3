"""What a service's promises (`[slo]` of its charter) are measured by, as PromQL: docs/adr/0044 has the reasons.

Measured is what the service itself answers. Its health, metrics and OpenAPI document are not counted in `tallystick_request_seconds`.
Below, `job` is the Prometheus label with the name of the deployment: `ledger`, or `ledger-eu` for a further shard.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from tallystick.chassis.charter import Slo

REQUESTS: Final = "tallystick_request_seconds"

#: Answers that are counted neither as good nor as bad. 401, 403 and 429 are refusals before any work, of which a stranger can cause any
#: number, and so dilute every ratio; 408 means that the client was slow.
UNCOUNTED: Final = "401|403|408|429"
FAILED: Final = "5.."

#: The share of requests that may be later than `p99_ms`.
LATE_BUDGET: Final = Decimal("0.01")


def failed_budget(slo: Slo) -> Decimal:
    """The share of requests that may fail: 0.0005 for 99.95 %."""
    return (100 - Decimal(str(slo.availability_percent))) / 100


def counted(job: str, more: str = "") -> str:
    """The label matchers of the requests that count. Those to no row of the endpoint table, `(none)`, are nobody's promise."""
    return f'{{job="{job}",route!="(none)",status!~"{UNCOUNTED}"{more}}}'


def failed_ratio(job: str, window: str) -> str:
    """The share of the counted requests that failed. NaN while there are none."""
    everything = _rate(f"{REQUESTS}_count", counted(job), window)
    failed = _rate(f"{REQUESTS}_count", counted(job, f',status=~"{FAILED}"'), window)
    # As long as nothing has failed there is no series of failures.
    return f"({failed} or 0 * {everything}) / {everything}"


def late_ratio(job: str, slo: Slo, window: str) -> str:
    """The share of the counted requests that were later than `p99_ms`, of those that did not fail. NaN while there are none."""
    bound = slo.p99_ms / 1000  # written like Python writes a float: "1.0", as the exposition does
    within = _rate(f"{REQUESTS}_bucket", succeeded(job, f',le="{bound}"'), window)
    return f"1 - {within} / {_rate(f'{REQUESTS}_count', succeeded(job), window)}"


def succeeded(job: str, more: str = "") -> str:
    """The label matchers of the counted requests that did not fail. A failure is often fast, and is counted already."""
    return counted(job, f',status!~"{FAILED}"{more}')


def _rate(metric: str, matchers: str, window: str) -> str:
    return f"sum(rate({metric}{matchers}[{window}]))"
