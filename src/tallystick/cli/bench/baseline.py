"""The yardstick: pgbench's tpcb-like script on the platform's own PostgreSQL, in the same run.

Scale 50, 32 clients, prepared statements: as many transactions as this machine's database does when nothing is in its way. Results
are given as a ratio to it, because machines differ and are shared.
"""

from __future__ import annotations

import asyncio
import os
import re
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


@dataclass(frozen=True, slots=True)
class Baseline:
    """Transactions a second and the mean latency of one, in milliseconds."""

    tps: float
    latency_ms: float


async def measure(layout: Layout, seconds: int) -> Baseline:
    """Raises Failed."""
    with _Programs(layout) as bench:
        return await _measured(bench, seconds)


async def _measured(bench: _Programs, seconds: int) -> Baseline:
    await bench.run("dropdb", "--if-exists", "--force", DATABASE)
    try:
        await bench.run("createdb", DATABASE)
        await bench.run("pgbench", "--initialize", "--quiet", f"--scale={SCALE}", DATABASE, timeout=INIT_TIMEOUT)
        # Twice as long as one checkpoint's worth of noise would need is what nobody has: a short warm-up, then the run.
        arguments = (f"--client={CLIENTS}", "--jobs=2", "--protocol=prepared", "--no-vacuum")
        await bench.run("pgbench", *arguments, "--time=2", DATABASE, timeout=60)
        text = await bench.run("pgbench", *arguments, f"--time={seconds}", DATABASE, timeout=seconds + 60)
    finally:
        await bench.run("dropdb", "--if-exists", "--force", DATABASE)
    tps = re.search(r"^tps = ([0-9.]+)", text, re.MULTILINE)
    latency = re.search(r"^latency average = ([0-9.]+) ms", text, re.MULTILINE)
    if tps is None or latency is None:
        raise Failed(f"pgbench said something unexpected: {text[:300]}", PART_FAILED)
    return Baseline(round(float(tps[1]), 1), float(latency[1]))


class _Programs:
    """PostgreSQL's own programs, as its superuser. The password goes by a file that only the user may read."""

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
            if process.returncode is None:  # also when it is interrupted
                process.kill()
                await process.wait()
        if process.returncode:
            raise Failed(f"{program}: {err.decode(errors='replace').strip()[:500]}", PART_FAILED)
        return out.decode()
