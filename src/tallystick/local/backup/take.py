"""Takes a backup. Order matters: what Valkey remembers of the audit log first, then the databases, which are of a later moment and so know
of all that it remembers; then the keys, of which none that a database needs is missing, since new ones come before they are used.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Final

import asyncpg

from tallystick.chassis.db import Connection
from tallystick.fabric import postgres as fabric_postgres
from tallystick.kernel.clock import SystemClock, rfc3339
from tallystick.local.backup import BackupFailed, BackupRefused, Progress
from tallystick.local.backup.archive import FORMAT, Header, Writer
from tallystick.local.layout import Layout
from tallystick.local.parts import Postgres
from tallystick.local.parts import postgres as parts_postgres
from tallystick.local.parts.identity import SAME, launch
from tallystick.local.parts.process import MINIMAL_ENVIRONMENT, ProcessFailed
from tallystick.local.parts.valkey import AOF
from tallystick.local.program import program_version
from tallystick.local.provision import superuser
from tallystick.local.secrets import SecretFiles
from tallystick.local.state import Lock
from tallystick.local.whole import faults

#: A role of the server's that exists while a backup is taken. It may read the files and can't change a row.
ROLE: Final = "backup"
#: Keeps the write-ahead log of the backup's time. It ends with the session that made it, so it never fills the disk.
SLOT: Final = "tallystick_backup"
#: Of the data directory, what is not in a backup: gone after a stop, made anew at a start, or in the backup in another form.
LEFT_OUT: Final = frozenset(
    (
        "lock",
        "run",
        "logs",
        "traces",
        "nats",
        "envoy",
        "ca.pem",
        "destinations.toml",
        "postgres",
        "valkey",
        "lost+found",
    )
)
RAIL: Final = "rail.sqlite"
#: Bytes on top of the databases: write-ahead log, and the rest of the directory.
ROOM: Final = 128 << 20
TRIES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    file: Path
    size: int
    files: int
    begun_at: str
    ended_at: str
    running: bool
    root_key: bool


@dataclass(frozen=True, slots=True)
class Login:
    """How the backup comes in, and how much it may read: MiB a second."""

    password: str = field(repr=False)
    max_rate: int | None


async def take(layout: Layout, target: Path, *, root_key: bool, max_rate: int | None, progress: Progress) -> Taken:
    """Writes a backup to `target`, which must not exist: it has all of its content or is not there. `max_rate`: the most that is read of the
    databases, in MiB a second. Raises BackupFailed, LayoutError.
    """
    if not layout.state.exists() or not layout.postgres.exists():
        raise BackupRefused(f"there is no platform in {layout.data}: name another directory with --data")
    if layout.data in target.resolve().parents:
        raise BackupRefused(f"{target} is in the data directory, which it is to be a copy of: choose another place")
    if root_key and not layout.root_key.is_file():
        raise BackupRefused(
            f"there is no root key in {layout.root_key}: put it back, or leave it out of the backup with --without-root-key"
        )
    lock = Lock(layout.lock)
    stopped = lock.acquire()
    try:
        async with _stopped_server(layout) if stopped else contextlib.nullcontext():
            return await _take(layout, target, max_rate, root_key=root_key, running=not stopped, progress=progress)
    except (ProcessFailed, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise BackupFailed(str(error)) from error
    except OSError as error:
        raise BackupFailed(f"{error.filename or target}: {error.strerror or error}") from error
    finally:
        lock.release()


@contextlib.asynccontextmanager
async def _stopped_server(layout: Layout) -> AsyncIterator[None]:
    """PostgreSQL alone: after a kill it recovers first, and root's and others' backups are made in one way."""
    if found := [fault.text for fault in faults(layout) if not fault.mended]:
        raise BackupFailed(found[0])
    async with postgres_alone(layout):
        yield


@contextlib.asynccontextmanager
async def postgres_alone(layout: Layout) -> AsyncIterator[None]:
    """PostgreSQL without the rest of the platform, for as long as the block takes. Raises ProcessFailed, LayoutError."""
    layout.prepare()
    password = SecretFiles(layout.secrets).get(Postgres.name)
    server = Postgres(layout.postgres, layout.postgres_sockets, password=password, log=layout.log("postgres"))
    await server.start()
    try:
        yield
    finally:
        await server.stop()


async def _take(
    layout: Layout, target: Path, max_rate: int | None, *, root_key: bool, running: bool, progress: Progress
) -> Taken:
    try:
        connection = await superuser(layout)
    except (OSError, asyncpg.PostgresError) as error:
        raise BackupFailed(
            f"the platform on {layout.data} is starting or stopping, and its PostgreSQL does not answer ({error}): try again when "
            "`tallystick status` says that it is ready"
        ) from error
    try:
        await _reserve(connection)
        password = secrets.token_urlsafe(32)
        await _give_role(connection, password)
        try:
            total = await connection.fetchval("SELECT sum(pg_database_size(oid)) FROM pg_database")
            total = int(total) + sum(each.stat().st_size for each in layout.valkey.rglob("*.aof"))
            _check_room(target, total + ROOM)
            login = Login(password, max_rate)
            return await _write(layout, target, login, total, root_key=root_key, running=running, progress=progress)
        finally:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.execute(f"DROP ROLE IF EXISTS {ROLE}")
    finally:
        connection.terminate()


async def _reserve(connection: Connection) -> None:
    try:
        await connection.execute("SELECT pg_create_physical_replication_slot($1, true, true)", SLOT)
    except asyncpg.DuplicateObjectError:
        raise BackupRefused("another backup of this platform is under way: wait until it has ended") from None


async def _give_role(connection: Connection, password: str) -> None:
    await connection.execute(f"DROP ROLE IF EXISTS {ROLE}")  # of a backup that was killed
    verifier = fabric_postgres.scram_verifier(password)
    await connection.execute(
        f"CREATE ROLE {ROLE} LOGIN REPLICATION CONNECTION LIMIT 1; {fabric_postgres.password(ROLE, verifier)}"
    )


def _check_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise BackupFailed(
            f"{target.parent} has {free >> 20:,} MiB free, and the backup needs up to {needed >> 20:,} MiB: free some, or choose another place"
        )


async def _write(
    layout: Layout, target: Path, login: Login, total: int, *, root_key: bool, running: bool, progress: Progress
) -> Taken:
    now = SystemClock().now
    header = Header(format=FORMAT, program=program_version(), begun_at=rfc3339(now()), root_key=root_key)
    done = 0

    def told(size: int) -> None:
        nonlocal done
        done += size
        progress(done, max(done, total))

    with _whole(target) as file:
        writer = Writer(file, header, told)
        _valkey(writer, layout)
        await _databases(writer, layout, login)
        _rail(writer, layout)
        _rest(writer, layout, root_key=root_key)
        ended_at = rfc3339(now())
        manifest = writer.close(ended_at)
    size = target.stat().st_size
    return Taken(
        file=target,
        size=size,
        files=len(manifest.files),
        begun_at=header.begun_at,
        ended_at=ended_at,
        running=running,
        root_key=root_key,
    )


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[IO[bytes]]:
    """A file of mode 0600 that is at `target` once the block has ended well, and nowhere if it has not. Raises BackupRefused, also when another
    process writes to the same `target`, such as the backup of another platform at the same time.
    """
    unfinished, made = target.with_name(f"{target.name}.unfinished"), None
    try:  # from here on: an interruption may come as soon as the file is there
        unfinished.unlink(missing_ok=True)  # of a backup that was killed
        # EXCL: two writers never have the same file.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(unfinished, flags, 0o600), "wb") as file:
            made = os.fstat(file.fileno())
            os.fchmod(file.fileno(), 0o600)
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            raise BackupRefused(f"{target} exists: choose another name")
        if not _is(unfinished, made):
            raise BackupRefused(f"another backup is being written to {target}: choose another name")
        unfinished.rename(target)
        _sync(target.parent)
    except BaseException:
        if made is None or _is(unfinished, made):
            unfinished.unlink(missing_ok=True)
        raise


def _is(path: Path, made: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), made)
    except FileNotFoundError:
        return False


def _valkey(writer: Writer, layout: Layout) -> None:
    """Its append-only file, which is a list of files. Valkey may just be replacing them by others: then the new list is taken."""
    folder = layout.valkey / AOF
    for _ in range(TRIES):
        try:
            listed = {path.name: path.read_bytes() for path in folder.glob("*.manifest")}
            names = [line.split()[1] for raw in listed.values() for line in raw.decode().splitlines() if line.strip()]
            with contextlib.ExitStack() as stack:
                # Once open, they stay readable. All are, before any of them is written.
                opened = {name: stack.enter_context((folder / name).open("rb")) for name in names}
                for name, file in opened.items():
                    # What is appended from now on is not in the backup: its last command may be cut, which Valkey accepts.
                    writer.file(f"valkey/{AOF}/{name}", os.fstat(file.fileno()).st_size, file)
        except FileNotFoundError:
            continue
        for name, raw in listed.items():
            writer.file(f"valkey/{AOF}/{name}", len(raw), BytesIO(raw))
        return
    raise BackupFailed(f"the files in {folder} change too often to be copied: try again")


async def _databases(writer: Writer, layout: Layout, login: Login) -> None:
    """PostgreSQL's base backup, with the write-ahead log that makes it consistent. The server checks each page's checksum on the way."""
    options = ["--pgdata=-", "--format=tar", "--wal-method=fetch", "--checkpoint=fast", "--no-password"]
    options += [f"--host={layout.postgres_sockets}", f"--username={ROLE}", "--label=tallystick backup"]
    options += [f"--max-rate={login.max_rate}M"] if login.max_rate else []
    argv = [str(parts_postgres.BIN / "pg_basebackup"), *options]
    with tempfile.TemporaryFile() as said:
        process = _started(argv, said, login.password)
        try:
            # In a thread: an interruption ends the process, and with it the thread.
            copied = await asyncio.to_thread(_copy, writer, process)
            status = process.wait()
        finally:
            process.kill()
            process.wait()
        if status != 0 or not copied:
            said.seek(0)
            text = said.read().decode(errors="replace").strip()
            if "pg_hba.conf" in text:
                raise BackupFailed(
                    "the running platform was started by an older version, which allows no backup: stop it, and back it up while it is stopped "
                    "or start it with this version"
                )
            raise BackupFailed(f"pg_basebackup ended with status {status}:\n{text[-2000:]}")


def _started(argv: list[str], said: IO[bytes], password: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        launch(SAME, signal.SIGKILL, argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=said,
        env={**MINIMAL_ENVIRONMENT, "PGPASSWORD": password},
    )


def _copy(writer: Writer, process: subprocess.Popen[bytes]) -> bool:
    """Whether all of its output could be read."""
    try:
        with tarfile.open(fileobj=process.stdout, mode="r|", bufsize=1 << 20) as tar:
            for member in tar:
                path = f"postgres/{member.name.removeprefix('./').rstrip('/')}"
                if member.isdir():
                    writer.directory(path)
                elif member.isreg() and (file := tar.extractfile(member)) is not None:
                    writer.file(path, member.size, file)
                else:
                    raise BackupFailed(f"{path} is neither a file nor a directory: tablespaces are not backed up")
            while process.stdout is not None and process.stdout.read(1 << 20):
                pass  # what follows the end of the tar
    except tarfile.TarError:
        return False
    return True


def _rail(writer: Writer, layout: Layout) -> None:
    """The sandbox's acquirer. As everything outside of the platform, it knows more than the databases of the backup, never less."""
    path = layout.data / RAIL
    if path.exists():
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as book:
            raw = book.serialize()
        writer.file(RAIL, len(raw), BytesIO(raw))


def _rest(writer: Writer, layout: Layout, *, root_key: bool) -> None:
    """Settings, secrets, the log's public key, clients' credentials, and what else lies there. Of a link to a file, what the file contains."""
    for folder, directories, names in os.walk(layout.data):
        top = Path(folder) == layout.data
        # A file that is being replaced has a name that begins with a dot.
        directories[:] = sorted(
            name for name in directories if not name.startswith(".") and not (top and _left_out(name))
        )
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith(".") or (top and _left_out(name)) or not path.is_file():
                continue
            if path == layout.root_key and not root_key:
                continue
            with path.open("rb") as file:
                writer.file(path.relative_to(layout.data).as_posix(), os.fstat(file.fileno()).st_size, file)


def _left_out(name: str) -> bool:
    return name in LEFT_OUT or name.startswith(("postgres.", RAIL))


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
