"""The write path on a real database: replicas side by side, connections that break, holds that expire, facts that are told."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallystick.chassis.db import CommitUnknown, Database, DatabaseUnavailable
from tallystick.contracts.ledger.messages import Reason
from tallystick.contracts.ledger.problems import AccountExists, AccountHasHolds, AccountNotFound, HistoryNotKept
from tallystick.kernel import ids
from tallystick.kernel.clock import ManualClock, SystemClock
from tallystick.kernel.ids import AccountId
from tallystick.kernel.problem import InvalidRequest
from tallystick.services.ledger.model import Command, NewAccount, Result
from tallystick.services.ledger.service import Ask, At
from tallystick.services.ledger.service.facts import transfers_digest
from tests.services.ledger.proxy import wire_to
from tests.services.ledger.support import START, Books, draw, ledger_on, move
from tests.support.parts import ServiceDatabase


def statuses(results: Sequence[Result]) -> list[str]:
    return [one.status for one in results]


async def replica(service: ServiceDatabase, tenant: str = "acme") -> Books:
    """Another process' view of the same database."""
    database = await service.open()
    return Books(ledger_on(database, SystemClock()), ManualClock(START), database, tenant)


# ---- side by side ---------------------------------------------------------------------------------------------------


async def test_two_replicas_at_once_keep_every_rule(books: Books, service: ServiceDatabase) -> None:
    one, two = await replica(service), await replica(service)
    bank = await books.open(side="debit")
    customers = [await books.open(floor=0) for _ in range(6)]
    await one.post(*(move("post", bank, each, 2000) for each in customers))
    rng = random.Random(7)
    held: list[Any] = []
    seen: list[Result] = []

    async def client(of: Books, nth: int) -> None:
        for _ in range(25):
            debit, credit = rng.sample([*customers, bank], 2)
            kind = rng.choice(["post", "post", "hold", "capture", "void", "reverse"])
            commands: list[Command]
            if kind in ("post", "hold"):
                made = [move(kind, debit, credit, rng.randint(1, 400)) for _ in range(rng.choice([1, 1, 3]))]
                held.extend(one.id for one in made)
                commands = made
            elif held:
                amount = rng.choice([None, rng.randint(1, 200)]) if kind != "void" else None
                commands = [draw(kind, rng.choice(held), amount)]
            else:
                continue
            seen.extend(await of.post(*commands, atomic=bool(nth % 2)))

    async with asyncio.TaskGroup() as group:
        for nth in range(12):
            group.create_task(client((one, two)[nth % 2], nth))
    posted = [each for each in seen if each.transfer is not None]
    assert len(posted) > 100
    assert any(each.reason is Reason.INSUFFICIENT_FUNDS for each in seen), "the test did not reach the floor"
    await books.sound()
    rows = await service.query("SELECT id, sequence FROM transfer ORDER BY sequence")
    assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
    stored = {row["id"] for row in rows}
    assert {each.id for each in posted} <= stored
    assert not {each.id for each in seen if each.transfer is None} & stored
    floors = await service.query(
        "SELECT credits_posted - debits_posted - debits_pending AS left FROM account WHERE floor = 0"
    )
    assert all(row["left"] >= 0 for row in floors)
    for each in rng.sample(posted, 20):
        assert each.transfer is not None
        state = await one.ledger.transfer("acme", each.id)
        assert state.transfers[each.transfer.book, each.id] == each.transfer


async def test_what_a_floor_leaves_is_spent_once(books: Books, service: ServiceDatabase) -> None:
    one, two = await replica(service), await replica(service)
    bank, customer = await books.open(side="debit"), await books.open(floor=0)
    await books.post(move("post", bank, customer, 1000))
    spent = await asyncio.gather(*((one, two)[i % 2].post(move("post", customer, bank, 30)) for i in range(60)))
    assert sum(each[0].status == "posted" for each in spent) == 33
    assert await books.balance(customer) == (10, 10)
    await books.sound()


async def test_captures_that_together_exceed_the_hold(books: Books, service: ServiceDatabase) -> None:
    one, two = await replica(service), await replica(service)
    bank, customer = await books.open(side="debit"), await books.open(floor=0)
    await books.post(move("post", bank, customer, 1000))
    for _ in range(10):
        (hold,) = await books.post(move("hold", customer, bank, 100))
        answers = await asyncio.gather(one.post(draw("capture", hold.id, 60)), two.post(draw("capture", hold.id, 60)))
        assert sorted(each[0].status for each in answers) == ["posted", "rejected"]
        no = next(each[0] for each in answers if each[0].status == "rejected")
        assert (no.reason, no.available, no.required) == (Reason.EXCEEDS_HOLD, 40, 60)
        (rest,) = await books.post(draw("void", hold.id))
        assert rest.status == "posted"
    assert await books.balance(customer) == (400, 400)
    await books.sound()


