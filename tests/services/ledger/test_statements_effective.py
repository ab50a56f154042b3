"""Statements by effective time: each page against a list that is sorted and added up anew, and in each format."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from lxml import etree

from tallystick.contracts.ledger.problems import BookOutOfBalance, HistoryNotKept, StatementTooLong
from tallystick.kernel import ids
from tallystick.kernel.clock import ManualClock, rfc3339
from tallystick.kernel.ids import AccountId
from tallystick.kernel.problem import InvalidRequest, Problem
from tallystick.services.ledger.model import EPOCH, Command, Header, Result, Statement, Transfer
from tallystick.services.ledger.service import Ask, Asked, At, Ledger, Place
from tests.services.ledger.env import Env, eur, post, problem
from tests.services.ledger.support import START, Books, draw, ledger_on, move
from tests.services.ledger.test_reports import DAY, at, table
from tests.services.ledger.test_reports_model import XSD
from tests.support.http import Answer
from tests.support.parts import ServiceDatabase

HOUR = timedelta(hours=1)
MICRO = timedelta(microseconds=1)


class Entry(NamedTuple):
    effective: datetime
    sequence: int
    side: str
    amount: int


def entries(posted: Sequence[Transfer], account: AccountId, upto: int) -> list[Entry]:
    """Of everything that moved the account's posted balance, as recorded up to the sequence."""
    found = [
        Entry(each.effective_at or each.recorded_at, each.sequence, side, each.amount)
        for each in posted
        for side, of in (("debit", each.debit_account), ("credit", each.credit_account))
        if of == account and each.sequence <= upto and each.kind in ("post", "capture", "reverse")
    ]
    return sorted(found)


def total(found: Sequence[Entry], side: str) -> int:
    return sum(one.amount for one in found if one.side == side)


async def dated(books: Books, command: Command, effective: datetime) -> Result:
    own = ids.transactions.new()
    command = Command(
        **{name: getattr(command, name) for name in command.__struct_fields__}
        | {"transaction": own, "effective_at": effective}
    )
    ask = Ask("acme", "cli_test", None, [command], atomic=True, header=Header(id=own, effective_at=effective))
    return (await books.ledger.poster.post(ask)).results[0]


class Traffic:
    """Random transfers between accounts: plain and dated back, also to the same instants and to before the accounts were there; holds, captures
    and reversals.
    """

    def __init__(self, books: Books, accounts: Sequence[AccountId], seed: int) -> None:
        self.books, self.accounts, self.rng = books, accounts, random.Random(seed)
        self.posted: list[Transfer] = []
        self.instants = [START - DAY, START + HOUR, START + 3 * DAY]

    async def more(self, count: int) -> None:
        for _ in range(count):
            if self.rng.random() < 0.6:
                self.books.clock.advance(self.rng.choice([MICRO, timedelta(seconds=9), HOUR, 9 * DAY]))
            result = await self._one()
            if result.transfer is not None:
                self.posted.append(result.transfer)
                self.instants.append(result.transfer.recorded_at)

    async def _one(self) -> Result:
        rng, now = self.rng, self.books.clock.now()
        debit, credit = rng.sample(self.accounts, 2)
        of = {kind: [each.id for each in self.posted if each.kind == kind] for kind in ("post", "hold")}
        kind = rng.choice(["post"] * 4 + ["hold", "capture", "void", "reverse"])
        if kind in ("capture", "void") and of["hold"]:
            command = draw(kind, rng.choice(of["hold"]), rng.randint(1, 30) if kind == "capture" else None)
        elif kind == "reverse" and of["post"]:
            command = draw(kind, rng.choice(of["post"]), rng.randint(1, 30))
        else:
            command = move("hold" if kind == "hold" else "post", debit, credit, rng.randint(1, 100))
        if command.kind in ("post", "reverse") and rng.random() < 0.5:
            earlier = [each for each in self.instants if each < now] or [now - DAY]
            back = rng.choice([rng.choice(earlier), now - rng.choice([MICRO, HOUR, 40 * DAY, 900 * DAY])])
            return await dated(self.books, command, back)
        (result,) = await self.books.post(command)
        return result


