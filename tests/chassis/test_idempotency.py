"""The idempotency contract on a real database."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.chassis import db, idempotency
from tallystick.chassis.db import Database
from tallystick.chassis.idempotency import (
    Answer,
    Digester,
    Entry,
    Fresh,
    InProgress,
    KeyReused,
    Mismatch,
    Outcome,
    Replay,
    Running,
)
from tallystick.kernel.problem import Problem
from tests.support.parts import ServiceDatabase

DIGESTER = Digester(b"k" * 32)


class Amount(msgspec.Struct):
    amount: str
    currency: str = "EUR"


class Body(msgspec.Struct):
    amount: Amount
    note: str | None = None
    tags: list[str] = []


BODY = Body(Amount("1250"))


def entry(
    key: str = "k1", body: Any = BODY, tenant: str = "default", client: str = "c1", route: str = "POST /v1/x"
) -> Entry:
    return Entry(tenant, client, route, key, DIGESTER.digest(body))


async def claim(database: Database, *entries: Entry, resource: uuid.UUID | None = None) -> list[Outcome]:
    async with database.transaction() as tx:
        return await idempotency.claim(tx, entries, resource=[resource] * len(entries))


async def complete(database: Database, *answers: Answer) -> list[bool]:
    async with database.transaction() as tx:
        return await idempotency.complete(tx, answers)


@pytest.fixture
async def database(chassis_database: ServiceDatabase) -> Database:
    return await chassis_database.open(connections=20, lock_s=1.0)


async def test_first_fresh_then_running_then_the_same_answer(database: Database) -> None:
    resource = uuid.uuid4()
    assert await claim(database, entry(), resource=resource) == [Fresh()]
    assert await claim(database, entry(), resource=uuid.uuid4()) == [Running(resource)]
    assert await complete(database, Answer(entry(), 422, b'{"no":true}')) == [True]
    assert await claim(database, entry()) == [Replay(422, b'{"no":true}', resource)]


async def test_an_answer_never_changes(database: Database) -> None:
    await claim(database, entry())
    assert await complete(database, Answer(entry(), 201, b"first")) == [True]
    assert await complete(database, Answer(entry(), 422, b"second")) == [False]
    assert await claim(database, entry()) == [Replay(201, b"first", None)]


async def test_another_input_is_refused_and_the_fields_are_named(database: Database) -> None:
    await claim(database, entry())
    other = entry(body=Body(Amount("1251", "USD"), tags=["x"]))
    for _ in range(2):
        assert await claim(database, other) == [Mismatch(["/amount/amount", "/amount/currency", "/tags"])]
        await complete(database, Answer(entry(), 201, b"{}"))
    with pytest.raises(KeyReused) as caught:
        (await claim(database, other))[0].raise_or_replay()
    assert caught.value.status == 422
    assert caught.value.extensions["fields"] == ["/amount/amount", "/amount/currency", "/tags"]


@pytest.mark.parametrize("other", [{"tenant": "acme"}, {"client": "c2"}, {"route": "POST /v1/y"}, {"key": "k2"}])
async def test_keys_are_apart_by_tenant_client_and_route(database: Database, other: dict[str, str]) -> None:
    await claim(database, entry())
    assert await claim(database, entry(**other)) == [Fresh()]


async def test_a_statement_of_ones_own_claims_as_claim_does(database: Database) -> None:
    """As a service does it that stores its intent in the same round trip."""
    done, running, mine = (uuid.uuid4() for _ in range(3))
    await claim(database, entry("done"), resource=done)
    await complete(database, Answer(entry("done"), 201, b"{}"))
    await claim(database, entry("running"), resource=running)
    other = Body(Amount("1"))
    entries = [entry("new"), entry("done"), entry("running"), entry("new"), entry("new", other), entry("done", other)]
    asked = idempotency.Claim(entries, [mine] * len(entries))
    assert asked.leaders == [0, 1, 2]
    places = [row["place"] for row in await database.fetch(idempotency.Q.claim, *asked.columns())]
    assert places == [1]
    assert await asked.outcomes(places, database) == [
        Fresh(),
        Replay(201, b"{}", done),
        Running(running),
        Running(mine),
        Mismatch(["/amount/amount"]),
        Mismatch(["/amount/amount"]),
    ]
    with pytest.raises(ValueError, match="one resource"):
        idempotency.Claim(entries, [mine])


async def test_a_rolled_back_claim_was_never_made(database: Database) -> None:
    with pytest.raises(LookupError):
        async with database.transaction() as tx:
            assert await idempotency.claim(tx, [entry()], resource=[None]) == [Fresh()]
            raise LookupError
    assert await claim(database, entry()) == [Fresh()]


async def test_a_batch_is_judged_item_by_item_in_order(database: Database) -> None:
    known, asked = uuid.uuid4(), [uuid.uuid4() for _ in range(7)]
    await claim(database, entry("done"), entry("running"), resource=known)
    await complete(database, Answer(entry("done"), 200, b"{}"))
    other = Body(Amount("9"))
    batch = [
        entry("new"),
        entry("done"),
        entry("new"),
        entry("new", other),
        entry("running"),
        entry("done", other),
        entry("done"),
    ]
    async with database.transaction() as tx:
        outcomes = await idempotency.claim(tx, batch, resource=asked)
    assert outcomes == [
        Fresh(),
        Replay(200, b"{}", known),
        Running(asked[0]),
        Mismatch(["/amount/amount"]),
        Running(known),
        Mismatch(["/amount/amount"]),
        Replay(200, b"{}", known),
    ]


async def test_of_fifty_at_once_one_is_fresh(database: Database) -> None:
    async def one() -> str:
        async with database.transaction() as tx:
            (outcome,) = await idempotency.claim(tx, [entry()], resource=[None])
            await asyncio.sleep(0.01)
            return type(outcome).__name__

    outcomes = await asyncio.gather(*(one() for _ in range(50)))
    assert sorted(outcomes) == ["Fresh"] + ["Running"] * 49


async def test_batches_with_the_same_keys_in_other_orders_do_not_deadlock(database: Database) -> None:
    keys = [f"k{number}" for number in range(600)]

    async def one(turn: int) -> int:
        order = keys[turn * 37 :] + keys[: turn * 37]
        if turn % 2:
            order.reverse()
        return sum(isinstance(outcome, Fresh) for outcome in await claim(database, *(entry(key) for key in order)))

    assert sum(await asyncio.gather(*(one(turn) for turn in range(16)))) == len(keys)


async def test_a_key_that_another_transaction_holds_is_waited_for_but_not_for_ever(
    chassis_database: ServiceDatabase,
) -> None:
    database = await chassis_database.open(lock_s=0.2)
    async with database.transaction() as tx:
        await idempotency.claim(tx, [entry()], resource=[None])
        with pytest.raises(db.Contended):
            await claim(database, entry())


async def test_running_says_when_to_ask_again(database: Database) -> None:
    await claim(database, entry())
    with pytest.raises(InProgress) as caught:
        (await claim(database, entry()))[0].raise_or_replay()
    assert caught.value.status == 409
    assert caught.value.retryable
    assert caught.value.headers["Retry-After"] == "1"


async def test_purge_forgets_old_answers_and_keeps_what_still_runs(
    database: Database, chassis_database: ServiceDatabase
) -> None:
    await claim(database, *(entry(f"k{n}") for n in range(5)), entry("running"))
    await complete(database, *(Answer(entry(f"k{n}"), 200, b"{}") for n in range(5)))
    now = datetime.now(UTC)
    assert await idempotency.purge(database, now) == 0
    assert await idempotency.purge(database, now + timedelta(days=31)) == 5
    assert [row["key"] for row in await chassis_database.query("SELECT key FROM idempotency")] == ["running"]


async def test_a_withdrawn_answer_leaves_nothing_of_itself_or_its_input(
    database: Database, chassis_database: ServiceDatabase
) -> None:
    class Gone(Problem):
        slug, title, status = "gone", "It was destroyed", 410

    resource, other = uuid.uuid4(), uuid.uuid4()
    for key, about in (("k1", resource), ("k2", other)):
        await claim(database, entry(key), resource=about)
        await complete(database, Answer(entry(key), 201, b'{"last4":"4242"}'))
    await claim(database, entry("running"), resource=resource)

    async def withdraw(tenant: str) -> int:
        async with database.transaction() as tx:
            return await idempotency.withdraw(tx, tenant, [resource], Gone())

    assert (await withdraw("another"), await withdraw("default")) == (0, 2)
    answer = Replay(410, msgspec.json.encode(Gone().document()), resource)
    # Neither the body nor an answer that comes later changes what is said.
    for key, body in (("k1", BODY), ("k1", Body(Amount("1"))), ("running", BODY)):
        assert await claim(database, entry(key, body)) == [answer]
    assert await complete(database, Answer(entry("running"), 201, b"late")) == [False]
    assert await claim(database, entry("k2")) == [Replay(201, b'{"last4":"4242"}', other)]
    rows = await chassis_database.query("SELECT digest, fields FROM idempotency WHERE resource = $1", resource)
    assert [bytes(row["digest"]) + bytes(row["fields"]) for row in rows] == [b"", b""]


async def test_nothing_stored_gives_the_input_away(database: Database, chassis_database: ServiceDatabase) -> None:
    await claim(database, entry(body={"number": "4242424242424242", "iban": "DE89370400440532013000"}))
    (row,) = await chassis_database.query("SELECT digest, fields FROM idempotency")
    assert b"4242" not in bytes(row["digest"]) + bytes(row["fields"])
    assert Digester(b"z" * 32).digest(BODY) != DIGESTER.digest(BODY)
    with pytest.raises(ValueError):
        Digester(b"short")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, json_values)
def test_digests_are_equal_exactly_when_inputs_are(one: Any, two: Any) -> None:
    def canonical(value: Any) -> bytes:
        return msgspec.json.encode(value, order="sorted")

    first, second = DIGESTER.digest(one), DIGESTER.digest(two)
    same = canonical(one) == canonical(two)
    assert (first.whole == second.whole) is same
    assert (first.differing(second.fields) == []) is same


@given(st.dictionaries(st.text(max_size=5), json_values, min_size=2, max_size=5))
def test_the_order_of_keys_makes_no_difference(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert DIGESTER.digest(value).whole == DIGESTER.digest(turned).whole
    assert DIGESTER.digest(value).differing(DIGESTER.digest(turned).fields) == []


def test_spelling_defaults_out_makes_no_difference() -> None:
    spelled = msgspec.json.decode(
        b'{"note": null, "amount": {"currency":"EUR", "amount":"1250"}, "tags": []}', type=Body
    )
    assert DIGESTER.digest(spelled) == DIGESTER.digest(BODY)


async def test_a_claim_that_is_under_way_is_waited_for_and_a_free_key_stays_free(database: Database) -> None:
    async with database.transaction() as tx:
        await idempotency.claim(tx, [entry("held")], resource=[None])
        with pytest.raises(db.Contended):
            await idempotency.until_known(database, entry("held"))
        waits = asyncio.create_task(idempotency.until_known(database, entry("held")))
        await asyncio.sleep(0.1)
        assert not waits.done()
    await waits
    assert await idempotency.look(database, entry("held")) == Running(None)
    await idempotency.until_known(database, entry("free"))
    assert await idempotency.look(database, entry("free")) is None
