"""All else that arrives at the vault: nothing. Its keys are rotated by the chassis, as every service's."""

from __future__ import annotations

from tallystick.chassis.app import Schedule
from tallystick.chassis.bus import Subscription

SUBSCRIPTIONS: tuple[Subscription, ...] = ()

SCHEDULES: tuple[Schedule, ...] = ()
