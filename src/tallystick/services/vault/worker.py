"""All else that arrives at the vault: the clock."""

from __future__ import annotations

from datetime import timedelta

from tallystick.chassis.app import Schedule
from tallystick.chassis.bus import Subscription
from tallystick.services.vault.service import Vault


async def rotate_service_key(service: Vault) -> None:
    """When the key has had its life (the charter's rotation_days), or a rotation was broken off."""
    await service.ring.keep_rotated(service.key_life)


SUBSCRIPTIONS: tuple[Subscription, ...] = ()

SCHEDULES = (Schedule(name="vault.keys", every=timedelta(hours=1), run=rotate_service_key),)
