"""Two replicas that send large flushes to one book take turns: who lost lets the other store several before it takes the lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tallystick.chassis.db import CheckViolation, Database
from tallystick.services.ledger.model import Result
from tallystick.services.ledger.service import Ask, Ledger
from tallystick.services.ledger.service.locked import Locked
from tallystick.services.ledger.service.poster import TURN, Poster
from tallystick.services.ledger.store import Store
from tests.services.ledger.support import Books, ledger_on, move
from tests.support.parts import ServiceDatabase


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How the flushes went that were not stored ahead of the lock."""
    seen: list[str] = []

    def told(kind: type[Any], method: str, name: str) -> None:
        plain = getattr(kind, method)

        async def way(self: Any, *given: Any) -> Any:
            seen.append(name)
            return await plain(self, *given)

        monkeypatch.setattr(kind, method, way)

    for name in ("_in_turn", "_as_new"):
        told(Poster, name, name)
    told(Locked, "post", "_locked")
    return seen


async def replicas(books: Books, service: ServiceDatabase) -> tuple[Ledger, Ledger]:
    """Two, to which storing a flush seems to take 10 ms."""
    two = books.ledger, ledger_on(await service.open(), books.clock)
    for ledger in two:
        ledger.poster._took = 0.01
    return two


async def lost(
    books: Books, service: ServiceDatabase, ways: list[str], floor: int | None = None
) -> tuple[Ledger, Ledger]:
    """Two replicas of which the second stored last: the first does not know it yet."""
    await books.open(side="debit"), await books.open(floor=floor)
    one, other = await replicas(books, service)
    await post(one, books, 40)
    await post(other, books, 40)
    del ways[:]
    return one, other


async def post(ledger: Ledger, books: Books, many: int) -> list[Result]:
    """From the first account to the second, in a flush of its own."""
    bank, customer = books.made[:2]
    commands = [move("post", bank, customer, 1) for _ in range(many)]
    answered = await ledger.poster.post(Ask("acme", "cli_test", None, commands, atomic=False))
    return list(answered.results)


async def test_two_with_much_to_do_both_get_on(books: Books, service: ServiceDatabase, ways: list[str]) -> None:
    two = await lost(books, service, ways)

    async def client(ledger: Ledger) -> list[int]:
        return [
            result.transfer.sequence
            for _ in range(15)
            for result in await post(ledger, books, 40)
            if result.transfer is not None
        ]

    numbers = await asyncio.gather(*(client(ledger) for ledger in two for _ in range(2)))
    assert sorted(number for some in numbers for number in some) == list(range(81, 81 + 4 * 15 * 40))
    assert await books.balance(books.made[1]) == (2480, 2480)
    assert 0 < ways.count("_in_turn") == ways.count("_as_new") < 30, "most are decided ahead"
    assert "_locked" not in ways
    await books.sound()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Any]]:
    """What happens at each look at the books of another replica's turn."""
    seen: list[Callable[[], Any]] = []
    plain = Store.heads

    async def heads(self: Store, source: Any, books: Any) -> Any:
        if isinstance(source, Database) and seen:
            await seen.pop(0)()
        return await plain(self, source, books)

    monkeypatch.setattr(Store, "heads", heads)
    return seen


async def test_nobody_is_waited_for_who_does_nothing(
    books: Books, service: ServiceDatabase, ways: list[str], looks: list[Callable[[], Any]]
) -> None:
    one, _ = await lost(books, service, ways)

    async def nothing() -> None: ...

    looks += [nothing] * (TURN + 5)
    assert {result.status for result in await post(one, books, 40)} == {"posted"}
    assert ways == ["_in_turn", "_as_new"]
    assert len(looks) == TURN + 5 - 2, "two looks say that the books stand still"
    await books.sound()


async def test_a_turn_ends_whatever_the_other_does(
    books: Books, service: ServiceDatabase, ways: list[str], looks: list[Callable[[], Any]]
) -> None:
    one, other = await lost(books, service, ways)
    stored = 0

    async def on() -> None:
        nonlocal stored
        ahead = looks[:]
        looks.clear()
        await post(other, books, 20)
        looks.extend(ahead)
        stored += 1

    looks += [on] * (TURN + 5)
    assert {result.status for result in await post(one, books, 40)} == {"posted"}
    assert stored == TURN
    looks.clear()
    assert ways == ["_in_turn", "_as_new"]
    await books.sound()


async def test_while_others_have_their_turn_nothing_is_decided_in_vain(
    books: Books,
    service: ServiceDatabase,
    ways: list[str],
    looks: list[Callable[[], Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second request waits for the turn that the first lets the other have, and then follows the first, ahead of the lock, while that is stored."""
    one, _ = await lost(books, service, ways)
    plain, follows = Store.save, asyncio.Event()

    async def save(self: Store, at: Any, *more: Any) -> None:
        if isinstance(at, Database):
            follows.set()
        else:
            await follows.wait()
        await plain(self, at, *more)

    monkeypatch.setattr(Store, "save", save)
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await go.wait()

    looks.append(wait)
    first = asyncio.create_task(post(one, books, 40))
    await begun.wait()
    second = asyncio.create_task(post(one, books, 40))
    while one.poster._large.in_flight < 2:
        await asyncio.sleep(0)
    go.set()
    for results in await asyncio.gather(first, second):
        assert {result.status for result in results} == {"posted"}
    assert ways == ["_in_turn", "_as_new"]
    await books.sound()


async def test_what_was_decided_on_a_turn_that_is_not_stored_is_decided_again(
    books: Books, service: ServiceDatabase, ways: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = await lost(books, service, ways, floor=0)
    plain, failed, follows = Store.save, asyncio.Event(), asyncio.Event()

    async def save(self: Store, at: Any, *more: Any) -> None:
        if isinstance(at, Database):
            follows.set()
        elif not failed.is_set():
            failed.set()
            await follows.wait()  # the second, which was decided on this one
            raise CheckViolation("save", "23514", "planted", "")
        await plain(self, at, *more)

    monkeypatch.setattr(Store, "save", save)
    answers = await asyncio.gather(*(post(one, books, 40) for _ in range(2)))
    assert [{result.status for result in results} for results in answers] == [{"posted"}] * 2
    assert failed.is_set()
    assert ways == ["_in_turn", "_as_new", "_locked"]
    assert await books.balance(books.made[1]) == (160, 160)
    await books.sound()
