"""The settings of payments beyond those that every service has."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from tallystick.chassis import settings


class Settings(settings.Settings, frozen=True, kw_only=True):
    acquirer: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]*$", max_length=40)] = "sandbox-rail"
    """The id of the acquirer in the vault's allow-list of destinations."""
    acquirer_timeout_ms: Annotated[int, Meta(ge=100, le=60_000)] = 10_000
    """Milliseconds that one request to the acquirer may take before its outcome counts as unknown."""
