"""What is dated back: the rules against sums made anew for each day, and the database's calendar against the transfers."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tallystick.contracts.ledger.messages import Reason
from tallystick.contracts.ledger.problems import BookOutOfBalance
from tallystick.kernel import ids
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import Command, Header, Result, State, Unit, decide
from tallystick.services.ledger.service import Ask, At
from tests.services.ledger.support import START, Books, account, aid, daily, draw, move, past_of, post, state, tid
from tests.support.parts import ServiceDatabase

TODAY = START + timedelta(days=10, hours=12)


def past(found: State, *balances: int, of: int = 3) -> None:
    """Account `of` had these balances at the end of the days up to yesterday."""
    found.days[aid(of)] = past_of((TODAY - timedelta(days=len(balances))).date(), balances)


def run(found: State, *commands: Command) -> list[Result]:
    return decide([Unit(1, commands, atomic=False)], found, TODAY).results[0]


def rich(*, strict: bool = True, **limits: Any) -> State:
    """Account 3 has 100 today."""
    found = state(account(1), account(3, **limits))
    found.books[1].strict = strict
    run(found, post(900, 1, 3, 100))
    return found


def test_a_floor_of_the_past_is_kept_or_told() -> None:
    at = TODAY - timedelta(days=3)
    found = rich(floor=0)
    past(found, 50, 10, 20, 60)
    (no,) = run(found, post(1, 3, 1, 30, effective_at=at))
    assert (no.reason, no.breached_on) == (Reason.PAST_LIMIT_BROKEN, (date(2026, 1, 8), date(2026, 1, 9)))
    (yes,) = run(found, post(2, 3, 1, 10, effective_at=at))
    assert (yes.reason, yes.breached_on) == (None, ())
    assert daily(found.days[aid(3)]) == [50, 0, 10, 50]
    assert run(found, post(3, 3, 1, 1, effective_at=at + timedelta(days=2)))[0].reason is None
    assert run(found, post(4, 3, 1, 1, effective_at=at))[0].breached_on == (date(2026, 1, 8),)

    lenient = rich(floor=0, strict=False)
    past(lenient, 50, 10, 20, 60)
    (told,) = run(lenient, post(1, 3, 1, 30, effective_at=at))
    assert (told.status, told.breached_on) == ("posted", (date(2026, 1, 8), date(2026, 1, 9)))
    assert daily(lenient.days[aid(3)]) == [50, -20, -10, 30]


def test_a_ceiling_of_the_past_is_kept_and_today_is_today() -> None:
    found = rich(ceiling=200)
    past(found, 190, 200)
    (no,) = run(found, post(1, 1, 3, 5, effective_at=TODAY - timedelta(days=2)))
    assert no.breached_on == (date(2026, 1, 10),)
    (early,) = run(found, post(2, 1, 3, 5, effective_at=TODAY - timedelta(hours=1)))
    assert early.reason is None, "it is of today: the limits of now count"
    assert run(found, post(3, 3, 1, 200, effective_at=TODAY - timedelta(days=2)))[0].reason is None, "no floor"


def test_what_is_dated_ahead_or_into_a_sealed_period_is_refused() -> None:
    found = rich()
    found.books[1].sealed_until = TODAY - timedelta(days=1)
    refused = run(
        found,
        post(1, 1, 3, 5, effective_at=TODAY + timedelta(seconds=1)),
        post(2, 1, 3, 5, effective_at=TODAY - timedelta(days=1)),
        post(3, 1, 3, 5, effective_at=TODAY - timedelta(days=1) + timedelta(microseconds=1)),
    )
    assert [one.reason for one in refused] == [Reason.EFFECTIVE_IN_FUTURE, Reason.PERIOD_SEALED, None]
    assert (1, tid(1)) not in found.rejections, "that time comes"
    found.books[1].sealed_until = TODAY + timedelta(hours=1)
    (late,) = run(found, post(4, 1, 3, 5))
    assert late.transfer is not None
    assert late.transfer.recorded_at == TODAY + timedelta(hours=1, microseconds=1), "not within what is sealed"


def test_a_unit_is_judged_by_what_it_changes_of_a_day_as_a_whole() -> None:
    """Whatever the order of its transfers: the end of a day knows none."""
    at = TODAY - timedelta(days=2)

    def unit(*commands: Command) -> Unit:
        return Unit(1, [replace(one, effective_at=at) for one in commands], atomic=True)

    for strict in (True, False):
        found = rich(floor=0, ceiling=150, strict=strict)
        past(found, 10, 10)
        back_and_forth = unit(post(1, 3, 1, 50), post(2, 1, 3, 50)), unit(post(3, 1, 3, 145), post(4, 3, 1, 145))
        found.accounts[aid(3)].ceiling = 300
        results = [result for one in back_and_forth for result in decide([one], found, TODAY).results[0]]
        assert [(one.reason, one.breached_on) for one in results] == [(None, ())] * 4
        assert daily(found.days[aid(3)]) == [10, 10]
        less = decide([unit(post(5, 1, 3, 30), post(6, 3, 1, 41), post(7, 3, 1, 1))], found, TODAY).results[0]
        days = ((TODAY - timedelta(days=2)).date(), (TODAY - timedelta(days=1)).date())
        assert [one.breached_on for one in less] == [(), (), days]
        assert less[2].reason == (Reason.PAST_LIMIT_BROKEN if strict else None)
        assert daily(found.days[aid(3)]) == ([10, 10] if strict else [-2, -2])
        # What was left of a unit that failed is not the next one's.
        failed = unit(post(8, 3, 1, 10), post(9, 3, 1, 1000), post(10, 1, 3, 10))
        next_one = Unit(1, [post(11, 1, 3, 2, effective_at=at)], atomic=False)
        no, (alone,) = decide([failed, next_one], found, TODAY).results
        assert no[1].reason is Reason.INSUFFICIENT_FUNDS
        assert (alone.reason, alone.breached_on) == (None, ())
        assert daily(found.days[aid(3)]) == ([12, 12] if strict else [0, 0])


def test_a_unit_that_fails_leaves_the_past_as_it_was() -> None:
    found = rich(floor=0)
    past(found, 50, 50)
    at = TODAY - timedelta(days=2)
    unit = Unit(1, [post(1, 3, 1, 30, effective_at=at), post(2, 3, 1, 30, effective_at=at)], atomic=True)
    results = decide([unit], found, TODAY).results[0]
    assert [one.reason for one in results] == [Reason.LINKED_TRANSFER_FAILED, Reason.PAST_LIMIT_BROKEN]
    assert daily(found.days[aid(3)]) == [50, 50]


def test_a_unit_that_fails_after_its_last_dated_transfer_leaves_the_past_as_it_was() -> None:
    """What it dated back was judged and taken into the past by then."""
    for strict in (True, False):
        found = rich(floor=0, strict=strict)
        past(found, 50, 50)
        at = TODAY - timedelta(days=2)
        unit = Unit(1, [post(1, 1, 3, 30, effective_at=at), post(2, 3, 1, 1000)], atomic=True)
        results = decide([unit], found, TODAY).results[0]
        assert [one.reason for one in results] == [Reason.LINKED_TRANSFER_FAILED, Reason.INSUFFICIENT_FUNDS]
        assert daily(found.days[aid(3)]) == [50, 50]


_moves = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9), st.booleans()), min_size=1, max_size=12)


@given(_moves, st.integers(-40, 0), st.one_of(st.none(), st.integers(100, 160)))
def test_the_past_against_sums_made_anew(moves: list[tuple[int, int, bool]], floor: int, ceiling: int | None) -> None:
    found = rich(floor=floor, ceiling=ceiling)
    past(found, *[60] * 9)
    posted: list[tuple[int, int]] = []
    for number, (amount, ago, out) in enumerate(moves, 1):
        change = -amount if out else amount
        days = [60 + sum(c for c, since in posted if since >= day) for day in range(9, 0, -1)]
        now = 100 + sum(c for c, _ in posted) + change
        broken = [day for day, had in zip(range(9, 0, -1), days, strict=True) if day <= ago and not (
            floor <= had + change if out else ceiling is None or had + change <= ceiling
        )]  # fmt: skip
        allowed = not broken and (floor <= now if out else ceiling is None or now <= ceiling)
        debit, credit = (3, 1) if out else (1, 3)
        at = TODAY - timedelta(days=ago, seconds=1)
        (result,) = run(found, post(number, debit, credit, amount, effective_at=at))
        assert (result.status == "posted") == allowed
        if result.reason is Reason.PAST_LIMIT_BROKEN:
            assert [(TODAY.date() - day).days for day in result.breached_on] == broken
        if allowed:
            posted.append((change, ago))


# ---- on a real database -----------------------------------------------------------------------------------------------


async def dated(books: Books, debit: AccountId, credit: AccountId, amount: int, at: datetime) -> Result:
    own = ids.transactions.new()
    command = Command(
        kind="post", id=ids.transfers.new(), debit=debit, credit=credit, amount=amount, currency="EUR", transaction=own, effective_at=at
    )  # fmt: skip
    ask = Ask("acme", "cli_test", None, [command], atomic=True, header=Header(id=own, effective_at=at))
    return (await books.ledger.poster.post(ask)).results[0]


async def test_a_balance_at_any_effective_time_is_the_sum_up_to_it(books: Books, service: ServiceDatabase) -> None:
    bank, one = await books.open(side="debit"), await books.open()
    rng = random.Random(5)
    posted: list[tuple[datetime, int]] = []
    for _ in range(60):
        books.clock.advance(timedelta(hours=rng.choice([1, 7, 30, 400])))
        now = books.clock.now()
        amount = rng.randint(1, 100)
        if rng.random() < 0.6:
            at = now - timedelta(seconds=rng.choice([1, 100, 10_000, 400_000, 40_000_000]))
            assert (await dated(books, bank, one, amount, at)).status == "posted"
        else:
            (result,) = await books.post(move("post", bank, one, amount))
            assert result.transfer is not None
            at = result.transfer.recorded_at
        posted.append((at, amount))
    await books.sound()
    asked = [at + timedelta(microseconds=shift) for at, _ in posted for shift in (-1, 0)]
    asked += [START + (books.clock.now() - START) * share / 7 for share in range(8)]
    for at in asked:
        row = await books.ledger.accounts.get("acme", one, At(effective=min(at, books.clock.now())))
        assert row.credits_posted == sum(amount for since, amount in posted if since <= at), at
    recorded = await books.ledger.accounts.get("acme", one, At(instant=posted[30][0] + timedelta(days=1)))
    assert recorded.credits_posted >= 0
    connection = await service.connection(superuser=True)
    await connection.execute("SET session_replication_role = replica")
    for change, undo in (
        ("UPDATE adjustment SET debits = debits + 1 WHERE debits > 0", "UPDATE adjustment SET debits = debits - 1 WHERE debits > 1"),
        ("UPDATE adjustment_total SET credits = credits + 1 WHERE span = 'day'", "UPDATE adjustment_total SET credits = credits - 1 WHERE span = 'day'"),
        ("UPDATE transaction SET last = last + 1 WHERE first = 1", "UPDATE transaction SET last = last - 1 WHERE first = 1"),
    ):  # fmt: skip
        before = await books.ledger.faults()
        assert before == []
        done = await connection.execute(change)
        if done != "UPDATE 0":
            assert await books.ledger.faults() != [], change
        await connection.execute(undo)
    await connection.close()


async def test_a_balance_is_explained_at_any_effective_time(books: Books, service: ServiceDatabase) -> None:
    """By what was recorded by then, and by what was recorded later and counts since before: against the transfers one by one."""
    bank, one = await books.open(side="debit"), await books.open()
    rng = random.Random(7)
    posted: list[tuple[datetime, datetime, int, int, bool]] = []  # effective, recorded, sequence, amount, out

    async def noted(effective: datetime | None, amount: int, *, out: bool) -> None:
        debit, credit = (one, bank) if out else (bank, one)
        if effective is None:
            (result,) = await books.post(move("post", debit, credit, amount))
        else:
            result = await dated(books, debit, credit, amount, effective)
        assert result.transfer is not None, result
        recorded = result.transfer.recorded_at
        posted.append((effective or recorded, recorded, result.transfer.sequence, amount, out))

    for nth in range(50):
        books.clock.advance(timedelta(hours=rng.choice([1, 7, 30, 400])))
        now = books.clock.now()
        back = timedelta(seconds=rng.choice([1, 100, 10_000, 400_000, 4_000_000, 40_000_000]))
        await noted(now - back if nth % 5 else None, rng.randint(1, 100), out=nth % 3 == 0)
    (held,) = await books.post(move("hold", bank, one, 11))
    assert held.transfer is not None
    for amount in (3, 4):
        books.clock.advance(timedelta(days=1))
        await noted(None, amount, out=False)
    books.clock.advance(timedelta(days=1))
    explain = books.ledger.statements.explain
    instants = [at for effective, recorded, *_ in posted for at in (effective, recorded)]
    asked = {min(at + timedelta(microseconds=shift), books.clock.now()) for at in instants for shift in (-1, 0)}
    split = 0
    for at in asked:
        limit = rng.choice([1, 3, 1000])
        found, _ = await explain("acme", one, At(effective=at), limit)
        assert found.account == await books.ledger.accounts.get("acme", one, At(effective=at))
        for name, out in (("debits_posted", True), ("credits_posted", False)):
            counts = sum(amount for effective, _, _, amount, each in posted if each is out and effective <= at)
            assert found.step(name).result == getattr(found.account, name) == counts, (at, name)
        assert found.step("incoming").result == (11 if at >= held.transfer.recorded_at else 0)
        then = [sequence for _, recorded, sequence, *_ in posted if recorded <= at]
        listed = [each.sequence for each in found.entries if each.kind == "post"]
        assert listed == then[len(then) - len(listed) :]
        assert len(found.entries) == limit or len(listed) == len(then)
        late = [sequence for effective, recorded, sequence, *_ in posted if effective <= at < recorded]
        assert found.back is not None
        assert [each.sequence for each in found.back.entries] == late[-limit:]
        assert found.back.more == len(late[:-limit])
        split += found.back.more
    assert split, "there were more than are listed"
    recorded_only, _ = await explain("acme", one, At(instant=books.clock.now()), 10)
    assert recorded_only.back is None

    at = sorted(effective for effective, recorded, *_ in posted if effective < recorded)[20]
    connection = await service.connection(superuser=True)
    await connection.execute("SET session_replication_role = replica")
    for change, undo in (
        ("UPDATE adjustment_total SET credits = credits + 1", "UPDATE adjustment_total SET credits = credits - 1"),
        (
            "UPDATE adjustment SET at = at + interval '1000 days'",
            "UPDATE adjustment SET at = at - interval '1000 days'",
        ),
    ):
        assert (await explain("acme", one, At(effective=at), 10))[0].back is not None
        await connection.execute(change)
        with pytest.raises(BookOutOfBalance):
            await explain("acme", one, At(effective=at), 10)
        await connection.execute(undo)
    await connection.close()


@pytest.mark.parametrize("seed", range(3))
async def test_the_past_of_each_account_is_the_sums_of_its_days(books: Books, seed: int) -> None:
    """What the rules are given of the past, from any day on, against the transfers one by one."""
    rng = random.Random(seed)
    bank = await books.open(side="debit", floor=-(10**9))
    those = [bank, await books.open(floor=-(10**9)), await books.open(floor=-(10**9), ceiling=10**9)]
    posted: list[tuple[date, AccountId, AccountId, int]] = []
    held: list[tuple[Any, AccountId, AccountId, int]] = []
    for _ in range(60):
        books.clock.advance(timedelta(hours=rng.choice([0, 1, 5, 24, 200])))
        now = books.clock.now()
        debit, credit = rng.sample(those, 2)
        amount = rng.randint(1, 100)
        if rng.random() < 0.3:
            at = max(now - timedelta(days=rng.choice([0, 1, 3, 40, 9000]), seconds=1), datetime(1970, 1, 1, tzinfo=UTC))
            assert (await dated(books, debit, credit, amount, at)).status == "posted"
            posted.append((at.date(), debit, credit, amount))
        elif rng.random() < 0.3:
            (made,) = await books.post(move("hold", debit, credit, amount))
            held.append((made.id, debit, credit, amount))
        elif held and rng.random() < 0.5:
            own, debit, credit, amount = held.pop(rng.randrange(len(held)))
            await books.post(draw("capture", own))
            posted.append((now.date(), debit, credit, amount))
        else:
            await books.post(move("post", debit, credit, amount))
            posted.append((now.date(), debit, credit, amount))
    store, today = books.ledger.poster._store, books.clock.now().date()
    for _ in range(20):
        since = {own: today - timedelta(days=rng.choice([0, 1, 2, 30, 100, 400, 20_000])) for own in those}
        async with books.database.transaction() as tx:
            [book] = (await store.lock_books(tx, [1])).values()
            found = State(
                {1: book},
                {own: replace(account(1, side="debit" if own == bank else "credit"), id=own) for own in those},
            )
            await store.learn_days(tx, since, found, books.clock.now())
        for own, first in since.items():
            days = [first + timedelta(days=nth) for nth in range((today - first).days)]
            expected = [0] * len(days)
            for day, debit, credit, amount in posted:
                change = amount * ((own == debit) - (own == credit)) * (1 if own == bank else -1)
                if change:
                    for nth in range(max((day - first).days, 0), len(days)):
                        expected[nth] += change
            assert (daily(found.days[own]) if days else []) == expected


async def test_a_past_of_decades_of_many_accounts_is_judged_in_no_time(books: Books) -> None:
    """Each day since then of each account was looked at: eight accounts were enough for the database to give up, and the book stood still for it."""
    bank = await books.open(side="debit")
    many = [await books.open(floor=0) for _ in range(100)]
    books.clock.advance(timedelta(days=2))
    own, at = ids.transactions.new(), datetime(1970, 1, 1, tzinfo=UTC)
    commands = [
        Command(
            kind="post", id=ids.transfers.new(), debit=bank, credit=one, amount=7, currency="EUR", transaction=own, effective_at=at
        )
        for one in many
    ]  # fmt: skip
    ask = Ask("acme", "cli_test", None, commands, atomic=True, header=Header(id=own, effective_at=at))
    assert {result.status for result in (await books.ledger.poster.post(ask)).results} == {"posted"}
    await books.post(move("post", bank, many[3], 1))
    assert (await dated(books, many[3], bank, 7, at)).status == "posted"
    no = await dated(books, many[3], bank, 1, at)
    assert (no.reason, len(no.breached_on)) == (Reason.PAST_LIMIT_BROKEN, (books.clock.now() - at).days)


async def test_past_days_are_read_as_they_were(books: Books) -> None:
    bank, one = await books.open(side="debit"), await books.open(floor=0)
    await books.post(move("post", bank, one, 50))
    books.clock.advance(timedelta(days=2))
    await books.post(move("post", one, bank, 45))
    books.clock.advance(timedelta(days=2))
    await books.post(move("post", bank, one, 100))
    no = await dated(books, one, bank, 20, START + timedelta(days=1))
    assert (no.reason, no.breached_on) == (Reason.PAST_LIMIT_BROKEN, (date(2026, 1, 3), date(2026, 1, 4)))
    assert (await dated(books, bank, one, 20, START + timedelta(days=1))).status == "posted"
    assert (await dated(books, one, bank, 20, START + timedelta(days=1))).status == "posted"
    assert (await dated(books, one, bank, 6, START + timedelta(days=1))).breached_on[0] == date(2026, 1, 3)
    assert (await dated(books, bank, one, 7, START - timedelta(days=400))).status == "posted", (
        "before the book was opened"
    )
    assert (await dated(books, one, bank, 6, START + timedelta(days=1))).status == "posted"
    assert await books.balance(one) == (106, 106)
    await books.sound()


@pytest.mark.parametrize("at", [datetime(1969, 12, 31, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)])
async def test_the_far_past_is_refused(books: Books, at: datetime) -> None:
    bank, one = await books.open(side="debit"), await books.open(floor=0)
    assert (await dated(books, bank, one, 1, at)).reason is Reason.EFFECTIVE_TOO_EARLY
