"""A wire between a client and PostgreSQL that breaks when told to: before a statement, or between COMMIT and its answer. The ledger's `save`
outside of a transaction block is a COMMIT too."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tallystick.chassis.db import Dsn

BEGIN, COMMIT = b"Q\x00\x00\x00\x0aBEGIN\x00", b"Q\x00\x00\x00\x0bCOMMIT\x00"
#: That `save` is prepared, and under which name (Parse); and that a prepared statement is run (Bind).
SAVE = re.compile(rb"P....([^\0]+)\0WITH moved AS \(\s+UPDATE book AS b SET sequence", re.DOTALL)
RUN = re.compile(rb"B....\0([^\0]+)\0", re.DOTALL)


class Commits:
    """Which messages of one connection store something."""

    def __init__(self) -> None:
        self._save: bytes | None = None
        self._block = False

    def one(self, data: bytes) -> bool:
        if BEGIN in data:
            self._block = True
        prepared, run = SAVE.search(data), RUN.match(data)
        if prepared:
            self._save = prepared[1]
        if COMMIT in data:
            self._block = False
            return True
        return bool(run and run[1] == self._save and not self._block)


@dataclass
class Wire:
    """`cut_in`: messages from the client until the connection is cut, and that one is lost. `lose_answers`: COMMITs that reach the server and whose
    answer is lost. `lose_commits`: COMMITs that are lost with the connection.
    """

    dsn: Dsn
    cut_in: int | None = None
    lose_answers: int = 0
    lose_commits: int = 0
    cuts: int = 0
    messages: int = 0


@asynccontextmanager
async def wire_to(dsn: Dsn, directory: Path) -> AsyncIterator[Wire]:
    socket = directory / ".s.PGSQL.5432"
    wire = Wire(replace(dsn, host=str(directory)))
    tasks: set[asyncio.Task[None]] = set()

    async def serve(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        server, queries = await asyncio.open_unix_connection(f"{dsn.host}/.s.PGSQL.{dsn.port}")
        silent = asyncio.Event()
        commits = Commits()

        async def back() -> None:
            while data := await server.read(1 << 16):
                if not silent.is_set():
                    answers.write(data)
            answers.close()

        backward = asyncio.create_task(back())
        tasks.add(backward)
        try:
            while data := await client.read(1 << 20):
                wire.messages += 1
                commit = commits.one(data)
                if wire.cut_in is not None:
                    wire.cut_in -= 1
                    if wire.cut_in < 0:
                        wire.cut_in = None
                        wire.cuts += 1
                        break
                if commit and wire.lose_commits:
                    wire.lose_commits -= 1
                    wire.cuts += 1
                    break
                if commit and wire.lose_answers:
                    wire.lose_answers -= 1
                    wire.cuts += 1
                    silent.set()
                    queries.write(data)
                    await queries.drain()
                    await asyncio.sleep(0.1)
                    break
                queries.write(data)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            queries.close()
            answers.close()

    listener = await asyncio.start_unix_server(serve, str(socket))
    try:
        yield wire
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
