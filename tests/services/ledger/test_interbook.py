"""Money between books on two real PostgreSQL servers: whatever breaks in between, it is in one of them, once, and both say the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from tallystick.chassis.db import CommitUnknown
from tallystick.chassis.idempotency import Entry
from tallystick.contracts.ledger.problems import BookElsewhere, BookNotFound, TransferExists, TransferRefused
from tallystick.kernel import ids
from tallystick.kernel.problem import InvalidRequest
from tallystick.services.ledger.model import (
    AccountRow,
    BookAccount,
    BookRow,
    Command,
    NewAccount,
    Told,
    arrival,
    transit_account,
)
from tallystick.services.ledger.service import Ask, Poster
from tests.conftest import DatabaseFor
from tests.services.ledger.proxy import wire_to
from tests.services.ledger.shards import HERE, TENANT, THERE, Shards, shards_on
from tests.services.ledger.support import move
from tests.support.parts import Server, ServiceDatabase, remove, short_directory


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def second_server() -> AsyncIterator[Server]:
    directory = short_directory()
    server = Server(directory, settings={"fsync": "off", "shared_buffers": "'64MB'"})
    await server.part.start()
    yield server
    await server.part.stop()
    remove(directory)


@pytest_asyncio.fixture
async def there(second_server: Server) -> AsyncIterator[ServiceDatabase]:
    database = await second_server.database("tallystick.services.ledger")
    yield database
    await second_server.drop(database)


@pytest_asyncio.fixture
async def shards(database_for: DatabaseFor, there: ServiceDatabase) -> Shards:
    return await shards_on(await database_for("tallystick.services.ledger"), there)


# ---- whose a book is ------------------------------------------------------------------------------------------------


async def test_a_shard_opens_the_books_that_home_names_it_for(shards: Shards) -> None:
    async def there(name: str, tenant: str = TENANT, shard: str | None = None) -> str:
        opened = await shards.there.books.open((tenant, "cli_test", None), name, None, "strict", shard)
        assert isinstance(opened, BookRow)
        return opened.shard

    with pytest.raises(InvalidRequest, match="first open it at home"):
        await there("asia")
    await shards.here.books.open((TENANT, "cli_test", None), "asia", None, "strict", THERE)
    with pytest.raises(InvalidRequest, match="first open it at home"):
        await there("asia", tenant="other")
    assert await there("asia") == THERE
    assert await there("asia", shard=THERE) == THERE
    await shards.here.books.open((TENANT, "cli_test", None), "fees", None, "strict")
    for name in ("fees", "main"):
        with pytest.raises(BookElsewhere) as elsewhere:
            await there(name)
        assert elsewhere.value.extensions["shard"] == HERE
    with pytest.raises(BookElsewhere) as elsewhere:
        await there("new", shard=HERE)
    assert elsewhere.value.extensions["shard"] == HERE
    with pytest.raises(InvalidRequest, match="no shard"):
        await shards.here.books.open((TENANT, "cli_test", None), "new", None, "strict", "asia")


# ---- the way of one -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back", [False, True])
async def test_money_leaves_one_book_and_arrives_in_the_other(shards: Shards, *, back: bool) -> None:
    crossing = shards.crossing(100, back=back, reference="rent", metadata='{"a":"b"}')
    told = await shards.send(crossing)
    assert (told.state, told.reason) == ("posted", None)
    assert told.crossing == crossing
    assert await shards.state(crossing.id, crossing.source.book) == told
    assert await shards.funds(crossing.source.book) == (900, 900)
    assert await shards.funds(crossing.destination.book) == (1100, 1100)
    assert await shards.send(crossing) == told
    await shards.reconcile()


async def test_a_hold_whose_commit_got_no_answer_is_found_under_its_key(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is looked up then is the stored answer, and nothing but that. Found by the simulation."""
    plain, lost = Poster._send, asyncio.Event()

    async def send(self: Poster, plan: Any) -> None:
        await plain(self, plan)
        if not lost.is_set():
            lost.set()
            raise CommitUnknown

    monkeypatch.setattr(Poster, "_send", send)
    crossing = shards.crossing(100)
    entry = Entry(TENANT, "cli_test", "POST /v1/interbook_transfers", "one key", shards.here.digester.digest({}))
    told = await shards.here.interbook.transfer(TENANT, "cli_test", None, crossing, entry)
    assert lost.is_set()
    assert (told.id, told.state, told.reason) == (crossing.id, "posted", None)
    await shards.reconcile()


async def test_two_books_of_one_shard(shards: Shards) -> None:
    await shards.here.books.open((TENANT, "cli_test", None), "fees", None, "strict")
    await shards.open(shards.here, "fees", "wallet", floor=0, path="wallet")
    told = await shards.send(shards.crossing(30, destination=BookAccount("fees", "wallet")))
    assert told.state == "posted"
    assert await shards.funds("main") == (970, 970)
    assert await shards.funds("fees") == (30, 30)
    assert shards.ways[THERE].asked == 0
    await shards.reconcile()


async def test_the_first_ones_between_two_books_open_their_transit_account_together(shards: Shards) -> None:
    """PostgreSQL may tell the later of two who insert the same row at a time of its path, and not of its id."""
    for nth in range(60):
        account = transit_account(TENANT, "main", "out", f"to-{nth}", "EUR")
        opened = await asyncio.gather(
            *(
                shards.here.accounts.open(TENANT, "cli_test", None, account, book="main", reserved=True)
                for _ in range(8)
            )
        )
        assert len({msgspec.structs.replace(one, as_of=0) for one in opened if isinstance(one, AccountRow)}) == 1


async def test_what_the_source_has_not_does_not_leave(shards: Shards) -> None:
    crossing = shards.crossing(1001)
    told = await shards.send(crossing)
    assert (told.state, told.reason) == ("rejected", "insufficient_funds")
    assert told.account == ids.accounts.text(shards.accounts["main/wallet"])
    await shards.post(
        shards.here, "main", move("post", shards.accounts["main/bank"], shards.accounts["main/wallet"], 1000)
    )
    assert await shards.send(crossing) == told
    assert shards.ways[THERE].asked == 0
    await shards.reconcile()


@pytest.mark.parametrize(
    "why", ["account_closed", "account_frozen", "ceiling_exceeded", "account_not_found", "currency_mismatch"]
)
async def test_what_the_destination_refuses_comes_back_and_stays_refused(shards: Shards, why: str) -> None:
    who = (TENANT, "cli_test", None)
    if why == "account_not_found":
        account: Any = "nobody"
    else:
        more: dict[str, Any] = {"currency": "USD"} if why == "currency_mismatch" else {}
        account = await shards.open(
            shards.there, "eu", "target", ceiling=99 if why == "ceiling_exceeded" else None, path="nobody", **more
        )
        if why == "account_closed":
            await shards.there.accounts.close(*who, account, "eu")
        if why == "account_frozen":
            await shards.there.accounts.freeze(who, account, frozen=True, book="eu")
    crossing = shards.crossing(100, destination=BookAccount("eu", "nobody"))
    told = await shards.send(crossing)
    assert (told.state, told.reason) == ("rejected", why)
    assert told.account == (account if why == "account_not_found" else ids.accounts.text(account))
    assert await shards.funds() == (1000, 1000)
    if why == "account_frozen":
        await shards.there.accounts.freeze(who, account, frozen=False, book="eu")
    if why == "account_not_found":
        await shards.open(shards.there, "eu", "target", path="nobody")
    assert await shards.send(crossing) == told
    assert (await shards.send(shards.crossing(99, destination=BookAccount("eu", "nobody")))).state == (
        "posted" if why not in ("account_closed", "currency_mismatch") else "rejected"
    )
    await shards.reconcile()


async def test_an_id_is_one_transfer(shards: Shards) -> None:
    crossing = shards.crossing(100)
    await shards.send(crossing)
    for other in (shards.crossing(99, id=crossing.id), shards.crossing(100, id=crossing.id, reference="x")):
        with pytest.raises(TransferExists):
            await shards.send(other)
    assert await shards.funds() == (900, 900)


async def test_an_id_that_the_other_book_has_for_something_else_comes_back(shards: Shards) -> None:
    own = move("post", shards.accounts["eu/bank"], shards.accounts["eu/wallet"], 100)
    await shards.post(shards.there, "eu", own)
    told = await shards.send(shards.crossing(100, id=own.id))
    assert (told.state, told.reason, told.account) == ("rejected", "exists_with_different_debit_account", None)
    assert await shards.funds() == (1000, 1000)
    await shards.reconcile()