async def test_one_id_at_two_replicas_is_one_transfer(books: Books, service: ServiceDatabase) -> None:
    one, two = await replica(service), await replica(service)
    accounts = [await books.open() for _ in range(4)]
    for _ in range(10):
        same = move("post", accounts[0], accounts[1], 5)
        answers = await asyncio.gather(one.post(same), two.post(same))
        assert sorted(each[0].existed for each in answers) == [False, True]
        number = ids.transfers.new()
        answers = await asyncio.gather(
            one.post(move("post", accounts[0], accounts[1], 5, id=number)),
            two.post(move("post", accounts[2], accounts[3], 5, id=number)),
        )
        assert sorted(each[0].status for each in answers) == ["posted", "rejected"]
        no = next(each[0] for each in answers if each[0].status == "rejected")
        assert no.reason is Reason.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT
    await books.sound()


async def test_tenants_share_a_flush_and_nothing_else(books: Books, service: ServiceDatabase) -> None:
    one, two = await replica(service), await replica(service)
    accounts: dict[str, tuple[AccountId, AccountId]] = {}
    for tenant in ("acme", "beta", "gamma"):
        accounts[tenant] = (await books.open(tenant=tenant), await books.open(tenant=tenant))
    number = ids.transfers.new()

    async def work(of: Books, nth: int) -> None:
        tenants = list(accounts)
        random.Random(nth).shuffle(tenants)
        # The order differs from flush to flush: books locked in the order of arrival would end in a deadlock.
        await asyncio.gather(
            *(of.post(move("post", *accounts[tenant], 1), tenant=tenant) for _ in range(3) for tenant in tenants)
        )

    async with asyncio.TaskGroup() as group:
        for nth in range(20):
            group.create_task(work((one, two)[nth % 2], nth))
    for tenant, (debit, credit) in accounts.items():
        (own,) = await one.post(move("post", debit, credit, 1, id=number), tenant=tenant)
        assert own.status == "posted", "another tenant's id is no business of this one"
        assert own.transfer is not None
        assert own.transfer.sequence == 61
    foreign = await one.post(
        move("post", accounts["acme"][0], accounts["beta"][0], 1), move("post", *accounts["beta"], 1), tenant="acme"
    )
    assert [each.reason for each in foreign] == [Reason.ACCOUNT_NOT_FOUND] * 2
    with pytest.raises(AccountNotFound):
        await one.ledger.accounts.get("acme", accounts["beta"][0], At())
    await books.sound()


# ---- connections that break -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["answer", "commit"])
async def test_a_commit_without_an_answer_is_looked_up_by_its_ids(
    books: Books, service: ServiceDatabase, directory: Path, lost: str
) -> None:
    debit, credit = await books.open(), await books.open(floor=0)
    async with wire_to(service.dsn, directory) as wire:
        database = await Database.open(wire.dsn)
        ledger = ledger_on(database)
        await ledger.poster.book("acme")
        if lost == "answer":
            wire.lose_answers = 1
        else:
            wire.lose_commits = 1
        commands = [move("post", debit, credit, 5), move("post", credit, debit, 6)]
        answered = await ledger.poster.post(Ask("acme", "cli_test", None, commands, atomic=False))
        assert statuses(answered.results) == ["posted", "rejected"]
        assert wire.cuts == 1
        assert answered.results[0].existed is (lost == "answer")
        await database.close()
    assert await books.balance(credit) == (5, 5)
    assert len(await service.query("SELECT FROM outbox WHERE type = 'ledger.transfers.posted'")) == 1
    await books.sound()


async def test_an_outcome_that_stays_unknown_is_said_to_be_unknown(
    books: Books, service: ServiceDatabase, directory: Path
) -> None:
    debit, credit = await books.open(), await books.open()
    command = move("post", debit, credit, 5)
    async with wire_to(service.dsn, directory) as wire:
        database = await Database.open(wire.dsn)
        ledger = ledger_on(database)
        await ledger.poster.book("acme")
        wire.lose_commits = 99
        with pytest.raises(CommitUnknown):
            await ledger.poster.post(Ask("acme", "cli_test", None, [command], atomic=False))
        assert wire.cuts == 4
        wire.lose_commits = 0
        again = await ledger.poster.post(Ask("acme", "cli_test", None, [command], atomic=False))
        assert statuses(again.results) == ["posted"]
        await database.close()
    assert await books.balance(credit) == (5, 5)


