"""From the outboxes of real services over the bus into the log: each fact once, in its service's order, whatever breaks."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tallystick.chassis import charter, outbox
from tallystick.chassis.bus import Bus, Consumer, Delivered, streams
from tallystick.chassis.db import Database, Transaction, UniqueViolation
from tallystick.kernel.problem import Unavailable
from tallystick.services.audit.worker import SOURCES, SUBSCRIPTIONS, record
from tests.conftest import DatabaseFor
from tests.services.audit import c2sp
from tests.services.audit.support import Env, consuming, fact, subscription, until_size
from tests.support.facts import append, relaying
from tests.support.facts import told as facts_told
from tests.support.parts import connect

Told = dict[str, list[Any]]


def test_every_services_facts_are_taken_and_all_of_them() -> None:
    charters = charter.load_all()
    assert set(SOURCES) == set(charters) - {"audit"} == set(charters["audit"].consumes)
    assert all(each.types == ("*",) and each.complete for each in SUBSCRIPTIONS)


@asynccontextmanager
async def sources(database_for: DatabaseFor, bus: Bus, *names: str) -> AsyncIterator[dict[str, Database]]:
    """Databases that stand for services, with relays that run."""
    async with AsyncExitStack() as stack:
        found = {}
        for name in names:
            found[name] = await (await database_for("tallystick.chassis", f"{name}_source")).open()
            await stack.enter_async_context(relaying(found[name], bus, name))
        yield found


async def tell(database: Database, service: str, told: Told, count: int, random_: random.Random) -> None:
    """`count` facts in transactions of various sizes."""
    while count:
        portion = min(count, random_.choice([1, 1, 2, 7, 40]))
        facts = [fact(n, service) for n in range(portion)]
        await append(database, *facts)
        told.setdefault(service, []).extend(facts)
        count -= portion


async def check(env: Env, told: Told) -> None:
    """The signed log holds exactly what was told: numbered without gaps, each service's facts in its order."""
    await env.log.sign()
    entries = await env.check()
    assert len(entries) == sum(map(len, told.values()))
    for service, facts in told.items():
        mine = [each for each in entries if each["service"] == service]
        assert [each["seq"] for each in mine] == list(range(1, len(facts) + 1))
        assert [each["sha256"] for each in mine] == [c2sp.sha256(outbox.encode(each)).hex() for each in facts]
    rows = await env.service.query("SELECT index, id, service, seq FROM entry ORDER BY index")
    assert [row["index"] for row in rows] == list(range(len(entries)))
    assert [(row["service"], row["seq"]) for row in rows] == [(each["service"], each["seq"]) for each in entries]
    assert await env.service.query("SELECT * FROM dead_letter") == []


async def test_facts_of_several_services_end_up_in_the_log_once(env: Env, bus: Bus, database_for: DatabaseFor) -> None:
    told: Told = {}
    names = ("ledger", "vault", "payments")
    async with sources(database_for, bus, *names) as databases, consuming(env, bus, *names):
        await asyncio.gather(*(tell(databases[name], name, told, 300, random.Random(name)) for name in names))
        await until_size(env, 900)
    await check(env, told)


async def test_a_fact_of_another_services_type_is_not_recorded(env: Env, bus: Bus, database_for: DatabaseFor) -> None:
    """Who took over risk can write into its outbox what it likes; in payments' name it gets no receipt."""
    own = [fact(n, "risk") for n in range(4)]
    forged = [
        msgspec.structs.replace(fact(9, "risk"), type=type_)
        for type_ in ("payments.payment.settled", "riskpayments.x.y", "ledger.transfers.posted")
    ]
    async with sources(database_for, bus, "risk") as databases, consuming(env, bus, "risk"):
        await append(databases["risk"], *own[:2], *forged, *own[2:])
        await until_size(env, len(own))
    rows = await env.service.query("SELECT id, seq FROM entry ORDER BY index")
    assert [(row["id"], row["seq"]) for row in rows] == [
        (each.id, seq) for each, seq in zip(own, (1, 2, 6, 7), strict=True)
    ]
    letters = await env.service.query("SELECT seq, error FROM dead_letter ORDER BY seq")
    assert [row["seq"] for row in letters] == [3, 4, 5]
    assert all("NotItsOwn" in row["error"] for row in letters)


async def test_what_a_shard_tells_is_its_services_own(env: Env, bus: Bus, database_for: DatabaseFor) -> None:
    one = replace(subscription("ledger"), source="ledger-eu")
    async with sources(database_for, bus, "ledger-eu") as databases:
        consumer = Consumer(env.database, bus, one, env.log, pause_s=0.01)
        task = asyncio.create_task(consumer.run())
        await append(databases["ledger-eu"], fact(1))
        await until_size(env, 1)
        consumer.stop()
        await task
    assert [row["service"] for row in await env.service.query("SELECT service FROM entry")] == ["ledger-eu"]


