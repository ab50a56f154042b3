"""Natural batching."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.chassis.batching import Batcher
from tallystick.chassis.deadline import Deadline
from tallystick.kernel.problem import Overloaded
from tests.simulation.loop import in_virtual_time


class Recorder:
    """A flush that takes as long as it is told, and notes what it got."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.running = 0
        self.most_running = 0

    async def __call__(self, items: list[int]) -> Sequence[int | Exception]:
        self.batches.append(items)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.open.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        return [LookupError(str(item)) if item < 0 else item * 2 for item in items]


@in_virtual_time
async def test_an_idle_batcher_flushes_at_once_and_a_busy_one_gathers() -> None:
    flush = Recorder()
    batcher: Batcher[int, int] = Batcher(flush, name="test")
    assert await batcher.submit(1) == 2
    flush.open.clear()
    first = asyncio.create_task(batcher.submit(2))
    await asyncio.sleep(0.01)
    rest = [asyncio.create_task(batcher.submit(number)) for number in range(3, 10)]
    await asyncio.sleep(0.01)
    assert flush.batches == [[1], [2]]
    flush.open.set()
    assert await asyncio.gather(first, *rest) == [4, *(n * 2 for n in range(3, 10))]
    assert flush.batches == [[1], [2], [3, 4, 5, 6, 7, 8, 9]]


async def test_an_item_that_comes_just_as_a_flush_ends_is_not_left_lying() -> None:
    batcher: Batcher[int, int] = Batcher(Recorder(), name="test")
    async with asyncio.timeout(60):
        for number in range(100):
            assert await batcher.submit(number) == number * 2


@in_virtual_time
async def test_bounds_of_batch_concurrency_and_waiting() -> None:
    flush = Recorder()
    flush.open.clear()
    batcher: Batcher[int, int] = Batcher(flush, max_batch=3, max_waiting=10, concurrency=2, name="test")
    tasks = [asyncio.create_task(batcher.submit(number)) for number in range(1, 11)]
    await asyncio.sleep(0.01)
    tasks += [asyncio.create_task(batcher.submit(number)) for number in range(11, 17)]
    await asyncio.sleep(0.01)
    assert batcher.waiting == 10
    assert batcher.in_flight == 2
    with pytest.raises(Overloaded):
        await batcher.submit(99)
    flush.open.set()
    assert await asyncio.gather(*tasks) == [n * 2 for n in range(1, 17)]
    assert flush.most_running == 2
    assert max(map(len, flush.batches)) == 3


async def test_an_exception_for_an_item_is_that_items_only() -> None:
    batcher: Batcher[int, int] = Batcher(Recorder(), name="test")
    results = await asyncio.gather(*(batcher.submit(n) for n in (1, -2, 3)), return_exceptions=True)
    assert results[0] == 2
    assert isinstance(results[1], LookupError)
    assert results[2] == 6


async def test_an_exception_of_the_flush_is_everybodys_and_the_next_batch_goes_on() -> None:
    fail = True

    async def flush(items: list[int]) -> Sequence[int | Exception]:
        if fail:
            raise ConnectionError
        return items

    batcher: Batcher[int, int] = Batcher(flush, name="test")
    results = await asyncio.gather(*(batcher.submit(n) for n in range(3)), return_exceptions=True)
    assert [type(r) for r in results] == [ConnectionError] * 3
    fail = False
    assert await batcher.submit(7) == 7


async def test_a_flush_that_returns_another_number_of_outputs_is_an_error() -> None:
    async def flush(items: list[int]) -> Sequence[int | Exception]:
        return items[1:]

    batcher: Batcher[int, int] = Batcher(flush, name="test")
    with pytest.raises(RuntimeError, match="1 items went in, 0 came out"):
        await batcher.submit(1)


@in_virtual_time
async def test_a_caller_that_goes_away_ends_neither_the_flush_nor_others() -> None:
    flush = Recorder()
    flush.open.clear()
    batcher: Batcher[int, int] = Batcher(flush, name="test")
    leaves = asyncio.create_task(batcher.submit(1))
    stays = asyncio.create_task(batcher.submit(2))
    await asyncio.sleep(0.01)
    waits = asyncio.create_task(batcher.submit(3))
    await asyncio.sleep(0.01)
    leaves.cancel()
    waits.cancel()
    await asyncio.sleep(0.01)
    flush.open.set()
    assert await stays == 4
    assert await batcher.submit(5) == 10
    assert flush.batches == [[1, 2], [5]]  # 3 had left before its flush began


