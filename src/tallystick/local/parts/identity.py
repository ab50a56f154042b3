"""Who a part runs as. PostgreSQL refuses to run as root; everything else runs as whoever started the platform.

An ordinary user needs nothing. For root there are two ways, tried in this order:

1. **switch**: become `nobody` for good. The data directory is handed to `nobody`. If a directory on the way to the data or to the
   binaries is closed to others (``/root`` is 0700), the process keeps one capability, ``CAP_DAC_READ_SEARCH``, and no write access
   anywhere but to its own files. Works as root on a machine and in containers with the usual capabilities.
2. **namespace**: a user namespace in which root is *called* `nobody`, without any capability. The data stays root's. Works where
   other users can't be had (rootless containers map a single uid), but the process may still write what root's permission bits allow;
   hence the second choice.

When neither works the error says so and what to do. Which one works is found out by starting the program with ``--version``.
"""

import asyncio
import os
import pwd
import signal
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LAUNCHER: Final = Path(__file__).with_name("launch.py")
USER: Final = "nobody"


class NoIdentity(Exception):
    """Root can't start the program as anyone else here."""


@dataclass(frozen=True, slots=True)
class Identity:
    """`text` is what `launch.py` understands; `owner` is who must own the program's files (None: leave them)."""

    text: str = "same"
    owner: tuple[int, int] | None = None


SAME: Final = Identity()


def launch(identity: Identity, death_signal: signal.Signals, argv: list[str]) -> list[str]:
    """The command line that runs `argv` through the launcher as a child of this process."""
    prefix = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(int(death_signal)), identity.text]
    return prefix + argv


async def not_root(program: Path, *paths: Path) -> Identity:
    """The identity under which `program` runs without being root and can reach `paths`. Raises NoIdentity."""
    if os.geteuid() != 0:
        return SAME
    try:
        user = pwd.getpwnam(USER)
    except KeyError as error:
        raise NoIdentity(
            f"{program.name} does not run as root, and this machine has no user {USER!r}: start as another user"
        ) from error
    switch = "switch" if all(_open_to_others(path) for path in (program, *paths)) else "switch-search"
    choices = (
        Identity(f"{switch}:{user.pw_uid}:{user.pw_gid}", (user.pw_uid, user.pw_gid)),
        Identity(f"namespace:{user.pw_uid}:{user.pw_gid}", (0, 0)),
    )
    refusals = []
    for identity in choices:
        process = await asyncio.create_subprocess_exec(
            *launch(identity, signal.SIGKILL, [str(program), "--version"]),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            _, said = await process.communicate()
        if process.returncode == 0:
            return identity
        refusals.append(said.decode(errors="replace").strip())
    # A container's root mostly may not look into what is closed to others, `/root` among it, once it is somebody else.
    elsewhere = (
        "" if switch == "switch" else ", or from where every user gets at it: a folder on the way is closed to others"
    )
    raise NoIdentity(
        f"{program.name} does not run as root, and neither another user nor a user namespace can be had: "
        f"{'; '.join(refusals)}. Start the platform as an ordinary user{elsewhere}."
    )


def _open_to_others(path: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.absolute().parents if parent.exists())


def give(directory: Path, identity: Identity) -> None:
    """Make `directory` and all below it belong to the identity (nothing to do when it does). Links are not followed."""
    if identity.owner is None or _owner(directory) == identity.owner:
        return
    if not directory.is_dir():
        os.chown(directory, *identity.owner, follow_symlinks=False)
        return
    # The top comes last: interrupted halfway, the next start does it again.
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            os.chown(Path(folder, name), *identity.owner, follow_symlinks=False)
        os.chown(folder, *identity.owner, follow_symlinks=False)


def _owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid
