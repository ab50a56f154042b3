"""The baseline: pgbench's tpcb-like script on the platform's own PostgreSQL, in the same run.

Scale 50, 32 clients, prepared statements. Results are given as a ratio to it, because machines differ and are shared.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Self

from tallystick.cli.failure import PART_FAILED, Failed
from tallystick.local.layout import Layout
from tallystick.local.parts import Postgres
from tallystick.local.parts.postgres import BIN, SUPERUSER
from tallystick.local.secrets import SecretFiles

DATABASE: Final = "bench_baseline"
SCALE: Final = 50
CLIENTS: Final = 32
INIT_TIMEOUT: Final = 300.0
#: Seconds of warm-up before each slice.
WARM_UP: Final = 2


@dataclass(frozen=True, slots=True)
class Slice:
    """Transactions a second and the mean latency of one, in milliseconds."""

    tps: float
    latency_ms: float


class Yardstick:
    """pgbench's tables on the platform's server. Each `measure` is one run on them; it raises Failed.

    The speed of a shared machine changes from one minute to the next. So the load is measured between two slices, and compared with their
    mean.
    """

    def __init__(self, programs: _Programs, seconds: int) -> None:
        self._programs = programs
        self._seconds = seconds
        self.slices: list[Slice] = []

    async def measure(self) -> Slice:
        arguments = (f"--client={CLIENTS}", "--jobs=2", "--protocol=prepared", "--no-vacuum")
        run = self._programs.run
        await run("pgbench", *arguments, f"--time={WARM_UP}", DATABASE)
        text = await run("pgbench", *arguments, f"--time={self._seconds}", DATABASE, timeout=self._seconds + 60)
        tps = re.search(r"^tps = ([0-9.]+)", text, re.MULTILINE)
        latency = re.search(r"^latency average = ([0-9.]+) ms", text, re.MULTILINE)
        if re.search(r"actually processed: 0$", text, re.MULTILINE):
            raise Failed(
                f"pgbench completed no transaction within {self._seconds} s: the machine is too busy, or --seconds too small",
                PART_FAILED,
            )
        if tps is None or latency is None:
            raise Failed(f"unexpected output of pgbench: {text[:300]}", PART_FAILED)
        found = Slice(round(float(tps[1]), 1), float(latency[1]))
        self.slices.append(found)
        return found

    @property
    def tps(self) -> float:
        """The mean of the slices, in transactions a second."""
        return round(sum(each.tps for each in self.slices) / len(self.slices), 1)


@asynccontextmanager
async def yardstick(layout: Layout, seconds: int) -> AsyncIterator[Yardstick]:
    """Create pgbench's tables, and drop them at the end of the block. Raises Failed."""
    drop = ("dropdb", "--if-exists", "--force", DATABASE)
    with _Programs(layout) as programs:
        await programs.run(*drop)
        try:
            await programs.run("createdb", DATABASE)
            await programs.run("pgbench", "--initialize", "--quiet", f"--scale={SCALE}", DATABASE, timeout=INIT_TIMEOUT)
            yield Yardstick(programs, seconds)
        finally:
            await programs.run(*drop)


class _Programs:
    """Runs PostgreSQL's own programs as its superuser. The password is passed in a file that only the user can read."""

    def __init__(self, layout: Layout) -> None:
        self._directory = BIN
        password = SecretFiles(layout.secrets).path(Postgres.name).read_text().strip()
        self._passfile = layout.run / "bench.pgpass"
        self._passfile.touch(mode=0o600)
        self._passfile.write_text(f"*:*:*:{SUPERUSER}:{password}\n")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
            "PGHOST": str(layout.postgres_sockets),
            "PGUSER": SUPERUSER,
            "PGPASSFILE": str(self._passfile),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._passfile.unlink(missing_ok=True)

    async def run(self, program: str, *arguments: str, timeout: float = 60.0) -> str:
        process = await asyncio.create_subprocess_exec(
            str(self._directory / program),
            *arguments,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), timeout)
        except TimeoutError as error:
            raise Failed(f"{program} did not end within {timeout:.0f} s", PART_FAILED) from error
        finally:
            if process.returncode is None:  # timed out or cancelled
                process.kill()
                await process.wait()
        if process.returncode:
            raise Failed(f"{program}: {err.decode(errors='replace').strip()[:500]}", PART_FAILED)
        return out.decode()