async def test_books_that_are_not_there(shards: Shards) -> None:
    with pytest.raises(BookNotFound):
        await shards.send(shards.crossing(destination=BookAccount("nowhere", "wallet")))
    with pytest.raises(BookElsewhere) as elsewhere:
        await shards.here.interbook.transfer(TENANT, "cli_test", None, shards.crossing(back=True))
    assert elsewhere.value.extensions == {"shard": THERE}
    with pytest.raises(InvalidRequest):
        await shards.send(shards.crossing(destination=BookAccount("main", "bank")))
    # A shard that is not at home opens no main book by itself: there would be two.
    with pytest.raises(BookNotFound):
        await shards.there.poster.book(TENANT)
    assert await shards.funds() == (1000, 1000)


# ---- half of it is nobody's ------------------------------------------------------------------------------------------


async def test_no_client_moves_money_on_a_transit_account(shards: Shards) -> None:
    wallet, away = shards.accounts["main/wallet"], shards.accounts["eu/wallet"]
    posted = shards.crossing(10)
    await shards.send(posted)
    shards.ways[THERE].lost = 1
    held = shards.crossing(20)
    assert (await shards.send(held)).state == "in_flight"
    out = transit_account(TENANT, "main", "out", "eu", "EUR").id
    into = transit_account(TENANT, "eu", "in", "main", "EUR").id
    captured = next(
        row["id"] for row in await shards.databases[HERE].query("SELECT id FROM transfer WHERE kind = 'capture'")
    )
    tries: list[tuple[Any, str, Command]] = [
        (shards.here, "main", move("post", wallet, out, 1)),
        (shards.here, "main", move("hold", wallet, out, 1)),
        (shards.here, "main", move("post", out, wallet, 1)),
        (shards.here, "main", move("post", "transit:out:eu:EUR", wallet, 1)),  # type: ignore[arg-type]
        (shards.there, "eu", move("post", into, away, 1)),
        (shards.here, "main", Command(kind="void", id=ids.transfers.new(), target=held.id)),
        (shards.here, "main", Command(kind="capture", id=ids.transfers.new(), target=held.id)),
        (shards.here, "main", Command(kind="reverse", id=ids.transfers.new(), target=captured)),
        (shards.there, "eu", Command(kind="reverse", id=ids.transfers.new(), target=posted.id)),
    ]
    for ledger, book, command in tries:
        assert await shards.post(ledger, book, command) == ["transit_account"], command
    account = NewAccount(
        id=ids.accounts.new(), name="mine", currency="EUR", normal_side="credit", floor=None, code=None, metadata=None, path="transit:in:x:EUR"
    )  # fmt: skip
    with pytest.raises(InvalidRequest):
        await shards.here.accounts.open(TENANT, "cli_test", None, account)
    assert await shards.resume() == 0
    assert await shards.funds() == (970, 970)
    assert await shards.funds("eu") == (1030, 1030)
    await shards.reconcile()


async def test_a_chart_has_no_say_over_transit_accounts(shards: Shards) -> None:
    from tallystick.services.ledger.model import Chart, Rule

    for ledger, book in ((shards.here, "main"), (shards.there, "eu")):
        # Strict, and with a rule that would fit.
        rules = (Rule("wallet", "liability"), Rule("transit:{way}:{book}:{currency}", "income"))
        bank = shards.accounts[f"{book}/bank"]
        del bank
        await ledger.books.set_chart((TENANT, "cli_test", None), book, lambda version: Chart(version, "open", rules))  # noqa: B023
    assert (await shards.send(shards.crossing(5))).state == "posted"
    await shards.here.books.set_chart(
        (TENANT, "cli_test", None),
        "main",
        lambda version: Chart(version, "open", (Rule("transit:{a}:{b}:{c}", "equity"),)),
    )
    await shards.reconcile()


async def test_money_that_has_arrived_has_left_whatever_was_frozen_since(shards: Shards) -> None:
    shards.ways[THERE].unheard = 1
    crossing = shards.crossing(100)
    assert (await shards.send(crossing)).state == "in_flight"
    who = (TENANT, "cli_test", None)
    await shards.here.accounts.freeze(who, shards.accounts["main/wallet"], frozen=True)
    assert await shards.resume() == 0
    assert (await shards.state(crossing.id)).state == "posted"
    assert await shards.funds() == (900, 900)
    await shards.reconcile()