async def test_cut_between_any_two_statements_leaves_all_or_nothing(
    books: Books, service: ServiceDatabase, directory: Path
) -> None:
    bank, customer = await books.open(side="debit"), await books.open(floor=0)
    await books.post(move("post", bank, customer, 10_000))
    expected = 10_000
    async with wire_to(service.dsn, directory) as wire:
        for after in range(40):
            (hold,) = await books.post(move("hold", customer, bank, 10))
            unit = [
                move("post", customer, bank, 7),
                draw("capture", hold.id, 4, final=True),
                move("hold", customer, bank, 3),
            ]
            ask = Ask("acme", "cli_test", None, unit, atomic=True)
            database = await Database.open(wire.dsn)
            ledger = ledger_on(database)
            await ledger.poster.book("acme")
            wire.cut_in = after
            try:
                await ledger.poster.post(ask)
            except (DatabaseUnavailable, CommitUnknown):
                stored = [len(await service.query("SELECT FROM transfer WHERE id = $1", c.id)) for c in unit]
                assert sum(stored) in (0, 3), f"cut at message {after}: {stored}"
            cut = wire.cut_in is None
            wire.cut_in = None
            answered = await ledger.poster.post(ask)
            assert statuses(answered.results) == ["posted", "posted", "held"]
            expected -= 11
            await database.close()
            if not cut:
                break
        else:
            pytest.fail("the flush has more than 40 messages?")
    assert after > 10, "the cuts did not reach the whole transaction"
    assert (await books.balance(customer))[0] == expected
    await books.sound()


# ---- holds that expire ----------------------------------------------------------------------------------------------


async def test_an_expired_hold_blocks_nobody_before_the_sweep(books: Books, service: ServiceDatabase) -> None:
    bank, customer = await books.open(side="debit"), await books.open(floor=0)
    shop = await books.open()
    await books.post(move("post", bank, customer, 100))
    await books.post(
        move("hold", customer, shop, 50, expires_in=60),
        move("hold", customer, shop, 40, expires_in=30),
        move("hold", customer, shop, 5),
    )
    assert await books.balance(customer) == (100, 5)
    assert statuses(await books.post(move("post", customer, bank, 6))) == ["rejected"]
    books.clock.advance(timedelta(seconds=60, microseconds=10))
    assert await books.balance(customer) == (100, 95), "a read does not count what has expired"
    assert await books.balance(shop) == (0, 0)
    assert statuses(await books.post(move("post", customer, bank, 96), move("post", customer, bank, 90))) == [
        "rejected",
        "posted",
    ]
    expired = await service.query("SELECT amount, released FROM transfer WHERE kind = 'expire' ORDER BY sequence")
    assert [(row["amount"], row["released"]) for row in expired] == [(40, 40), (50, 50)], "in the order of expiry"
    assert await books.ledger.sweep() == 0
    await books.sound()


async def test_what_there_is_counts_what_an_expired_hold_held(books: Books) -> None:
    bank, customer, shop = await books.open(side="debit"), await books.open(floor=0), await books.open()
    await books.post(move("post", bank, customer, 100))

    async def most() -> list[int | None]:
        """Moves what there is, and holds the rest, in two requests; then gives it back."""
        made = [
            (await books.post(move("post", customer, bank, 60, balancing=True)))[0],
            (await books.post(move("hold", customer, shop, 60, balancing=True, expires_in=10)))[0],
        ]
        await books.post(move("post", bank, customer, 60))
        return [None if one.transfer is None else one.transfer.amount for one in made]

    await books.post(move("hold", customer, shop, 50, expires_in=30))
    assert await most() == [50, None], "nothing is left to hold"
    books.clock.advance(timedelta(seconds=30, microseconds=10))
    assert await most() == [60, 50]
    await books.sound()


async def test_an_expired_hold_blocks_nobody_by_a_clock_that_is_behind(books: Books, service: ServiceDatabase) -> None:
    """What has expired by the book's time has expired for every replica, whatever its own clock says."""
    bank, customer, shop = await books.open(side="debit"), await books.open(floor=0), await books.open()
    behind = ledger_on(await service.open(), ManualClock(START))
    await books.post(move("post", bank, customer, 100), move("hold", customer, shop, 60, expires_in=30))

    async def post(*commands: Command) -> list[str]:
        return statuses((await behind.poster.post(Ask("acme", "cli_test", None, commands, atomic=False))).results)

    books.clock.advance(timedelta(seconds=30))
    assert await post(move("post", customer, bank, 41)) == ["rejected"], "nobody has written since it expired"
    await books.post(move("post", bank, customer, 1))
    assert await post(move("post", customer, bank, 101)) == ["posted"]
    expired = await service.query("SELECT amount FROM transfer WHERE kind = 'expire'")
    assert [row["amount"] for row in expired] == [60]
    await books.sound()


