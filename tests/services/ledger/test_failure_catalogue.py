"""The failure catalogue: what other ledgers were reported to get wrong, and what must not happen here.

Each test is named after what it prevents; its docstring says who had the bug and where that is told. docs/explanation/failure-catalogue.md is the same
as a table. Real PostgreSQL, two replicas where two could disagree.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tallystick.chassis.db import Bounds, CommitUnknown, Contended, Database, DatabaseUnavailable
from tallystick.contracts.ledger.messages import Reason
from tallystick.contracts.ledger.problems import AccountNotFound, HistoryNotKept, TransferNotFound
from tallystick.kernel import ids
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import NewAccount, Result
from tallystick.services.ledger.service import Ask, At
from tests.services.ledger.env import Env, eur, post, problem
from tests.services.ledger.proxy import wire_to
from tests.services.ledger.support import START, Books, draw, ledger_on, move
from tests.support.parts import PATIENT, ServiceDatabase

#: A guard against waiting for ever, not a measurement.
PATIENCE_S = 120


async def replica(books: Books, service: ServiceDatabase, **bounds: Any) -> Books:
    """Another process' view of the same database, by the same clock."""
    database = await service.open(**bounds)
    return Books(ledger_on(database, books.clock), books.clock, database)


async def pair(books: Books, *, floor: int | None = 0, funds: int = 0) -> tuple[AccountId, AccountId]:
    """A bank and a customer who may have been given something."""
    bank, customer = await books.open(side="debit"), await books.open(floor=floor)
    if funds:
        await books.post(move("post", bank, customer, funds))
    return bank, customer


def outcomes(answers: Sequence[Sequence[Result]]) -> list[str]:
    """Of single commands: `posted`, `held`, or why not. Sorted."""
    return sorted(one.status if one.reason is None else one.reason.value for (one,) in answers)


# ---- balances -------------------------------------------------------------------------------------------------------


async def test_a_replica_that_was_away_does_not_start_from_what_it_remembers(
    books: Books, service: ServiceDatabase
) -> None:
    """midaz PR#2499: a cached balance expired before it was written back, and went on from the stale row: money vanished silently."""
    other = await replica(books, service)
    bank, customer = await pair(books, funds=100)
    assert outcomes([await other.post(move("post", customer, bank, 10))]) == ["posted"]
    for _ in range(5):
        await books.post(move("post", customer, bank, 10))
        books.clock.advance(timedelta(hours=2))
        assert await other.balance(customer) == await books.balance(customer)
    assert outcomes([await other.post(move("post", customer, bank, 41))]) == ["insufficient_funds"]
    assert outcomes([await other.post(move("post", customer, bank, 40))]) == ["posted"]
    assert await books.balance(customer) == (0, 0)
    await books.sound()


async def test_money_that_is_held_for_an_overdrawn_account_counts_once(books: Books, service: ServiceDatabase) -> None:
    """midaz PR#2437: two-phase credits to an overdrawn account counted twice against its overdraft, and a row of the audit was missing."""
    bank, customer = await pair(books, floor=-100)
    await books.post(move("post", customer, bank, 60))
    (held,) = await books.post(move("hold", bank, customer, 50))
    assert await books.balance(customer) == (-60, -60), "what is only promised can't be spent"
    await books.post(draw("capture", held.id, 20))
    assert await books.balance(customer) == (-40, -40)
    await books.post(draw("capture", held.id))
    assert await books.balance(customer) == (-10, -10)
    assert outcomes([await books.post(move("post", customer, bank, 91))]) == ["insufficient_funds"]
    assert outcomes([await books.post(move("post", customer, bank, 90))]) == ["posted"]
    _, entries = await books.ledger.accounts.entries("acme", customer, before=None, limit=10)
    assert [entry.kind for entry in entries] == ["post", "capture", "capture", "hold", "post"]
    await books.sound()


