"""What the ledger is told by its environment: nothing beyond what every service is."""

from __future__ import annotations

from tallystick.chassis import settings


class Settings(settings.Settings, frozen=True, kw_only=True):
    """The chassis' own settings."""