async def test_the_flush_has_nobodys_deadline() -> None:
    seen: list[Deadline | None] = []

    async def flush(items: list[int]) -> Sequence[int | Exception]:
        seen.append(Deadline.current())
        return items

    batcher: Batcher[int, int] = Batcher(flush, name="test")
    with Deadline.after(5).scope():
        await batcher.submit(1)
    assert seen == [None]


@in_virtual_time
async def test_close_answers_what_was_taken_and_takes_no_more() -> None:
    flush = Recorder()
    flush.open.clear()
    batcher: Batcher[int, int] = Batcher(flush, max_batch=1, name="test")
    tasks = [asyncio.create_task(batcher.submit(n)) for n in range(3)]
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await batcher.submit(9)
    flush.open.set()
    await closing
    assert [task.done() for task in tasks] == [True] * 3


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 60), batch=st.integers(1, 5), concurrency=st.integers(1, 3))
def test_every_item_is_answered_with_its_own_answer(seed: int, size: int, batch: int, concurrency: int) -> None:
    chance = random.Random(seed)
    flushed: list[int] = []

    async def flush(items: list[int]) -> Sequence[int | Exception]:
        flushed.extend(items)
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        return [item + 1000 for item in items]

    async def caller(batcher: Batcher[int, int], item: int) -> None:
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        assert await batcher.submit(item) == item + 1000

    async def main() -> None:
        batcher: Batcher[int, int] = Batcher(flush, max_batch=batch, concurrency=concurrency, name="test")
        async with asyncio.timeout(10):
            await asyncio.gather(*(caller(batcher, item) for item in range(size)))

    asyncio.run(main())
    assert sorted(flushed) == list(range(size))


@in_virtual_time
async def test_a_second_flush_begins_when_the_first_takes_too_long_and_not_before() -> None:
    sizes: list[int] = []
    stuck = asyncio.Event()

    async def flush(items: list[int]) -> list[int]:
        sizes.append(len(items))
        if items[0] == 0:
            await stuck.wait()
        return items

    batcher = Batcher(flush, concurrency=2, patience=0.05, name="patient")
    first = asyncio.create_task(batcher.submit(0))
    await asyncio.sleep(0)
    others = [asyncio.create_task(batcher.submit(n)) for n in range(1, 6)]
    await asyncio.sleep(0.01)
    assert sizes == [1]
    assert await asyncio.gather(*others) == [1, 2, 3, 4, 5]
    assert sizes == [1, 5]
    stuck.set()
    assert await first == 0


@in_virtual_time
async def test_a_whole_batch_does_not_wait_for_patience() -> None:
    sizes: list[int] = []
    stuck = asyncio.Event()

    async def flush(items: list[int]) -> list[int]:
        sizes.append(len(items))
        if items[0] == 0:
            await stuck.wait()
        return items

    batcher = Batcher(flush, concurrency=2, max_batch=3, patience=60.0, name="full")
    first = asyncio.create_task(batcher.submit(0))
    await asyncio.sleep(0)
    others = [asyncio.create_task(batcher.submit(n)) for n in range(1, 4)]
    assert await asyncio.gather(*others) == [1, 2, 3]
    assert sizes == [1, 3]
    assert asyncio.get_running_loop().time() == 0, "they did not wait"
    stuck.set()
    await first


@in_virtual_time
async def test_flushes_keep_their_pace() -> None:
    began: list[float] = []
    clock = asyncio.get_running_loop().time

    async def flush(items: list[int]) -> list[int]:
        began.append(clock())
        return items

    batcher = Batcher(flush, pace=0.05, name="paced")
    await asyncio.gather(*(batcher.submit(n) for n in range(3)))
    await asyncio.gather(*(batcher.submit(n) for n in range(3, 5)))
    assert len(began) == 2, "what came within the pace goes together"
    assert began == [0.0, 0.05]


