"""Files that are brought into a book: all or nothing, once, and every refused line with its reason; and a book that comes back."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from tallystick.chassis.db import Contended, DatabaseUnavailable, Transaction
from tallystick.chassis.web import cursor, read_cursor
from tallystick.cli.ledger.files.reading import MAX_RECORD
from tallystick.contracts.ledger.messages import MAX_WHOLE, PAYMENT_CODE, TRANSACTION_BYTES
from tallystick.kernel import ids as kernel_ids
from tallystick.kernel.clock import ManualClock
from tallystick.kernel.ids import TransferId, hashed
from tallystick.services.ledger.model import LONGEST, Command, FileLine, account_ref
from tallystick.services.ledger.service import Ask
from tallystick.services.ledger.service.imports import runner
from tallystick.services.ledger.service.imports.taking import Taking
from tests.services.ledger.env import SCOPE, Env, eur, post, problem

Rec = dict[str, Any]


def account(own: str, **more: Any) -> Rec:
    return {"type": "account", "id": own, "name": own, "currency": "EUR", "normal_side": "credit", **more}


def transfer(own: str, debit: str, credit: str, amount: Any, **more: Any) -> Rec:
    money = {"debit_account": debit, "credit_account": credit, "amount": eur(amount)}
    return {"type": "transfer", "id": own, **money, **more}


def digest(records: Sequence[Rec]) -> str:
    return hashlib.sha256(json.dumps(records).encode()).hexdigest()


async def announce(env: Env, records: Sequence[Rec], **more: Any) -> Any:
    body = {"rows": len(records), "sha256": digest(records), **more}
    answer = await env.call("POST", "/v1/imports", body)
    assert answer.status in {200, 201}, answer.content
    return answer


async def bring(env: Env, records: Sequence[Rec], **more: Any) -> Any:
    """The import after it ran."""
    answer = await announce(env, records, **more)
    own = answer.json["id"]
    if answer.json["state"] != "open":
        return answer.json
    for begin in range(0, len(records), 1000):
        lines = [{"line": begin + n + 1, "record": one} for n, one in enumerate(records[begin : begin + 1000])]
        staged = await env.call("POST", f"/v1/imports/{own}/lines", {"lines": lines})
        assert staged.status == 200, staged.content
    started = await env.call("POST", f"/v1/imports/{own}/start")
    assert started.status == 200, started.content
    await env.ledger.importer.turn()
    return (await env.call("GET", f"/v1/imports/{own}")).json


async def refusals(env: Env, done: Any) -> list[tuple[int, str | None, str]]:
    answer = await env.call("GET", f"/v1/imports/{done['id']}/refusals?limit=200")
    return [(one["line"], one["field"], one["reason"]) for one in answer.json["data"]]


async def accounts(env: Env, book: str = "main") -> dict[str, tuple[str, str]]:
    found = (await env.call("GET", f"/v1/accounts?book={book}&limit=200")).json["data"]
    return {one["name"]: (one["balance"]["posted"]["amount"], one["balance"]["available"]["amount"]) for one in found}


GOOD = [
    account("bank", normal_side="debit"),
    account("anna", path="customers:1:wallet", floor="0", opening=eur(5000)),
    account("ben", opening=eur(-300)),
    transfer("t1", "bank", "anna", 1000, effective_at="2024-03-01T12:00:00Z"),
    {
        "type": "transaction",
        "reference": "INV-1",
        "description": "an order",
        "transfers": [
            {"debit_account": "anna", "credit_account": "ben", "amount": eur(700)},
            {"debit_account": "anna", "credit_account": "bank", "amount": eur(50)},
        ],
    },
]


async def test_accounts_openings_and_history_come_in_and_come_in_once(env: Env) -> None:
    done = await bring(env, GOOD)
    assert (done["state"], done["accounts"], done["transfers"], done["refused"]) == ("done", 4, 5, 0)
    found = await accounts(env)
    assert found["anna"] == ("5250", "5250")
    assert found["ben"] == ("400", "400")
    assert found["bank"] == ("950", "950")
    assert found["Opening balances"] == ("-4700", "-4700")
    assert done["sequence"] == 5
    past = await env.call("GET", "/v1/accounts/customers:1:wallet?effective=2024-03-01T12:00:00Z")
    if past.status == 200:
        assert past.json["balance"]["posted"]["amount"] == "1000"
    again = await bring(env, GOOD)
    assert again["id"] == done["id"]
    assert await accounts(env) == found
    # Another file with the same records and one more finds the others there.
    more = await bring(env, [*GOOD, transfer("t2", "bank", "ben", 1)])
    assert (more["accounts"], more["accounts_known"], more["transfers"], more["transfers_known"]) == (0, 3, 1, 5)
    assert more["sequence"] == 6


async def test_a_hold_that_comes_again_expires_when_it_did_before(env: Env) -> None:
    """`expires_at` is an instant, whenever the file comes."""
    hold = {"kind": "hold", "debit_account": "bank", "credit_account": "ben", "amount": eur(5)}
    lines = [
        *GOOD[:3],
        {"type": "transfer", "id": "h1", **hold, "expires_at": "2026-02-01T00:00:00.5Z"},
        {"type": "transfer", "id": "h2", **hold, "expires_at": "2025-12-01T00:00:00Z"},
        {"type": "transfer", "id": "h3", **hold, "expires_in": 60},
        {
            "type": "transfer", "id": "i1", "kind": "increase", "target": "h1", "amount": eur(1),
            "expires_at": "2026-03-01T00:00:00Z",
        },
    ]  # fmt: skip
    assert (await bring(env, lines))["state"] == "done"
    await env.ledger.sweep()
    env.clock.advance(timedelta(hours=1))
    more = await bring(env, [*lines, transfer("t2", "bank", "ben", 1)])
    assert (more["state"], more["transfers"], more["transfers_known"]) == ("done", 1, 6), await refusals(env, more)
    told = [one["expires_at"] for one in await export(env, limit=1000) if one.get("expires_at")]
    assert told == [
        "2026-02-01T00:00:00.500000Z", "2026-01-01T00:00:01.000003Z", "2026-01-01T00:01:00.000004Z",
        "2026-03-01T00:00:00.000000Z",
    ]  # fmt: skip
    other = [{**lines[3], "expires_at": "2026-02-01T00:00:00Z"}]
    assert await refusals(env, await bring(env, other)) == [(1, None, "exists_with_different_expiry")]


async def test_a_wrong_line_in_the_middle_imports_nothing_and_names_what_is_wrong(env: Env) -> None:
    wrong = [*GOOD[:3], transfer("x", "anna", "ben", 99999), transfer("y", "anna", "nobody", 1), *GOOD[3:]]
    done = await bring(env, wrong)
    assert done["state"] == "failed"
    assert (done["accounts"], done["transfers"], done["refused"]) == (0, 0, 2)
    assert await refusals(env, done) == [
        (4, "/debit_account", "insufficient_funds"),
        (5, "/credit_account", "account_not_found"),
    ]
    assert await accounts(env) == {}
    # The id of a refused line is not used up.
    good = await bring(env, [*GOOD, transfer("x", "anna", "ben", 1)])
    assert good["state"] == "done"
    assert (await accounts(env))["anna"] == ("5249", "5249")


async def test_what_is_valid_comes_in_if_asked_for(env: Env) -> None:
    wrong = [*GOOD[:3], transfer("x", "anna", "ben", 99999), account("anna", name="else"), *GOOD[3:]]
    done = await bring(env, wrong, mode="valid")
    assert (done["state"], done["transfers"], done["refused"]) == ("done", 5, 2)
    assert await refusals(env, done) == [(4, "/debit_account", "insufficient_funds"), (5, None, "account-exists")]
    found = await accounts(env)
    assert found["anna"] == ("5250", "5250")
    assert (await bring(env, wrong, mode="valid"))["id"] == done["id"]
    assert await accounts(env) == found
    # The id of a refused line is not used up: mended, it comes in.
    mended = await bring(env, [transfer("x", "anna", "ben", 1)], mode="valid")
    assert (mended["state"], mended["transfers"]) == ("done", 1)


async def test_a_trial_changes_nothing_and_says_what_would_be(env: Env) -> None:
    done = await bring(env, GOOD, dry_run=True)
    assert (done["state"], done["accounts"], done["transfers"]) == ("done", 4, 5)
    assert await accounts(env) == {}
    assert (await bring(env, GOOD))["state"] == "done"


async def test_a_whole_import_of_more_than_one_part_is_still_whole(env: Env) -> None:
    many = [account("bank", normal_side="debit"), account("anna", floor="0")]
    many += [transfer(f"t{n}", "bank", "anna", 1) for n in range(2500)]
    done = await bring(env, [*many, transfer("last", "anna", "bank", 2501)])
    assert done["state"] == "failed"
    assert await accounts(env) == {}
    done = await bring(env, [*many, transfer("last", "anna", "bank", 2500)])
    assert (done["state"], done["transfers"], done["sequence"]) == ("done", 2501, 2501)
    assert (await accounts(env))["anna"] == ("0", "0")


async def test_parts_stop_before_the_first_wrong_part_and_go_on_where_they_were(env: Env) -> None:
    many = [account("bank", normal_side="debit"), account("anna", floor="0")]
    many += [transfer(f"t{n}", "bank", "anna", 1) for n in range(1500)]
    done = await bring(env, [*many, transfer("last", "anna", "bank", 9999)], mode="parts")
    assert (done["state"], done["line"], done["transfers"]) == ("failed", 1000, 998)
    assert await refusals(env, done) == [(1503, "/debit_account", "insufficient_funds")]
    done = await bring(env, [*many, transfer("last", "anna", "bank", 1500)], mode="parts")
    assert (done["state"], done["transfers"], done["transfers_known"]) == ("done", 503, 998)


async def test_an_import_that_was_cut_off_goes_on_where_it_was(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [account("bank", normal_side="debit"), account("anna")]
    many += [transfer(f"t{n}", "bank", "anna", 1) for n in range(2500)]
    taken = Taking.take
    calls = 0

    async def cut(self: Any, tx: Any, lines: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ConnectionResetError
        await taken(self, tx, lines)

    with monkeypatch.context() as patch:
        patch.setattr(Taking, "take", cut)
        with pytest.raises(ConnectionResetError):
            await bring(env, many, mode="parts")
    half = (await announce(env, many, mode="parts")).json
    assert (half["state"], half["line"], half["transfers"]) == ("queued", 1000, 998)
    await env.ledger.importer.turn()
    done = (await announce(env, many, mode="parts")).json
    assert (done["state"], done["transfers"], done["sequence"]) == ("done", 2500, 2500)


MANY = [
    account("till", normal_side="debit"),
    account("zoe"),
    *(transfer(f"z{n}", "till", "zoe", 1) for n in range(1500)),
]


def failing(patch: pytest.MonkeyPatch, error: Exception, *, part: int = 1) -> None:
    """Lets each run of an import end with `error` at this part."""
    taken = Taking.take
    parts: Counter[Any] = Counter()

    async def take(self: Any, tx: Any, lines: Any) -> None:
        parts[self._job.id] += 1
        if parts[self._job.id] >= part:
            raise error
        await taken(self, tx, lines)

    patch.setattr(Taking, "take", take)


@pytest.mark.parametrize("mode", ["whole", "parts"])
async def test_an_import_waits_for_what_passes_and_says_so(
    env: Env, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    pauses = []
    with monkeypatch.context() as patch:
        failing(patch, DatabaseUnavailable("of no concern"))
        found = await bring(env, MANY, mode=mode)
        began = env.clock.now()
        for _ in range(25):
            assert found["state"] == "queued"
            waiting = found["waiting"]
            assert waiting["reason"] == "The service's database is not available"
            assert datetime.fromisoformat(waiting["since"]) == began
            due = datetime.fromisoformat(waiting["due_at"])
            pauses.append(due - env.clock.now())
            env.clock.advance(pauses[-1] - timedelta(milliseconds=500))
            await env.ledger.importer.turn()
            found = (await announce(env, MANY, mode=mode)).json
            assert found["waiting"] == waiting  # not before its time
            env.clock.advance(timedelta(seconds=1))
            await env.ledger.importer.turn()
            found = (await announce(env, MANY, mode=mode)).json
    assert pauses[0] == timedelta(seconds=1)
    assert pauses == sorted(pauses)
    assert pauses[-1] == timedelta(minutes=5)
    # The database is back, and another import need not wait for this one meanwhile.
    assert (await bring(env, GOOD))["state"] == "done"
    env.clock.advance(LONGEST)
    await env.ledger.importer.turn()
    done = (await announce(env, MANY, mode=mode)).json
    assert (done["state"], done["transfers"], done["waiting"]) == ("done", 1500, None)
    assert await env.service.query("SELECT FROM import_wait") == []


async def test_an_import_does_not_wait_for_longer_than_a_day(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, Contended("of no concern"))
    found = await bring(env, MANY)
    for hours in (12, 11.9, 0.2):
        assert found["state"] == "queued"
        env.clock.advance(timedelta(hours=hours))
        await env.ledger.importer.turn()
        found = (await env.call("GET", f"/v1/imports/{found['id']}")).json
    assert found["state"] == "failed"
    assert found["reason"] == "it waited for 24 hours. Too many concurrent changes to the same data"
    assert found["waiting"] is None


async def test_the_wait_begins_anew_when_an_import_gets_further(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        failing(patch, DatabaseUnavailable("of no concern"))
        await bring(env, MANY, mode="parts")
        env.clock.advance(timedelta(hours=23))
    with monkeypatch.context() as patch:
        failing(patch, DatabaseUnavailable("of no concern"), part=2)
        await env.ledger.importer.turn()
    half = (await announce(env, MANY, mode="parts")).json
    assert (half["state"], half["line"]) == ("queued", 1000)
    assert datetime.fromisoformat(half["waiting"]["since"]) == env.clock.now()


async def test_who_runs_an_import_goes_on_where_another_one_is(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if that got further since this one had read how far it was: the report is of both."""
    with monkeypatch.context() as patch:
        failing(patch, ConnectionResetError(), part=2)
        with pytest.raises(ConnectionResetError):
            await bring(env, MANY, mode="parts")
    env.clock.advance(LONGEST)
    found = env.ledger.importer._imports.next

    async def stale(*about: Any) -> Any:
        row = await found(*about)
        return None if row is None else replace(row, line=0, accounts=0, transfers=0)

    monkeypatch.setattr(env.ledger.importer._imports, "next", stale)
    await env.ledger.importer.turn()
    done = (await announce(env, MANY, mode="parts")).json
    assert (done["state"], done["accounts"], done["transfers"], done["transfers_known"]) == ("done", 2, 1500, 0)