async def test_an_id_of_the_end_that_somebody_took_does_not_stop_it(shards: Shards) -> None:
    from tallystick.services.ledger.model import Outcome, ending

    crossing = shards.crossing(100)
    taken = ending(f"{TENANT}/main", crossing, Outcome())
    await shards.post(
        shards.here, "main", move("post", shards.accounts["main/bank"], shards.accounts["main/wallet"], 1, id=taken.id)
    )
    assert (await shards.send(crossing)).state == "posted"
    assert await shards.funds() == (901, 901)
    await shards.reconcile()


# ---- what breaks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("fault", ["lost", "unheard"])
async def test_a_message_that_is_lost_is_sent_again(shards: Shards, fault: str, *, refused: bool) -> None:
    setattr(shards.ways[THERE], fault, 2)
    crossing = shards.crossing(100, destination=BookAccount("eu", "nobody" if refused else "wallet"))
    assert (await shards.send(crossing)).state == "in_flight"
    assert await shards.funds() == (1000, 900)
    await shards.reconcile(settled=False)
    assert await shards.resume() == 1
    assert await shards.resume() == 0
    assert (await shards.state(crossing.id)).state == ("rejected" if refused else "posted")
    assert await shards.funds() == ((1000, 1000) if refused else (900, 900))
    assert await shards.funds("eu") == ((1000, 1000) if refused else (1100, 1100))
    await shards.reconcile()


@pytest.mark.parametrize("step", ["before", "after"])
async def test_a_process_that_ends_in_the_middle_is_followed_by_another(shards: Shards, step: str) -> None:
    shards.ways[THERE].broken.append(step)
    crossing = shards.crossing(100)
    with pytest.raises(asyncio.CancelledError):
        await shards.send(crossing)
    await shards.start(HERE)
    assert (await shards.state(crossing.id)).state == "in_flight"
    assert await shards.resume() == 0
    assert (await shards.state(crossing.id)).state == "posted"
    assert await shards.funds() == (900, 900)
    await shards.reconcile()


async def test_what_is_young_is_left_to_its_request(shards: Shards) -> None:
    shards.ways[THERE].lost = 1
    await shards.send(shards.crossing(100))
    assert await shards.here.interbook.resume() == 0
    assert shards.ways[THERE].asked == 1
    assert await shards.resume() == 0
    await shards.reconcile()


@pytest.mark.parametrize("where", [HERE, THERE])
@pytest.mark.parametrize("fault", ["cut", "lose_answers", "lose_commits"])
async def test_a_connection_that_breaks_at_any_message_loses_and_doubles_nothing(
    shards: Shards, directory: Any, where: str, fault: str
) -> None:
    """Cut before each message that one transfer sends to either server, and at each COMMIT on either side of it."""
    sent = 0
    async with wire_to(shards.databases[where].dsn, directory) as wire:
        at = 0
        while True:
            at += 1
            await shards.start(where, wire.dsn)
            wire.cuts = 0
            crossing = shards.crossing(1)
            await shards.ledgers[where].poster.book(TENANT, "main" if where == HERE else "eu")
            if fault == "cut":
                wire.cut_in = at
            else:
                setattr(wire, fault, at)
            try:
                told = await shards.send(crossing)
            except Exception:  # noqa: BLE001 - the client is told that it is not known, and asks again below
                told = None
            wire.cut_in, wire.lose_answers, wire.lose_commits = None, 0, 0
            if told is None:
                told = await shards.send(crossing)
            await shards.resume()
            told = await shards.state(crossing.id)
            assert told.state == "posted", told
            sent += 1
            assert await shards.funds() == (1000 - sent, 1000 - sent)
            assert await shards.funds("eu") == (1000 + sent, 1000 + sent)
            if wire.cuts == 0 or (fault != "cut" and at == 3):
                break
    assert sent > 3 or fault != "cut"
    await shards.start(where)
    await shards.reconcile()