async def test_the_sweep_takes_off_what_is_due_and_only_that(books: Books, service: ServiceDatabase) -> None:
    debit, credit = await books.open(), await books.open()
    made = await books.post(*(move("hold", debit, credit, n, expires_in=n) for n in (30, 10, 20, 40)))
    await books.post(draw("capture", made[1].id, 4))
    await books.post(draw("void", made[2].id))
    books.clock.advance(timedelta(seconds=30, microseconds=10))
    assert statuses(await books.post(draw("capture", made[0].id))) == ["rejected"]
    assert await books.ledger.sweep() == 2
    assert await books.ledger.sweep() == 0
    rows = await service.query("SELECT target, amount FROM transfer WHERE kind = 'expire' ORDER BY sequence")
    assert [(row["target"], row["amount"]) for row in rows] == [(made[1].id, 6), (made[0].id, 30)]
    state = await books.ledger.transfer("acme", made[1].id)
    (hold,) = state.holds.values()
    assert (hold.state, hold.captured, hold.remaining) == ("expired", 4, 0)
    facts = [json.loads(row["fact"]) for row in await service.query("SELECT fact FROM outbox ORDER BY position")]
    assert facts[-1]["actor"] == "ledger"
    assert [one["kind"] for one in facts[-1]["data"]["transfers"]] == ["expire", "expire"]
    await books.sound()


async def test_sweeps_side_by_side_expire_once(books: Books, service: ServiceDatabase) -> None:
    debit, credit = await books.open(), await books.open()
    await books.post(*(move("hold", debit, credit, 1, expires_in=1) for _ in range(50)))
    other = Books(ledger_on(await service.open(), books.clock), books.clock, books.database)
    books.clock.advance(timedelta(seconds=2))
    await asyncio.gather(books.ledger.sweep(), other.ledger.sweep())
    assert (await service.query("SELECT count(*) AS n FROM transfer WHERE kind = 'expire'"))[0]["n"] == 50
    assert (await service.query("SELECT count(*) AS n FROM rejection"))[0]["n"] == 0
    await books.sound()


# ---- facts ----------------------------------------------------------------------------------------------------------


@pytest.mark.damages
async def test_a_unit_is_one_fact_that_proves_all_of_it(books: Books, service: ServiceDatabase) -> None:
    debit, credit, other = [await books.open() for _ in range(3)]
    metadata = '{"note":"' + "x" * 400 + '"}'
    commands = [move("post", debit, credit, n, metadata=metadata) for n in range(1, 1001)]
    answered = await books.ledger.poster.post(Ask("acme", "cli_test", "ab" * 16, commands, atomic=True))
    raw = (await service.query("SELECT fact FROM outbox WHERE type = 'ledger.transfers.posted'"))[0]["fact"]
    assert len(raw) < 60 * 1024
    fact = json.loads(raw)
    assert fact["id"] == answered.receipt
    assert (fact["tenant"], fact["actor"], fact["trace"]) == ("acme", "cli_test", "ab" * 16)
    data = fact["data"]
    assert (data["first"], data["last"], data["count"], len(data["transfers"])) == (1, 1000, 1000, 32)
    assert "xxx" not in raw.decode(), "what people typed is not told"
    async with books.database.transaction() as tx:
        again = await books.ledger.poster._store.between(tx, data["book"], data["first"], data["last"])
    assert transfers_digest(again) == data["sha256"]
    connection = await service.connection(superuser=True)
    await connection.execute("SET session_replication_role = replica")
    await connection.execute(
        "UPDATE transfer_row SET credit_number = (SELECT number FROM account WHERE id = $1) WHERE sequence = 777", other
    )
    await connection.close()
    async with books.database.transaction() as tx:
        changed = await books.ledger.poster._store.between(tx, data["book"], data["first"], data["last"])
    assert transfers_digest(changed) != data["sha256"]


async def test_refusals_and_repeats_tell_nothing(books: Books, service: ServiceDatabase) -> None:
    debit, credit = await books.open(), await books.open(floor=0)
    command = move("post", debit, credit, 5)
    await books.post(command)
    before = await service.query("SELECT count(*) AS n FROM outbox")
    assert [one.existed for one in await books.post(command)] == [True]
    assert statuses(await books.post(move("post", credit, debit, 6))) == ["rejected"]
    assert await service.query("SELECT count(*) AS n FROM outbox") == before