async def test_a_clock_that_is_set_back_lets_no_import_wait_for_long(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        failing(patch, DatabaseUnavailable("of no concern"))
        await bring(env, MANY)
    monkeypatch.setattr(env.ledger.importer, "_clock", ManualClock(env.clock.now() - timedelta(hours=1)))
    await env.ledger.importer.turn()
    assert (await announce(env, MANY)).json["state"] == "done"


async def test_an_import_that_kills_its_process_is_run_again_after_pauses_but_not_for_ever(
    env: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, ConnectionResetError())  # as good as a kill: nothing is stored of how the run ended
    with pytest.raises(ConnectionResetError):
        await bring(env, MANY)
    await env.ledger.importer.turn()  # too early
    for _ in range(runner.CUT_OFF - 1):
        env.clock.advance(LONGEST)
        with pytest.raises(ConnectionResetError):
            await env.ledger.importer.turn()
    env.clock.advance(LONGEST)
    await env.ledger.importer.turn()
    ((own,),) = await env.service.query("SELECT id FROM import")
    found = (await env.call("GET", f"/v1/imports/{kernel_ids.imports.text(own)}")).json
    assert (found["state"], found["reason"]) == ("failed", "it was cut off 10 times and never came to an end")


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("whole", "it took too long, several times; import it in parts"),
        ("valid", "it took too long, several times"),
    ],
)
async def test_an_import_that_takes_too_long_is_not_run_for_hours(
    env: Env, monkeypatch: pytest.MonkeyPatch, mode: str, reason: str
) -> None:
    time = 0.0

    async def take(self: Any, tx: Any, lines: Any) -> None:
        nonlocal time
        time += 60
        raise DatabaseUnavailable

    monkeypatch.setattr(Taking, "take", take)
    monkeypatch.setattr(runner, "monotonic", lambda: time)
    found = await bring(env, MANY, mode=mode)
    for _ in range(2):
        assert (found["state"], found["waiting"]["reason"]) == ("queued", "It took too long")
        env.clock.advance(LONGEST)
        await env.ledger.importer.turn()
        found = (await env.call("GET", f"/v1/imports/{found['id']}")).json
    assert (found["state"], found["reason"]) == ("failed", reason)


