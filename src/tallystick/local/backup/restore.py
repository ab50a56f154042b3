"""Restores a backup into an empty data directory. Everything is unpacked and checked in a folder of it, `restoring`, and moved into place when
it is whole, its databases have opened, and the log has been told: a platform does not start on what is only half there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from tallystick.chassis import migrate, outbox
from tallystick.chassis.db import Database
from tallystick.chassis.keys import root as root_key
from tallystick.kernel.clock import SystemClock
from tallystick.kernel.problem import Problem
from tallystick.kernel.secret import Secret
from tallystick.local import pki, provision
from tallystick.local.backup import BackupFailed, BackupRefused, Damaged, Progress
from tallystick.local.backup.archive import Header, Manifest, read
from tallystick.local.backup.take import ROLE, ROOM, postgres_alone
from tallystick.local.deployments import deployments
from tallystick.local.layout import RESTORING, Layout, LayoutError
from tallystick.local.parts import NoIdentity
from tallystick.local.parts import postgres as parts_postgres
from tallystick.local.parts.process import ProcessFailed, run_once
from tallystick.local.pki import PkiError
from tallystick.local.secrets import SecretFiles
from tallystick.local.state import Lock
from tallystick.services.identity.service.facts import platform_restored

#: To read the headers of a large write-ahead log.
VERIFY_WITHIN: Final = 3600.0
#: What may lie in an empty data directory: of a disk, and of a restore that was interrupted.
NOTHING: Final = frozenset(("lost+found", "lock", RESTORING))


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    data: Path
    program: str
    """The version that made the backup."""
    taken_at: str
    log_size: int
    """How many entries the audit log had. Checkpoints of a larger log than this are of a history that is not continued."""


def check(file: Path, progress: Progress) -> tuple[Header, Manifest]:
    """Reads a whole backup and checks it; changes nothing. Raises BackupFailed."""
    return _unpacked(file, None, progress)


def restore(
    layout: Layout, file: Path, *, given_key: Path | None, passphrase: Secret[str] | None, progress: Progress
) -> Restored:
    """Raises BackupFailed, LayoutError; the directory is then as it was before."""
    new = not layout.data.exists()
    lock = _locked(layout)
    staging = Layout(layout.data / RESTORING)
    try:
        _clear(layout.data)  # of a restore that was interrupted
        _check_room(layout.data, file.stat().st_size + ROOM)
        staging.data.mkdir(mode=0o700)
        header, manifest = _unpacked(file, staging.data, progress)
        size = asyncio.run(_opened(staging, header, manifest, given_key, passphrase))
        os.sync()
        _move(staging.data, layout.data)
    except BaseException as error:
        _clear(layout.data)
        if new:
            shutil.rmtree(layout.data, ignore_errors=True)
        if isinstance(error, OSError):
            raise BackupFailed(f"{error.filename or file}: {error.strerror or error}") from error
        raise
    finally:
        if staging.data not in staging.run.parents:
            shutil.rmtree(staging.run, ignore_errors=True)
        lock.release()
    return Restored(data=layout.data, program=header.program, taken_at=manifest.ended_at, log_size=size)


def _locked(layout: Layout) -> Lock:
    try:
        if Lock.held(layout.lock):
            raise BackupRefused(f"a platform is running on {layout.data}: choose an empty directory with --data")
        layout.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(entry.name not in NOTHING for entry in layout.data.iterdir()):
            raise BackupRefused(f"{layout.data} is not empty: choose an empty or a new directory with --data")
        layout.data.chmod(0o700)
        lock = Lock(layout.lock)
        if not lock.acquire():
            raise BackupRefused(f"another process is at work on {layout.data}: wait until it has ended")
    except OSError as error:
        raise BackupFailed(f"{error.filename or layout.data}: {error.strerror or error}") from error
    return lock


def _check_room(data: Path, needed: int) -> None:
    free = shutil.disk_usage(data).free
    if free < needed:
        raise BackupFailed(
            f"{data} has {free >> 20:,} MiB free, and the restore needs {needed >> 20:,} MiB: free some, or choose another directory with --data"
        )


def _unpacked(file: Path, into: Path | None, progress: Progress) -> tuple[Header, Manifest]:
    try:
        with file.open("rb") as source:
            total, done = os.fstat(source.fileno()).st_size, 0

            def told(size: int) -> None:
                nonlocal done
                done += size
                progress(done, total)

            return read(source, into, told)
    except Damaged as error:
        raise BackupRefused(f"{file} can't be restored: {error}") from error
    except OSError as error:
        raise BackupFailed(f"{error.filename or file}: {error.strerror or error}") from error


async def _put_root_key(staging: Layout, header: Header, given: Path | None, passphrase: Secret[str] | None) -> None:
    """Puts the root key in place that was left out, and checks that it is this platform's."""
    if given is not None:
        staging.root_key.write_bytes(given.read_bytes())
        staging.root_key.chmod(0o600)
    elif not header.root_key:
        raise BackupRefused("the backup is without the root key: name its file with --root-key")
    try:
        await pki.check_root(staging.authority, await root_key.LocalRoot.open(staging.root_key, passphrase))
    except (root_key.RootError, PkiError) as error:
        # Where the copy lies is nothing that the reader could look at.
        why = str(error).replace(str(staging.root_key), str(given or "the backup's root key"))
        raise BackupRefused(f"the root key does not fit: {why}") from error


