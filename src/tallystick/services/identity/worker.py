"""Identity's schedules. It consumes no facts of other services."""

from __future__ import annotations

from datetime import timedelta

from tallystick.chassis.app import Schedule
from tallystick.services.identity.service import Identity


async def heartbeat(service: Identity) -> None:
    await service.revocations.heartbeat()


async def rotate(service: Identity) -> None:
    await service.keys.rotate()


async def tell_failures(service: Identity) -> None:
    await service.failures.tell()


async def forget(service: Identity) -> None:
    await service.authentication.forget()
    await service.revocations.forget()


SUBSCRIPTIONS = ()

SCHEDULES = (
    Schedule(name="identity.heartbeat", every=timedelta(seconds=1), run=heartbeat),
    Schedule(name="identity.rotate", every=timedelta(minutes=1), run=rotate),
    Schedule(name="identity.forget", every=timedelta(minutes=5), run=forget),
    # Not exclusive: each replica tells its own counts.
    Schedule(name="identity.failures", every=timedelta(seconds=15), run=tell_failures, exclusive=False),
)
