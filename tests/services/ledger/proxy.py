"""A wire between a client and PostgreSQL that breaks when told to: before a statement, or between COMMIT and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tallystick.chassis.db import Dsn

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"


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
                if wire.cut_in is not None:
                    wire.cut_in -= 1
                    if wire.cut_in < 0:
                        wire.cut_in = None
                        wire.cuts += 1
                        break
                if COMMIT in data and wire.lose_commits:
                    wire.lose_commits -= 1
                    wire.cuts += 1
                    break
                if COMMIT in data and wire.lose_answers:
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
