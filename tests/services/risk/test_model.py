"""The rules of risk: what is denied, what is allowed, and that every point has a name."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel import ids
from tallystick.kernel.currencies import EXPONENTS
from tallystick.kernel.money import Money, minor_per_euro
from tallystick.services.risk.model import (
    DEFAULT_RULES,
    DENY_AT,
    MAX_SUM,
    UNMETERED_LIMIT,
    VELOCITY_UNKNOWN,
    WINDOWS,
    Features,
    Kind,
    Outcome,
    Rule,
    Verdict,
    Window,
    decide,
    listable,
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


def test_a_sliding_count_has_the_share_of_the_window_before_that_is_still_in_it() -> None:
    for current, previous, elapsed, expected in [
        (3, 10, 0.0, 13), (3, 10, 0.25, 10), (3, 10, 0.5, 8), (3, 10, 1.0, 3), (0, 7, 0.5, 3), (5, 0, 0.5, 5),
        # A clock that goes back, or a window that is not over when it should be.
        (3, 10, -0.5, 13), (3, 10, 1.5, 3),
    ]:  # fmt: skip
        assert sliding(current, previous, elapsed) == expected, (current, previous, elapsed)


#: What each rule looks at, how much of it is still all right (in euro where it is money), and how many points more than that are.
RULES: dict[str, tuple[Kind | None, str | None, str, int, int]] = {
    "amount-over-10000": (None, None, "amount", 10_000, 100),
    "amount-over-5000": (None, None, "amount", 5_000, 40),
    "card-count-1m": ("card", "1m", "count", 10, 60),
    "card-count-1h": ("card", "1h", "count", 60, 60),
    "card-count-24h": ("card", "24h", "count", 300, 100),
    "card-sum-1h": ("card", "1h", "sum", 10_000, 60),
    "card-sum-24h": ("card", "24h", "sum", 25_000, 100),
    "card-declines-1h": ("card", "1h", "declines", 5, 60),
    "card-declines-24h": ("card", "24h", "declines", 15, 100),
    "account-count-1m": ("account", "1m", "count", 10_000, 60),
    "account-sum-24h": ("account", "24h", "sum", 100_000_000, 60),
    "client-count-1m": ("client", "1m", "count", 1_000_000, 100),
}


@pytest.mark.parametrize("name", RULES)
def test_each_rule_speaks_above_its_limit_and_not_at_it(name: str) -> None:
    kind, window, measure, limit, points = RULES[name]
    rules = [rule for rule in DEFAULT_RULES if rule.name == name]
    for more, expected in ((0, (0, ())), (1, (points, (name,)))):
        minor = 100 * limit + more if measure == "amount" else 1
        value = 100 * limit + more if measure == "sum" else limit + more
        seen = {} if kind is None or window is None else {(kind, window): Window(**{measure: value})}
        verdict = decide(Features(Money(minor, "EUR"), seen), rules)
        assert (verdict.score, verdict.reasons) == expected, more


def test_there_is_a_test_of_every_rule() -> None:
    assert RULES.keys() == NAMES
    assert len(NAMES) == len(DEFAULT_RULES)
    assert dict(WINDOWS) == {
        "1m": timedelta(seconds=60), "1h": timedelta(seconds=3600), "24h": timedelta(days=1)
    }  # fmt: skip
    assert list(WINDOWS.values()) == sorted(WINDOWS.values())
    assert (DENY_AT, VELOCITY_UNKNOWN) == (100, "velocity-unknown")
    assert Window() == Window(0, 0, 0), "what was not counted is nothing"
    assert MAX_SUM == 9_007_199_254_740_992, "whole numbers up to here are exact in Valkey's scripts"


def test_what_was_not_seen_is_not_more_than_nothing() -> None:
    strict = Rule("any", "count", 0, 100, "card", "1m")
    nothing: tuple[dict[tuple[Kind, str], Window] | None, ...] = (None, {})
    for seen in nothing:
        assert decide(Features(Money(1, "EUR"), seen), [strict]).score == 0
    once: dict[tuple[Kind, str], Window] = {("card", "1m"): Window(count=1)}
    assert decide(Features(Money(1, "EUR"), once), [strict]).score == 100


def test_points_sum_up_to_a_denial() -> None:
    both: dict[tuple[Kind, str], Window] = {("card", "1m"): Window(count=11), ("card", "1h"): Window(count=11)}
    assert decide(Features(Money(1, "EUR"), both)) == Verdict("allow", 60, ("card-count-1m",))
    assert decide(Features(Money(500_001, "EUR"), both)) == Verdict("deny", 100, ("amount-over-5000", "card-count-1m"))


def test_without_counters_what_other_rules_say_counts_too() -> None:
    for minor, verdict in [
        (50_000, Verdict("allow", 0, (VELOCITY_UNKNOWN,))),
        (50_001, Verdict("deny", 100, (VELOCITY_UNKNOWN,))),
        (500_001, Verdict("deny", 100, ("amount-over-5000", VELOCITY_UNKNOWN))),
        (1_000_001, Verdict("deny", 140, ("amount-over-10000", "amount-over-5000", VELOCITY_UNKNOWN))),
    ]:
        assert decide(Features(Money(minor, "EUR"), None)) == verdict, minor


def test_what_a_list_says_is_said_alone_and_of_each_kind() -> None:
    huge = Money(10**9, "EUR")
    for listed, verdict in [
        ([("deny", "card"), ("allow", "card"), ("deny", "client")], Verdict("deny", 100, ("deny-list-card", "deny-list-client"))),
        ([("allow", "account"), ("allow", "client")], Verdict("allow", 0, ("allow-list-account", "allow-list-client"))),
    ]:  # fmt: skip
        assert decide(Features(huge, None, listed)) == verdict  # type: ignore[arg-type]


def test_a_list_has_ids_of_its_kind_and_no_numbers() -> None:
    account, client = ids.accounts.text(ids.accounts.new()), ids.clients.text(ids.clients.new())
    fingerprint = "fp_" + "0123456789abcdefghjkmnpqrs"
    good: dict[Kind, str] = {"card": fingerprint, "account": account, "client": client}
    for kind, own in good.items():
        for of, value in good.items():
            assert listable(kind, value) == (kind == of), (kind, of)
        for value in ("", "4242424242424242", "x" + own, own + "x", own[:-1], own.upper()):
            assert not listable(kind, value), (kind, value)
