"""The schedules of the ledger. It consumes no facts of other services."""

from __future__ import annotations

from datetime import timedelta

from tallystick.chassis.app import Schedule
from tallystick.services.ledger.service import Ledger


async def sweep(ledger: Ledger) -> None:
    """Releases expired holds, within a second. Until then they block nobody anyway (see `Poster`)."""
    await ledger.sweep()


async def check(ledger: Ledger) -> None:
    """Does a second's worth of the continuous check."""
    await ledger.quarantine.watch()


async def resume(ledger: Ledger) -> None:
    """Finishes transfers between books that their request did not: its process was killed, or the other book's ledger did not answer."""
    await ledger.interbook.resume()


async def propose(ledger: Ledger) -> None:
    """Posts approved proposals whose last approval was cut off before it posted them, and closes expired ones."""
    await ledger.approvals.resume()


async def run_imports(ledger: Ledger) -> None:
    """Runs queued imports one after another, and gives up those that were never started."""
    await ledger.importer.turn()
    await ledger.imports.give_up()


SUBSCRIPTIONS = ()

SCHEDULES = (
    Schedule(name="ledger.sweep", every=timedelta(seconds=1), run=sweep),
    Schedule(name="ledger.proposals", every=timedelta(seconds=5), run=propose),
    Schedule(name="ledger.check", every=timedelta(seconds=1), run=check),
    Schedule(name="ledger.interbook", every=timedelta(seconds=2), run=resume),
    Schedule(name="ledger.import", every=timedelta(seconds=1), run=run_imports),
)