def next_place(page: Statement) -> Place:
    last = page.lines[-1]
    at = last.effective_at, last.sequence
    return Place(page.account.id, page.effective, page.span, at, page.page + 1, page.debits, page.credits)


async def pages(
    books: Books, account: AccountId, asked: Asked, limit: int, *, between: Any = None, reader: Ledger | None = None
) -> list[Statement]:
    found: list[Statement] = []
    place = None
    while True:
        page = await (reader or books.ledger).statements.statement("acme", account, asked, place, limit)
        found.append(page)
        if page.last_page:
            return found
        place = next_place(page)
        if between is not None:
            await between()


@pytest.mark.parametrize("seed", range(6))
async def test_a_statement_is_what_a_list_says_that_is_sorted_and_added_up(books: Books, seed: int) -> None:
    """Whatever the time, the sequence and the size of a page, and whatever is posted and dated back between the pages."""
    accounts = [await books.open(side="debit"), await books.open(), await books.open()]
    traffic = Traffic(books, accounts, seed)
    rng = traffic.rng
    await traffic.more(60)
    # of another replica: to it what is posted between the pages is recorded before it began to read
    ahead = HOUR * (seed % 2)
    many = 0
    for _ in range(40):
        account = rng.choice(accounts)
        last = traffic.posted[-1].sequence
        sequence = rng.choice([None, None, rng.randint(0, last)])
        upto = last if sequence is None else sequence
        now = books.clock.now() + ahead
        latest = now if upto == last else traffic.posted[upto].recorded_at
        whole = entries(traffic.posted, account, upto)
        ends = [one.effective + shift for one in whole for shift in (-MICRO, timedelta(0), MICRO)]
        ends = sorted(each for each in {*ends, START, latest} if each <= latest)
        start, end = sorted(rng.choices(ends, k=2))
        if start == end:
            continue
        asked = Asked(rng.choice([start, start, None]), rng.choice([end, end, None]), effective=True, sequence=sequence)
        limit = rng.choice([1, 2, 3, 7, 1000])

        async def between() -> None:
            if rng.random() < 0.3:
                await traffic.more(2)

        try:
            reader = ledger_on(books.database, ManualClock(now))
            found = await pages(books, account, asked, limit, between=between, reader=reader)
        except HistoryNotKept:
            assert asked.start is None
            assert not [one for one in whole if asked.end is None or one.effective < asked.end]
            continue
        before = [one for one in whole if asked.start is not None and one.effective < asked.start]
        within = [one for one in whole if one not in before and (asked.end is None or one.effective < asked.end)]
        assert [
            Entry(line.effective_at, line.sequence, line.side, line.amount) for page in found for line in page.lines
        ] == within
        running = list(before)
        for page in found:
            assert page.opening == (total(before, "debit"), total(before, "credit"))
            assert page.closing == (total(before + within, "debit"), total(before + within, "credit"))
            assert (page.debits, page.credits) == tuple(
                sum(one.side == side for one in within) for side in ("debit", "credit")
            )
            assert page.carried == (total(running, "debit"), total(running, "credit"))
            for line in page.lines:
                running.append(Entry(line.effective_at, line.sequence, line.side, line.amount))
                assert (line.debits_posted, line.credits_posted) == (total(running, "debit"), total(running, "credit"))
            assert page.as_of == upto
            assert page.span == found[0].span
        if asked.start is None:
            assert found[0].span.start <= min([START, *(one.effective for one in within)])
        many += len(found) > 2
    assert many, "some have several pages"
    await books.sound()


@pytest.mark.parametrize("seed", range(2))
async def test_its_balances_are_those_of_the_account_at_that_time(books: Books, seed: int) -> None:
    accounts = [await books.open(side="debit"), await books.open()]
    traffic = Traffic(books, accounts, seed)
    await traffic.more(50)
    now = books.clock.now()
    for each in {one.effective for one in entries(traffic.posted, accounts[1], 10**9)}:
        [page] = await pages(books, accounts[1], Asked(each, None, effective=True), 1000)
        row = await books.ledger.accounts.get("acme", accounts[1], At(effective=each - MICRO))
        assert page.opening == (row.debits_posted, row.credits_posted)
        row = await books.ledger.accounts.get("acme", accounts[1], At(effective=now))
        assert page.closing == (row.debits_posted, row.credits_posted)


