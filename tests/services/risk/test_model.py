"""The rules of risk: what is denied, what is allowed, and that every point has a name."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.money import Money
from tallystick.services.risk.model import (
    DEFAULT_RULES,
    DENY_AT,
    UNMETERED_LIMIT,
    VELOCITY_UNKNOWN,
    Features,
    Kind,
    Outcome,
    Rule,
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


def test_limits_are_in_whole_units_of_each_currency() -> None:
    rules = (Rule("over-100", "amount", 100, 100),)
    for minor, code, expected in [
        (10_000, "EUR", "allow"), (10_001, "EUR", "deny"), (100, "JPY", "allow"), (101, "JPY", "deny"),
        (100_000, "BHD", "allow"), (100_001, "BHD", "deny"),
    ]:  # fmt: skip
        assert decide(Features(Money(minor, code), {}), rules).decision == expected


def test_without_counters_small_payments_go_on_and_large_ones_do_not() -> None:
    small = decide(Features(Money(UNMETERED_LIMIT * 100, "EUR"), None))
    large = decide(Features(Money(UNMETERED_LIMIT * 100 + 1, "EUR"), None))
    assert (small.decision, small.reasons) == ("allow", (VELOCITY_UNKNOWN,))
    assert (large.decision, large.reasons) == ("deny", (VELOCITY_UNKNOWN,))


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0, 1))
def test_a_sliding_count_lies_between_its_two_windows(current: int, previous: int, elapsed: float) -> None:
    assert current <= sliding(current, previous, elapsed) <= current + previous
