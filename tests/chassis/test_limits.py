"""Limits: one bucket for all replicas in a real Valkey, the same sums locally, and a gate that neither leaks nor starves."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from valkey.asyncio import BlockingConnectionPool, UnixDomainSocketConnection, Valkey

from tallystick.chassis.auth import Subject
from tallystick.chassis.charter import Rate
from tallystick.chassis.limits import LEASE, LEASED, Bucket, Gate, Lease, Limits, LocalBuckets, take
from tallystick.chassis.telemetry import logs
from tallystick.kernel.problem import Overloaded, RateLimited
from tests.support.parts import ValkeyServer

SLOW = {"slow": Rate(per_second=1, burst=5), "fast": Rate(per_second=1_000_000, burst=1_000_000)}
HOUR = 3600e6


def subject(client: str = "cli_a", tenant: str = "acme") -> Subject:
    return Subject(
        tenant=tenant,
        client_id=client,
        scopes=frozenset(),
        token_id="t",
        actor=client,
        expires_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def limits(valkey: Valkey | None, service: str = "shop") -> Limits:
    return by_the_hour(Limits(service, SLOW, max_in_flight=4, max_queue=2, valkey=valkey))


def by_the_hour(made: Limits) -> Limits:
    """Slow buckets gain a token an hour: Valkey's clock goes on while a test runs, and what is counted must not depend on how far."""
    for name, bucket in made._buckets.items():
        if bucket.interval == 1e6:
            made._buckets[name] = bucket._replace(interval=HOUR)
    return made


async def allowed(made: Limits, count: int, who: Subject) -> int:
    answers = await asyncio.gather(*(made.rate(who, "slow") for _ in range(count)), return_exceptions=True)
    assert all(answer is None or isinstance(answer, RateLimited) for answer in answers), answers
    return answers.count(None)


# --- the decision


@given(st.floats(1, 1e6), st.integers(1, 50), st.lists(st.tuples(st.floats(0, 1e7), st.integers(1, 5)), max_size=60))
def test_a_bucket_never_gives_more_than_it_holds_and_gains(
    interval: float, size: int, asked: list[tuple[float, int]]
) -> None:
    bucket = Bucket(interval, size)
    now, full_at, given_out = 1e15, 0.0, 0
    start = now
    for gap, wanted in asked:
        now += gap
        full_at, wait = take(full_at, now, bucket, wanted)
        if wait == 0:
            given_out += wanted
            assert given_out <= size + (now - start) / interval + 1e-3 * len(asked)
        else:
            _, then = take(full_at, now + wait + 1, bucket, wanted)
            assert wanted > size or then == 0, "after the wait that was named it goes on"


def test_local_buckets_forget_the_longest_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick.chassis.limits.MAX_LOCAL_KEYS", 2)
    buckets = LocalBuckets(lambda: 1000.0)
    bucket = Bucket(1e6, 1)
    assert buckets.take("a", bucket, 1) == 0
    assert buckets.take("a", bucket, 1) > 0
    buckets.take("b", bucket, 1)
    buckets.take("c", bucket, 1)
    assert buckets.take("a", bucket, 1) == 0


# --- in Valkey


async def test_a_burst_is_taken_and_no_more(valkey: Valkey) -> None:
    assert await allowed(limits(valkey), 20, subject()) == 5


async def test_replicas_share_a_bucket(valkey: Valkey) -> None:
    counts = await asyncio.gather(*(allowed(limits(valkey), 10, subject()) for _ in range(3)))
    assert sum(counts) == 5


async def test_subjects_tenants_and_services_do_not(valkey: Valkey) -> None:
    made = limits(valkey)
    for who in (subject("cli_a"), subject("cli_b"), subject("cli_a", "other")):
        assert await allowed(made, 7, who) == 5
    assert await allowed(limits(valkey, "kiosk"), 7, subject("cli_a")) == 5


async def test_the_answer_says_when_to_come_back(valkey: Valkey) -> None:
    made = limits(valkey)
    await made.rate(subject(), "slow", tokens=5)
    with pytest.raises(RateLimited) as caught:
        await made.rate(subject(), "slow", tokens=3)
    wait = caught.value.extensions["retry_after_ms"]
    assert 2 * HOUR / 1000 < wait <= 3 * HOUR / 1000
    assert caught.value.headers == {"Retry-After": str(math.ceil(wait / 1000))}