async def test_two_replicas_that_lead_different_services_write_one_log(
    env: Env, second: Env, bus: Bus, database_for: DatabaseFor
) -> None:
    told: Told = {}
    names = ("ledger", "vault")
    async with (
        sources(database_for, bus, *names) as databases,
        consuming(env, bus, "ledger"),
        consuming(second, bus, "vault"),
    ):
        await asyncio.gather(*(tell(databases[name], name, told, 400, random.Random(name)) for name in names))
        await until_size(env, 800)
    await check(env, told)


async def test_two_writers_at_one_moment_take_turns(env: Env, second: Env) -> None:
    told: Told = {"ledger": [], "vault": [], "risk": []}

    async def write(replica_: Env, service: str) -> None:
        for _ in range(25):
            facts = [fact(n, service) for n in range(random.Random(service).choice([1, 20, 90]))]
            first = len(told[service]) + 1
            await replica_.record(service, facts, first)
            told[service] += facts

    await asyncio.gather(write(env, "ledger"), write(second, "vault"), write(second, "risk"))
    await check(env, told)


async def test_the_same_number_can_not_be_recorded_twice(env: Env) -> None:
    facts = [fact(n) for n in range(3)]
    await env.record("ledger", facts)
    with pytest.raises(UniqueViolation):
        await env.record("ledger", facts[2:], 3)
    with pytest.raises(UniqueViolation):
        await env.record("ledger", [fact(9)], 2)
    await check(env, {"ledger": facts})


class Crash(BaseException):
    """The process is gone."""


def crashing(env: Env, random_: random.Random) -> Callable[..., Any]:
    """The handler of a database that breaks around it: before, after, and in the middle of writing."""

    async def handle(log: Any, tx: Transaction, facts: list[Delivered]) -> None:
        fate = random_.randrange(8)
        if fate == 0:
            raise OSError("before")
        if fate == 1:
            await kill(env)
        await record(log, tx, facts)
        if fate == 2:
            raise OSError("after")
        if fate == 3:
            await kill(env)

    return handle


async def kill(env: Env) -> None:
    """Every connection of the service that is in a transaction."""
    connection = await connect(env.service.superuser)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename = 'audit' AND state LIKE 'idle in transaction%'"
    )
    await connection.close()


@pytest.mark.parametrize("seed", range(3))
async def test_crashes_at_any_point_lose_and_double_nothing(
    env: Env, bus: Bus, database_for: DatabaseFor, seed: int
) -> None:
    random_ = random.Random(seed)
    told: Told = {}
    names = ("ledger", "payments")
    handle = crashing(env, random_)

    async def tolerant(log: Any, tx: Transaction, facts: list[Delivered]) -> None:
        try:
            await handle(log, tx, facts)
        except OSError as error:
            # Nobody's fault: as a database that is away.
            raise Unavailable from error

    async with sources(database_for, bus, *names) as databases:
        telling = [asyncio.create_task(tell(databases[n], n, told, 250, random.Random(n))) for n in names]
        for _ in range(4):  # processes that are started and killed in the middle
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(consuming(env, bus, *names, handle=tolerant))
                await asyncio.sleep(random_.uniform(0.05, 0.6))
        await asyncio.gather(*telling)
        async with consuming(env, bus, *names, handle=tolerant):
            await until_size(env, 500)
    await check(env, told)


async def test_an_inbox_set_back_is_refused_by_the_log_itself(env: Env, bus: Bus, database_for: DatabaseFor) -> None:
    """The second guard: even an inbox that forgot does not put a fact into the log twice."""
    told: Told = {}
    async with sources(database_for, bus, "ledger") as databases:
        await tell(databases["ledger"], "ledger", told, 30, random.Random(1))
        async with consuming(env, bus, "ledger"):
            await until_size(env, 30)
        await env.service.query("UPDATE inbox SET last_seq = 10")
        async with consuming(env, bus, "ledger"):
            async with asyncio.timeout(60):
                while not await env.service.query("SELECT 1 FROM inbox WHERE last_seq = 30"):
                    await asyncio.sleep(0.05)
    assert Counter(row["seq"] for row in await env.service.query("SELECT seq FROM entry")) == Counter(range(1, 31))
    assert len(await env.service.query("SELECT * FROM dead_letter")) == 20


async def test_a_log_does_not_begin_where_the_first_facts_are_gone(
    env: Env, bus: Bus, database_for: DatabaseFor
) -> None:
    async with sources(database_for, bus, "ledger") as databases:
        for n in range(1, 6):  # each in a message of its own
            await append(databases["ledger"], fact(n))
            await facts_told(bus, n, "ledger")
        assert (await streams.tail(bus, "ledger")).last == 5
        await bus.request("$JS.API.STREAM.PURGE.facts-ledger", b'{"seq":2}')
        async with consuming(env, bus, "ledger"):
            await asyncio.sleep(1)
    assert await env.size() == 0
    assert await env.service.query("SELECT * FROM inbox") == []