async def test_bad_records_are_refused_with_their_place(env: Env) -> None:
    lines = [
        {"type": "transfer", "debit_account": "a", "credit_account": "b", "amount": eur(1)},
        transfer("c", "a:b", "not a path!", 1),
        {"type": "transfer", "id": "d", "kind": "capture", "amount": eur(1)},
        {"type": "transaction", "id": "e", "transfers": [{"debit_account": "a", "credit_account": "b"}]},
        {"type": "account", "name": "n", "currency": "EUR", "normal_side": "credit"},
        account("f", currency="XXQ"),
        transfer("g", "a", "b", 2**63),
        transfer("h", "a", "b", 1, effective_at="yesterday at five o'clock"),
        account("i", opening={"amount": "1", "currency": "USD"}),
    ]
    done = await bring(env, lines)
    assert done["state"] == "failed"
    assert await refusals(env, done) == [
        (1, "/id", "id_missing"),
        (2, "/credit_account", "invalid-id"),
        (3, "/target", "invalid-unit"),
        (4, "/transfers/0/amount", "invalid-unit"),
        (5, "/id", "id_missing"),
        (6, "/currency", "unknown-currency"),
        (7, "/amount", "invalid-amount"),
        (8, "/effective_at", "invalid-request"),
        (9, "/opening/currency", "currency_mismatch"),
    ]


@pytest.mark.parametrize("opened", ["before", "in it"])
async def test_past_limits_count_for_a_reversal_of_what_the_file_brings_too(env: Env, opened: str) -> None:
    env.clock.advance(timedelta(days=40))
    people = [account("bank", normal_side="debit"), account("anna", floor="0")]
    lines = [
        transfer("t1", "bank", "anna", 100, effective_at="2026-01-20T12:00:00Z"),
        {"type": "transfer", "id": "r1", "kind": "reverse", "target": "t1", "effective_at": "2026-01-10T12:00:00Z"},
    ]
    if opened == "before":
        assert (await bring(env, people))["state"] == "done"
    done = await bring(env, [*people, *lines], mode="valid")
    assert await refusals(env, done) == [(4, None, "past_limit_broken")]
    assert (await accounts(env))["anna"] == ("100", "100")


async def test_what_a_file_dates_back_to_today_breaks_no_past_limit_of_accounts_that_it_opens(env: Env) -> None:
    env.clock.advance(timedelta(hours=12))
    early = "2026-01-01T06:00:00Z"
    lines = [
        account("bank", normal_side="debit"),
        account("anna", floor="0", ceiling="1000", opening=eur(600), effective_at=early),
        transfer("t1", "bank", "anna", 400, effective_at=early),
        transfer("t2", "anna", "bank", 1000, effective_at=early),
    ]
    done = await bring(env, lines)
    assert (done["state"], done["transfers"]) == ("done", 3), await refusals(env, done)
    assert (await accounts(env))["anna"] == ("0", "0")


async def test_what_is_done_to_a_hold_is_not_dated_back_and_says_so_at_its_line(env: Env) -> None:
    env.clock.advance(timedelta(days=40))
    back = {"effective_at": "2026-01-10T12:00:00Z"}
    lines = [
        account("bank", normal_side="debit"),
        account("anna"),
        transfer("h", "bank", "anna", 5, kind="hold"),
        transfer("late", "bank", "anna", 5, kind="hold", **back),
        *(
            {"type": "transfer", "id": kind, "kind": kind, "target": "h", **amount, **back}
            for kind, amount in (("increase", {"amount": eur(1)}), ("capture", {}), ("void", {}))
        ),
        transfer("p", "bank", "anna", 7, **back),
    ]
    done = await bring(env, lines, mode="valid")
    assert done["state"] == "done"
    assert await refusals(env, done) == [(line, "/effective_at", "invalid-unit") for line in (4, 5, 6, 7)]
    assert (await accounts(env))["anna"] == ("7", "7")


