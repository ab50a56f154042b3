"""Nobody finds a number by trying: what is shown of a token, and its fingerprint, don't lead to the number behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from valkey.asyncio import Valkey

from tallystick.cli.replay.file import card_number
from tallystick.kernel.clock import ManualClock
from tallystick.kernel.luhn import luhn
from tallystick.kernel.numbers import iban_ok
from tallystick.services.vault import worker
from tallystick.services.vault.model import CheckedCard, look, taken_a_day
from tests.conftest import DatabaseFor
from tests.services.vault.support import CARD, IBAN, NUMBER, Env, later, rail, running
from tests.support.http import Answer, World


@pytest_asyncio.fixture
async def env(around: World, database_for: DatabaseFor, valkey: Valkey, directory: Path) -> AsyncIterator[Env]:
    """At noon: numbers are counted by the day, which does not end in the middle of a test."""
    noon = ManualClock(datetime.now(UTC).replace(hour=12))
    service = await database_for("tallystick.services.vault")
    async with rail(directory), running(around, service, valkey, directory, clock=noon) as it:
        yield it


def alike(number: str = NUMBER) -> Iterator[str]:
    """The other numbers with the same first six and last four digits."""
    hidden = len(number) - 10
    candidates = (f"{number[:6]}{middle:0{hidden}d}{number[-4:]}" for middle in range(10**hidden))
    return (each for each in candidates if luhn(each) and each != number)


async def bring(env: Env, number: str, **more: Any) -> Answer:
    return await env.edge("POST", "/v1/tokens", {"type": "card", "card": {**CARD, "number": number}}, **more)


async def statuses(env: Env, numbers: Iterator[str], count: int, **more: Any) -> list[int]:
    return [(await bring(env, next(numbers), **more)).status for _ in range(count)]


async def test_a_number_is_not_found_by_trying(env: Env) -> None:
    sought = await env.create(key="k1")
    guesses = alike()
    assert await statuses(env, guesses, 49) == [201] * 49  # the sought one was the first of its look
    refused = await bring(env, next(guesses))
    assert (refused.status, refused.json["type"].rpartition("/")[2]) == (429, "too-many-numbers-alike")
    assert refused.json["retryable"] is True
    assert 0 < int(refused.header("retry-after") or 0) <= 86_400
    # The right one looks like the wrong ones, by itself and through its idempotency key.
    for key in (None, "k1"):
        again = await bring(env, NUMBER, key=key)
        assert (again.status, again.json["type"]) == (429, refused.json["type"])
        assert sought["card"]["fingerprint"].encode() not in again.content
    # Others go on: another look, another tenant, the tokens that are there.
    assert (await bring(env, "4242424242424242")).status == 201
    assert (await bring(env, next(guesses), tenant="other")).status == 201
    assert (await env.edge("GET", f"/v1/tokens/{sought['id']}")).status == 200


async def test_a_key_of_a_card_that_has_expired_is_no_way_around(env: Env, valkey: Valkey) -> None:
    await env.create(key="k1")
    years_on, guesses = later(env, valkey), alike()
    assert await statuses(years_on, guesses, 49, key="k1") == [422] * 49
    assert (await bring(years_on, NUMBER, key="k1")).status == 201, "and nothing was tried in vain so far"
    assert await statuses(years_on, guesses, 1, key="k1") == [429]
    assert (await bring(years_on, NUMBER, key="k1")).status == 429


async def test_destroying_tokens_takes_nothing_back(env: Env) -> None:
    guesses = alike()
    for _ in range(50):
        token = (await bring(env, next(guesses))).json
        assert (await env.edge("DELETE", f"/v1/tokens/{token['id']}")).status == 204
    assert await statuses(env, guesses, 2) == [429, 429]


async def test_many_at_once_are_no_way_around(env: Env) -> None:
    await env.create()
    guesses = alike()
    answers = await asyncio.gather(*(bring(env, next(guesses)) for _ in range(300)), bring(env, NUMBER))
    assert sum(answer.status == 201 for answer in answers) <= 51
    assert (await bring(env, NUMBER)).status == 429


async def test_a_number_that_comes_again_counts_once(env: Env) -> None:
    for _ in range(60):
        assert (await bring(env, NUMBER)).status == 201
    (row,) = await env.service.query("SELECT taken, look FROM number_count")
    assert row["taken"] == 1
    assert NUMBER[:6].encode() not in bytes(row["look"])


async def test_the_next_day_is_another(env: Env) -> None:
    guesses = alike()
    await asyncio.gather(*(bring(env, next(guesses)) for _ in range(60)))
    assert await statuses(env, guesses, 1) == [429]
    connection = await env.service.connection()
    await connection.execute("UPDATE number_count SET day = day - 1")
    await connection.close()
    assert await statuses(env, guesses, 1) == [201]
    (schedule,) = worker.SCHEDULES
    await schedule.run(env.vault)
    assert [row["taken"] for row in await env.service.query("SELECT taken FROM number_count")] == [1]


async def test_ibans_count_by_country_and_end(env: Env) -> None:
    def ibans() -> Iterator[str]:
        for middle in range(10_000):
            end = f"NWBK60{middle:04d}31926819"
            yield next(f"GB{check:02d}{end}" for check in range(2, 99) if iban_ok(f"GB{check:02d}{end}"))

    found = ibans()

    async def account(iban: str) -> int:
        return (await env.edge("POST", "/v1/tokens", {"type": "bank_account", "bank_account": {"iban": iban}})).status

    for _ in range(5):
        assert set(await asyncio.gather(*(account(next(found)) for _ in range(100)))) == {201}
    assert await account(next(found)) == 429
    assert await account(IBAN) == 429
    assert await account("DE89370400440532013000") == 201


@pytest.mark.parametrize(("digits", "limit"), [(12, 2), (13, 2), (14, 2), (15, 5), (16, 50), (19, 50)])
def test_fewer_hidden_digits_are_fewer_a_day(digits: int, limit: int) -> None:
    assert taken_a_day(CheckedCard("4" * digits, 1, 2030, "visa")) == limit


def test_what_replay_and_bench_make_up_is_far_from_the_limit() -> None:
    looks: dict[str, int] = {}
    for customer in range(50_000):
        card = CheckedCard(card_number(f"run{customer}"), 1, 2030, "visa")
        looks[look(card)] = looks.get(look(card), 0) + 1
    assert max(looks.values()) <= 5
