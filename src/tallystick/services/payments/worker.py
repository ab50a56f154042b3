"""All else that arrives at payments: the clock. It goes on with what a crash or a slow acquirer left half-way,
and reads what cardholders dispute.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tallystick.chassis.app import Schedule
from tallystick.services.payments.service import DISPUTES

if TYPE_CHECKING:
    from tallystick.services.payments.api import Api


async def resume(api: Api) -> None:
    """What is due. Replicas share the work: each takes what no other has."""
    await api.background.resume()


async def read_disputes(api: Api) -> None:
    """Until there are no more. One replica at a time, so that each is told once without a quarrel."""
    while await api.background.read_disputes() == DISPUTES:
        pass


SUBSCRIPTIONS = ()

SCHEDULES = (
    Schedule(name="payments.resume", every=timedelta(seconds=1), run=resume, exclusive=False),
    Schedule(name="payments.disputes", every=timedelta(seconds=10), run=read_disputes, exclusive=True),
)