async def test_what_a_file_says_of_the_book_goes_no_further_than_the_interface_does(env: Env) -> None:
    rule = {"pattern": "a:{x}", "kind": "asset"}
    lines: list[Rec] = [
        {"type": "chart", "mode": "open", "rules": [rule, {**rule, "floor": "-9999999999999999999"}]},
        {"type": "chart", "mode": "strict", "rules": []},
        {"type": "category", "name": "up", "categories": ["down"]},
        {"type": "category", "name": "down", "categories": ["middle"]},
        {"type": "category", "name": "middle", "categories": ["up"]},
        {"type": "category", "name": "other", "categories": ["up", "nowhere"]},
        {"type": "category", "name": "other", "paths": ["a:**"]},
        {"type": "book", "name": "main", "sequence": 0, "exported_at": "2026-01-01T00:00:00Z"},
        account("x", created_at="long ago"),
    ]
    done = await bring(env, lines[:-1])
    assert done["state"] == "failed"
    assert await refusals(env, done) == [
        (1, "/rules/1/floor", "invalid-amount"),
        (2, None, "there-twice"),
        (3, "/categories", "category-cycle"),
        (4, "/categories", "category-cycle"),
        (5, "/categories", "category-cycle"),
        (6, "/categories/1", "category-not-found"),
        (7, "/name", "there-twice"),
        (8, None, "not-first"),
    ]
    assert (await env.call("GET", "/v1/books/main/categories")).json["data"] == []
    assert (await env.call("GET", "/v1/books/main/chart")).json["version"] == 0
    assert await refusals(env, await bring(env, lines[-1:])) == [(1, "/created_at", "invalid-request")]
    chart: Rec = {"type": "chart", "mode": "open", "rules": [{**rule, "currencies": ["EUR", "XXQ"]}]}
    assert await refusals(env, await bring(env, [chart])) == [(1, "/rules/0/currencies", "unknown-currency")]
    # What was refused is not there for the others.
    above = [
        *lines[2:5],
        {"type": "category", "name": "top", "categories": ["up"]},
        {"type": "category", "name": "alone"},
    ]
    done = await bring(env, above, mode="valid")
    assert [each[0] for each in await refusals(env, done)] == [1, 2, 3, 4]
    assert [one["name"] for one in (await env.call("GET", "/v1/books/main/categories")).json["data"]] == ["alone"]
    # In any order, as long as all are there and none is above itself.
    good = await bring(env, [*lines[2:4], {"type": "category", "name": "middle", "paths": ["a:**"]}])
    assert good["state"] == "done"
    assert len((await env.call("GET", "/v1/books/main/categories")).json["data"]) == 4


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"sealed_until": "9999-12-31T00:00:00Z"}, "/sealed_until"),
        ({"sealed_until": "0001-01-01T00:00:00Z"}, "/sealed_until"),
        ({"sealed_until": "the end of the last year"}, "/sealed_until"),
        ({"exported_at": "the end of the last year"}, "/exported_at"),
    ],
)
async def test_a_restored_book_is_sealed_up_to_now_at_most(env: Env, said: Rec, why: str) -> None:
    book = {"type": "book", "name": "main", "sequence": 0, "exported_at": "2026-01-01T00:00:00Z", **said}
    done = await restore(env, [book], "copy")
    assert (done["state"], await refusals(env, done)) == ("failed", [(1, why, "invalid-request")])
    assert (await env.call("GET", "/v1/books/copy")).json["sealed_until"] is None


async def test_a_restored_account_has_limits_that_can_be(env: Env) -> None:
    book = {"type": "book", "name": "main", "sequence": 0, "exported_at": "2026-01-01T00:00:00Z"}
    done = await restore(env, [book, account("a", floor="-9999999999999999999")], "copy", mode="valid")
    assert (done["state"], await refusals(env, done)) == ("done", [(2, "/floor", "invalid-amount")])


async def test_a_line_that_was_refused_closes_no_account(env: Env) -> None:
    assert (await bring(env, [account("a"), account("b")]))["state"] == "done"
    done = await bring(env, [account("a", name="another", closed=True), account("b", frozen=True)], mode="valid")
    assert (done["state"], await refusals(env, done)) == ("done", [(1, None, "account-exists")])
    found = (await env.call("GET", "/v1/accounts")).json["data"]
    assert {one["name"]: (one["closed"], one["frozen"]) for one in found} == {"a": (False, False), "b": (False, True)}


async def test_lines_come_before_the_start_and_all_of_them(env: Env) -> None:
    own = (await announce(env, GOOD)).json["id"]
    line = {"lines": [{"line": 1, "record": GOOD[0]}]}
    for _ in range(2):
        staged = await env.call("POST", f"/v1/imports/{own}/lines", line)
        assert (staged.status, staged.json["staged"]) == (200, 1), "with those that it brought"
    assert problem(await env.call("POST", f"/v1/imports/{own}/start")) == (409, "import-incomplete")
    assert (await env.call("GET", f"/v1/imports/{own}")).json["staged"] == 1
    env.clock.advance(timedelta(days=2))
    await env.ledger.imports.give_up()
    assert problem(await env.call("POST", f"/v1/imports/{own}/lines", line)) == (409, "import-not-open")
    assert (await bring(env, GOOD))["state"] == "done"


async def test_no_more_lines_are_kept_than_were_announced(env: Env) -> None:
    """Of those there is a bound; a client that went on and on would fill the database."""
    own = (await announce(env, GOOD)).json["id"]
    lines = [{"line": nth, "record": one} for nth, one in enumerate(GOOD, 1)]
    assert (await env.call("POST", f"/v1/imports/{own}/lines", {"lines": lines})).status == 200
    again = await env.call("POST", f"/v1/imports/{own}/lines", {"lines": lines})
    assert (again.status, again.json["staged"]) == (200, len(GOOD)), "the same lines are no more"
    more = {"lines": [{"line": len(GOOD) + 1, "record": GOOD[0]}]}
    assert problem(await env.call("POST", f"/v1/imports/{own}/lines", more)) == (400, "invalid-request")
    assert (await env.call("POST", f"/v1/imports/{own}/start")).status == 200


async def test_too_many_for_one_piece_is_said_before_anything_is_brought(env: Env) -> None:
    body = {"rows": MAX_WHOLE + 1, "sha256": "0" * 64}
    assert problem(await env.call("POST", "/v1/imports", body)) == (422, "import-too-large")
    parts = {**body, "mode": "parts"}
    assert (await env.call("POST", "/v1/imports", parts)).status == 201
    trial = await env.call("POST", "/v1/imports", {**parts, "dry_run": True})
    assert problem(trial) == (422, "import-too-large")
    assert "a trial" in trial.json["detail"]


async def test_an_import_is_seen_by_its_tenant_only(env: Env) -> None:
    own = (await announce(env, GOOD)).json["id"]
    assert problem(await env.call("GET", f"/v1/imports/{own}", tenant="other")) == (404, "import-not-found")
    assert problem(await env.call("POST", f"/v1/imports/{own}/start", tenant="other")) == (404, "import-not-found")


# ---- a book that comes back -----------------------------------------------------------------------------------------


async def export(env: Env, book: str = "main", limit: int = 7) -> list[Rec]:
    records: list[Rec] = []
    after = ""
    while True:
        answer = await env.call("GET", f"/v1/books/{book}/export?limit={limit}{after}")
        assert answer.status == 200, answer.content
        records += answer.json["data"]
        if not answer.json["has_more"]:
            return records
        after = f"&after={answer.json['next']}"


def timeless(records: Sequence[Rec]) -> list[Rec]:
    """An export without what is another book's: its name, its accounts' ids, and when things were recorded."""
    names: dict[str, str] = {}
    found = []
    for one in records:
        copy = {key: value for key, value in one.items() if key not in {"exported_at", "created_at"}}
        if one["type"] == "account":
            names[one["id"]] = copy["id"] = one["name"]
        if one["type"] == "book":
            del copy["name"]
        legs = copy.get("transfers", [copy])
        copy = {**copy, **({"transfers": [dict(leg) for leg in legs]} if "transfers" in copy else {})}
        copy.pop("effective_at", None)
        for leg in copy.get("transfers", [copy]):
            for gone in ("recorded_at", "effective_at", "expires_at"):
                leg.pop(gone, None)
            for side in ("debit_account", "credit_account"):
                if side in leg:
                    leg[side] = names[leg[side]]
        found.append(copy)
    return sorted((one for one in found if one["type"] == "account"), key=lambda one: str(one["id"])) + [
        one for one in found if one["type"] != "account"
    ]


