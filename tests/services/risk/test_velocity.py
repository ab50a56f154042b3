"""Sliding windows in a real Valkey against a naive count; refusals from a real bus; what goes on without Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import valkey.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from valkey.asyncio import Valkey

from tallystick.chassis import charter
from tallystick.chassis.bus import Bus, Consumer
from tallystick.chassis.outbox import Fact
from tallystick.fabric.valkey import rules
from tallystick.kernel import ids
from tallystick.local.parts import ValkeyUser
from tallystick.local.parts import valkey as valkey_part
from tallystick.services.risk import store
from tallystick.services.risk.model import WINDOWS, Window, sliding
from tallystick.services.risk.store import Counters, CountersUnavailable, Tally
from tallystick.services.risk.worker import SUBSCRIPTIONS
from tests.conftest import DatabaseFor
from tests.services.risk.support import Env, card, replica
from tests.support.facts import append, relaying
from tests.support.http import World
from tests.support.parts import NatsServer, ServiceDatabase, ValkeyServer, new_secret

START = datetime(2026, 1, 1, tzinfo=UTC)
#: What it is in earnest; tests wait longer.
COUNTING = store.TIMEOUT

steps = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 17, 59, 61, 1800, 3599, 3700, 80_000, 90_000, 400_000]),  # seconds since the last one
        st.sampled_from(["fp_a", "fp_b"]),
        st.sampled_from(["EUR", "JPY"]),
        st.integers(0, 1),
        st.integers(0, 10**9),
        st.integers(0, 1),
        st.integers(0, 3),  # 0: the event before is told again
    ),
    max_size=25,
)


class Naive:
    """Every event kept, every window counted from them."""

    def __init__(self) -> None:
        self.events: list[tuple[float, Tally]] = []

    def add(self, tally: Tally, at: float) -> dict[str, Window]:
        if not any(tally.event == other.event and tally.subject == other.subject for _, other in self.events):
            self.events.append((at, tally))
        return {name: self.window(tally, at, width.total_seconds()) for name, width in WINDOWS.items()}

    def window(self, asked: Tally, at: float, width: float) -> Window:
        bucket, elapsed = int(at // width), (at % width) / width

        def total(number: int, what: str) -> int:
            return sum(
                getattr(tally, what)
                for when, tally in self.events
                if tally.subject == asked.subject
                and int(when // width) == number
                and (what != "sum" or tally.currency == asked.currency)
            )

        return Window(
            *(sliding(total(bucket, what), total(bucket - 1, what), elapsed) for what in ("count", "sum", "declines"))
        )


@given(steps)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_windows_are_those_of_a_naive_count(valkey_server: ValkeyServer, given_: list[Any]) -> None:
    async def run() -> None:
        client = valkey.asyncio.Valkey(
            unix_socket_path=str(valkey_server.socket),
            username=valkey_server.ADMIN,
            password=valkey_server.password.reveal(),
        )
        await client.flushall()
        counters, naive = Counters(client), Naive()
        at = START.timestamp()
        event = ids.decisions.new()
        for seconds, subject, currency, count, amount, declines, again in given_:
            at += seconds
            event = event if again == 0 else ids.decisions.new()
            tally = Tally(event, "card", "acme", subject, currency, count=count, sum=amount, declines=declines)
            (found,) = await counters.add([tally], datetime.fromtimestamp(at, UTC))
            expected = naive.add(tally, at)
            for name in WINDOWS:  # a share of a sum may round the other way by one
                for what in ("count", "sum", "declines"):
                    assert abs(getattr(found[name], what) - getattr(expected[name], what)) <= 1, (name, what)
        await client.aclose()

    asyncio.run(run())


def tally(subject: str = "fp_a", **more: Any) -> Tally:
    return Tally(more.pop("event", ids.decisions.new()), "card", "acme", subject, more.pop("currency", "EUR"), **more)


async def test_many_tallies_are_answered_in_order_and_see_each_other(valkey: Valkey) -> None:
    counters = Counters(valkey)
    found = await counters.add([tally(f"fp_{n % 300}", sum=n) for n in range(700)], START)
    assert [each["1m"].count for each in found] == [1 + n // 300 for n in range(700)]
    assert found[650]["24h"].sum == 50 + 350 + 650
    assert await counters.add([], START) == []


async def test_counts_are_of_all_currencies_and_sums_of_one(valkey: Valkey) -> None:
    """Trying a stolen card in another currency each time is still trying it."""
    counters = Counters(valkey)
    codes = ["EUR", "USD", "JPY", "GBP"]
    found = await counters.add([tally(currency=code, sum=100, declines=1) for code in codes], START)
    assert [(each["1h"].count, each["1h"].sum, each["1h"].declines) for each in found] == [
        (n, 100, n) for n in range(1, 5)
    ]


async def test_tenants_share_nothing(valkey: Valkey) -> None:
    counters = Counters(valkey)
    one, two = (Tally(ids.decisions.new(), "card", tenant, "fp_a", "EUR") for tenant in ("acme", "other"))
    found = await counters.add([one, two], START)
    assert [each["1m"].count for each in found] == [1, 1]


async def test_a_clock_that_is_behind_loses_nothing(valkey: Valkey) -> None:
    """Two replicas, whose clocks differ by a second, on both sides of a minute's end."""
    counters = Counters(valkey)
    ahead = START + timedelta(minutes=1)
    behind = ahead - timedelta(seconds=1)
    for n in range(1, 9):
        (found,) = await counters.add([tally()], ahead if n % 2 else behind)
        assert found["1m"].count == n


