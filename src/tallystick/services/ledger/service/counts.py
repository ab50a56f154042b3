"""Metrics of flushes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tallystick.chassis import telemetry
from tallystick.services.ledger.model import Result

_TRANSFERS = telemetry.counter("ledger_transfers", "Transfers by what became of them", ["kind", "status"])
_FLUSHED = telemetry.histogram(
    "ledger_flush_transfers", "Transfers decided in one transaction", buckets=telemetry.SIZES
)


def counted(results: Sequence[Sequence[Result]]) -> None:
    """Counts the results of a flush, given by unit and command."""
    if not results:
        return
    _FLUSHED.observe(sum(map(len, results)))
    many: Counter[tuple[str, str]] = Counter(
        (
            "none" if result.transfer is None else result.transfer.kind,
            "existed" if result.existed else result.status,
        )
        for unit in results
        for result in unit
    )
    for labels, count in many.items():
        _TRANSFERS.labels(*labels).inc(count)
