"""The schedules of payments: resume what a crash or a slow acquirer left unfinished, and read disputes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tallystick.chassis.app import Schedule
from tallystick.services.payments.service import DISPUTES

if TYPE_CHECKING:
    from tallystick.services.payments.api import Api


async def resume(api: Api) -> None:
    """Resumes what is due. Replicas share the work: each takes what no other has taken."""
    await api.background.resume()


async def read_disputes(api: Api) -> None:
    """Reads disputes until there are no more. One replica at a time, so that replicas don't compete for the same disputes."""
    while await api.background.read_disputes() == DISPUTES:
        pass


SUBSCRIPTIONS = ()

SCHEDULES = (
    Schedule(name="payments.resume", every=timedelta(seconds=1), run=resume, exclusive=False),
    Schedule(name="payments.disputes", every=timedelta(seconds=10), run=read_disputes, exclusive=True),
)
