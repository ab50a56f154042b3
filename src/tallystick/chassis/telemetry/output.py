"""Writes lines to a file descriptor, so that a request never waits for the reader.

A pipe whose reader stops blocks its writer. So lines go into a bounded queue, from which one thread writes them, many at a time.
While the queue is full, lines are dropped and counted; the count is written when there is room again. A process killed with SIGKILL
loses the lines of its last few milliseconds; what must not be lost has to be a fact.
"""

from __future__ import annotations

import os
import threading
from collections import deque

GATHER_SECONDS = 0.02


class Output:
    def __init__(self, descriptor: int, *, max_lines: int = 20_000) -> None:
        self._descriptor = descriptor
        self._max_lines = max_lines
        self._lines: deque[bytes] = deque()
        self._wake = threading.Event()
        self._stop = False
        self._dropped = 0
        self._idle = True
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-output", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue one line, its newline included."""
        if len(self._lines) >= self._max_lines:
            self._dropped += 1
            return
        self._lines.append(line)
        if self._idle:
            self._wake.set()

    def close(self, timeout: float = 2.0) -> None:
        """Write what is queued, then stop. A reader that stopped reading delays this by `timeout` seconds at most."""
        self._stop = True
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            self._idle = True
            if not self._lines and not self._stop:
                self._wake.wait()
            self._idle = False
            self._wake.clear()
            if not self._stop:
                self._closing.wait(GATHER_SECONDS)
            self._drain()
            if self._stop and not self._lines:
                return

    def _drain(self) -> None:
        # Only this thread removes lines, so there are at least as many as the length says.
        batch = [self._lines.popleft() for _ in range(len(self._lines))]
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            batch.append(b'{"event":"log.dropped","level":"warning","count":%d}\n' % dropped)
        data = memoryview(b"".join(batch))
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                self._closing.wait(0.01)
            except OSError:
                # The reader is gone. There is nobody to tell, and a service must not fail because of its log.
                return