async def test_the_script_and_the_function_say_the_same(valkey: Valkey) -> None:
    made = limits(valkey)
    script = made._script
    bucket = Bucket(HOUR, 4)
    full_at, now = 0.0, 1e15
    for wanted in (1, 2, 2, 1, 1, 9, 0):
        (found,) = await script(keys=["shop:{x}:k"], args=[bucket.interval, bucket.size, wanted, 0, 0])
        full_at, wait = take(full_at, now, bucket, wanted)
        assert (found == 0) == (wait == 0)
        assert abs(found - wait) < HOUR / 2, "the server's clock goes on between the two"


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.floats(0, 0.3), st.integers(0, 2), st.integers(1, 3)), max_size=200),
)
def test_leases_give_out_no_more_than_was_taken_and_put_the_rest_back(
    size: int, asked: list[tuple[float, int, int]]
) -> None:
    """Three replicas and a bucket that gains nothing: what they gave out, hold and left is what was in it."""
    bucket = Bucket(1e6, size)
    replicas = [Lease(bucket) for _ in range(3)]
    left, given_out, now = size, 0, 100.0
    for gap, place, tokens in asked:
        now += gap
        if replicas[place].take(tokens, now):
            given_out += tokens
        else:
            back, ahead = replicas[place].renew(now)
            left += back
            if tokens <= left:
                ahead = min(ahead, left - tokens)
                left -= tokens + ahead
                given_out += tokens
                replicas[place].add(ahead)
        held = size - left - given_out
        assert 0 <= held <= 3 * (size // LEASED)
        assert min(left, given_out) >= 0


async def test_who_asks_often_gets_leases_and_no_more_than_the_bucket_holds(valkey: Valkey) -> None:
    rates = {"big": Rate(per_second=1, burst=320)}
    now = 100.0
    replicas = [
        by_the_hour(Limits("shop", rates, max_in_flight=4, max_queue=2, valkey=valkey, monotonic=lambda: now))
        for _ in range(3)
    ]

    async def drawn() -> int:
        count, refused = 0, 0
        while refused < len(replicas):
            for each in replicas:
                try:
                    await each.rate(subject(), "big")
                except RateLimited:
                    refused += 1
                else:
                    count, refused = count + 1, 0
        return count

    await replicas[0].rate(subject("cli_other"), "big")  # the script is loaded now
    before = (await valkey.info("commandstats"))["cmdstat_evalsha"]["calls"]
    first = await drawn()
    calls = (await valkey.info("commandstats"))["cmdstat_evalsha"]["calls"] - before
    assert calls < first / 2
    now += LEASE
    assert first + await drawn() == 320, "the tokens of old leases were put back"


async def test_a_small_bucket_has_no_leases(valkey: Valkey) -> None:
    one, two = limits(valkey), limits(valkey)
    for _ in range(2):
        await one.rate(subject(), "slow")
    for _ in range(3):
        await two.rate(subject(), "slow")
    assert await allowed(one, 2, subject()) == 0


async def test_keys_do_not_stay(valkey: Valkey) -> None:
    await limits(valkey).rate(subject(), "slow")
    (key,) = await valkey.keys("*")
    assert key == b"shop:{shop-rate}:slow:acme:cli_a"
    assert 0 < await valkey.pttl(key) <= HOUR / 1000 + 2


async def test_when_valkeys_clock_is_set_back_nobody_waits_longer_than_for_an_empty_bucket(valkey: Valkey) -> None:
    made = limits(valkey)
    await made.rate(subject(), "slow")
    (key,) = [key async for key in valkey.scan_iter("*")]
    ahead = float(await valkey.get(key)) + 100 * HOUR
    await valkey.set(key, f"{ahead:.0f}", px=360_000_000)
    with pytest.raises(RateLimited) as caught:
        await made.rate(subject(), "slow")
    assert int(caught.value.headers["Retry-After"]) == 3600, "an hour, and not a hundred"
    assert await valkey.pttl(key) <= 6 * HOUR / 1000, "the key is mended"


async def test_concurrent_requests_share_a_round_trip(valkey: Valkey) -> None:
    made = limits(valkey)
    await made.take("warm", "fast")  # the script is loaded now
    before = (await valkey.info("commandstats"))["cmdstat_evalsha"]["calls"]
    await asyncio.gather(*(made.take(f"who-{n}", "fast") for n in range(200)))
    calls = (await valkey.info("commandstats"))["cmdstat_evalsha"]["calls"] - before
    assert calls <= 4


async def test_a_class_that_the_charter_does_not_have_is_an_error(valkey: Valkey) -> None:
    with pytest.raises(KeyError):
        await limits(valkey).rate(subject(), "other")


# --- without Valkey


async def test_without_valkey_each_process_counts_for_itself() -> None:
    assert await allowed(limits(None), 20, subject()) == 5


async def test_when_valkey_goes_the_limit_stays_and_when_it_comes_back_it_is_asked_again(
    valkey_server: ValkeyServer, directory: Path
) -> None:
    way = directory / "valkey.sock"  # leads nowhere yet
    pool = BlockingConnectionPool(
        max_connections=2,
        connection_class=UnixDomainSocketConnection,
        path=str(way),
        username=valkey_server.ADMIN,
        password=valkey_server.password.reveal(),
    )
    there = Valkey(connection_pool=pool)
    now = 100.0
    made = by_the_hour(Limits("shop", SLOW, max_in_flight=1, max_queue=1, valkey=there, monotonic=lambda: now))
    try:
        with logs.captured() as lines:
            assert await allowed(made, 20, subject()) == 5
            assert await allowed(made, 20, subject()) == 0
        assert [line["event"] for line in lines] == ["limits.local"], "it is not asked again within the pause"
        way.symlink_to(valkey_server.socket)
        now += 2
        assert await allowed(made, 20, subject()) == 5, "the shared bucket is still full"
    finally:
        await there.aclose()
        await pool.disconnect()


# --- the gate


async def test_the_gate_lets_in_queues_and_refuses() -> None:
    gate = Gate(2, 1)
    await gate.enter()
    await gate.enter()
    third = asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await gate.enter()
    assert caught.value.headers == {"Retry-After": "1"}
    assert (gate.in_flight, gate.queued) == (2, 1)
    gate.leave()
    await third
    assert (gate.in_flight, gate.queued) == (2, 0)
    gate.leave()
    gate.leave()
    assert gate.in_flight == 0


async def test_who_gives_up_waiting_leaves_no_trace() -> None:
    gate = Gate(1, 2)
    await gate.enter()
    first, second = asyncio.create_task(gate.enter()), asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    gate.leave()
    await second
    assert (gate.in_flight, gate.queued) == (1, 0)


async def test_a_place_given_to_one_who_is_told_to_stop_goes_to_the_next() -> None:
    gate = Gate(1, 2)
    await gate.enter()
    first, second = asyncio.create_task(gate.enter()), asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    gate.leave()  # gives the place to the first, which has not woken up yet
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    async with asyncio.timeout(30):
        await second
    assert (gate.in_flight, gate.queued) == (1, 0)
    gate.leave()
    assert gate.in_flight == 0


async def test_who_is_told_to_stop_just_before_a_place_comes_free_is_stopped_and_nothing_else() -> None:
    gate = Gate(1, 2)
    await gate.enter()
    first, second = asyncio.create_task(gate.enter()), asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    first.cancel()
    gate.leave()  # before the first has noticed
    with pytest.raises(asyncio.CancelledError):
        await first
    async with asyncio.timeout(30):
        await second
    assert (gate.in_flight, gate.queued) == (1, 0)


@given(st.lists(st.sampled_from(["enter", "leave", "cancel"]), max_size=60))
async def test_whatever_comes_and_goes_no_place_is_lost(steps: list[str]) -> None:
    gate = Gate(2, 3)
    tasks: list[asyncio.Task[None]] = []
    inside = 0
    for step in steps:
        if step == "enter":
            tasks.append(asyncio.create_task(gate.enter()))
        elif step == "leave" and inside:
            gate.leave()
            inside -= 1
        elif step == "cancel" and tasks:
            tasks[-1].cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        for task in [task for task in tasks if task.done()]:
            tasks.remove(task)
            if not task.cancelled() and task.exception() is None:
                inside += 1
        assert inside == gate.in_flight <= 2
        assert gate.queued == len(tasks) <= 3
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert gate.queued == 0
