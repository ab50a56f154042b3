"""The vault's own settings: where it may send card data, and the log's key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from tallystick.chassis import settings
from tallystick.services.vault.model import Destination


class Settings(settings.Settings, frozen=True, kw_only=True):
    destinations_file: Path | None = None
    """TOML, one table for each destination that numbers may be sent to (see `model.Destination`). None: nowhere."""
    log_key_file: Path | None = None
    """The log's public key, as `GET /v1/audit/key` gives it, kept apart from the log. None: no receipt can be checked, no number revealed."""


def destinations(path: Path | None) -> dict[str, Destination]:
    """The operator's allow-list. Raises SettingsError, which names the entry and the fault."""
    if path is None:
        return {}
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), type=dict[str, Destination], dec_hook=_path)
    except OSError as error:
        raise settings.SettingsError([f"TALLYSTICK_DESTINATIONS_FILE: {path}: {error.strerror}"]) from None
    except (msgspec.ValidationError, tomllib.TOMLDecodeError, ValueError) as error:
        raise settings.SettingsError([f"{path}: {error}"]) from None


def _path(kind: type, value: object) -> Path:
    """A path in TOML is an absolute one in a string. For a relative path the base directory would be a guess."""
    if kind is not Path or not isinstance(value, str) or not Path(value).is_absolute():
        raise ValueError("an absolute path is needed here")
    return Path(value)