async def _opened(
    staging: Layout, header: Header, manifest: Manifest, given_key: Path | None, passphrase: Secret[str] | None
) -> int:
    """Checks the root key, lets PostgreSQL recover, checks that this program knows its databases, and tells the log. Returns the log's size."""
    await _put_root_key(staging, header, given_key, passphrase)
    try:
        await run_once(
            "pg_verifybackup",
            [str(parts_postgres.BIN / "pg_verifybackup"), "--skip-checksums", "--quiet", str(staging.postgres)],
            within=VERIFY_WITHIN,
        )
        (staging.postgres / "backup_manifest").unlink()
        async with postgres_alone(staging):
            return await _told(staging, header, manifest)
    except migrate.MigrationError as error:
        raise BackupRefused(
            f"it was made by a newer version ({header.program}): restore it with that version ({error})"
        ) from error
    except (ProcessFailed, NoIdentity, Problem, asyncpg.PostgresError, LayoutError, ValueError) as error:
        raise BackupFailed(f"the restored databases do not open: {error}") from error


async def _told(staging: Layout, header: Header, manifest: Manifest) -> int:
    for name in deployments(staging):
        connection = await provision.superuser(staging, name)
        try:
            await migrate.check(connection, name, provision.package(name))
        finally:
            connection.terminate()
    connection = await provision.superuser(staging, "audit")
    try:
        size = int(await connection.fetchval("SELECT size FROM head"))
        await connection.execute(f"DROP ROLE IF EXISTS {ROLE}")
    finally:
        connection.terminate()
    dsn = provision.Databases(staging, SecretFiles(staging.secrets)).service("identity")
    database = await Database.open(dsn, application="tallystick restore")
    try:
        async with database.transaction() as tx:
            now, taken_at = SystemClock().now(), manifest.ended_at
            told = platform_restored(now, taken_at=taken_at, program=header.program, log_size=size)
            await outbox.append(tx, [told])
    finally:
        await database.close()
    return size


def _clear(data: Path) -> None:
    """Removes what a restore has put into a directory that was empty."""
    for path in data.iterdir():
        if path.is_dir() and path.name not in NOTHING - {RESTORING}:
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in NOTHING:
            path.unlink(missing_ok=True)


def _move(staging: Path, data: Path) -> None:
    shutil.rmtree(staging / "run", ignore_errors=True)
    for path in sorted(staging.iterdir()):
        path.rename(data / path.name)
    staging.rmdir()
    os.sync()