async def test_what_is_held_can_not_be_spent_as_well(books: Books, service: ServiceDatabase) -> None:
    """blnk#181: the check of a balance ignored what was in flight, so that holds together took more than there was."""
    other = await replica(books, service)
    bank, customer = await pair(books, funds=100)
    answers = await asyncio.gather(
        *((books, other)[n % 2].post(move(("hold", "post")[n // 2 % 2], customer, bank, 30)) for n in range(12))
    )
    taken = [status for status in outcomes(answers) if status != "insufficient_funds"]
    assert len(taken) == 3
    assert (await books.balance(customer))[1] == 10
    await books.sound()


@pytest.mark.parametrize("floor", [0, -1, -250])
async def test_a_floor_is_reached_to_the_unit_and_not_passed(books: Books, floor: int) -> None:
    """formance/ledger#379: a script's bounded overdraft was not bounded where it said."""
    bank, customer = await pair(books, floor=floor, funds=100)
    (spent,) = await books.post(move("post", bank, customer, 7))
    room = 107 - floor
    for command in (move("post", customer, bank, room + 1), move("hold", customer, bank, room + 1)):
        (no,) = await books.post(command)
        assert (no.reason, no.available, no.required) == (Reason.INSUFFICIENT_FUNDS, room, room + 1)
    (held,) = await books.post(move("hold", customer, bank, room - 7))
    assert outcomes([await books.post(draw("reverse", spent.id))]) == ["posted"], "a reversal may use it up too"
    assert await books.balance(customer) == (100, floor)
    assert outcomes([await books.post(move("post", customer, bank, 1))]) == ["insufficient_funds"]
    await books.post(draw("capture", held.id))
    assert await books.balance(customer) == (floor, floor)
    await books.sound()


@pytest.mark.parametrize("amount", [2**53 + 1, 10**17 + 1, 2**63 - 2])
async def test_amounts_that_a_float_can_not_tell_apart_are_told_apart(env: Env, amount: int) -> None:
    """midaz (balance script, sub_decimal): operands that are equal in double precision were subtracted wrongly."""
    bank, customer = await env.account("debit"), await env.account(floor="0")
    await env.transfers(post(bank, customer, amount))
    assert (await env.balance(customer))[0] == str(amount)
    no = await env.transfers(post(customer, bank, amount + 1))
    assert no.json["data"][0]["reason"] == "insufficient_funds"
    await env.transfers(post(customer, bank, amount - 1))
    assert await env.balance(customer) == ("1", "0", "1")


async def test_a_balance_needs_no_job(books: Books) -> None:
    """fineract MIFOSX-1940, FINERACT-637: running balances came from a job at night, which hung at 400,000 entries."""
    bank, customer = await pair(books)
    amounts = [random.Random(3).randint(1, 99) for _ in range(1000)]
    await books.post(*(move("post", bank, customer, amount) for amount in amounts))
    assert await books.balance(customer) == (sum(amounts), sum(amounts))
    _, entries = await books.ledger.accounts.entries("acme", customer, before=None, limit=1000)
    running = [sum(amounts[: n + 1]) for n in range(1000)]
    assert [entry.credits_posted for entry in reversed(entries)] == running


# ---- holds ----------------------------------------------------------------------------------------------------------


async def test_a_hold_that_many_capture_at_once_is_captured_once(books: Books, service: ServiceDatabase) -> None:
    """blnk PR#171: concurrent commits of one hold each took effect."""
    other = await replica(books, service)
    bank, customer = await pair(books, funds=100)
    (held,) = await books.post(move("hold", customer, bank, 70))
    answers = await asyncio.gather(*((books, other)[n % 2].post(draw("capture", held.id)) for n in range(10)))
    assert outcomes(answers) == ["hold_already_captured"] * 9 + ["posted"]
    assert await books.balance(customer) == (30, 30)
    await books.sound()


@pytest.mark.parametrize("seed", range(4))
async def test_a_hold_ends_one_way_for_both_of_its_accounts(books: Books, service: ServiceDatabase, seed: int) -> None:
    """blnk PR#315: a commit or void could do nothing to one leg and still be marked as applied."""
    other = await replica(books, service)
    bank, customer = await pair(books, funds=100)
    (held,) = await books.post(move("hold", customer, bank, 70))
    ends = [draw("capture", held.id), draw("void", held.id), draw("capture", held.id, 70), draw("void", held.id)]
    random.Random(seed).shuffle(ends)
    answers = await asyncio.gather(*((books, other)[n % 2].post(end) for n, end in enumerate(ends)))
    (won,) = [result.transfer for (result,) in answers if result.transfer is not None]
    moved = 70 if won.kind == "capture" else 0
    assert await books.balance(customer) == (100 - moved, 100 - moved)
    assert await books.balance(bank) == (100 - moved, 100 - moved)
    state = (await books.ledger.transfer("acme", held.id)).holds[won.book, held.id]
    assert (state.state, state.captured, state.remaining) == (
        ("captured", 70, 0) if moved else ("voided", 0, 0)
    )  # fmt: skip
    rows = await service.query("SELECT debits_pending + credits_pending AS held FROM account")
    assert [row["held"] for row in rows] == [0, 0]
    await books.sound()


async def test_a_hold_in_another_currency_leaves_its_refusal(books: Books) -> None:
    """blnk#55: exchange together with a hold lost the transaction's row."""
    dollars, euros = await books.open(currency="USD"), await books.open()
    (no,) = await books.post(move("hold", dollars, euros, 5, currency="USD"))
    assert no.reason is Reason.CURRENCY_MISMATCH
    (kept,) = (await books.ledger.transfer("acme", no.id)).rejections.values()
    assert kept.reason == "currency_mismatch"
    (again,) = await books.post(move("hold", dollars, euros, 5, currency="USD", id=no.id))
    assert (again.reason, again.existed) == (Reason.CURRENCY_MISMATCH, True)


async def test_a_hold_that_nobody_ends_is_released(books: Books) -> None:
    """midaz (source comment R18): nothing sweeps a pending transaction that was forgotten."""
    bank, customer = await pair(books, funds=100)
    (held,) = await books.post(move("hold", customer, bank, 70, expires_in=60))
    books.clock.advance(timedelta(seconds=60, microseconds=1))
    assert await books.balance(customer) == (100, 100)
    assert await books.ledger.sweep() == 1
    assert outcomes([await books.post(draw("capture", held.id))]) == ["hold_expired"]
    assert await books.balance(customer) == (100, 100)
    await books.sound()


# ---- reversals ------------------------------------------------------------------------------------------------------


async def test_two_refunds_at_once_do_not_exceed_what_was_paid(books: Books, service: ServiceDatabase) -> None:
    """hyperswitch#13182: two concurrent refunds of 60 on a payment of 100 both succeeded."""
    other = await replica(books, service)
    bank, customer = await pair(books)
    for _ in range(8):
        (paid,) = await books.post(move("post", bank, customer, 100))
        answers = await asyncio.gather(
            books.post(draw("reverse", paid.id, 60)), other.post(draw("reverse", paid.id, 60))
        )
        assert outcomes(answers) == ["exceeds_reversible", "posted"]
    assert await books.balance(customer) == (320, 320)
    await books.sound()


async def test_a_refund_and_a_chargeback_pay_out_once(books: Books, service: ServiceDatabase) -> None:
    """hyperswitch PR#10533, control-center#4109: a refund and a dispute of one payment were both paid out."""
    other = await replica(books, service)
    bank, customer = await pair(books)
    (paid,) = await books.post(move("post", bank, customer, 100))
    answers = await asyncio.gather(
        books.post(draw("reverse", paid.id, code="refund")),
        other.post(draw("reverse", paid.id, code="chargeback")),
        books.post(draw("reverse", paid.id, 100, code="dispute")),
    )
    assert outcomes(answers) == ["exceeds_reversible", "exceeds_reversible", "posted"]
    assert await books.balance(customer) == (0, 0)
    await books.sound()


# ---- once and only once ---------------------------------------------------------------------------------------------


async def test_a_transfer_that_is_sent_again_is_one_transfer(
    books: Books, service: ServiceDatabase, directory: Path
) -> None:
    """pgledger PR#38: there are no idempotency keys, a lost answer can only be answered by paying again. formance/stack#1464: how not to
    apply a payment twice when a webhook comes again."""
    bank, customer = await pair(books)
    command = move("post", bank, customer, 5)
    async with wire_to(service.dsn, directory) as wire:
        database = await Database.open(wire.dsn)
        ledger = ledger_on(database, books.clock)
        await ledger.poster.book("acme")
        wire.lose_answers = 99
        with pytest.raises(CommitUnknown):
            await ledger.poster.post(Ask("acme", "cli_test", None, [command], atomic=False))
        await database.close()
    other = await replica(books, service)
    for days in (0, 1, 400):
        books.clock.advance(timedelta(days=days))
        for (again,) in await asyncio.gather(books.post(command), other.post(command)):
            assert (again.status, again.existed) == ("posted", True)
    assert await books.balance(customer) == (5, 5)


async def test_a_form_that_is_submitted_twice_moves_money_once(env: Env) -> None:
    """openMF/web-app PR#3902: two clicks made two journal entries."""
    bank, customer = await env.account("debit"), await env.account()
    body = post(bank, customer, 5)
    answers = await asyncio.gather(*(env.transfers(body, key="click") for _ in range(8)))
    done = [answer for answer in answers if answer.status == 201]
    assert all(answer.status == 201 or problem(answer) == (409, "request-in-progress") for answer in answers)
    assert len({answer.content for answer in done}) == 1
    assert (await env.balance(customer))[0] == "5"


async def test_an_old_key_does_not_answer_for_another_request(env: Env) -> None:
    """midaz: with a key the body was ignored, and the first result was given for another request's money."""
    bank, customer = await env.account("debit"), await env.account()
    assert (await env.transfers(post(bank, customer, 5), key="one")).status == 201
    other = await env.transfers(post(bank, customer, 6), key="one")
    assert problem(other) == (422, "idempotency-key-reused")
    assert other.json["fields"]
    assert (await env.balance(customer))[0] == "5"


async def test_equal_transfers_are_two_when_two_were_asked_for(env: Env) -> None:
    """midaz: without a key, a second transfer with the same body within 300 s was swallowed as a repeat."""
    bank, customer = await env.account("debit"), await env.account()
    for _ in range(2):
        answer = await env.transfers(post(bank, customer, 5))
        assert answer.status == 201
        assert answer.header("idempotent-replayed") is None
    assert (await env.balance(customer))[0] == "10"


async def test_a_taken_id_is_said_in_the_answer(books: Books, service: ServiceDatabase) -> None:
    """blnk#305: the error of a duplicate reference was told by a webhook, which stopped to fire: nobody heard of it."""
    other = await replica(books, service)
    bank, customer = await pair(books)
    number = ids.transfers.new()
    answers = await asyncio.gather(
        *((books, other)[n % 2].post(move("post", bank, customer, n + 1, id=number)) for n in range(6))
    )
    assert outcomes(answers) == ["exists_with_different_amount"] * 5 + ["posted"]
    for _ in range(3):
        (no,) = await other.post(move("post", customer, bank, 1, id=number))
        assert no.reason is Reason.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT
    await books.sound()


async def test_under_load_every_answer_is_whole_and_every_id_is_its_own(env: Env) -> None:
    """formance/ledger#364: under load there were answers of 200 without a body, and two transactions with one id."""
    bank, *customers = [await env.account("debit"), *[await env.account() for _ in range(5)]]
    answers = await asyncio.gather(*(env.transfers(post(bank, customers[n % 5], n + 1)) for n in range(60)))
    made = [answer.json["data"][0] for answer in answers]
    assert [one["amount"]["amount"] for one in made] == [str(n + 1) for n in range(60)]
    assert sorted(one["sequence"] for one in made) == list(range(1, 61))
    assert len({one["id"] for one in made}) == 60


# ---- all or nothing -------------------------------------------------------------------------------------------------


async def test_nobody_sees_a_part_of_a_unit(books: Books, service: ServiceDatabase) -> None:
    """blnk (transaction_bulk): an atomic bulk is applied leg by leg and, when one fails, taken back: others see it in between."""
    other = await replica(books, service)
    bank, customer = await pair(books, funds=1)
    shop = await books.open(floor=0)
    done = asyncio.Event()
    seen: set[tuple[int, int]] = set()

    async def look() -> None:
        while not done.is_set():
            row = await other.ledger.accounts.get("acme", shop, At())
            assert row.version % 3 == 0, f"{row.version} of 3s"
            seen.add((row.version, row.credits_posted))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        for n in itertools.count():
            if n >= 20 and len(seen) > 5:
                break
            good = [move("post", bank, shop, 1) for _ in range(3)]
            await books.post(*good, atomic=True)
            bad = [*(move("post", bank, shop, 1) for _ in range(4)), move("post", customer, bank, n + 2)]
            assert all(result.status == "rejected" for result in await books.post(*bad, atomic=True))
        done.set()
    kinds = await service.query("SELECT DISTINCT kind FROM transfer")
    assert [row["kind"] for row in kinds] == ["post"], "a refused unit leaves nothing that would have to be taken back"
    await books.sound()


async def test_no_number_is_missing_after_refusals_and_lost_connections(
    books: Books, service: ServiceDatabase, directory: Path
) -> None:
    """midaz#1782: gaps in versions broke the continuity that auditors ask for."""
    bank, customer = await pair(books, funds=50)
    async with wire_to(service.dsn, directory) as wire:
        for n in range(12):
            database = await Database.open(wire.dsn)
            ledger = ledger_on(database, books.clock)
            await ledger.poster.book("acme")
            wire.cut_in = n
            unit = [move("post", customer, bank, 1), move("post", customer, bank, (1, 999)[n % 2])]
            try:
                await ledger.poster.post(Ask("acme", "cli_test", None, unit, atomic=True))
            except (DatabaseUnavailable, CommitUnknown):
                assert wire.cuts
            wire.cut_in = None
            await database.close()
    rows = await service.query("SELECT sequence FROM transfer ORDER BY sequence")
    assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
    entries = await service.query("SELECT account, version FROM entry ORDER BY account, version")
    for account in (bank, customer):
        versions = [row["version"] for row in entries if row["account"] == account]
        assert versions == list(range(1, len(versions) + 1))
    await books.sound()


@pytest.mark.parametrize("lost", ["answer", "commit"])
async def test_what_is_posted_is_told_and_nothing_else(
    books: Books, service: ServiceDatabase, directory: Path, lost: str
) -> None:
    """midaz#1429: a backup queue lost the balance's key. midaz, blnk: events leave after the commit, without an outbox, at best effort."""
    bank, customer = await pair(books, funds=10)
    async with wire_to(service.dsn, directory) as wire:
        database = await Database.open(wire.dsn)
        ledger = ledger_on(database, books.clock)
        await ledger.poster.book("acme")
        for amount in (3, 99, 4):
            if lost == "answer":
                wire.lose_answers = 2
            else:
                wire.lose_commits = 2
            await ledger.poster.post(
                Ask("acme", "cli_test", None, [move("post", customer, bank, amount)], atomic=False)
            )
        assert wire.cuts >= 5
        await database.close()
    facts = [json.loads(row["fact"]) for row in await service.query("SELECT fact FROM outbox ORDER BY position")]
    told = [fact["data"] for fact in facts if fact["type"] == "ledger.transfers.posted"]
    assert [(one["first"], one["last"], one["count"]) for one in told] == [(1, 1, 1), (2, 2, 1), (3, 3, 1)]
    assert await books.balance(customer) == (3, 3)


async def test_replicas_that_post_crosswise_do_not_end_in_a_deadlock(books: Books, service: ServiceDatabase) -> None:
    """formance/ledger#767, #565: concurrent transactions over the same accounts ended in deadlocks."""
    other = await replica(books, service)
    made = [await books.open() for _ in range(6)]
    rng = random.Random(5)

    async def client(of: Books) -> None:
        for _ in range(15):
            pairs = [rng.sample(made, 2) for _ in range(5)]
            await of.post(*(move("post", debit, credit, 1) for debit, credit in pairs), atomic=True)

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        for n in range(12):
            group.create_task(client((books, other)[n % 2]))
    deadlocks = await service.query("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks[0]["deadlocks"] == 0
    assert (await service.query("SELECT count(*) AS n FROM transfer"))[0]["n"] == 12 * 15 * 5
    await books.sound()


# ---- a client is answered -------------------------------------------------------------------------------------------


async def test_a_database_that_stands_still_hangs_nobody(books: Books, service: ServiceDatabase) -> None:
    """tigerbeetle#206, #3178: a client whose cluster is away waits for ever, without a time-out or a sign."""
    bank, customer = await pair(books)
    other = await replica(books, service, connections=1)
    command = move("post", bank, customer, 5)
    await other.ledger.poster.book("acme")
    other.database.bounds = Bounds(transaction_s=0.5, statement_s=0.5, commit_s=0.5)
    mine = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename <> current_user"
    stopped = [row["pid"] for row in await service.query(mine)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises((DatabaseUnavailable, CommitUnknown)):
                await other.post(command)
            other.database.bounds = PATIENT
            assert await other.balance(customer) == (0, 0), "the connection was given up, and the next one answers"
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert outcomes([await books.post(command)]) == ["posted"]
    assert await books.balance(customer) == (5, 5)


async def test_a_lock_that_somebody_keeps_hangs_nobody(books: Books, service: ServiceDatabase) -> None:
    """tigerbeetle#206 once more, as PostgreSQL would have it: somebody sits on the row that everybody needs."""
    bank, customer = await pair(books)
    other = await replica(books, service, lock_s=0.2)
    connection = await service.connection()
    try:
        async with connection.transaction(), asyncio.timeout(PATIENCE_S):
            await connection.execute("SELECT * FROM book FOR UPDATE")
            with pytest.raises(Contended):
                await other.post(move("post", bank, customer, 5))
            assert await other.balance(customer) == (0, 0), "reads don't wait"
    finally:
        await connection.close()
    assert outcomes([await other.post(move("post", bank, customer, 5))]) == ["posted"]


# ---- history and questions ------------------------------------------------------------------------------------------


async def test_what_can_not_be_answered_is_not_answered_with_nothing(books: Books) -> None:
    """formance/ledger#1416: a question about the past was answered with an empty list where history was off: "balances reconcile to zero"."""
    _, customer = await pair(books, funds=5)
    books.clock.advance(timedelta(days=1))
    late = await books.open()
    accounts = books.ledger.accounts
    for account, at in (
        (late, At(sequence=0)),
        (late, At(instant=START)),
        (customer, At(sequence=2)),
        (customer, At(instant=books.clock.now() + timedelta(seconds=1))),
    ):
        with pytest.raises(HistoryNotKept):
            await accounts.get("acme", account, at)
    unknown = ids.accounts.new()
    for tenant, account in (("acme", unknown), ("beta", customer)):
        with pytest.raises(AccountNotFound):
            await accounts.get(tenant, account, At())
        with pytest.raises(AccountNotFound):
            await accounts.entries(tenant, account, before=None, limit=10)
    with pytest.raises(TransferNotFound):
        await books.ledger.transfer("acme", ids.transfers.new())


async def test_every_account_has_its_whole_history_from_the_first_entry(books: Books) -> None:
    """midaz#1766: auditors asked for balances as of then. tigerbeetle#357, #1526: history is an option, and can't be had afterwards."""
    rng = random.Random(11)
    made = [await books.open(side=rng.choice(["debit", "credit"])) for _ in range(4)]
    naive: list[dict[AccountId, int]] = [dict.fromkeys(made, 0)]
    for _ in range(40):
        debit, credit = rng.sample(made, 2)
        amount = rng.randint(1, 50)
        await books.post(move("post", debit, credit, amount))
        after = dict(naive[-1])
        after[debit] -= amount
        after[credit] += amount
        naive.append(after)
    for sequence, balances in enumerate(naive):
        for account in made:
            row = await books.ledger.accounts.get("acme", account, At(sequence=sequence))
            assert (row.credits_posted - row.debits_posted, row.as_of) == (balances[account], sequence)


@pytest.mark.parametrize("seed", range(3))
async def test_filters_together_find_what_each_row_says(books: Books, seed: int) -> None:
    """tigerbeetle PR#2544 (Jepsen, 2025): queries over several fields dropped results; four fuzzers missed it because they asked only for
    what they had noted beforehand. Here the questions are random and the answer is made from all rows."""
    rng = random.Random(seed)
    store, accounts = books.ledger.accounts, []
    for _ in range(60):
        new = NewAccount(
            id=ids.accounts.new(),
            name="an account",
            currency=rng.choice(["EUR", "USD", "JPY"]),
            normal_side=rng.choice(["debit", "credit"]),
            floor=None,
            code=rng.choice([None, "a", "b", "c"]),
            metadata=None,
        )
        accounts.append(new)
        await store.open(rng.choice(["acme", "acme", "beta"]), "cli_test", None, new)
    everything = {
        tenant: list(await store.page(tenant, after=None, currency=None, code=None, limit=100))
        for tenant in ("acme", "beta")
    }
    assert sum(map(len, everything.values())) == 60
    for _ in range(60):
        tenant = rng.choice(["acme", "beta"])
        currency, code = rng.choice([None, "EUR", "USD", "JPY", "GBP"]), rng.choice([None, "a", "b", "c", "d"])
        after, limit = rng.choice([None, *(a.id for a in accounts)]), rng.choice([1, 2, 7, 100])
        found = await store.page(tenant, after=after, currency=currency, code=code, limit=limit)
        wanted = [
            row.id
            for row in everything[tenant]
            if (after is None or row.id < after) and currency in (None, row.currency) and code in (None, row.code)
        ]
        assert [row.id for row in found] == sorted(wanted, reverse=True)[:limit]


@pytest.mark.damages
async def test_a_balance_can_be_explained_and_a_wrong_one_is_found(books: Books, service: ServiceDatabase) -> None:
    """tigerbeetle#3916: somebody saw all balances at zero; nobody could find out why, and no tool could say whether they were right."""
    bank, customer = await pair(books, funds=100)
    await books.post(move("post", customer, bank, 30), move("hold", customer, bank, 7))
    _, entries = await books.ledger.accounts.entries("acme", customer, before=None, limit=10)
    sign = {"credit": 1, "debit": -1}
    assert sum(sign[e.side] * e.amount for e in entries if e.kind == "post") == (await books.balance(customer))[0]
    connection = await service.connection(superuser=True)
    try:
        await connection.execute("SET session_replication_role = replica")
        columns = "debits_posted = 0, credits_posted = 0, debits_pending = 0, credits_pending = 0"
        await connection.execute(f"UPDATE account SET {columns}")
        faults = await books.ledger.faults()
    finally:
        await connection.close()
    assert {str(account) for account in (bank, customer)} <= {word.strip(",:") for f in faults for word in f.split()}


def amounts_in(value: Any, pointer: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object with an amount, by its place."""
    if isinstance(value, dict):
        if "amount" in value and not isinstance(value["amount"], dict):
            yield pointer, value
        for name, member in value.items():
            yield from amounts_in(member, f"{pointer}/{name}")
    elif isinstance(value, list):
        for place, member in enumerate(value):
            yield from amounts_in(member, f"{pointer}/{place}")


async def test_no_amount_goes_without_its_currency(env: Env) -> None:
    """blnk#323: a balance came without its precision, so nobody could know what it was worth."""
    bank, customer = await env.account("debit"), await env.account(floor="0")
    paid = (await env.transfers(post(bank, customer, 500))).json["data"][0]
    held = (await env.transfers({**post(customer, bank, 60), "kind": "hold"})).json["data"][0]
    answers = [
        await env.call("GET", f"/v1/accounts/{customer}"),
        await env.call("GET", "/v1/accounts"),
        await env.call("GET", f"/v1/accounts/{customer}/entries"),
        await env.call("GET", f"/v1/transfers/{held['id']}"),
        await env.call("POST", f"/v1/transfers/{held['id']}/capture", {"amount": eur(10)}),
        await env.call("POST", f"/v1/transfers/{held['id']}/capture", {"amount": eur(51)}),
        await env.call("POST", f"/v1/transfers/{paid['id']}/reverse", {"amount": eur(20)}),
        await env.transfers(post(customer, bank, 10_000)),
    ]
    found = [one for answer in answers for one in amounts_in(answer.json)]
    assert len(found) > 25
    for pointer, one in found:
        assert set(one) == {"amount", "currency"}, pointer
        assert isinstance(one["amount"], str), pointer
        assert one["currency"] == "EUR"


# ---- what must stay true of this page --------------------------------------------------------------------------------


def test_the_page_lists_every_test_of_this_file() -> None:
    page = (Path(__file__).parents[3] / "docs/explanation/failure-catalogue.md").read_text()
    for name in [name for name in globals() if name.startswith("test_") and callable(globals()[name])]:
        assert name == "test_the_page_lists_every_test_of_this_file" or f"`{name}`" in page, name