async def test_a_clock_that_was_set_back_does_not_stop_the_windows(valkey: Valkey) -> None:
    """Every clock was hours ahead, and was put right: until those hours were over, all was counted in one bucket of a minute."""
    counters, now = Counters(valkey), datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    for n in range(1, 8):
        ahead = timedelta(hours=2, minutes=int(n > 3))
        (found,) = await counters.add([tally(sum=5, declines=1)], now + ahead)
        assert found["1m"].count == n
    for n in range(8, 12):
        (found,) = await counters.add([tally(sum=5, declines=1)], now)
        assert found["1m"] == Window(n, 5 * n, n), "nothing is lost"
        assert found["24h"].count == n
    for n in range(1, 4):
        (found,) = await counters.add([tally()], now + timedelta(minutes=3 * n))
        assert found["1m"].count == 1, "and what was counted is over when its window is"
        assert found["24h"].count == 11 + n


@pytest.mark.parametrize("minutes", [1, 60, 3 * 24 * 60])
async def test_one_clock_that_is_behind_takes_no_count_from_the_others(valkey: Valkey, minutes: int) -> None:
    """Whoever is asked in turn: who reaches both replicas must not be counted less than who reaches one."""
    counters, now = Counters(valkey), datetime.now(UTC)
    for n in range(1, 9):
        (found,) = await counters.add([tally()], now - timedelta(minutes=minutes * (n % 2 == 0)))
        assert [found[name].count for name in WINDOWS] == [n] * 3


async def test_sums_stop_before_they_turn_round(valkey: Valkey) -> None:
    counters = Counters(valkey)
    found = await counters.add([tally(sum=2**63 - 1) for _ in range(3)], START)
    assert found[-1]["24h"].sum == 2**53


async def test_keys_do_not_live_for_ever(valkey: Valkey) -> None:
    await Counters(valkey).add([tally()], START)
    (key,) = await valkey.keys("risk:*")
    assert 0 < await valkey.ttl(key) <= 172_800


async def test_the_services_own_login_may_do_it(valkey_server: ValkeyServer, directory: Path) -> None:
    """The script under the rights that the charter gives risk in Valkey."""
    secret = new_secret()
    part = valkey_part.Valkey(
        directory / "own",
        directory / "own.sock",
        users=[ValkeyUser("risk", valkey_part.hash_password(secret), rules(["risk"])["risk"])],
        log=directory / "own.log",
    )
    await part.start()
    client = valkey.asyncio.Valkey(
        unix_socket_path=str(directory / "own.sock"), username="risk", password=secret.reveal()
    )
    try:
        (found,) = await Counters(client).add([tally()], START)
        assert found["1m"].count == 1
    finally:
        await client.aclose()
        await part.stop()


async def test_velocity_rules_speak(env: Env) -> None:
    fingerprint = card()
    decided = [await env.decide(card=fingerprint) for _ in range(62)]
    assert [d["reasons"] for d in decided[:10]] == [[]] * 10
    assert decided[10]["reasons"] == ["card-count-1m"]
    assert (decided[61]["decision"], decided[61]["reasons"]) == ("deny", ["card-count-1m", "card-count-1h"])
    env.clock.advance(timedelta(minutes=3))
    assert (await env.decide(card=fingerprint))["reasons"] == ["card-count-1h"]
    env.clock.advance(timedelta(days=3))
    assert (await env.decide(card=fingerprint))["reasons"] == []


@asynccontextmanager
async def consuming(env: Env, bus: Bus) -> AsyncIterator[Consumer]:
    consumer = Consumer(env.database, bus, SUBSCRIPTIONS[0], env.risk, pause_s=0.02)
    task = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        consumer.stop()
        await task