@in_virtual_time
async def test_enough_items_do_not_wait_for_the_pace() -> None:
    sizes: list[int] = []

    async def flush(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return items

    batcher = Batcher(flush, pace=3600.0, enough=3, name="enough")
    async with asyncio.timeout(10):
        await batcher.submit(0)
        await asyncio.gather(*(batcher.submit(n) for n in range(3)))
    assert sizes == [1, 3]


@in_virtual_time
async def test_a_pause_ends_when_enough_wait() -> None:
    sizes: list[int] = []

    async def flush(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return items

    batcher = Batcher(flush, pace=3600.0, enough=3, name="pause")
    async with asyncio.timeout(10):
        await asyncio.gather(*(batcher.submit(n) for n in range(5)))
        early = [asyncio.create_task(batcher.submit(n)) for n in range(2)]
        await asyncio.sleep(0.02)
        assert sizes == [5], "two wait for a third"
        await batcher.submit(2)
        await asyncio.gather(*early)
    assert sizes == [5, 3]


@in_virtual_time
async def test_of_two_workers_that_pause_together_none_is_forgotten() -> None:
    """The first of them may begin the next pause before the second has noticed that the last one is over."""

    async def flush(items: list[int]) -> list[int]:
        return items

    batcher = Batcher(flush, max_batch=4, concurrency=2, patience=0.0, pace=1.0, name="two")
    await asyncio.gather(*(batcher.submit(n) for n in range(4)))
    few = [asyncio.create_task(batcher.submit(n)) for n in range(2)]
    await asyncio.sleep(0.01)
    assert batcher.in_flight == 2
    many = [asyncio.create_task(batcher.submit(n)) for n in range(2, 6)]
    assert await asyncio.gather(*few, *many) == list(range(6))
    await batcher.close()
    assert batcher.in_flight == 0


@in_virtual_time
async def test_few_callers_that_wait_for_their_answers_are_not_held_up() -> None:
    async def flush(items: list[int]) -> list[int]:
        await asyncio.sleep(0)
        return items

    batcher = Batcher(flush, pace=3600.0, name="few")

    async def caller() -> None:
        for n in range(50):
            assert await batcher.submit(n) == n

    async with asyncio.timeout(10):
        await caller()
        await asyncio.gather(*(caller() for _ in range(3)))


@in_virtual_time
async def test_company_that_stays_away_is_waited_for_no_longer_than_the_pace() -> None:
    sizes: list[int] = []
    began: list[float] = []

    async def flush(items: list[int]) -> list[int]:
        sizes.append(len(items))
        began.append(asyncio.get_running_loop().time())
        return items

    batcher = Batcher(flush, pace=0.05, name="away")
    await asyncio.gather(*(batcher.submit(n) for n in range(3)))
    for n in range(3):
        await batcher.submit(n)
    assert sizes == [3, 1, 1, 1]
    assert began[1] == began[0] + 0.05, "three were expected"
    assert began[3] == began[1], "then one"


async def test_after_a_quiet_time_nobody_waits_for_the_pace() -> None:
    async def flush(items: list[int]) -> list[int]:
        return items

    async with asyncio.timeout(10):
        assert await Batcher(flush, pace=3600.0, name="quiet").submit(7) == 7


class Joining:
    """A flush that waits for something, and takes along what has come meanwhile and fits."""

    def __init__(self, *, most: int = 256, fits: int = 100) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.batcher: Batcher[int, int] = Batcher(self._flush, max_batch=most, name="test")
        self._fits = fits

    async def _flush(self, items: list[int]) -> list[int | Exception]:
        await self.open.wait()
        had = len(items)
        assert self.batcher.join(items, lambda item: item < self._fits) == len(items) - had
        assert self.batcher.join(list(items), lambda _: True) == 0, "it is no flush's list"
        self.batches.append(list(items))
        if 13 in items:
            raise LookupError
        return [item * 2 for item in items]

    async def submit(self, *numbers: int) -> list[asyncio.Task[int]]:
        tasks = [asyncio.create_task(self.batcher.submit(number)) for number in numbers]
        await asyncio.sleep(0.01)
        return tasks


@in_virtual_time
async def test_what_comes_while_a_flush_waits_can_join_it() -> None:
    flush = Joining()
    tasks = await flush.submit(1) + await flush.submit(2, 200, 3) + await flush.submit(4, 201)
    flush.open.set()
    assert await asyncio.gather(*tasks) == [2, 4, 400, 6, 8, 402]
    assert flush.batches == [[1, 2, 3, 4], [200, 201]], "what does not fit stays, in its order"


@in_virtual_time
async def test_no_more_join_than_go_into_a_batch() -> None:
    flush = Joining(most=3)
    tasks = await flush.submit(1) + await flush.submit(2, 3, 4, 5)
    flush.open.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]
    assert flush.batches == [[1, 2, 3], [4, 5]]


@in_virtual_time
async def test_whose_caller_left_does_not_join() -> None:
    flush = Joining()
    tasks = await flush.submit(1) + await flush.submit(2, 3)
    tasks[1].cancel()
    await asyncio.sleep(0)
    flush.open.set()
    assert (await tasks[0], await tasks[2]) == (2, 6)
    assert flush.batches == [[1, 3]]


@in_virtual_time
async def test_those_that_joined_share_the_fate_of_the_flush() -> None:
    flush = Joining()
    tasks = await flush.submit(1) + await flush.submit(13, 2)
    flush.open.set()
    assert [type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == [LookupError] * 3
    assert await flush.batcher.submit(3) == 6
    assert flush.batches == [[1, 13, 2], [3]]
