"""Metrics in Prometheus's text format, with one registry per process.

On hot paths bind labels once (`histogram(...).labels("x")`), because looking up a label costs more than counting. Label values must be
names from our own tables, never something that a client sent, or the registry would grow without bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "tallystick_"

#: Buckets in seconds, from an answer out of memory to the longest time budget.
DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Buckets for the number of items in a batch.
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)

M = TypeVar("M", bound=MetricWrapperBase)

registry = CollectorRegistry(auto_describe=True)
_made: dict[str, MetricWrapperBase] = {}


def counter(name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
    """A count that only rises. The same name returns the same counter. `tallystick_` and `_total` are added to the name."""
    return _once(Counter, name, lambda: Counter(_full(name), help_text, labels, registry=registry))


def gauge(name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge:
    """A value that goes up and down; with `.set_function(f)` it is computed only when it is scraped."""
    return _once(Gauge, name, lambda: Gauge(_full(name), help_text, labels, registry=registry))


def histogram(name: str, help_text: str, labels: Sequence[str] = (), buckets: Sequence[float] = DURATIONS) -> Histogram:
    """A distribution; durations in seconds (`_seconds`), sizes in items."""
    return _once(Histogram, name, lambda: Histogram(_full(name), help_text, labels, registry=registry, buckets=buckets))


def exposition() -> bytes:
    """All metrics of this process, as `GET /metrics` answers them."""
    return generate_latest(registry)


def _full(name: str) -> str:
    return name if name.startswith(PREFIX) else PREFIX + name


def _once(kind: type[M], name: str, make: Callable[[], M]) -> M:
    found = _made.get(name)
    if found is None:
        found = _made[name] = make()
    if not isinstance(found, kind):
        msg = f"metric {name} is a {type(found).__name__} already"
        raise TypeError(msg)
    return found
