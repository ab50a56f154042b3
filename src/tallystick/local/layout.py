"""The paths of one platform. Everything is in its data directory: a copy of it, made while the platform is stopped, is a complete copy.

Unix sockets have paths of at most 107 bytes, so when the data directory lies too deep they go to a short directory of the same user.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT: Final = ".tallystick"
#: In the data directory while a backup is restored into it.
RESTORING: Final = "restoring"
#: `run/mesh/<caller>/<target>.sock` with two names of 20 characters, and Envoy's limit of 103 bytes.
LONGEST_BELOW_RUN: Final = len("/mesh/") + 20 + 1 + 20 + len(".sock")
LONGEST_SOCKET: Final = 100


class LayoutError(Exception):
    """The data directory can't be used; the message says why and what to do."""


def data_directory(given: Path | None) -> Path:
    """`--data`, else `$TALLYSTICK_HOME`, else `./.tallystick`; absolute, links resolved. Raises LayoutError."""
    named = Path(given or os.environ.get("TALLYSTICK_HOME") or DEFAULT)
    try:
        found = named.expanduser().resolve()
    except RuntimeError as error:  # a loop of links, or `~name` of an unknown user
        raise LayoutError(f"can't follow the path {named} ({error}): choose another with --data") from error
    # Paths are written to the parts' configurations, which are lines of text, and to JSON. Python represents a byte that is not UTF-8 as half
    # of a surrogate pair.
    if any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in str(found)):
        raise LayoutError(
            f"the name of {str(found)!a} has control characters or is not valid UTF-8: choose another with --data"
        )
    return found


@dataclass(frozen=True, slots=True)
class Layout:
    data: Path

    @property
    def lock(self) -> Path:
        """Held (flock) by the supervisor for as long as it lives."""
        return self.data / "lock"

    @property
    def state(self) -> Path:
        return self.data / "platform.json"

    @property
    def ca(self) -> Path:
        """The roots that clients of the edge trust, as PEM."""
        return self.data / "ca.pem"

    @property
    def log_key(self) -> Path:
        """The public key of the log, as it was when it was made: what receipts are checked with."""
        return self.data / "log.key"

    @property
    def authority(self) -> Path:
        return self.data / "secrets" / "authority.json"

    @property
    def root_key(self) -> Path:
        return self.data / "secrets" / "root.key"

    @property
    def secrets(self) -> Path:
        return self.data / "secrets"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def traces(self) -> Path:
        return self.data / "traces"

    @property
    def postgres(self) -> Path:
        return self.data / "postgres"

    @property
    def nats(self) -> Path:
        return self.data / "nats"

    @property
    def valkey(self) -> Path:
        return self.data / "valkey"

    @property
    def run(self) -> Path:
        """Sockets and what else is gone after a stop."""
        inside = self.data / "run"
        if len(os.fsencode(inside)) + LONGEST_BELOW_RUN <= LONGEST_SOCKET:
            return inside
        name = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]
        return Path(f"/tmp/tallystick-{os.geteuid()}") / name  # noqa: S108 - made 0700 and checked in `prepare`

    @property
    def control(self) -> Path:
        return self.run / "control.sock"

    @property
    def ads(self) -> Path:
        return self.run / "ads.sock"

    @property
    def envoy_admin(self) -> Path:
        return self.run / "envoy.sock"

    @property
    def collector(self) -> Path:
        return self.run / "collector.sock"

    @property
    def mesh(self) -> Path:
        return self.run / "mesh"

    @property
    def postgres_sockets(self) -> Path:
        return self.run / "pg"

    @property
    def valkey_socket(self) -> Path:
        return self.run / "valkey.sock"

    def listen(self, service: str, replica: int) -> Path:
        """The socket on which a replica answers. Whoever can write to it may name any peer: `run` is 0700, the socket 0600."""
        return self.run / "svc" / f"{service}-{replica}.sock"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def check(self) -> None:
        """Refuse what is not a directory, or belongs to another user (root may use anybody's). A missing one is created at the first start.
        Raises LayoutError.
        """
        try:
            found = self.data.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise LayoutError(f"can't access {self.data} ({error.strerror}): choose another with --data") from error
        if not stat.S_ISDIR(found.st_mode):
            raise LayoutError(f"{self.data} is not a directory: choose another with --data")
        if os.geteuid() not in (found.st_uid, 0):
            raise LayoutError(f"{belongs(self.data, found)}: run as that user, or choose another with --data")

    def prepare(self) -> None:
        """Create the directories, all with mode 0700. Refuse one that belongs to another user, contains other files, or may have been changed by
        others. Raises LayoutError.
        """
        self.check_content()
        short = self.run
        outside = short.parent if self.data not in short.parents else None
        for directory in (self.data, outside, short, self.secrets, self.logs, self.traces):
            if directory is not None:
                _private(directory)
        for directory in (self.mesh, self.mesh / "in", short / "svc"):
            directory.mkdir(mode=0o700, exist_ok=True)

    def check_content(self) -> None:
        """Refuse a directory that contains other files, or that others may have changed. Without this, a home directory or `/tmp` named by mistake
        would be closed to everybody else. Raises LayoutError.
        """
        try:
            found = {entry.name for entry in self.data.iterdir()} - {"lost+found"}
        except FileNotFoundError:
            return
        except OSError as error:
            raise LayoutError(f"can't read {self.data} ({error.strerror}): choose another with --data") from error
        if RESTORING in found:
            raise LayoutError(
                f"a backup is being restored into {self.data}, or the restore was interrupted: wait for it, or empty the directory and run "
                "`tallystick restore` again"
            )
        if found and found.isdisjoint(path.name for path in (self.lock, self.state, self.secrets, self.postgres)):
            raise LayoutError(
                f"{self.data} contains files that are not a platform's: choose an empty or a new directory with --data"
            )
        mode = stat.S_IMODE(self.data.stat().st_mode)
        if found and mode & 0o022:
            raise LayoutError(
                f"other users may write to {self.data} (mode {mode:04o}), and replace its databases and keys: run `chmod 700` on it if nobody "
                "else had access, or restore it"
            )


def _private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise LayoutError(f"can't create {directory} ({error.strerror}): choose another with --data") from error
    if not stat.S_ISDIR(found.st_mode):
        raise LayoutError(f"{directory} is not a directory: choose another with --data")
    if found.st_uid != os.geteuid():
        raise LayoutError(f"{belongs(directory, found)}: run as that user, or choose another with --data")
    if found.st_mode & 0o077:
        directory.chmod(0o700)


def belongs(path: Path, found: os.stat_result) -> str:
    """`PATH belongs to NAME`, or to the numeric user id if that has no name."""
    try:
        return f"{path} belongs to {pwd.getpwuid(found.st_uid).pw_name}"
    except KeyError:
        return f"{path} belongs to user {found.st_uid}"
