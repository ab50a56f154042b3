"""The vault's schedules. Its keys are rotated by the chassis, like every service's."""

from __future__ import annotations

from datetime import timedelta

from tallystick.chassis.app import Schedule
from tallystick.chassis.bus import Subscription
from tallystick.services.vault.service import Vault


async def forget_counts(service: Vault) -> None:
    await service.tokens.forget_counts()


SUBSCRIPTIONS: tuple[Subscription, ...] = ()

SCHEDULES = (Schedule(name="vault.counts", every=timedelta(hours=1), run=forget_counts),)