def refusal(fingerprint: str | None, by: str = "issuer", **data: Any) -> Fact:
    return Fact(
        id=ids.facts.new(),
        type=data.pop("type", "payments.payment.declined"),
        tenant="acme",
        actor="cli_one",
        resource="pay_x",
        at=START,
        data={"card": fingerprint, "declined_by": by, "currency": "EUR", **data},
    )


async def reached(service: ServiceDatabase, seq: int) -> None:
    async with asyncio.timeout(60):
        while True:
            rows = await service.query("SELECT last_seq FROM inbox")
            if rows and rows[0]["last_seq"] >= seq:
                return
            await asyncio.sleep(0.01)


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.open(nats_server.url, nats_server.ADMIN, nats_server.password())
    yield bus
    await bus.close()


async def test_refusals_by_issuers_are_counted_from_the_bus(env: Env, bus: Bus, database_for: DatabaseFor) -> None:
    payments = await (await database_for("tallystick.chassis", "payments_test")).open()
    tried = card()
    # Only what an issuer refused counts: not what risk itself did, not a book transfer's end, not another card.
    told = [refusal(tried) for _ in range(6)] + [refusal(tried, "risk"), refusal(None), refusal(card())]
    told.append(refusal(tried, type="payments.payment.settled"))
    await append(payments, *told)
    async with relaying(payments, bus, "payments"), consuming(env, bus):
        await reached(env.service, len(told))
        assert (await env.decide(card=tried))["reasons"] == ["card-declines-1h"]
        (found,) = await env.risk._counters.add([tally(tried, count=0)], env.clock.now())
        assert found["1h"].declines == 6
        assert (await env.decide(card=card()))["reasons"] == []
        # Told again, after the inbox was set back: they count once.
        await env.service.query("UPDATE inbox SET last_seq = 0")
    async with consuming(env, bus):
        await reached(env.service, len(told))
        (found,) = await env.risk._counters.add([tally(tried, count=0)], env.clock.now())
        assert found["1h"].declines == 6
    assert await env.service.query("SELECT * FROM dead_letter") == []


class Away:
    """A Valkey that is not there, until it is."""

    def __init__(self, real: Counters) -> None:
        self.real = real
        self.away = True
        self.asked = 0

    async def add(self, tallies: Any, now: Any) -> Any:
        self.asked += 1
        if self.away:
            raise CountersUnavailable
        return await self.real.add(tallies, now)


async def test_refusals_wait_for_valkey_and_are_never_given_up(env: Env, bus: Bus, database_for: DatabaseFor) -> None:
    payments = await (await database_for("tallystick.chassis", "payments_test")).open()
    tried, away = card(), Away(env.risk._counters)
    env.risk._counters = away  # type: ignore[assignment]
    await append(payments, *(refusal(tried) for _ in range(6)))
    async with relaying(payments, bus, "payments"), consuming(env, bus):
        async with asyncio.timeout(60):
            while away.asked < 7:  # more often than a fact is tried that is itself to blame
                await asyncio.sleep(0.01)
        assert await env.service.query("SELECT * FROM dead_letter") == []
        away.away = False
        await reached(env.service, 6)
    assert (await env.decide(card=tried))["reasons"] == ["card-declines-1h"]


async def test_without_valkey_amount_and_lists_decide(
    around: World, database_for: DatabaseFor, directory: Path
) -> None:
    nowhere = valkey.asyncio.Valkey(unix_socket_path=str(directory / "nothing.sock"))
    env = await replica(around, await database_for("tallystick.services.risk"), nowhere)
    await going_on_unmetered(env)
    await nowhere.aclose()


async def test_a_valkey_that_hangs_is_not_waited_for(
    around: World, database_for: DatabaseFor, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert charter.load("payments").calls["risk"].timeout_ms / 1000 > COUNTING, "payments gets an answer in its time"
    monkeypatch.setattr(store, "TIMEOUT", 0.05)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(silent, directory / "silent.sock")
    hangs = valkey.asyncio.Valkey(unix_socket_path=str(directory / "silent.sock"))
    env = await replica(around, await database_for("tallystick.services.risk"), hangs)
    async with asyncio.timeout(60):
        await going_on_unmetered(env)
    await hangs.aclose()
    server.close()


async def going_on_unmetered(env: Env) -> None:
    small = await env.decide(minor=50_000)
    assert (small["decision"], small["reasons"]) == ("allow", ["velocity-unknown"])
    large = await env.decide(minor=50_001)
    assert (large["decision"], large["reasons"]) == ("deny", ["velocity-unknown"])
    good, bad = card(), card()
    await env.put("allow", "card", good)
    await env.put("deny", "card", bad)
    assert (await env.decide(minor=50_001, card=good))["decision"] == "allow"
    assert (await env.decide(card=bad))["reasons"] == ["deny-list-card"]
    assert len(await env.facts("risk.decisions.made")) == 4