MOVING = {"post", "capture", "reverse"}


def since(records: Sequence[Rec]) -> list[tuple[str, str]]:
    """What moved money, and since when it is effective: a transaction as a whole, since its last transfer was recorded if nothing else is said."""
    found = []
    for one in records:
        legs = one.get("transfers", [one])
        last = legs[-1].get("recorded_at")
        found += [(leg["id"], leg.get("effective_at", last)) for leg in legs if leg.get("kind") in MOVING and last]
    return found


async def balances(env: Env, book: str, effective: Sequence[str]) -> list[dict[str, str]]:
    """What each account of the book had at these times, as is known now, by the accounts' names."""
    rows = (await env.call("GET", f"/v1/accounts?book={book}&limit=200")).json["data"]
    return [
        {
            row["name"]: (await env.call("GET", f"/v1/accounts/{row['id']}?effective={at}")).json["balance"]["posted"]
            for row in rows
        }
        for at in effective
    ]


async def restore(env: Env, records: Sequence[Rec], book: str, **more: Any) -> Any:
    assert (await env.call("POST", "/v1/books", {"name": book})).status == 201
    return await bring(env, records, book=book, sequence=records[0]["sequence"], **more)


async def test_a_book_comes_back_with_all_that_it_is(env: Env) -> None:
    chart = {"mode": "open", "rules": [{"pattern": "customers:{id:int}:wallet", "kind": "liability", "floor": "0"}]}
    assert (await env.call("PUT", "/v1/books/main/chart", chart)).status == 200
    category = {"paths": ["customers:**"]}
    assert (await env.call("PUT", "/v1/books/main/categories/customers", category)).status == 200
    assert (await bring(env, GOOD))["state"] == "done"
    anna, bank = "customers:1:wallet", next(k for k, v in (await ids(env)).items() if v == "bank")
    held = await env.transfers({"kind": "hold", "debit_account": anna, "credit_account": bank, "amount": eur(100)})
    own = held.json["data"][0]["id"]
    assert (await env.call("POST", f"/v1/transfers/{own}/capture", {"amount": eur(40)})).status == 201
    spent = (
        await env.transfers({"kind": "post", "debit_account": anna, "credit_account": bank, "amount": eur(10)})
    ).json
    assert (await env.call("POST", f"/v1/transfers/{spent['data'][0]['id']}/reverse", {"amount": eur(4)})).status == 201
    frozen = await env.account("debit", name="frozen")
    closed = await env.account("debit", name="closed")
    assert (await env.call("POST", f"/v1/accounts/{frozen}/freeze")).status == 200
    assert (await env.call("POST", f"/v1/accounts/{closed}/close")).status == 200
    assert (await env.call("PATCH", "/v1/books/main", {"description": "all", "backdating": "report"})).status == 200
    before = await export(env)
    done = await restore(env, before, "copy")
    assert done["state"] == "done", (done, await refusals(env, done))
    after = await export(env, "copy", limit=1000)
    assert done["sequence"] == before[0]["sequence"] == after[0]["sequence"]
    assert timeless(after) == timeless(before)
    assert await accounts(env, "copy") == await accounts(env)


async def ids(env: Env) -> dict[str, str]:
    return {one["id"]: one["name"] for one in (await env.call("GET", "/v1/accounts?limit=200")).json["data"]}