async def test_a_shard_that_is_down_for_a_while_is_waited_for(database_for: DatabaseFor, directory: Any) -> None:
    server = Server(directory, settings={"fsync": "off", "shared_buffers": "'64MB'"})
    await server.part.start()
    there = await server.database("tallystick.services.ledger")
    shards = await shards_on(await database_for("tallystick.services.ledger"), there)
    try:
        assert (await shards.send(shards.crossing(1))).state == "posted"
        await server.part.stop()
        crossing = shards.crossing(100)
        assert (await shards.send(crossing)).state == "in_flight"
        assert await shards.funds() == (999, 899)
        assert await shards.here.interbook.resume() == 0  # too young
        await server.part.start()
        await shards.start(THERE)
        assert await shards.resume() == 0
        assert (await shards.state(crossing.id)).state == "posted"
        await shards.reconcile()
    finally:
        for database in there.opened:
            await database.close(within=1)
        await server.part.stop()


async def test_a_book_in_quarantine_is_waited_for(shards: Shards) -> None:
    assert (await shards.send(shards.crossing(100))).state == "posted"
    await shards.databases[THERE].query("UPDATE book SET quarantined_at = now(), quarantine_reason = 'a test'")
    crossing = shards.crossing(100)
    assert (await shards.send(crossing)).state == "in_flight"
    assert await shards.resume() == 1
    await shards.databases[THERE].query("UPDATE book SET quarantined_at = NULL, quarantine_reason = NULL")
    assert await shards.resume() == 0
    assert (await shards.state(crossing.id)).state == "posted"
    await shards.reconcile()


async def test_the_approval_rules_of_the_first_book_decide(shards: Shards) -> None:
    """What leaves is asked for there; what arrives and what ends a hold is not asked again, also when the rules came in between."""
    from tallystick.services.ledger.model import ApprovalRule

    async def rule(ledger: Any, book: str, above: int) -> None:
        asked = ApprovalRule("EUR", above, 1, (ids.clients.text(ids.clients.new()),), 3600)
        await ledger.approvals.set_rules((TENANT, "cli_test", None), book, [asked])

    await rule(shards.there, "eu", 10)
    shards.ways[THERE].unheard = 1
    crossing = shards.crossing(100)
    assert (await shards.send(crossing)).state == "in_flight"
    await rule(shards.here, "main", 10)
    assert await shards.resume() == 0
    assert (await shards.state(crossing.id)).state == "posted"
    with pytest.raises(TransferRefused) as refused:
        await shards.send(shards.crossing(11))
    assert refused.value.extensions == {"reason": "approval_required"}
    assert (await shards.send(shards.crossing(10))).state == "posted"
    assert await shards.funds() == (890, 890)
    assert await shards.funds("eu") == (1110, 1110)
    await shards.reconcile()


async def test_many_at_once_with_one_id_are_one(shards: Shards) -> None:
    crossing = shards.crossing(100)
    shards.ways[THERE].unheard = 3
    told = await asyncio.gather(*(shards.send(crossing) for _ in range(10)), shards.resume())
    assert {one.state for one in told if isinstance(one, Told)} <= {"posted", "in_flight"}
    await shards.resume()
    assert (await shards.state(crossing.id)).state == "posted"
    assert await shards.funds() == (900, 900)
    assert await shards.funds("eu") == (1100, 1100)
    await shards.reconcile()


# ---- the proof finds it ----------------------------------------------------------------------------------------------


async def test_money_that_arrived_and_never_left_is_found(shards: Shards) -> None:
    await shards.send(shards.crossing(100))
    crossing = shards.crossing(1)
    transit = transit_account(TENANT, "eu", "in", "main", "EUR")
    command = arrival(crossing, transit.id)
    await shards.there.poster.post(Ask(TENANT, "cli_test", None, [command], atomic=False, book="eu", crossing=True))
    assert await shards.disagreements() == ["acme, main to eu: 101 EUR came in, and between 100 and 100 went out"]


async def test_money_that_left_and_never_arrived_is_found_in_one_database(shards: Shards) -> None:
    await shards.here.books.open((TENANT, "cli_test", None), "fees", None, "strict")
    await shards.open(shards.here, "fees", "wallet", path="wallet")
    await shards.send(shards.crossing(100, destination=BookAccount("fees", "wallet")))
    assert await shards.here.faults() == []
    crossing = shards.crossing(1, destination=BookAccount("fees", "wallet"))
    transit = transit_account(TENANT, "fees", "in", "main", "EUR")
    await shards.here.poster.post(
        Ask(TENANT, "cli_test", None, [arrival(crossing, transit.id)], atomic=False, book="fees", crossing=True)
    )
    assert [fault.partition(":")[0] for fault in await shards.here.faults()] == ["transit_accounts_agree"]