async def test_as_of_a_sequence_it_is_what_it_was_then(books: Books) -> None:
    """In both orders, each page and to the last field."""
    accounts = [await books.open(side="debit"), await books.open()]
    traffic = Traffic(books, accounts, 11)
    was: list[tuple[Asked, list[Statement]]] = []
    for _ in range(12):
        await traffic.more(6)
        books.clock.advance(HOUR)
        end = books.clock.now()
        for effective in (False, True):
            asked = Asked(START + MICRO, end, effective, traffic.posted[-1].sequence)
            was.append((asked, await pages(books, accounts[1], asked, 4)))
    await traffic.more(20)
    for asked, before in was:
        assert [told(page) for page in await pages(books, accounts[1], asked, 4)] == [told(page) for page in before]


def told(page: Statement) -> dict[str, Any]:
    """All of it but the account, whose numbers are of now."""
    return {name: getattr(page, name) for name in page.__struct_fields__ if name != "account"}


async def refused(books: Books, account: AccountId, asked: Asked, place: Place | None = None) -> type[Problem]:
    with pytest.raises(Problem) as error:
        await books.ledger.statements.statement("acme", account, asked, place, 1)
    return type(error.value)


async def test_questions_that_have_no_answer(books: Books) -> None:
    bank = await books.open(side="debit")
    other = await books.open()
    await books.post(move("post", bank, other, 1))
    books.clock.advance(DAY)
    late = await books.open()
    await books.post(move("post", bank, late, 1), move("post", bank, late, 1))
    now = books.clock.now()
    for effective in (False, True):
        assert await refused(books, late, Asked(None, now + DAY, effective)) is HistoryNotKept
        assert await refused(books, late, Asked(sequence=4, effective=effective)) is HistoryNotKept
        assert await refused(books, late, Asked(sequence=0, effective=effective)) is HistoryNotKept, "not opened yet"
        assert await refused(books, late, Asked(now, now, effective)) is InvalidRequest
        assert await refused(books, late, Asked(now + HOUR, now, effective)) is InvalidRequest
        # at sequence 1 the second day was still to come
        assert await refused(books, other, Asked(None, now + MICRO, effective, 1)) is HistoryNotKept
        [page] = await pages(books, other, Asked(None, now, effective, 1), 10)
        assert page.closing.credits == 1
        assert page.span.end == now
        [page] = await pages(books, other, Asked(None, None, effective, 1), 10)
        assert page.span.end == now, "up to the moment in which the next one was recorded"
    # before it was opened nothing was recorded on it, and something may be effective
    assert await refused(books, late, Asked(START, None)) is HistoryNotKept
    assert await refused(books, late, Asked(None, START, effective=True)) is HistoryNotKept
    await dated(books, move("post", bank, late, 5), START - 400 * DAY)
    [page] = await pages(books, late, Asked(None, START, effective=True), 10)
    assert (page.span.start, page.closing.credits, page.credits) == (START - 400 * DAY, 5, 1)
    for start in (datetime.min.replace(tzinfo=UTC), EPOCH):
        [page] = await pages(books, late, Asked(start, None, effective=True), 10)
        assert (page.span.start, page.opening, page.closing.credits) == (start, (0, 0), 7)
    first = await pages(books, late, Asked(EPOCH, None, effective=True), 1)
    assert [page.page for page in first] == [1, 2, 3], "the same start again is the same question"


