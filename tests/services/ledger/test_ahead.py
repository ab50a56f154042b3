"""Deciding ahead of the lock: what a replica knows of the books is believed only while they stand still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import msgspec
import pytest

from tallystick.chassis.db import CheckViolation, CommitUnknown, Query, Transaction
from tallystick.chassis.idempotency import Answer, Entry, InProgress, Replay, claim, complete, look
from tallystick.kernel import ids
from tallystick.services.ledger.model import ApprovalRule, Command, Header, Result
from tallystick.services.ledger.service import Ask, Ledger
from tallystick.services.ledger.service.locked import Locked
from tallystick.services.ledger.service.order import Place
from tallystick.services.ledger.service.poster import Poster
from tallystick.services.ledger.store import Store, Writing
from tests.services.ledger.support import Books, ledger_on, move
from tests.support.parts import ServiceDatabase


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many asks each flush had that was decided under the lock."""
    seen: list[int] = []
    plain = Locked.post

    async def post(self: Locked, asks: list[Any], *more: Any) -> Any:
        seen.append(len(asks))
        return await plain(self, asks, *more)

    monkeypatch.setattr(Locked, "post", post)
    return seen


@pytest.fixture
def as_new(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The same of those that were decided under the lock as if nobody had their ids and keys."""
    seen: list[int] = []
    plain = Poster._as_new

    async def _as_new(self: Poster, works: list[Any], place: Place) -> Any:
        seen.append(len(works))
        return await plain(self, works, place)

    monkeypatch.setattr(Poster, "_as_new", _as_new)
    return seen


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many asks each flush had that was decided ahead of the lock."""
    seen: list[int] = []
    plain = Poster._plan

    async def _plan(self: Poster, works: list[Any]) -> Any:
        plan = await plain(self, works)
        seen.append(len(works))
        return plan

    monkeypatch.setattr(Poster, "_plan", _plan)
    return seen


async def until(ready: Callable[[], bool]) -> None:
    while not ready():
        await asyncio.sleep(0.001)


async def funded(books: Books, amount: int = 100) -> tuple[Any, Any]:
    """A customer with a floor of zero and this much, and a bank."""
    bank, customer = await books.open(side="debit"), await books.open(floor=0)
    await books.post(move("post", bank, customer, amount))
    return bank, customer


async def other_replica(books: Books, service: ServiceDatabase) -> Ledger:
    return ledger_on(await service.open(), books.clock)


@asynccontextmanager
async def kept_waiting(books: Books, service: ServiceDatabase) -> AsyncIterator[Transaction]:
    """The next flush is decided under its book's lock, which this transaction has."""
    books.ledger.poster._sit_out = 1
    other = await service.open()
    async with other.transaction() as tx:
        await Store().lock_books(tx, [await books.ledger.poster.book("acme")])
        yield tx


async def post(ledger: Ledger, *commands: Command, entry: Entry | None = None) -> list[Result]:
    answered = await ledger.poster.post(
        Ask(
            "acme",
            "cli_test",
            None,
            commands,
            atomic=False,
            entry=entry,
            render=lambda _results, _receipt: (201, b"{}"),
        )
    )
    return list(answered.results)


def reasons(results: list[Result]) -> list[str | None]:
    return [None if result.reason is None else str(result.reason) for result in results]


async def test_one_replica_alone_needs_no_second_try(books: Books, locked: list[int]) -> None:
    bank, customer = await funded(books)
    hold = move("hold", customer, bank, 30)
    await books.post(hold)
    await books.post(Command(kind="capture", id=ids.transfers.new(), target=hold.id))
    await asyncio.gather(*(books.post(move("post", customer, bank, 1)) for _ in range(50)))
    assert locked == []
    assert await books.balance(customer) == (20, 20)
    await books.sound()


async def test_a_thousand_and_a_thousand_spend_the_money_once(books: Books, locked: list[int]) -> None:
    """Two large requests overlap: the second is decided while the first is stored, on what the first left."""
    bank, customer = await funded(books, 1000)
    batches = [[move("post", customer, bank, 1) for _ in range(700)] for _ in range(3)]
    answers = await asyncio.gather(*(post(books.ledger, *batch) for batch in batches))
    posted = [result for results in answers for result in results if result.status == "posted"]
    assert len(posted) == 1000
    assert locked == []
    assert await books.balance(customer) == (0, 0)
    await books.sound()


@pytest.mark.parametrize("again", ["the same", "another amount"])
async def test_what_was_posted_takes_nothing_from_a_unit_that_it_comes_again_with(books: Books, again: str) -> None:
    """Nothing of a refused unit is stored under the ids of what was undone with it, so nothing that is stored finds out that they are in use."""
    bank, customer = await funded(books)
    first, second = move("post", customer, bank, 30), move("post", customer, bank, 60)
    await books.post(first)
    for _ in range(4):
        await books.post(move("post", bank, customer, 1))  # it is out of memory
    unit = (first if again == "the same" else msgspec.structs.replace(first, amount=31), second)
    results = list(await books.post(*unit, atomic=True))
    if again == "the same":
        assert [(result.status, result.existed) for result in results] == [("posted", True), ("posted", False)]
        assert await books.balance(customer) == (14, 14)
    else:
        assert reasons(results) == ["exists_with_different_amount", "linked_transfer_failed"]
        assert reasons(await post(books.ledger, second)) == [None]
    await books.sound()


async def test_a_transaction_that_was_posted_is_known_though_one_more_transfer_of_it_is_refused(books: Books) -> None:
    bank, customer = await funded(books)
    own = ids.transactions.new()

    async def transaction(amount: int) -> tuple[Result, Command]:
        leg = move("post", customer, bank, amount, transaction=own)
        ask = Ask("acme", "cli_test", None, [leg], atomic=True, header=Header(id=own))
        return (await books.ledger.poster.post(ask)).results[0], leg

    assert (await transaction(1))[0].status == "posted"
    for _ in range(4):
        await books.post(move("post", bank, customer, 1))
    refused, leg = await transaction(1000)
    assert refused.reason == "exists_with_different_transaction"
    assert reasons(await post(books.ledger, move("post", customer, bank, 1, id=leg.id))) == [None], "nothing is pinned"
    await books.sound()


async def test_what_another_replica_posted_counts(
    books: Books, service: ServiceDatabase, locked: list[int], as_new: list[int]
) -> None:
    bank, customer = await funded(books)
    other = await other_replica(books, service)
    assert reasons(await post(other, move("post", customer, bank, 80))) == [None]
    assert reasons(await post(books.ledger, move("post", customer, bank, 80))) == ["insufficient_funds"]
    assert (as_new, locked) == ([1], [])
    await books.sound()


async def test_a_key_that_another_replica_has_answered_is_answered_as_it_was(
    books: Books, service: ServiceDatabase, locked: list[int], as_new: list[int]
) -> None:
    """Also where it is taken for new: the key refuses that, and nothing of it is stored."""
    bank, customer = await funded(books)
    other = await other_replica(books, service)
    key = Entry("acme", "cli_test", "POST /v1/transfers", "one key", books.ledger.digester.digest({"amount": 1}))
    first = move("post", customer, bank, 10)
    assert reasons(await post(other, first, entry=key)) == [None]
    assert await post(books.ledger, move("post", customer, bank, 10), entry=key) == []  # the stored answer
    assert (as_new, locked) == ([1], [1])
    # Its own id instead, without the key: the transfer that is there.
    (again,) = await post(books.ledger, first)
    assert (again.status, again.existed) == ("posted", True)
    assert await books.balance(customer) == (90, 90)
    await books.sound()


async def ruled(books: Books, above: int) -> None:
    rule = ApprovalRule("EUR", above, 1, ("cli_checker",), 60)
    await books.ledger.approvals.set_rules(("acme", "cli_test", None), "main", [rule])


async def test_an_answer_is_stored_though_nothing_else_is(books: Books) -> None:
    """Of a flush whose commands were all refused, and not for good. Found by the simulation."""
    key = Entry("acme", "cli_test", "POST /v1/transfers", "one key", books.ledger.digester.digest({"amount": 11}))
    writing = Writing([], [], [], [], answers=[Answer(key, 201, b"{}")], about=[None])
    await Store().save(books.database, writing, books.clock.now())
    assert await look(books.database, key) == Replay(201, b"{}", None)


async def test_nobody_is_asked_about_what_is_posted(books: Books, service: ServiceDatabase) -> None:
    """Also a replica that has not heard of it, and takes ids for new."""
    bank, customer = await funded(books)
    other = await other_replica(books, service)
    first, no = move("post", customer, bank, 20), move("post", customer, bank, 1000)
    assert reasons(await post(books.ledger, first, no)) == [None, "insufficient_funds"]
    await ruled(books, 10)
    for ledger in (other, books.ledger):
        (again, still) = await post(ledger, first, no)
        assert (again.status, again.existed) == ("posted", True)
        assert reasons([still]) == ["insufficient_funds"]
    assert await books.balance(customer) == (80, 80)


async def test_an_account_that_another_replica_closed_is_closed(books: Books, service: ServiceDatabase) -> None:
    bank, customer = await funded(books)
    other = await other_replica(books, service)
    await other.accounts.close("acme", "cli_test", None, customer)
    assert reasons(await post(books.ledger, move("post", bank, customer, 1))) == ["account_closed"]
    await books.sound()


@pytest.mark.parametrize(("end", "reason"), [("close", "account_closed"), ("freeze", "account_frozen")])
async def test_an_account_that_was_named_in_another_book_is_read_anew_in_its_own(
    books: Books, service: ServiceDatabase, locked: list[int], end: str, reason: str
) -> None:
    """It is not of that book, so nobody noted where its own stood when it was read. Found by the simulation."""
    bank, _ = await funded(books)
    other = await other_replica(books, service)
    await books.ledger.books.open(("acme", "cli_test", None), "two", None, "strict")
    there, customer = await books.open(side="debit", book="two"), await books.open(book="two")
    assert reasons(await post(books.ledger, move("post", bank, customer, 1))) == ["account_not_found"]
    if end == "close":
        await other.accounts.close("acme", "cli_test", None, customer, book="two")
    else:
        await other.accounts.freeze(("acme", "cli_test", None), customer, frozen=True, book="two")
    ask = Ask("acme", "cli_test", None, [move("post", there, customer, 1)], atomic=False, book="two")
    assert reasons(list((await books.ledger.poster.post(ask)).results)) == [reason]
    assert locked == []
    await books.sound()


async def test_plain_postings_and_refusals_are_one_statement(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, customer = await funded(books)
    plain, said = books.database._single, []

    async def single(query: Query, *more: Any) -> Any:
        said.append(query.name)
        return await plain(query, *more)

    monkeypatch.setattr(books.database, "_single", single)
    monkeypatch.setattr(books.database, "transaction", None)
    key = Entry("acme", "cli_test", "POST /v1/transfers", "one key", books.ledger.digester.digest({"amount": 1}))
    results = await post(books.ledger, move("post", customer, bank, 60), move("post", customer, bank, 60), entry=key)
    assert reasons(results) == [None, "insufficient_funds"]
    assert said == ["save"]
    monkeypatch.undo()
    await books.sound()


async def test_an_id_that_another_replica_has_just_refused_is_refused(
    books: Books, service: ServiceDatabase, locked: list[int]
) -> None:
    """The refusal moved no sequence and is not looked for by id, since what was to be refused too is refused again."""
    bank, customer = await funded(books)
    other = await other_replica(books, service)
    command = move("post", customer, bank, 150)
    assert reasons(await post(other, command)) == ["insufficient_funds"]
    (again,) = await post(books.ledger, move("post", customer, bank, 170, id=command.id))
    assert again.reason == "id_already_failed"
    assert locked == [1]
    await books.sound()


async def test_an_id_that_was_refused_stays_refused(books: Books, service: ServiceDatabase) -> None:
    """Also when the books stand where they were known to stand since: then the look-up of refused ids finds it."""
    bank, customer = await funded(books)
    other = await other_replica(books, service)
    command = move("post", customer, bank, 150)
    assert reasons(await post(other, command)) == ["insufficient_funds"]
    await books.post(move("post", bank, customer, 50))
    await books.post(move("post", bank, customer, 50))
    assert reasons(await post(books.ledger, command)) == ["insufficient_funds"]
    assert await books.balance(customer) == (200, 200)
    await books.sound()


async def test_an_id_that_was_posted_is_not_refused(books: Books, service: ServiceDatabase) -> None:
    bank, customer = await funded(books)
    other = await other_replica(books, service)
    command = move("post", customer, bank, 100)
    assert reasons(await post(other, command)) == [None]
    (again,) = await post(books.ledger, command)
    assert (again.status, again.existed) == ("posted", True)
    # Known to be spent by now, and still: the id tells what became of it.
    (again,) = await post(books.ledger, command)
    assert (again.status, again.existed) == ("posted", True)
    await books.sound()


async def test_a_key_is_used_once_whatever_overlaps(books: Books, locked: list[int]) -> None:
    bank, customer = await funded(books)

    def entry(amount: int) -> Entry:
        digest = books.ledger.digester.digest({"amount": amount})
        return Entry("acme", "cli_test", "POST /v1/transfers", "one key", digest)

    async def once() -> list[Result]:
        return await post(books.ledger, move("post", customer, bank, 7), entry=entry(7))

    await asyncio.gather(*(once() for _ in range(10)), return_exceptions=True)
    await once()
    assert await books.balance(customer) == (93, 93)
    assert locked
    await books.sound()


async def test_what_was_decided_on_a_failed_flush_is_decided_again(
    books: Books, monkeypatch: pytest.MonkeyPatch, locked: list[int]
) -> None:
    """The first large request fails while the second has been decided on what it would have left."""
    bank, customer = await funded(books, 1000)
    plain, failed, tried = Store.save, asyncio.Event(), asyncio.Event()

    async def save(self: Store, tx: Transaction, *more: Any) -> None:
        if not failed.is_set():
            failed.set()
            await tried.wait()  # the second, and in vain: it was decided on this one
            raise CheckViolation("save", "23514", "planted", "")
        try:
            await plain(self, tx, *more)
        finally:
            tried.set()

    monkeypatch.setattr(Store, "save", save)
    batches = [[move("post", customer, bank, 1) for _ in range(600)] for _ in range(2)]
    answers = await asyncio.gather(*(post(books.ledger, *batch) for batch in batches))
    assert [sum(result.status == "posted" for result in results) for results in answers] == [600, 400]
    assert locked == [1], "the second is decided ahead again"
    await books.sound()


async def test_a_refusal_that_was_not_stored_is_not_repeated_from_memory(
    books: Books, monkeypatch: pytest.MonkeyPatch, planned: list[int]
) -> None:
    bank, customer = await funded(books)
    commands = [move("post", customer, bank, 1000 + nth) for nth in range(20)]
    plain, failed = Store.save, asyncio.Event()

    async def save(self: Store, tx: Transaction, *more: Any) -> None:
        if not failed.is_set():
            failed.set()
            await until(lambda: len(planned) == 2)
            raise CheckViolation("save", "23514", "planted", "")
        await plain(self, tx, *more)

    planned.clear()
    monkeypatch.setattr(Store, "save", save)
    await asyncio.gather(post(books.ledger, *commands), post(books.ledger, *commands))
    for command in commands:
        assert (await books.ledger.transfer("acme", command.id)).rejections
    await books.sound()


async def test_what_is_forgotten_while_the_next_flush_asks_is_asked_again(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the simulation: the next flush went on with an empty memory, and its client got an internal error."""
    bank, customer = await funded(books)
    other = await books.open()
    save, learn, failed, asked = Store.save, Store.learn, asyncio.Event(), asyncio.Event()

    head = books.ledger.poster._head

    async def fails_once(self: Store, tx: Transaction, *more: Any) -> None:
        if not failed.is_set():
            await asked.wait()
            failed.set()
            raise CheckViolation("save", "23514", "planted", "")
        await save(self, tx, *more)

    async def waits(self: Store, database: Any, keys: Any, accounts: list[Any], *more: Any) -> None:
        if other in accounts and not asked.is_set():
            epoch = head.epoch
            asked.set()
            await failed.wait()
            await until(lambda: head.epoch != epoch)
        await learn(self, database, keys, accounts, *more)

    monkeypatch.setattr(Store, "save", fails_once)
    monkeypatch.setattr(Store, "learn", waits)
    first = [move("post", customer, bank, 1) for _ in range(20)]
    second = [move("post", bank, other, 1) for _ in range(20)]
    answers = await asyncio.gather(post(books.ledger, *first), books.post(*second, atomic=True))
    assert {result.status for results in answers for result in results} == {"posted"}
    assert failed.is_set()
    await books.sound()


# ---- sent while the one before is being stored -----------------------------------------------------------------------------


class Slow(dict[int, "asyncio.Future[None]"]):
    """Flushes, by their number since the first one is in here, begin to be stored only when they are let go; an exception is what becomes of them.
    `begun` and `tried`: those that came so far, and that were stored or not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begun: set[int] = set()
        self.tried: set[int] = set()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    held = Slow()
    plain, seen = Store.save, count()

    async def save(self: Store, at: Any, *more: Any) -> None:
        number = next(seen) if held else -1
        held.begun.add(number)
        if (gate := held.get(number)) is not None:
            await gate
        try:
            await plain(self, at, *more)
        finally:
            held.tried.add(number)

    monkeypatch.setattr(Store, "save", save)
    return held


def large(*first: Command, account: Any, other: Any) -> list[Command]:
    """So many that they are a flush of their own."""
    return [*first, *(move("post", account, other, 1) for _ in range(17 - len(first)))]


async def test_a_flush_is_sent_while_the_one_before_it_is_stored(
    books: Books, service: ServiceDatabase, monkeypatch: pytest.MonkeyPatch, locked: list[int]
) -> None:
    """Both wait for the book, which somebody else has; then one after the other has it."""
    bank, customer = await funded(books)
    sent: list[int] = []
    plain = books.database._single

    async def single(query: Query, *more: Any) -> Any:
        sent.append(1)
        return await plain(query, *more)

    monkeypatch.setattr(books.database, "_single", single)
    other = await service.open()
    async with other.transaction() as tx:
        await Store().lock_books(tx, [await books.ledger.poster.book("acme")])
        batches = [post(books.ledger, *large(account=customer, other=bank)) for _ in range(4)]
        answers = asyncio.gather(*batches)
        async with asyncio.timeout(30):
            while len(sent) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert sent == [1, 1]
    posted = await answers
    assert locked == []
    assert [result.transfer.sequence for results in posted for result in results if result.transfer] == [
        *range(2, 2 + 4 * 17)
    ]
    assert await books.balance(customer) == (100 - 4 * 17, 100 - 4 * 17)
    await books.sound()


async def test_a_flush_that_comes_before_the_one_it_was_decided_on_waits_for_it(
    books: Books, slow: Slow, locked: list[int], as_new: list[int]
) -> None:
    bank, customer = await funded(books)
    slow[0] = asyncio.get_running_loop().create_future()
    batches = [asyncio.create_task(post(books.ledger, *large(account=customer, other=bank))) for _ in range(2)]
    await until(lambda: 1 in slow.tried)
    assert not any(batch.done() for batch in batches)
    slow[0].set_result(None)
    await asyncio.gather(*batches)
    assert (as_new, locked) == ([], [])
    assert await books.balance(customer) == (66, 66)
    await books.sound()


async def test_what_was_decided_on_a_flush_that_is_not_stored_is_not_stored_on_another_of_its_size(
    books: Books, service: ServiceDatabase, slow: Slow
) -> None:
    """The numbers are the same, and the book is another: what was refused for want of money was not refused by it."""
    bank, customer = await funded(books)
    other = await other_replica(books, service)
    slow[0] = asyncio.get_running_loop().create_future()
    spends = large(move("post", customer, bank, 84), account=customer, other=bank)
    first = asyncio.create_task(post(books.ledger, *spends))
    wants = large(account=customer, other=bank)
    slow[1] = asyncio.get_running_loop().create_future()
    second = asyncio.create_task(post(books.ledger, *wants))
    await until(lambda: slow.begun >= {0, 1})  # both are decided: of the second all is refused
    assert len(await post(other, *large(account=bank, other=customer))) == 17
    slow[1].set_result(None)
    await until(lambda: 1 in slow.tried)
    slow[0].set_exception(CheckViolation("save", "23514", "planted", ""))
    assert {result.status for results in await asyncio.gather(first, second) for result in results} == {"posted"}
    await books.sound()


async def test_what_two_flushes_before_is_not_stored_yet_is_known(
    books: Books, slow: Slow, locked: list[int], planned: list[int]
) -> None:
    bank, customer = await funded(books)
    planned.clear()
    slow[0] = asyncio.get_running_loop().create_future()
    hold = move("hold", customer, bank, 30)
    capture = Command(kind="capture", id=ids.transfers.new(), target=hold.id)
    first = asyncio.create_task(post(books.ledger, *large(hold, account=bank, other=customer)))
    await until(lambda: 0 in slow.begun)
    second = asyncio.create_task(post(books.ledger, *large(account=bank, other=customer)))
    await until(lambda: 1 in slow.begun)
    third = asyncio.create_task(post(books.ledger, *large(capture, account=bank, other=customer)))
    await until(lambda: len(planned) == 3)
    slow[0].set_result(None)
    answers = await asyncio.gather(first, second, third)
    assert {result.status for results in answers for result in results} == {"posted", "held"}
    assert locked == []
    await books.sound()


async def test_a_commit_without_an_answer_is_looked_up(
    books: Books, monkeypatch: pytest.MonkeyPatch, locked: list[int]
) -> None:
    bank, customer = await funded(books)
    plain, lost = books.database._single, asyncio.Event()

    async def single(query: Query, *more: Any) -> Any:
        answer = await plain(query, *more)
        if query.writes and not lost.is_set():
            lost.set()
            raise CommitUnknown
        return answer

    monkeypatch.setattr(books.database, "_single", single)
    (result,) = await post(books.ledger, move("post", customer, bank, 60))
    assert result.status == "posted"
    assert locked == [1]
    assert await books.balance(customer) == (40, 40)
    await books.sound()


async def test_the_books_are_locked_before_the_keys(books: Books, service: ServiceDatabase) -> None:
    """The other way round two replicas, of which one decides ahead and one under the lock, would wait for each other."""
    bank, customer = await funded(books)
    key = Entry("acme", "cli_test", "POST /v1/transfers", "one key", books.ledger.digester.digest({"amount": 1}))
    async with kept_waiting(books, service) as tx:
        waiting = asyncio.create_task(post(books.ledger, move("post", customer, bank, 1), entry=key))
        await service.waiting()
        assert not waiting.done()
        await claim(tx, [key], resource=[None])
        assert await complete(tx, [Answer(key, 201, b"{}")]) == [True]
    answered = await waiting
    assert answered == []  # the stored answer
    assert await books.balance(customer) == (100, 100)


async def test_what_comes_while_the_lock_is_waited_for_is_stored_along(
    books: Books, service: ServiceDatabase, locked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would have to wait for the lock once more, behind the other replicas."""
    bank, customer = await funded(books)
    others = await books.open(tenant="other", side="debit"), await books.open(tenant="other")
    plain, saved = Store.save, []

    async def save(self: Store, at: Any, writing: Writing, *more: Any) -> None:
        saved.append(len(writing.transfers))
        await plain(self, at, writing, *more)

    monkeypatch.setattr(Store, "save", save)
    async with kept_waiting(books, service):
        waiting = [asyncio.create_task(post(books.ledger, move("post", customer, bank, 1)))]
        await service.waiting()
        elsewhere = asyncio.create_task(books.post(move("post", *others, 1), tenant="other"))
        waiting += [asyncio.create_task(post(books.ledger, move("post", customer, bank, 1))) for _ in range(5)]
        await until(lambda: books.ledger.poster._small.waiting == 6)
    assert [result.status for results in await asyncio.gather(*waiting) for result in results] == ["posted"] * 6
    assert [result.status for result in await elsewhere] == ["posted"]
    assert (saved, locked) == ([6, 1], []), "of a book that is not locked nothing comes along"
    await books.sound()


async def test_a_key_twice_among_those_that_come_along_has_one_effect(
    books: Books, service: ServiceDatabase, locked: list[int]
) -> None:
    bank, customer = await funded(books)
    key = Entry("acme", "cli_test", "POST /v1/transfers", "one key", books.ledger.digester.digest({"amount": 1}))
    async with kept_waiting(books, service):
        waiting = [asyncio.create_task(post(books.ledger, move("post", customer, bank, 1), entry=key))]
        await service.waiting()
        waiting += [
            asyncio.create_task(post(books.ledger, move("post", customer, bank, 1), entry=key)),
            asyncio.create_task(post(books.ledger, move("post", customer, bank, 5))),
        ]
        await until(lambda: books.ledger.poster._small.waiting == 2)
    first, second, third = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(second, InProgress)
    assert [result.status for answer in (first, third) if isinstance(answer, list) for result in answer] == [
        "posted"
    ] * 2
    assert locked == [3]
    assert await books.balance(customer) == (94, 94)
    await books.sound()


async def test_what_is_dated_back_comes_along_under_the_lock(
    books: Books, service: ServiceDatabase, locked: list[int]
) -> None:
    """It is judged by past days, which who decides as if all were new does not look at."""
    bank, customer = await funded(books)
    books.clock.advance(timedelta(days=3))
    async with kept_waiting(books, service):
        first = asyncio.create_task(post(books.ledger, move("post", customer, bank, 60)))
        await service.waiting()
        since = books.clock.now() - timedelta(days=5)
        own = ids.transactions.new()
        command = move("post", customer, bank, 40, effective_at=since, transaction=own)
        header = Header(id=own, effective_at=since)
        ask = Ask("acme", "cli_test", None, [command], atomic=True, header=header)
        second = asyncio.create_task(books.ledger.poster.post(ask))
        await until(lambda: books.ledger.poster._small.waiting == 1)
    assert [result.status for result in await first] == ["posted"]
    assert [result.reason for result in (await second).results] == ["past_limit_broken"]
    assert locked == [2]
    await books.sound()
