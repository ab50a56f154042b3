"""The rules of risk: what is denied, what is allowed, and that every point has a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.currencies import EXPONENTS
from tallystick.kernel.money import Money, minor_per_euro
from tallystick.services.risk.model import (
    DEFAULT_RULES,
    DENY_AT,
    MAX_SUM,
    UNMETERED_LIMIT,
    VELOCITY_UNKNOWN,
    Features,
    Kind,
    Outcome,
    Window,
    decide,
    sliding,
)

NAMES = {rule.name for rule in DEFAULT_RULES}
kinds: st.SearchStrategy[Kind] = st.sampled_from(["card", "account", "client"])
outcomes: st.SearchStrategy[Outcome] = st.sampled_from(["allow", "deny"])
windows = st.builds(Window, count=st.integers(0, 10**7), sum=st.integers(0, 10**12), declines=st.integers(0, 1000))
features = st.builds(
    Features,
    amount=st.builds(Money, st.integers(1, 10**9), st.sampled_from(["EUR", "JPY", "BHD"])),
    windows=st.none() | st.dictionaries(st.tuples(kinds, st.sampled_from(["1m", "1h", "24h"])), windows),
    listed=st.lists(st.tuples(outcomes, kinds), max_size=3),
)


@given(features)
def test_every_verdict_is_explained_and_agrees_with_its_score(given_: Features) -> None:
    verdict = decide(given_)
    assert (verdict.decision == "deny") == (verdict.score >= DENY_AT)
    assert bool(verdict.reasons) or verdict.score == 0
    assert all(r in NAMES or r == VELOCITY_UNKNOWN or "-list-" in r for r in verdict.reasons)


@given(features)
def test_lists_beat_rules_and_deny_beats_allow(given_: Features) -> None:
    outcomes_ = {outcome for outcome, _ in given_.listed}
    verdict = decide(given_)
    if "deny" in outcomes_:
        assert verdict.decision == "deny"
    elif "allow" in outcomes_:
        assert verdict.decision == "allow"


@given(features, st.integers(0, 1000))
def test_more_of_anything_never_turns_a_deny_into_an_allow(given_: Features, more: int) -> None:
    if given_.windows is None:
        return
    worse = Features(
        Money(given_.amount.minor + more, given_.amount.currency),
        {k: Window(w.count + more, w.sum + more, w.declines + more) for k, w in given_.windows.items()},
        given_.listed,
    )
    assert decide(worse).score >= decide(given_).score


@pytest.mark.parametrize("code", sorted(EXPONENTS))
def test_limits_are_worth_about_the_same_in_each_currency(code: str) -> None:
    euro = minor_per_euro(code)
    amounts, sums = ([rule for rule in DEFAULT_RULES if rule.measure == each] for each in ("amount", "sum"))
    for rule in amounts:
        assert decide(Features(Money(rule.limit * euro, code), {}), [rule]).reasons == ()
        assert decide(Features(Money(rule.limit * euro + 1, code), {}), [rule]).reasons == (rule.name,)
    for rule in sums:
        assert rule.kind is not None
        assert rule.window is not None
        limit = min(rule.limit * euro, MAX_SUM - 1)
        assert limit >= rule.limit * euro / 2, "counted far enough to mean it"
        for total, reasons in ((limit, ()), (limit + 1, (rule.name,))):
            windows = {(rule.kind, rule.window): Window(count=1, sum=total)}
            assert decide(Features(Money(1, code), windows), [rule]).reasons == reasons


@pytest.mark.parametrize("code", sorted(EXPONENTS))
def test_without_counters_small_payments_go_on_and_large_ones_do_not(code: str) -> None:
    limit = UNMETERED_LIMIT * minor_per_euro(code)
    small, large = (decide(Features(Money(minor, code), None)) for minor in (limit, limit + 1))
    assert (small.decision, small.reasons) == ("allow", (VELOCITY_UNKNOWN,))
    assert (large.decision, large.reasons) == ("deny", (VELOCITY_UNKNOWN,))


def test_what_is_large_in_one_currency_is_so_in_another() -> None:
    for minor, code, expected in [
        (1_000_100, "EUR", "deny"), (10_001, "JPY", "allow"), (10_001, "KRW", "allow"), (1_000_100, "IDR", "allow"),
        (1_000_100, "HUF", "allow"), (9_999_999, "KWD", "deny"), (2_500_000, "JPY", "deny"),
    ]:  # fmt: skip
        assert decide(Features(Money(minor, code), {})).decision == expected, (minor, code)
    for minor, code, expected in [(501, "JPY", "allow"), (500_000, "KWD", "deny")]:
        assert decide(Features(Money(minor, code), None)).decision == expected, (minor, code)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0, 1))
def test_a_sliding_count_lies_between_its_two_windows(current: int, previous: int, elapsed: float) -> None:
    assert current <= sliding(current, previous, elapsed) <= current + previous
