"""All else that arrives at the ledger: the clock. It consumes no facts of others."""

from __future__ import annotations

from datetime import timedelta

from tallystick.chassis.app import Schedule
from tallystick.services.ledger.service import Ledger


async def sweep(ledger: Ledger) -> None:
    """Expired holds are taken off within a second; until then they already block nobody (see `Poster`)."""
    await ledger.sweep()


async def check(ledger: Ledger) -> None:
    """A second's worth of the continuous check."""
    await ledger.quarantine.watch()


async def resume(ledger: Ledger) -> None:
    """Money between books whose request did not end it: its process was killed, or the other book's ledger did not answer."""
    await ledger.interbook.resume()


async def propose(ledger: Ledger) -> None:
    """Approved proposals are posted if who approved last was cut off; expired ones are noted as such."""
    await ledger.approvals.resume()


async def run_imports(ledger: Ledger) -> None:
    """Imports that were started, one after another; those that nobody goes on with are given up."""
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
