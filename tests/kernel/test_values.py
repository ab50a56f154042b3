"""Ids, time, secrets and problems: the other values that everything rests on."""

from __future__ import annotations

import copy
import pickle
import re
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel import ids
from tallystick.kernel.clock import ManualClock, parse_rfc3339, rfc3339
from tallystick.kernel.problem import NotFound, Problem
from tallystick.kernel.secret import Secret


@given(st.integers(0, 2**128 - 1))
def test_id_round_trip_and_order(value: int) -> None:
    text = ids.payments.text(ids.PaymentId(UUID(int=value)))
    assert len(text) == 30
    assert ids.payments.parse(text).int == value
    if value:
        assert ids.encode(value - 1) < ids.encode(value)


def test_ids_sort_by_time() -> None:
    made = [ids.transfers.text(ids.transfers.new()) for _ in range(200)]
    assert made == sorted(made)
    assert len(set(made)) == 200


def test_ids_that_others_are_derived_from_are_of_a_version_of_their_own() -> None:
    for kind in (ids.payments, ids.refunds):
        made = [kind.new() for _ in range(200)]
        assert {one.version for one in made} == {8}
        assert all(ids.is_derived(one) for one in made)
        assert made == sorted(set(made))
    assert ids.is_derived(ids.hashed(b"a"))
    assert len({ids.hashed(b"a"), ids.hashed(b"a"), ids.hashed(b"b")}) == 2
    mine = ids.transfers.new()
    assert (mine.version, ids.is_derived(mine)) == (7, False)
    assert not ids.is_derived(UUID(int=8 << 76)), "of another variant it is nobody's"


@given(st.text(max_size=40))
def test_text_that_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ids.InvalidId):
        ids.payments.parse("trf_" + text)
    try:
        parsed = ids.payments.parse("pay_" + text)
    except ids.InvalidId:
        return
    assert ids.payments.text(parsed) == "pay_" + text


#: What `int` reads besides digits: signs, spaces, underscores, digits of other scripts.
READ_BY_INT = ["+" + "1" * 25, " " + "1" * 25, "1" * 12 + "_" + "1" * 13, "\u0661" * 26, "\uff11" * 26]


@pytest.mark.parametrize("text", READ_BY_INT)
def test_an_id_has_characters_of_the_alphabet_only(text: str) -> None:
    assert len(text) == 26
    assert int(text, 32) > 0
    with pytest.raises(ValueError, match=r"base 32|ascii"):
        ids.decode(text)


def test_an_id_is_a_uuid_like_any_other() -> None:
    made = ids.payments.parse("pay_" + ids.encode(1 << 127))
    assert (made, hash(made), repr(made)) == (UUID(int=1 << 127), hash(UUID(int=1 << 127)), repr(UUID(int=1 << 127)))
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made


@pytest.mark.parametrize(
    "text", ["pay_" + "8" + "0" * 25, "pay_" + "i" * 26, "pay_" + "A" * 26, "pay_", "", "pay_" + "1" * 25 + "\n"]
)
def test_ids_that_look_right_but_are_not(text: str) -> None:
    with pytest.raises(ids.InvalidId):
        ids.payments.parse(text)


@given(st.integers(0, (1 << 128) - 1))
def test_an_id_is_as_its_schema_says(value: int) -> None:
    schema = ids.payments.wire.extra_json_schema
    assert schema is not None
    assert re.search(schema["pattern"], ids.payments.text(ids.PaymentId(UUID(int=value))))
    assert not re.search(schema["pattern"], ids.refunds.text(ids.RefundId(UUID(int=value))))


def test_secret_ids_are_random_and_long() -> None:
    made = {ids.secret_id("key") for _ in range(100)}
    assert len(made) == 100
    assert all(len(text) == 4 + 64 for text in made)


#: Python's first and last instant are no instants to PostgreSQL.
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@given(st.datetimes(timezones=st.just(UTC)).filter(lambda instant: instant not in {_FIRST, _LAST}))
def test_time_round_trip(instant: datetime) -> None:
    assert parse_rfc3339(rfc3339(instant)) == instant


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-13-01T00:00:00Z",
        "now",
        "2026-01-01 00:00:00Z",
        "0001-01-01T00:00:00+23:00",
        "0001-01-01T00:00:00Z",
        "0001-01-01T02:00:00+02:00",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59.999999-01:00",
        "2026-W01-1T00:00:00Z",  # ISO 8601 has these, RFC 3339 does not
        "2026-01-01T00:00:00,5Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00+0100",
        "2026-01-01T00:00:00+00:60",
        "2026-01-01T00:00+01:00",
        "2026-01-01T00:00:00Z\n",
        "٢026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.0000000000000000Z",
    ],
)
def test_times_without_an_instant_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_rfc3339(text)


def test_an_offset_that_is_none_is_told_in_the_words_of_the_format() -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        parse_rfc3339("2026-01-01T00:00:00+24:00")


@pytest.mark.parametrize(
    "text", ["2026-01-01t01:30:00z", "2026-01-01T02:30:00.000000000+01:00", "2025-12-31T20:30:00-05:00"]
)
def test_times_in_all_forms_of_rfc_3339(text: str) -> None:
    assert parse_rfc3339(text) == datetime(2026, 1, 1, 1, 30, tzinfo=UTC)


def test_offsets_become_utc() -> None:
    assert rfc3339(datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == "2026-01-01T00:00:00.000000Z"


def test_a_manual_clock_goes_forward_only() -> None:
    clock = ManualClock()
    before = clock.now()
    clock.advance(timedelta(seconds=1))
    assert clock.now() - before == timedelta(seconds=1)
    with pytest.raises(ValueError, match="back"):
        clock.advance(timedelta(seconds=-1))


def test_secrets_do_not_print_pickle_or_hash() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]} {secret:>20}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)
    assert secret == Secret("hunter2")
    assert secret != Secret("hunter3")


def test_problem_documents_leave_the_context_out() -> None:
    problem = NotFound("no such account", context={"row": "private"}, account="acc_x")
    document = problem.document("req")
    assert document == {
        "type": "https://tallystick.dev/problems/not-found",
        "title": NotFound.title,
        "status": 404,
        "detail": "no such account",
        "retryable": False,
        "request_id": "req",
        "account": "acc_x",
    }


def test_an_extension_cannot_take_the_name_of_a_member() -> None:
    with pytest.raises(ValueError, match="meaning"):
        Problem("x", type="y")
