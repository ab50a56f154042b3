"""Natural batching: while one flush is in flight, calls gather; the next flush takes them all.

A call that finds the batcher idle is flushed at once, alone; under load the batches grow by themselves, and one round trip, one fsync, is
shared by as many as came meanwhile. A pace keeps them large when many callers send little each, and nobody waits for company that isn't
coming: as many as went last time go at once.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Final, Generic, TypeVar

from tallystick.chassis.telemetry import context, metrics, traces
from tallystick.kernel.clock import unix_nanoseconds
from tallystick.kernel.problem import Overloaded

I = TypeVar("I")  # noqa: E741 - input
O = TypeVar("O")  # noqa: E741 - output

#: Paces: of checks that every request passes, and of work that writes or calls another service. A flush costs 0.15 ms and 1 to 3 ms
#: of CPU whatever its size; these bound what a busy process spends on them and stay small beside what a request takes anyway.
CHECK_PACE: Final = 0.002
WORK_PACE: Final = 0.005

_sizes = metrics.histogram(
    "tallystick_batch_items", "Items that one flush took", ("batcher",), (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)

_Item = tuple[I, asyncio.Future[O], context.Trace | None]


class Batcher(Generic[I, O]):
    """Gathers items for `flush(items) -> outputs`, in order, of the same length; an Exception among the outputs fails its item only.

    At most `concurrency` flushes run at once, each of at most `max_batch` items; at most `max_waiting` items wait (then `Overloaded`).
    A second flush begins beside a first one only when that takes longer than `patience` seconds or a whole batch waits: batches stay
    large, because the cost of one hardly depends on its size, and a flush that is stuck does not hold up the others. For the same
    reason flushes begin at least `pace` seconds after one another, unless as many items wait as the last one took, or `enough` of them; the first
    after a quiet time begins at once. So a few callers that each wait for their answer are never held up, whatever their number.

    An exception out of `flush` fails the whole batch: every caller gets it. `flush` runs in a task of its own, without any caller's
    deadline or other context, but for one thing: the trace of the first sampled item is the flush's, so that what it calls is seen in
    that trace; the other sampled items' traces get a span that says how long their flush took. A caller that goes away does
    not end it, and an item whose caller left while it waited is not flushed.
    """

    def __init__(
        self,
        flush: Callable[[list[I]], Awaitable[Sequence[O | Exception]]],
        *,
        max_batch: int = 256,
        max_waiting: int = 4096,
        concurrency: int = 1,
        patience: float = 0.05,
        pace: float = 0.0,
        enough: int | None = None,
        name: str,
    ) -> None:
        if min(max_batch, max_waiting, concurrency, enough or 1) < 1 or min(patience, pace) < 0:
            raise ValueError("a batcher's bounds are at least 1, its patience and pace at least 0")
        self.name = name
        self._sizes = _sizes.labels(name)
        self._flush = flush
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._concurrency = concurrency
        self._patience = patience
        self._pace = pace
        self._enough = max_batch if enough is None else enough
        self._began = -math.inf  # the loop's clock may have begun a moment ago: on a machine that just started it has
        #: As many wait for no one else: what the last flush took, at most `enough`.
        self._company = 1
        self._paused: asyncio.Event | None = None
        self._impatient: asyncio.TimerHandle | None = None
        self._waiting: deque[_Item[I, O]] = deque()
        self._running = 0
        #: The batches that are being flushed, by the `id` of the list that the flush was given.
        self._given: dict[int, list[_Item[I, O]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Flushes that run."""
        return self._running

    async def submit(self, item: I) -> O:
        """The output for `item`. Raises Overloaded, what `flush` raised, or the exception `flush` returned for the item."""
        if self._closed:
            raise Overloaded(f"{self.name} is closing")
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"too many wait for {self.name}")
        future: asyncio.Future[O] = asyncio.get_running_loop().create_future()
        trace = context.current()
        self._waiting.append((item, future, trace if trace is not None and trace.sampled else None))
        if not self._running:
            self._start()
        elif self._paused is not None and len(self._waiting) >= self._company:
            self._paused.set()
        elif self._running < self._concurrency:
            self._consider()
        return await future

    def join(self, items: list[I], fits: Callable[[I], bool]) -> int:
        """For a flush that had to wait for something and takes along what has come meanwhile: adds to `items`, the very list that it was given, what
        waits and `fits`, up to `max_batch`; returns how many. Their outputs follow those of the others. Of any other list nothing becomes
        more.
        """
        batch = self._given.get(id(items))
        if batch is None:
            return 0
        had, passed = len(batch), deque[_Item[I, O]]()
        while self._waiting and len(batch) < self._max_batch:
            each = self._waiting.popleft()
            if each[1].done():
                continue
            if fits(each[0]):
                batch.append(each)
                items.append(each[0])
            else:
                passed.append(each)
        self._waiting.extendleft(reversed(passed))
        self._company = min(len(batch), self._enough)
        return len(batch) - had

    async def close(self) -> None:
        """Take no more; return when everything that was taken is answered."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _consider(self) -> None:
        """Begins one more flush, now or when the last one that began has had its time."""
        loop = asyncio.get_running_loop()
        left = self._began + self._patience - loop.time()
        if left <= 0 or len(self._waiting) >= self._max_batch:
            self._start()
        elif self._impatient is None:
            self._impatient = loop.call_later(left, self._lose_patience)

    def _lose_patience(self) -> None:
        self._impatient = None
        if self._waiting and self._running < self._concurrency:
            self._consider()

    def _start(self) -> None:
        # The task takes the items when it first runs, so all that is submitted in this turn of the loop goes together.
        task = asyncio.get_running_loop().create_task(self._work(), name=f"batch:{self.name}", context=Context())
        self._running += 1
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        try:
            await self._flush_all()
        finally:
            # At once, not when the loop gets to the task's callbacks: who submits in between must start a new one.
            self._running -= 1

    async def _flush_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            early = self._began + self._pace - loop.time()
            if early > 0 and len(self._waiting) < self._company:
                await self._pause(early)
            if not (batch := self._take()):
                return
            self._began = loop.time()
            self._company = min(len(batch), self._enough)
            items = [item for item, _, _ in batch]
            self._given[id(items)] = batch
            try:
                outputs = await self._traced(items, batch)
                if len(outputs) != len(batch):
                    raise RuntimeError(f"{self.name}: {len(batch)} items went in, {len(outputs)} came out")
            except Exception as error:  # noqa: BLE001 - it is handed to every caller
                _fail(batch, error)
                continue
            except BaseException:
                _fail(batch, Overloaded(f"{self.name} was stopped"))
                raise
            finally:
                del self._given[id(items)]
                self._sizes.observe(len(batch))
            for (_, future, _), output in zip(batch, outputs, strict=True):
                if not future.done():
                    if isinstance(output, Exception):
                        future.set_exception(output)
                    else:
                        future.set_result(output)

    async def _pause(self, seconds: float) -> None:
        """Wait for `seconds`, or until as many items wait as are worth a flush."""
        paused = self._paused
        if paused is None or paused.is_set():
            paused = self._paused = asyncio.Event()
            asyncio.get_running_loop().call_later(seconds, paused.set)
        await paused.wait()
        # Of two workers that paused together the first may have begun the next pause by now.
        if self._paused is paused:
            self._paused = None

    async def _traced(self, items: list[I], batch: list[_Item[I, O]]) -> Sequence[O | Exception]:
        sampled = _sampled(batch)
        if not sampled:
            return await self._flush(items)
        started = unix_nanoseconds()
        token = context.enter(sampled[0])
        try:
            with traces.span(self.name, batch=len(batch)):
                return await self._flush(items)
        finally:
            context.leave(token)
            # Those that joined it included.
            for trace in _sampled(batch)[1:]:
                traces.record(self.name, trace, started, unix_nanoseconds(), batch=len(items))

    def _take(self) -> list[_Item[I, O]]:
        batch: list[_Item[I, O]] = []
        while self._waiting and len(batch) < self._max_batch:
            item = self._waiting.popleft()
            if not item[1].done():
                batch.append(item)
        return batch


def _sampled(batch: list[_Item[I, O]]) -> list[context.Trace]:
    return [trace for _, _, trace in batch if trace is not None]


def _fail(batch: list[_Item[I, O]], error: Exception) -> None:
    for _, future, _ in batch:
        if not future.done():
            future.set_exception(error)
