"""Backup of one platform, running or stopped, to one file, and its restore into an empty data directory.

`archive` is the file's format, `take` makes one, `restore` puts one in place. All services' databases are of one moment, which is the end of
the backup: they are in one PostgreSQL server, whose own base backup is used.
"""

from __future__ import annotations

from collections.abc import Callable

from tallystick.local.backup.archive import Damaged

#: Called as `progress(done, total)` with bytes; the total is an estimate.
Progress = Callable[[int, int], None]


class BackupFailed(Exception):
    """A backup or a restore was refused or failed. The message says why and what to do; nothing usable was left behind."""


class BackupRefused(BackupFailed):
    """What was asked for can't be done with this backup or this directory."""


__all__ = ["BackupFailed", "BackupRefused", "Damaged", "Progress"]
