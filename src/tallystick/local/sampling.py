"""How many requests are traced: all while it is quiet, about `TARGET` a second under load, decided anew each second.

A trace costs about 0.5 ms over all its spans. Everything on a quiet machine, and enough to see where time goes on a busy one.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final
from urllib.parse import quote

from tallystick.local.parts.envoy import Envoy

TARGET: Final = 20.0
EVERY: Final = 1.0
#: Shares are counted in hundredths of a percent.
WHOLE: Final = 10_000
_COUNT = re.compile(rb"downstream_rq_total: (\d+)")


def share(rate: float) -> int:
    """The part of requests to trace at `rate` requests a second, in 1/10,000. Pure."""
    return WHOLE if rate <= TARGET else max(1, round(WHOLE * TARGET / rate))


def worth_telling(old: int | None, new: int) -> bool:
    """Whether the proxy should be told: a change of more than a tenth, or to and from everything. Pure."""
    return old is None or (new == WHOLE) != (old == WHOLE) or abs(new - old) > old / 10


class Sampler:
    """Runs beside the proxy as long as the platform. Survives the proxy's restarts: a new one is told again."""

    def __init__(self, envoy: Envoy) -> None:
        self._envoy = envoy
        self._told: tuple[int | None, int] | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        before: tuple[float, int] | None = None
        rate = 0.0
        while True:
            try:
                count = await self._requests()
                now = loop.time()
                if before is not None and count >= before[1]:
                    current = (count - before[1]) / (now - before[0])
                    # Up at once, down slowly: a pause between two bursts must not trace the whole next burst.
                    rate = max(current, rate * 0.7 + current * 0.3)
                before = (now, count)
                await self._tell(share(rate))
            except (OSError, TimeoutError, ValueError):
                before = None  # the proxy is restarting
            await asyncio.sleep(EVERY)

    async def _requests(self) -> int:
        _, body = await self._envoy.ask("GET", r"/stats?filter=^http\.edge\.downstream_rq_total$")
        found = _COUNT.search(body)
        if found is None:
            raise ValueError("the proxy has no count of its requests")
        return int(found[1])

    async def _tell(self, value: int) -> None:
        pid = self._envoy.pid
        told = self._told[1] if self._told is not None and self._told[0] == pid else None
        if worth_telling(told, value):
            # A bare number above 100 would mean "always" to the proxy: only the spelt-out fraction is understood.
            fraction = quote(f"{{numerator: {value}, denominator: TEN_THOUSAND}}")
            status, _ = await self._envoy.ask("POST", f"/runtime_modify?tracing.random_sampling={fraction}")
            if status != 200:
                raise ValueError("the proxy did not take the sampling rate")
            self._told = (pid, value)
