"""What notify is told by its environment, beyond what every service is."""

from __future__ import annotations

from tallystick.chassis import settings


class Settings(settings.Settings, frozen=True, kw_only=True):
    private_webhooks: bool = False
    """Whether webhooks may go to private addresses and by plain http: the sandbox allows it, nobody else should."""
