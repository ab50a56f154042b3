"""Secrets of one platform: random passwords, each in a file of mode 0600, made once and then kept."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tallystick.kernel.secret import Secret
from tallystick.local.layout import LayoutError
from tallystick.local.parts.process import write_private

BYTES: Final = 32
_NAME = re.compile(r"[a-z][a-z0-9_-]*(/[a-z][a-z0-9_-]*)?")


class SecretsError(LayoutError):
    """A secret can't be used. The message names its file, and contains nothing of the secret."""


class SecretFiles:
    """`get("ledger/database")` is the content of `<directory>/ledger/database`, made on first use."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, name: str) -> Path:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"not a secret's name: {name!r}")
        return self._directory / name

    def get(self, name: str) -> Secret[str]:
        """The secret, created if there is none. Raises SecretsError if other users can read its file: they may know it."""
        path = self.path(name)
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, secrets.token_urlsafe(BYTES) + "\n")
        with path.open(encoding="ascii", errors="replace") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise SecretsError(
                    f"other users may read {path} (mode {stat.S_IMODE(mode):04o}): while the platform is stopped, delete it to get a new "
                    "secret, or run `chmod 600` on it if nobody else had access"
                )
            text = file.read().strip()
        if fault := _damage(path, text):
            raise SecretsError(fault)
        return Secret(text)

    def faults(self) -> Iterator[str]:
        """Faults of the existing files' contents, each with what to do. A missing secret is created anew."""
        for path in sorted(self._directory.rglob("*")):
            secret = path.is_file() and _NAME.fullmatch(str(path.relative_to(self._directory)))
            if secret and (fault := _damage(path, path.read_text(encoding="ascii", errors="replace").strip())):
                yield fault


def read_passphrase(file: Path | None) -> Secret[str] | None:
    """The root key's passphrase; None without a file. Raises SecretsError."""
    if file is None:
        return None
    try:
        return Secret(file.read_text(encoding="utf-8").rstrip("\r\n"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SecretsError(
            f"can't read the passphrase file {file} ({why}): TALLYSTICK_ROOT_PASSPHRASE_FILE must name a text file of this user"
        ) from None


def _damage(path: Path, text: str) -> str | None:
    if len(text) < BYTES or not text.isascii():
        return f"{path} is empty or damaged: delete it while the platform is stopped, and a new one is created"
    return None
