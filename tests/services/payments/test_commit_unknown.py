"""A COMMIT without an answer: who claimed finds out what was stored and goes on, at once and alone, or nothing was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from tallystick.chassis.db import CommitUnknown, DatabaseUnavailable
from tests.services.payments.support import Replica, Town, by_card, money, slug
from tests.support.http import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Act = Callable[..., Awaitable[Answer]]
#: What is claimed -> how its work ends.
ENDS: Final = {"create": "settled", "capture": "settled", "cancel": "canceled", "refund": "succeeded"}
ACTS: Final = pytest.mark.parametrize("what", ENDS)
#: What takes the place of a commit, or of the flush that is one. Gets the real one, and the connection if there is one.
Instead = Callable[[Callable[[], Awaitable[Any]], Any], Awaitable[Any]]


async def _prepared(town: Town, what: str) -> tuple[Act, str]:
    """The request whose claim will get no answer, and the account that it pays to or from."""
    shop = await town.account()
    if what == "create":
        more: dict[str, Any] = {"description": "a tide gauge", "reference": "o-1", "metadata": {"order": "1"}}
        body = by_card(await town.card(), shop, **more)
        return lambda **options: town.pay(body, key="k", **options), shop
    if what == "refund":
        made = await town.paid(by_card(await town.card(), shop))
        return lambda **options: town.refund(made["id"], 400, key="k", **options), shop
    made = await town.paid(by_card(await town.card(), shop, capture="manual"), status="authorized")
    act = town.capture if what == "capture" else town.cancel
    return lambda **options: act(made["id"], key="k", **options), shop


def _balance(what: str, *, done: bool = True) -> int:
    after = {"create": 1000, "capture": 1000, "cancel": 0, "refund": 600}[what]
    return after if done else {"refund": 1000}.get(what, 0)


@contextmanager
def _no_answer(at: Replica, what: str, instead: Instead) -> Iterator[None]:
    """The next claim's commit is done by `instead`, which raises CommitUnknown."""
    database: Any = at.api.payments._database
    batcher: Any = at.api.payments._journal._open
    flush = batcher._flush

    async def flush_once(openings: Any) -> Any:
        batcher._flush = flush
        return await instead(lambda: flush(openings), None)

    async def commit_once(connection: Any) -> Any:
        del database._commit
        return await instead(lambda: database._commit(connection), connection)

    if what == "create":
        batcher._flush = flush_once
    else:
        database._commit = commit_once
    try:
        yield
    finally:
        batcher._flush = flush
        database.__dict__.pop("_commit", None)


async def _stored(real: Callable[[], Awaitable[Any]], connection: Any) -> None:
    await real()
    raise CommitUnknown


@ACTS
async def test_what_was_stored_is_gone_on_with(town: Town, what: str) -> None:
    """It was left to the worker, after the lease: until then a repeat was told that somebody is at work."""
    act, shop = await _prepared(town, what)
    with _no_answer(town.one, what, _stored):
        first = await act()
    assert (first.status, first.json["status"]) == (201 if what in ("create", "refund") else 200, ENDS[what])
    again = await act()
    assert (again.content, again.header("idempotent-replayed")) == (first.content, "true")
    assert (await town.balance(shop))[0] == _balance(what)
    await town.sound()


@ACTS
async def test_what_was_not_stored_leaves_the_key_free(town: Town, what: str) -> None:
    act, shop = await _prepared(town, what)

    async def lost(real: Callable[[], Awaitable[Any]], connection: Any) -> None:
        if connection is not None:
            await town.one.api.payments._database._roll_back(connection)
        raise CommitUnknown

    with _no_answer(town.one, what, lost):
        answer = await act()
    assert (answer.status, slug(answer), answer.json["retryable"]) == (503, "outcome-unknown", True)
    assert (await town.balance(shop))[0] == _balance(what, done=False)
    assert (await act()).json["status"] == ENDS[what]
    assert (await town.balance(shop))[0] == _balance(what)
    await town.sound()