async def test_the_largest_transaction_comes_back(env: Env) -> None:
    """In an export each of its transfers says more than it did in the request."""
    bank, anna = await env.account("debit", name="bank"), await env.account(path="customers:1:wallet")

    def asked(size: int) -> bytes:
        metadata = {"one": "x" * (size // 2), "two": "x" * (size - size // 2)}
        sides = {"debit_account": bank, "credit_account": anna}
        leg = {"kind": "post", **sides, "amount": eur(1), "code": "c" * 64, "metadata": metadata}
        return json.dumps({"transfers": [leg] * 1000}, separators=(",", ":")).encode()

    room = (TRANSACTION_BYTES - len(asked(0))) // 1000
    posted = await env.call("POST", "/v1/transactions", raw=asked(room))
    assert posted.status == 201, posted.content[:500]
    assert problem(await env.call("POST", "/v1/transactions", raw=asked(room + 1))) == (413, "payload-too-large")
    records = await export(env)
    largest = max(len(json.dumps(one, separators=(",", ":"))) for one in records)
    assert TRANSACTION_BYTES < largest < MAX_RECORD
    done = await restore(env, records, "copy")
    assert (done["state"], done["transfers"], done["refused"]) == ("done", 1000, 0)
    copied, original = (
        [one for one in timeless(found) if one["type"] == "transaction"]
        for found in (await export(env, "copy"), records)
    )
    assert copied == original


async def test_an_export_is_restored_into_an_empty_book_only(env: Env) -> None:
    await bring(env, GOOD)
    again = await bring(env, await export(env), sequence=5)
    assert again["state"] == "failed"
    assert "empty book" in again["reason"]


async def test_a_strict_chart_and_money_between_books_come_back_also_from_a_copy_of_a_copy(env: Env) -> None:
    strict = {"mode": "strict", "rules": [{"pattern": "customers:{id:int}", "kind": "liability"}]}

    async def send(book: str, to: str) -> None:
        body = {"from": {"account": "customers:1", "book": book}, "to": {"account": to}, "amount": eur(5)}
        moved = await env.call("POST", "/v1/interbook_transfers", body)
        assert (moved.status, moved.json["status"]) == (201, "posted"), moved.content

    async def chart_of(book: str) -> Any:
        found = (await env.call("GET", f"/v1/books/{book}/chart")).json
        return {"mode": found["mode"], "rules": found["rules"]}

    there = await env.account("credit", name="there")
    records: Sequence[Rec] = ()
    for book in ("first", "second", "third"):
        if not records:
            assert (await env.call("POST", "/v1/books", {"name": book})).status == 201
            await env.account("credit", name="here", path="customers:1", book=book)
            assert (await env.call("PUT", f"/v1/books/{book}/chart", strict)).status == 200
        else:
            done = await restore(env, records, book)
            assert done["state"] == "done", (done, await refusals(env, done))
            assert await chart_of(book) == strict
        await send(book, there)
        records = await export(env, book)
    paths = {
        one["path"]: one["balance"]["posted"]["amount"]
        for one in (await env.call("GET", "/v1/accounts?book=third")).json["data"]
    }
    assert paths == {
        "customers:1": "-15", "transit:out:main:EUR": "5", "was-transit:out:main:EUR": "5", "was-was-transit:out:main:EUR": "5",
    }  # fmt: skip


async def test_a_transfer_between_books_comes_back_with_all_that_a_client_may_say_of_it(env: Env) -> None:
    """Its metadata and its accounts are in the metadata of the transfers that it is made of, where each is one text."""
    path = ":".join(["x" * 63] * 8)
    assert (await env.call("POST", "/v1/books", {"name": "second"})).status == 201
    for book in ("main", "second"):
        await env.account("credit", book=book, path=path, name=f"in {book}")
    said = {f"{n:040}": '"' * 250 + "\x01" * 250 for n in range(32)}
    crossing = {
        "from": {"account": path},
        "to": {"book": "second", "account": path},
        "amount": eur(5),
        "metadata": said,
    }
    made = await env.call("POST", "/v1/interbook_transfers", crossing)
    assert (made.status, made.json["metadata"]) == (201, said)
    for book in ("main", "second"):
        records = await export(env, book)
        done = await restore(env, records, f"{book}-copy")
        assert done["state"] == "done", (done, await refusals(env, done))
        [was, then] = [[one.get("metadata") for one in await export(env, name)] for name in (book, f"{book}-copy")]
        assert then == was
    # In a file of a client's own a text is as long as in a request.
    own = [*GOOD[:2], transfer("long", "bank", "anna", 1, metadata={"a": "x" * 501})]
    assert await refusals(env, await bring(env, own)) == [(3, "/metadata", "invalid-request")]


async def test_holds_come_back_however_long_it_takes_and_in_however_many_parts(
    env: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ended a hold comes in a later part than the hold, after the time at which that one was to expire, and after sweeps."""
    bank, anna = await env.account("debit", name="bank"), await env.account(name="anna")
    hold = {"kind": "hold", "debit_account": bank, "credit_account": anna, "amount": eur(100)}
    made = await env.transfers(*[{**hold, "expires_in": seconds} for seconds in (60, 60, 60, 60, 90000)])
    captured, grown, voided, *_ = [one["id"] for one in made.json["data"]]
    for _ in range(10):
        await env.transfers(*[post(bank, anna, 1) for _ in range(100)])
    for own, verb, body in (
        (captured, "capture", {"amount": eur(30)}),
        (grown, "increase", {"amount": eur(5), "expires_in": 90000}),
        (voided, "void", {}),
    ):
        assert (await env.call("POST", f"/v1/transfers/{own}/{verb}", body)).status == 201
    env.clock.advance(timedelta(seconds=61))
    assert await env.ledger.sweep() == 2  # what is left of the first, and the fourth
    env.clock.advance(timedelta(days=2))
    records = await export(env, limit=1000)

    take, swept = Taking.take, []

    async def slowly(self: Taking, tx: Transaction, lines: Sequence[FileLine]) -> None:
        swept.append(await env.ledger.sweep())
        await take(self, tx, lines)
        env.clock.advance(timedelta(minutes=10))

    monkeypatch.setattr(Taking, "take", slowly)
    done = await restore(env, records, "copy", mode="parts")
    assert (done["state"], done["sequence"]) == ("done", records[0]["sequence"]), await refusals(env, done)
    # Those of the book that was exported have expired, and are swept meanwhile.
    assert swept == [2, 0]
    assert timeless(await export(env, "copy", limit=1000)) == timeless(records)
    # What was left open of it was to expire by now.
    assert await env.ledger.sweep() == 2
    assert await accounts(env, "copy") == await accounts(env)


async def test_an_export_that_lost_a_line_is_not_restored(env: Env) -> None:
    await bring(env, GOOD)
    records = [one for one in await export(env) if one.get("amount", {}).get("amount") != "1000"]
    done = await restore(env, records, "copy")
    assert done["state"] == "failed"
    assert await accounts(env, "copy") == {}
    done = await restore(env, records, "copy", mode="parts")
    # What came before the end was known is there, and told.
    assert (done["state"], done["line"], done["transfers"]) == ("failed", len(records), 4)
    assert len(await accounts(env, "copy")) == done["accounts"] > 0


async def test_an_export_stays_as_of_its_sequence_and_says_when_the_accounts_moved(env: Env) -> None:
    await bring(env, GOOD)
    first = (await env.call("GET", "/v1/books/main/export?limit=1")).json
    assert (await bring(env, [*GOOD, transfer("t2", "bank", "ben", 1)]))["sequence"] == 6
    second = await env.call("GET", f"/v1/books/main/export?limit=1&after={first['next']}")
    assert (second.status, second.json["as_of"]) == (200, 5)
    # What is refused meanwhile changes nothing of the accounts.
    own = next(iter(await ids(env)))
    assert (await env.transfers(post(own, own, 1))).json["data"][0]["status"] == "rejected"
    second = await env.call("GET", f"/v1/books/main/export?limit=1&after={second.json['next']}")
    assert second.status == 200
    assert (await env.call("POST", f"/v1/accounts/{own}/freeze")).status == 200
    stale = await env.call("GET", f"/v1/books/main/export?limit=1&after={second.json['next']}")
    assert problem(stale) == (409, "export-outdated")


async def test_an_export_goes_on_for_its_own_cursors_only(env: Env) -> None:
    """Another book's, or one that is broken, would begin it again or leave lines out."""
    await bring(env, GOOD)
    await env.call("POST", "/v1/books", {"name": "copy"})
    await bring(env, GOOD, book="copy")
    after = (await env.call("GET", "/v1/books/main/export?limit=1")).json["next"]
    assert (await env.call("GET", f"/v1/books/main/export?limit=2&after={after}")).status == 200
    question, *place = read_cursor(after, str, str, int, int, str, int) or ()
    for book, wrong in (
        ("copy", after),
        ("main", cursor(question, "x", *place[1:])),
        ("main", cursor(question, *place[:3], "nobody", place[4])),
    ):
        answer = await env.call("GET", f"/v1/books/{book}/export?after={wrong}")
        assert problem(answer) == (400, "invalid-request"), wrong


async def test_what_an_exchange_became_is_what_its_legs_say(env: Env) -> None:
    opened = {}
    for name, code in (
        ("anna:eur", "EUR"),
        ("anna:usd", "USD"),
        ("pool:eur", "EUR"),
        ("pool:usd", "USD"),
        ("fx", "USD"),
    ):
        opened[name] = await env.account("credit", name=name, currency=code, path=name)
    exchange = {
        "from": "anna:eur", "sell": eur(1001), "to": "anna:usd", "buy_currency": "USD", "rate": {"numerator": 11, "denominator": 10},
        "rounding": "half_even", "liquidity": {"sell": "pool:eur", "buy": "pool:usd"},
        "spread": {"numerator": 1, "denominator": 100, "account": "fx"},
    }  # fmt: skip
    made = await env.call("POST", "/v1/transactions", {"transfers": [{"kind": "exchange", "exchange": exchange}]})
    assert made.status == 201, made.content
    records = await export(env)
    done = await restore(env, records, "copy")
    assert done["state"] == "done", await refusals(env, done)
    own = made.json["id"]
    assert (await env.call("GET", f"/v1/transactions/{own}?book=copy")).json["exchanges"] == made.json["exchanges"]

    place, told = next((n, one) for n, one in enumerate(records) if one["type"] == "transaction")
    [was] = told["exchanges"]
    sell, buy, kept = was["transfers"]
    dollars = {"currency": "USD"}
    changes: tuple[tuple[Rec, str], ...] = (
        ({"bought": {"amount": "1091", **dollars}}, "transfers"),
        ({"sold": eur(1000)}, "transfers"),
        ({"sold": {"amount": "1001", **dollars}}, "transfers"),
        ({"transfers": [buy, sell, kept]}, "transfers"),
        ({"transfers": [sell, buy]}, "transfers"),
        ({"transfers": [sell, buy, sell.replace("trf_0", "trf_1")]}, "transfers"),
        ({"transfers": [sell, buy], "spread": None}, "rate"),
        ({"rate": {"numerator": 12, "denominator": 10}}, "rate"),
        ({"rounding": "up"}, "rate"),
    )
    for nth, (change, field) in enumerate(changes):
        forged = [*records]
        forged[place] = {**told, "exchanges": [{**was, **change}]}
        done = await restore(env, forged, f"forged-{nth}")
        assert await refusals(env, done) == [(place + 1, f"/exchanges/0/{field}", "invalid-unit")], change
        assert done["state"] == "failed"

    # A file's own names for the legs become the ledger's ids.
    legs = [{**leg, "id": f"leg {n}"} for n, leg in enumerate(told["transfers"])]
    named = {**was, "transfers": [leg["id"] for leg in legs]}
    mine = {"type": "transaction", "id": "mine", "transfers": legs, "exchanges": [named]}
    assert (await bring(env, [strip(mine)]))["state"] == "done"
    listed = (await env.call("GET", "/v1/transactions?limit=1")).json["data"][0]
    assert listed["exchanges"][0]["transfers"] == [each["id"] for each in listed["transfers"]]


def strip(record: Rec) -> Rec:
    """Without what only an export knows."""
    legs = [
        {k: v for k, v in leg.items() if k not in {"sequence", "recorded_at", "asked"}} for leg in record["transfers"]
    ]
    return {**record, "transfers": legs}


class Life:
    """A book that random things happen to. Refusals are part of it."""

    def __init__(self, env: Env, chance: random.Random) -> None:
        self.env = env
        self.chance = chance
        self.accounts: list[tuple[str, str]] = []
        self.holds: list[tuple[str, str]] = []
        self.posted: list[tuple[str, str]] = []

    async def begin(self) -> None:
        for n in range(6):
            code = "EUR" if n < 4 else "JPY"
            more: Rec = {"floor": "0"} if n % 2 else {}
            more |= {"path": f"a:{n}"} if n % 3 else {}
            own = await self.env.account(self.chance.choice(["debit", "credit"]), name=f"n{n}", currency=code, **more)
            self.accounts.append((own, code))

    def pair(self) -> tuple[str, str, str]:
        code = self.chance.choice(["EUR", "EUR", "JPY"])
        first, second = self.chance.sample([own for own, each in self.accounts if each == code], 2)
        return first, second, code

    def leg(self, kind: str) -> Rec:
        debit, credit, code = self.pair()
        amount = {"amount": str(self.chance.randint(1, 500)), "currency": code}
        leg: Rec = {"kind": kind, "debit_account": debit, "credit_account": credit, "amount": amount}
        if self.chance.random() < 0.3:
            leg["balancing"] = True
        if self.chance.random() < 0.3:
            leg["code"], leg["metadata"] = "c1", {"b": "ü", "a": "1"}
        return leg

    async def step(self) -> None:
        env, chance = self.env, self.chance
        env.clock.advance(timedelta(seconds=chance.randint(1, 5000)))
        await env.ledger.sweep()
        what = chance.choice(["post", "post", "hold", "hold", "draw", "draw", "reverse", "transaction", "dated"])
        if what in {"post", "hold"}:
            leg = self.leg(what)
            if what == "hold" and chance.random() < 0.5:
                leg["expires_in"] = chance.randint(1, 20000)
            for one in (await env.transfers(leg)).json["data"]:
                if one["status"] != "rejected":
                    (self.holds if what == "hold" else self.posted).append((one["id"], one["amount"]["currency"]))
        elif what == "draw" and self.holds:
            own, code = chance.choice(self.holds)
            verb = chance.choice(["capture", "capture", "void", "increase"])
            body: Rec = {}
            if verb == "increase" or (verb == "capture" and chance.random() < 0.7):
                body["amount"] = {"amount": str(chance.randint(1, 200)), "currency": code}
            if verb == "capture":
                body["final"] = chance.random() < 0.3
            answer = await env.call("POST", f"/v1/transfers/{own}/{verb}", body)
            if answer.status == 201 and verb == "capture":
                self.posted.append((answer.json["id"], code))
        elif what == "reverse" and self.posted:
            own, code = chance.choice(self.posted)
            money = {"amount": {"amount": str(chance.randint(1, 100)), "currency": code}}
            await env.call("POST", f"/v1/transfers/{own}/reverse", money if chance.random() < 0.7 else {})
        elif what in {"transaction", "dated"}:
            body = {"transfers": [self.leg("post") for _ in range(chance.randint(1, 4))], "reference": "r"}
            if what == "dated":
                body["effective_at"] = "2025-06-01T00:00:00Z"
            elif chance.random() < 0.4:
                body["transfers"].append(self.leg("hold"))
            answer = await env.call("POST", "/v1/transactions", body)
            if answer.status == 201 and chance.random() < 0.3:
                await env.call("POST", f"/v1/transactions/{answer.json['id']}/reverse", {})


@pytest.mark.parametrize("seed", range(4))
async def test_a_random_book_comes_back_to_the_same_balances_and_sequence(env: Env, seed: int) -> None:
    life = Life(env, random.Random(seed))
    await life.begin()
    assert (await env.call("PATCH", "/v1/books/main", {"backdating": "report"})).status == 200
    for _ in range(120):
        await life.step()
    await env.ledger.sweep()
    before = await export(env, limit=life.chance.randint(1, 50))
    kinds = {
        leg["kind"]
        for one in before
        for leg in one.get("transfers", [one])
        if "kind" in leg and one["type"] != "account"
    }
    assert kinds >= {"hold", "capture", "void"}, kinds
    # However it is cut into pages, it is the same, and no transaction is cut.
    assert timeless(await export(env, limit=1)) == timeless(await export(env, limit=1000)) == timeless(before)
    env.clock.advance(timedelta(seconds=1))
    done = await restore(env, before, "copy", mode=life.chance.choice(["whole", "parts"]))
    assert done["state"] == "done", (seed, done, await refusals(env, done))
    after = await export(env, "copy", limit=1000)
    assert done["sequence"] == before[0]["sequence"]
    assert timeless(after) == timeless(before)
    assert await accounts(env, "copy") == await accounts(env)
    assert since(after) == since(before)
    times = sorted(at for _, at in since(before))[:: life.chance.randint(5, 15)]
    assert await balances(env, "copy", times) == await balances(env, "main", times)
    env.clock.advance(timedelta(seconds=1))
    done = await restore(env, after, "copy-of-a-copy")
    assert done["state"] == "done", (seed, done, await refusals(env, done))
    assert since(await export(env, "copy-of-a-copy")) == since(before)


class Spoiler:
    """Files that somebody has edited: a few things in an export are not what they were."""

    def __init__(self, records: Sequence[Rec], chance: random.Random) -> None:
        self.records = records
        self.chance = chance
        money = [{"amount": amount, "currency": code} for amount in ("0", "5", "9" * 19) for code in ("EUR", "XXQ")]
        times = ["0001-01-01T00:00:00Z", "2025-06-01T00:00:00Z", "9999-12-31T23:59:59Z", "at five o'clock yesterday"]
        words = [
            "",
            " ",
            "a:1",
            "a:{x}",
            "transit:a:EUR",
            "**",
            "x" * 64,
            "EUR",
            "JPY",
            "-5",
            "0",
            "7",
            "9" * 19,
            "-" + "9" * 19,
        ]
        kinds = ["post", "hold", "capture", "void", "expire", "reverse", "increase", "debit", "asset", "strict"]
        self.pool: list[Any] = [None, True, False, -1, 0, 1, 2**62, [], {}, *money, *times, *words, *kinds]

    def spoiled(self) -> list[Rec]:
        chance, records = self.chance, copy.deepcopy(list(self.records))
        for _ in range(chance.randint(1, 4)):
            nth = chance.randrange(len(records))
            match chance.choice(["change", "change", "change", "drop", "again", "swap", "move"]):
                case "change":
                    self.change(records[nth])
                case "drop" if len(records) > 1:
                    del records[nth]
                case "again":
                    records.insert(chance.randrange(len(records)), copy.deepcopy(records[nth]))
                case "swap":
                    other = chance.randrange(len(records))
                    records[nth], records[other] = records[other], records[nth]
                case _:
                    records.insert(0, records.pop(nth))
        return records

    def change(self, value: Any) -> None:
        """One member, at any depth."""
        chance = self.chance
        while True:
            keys = list(value) if isinstance(value, dict) else list(range(len(value)))
            key = chance.choice(keys)
            if isinstance(value[key], dict | list) and value[key] and chance.random() < 0.7:
                value = value[key]
                continue
            if isinstance(value, dict) and chance.random() < 0.2:
                del value[key]
            elif chance.random() < 0.3:
                # what another record has under this name
                value[key] = chance.choice([one[key] for one in self.records if key in one] or [value[key]])
            else:
                value[key] = chance.choice(self.pool)
            return


@pytest.mark.parametrize("seed", [0, 1, 25])
async def test_whatever_is_wrong_in_a_file_an_import_comes_to_an_end(env: Env, seed: int) -> None:
    """Done or failed, with what was wrong; never an accident, and what failed as a whole has left nothing."""
    chance = random.Random(f"spoiled {seed}")
    life = Life(env, chance)
    await life.begin()
    chart = {"mode": "open", "rules": [{"pattern": "a:{n:int}", "kind": "liability", "currencies": ["EUR", "JPY"]}]}
    await env.call("PUT", "/v1/books/main/chart", chart)
    for name, below in (("low", []), ("high", ["low"])):
        await env.call("PUT", f"/v1/books/main/categories/{name}", {"paths": ["a:**"], "categories": below})
    for _ in range(30):
        await life.step()
    await env.ledger.sweep()
    spoiler = Spoiler(await export(env, limit=1000), chance)
    became: Counter[str] = Counter()
    for nth in range(60):
        records, book = spoiler.spoiled(), f"copy-{nth}"
        if chance.random() < 0.3:
            records = [one for one in records if one.get("type") != "book"]
        assert (await env.call("POST", "/v1/books", {"name": book})).status == 201
        mode = chance.choice(["whole", "parts", "valid"])
        own = (await announce(env, records, book=book, mode=mode)).json["id"]
        lines = [{"line": n, "record": one} for n, one in enumerate(records, 1)]
        staged = await env.call("POST", f"/v1/imports/{own}/lines", {"lines": lines})
        if staged.status != 200:
            assert staged.status == 400, staged.content
            became["not taken"] += 1
            continue
        assert (await env.call("POST", f"/v1/imports/{own}/start")).status == 200
        await env.ledger.importer.turn()
        done = (await env.call("GET", f"/v1/imports/{own}")).json
        became[done["state"]] += 1
        assert done["state"] in {"done", "failed"}, done
        assert "several times" not in (done["reason"] or ""), done
        assert "the database refused" not in (done["reason"] or ""), (done, records)
        if done["state"] == "failed" and mode == "whole":
            assert await accounts(env, book) == {}
        if done["state"] == "failed":
            assert done["reason"]
    assert became["done"] > 3, became
    assert became["failed"] > 3, became


# ---- other rules of the book ----------------------------------------------------------------------------------------


async def test_a_file_is_no_way_around_approvals_nor_into_transit_accounts(env: Env) -> None:
    rule = {"currency": "EUR", "above": "1000", "approvals": 1, "approvers": ["cli_01jd5w3qkz8e5rv4y7t9a2b3c4"]}
    answer = await env.call("PUT", "/v1/books/main/approvals", {"rules": [rule]}, scope=f"{SCOPE} approvals:write")
    assert answer.status == 200, answer.content
    done = await bring(env, [*GOOD[:1], account("anna"), transfer("big", "bank", "anna", 1001)])
    assert done["state"] == "failed"
    assert await refusals(env, done) == [(3, None, "approval_required")]
    done = await bring(env, [account("t", path="transit:other:EUR")])
    assert await refusals(env, done) == [(1, "/path", "account-reserved")]
    done = await bring(env, [account("t", path="tallystick:suspense:EUR")])
    assert await refusals(env, done) == [(1, "/path", "account-reserved")]


async def a_payments(env: Env, debit: str, credit: str) -> tuple[str, str]:
    """What payments made: something held, and something posted."""
    own = [hashed(bytes([nth])) for nth in (1, 2)]
    said: Any = {
        "debit": account_ref(debit),
        "credit": account_ref(credit),
        "amount": 5,
        "currency": "EUR",
        "code": PAYMENT_CODE,
    }
    commands = [
        Command(kind="hold", id=TransferId(own[0]), **said),
        Command(kind="post", id=TransferId(own[1]), **said),
    ]
    await env.ledger.poster.post(Ask("acme", "cli_shop", None, commands, atomic=True, payments=True))
    hold, posted = (kernel_ids.transfers.text(TransferId(one)) for one in own)
    return hold, posted


async def test_a_file_is_no_way_to_what_is_a_payments(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account()
    hold, posted = await a_payments(env, bank, anna)
    lines: list[Rec] = [
        {"type": "transfer", "id": "x", "kind": "void", "target": hold},
        {"type": "transfer", "id": "y", "kind": "reverse", "target": posted},
        transfer("z", bank, anna, 1, code="tallystick:payment"),
        transfer(kernel_ids.transfers.text(TransferId(hashed(b"mine"))), bank, anna, 1),
    ]
    done = await bring(env, lines)
    assert await refusals(env, done) == [
        (1, None, "transfer_of_a_payment"),
        (2, None, "transfer_of_a_payment"),
        (3, "/code", "invalid-request"),
        (4, "/id", "invalid-id"),
    ]


async def test_what_was_a_payments_is_anybodys_in_a_copy(env: Env) -> None:
    """No payment goes on with what it held: there it is in the other book."""
    bank, anna = await env.account("debit"), await env.account()
    hold, posted = await a_payments(env, bank, anna)
    done = await restore(env, await export(env), "copy")
    assert (done["state"], await accounts(env, "copy")) == ("done", await accounts(env))
    for own, how in ((hold, "capture"), (posted, "reverse")):
        answer = await env.call("POST", f"/v1/transfers/{own}/{how}", {"book": "copy"})
        assert (answer.status, answer.json["amount"]["amount"]) == (201, "5"), answer.content
