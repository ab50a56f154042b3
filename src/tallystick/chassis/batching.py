"""Natural batching: while one flush is in flight, calls gather; the next flush takes them all.

A call that finds the batcher idle is flushed at once, alone. Under load the batches grow by themselves: the calls that arrived
meanwhile share one round trip and one fsync. A pace keeps batches large when many callers send little each. It holds nobody up for
calls that aren't coming: once as many wait as the last flush took, they go at once.
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

#: Paces, in seconds: of checks that every request passes, and of work that writes or calls another service. Such a flush costs
#: 0.15 ms and 1 to 3 ms of CPU respectively, whatever its size. The paces bound what a busy process spends on flushes, and are short
#: compared with what a request takes anyway.
CHECK_PACE: Final = 0.002
WORK_PACE: Final = 0.005

_sizes = metrics.histogram(
    "tallystick_batch_items", "Items that one flush took", ("batcher",), (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)

_Item = tuple[I, asyncio.Future[O], context.Trace | None]


class Batcher(Generic[I, O]):
    """Gathers items for `flush(items) -> outputs`. Outputs are in the order of the items, one for each; an Exception among them fails
    its item only, an exception raised by `flush` fails the whole batch: every caller gets it.

    At most `concurrency` flushes run at once, each of at most `max_batch` items. At most `max_waiting` items wait; one more is
    refused with `Overloaded`.

    The cost of a flush hardly depends on its size, so batches are kept large by two rules:

    * A second flush begins beside a running one only when that has taken longer than `patience` seconds, so that a stuck flush does
      not hold up the others, or when a whole batch waits.
    * Flushes begin at least `pace` seconds after one another, unless as many items wait as the last flush took, or `enough` of them.
      The first flush after a quiet time begins at once. So a few callers that each wait for their answer are never held up, whatever
      their number.

    `flush` runs in a task of its own, without the deadline or other context of any caller. The exception is tracing: a flush belongs to
    the trace of its first sampled item, so that its calls show up there; the traces of the other sampled items get a span that says
    how long the flush took. A caller that goes away does not cancel the flush. An item whose caller left while it waited is dropped.
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
        self._began = -math.inf  # and not 0: the loop's clock begins near 0 when the machine has just started
        #: How many waiting items end a pause: as many as the last flush took, at most `enough`.
        self._company = 1
        self._paused: asyncio.Event | None = None
        self._impatient: asyncio.TimerHandle | None = None
        self._waiting: deque[_Item[I, O]] = deque()
        self._running = 0
        #: The batches that are being flushed, by the `id` of the list that `flush` was given.
        self._given: dict[int, list[_Item[I, O]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """How many flushes are running."""
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
        """For a flush that had to wait for something: take along items that have arrived meanwhile.

        Appends the waiting items that `fits` accepts to `items`, up to `max_batch` in all; returns how many. `items` must be the very
        list that the flush was given; nothing is added to any other. The flush returns outputs for the added items too, in order.
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
        """Accept no more items; return when all that were accepted are answered."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _consider(self) -> None:
        """Begin one more flush: now, or once the last one that began has had its `patience`."""
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
        # The task takes its items when it first runs, so all that is submitted in this turn of the event loop goes together.
        task = asyncio.get_running_loop().create_task(self._work(), name=f"batch:{self.name}", context=Context())
        self._running += 1
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        try:
            await self._flush_all()
        finally:
            # Here and not in a done callback, which runs later: whoever submits in between has to start a new task.
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
        timer: asyncio.TimerHandle | None = None
        if paused is None or paused.is_set():
            paused = self._paused = asyncio.Event()
            timer = asyncio.get_running_loop().call_later(seconds, paused.set)
        await paused.wait()
        if timer is not None:
            timer.cancel()  # only once it is over: a worker that is cancelled leaves the timer to those that pause with it
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
            # Including items that joined the batch during the flush.
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