async def test_a_place_in_another_statement_is_refused(books: Books) -> None:
    bank, other = await books.open(side="debit"), await books.open()
    await books.post(*(move("post", bank, other, 1) for _ in range(3)))
    books.clock.advance(DAY)
    asked = Asked(START, None, effective=True)
    page = await books.ledger.statements.statement("acme", bank, asked, None, 1)
    place = next_place(page)
    again = await books.ledger.statements.statement("acme", bank, Asked(effective=True), place, 1)
    assert [line.sequence for line in again.lines] == [2]
    changed = {
        "account": other,
        "effective": False,
        "page": 1,
        "at": (START - MICRO, 1),
        "at ": (page.span.end, 1),
        "at  ": (START + MICRO, 4),
    }
    for name, value in changed.items():
        wrong = Place(**{each: getattr(place, each) for each in place.__struct_fields__} | {name.strip(): value})
        assert await refused(books, bank, asked, wrong) is InvalidRequest, name
    for other_asked in (
        Asked(START),
        Asked(START + MICRO, None, effective=True),
        Asked(START, START + HOUR, effective=True),
        Asked(START, None, effective=True, sequence=2),
    ):
        assert await refused(books, bank, other_asked, place) is InvalidRequest


async def test_as_recorded_a_time_may_end_before_the_sequence(books: Books) -> None:
    """Then it is told up to the last one in the time, on each page."""
    bank, other = await books.open(side="debit"), await books.open()
    await books.post(*(move("post", bank, other, 1) for _ in range(3)))
    books.clock.advance(DAY)
    await books.post(move("post", bank, other, 1))
    found = await pages(books, bank, Asked(START, START + HOUR, sequence=4), 1)
    assert [(page.as_of, page.page) for page in found] == [(3, 1), (3, 2), (3, 3)]
    assert await refused(books, bank, Asked(START, START + HOUR, sequence=2), next_place(found[0])) is InvalidRequest


