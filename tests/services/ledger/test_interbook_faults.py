"""Random transfers between books with random faults: at the end nothing is lost, nothing is there twice, and the transit accounts agree."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest

from tallystick.kernel.problem import Problem
from tallystick.services.ledger.model import BookAccount, Crossing, InTransit, disagreements
from tests.services.ledger.shards import HERE, THERE, Shards
from tests.services.ledger.test_interbook import second_server, shards, there

__all__ = ["second_server", "shards", "there"]

FUNDS = 1000
PLACES = ("wallet", "poor", "nobody")


async def one(shards: Shards, crossing: Crossing, seed: random.Random) -> None:
    """A client that sends it up to four times, and goes away when it has had enough."""
    for _ in range(seed.randint(1, 4)):
        sending = asyncio.create_task(shards.send(crossing))
        if seed.random() < 0.2:
            await asyncio.sleep(seed.random() * 0.05)
            sending.cancel()
        with suppress(Problem, asyncio.CancelledError):
            await sending


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_lost_and_nothing_is_there_twice(shards: Shards, seed: int) -> None:
    dice = random.Random(seed)
    for book, ledger in (("main", shards.here), ("eu", shards.there)):
        await shards.open(ledger, book, "poor", path="poor", floor=0, ceiling=40)
    crossings = []
    for _ in range(30):
        back = dice.random() < 0.5
        crossing = shards.crossing(
            dice.randint(1, 60),
            back=back,
            destination=BookAccount("main" if back else "eu", dice.choice(PLACES)),
        )
        crossings += [crossing] * dice.choice((1, 1, 2))
    dice.shuffle(crossings)
    for start in range(0, len(crossings), 6):
        for name in (HERE, THERE):
            way = shards.ways[name]
            way.lost, way.unheard = dice.choice((0, 0, 1, 3)), dice.choice((0, 0, 1, 3))
            way.broken = [step for step in ("before", "after") if dice.random() < 0.3]
        tasks: list[Any] = [one(shards, crossing, dice) for crossing in crossings[start : start + 6]]
        if dice.random() < 0.4:
            tasks.append(shards.resume())
        await asyncio.gather(*tasks, return_exceptions=True)
        if dice.random() < 0.3:
            await shards.start(dice.choice((HERE, THERE)))
        await shards.reconcile(settled=False)
    for way in shards.ways.values():
        way.lost = way.unheard = 0
        way.broken.clear()
    for _ in range(3):
        await shards.resume()

    wallets = {(book, name): FUNDS if name == "wallet" else 0 for book in ("main", "eu") for name in ("wallet", "poor")}
    for crossing in {crossing.id: crossing for crossing in crossings}.values():
        try:
            told = await shards.state(crossing.id, crossing.source.book)
        except Problem:
            continue  # no try of it came as far as the hold
        assert told.state in ("posted", "rejected")
        if told.state == "posted":
            wallets[crossing.source.book, "wallet"] -= crossing.amount
            wallets[crossing.destination.book, crossing.destination.account] += crossing.amount
        else:
            assert told.reason in ("account_not_found", "ceiling_exceeded", "insufficient_funds")
    for (book, name), funds in wallets.items():
        assert await shards.funds(book, name) == (funds, funds), (book, name)
    await shards.reconcile()


def row(book: str, other: str, way: str, posted: int, pending: int = 0) -> InTransit:
    return InTransit("acme", book, other, way, "EUR", posted, pending)


@pytest.mark.parametrize(
    ("before", "came", "after", "sound"),
    [
        ((100, 0), 100, (100, 0), True),
        ((100, 5), 105, (100, 5), True),  # arrived, not yet captured
        ((100, 0), 107, (100, 7), True),  # begun after the first reading
        ((100, 0), 107, (107, 0), True),
        ((100, 0), 99, (100, 0), False),  # lost
        ((100, 0), 101, (100, 0), False),  # out of nothing
        ((100, 5), 106, (100, 5), False),
    ],
)
def test_what_three_readings_can_say(
    before: tuple[int, int], came: int, after: tuple[int, int], *, sound: bool
) -> None:
    found = disagreements(
        [row("main", "eu", "out", *before)], [row("eu", "main", "in", came)], [row("main", "eu", "out", *after)]
    )
    assert (found == []) is sound
