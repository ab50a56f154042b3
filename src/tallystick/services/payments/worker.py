"""All else that arrives at payments: the clock. It goes on with what a crash or a slow acquirer left half-way."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tallystick.chassis.app import Schedule
from tallystick.services.payments.service.payments import RESUME_BATCH

if TYPE_CHECKING:
    from tallystick.services.payments.api import Api


async def resume(api: Api) -> None:
    """Until nothing is due. Replicas share the work: each takes what no other has."""
    while await api.payments.resume() == RESUME_BATCH:
        pass


SUBSCRIPTIONS = ()

SCHEDULES = (Schedule(name="payments.resume", every=timedelta(seconds=1), run=resume, exclusive=False),)
