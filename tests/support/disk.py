"""A disk of a chosen size under one directory of a program: a tmpfs in a mount namespace of the program's own.

It takes no right that an ordinary user has not, where the system lets users make namespaces, and leaves nothing behind: the disk goes with
the last process that sees it. From outside it is seen through `/proc`.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

#: What is in the directory is moved onto the disk, as whoever it belongs to; then the program takes the shell's place. An ordinary user is
#: root in the first namespace, who may mount, and themselves again in the second.
_SCRIPT = """
set -e
place=$1 size=$2; shift 2
mkdir "$place.aside"
cp -a "$place/." "$place.aside"
mount -t tmpfs -o "size=$size" tmpfs "$place"
cp -a "$place.aside/." "$place"
rm -r "$place.aside"
exec "$@"
"""
_ROOT = ("unshare", "--mount", "--propagation", "private")
_USER = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")


def _around(place: Path, size: str) -> tuple[str, ...]:
    mounting = ("sh", "-c", _SCRIPT, "sh", str(place), size)
    if os.geteuid() == 0:
        return (*_ROOT, *mounting)
    back = ("unshare", "--user", f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}")
    return (*_USER, *mounting, *back)


def refusal(directory: Path) -> str:
    """Why this system gives no disk; nothing when it does."""
    place = directory / "try"
    place.mkdir()
    try:
        ran = subprocess.run([*_around(place, "1m"), "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError as missing:
        return str(missing)
    finally:
        place.rmdir()
    return "" if ran.returncode == 0 else ran.stderr.strip() or f"status {ran.returncode}"


class Disk:
    """What `place` is for a program that is started with `around` before its command."""

    def __init__(self, place: Path, size: str) -> None:
        self.place = place
        self.around = _around(place, size)

    def seen(self, pid: int) -> Path:
        """The disk as the process `pid`, which was started so, sees it."""
        return Path(f"/proc/{pid}/root{self.place}")

    def fill(self, pid: int) -> Path:
        """Takes all that is free, to the last byte; the file to remove."""
        file = self.seen(pid) / "filler"
        with file.open("wb", buffering=0) as out, suppress(OSError):
            while True:
                out.write(bytes(1 << 20))
        with file.open("ab", buffering=0) as out, suppress(OSError):
            while True:
                out.write(bytes(512))
        return file
