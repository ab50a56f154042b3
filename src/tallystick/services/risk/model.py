"""Decides whether a payment may go ahead, from rules, lists and windows. Pure.

A rule adds its points if its measure is over its limit; at `DENY_AT` points the payment is denied. A deny list denies and an allow list allows
whatever the points, and deny beats allow. Each reason is the name of a rule or list, so that a refusal can be explained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final, Literal

import msgspec

from tallystick.kernel import ids
from tallystick.kernel.ids import DecisionId, InvalidId
from tallystick.kernel.money import Money, minor_per_euro

DENY_AT: Final = 100

Kind = Literal["card", "account", "client"]
Measure = Literal["amount", "count", "sum", "declines"]
Outcome = Literal["allow", "deny"]

#: The windows that are counted, by name. Widest last.
WINDOWS: Final[Mapping[str, timedelta]] = {
    "1m": timedelta(minutes=1),
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
}


class Rule(msgspec.Struct, frozen=True):
    """If `measure` of `kind` over `window` is more than `limit`, the rule adds `points`.

    `amount` is that of the payment alone (no kind, no window). `sum` and `amount` are in euro, or about as much in another currency
    (`kernel.money.minor_per_euro`). `count` counts attempted payments, `declines` refusals by issuers.
    """

    name: str
    measure: Measure
    limit: int
    points: int
    kind: Kind | None = None
    window: str | None = None


#: The rules, the same for every tenant. Their names are stable: callers see them as reasons.
DEFAULT_RULES: Final[tuple[Rule, ...]] = (
    Rule("amount-over-10000", "amount", 10_000, 100),
    Rule("amount-over-5000", "amount", 5_000, 40),
    Rule("card-count-1m", "count", 10, 60, "card", "1m"),
    Rule("card-count-1h", "count", 60, 60, "card", "1h"),
    Rule("card-count-24h", "count", 300, 100, "card", "24h"),
    Rule("card-sum-1h", "sum", 10_000, 60, "card", "1h"),
    Rule("card-sum-24h", "sum", 25_000, 100, "card", "24h"),
    Rule("card-declines-1h", "declines", 5, 60, "card", "1h"),
    Rule("card-declines-24h", "declines", 15, 100, "card", "24h"),
    Rule("account-count-1m", "count", 10_000, 60, "account", "1m"),
    Rule("account-sum-24h", "sum", 100_000_000, 60, "account", "24h"),
    Rule("client-count-1m", "count", 1_000_000, 100, "client", "1m"),
)

#: The reason given if the counters could not be read. Only amount and lists then decide.
VELOCITY_UNKNOWN: Final = "velocity-unknown"
#: Without counters, payments of more than this are denied. In euro, like the rules' limits.
UNMETERED_LIMIT: Final = 500

#: Sums stop here (see `store`). In currencies with very small units a limit may be above this; it then counts as passed here.
MAX_SUM: Final = 2**53


class Window(msgspec.Struct, frozen=True):
    """The counters of one window, this payment included. `sum` is in minor units of the payment's currency."""

    count: int = 0
    sum: int = 0
    declines: int = 0


class Features(msgspec.Struct, frozen=True):
    """All that a decision depends on. `windows` is None if the counters could not be read."""

    amount: Money
    windows: Mapping[tuple[Kind, str], Window] | None
    listed: Sequence[tuple[Outcome, Kind]] = ()


class Verdict(msgspec.Struct, frozen=True):
    decision: Outcome
    score: int
    reasons: tuple[str, ...]


class Decided(msgspec.Struct, frozen=True):
    """A stored decision. It never changes, however often it is asked for."""

    id: DecisionId
    tenant: str
    payment: str
    amount: Money
    verdict: Verdict


def decide(features: Features, rules: Iterable[Rule] = DEFAULT_RULES) -> Verdict:
    """The verdict on one payment. Total: every input gives one."""
    denied = [f"deny-list-{kind}" for outcome, kind in features.listed if outcome == "deny"]
    if denied:
        return Verdict("deny", DENY_AT, tuple(denied))
    allowed = [f"allow-list-{kind}" for outcome, kind in features.listed if outcome == "allow"]
    if allowed:
        return Verdict("allow", 0, tuple(allowed))
    score = 0
    reasons: list[str] = []
    euro = minor_per_euro(features.amount.currency)
    for rule in rules:
        if _measure(rule, features) > _limit(rule, euro):
            score += rule.points
            reasons.append(rule.name)
    if features.windows is None:
        reasons.append(VELOCITY_UNKNOWN)
        if features.amount.minor > UNMETERED_LIMIT * euro:
            score = max(score, DENY_AT)
    return Verdict("deny" if score >= DENY_AT else "allow", score, tuple(reasons))


def _limit(rule: Rule, euro: int) -> int:
    if rule.measure == "amount":
        return rule.limit * euro
    return min(rule.limit * euro, MAX_SUM - 1) if rule.measure == "sum" else rule.limit


def _measure(rule: Rule, features: Features) -> int:
    if rule.measure == "amount":
        return features.amount.minor
    if features.windows is None or rule.kind is None or rule.window is None:
        return 0
    window = features.windows.get((rule.kind, rule.window))
    if window is None:
        return 0
    if rule.measure == "count":
        return window.count
    return window.sum if rule.measure == "sum" else window.declines


_FINGERPRINT: Final = re.compile(r"fp_[0-9a-hjkmnp-tv-z]{26}")


def listable(kind: Kind, value: str) -> bool:
    """Whether `value` identifies something of that kind. A card is identified by its fingerprint: card numbers must not get into a list."""
    if kind == "card":
        return _FINGERPRINT.fullmatch(value) is not None
    try:
        (ids.accounts if kind == "account" else ids.clients).parse(value)
    except InvalidId:
        return False
    return True


def sliding(current: int, previous: int, elapsed: float) -> int:
    """The count of a sliding window, estimated from two fixed ones: the current, and the share of the previous one that is still in the window.

    `elapsed` is the part of the current fixed window that has passed, 0 to 1. The previous window's events are taken to be spread evenly; the
    error is at most the previous window's count.
    """
    return current + int(previous * (1.0 - min(max(elapsed, 0.0), 1.0)))