async def test_one_of_too_many_entries_is_refused(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick.services.ledger.service.statements.MAX_ENTRIES", 4)
    bank, other = await books.open(side="debit"), await books.open()
    await books.post(move("post", bank, other, 1), move("post", bank, other, 1))
    books.clock.advance(DAY)
    for _ in range(3):
        await dated(books, move("post", bank, other, 1), START - DAY)
    [page] = await pages(books, bank, Asked(START - 2 * DAY, START, effective=True), 10)
    assert page.debits == 3
    assert await refused(books, bank, Asked(START - 2 * DAY, None, effective=True)) is StatementTooLong


@pytest.mark.damages
async def test_sums_that_contradict_the_entries_make_no_statement(books: Books, service: ServiceDatabase) -> None:
    bank, other = await books.open(side="debit"), await books.open()
    for nth in range(4):
        books.clock.advance(DAY)
        await dated(books, move("post", bank, other, 1), START - nth * DAY)
    await pages(books, bank, Asked(effective=True), 2)
    connection = await service.connection(superuser=True)
    await connection.execute("SET session_replication_role = replica")
    # the sums of earlier days, which are the opening and the closing balance's, say something else than the entries do
    await connection.execute("UPDATE adjustment_total SET debits = debits + 1 WHERE debits > 0 AND span = 'year'")
    with pytest.raises(BookOutOfBalance):
        await pages(books, bank, Asked(START - 2 * DAY, None, effective=True), 2)
    await connection.execute("UPDATE adjustment_total SET debits = debits - 1 WHERE debits > 1 AND span = 'year'")
    # opening and closing balance are right, and where the first page ends is not
    await connection.execute(
        "UPDATE adjustment_total SET debits = debits + 1 WHERE debits > 0 AND span <> 'year' AND starts_at < '2026-01-01'"
    )
    await pages(books, bank, Asked(START - 9 * DAY, None, effective=True), 9)
    with pytest.raises(BookOutOfBalance):
        await books.ledger.statements.statement("acme", bank, Asked(START - 9 * DAY, None, effective=True), None, 2)
    await connection.close()


# ---- as clients get it ----------------------------------------------------------------------------------------------


async def a_late_fee(env: Env) -> dict[str, str]:
    """Two sales on two days; two days later a fee that counts since the first of them, and a part of it taken back."""
    of = {name: await at(env, name, "debit" if name == "bank" else "credit") for name in ("bank", "anna", "fees")}
    env.clock.advance(HOUR)
    await env.transfers(post(of["bank"], of["anna"], 1000, code="sale"))
    env.clock.advance(DAY)
    await env.transfers(post(of["bank"], of["anna"], 500, code="sale"))
    env.clock.advance(2 * DAY)
    await late(env, post(of["anna"], of["fees"], 30, code="fee"), "2026-01-01T12:00:00Z", reference="F-1")
    await late(env, post(of["fees"], of["anna"], 10, code="fee"), "2026-01-01T12:00:00Z", description="half of it")
    env.clock.advance(HOUR)
    return of


async def late(env: Env, transfer: dict[str, Any], effective: str, **more: Any) -> Answer:
    body = {"transfers": [transfer], "effective_at": effective, **more}
    answer = await env.call("POST", "/v1/transactions", body)
    assert answer.status == 201, answer.content
    return answer


async def test_a_statement_by_effective_time(env: Env) -> None:
    of = await a_late_fee(env)
    path = f"/v1/accounts/{of['anna']}/statement?by=effective"
    found = (await env.call("GET", path)).json
    assert (found["by"], found["as_of"], found["entries"]) == ("effective", 4, 4)
    assert [one["balance"]["amount"] for one in found["data"]] == ["1000", "970", "980", "1480"]
    assert [one["sequence"] for one in found["data"]] == [1, 3, 4, 2]
    fee = found["data"][1]
    assert (fee["effective_at"][:13], fee["recorded_at"][:13], fee["reference"]) == ("2026-01-01T12", "2026-01-04T01", "F-1")  # fmt: skip
    # a day by effective time, and by when it was recorded
    day = "&from=2026-01-01&to=2026-01-01"
    assert [one["sequence"] for one in (await env.call("GET", path + day)).json["data"]] == [1, 3, 4]
    recorded = (await env.call("GET", path.replace("effective", "recorded") + day)).json
    assert ([one["sequence"] for one in recorded["data"]], recorded["by"]) == ([1], "recorded")
    assert (await env.call("GET", path.partition("?")[0] + "?" + day[1:])).json == recorded, "which is what it is by"
    # as of the sequence at which the month looked different
    early = (await env.call("GET", f"{path}&sequence=2&to=2026-01-02")).json
    assert ([one["sequence"] for one in early["data"]], early["closing"], early["as_of"]) == ([1, 2], eur(1500), 2)
    empty = (await env.call("GET", f"{path}&from=2026-01-03&to=2026-01-03")).json
    assert (empty["opening"], empty["closing"], empty["data"]) == (eur(1480), eur(1480), [])


async def test_its_pages_stay_as_they_were_when_more_is_dated_back(env: Env) -> None:
    of = await a_late_fee(env)
    path = f"/v1/accounts/{of['anna']}/statement?by=effective&limit=1"
    seen, found = [], (await env.call("GET", path)).json
    first = found
    while True:
        await late(env, post(of["bank"], of["anna"], 1), "2026-01-01T06:00:00Z")
        await late(env, post(of["anna"], of["bank"], 1), "2026-01-01T12:00:00Z")
        env.clock.advance(HOUR)
        same = ("from", "to", "opening", "closing", "as_of", "entries", "debits", "credits", "by")
        assert {name: found[name] for name in same} == {name: first[name] for name in same}
        seen += found["data"]
        if not found["has_more"]:
            break
        found = (await env.call("GET", f"{path}&after={found['next']}")).json
        assert found["carried"] == seen[-1]["balance"]
    assert [one["balance"]["amount"] for one in seen] == ["1000", "970", "980", "1480"]
    again = (await env.call("GET", f"{path.replace('limit=1', 'limit=9')}&sequence=4&to={first['to']}")).json
    assert again["data"] == seen
    for wrong in ("by=recorded&limit=1", "by=effective&from=2026-01-02", "by=effective&sequence=5"):
        answer = await env.call("GET", f"{path.partition('?')[0]}?{wrong}&after={first['next']}")
        assert problem(answer) == (400, "invalid-request"), wrong
    forged = "WzEsOTIyMzM3MjAzNjg1NDc3NTgwNywxLDEsMSwxLDEsMSwxLDFd"  # [1, 2^63 - 1, 1, ...]: no instant
    assert problem(await env.call("GET", f"{path}&after={forged}")) == (400, "invalid-request")


async def test_questions_by_effective_time_that_have_no_answer(env: Env) -> None:
    of = await a_late_fee(env)
    path = f"/v1/accounts/{of['anna']}/statement?by=effective"
    assert problem(await env.call("GET", f"{path}&to=2026-01-04")) == (422, "history-not-kept")
    assert problem(await env.call("GET", f"{path}&sequence=5")) == (422, "history-not-kept")
    assert problem(await env.call("GET", f"{path}&sequence=1&to=2026-01-02")) == (422, "history-not-kept")
    assert problem(await env.call("GET", f"{path}&from=2026-01-02&to=2026-01-01")) == (400, "invalid-request")
    assert problem(await env.call("GET", f"{path}&to=1960-01-01")) == (400, "invalid-request")
    assert (await env.call("GET", f"{path}&from=0001-01-02&to=1960-01-01")).json["closing"] == eur(0)
    assert problem(await env.call("GET", f"{path}&from=0001-01-01&to=1960-01-01")) == (400, "invalid-request")
    for wrong in ("by=value", "by=effective&by=effective", "sequence=-1", "sequence=x"):
        assert problem(await env.call("GET", f"{path.partition('?')[0]}?{wrong}")) == (400, "invalid-request"), wrong


async def test_it_as_csv_and_as_camt_053(env: Env) -> None:
    of = await a_late_fee(env)
    path = f"/v1/accounts/{of['anna']}/statement"
    answer = await env.call("GET", f"{path}?by=effective&format=csv")
    assert "-effective-4-1.csv" in (answer.header("content-disposition") or "")
    rows = table(answer)
    assert [row["record"] for row in rows] == ["opening", *["entry"] * 4, "closing"]
    assert [row["balance"] for row in rows] == ["0.00", "10.00", "9.70", "9.80", "14.80", "14.80"]
    assert [row["effective_at"] for row in rows[1:-1]] == sorted(row["effective_at"] for row in rows[1:-1])
    answer = await env.call("GET", f"{path}?by=effective&format=camt.053&limit=3")
    assert answer.header("tallystick-as-of") == "4"
    link = answer.header("link") or ""
    second = await env.call("GET", path + link[1:].partition(">")[0])
    documents = [etree.fromstring(each.content) for each in (answer, second)]
    for document in documents:
        XSD.assertValid(document)
    assert [[one.text for one in document.iterfind(".//{*}Bal/{*}Tp//{*}Cd")] for document in documents] == [
        ["OPAV", "ITAV"],
        ["ITAV", "CLAV"],
    ]
    assert len({document.findtext(".//{*}Stmt/{*}Id") for document in documents}) == 1
    interim = [
        [(one.findtext("{*}Amt"), one.findtext("{*}Dt/{*}DtTm")) for one in each.iterfind(".//{*}Bal")][place]
        for each, place in ((documents[0], 1), (documents[1], 0))
    ]
    assert interim[0] == interim[1], "what a page ends with the next one begins with"
    assert interim[0][1] == documents[0].findall(".//{*}Ntry")[-1].findtext("{*}ValDt/{*}DtTm")
    assert documents[0].findtext(".//{*}AddtlStmtInf") == "By value date, as of sequence 4"
    fee = documents[0].findall(".//{*}Ntry")[1]
    assert fee.findtext("{*}ValDt/{*}DtTm") == "2026-01-01T12:00:00.000000Z"
    assert fee.findtext("{*}BookgDt/{*}DtTm") == rfc3339(datetime(2026, 1, 4, 1, tzinfo=UTC))
    booked = etree.fromstring((await env.call("GET", f"{path}?format=camt.053")).content)
    assert booked.findtext(".//{*}Stmt/{*}Id") != documents[0].findtext(".//{*}Stmt/{*}Id")
    assert [one.text for one in booked.iterfind(".//{*}Bal/{*}Tp//{*}Cd")] == ["OPBD", "CLBD"]
