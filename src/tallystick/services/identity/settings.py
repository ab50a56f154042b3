"""Identity's settings: one frozen struct, read from the environment by the chassis."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tallystick.chassis.settings import Settings as ChassisSettings


class Settings(ChassisSettings, frozen=True, kw_only=True):
    key_life_hours: Annotated[int, msgspec.Meta(ge=1, le=24 * 90)] = 24 * 7
    """How long a signing key signs."""
    key_publish_minutes: Annotated[int, msgspec.Meta(ge=11, le=24 * 60)] = 20
    """How long a key is published before it signs; at least twice the 5 minutes that the key set may be cached, and one."""
