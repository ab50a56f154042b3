"""The cache: one load for many, never in the way, never the truth."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from valkey.asyncio import Valkey

from tallystick.chassis.cache import MAX_VALUE_BYTES, Cache
from tallystick.chassis.deadline import Deadline
from tallystick.chassis.telemetry import logs
from tallystick.kernel.problem import DeadlineExceeded

HOUR = timedelta(hours=1)


class Rate(msgspec.Struct, frozen=True):
    pair: str
    basis_points: int


class Source:
    def __init__(self) -> None:
        self.loads = 0
        self.release = asyncio.Event()
        self.release.set()
        self.error: Exception | None = None

    async def load(self) -> Rate:
        self.loads += 1
        await self.release.wait()
        if self.error is not None:
            raise self.error
        return Rate("EUR/USD", 10_000 + self.loads)


async def test_a_value_is_loaded_once_and_kept(valkey: Valkey) -> None:
    cache, source = Cache("shop", valkey), Source()
    first = await cache.get_or_load("rate", HOUR, source.load, Rate)
    assert await cache.get_or_load("rate", HOUR, source.load, Rate) == first
    assert await Cache("shop", valkey).get_or_load("rate", HOUR, source.load, Rate) == first, "another replica"
    assert source.loads == 1
    (key,) = await valkey.keys("*")
    assert key == b"shop:cache:rate"
    assert 0 < await valkey.pttl(key) <= 3_600_000


async def test_many_who_ask_at_once_wait_for_one_load(valkey: Valkey) -> None:
    cache, source = Cache("shop", valkey), Source()
    source.release.clear()
    tasks = [asyncio.create_task(cache.get_or_load("rate", HOUR, source.load, Rate)) for _ in range(50)]
    while source.loads == 0:
        await asyncio.sleep(0.001)
    tasks[0].cancel()  # who asked first goes away; the others still get it
    source.release.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert set(answers[1:]) == {Rate("EUR/USD", 10_001)}
    assert source.loads == 1


async def test_services_do_not_share(valkey: Valkey) -> None:
    source = Source()
    await Cache("shop", valkey).get_or_load("rate", HOUR, source.load, Rate)
    await Cache("kiosk", valkey).get_or_load("rate", HOUR, source.load, Rate)
    assert source.loads == 2


async def test_a_value_that_is_forgotten_or_too_old_is_loaded_again(valkey: Valkey) -> None:
    cache, source = Cache("shop", valkey), Source()
    await cache.get_or_load("rate", HOUR, source.load, Rate)
    await cache.forget("rate")
    await cache.get_or_load("rate", timedelta(milliseconds=5), source.load, Rate)
    while await valkey.exists("shop:cache:rate"):
        await asyncio.sleep(0.002)
    await cache.get_or_load("rate", HOUR, source.load, Rate)
    assert source.loads == 3


@pytest.mark.parametrize("raw", [b"", b"nonsense", b'{"pair":1}', b"\xff", b'{"pair":"\xff"}'])
async def test_a_value_of_another_shape_is_loaded_again(valkey: Valkey, raw: bytes) -> None:
    cache, source = Cache("shop", valkey), Source()
    await valkey.set("shop:cache:rate", raw)
    assert (await cache.get_or_load("rate", HOUR, source.load, Rate)).pair == "EUR/USD"
    assert (await cache.get_or_load("rate", HOUR, source.load, Rate)).pair == "EUR/USD"
    assert source.loads == 1


async def test_an_error_reaches_everyone_and_is_not_kept(valkey: Valkey) -> None:
    cache, source = Cache("shop", valkey), Source()
    source.error = KeyError("no rate")
    for _ in range(2):
        with pytest.raises(KeyError):
            await cache.get_or_load("rate", HOUR, source.load, Rate)
    assert source.loads == 2
    assert await valkey.keys("*") == []


async def test_without_valkey_it_loads_each_time(directory: Path) -> None:
    away = Valkey(unix_socket_path=str(directory / "nowhere.sock"))
    cache, source = Cache("shop", away), Source()
    for _ in range(2):
        assert (await cache.get_or_load("rate", HOUR, source.load, Rate)).pair == "EUR/USD"
    await cache.forget("rate")
    assert source.loads == 2
    await away.aclose()


async def test_nobody_waits_longer_than_their_own_time(valkey: Valkey) -> None:
    cache, source = Cache("shop", valkey), Source()
    source.release.clear()
    with Deadline.after(0.05).scope(), pytest.raises(DeadlineExceeded) as caught:
        await cache.get_or_load("rate", HOUR, source.load, Rate)
    assert not caught.value.outcome_unknown
    source.release.set()


async def test_a_huge_value_is_answered_but_not_kept(valkey: Valkey) -> None:
    cache = Cache("shop", valkey)

    async def load() -> str:
        return "x" * MAX_VALUE_BYTES

    with logs.captured() as lines:
        assert len(await cache.get_or_load("big", HOUR, load, str)) == MAX_VALUE_BYTES
    assert lines[0]["event"] == "cache.value-too-large"
    assert await valkey.keys("*") == []