async def test_a_new_account_is_told_without_its_name(books: Books, service: ServiceDatabase) -> None:
    account = await books.open(floor=-5)
    (row,) = await service.query("SELECT fact FROM outbox")
    fact = json.loads(row["fact"])
    assert (fact["type"], fact["resource"]) == ("ledger.account.created", ids.accounts.text(account))
    assert fact["data"] == {
        "account": ids.accounts.text(account),
        "book": 1,
        "kind": "liability",
        "currency": "EUR",
        "normal_side": "credit",
        "floor": "-5",
        "ceiling": None,
    }


# ---- accounts and history -------------------------------------------------------------------------------------------


async def test_opening_an_account_again_is_harmless_if_it_is_the_same(books: Books) -> None:
    new = NewAccount(
        id=ids.accounts.new(), name="a", currency="EUR", normal_side="debit", floor=None, code=None, metadata=None
    )
    for _ in range(2):
        await books.ledger.accounts.open("acme", "cli_test", None, new)
    with pytest.raises(AccountExists):
        await books.ledger.accounts.open("acme", "cli_test", None, msgspec.structs.replace(new, currency="USD"))
    with pytest.raises(AccountExists):
        await books.ledger.accounts.open("beta", "cli_test", None, new)


async def test_a_closed_account_takes_and_gives_nothing(books: Books) -> None:
    debit, credit = await books.open(), await books.open()
    (first, held) = await books.post(move("post", debit, credit, 10), move("hold", debit, credit, 5))
    with pytest.raises(AccountHasHolds):
        await books.ledger.accounts.close("acme", "cli_test", None, credit)
    await books.post(draw("void", held.id))
    assert (await books.ledger.accounts.close("acme", "cli_test", None, credit)).closed
    assert (await books.ledger.accounts.close("acme", "cli_test", None, credit)).closed
    refused = await books.post(
        move("post", debit, credit, 1), move("hold", credit, debit, 1), draw("reverse", first.id)
    )
    assert [one.reason for one in refused] == [Reason.ACCOUNT_CLOSED] * 3
    with pytest.raises(AccountNotFound):
        await books.ledger.accounts.close("beta", "cli_test", None, debit)


async def test_history_is_told_as_of_then_or_not_at_all(books: Books) -> None:
    bank = await books.open(side="debit")
    first = await books.open()
    moments = []
    for amount in (10, 20, 30):
        books.clock.advance(timedelta(seconds=10))
        moments.append(books.clock.now())
        await books.post(move("post", bank, first, amount))
    books.clock.advance(timedelta(seconds=10))
    late = await books.open()
    await books.post(move("post", bank, late, 1))
    accounts = books.ledger.accounts
    for sequence, (posted, version) in enumerate([(0, 0), (10, 1), (30, 2), (60, 3), (60, 3)]):
        row = await accounts.get("acme", first, At(sequence=sequence))
        assert (row.credits_posted, row.version, row.as_of) == (posted, version, sequence)
    for moment, posted in zip(moments, (10, 30, 60), strict=True):
        assert (await accounts.get("acme", first, At(instant=moment))).credits_posted == posted
        assert (
            await accounts.get("acme", first, At(instant=moment - timedelta(microseconds=1)))
        ).credits_posted < posted
    for at in (
        At(sequence=5),
        At(instant=books.clock.now() + timedelta(seconds=1)),
        At(instant=START - timedelta(seconds=1)),
    ):
        with pytest.raises(HistoryNotKept):
            await accounts.get("acme", first, at)
    for at in (At(sequence=2), At(instant=moments[0])):
        with pytest.raises(HistoryNotKept):
            await accounts.get("acme", late, at)
    with pytest.raises(InvalidRequest):
        At(1, START)


async def test_entries_come_newest_first_with_running_balances(books: Books) -> None:
    bank, customer = await books.open(side="debit"), await books.open()
    await books.post(
        move("post", bank, customer, 100), move("post", customer, bank, 30), move("hold", customer, bank, 7)
    )
    _, entries = await books.ledger.accounts.entries("acme", customer, before=None, limit=10)
    assert [(e.sequence, e.version, e.side, e.kind, e.credits_posted - e.debits_posted, e.debits_pending) for e in entries] == [
        (3, 3, "debit", "hold", 70, 7),
        (2, 2, "debit", "post", 70, 0),
        (1, 1, "credit", "post", 100, 0),
    ]  # fmt: skip
    _, rest = await books.ledger.accounts.entries("acme", customer, before=3, limit=1)
    assert [e.sequence for e in rest] == [2]