@ACTS
async def test_a_commit_that_is_still_under_way_is_waited_for(town: Town, what: str) -> None:
    """The server was slow to store, not gone: what it stores a moment later is not to be seen yet."""
    act, shop = await _prepared(town, what)
    database = town.one.api.payments._database
    pool: Any = database._pool
    under_way: list[asyncio.Task[Any]] = []

    async def slowly(real: Callable[[], Awaitable[Any]], connection: Any) -> None:
        if connection is None:
            began = asyncio.Event()

            class Late:
                async def fetch(self, *args: Any) -> Any:
                    async with database.transaction() as tx:
                        rows = await tx.fetch(*args)
                        began.set()
                        await asyncio.sleep(0.5)
                    return rows

            journal: Any = town.one.api.payments._journal
            journal._database = Late()
            task: asyncio.Task[Any] = asyncio.ensure_future(real())
            await began.wait()
            journal._database = database
        else:
            pool.release = lambda each: None if each is connection else type(pool).release(pool, each)

            async def later() -> None:
                await asyncio.sleep(0.5)
                await real()
                del pool.release
                pool.release(connection)

            task = asyncio.create_task(later())
        under_way.append(task)
        raise CommitUnknown

    with _no_answer(town.one, what, slowly):
        first = await act()
    await under_way[0]
    assert first.json["status"] == ENDS[what], first.content
    assert (await act()).content == first.content
    assert (await town.balance(shop))[0] == _balance(what)
    await town.sound()


@ACTS
async def test_what_another_has_taken_over_is_left_to_it(town: Town, what: str) -> None:
    """The answer came so late that the lease was over: there are never two at work."""
    act, shop = await _prepared(town, what)
    other = await town.replica()

    async def late(real: Callable[[], Awaitable[Any]], connection: Any) -> None:
        await real()
        town.later()
        assert await other.resume() == 1
        raise CommitUnknown

    town.one.effects.done = []
    with _no_answer(town.one, what, late):
        answer = await act()
    assert (answer.status, slug(answer)) == (503, "outcome-unknown")
    assert town.one.effects.done == []
    again = await act()
    assert (again.json["status"], again.header("idempotent-replayed")) == (ENDS[what], "true")
    assert (await town.balance(shop))[0] == _balance(what)
    await town.sound()


@ACTS
async def test_what_can_not_be_found_out_in_time_is_found_out_later(
    town: Town, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The request's time ends while the database is away; the lease is still this process's."""
    act, shop = await _prepared(town, what)
    store, back = town.one.api.payments._store, asyncio.Event()
    look = "payment_by_id" if what == "create" else "payment_for_update"
    real_look = getattr(store, look)

    async def away(*args: Any) -> Any:
        if not back.is_set():
            raise DatabaseUnavailable
        return await real_look(*args)

    async def short_of_time(real: Callable[[], Awaitable[Any]], connection: Any) -> None:
        await real()
        for each in (town.one.api.payments._store, town.one.api.refunds._store):
            monkeypatch.setattr(each, look, away)
        raise CommitUnknown

    pauses = "tallystick.services.payments.service.work.WRITE_PAUSES"
    monkeypatch.setattr(pauses, (0.05, 0.05))
    monkeypatch.setattr("tallystick.chassis.web.bound.Bound.timeout", 2.0, raising=False)
    with _no_answer(town.one, what, short_of_time):
        answer = await act()
    assert (answer.status, slug(answer)) == (503, "outcome-unknown")
    assert slug(await act()) == "request-in-progress"
    back.set()
    await town.one.work.drain()
    again = await act()
    assert (again.json["status"], again.header("idempotent-replayed")) == (ENDS[what], "true")
    assert (await town.balance(shop))[0] == _balance(what)
    await town.sound()


async def test_a_refusal_without_an_answer_is_asked_for_again(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop))
    acts: list[Act] = [
        lambda: town.capture(made["id"], key="c"),
        lambda: town.cancel(made["id"], key="v"),
        lambda: town.call("POST", "/v1/refunds", {"payment": made["id"], "amount": money(1001)}, key="r"),
    ]
    for act in acts:
        with _no_answer(town.one, "refusal", _stored):
            assert slug(await act()) == "outcome-unknown"
        again = await act()
        assert (again.status in (409, 422), again.header("idempotent-replayed")) == (True, "true")
    await town.sound()
