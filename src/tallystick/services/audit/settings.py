"""What audit is told by its environment: nothing beyond what every service is."""

from __future__ import annotations

from tallystick.chassis import settings


class Settings(settings.Settings, frozen=True, kw_only=True):
    """The chassis' own settings. The log's name is the trust domain's: it is for ever."""
