"""Brings sealed values to the current key (or to a new place) without stopping anything.

A job walks one sealed column in pages by key, each page in a transaction of its own together with the cursor, so it can
be broken off anywhere and goes on where it was, on any replica. Opening and sealing take 8 us each; the database is the
cost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from tallystick.chassis.keys.envelope import Aad
from tallystick.chassis.keys.store import Q
from tallystick.kernel.clock import Clock

if TYPE_CHECKING:
    from tallystick.chassis.db import Database, Transaction
    from tallystick.chassis.keys.keyring import Keyring


@dataclass(frozen=True, slots=True)
class Cell:
    """One sealed value: the row's key (sorting as the page does), the value, where it is and where it is to be."""

    key: str
    blob: bytes
    old: Aad
    new: Aad


@dataclass(frozen=True, slots=True)
class Column:
    """A sealed column, as its service reads and writes it.

    `page(tx, after, limit)` gives the cells with a key above `after` in key order, locked FOR UPDATE; `save(tx, [(key,
    blob)])` stores new values.
    """

    name: str
    page: Callable[[Transaction, str, int], Awaitable[Sequence[Cell]]]
    save: Callable[[Transaction, Sequence[tuple[str, bytes]]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Progress:
    scanned: int
    rewrapped: int
    started_at: datetime
    finished: bool


class Rewrap:
    """One job: a pass over one column."""

    def __init__(self, database: Database, ring: Keyring, column: Column, clock: Clock, *, page: int = 500) -> None:
        self._database = database
        self._ring = ring
        self._column = column
        self._clock = clock
        self._page = page

    async def begin(self) -> None:
        """Starts a new pass, unless one is under way: then that one goes on."""
        async with self._database.transaction() as tx:
            await tx.execute(Q.begin_rewrap, self._column.name, self._clock.now())

    async def step(self) -> Progress:
        """One page. The caller sets the pace, and stops when `finished`."""
        # Opening may fetch a key on a second connection; one job at a time, so the pool can't run dry by it.
        async with self._database.transaction() as tx:
            state = await tx.fetchrow(Q.rewrap_progress, self._column.name)
            if state is None or state["finished_at"] is not None:
                scanned, rewrapped = (state["scanned"], state["rewrapped"]) if state is not None else (0, 0)
                started = state["started_at"] if state is not None else self._clock.now()
                return Progress(scanned, rewrapped, started, finished=True)
            cells = await self._column.page(tx, state["after_key"], self._page)
            changed = [
                (cell.key, await self._ring.rewrap(cell.blob, cell.old, cell.new))
                for cell in cells
                if cell.old != cell.new or not await self._ring.is_current(cell.blob, cell.new.tenant)
            ]
            if changed:
                await self._column.save(tx, changed)
            finished = len(cells) < self._page
            await tx.execute(
                Q.advance_rewrap,
                self._column.name,
                cells[-1].key if cells else state["after_key"],
                len(cells),
                len(changed),
                self._clock.now() if finished else None,
            )
        return Progress(state["scanned"] + len(cells), state["rewrapped"] + len(changed), state["started_at"], finished)

    async def run(self) -> Progress:
        """A whole pass, or the rest of the one under way."""
        await self.begin()
        while True:
            progress = await self.step()
            if progress.finished:
                return progress
