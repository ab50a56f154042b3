"""The root of the key hierarchy: it wraps the services' keys and never encrypts data.

`Root` is the protocol that a KMS or HSM backend fulfils as well. `LocalRoot` is the backend for one machine, a file of mode
0600 outside the database, in one of two forms:

* *plain*: it protects a stolen database, dump or backup, because the file is not in there. It does not protect against somebody
  who can read the platform's own files, since the key is among them.
* *sealed*: the keys in the file are encrypted under a passphrase (Argon2id, RFC 9106, 64 MiB and 3 passes). That protects a stolen
  disk, or a backup of the whole data directory, as long as the passphrase is kept elsewhere. It does not protect against somebody
  who can read the memory of a running process, or the passphrase file.

The file holds several versions, so that the root can be rotated: `rotate` adds one, the services re-wrap their keys under it
(`Keyring.keep_rotated`, and at each start), and `forget` removes the old one. From then on older backups are unreadable, which is
what makes an erasure final. Both may be done while services run: they read the file when they need it, and find every version in it
that still wraps something.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from tallystick.chassis.exclusive import exclusive
from tallystick.chassis.keys.xaes import KEY_BYTES, Tampered, Xaes
from tallystick.kernel.secret import Secret

_FORMAT: Final = "tallystick-root/1"
_MEMORY_KIB: Final = 64 * 1024
_PASSES: Final = 3
_LANES: Final = 4
_MIN_PASSPHRASE: Final = 12


class RootError(Exception):
    """The root key can't be used. The message says what to do and holds no key."""


class Root(Protocol):
    """Wraps and unwraps keys of 32 bytes. `context` is authenticated and must be the same at both ends."""

    async def wrap(self, key: bytes, context: bytes) -> bytes: ...

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Raises RootError when `wrapped` is not a key wrapped by this root for this context."""
        ...

    def is_current(self, wrapped: bytes) -> bool:
        """Whether `wrapped` was wrapped by the root's newest version."""
        ...


class _Versions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    current: int
    keys: dict[int, bytes]

    def __repr__(self) -> str:
        return f"_Versions(current={self.current}, keys=****)"


class _Sealing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    salt: bytes
    memory_kib: int = _MEMORY_KIB
    passes: int = _PASSES
    lanes: int = _LANES


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    format: Literal["tallystick-root/1"]
    plain: _Versions | None = None
    sealing: _Sealing | None = None
    sealed: bytes | None = None


class LocalRoot:
    """The opened root of one machine. It holds the root's keys in memory, so keep it for a short time only."""

    __slots__ = ("_ciphers", "_current")

    def __init__(self, versions: _Versions) -> None:
        self._current = versions.current
        self._ciphers = {version: Xaes(key) for version, key in versions.keys.items()}

    @classmethod
    async def open(cls, path: Path, passphrase: Secret[str] | None = None) -> LocalRoot:
        """Read and unseal the file. Raises RootError: missing, readable by others, damaged, wrong passphrase."""
        # In a thread, because Argon2id takes half a second on purpose.
        return cls(await asyncio.to_thread(_read, path, passphrase))

    async def wrap(self, key: bytes, context: bytes) -> bytes:
        return self._current.to_bytes(2, "big") + self._ciphers[self._current].seal(key, context)

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        version = wrapped_by(wrapped)
        cipher = self._ciphers.get(version)
        if cipher is None:
            raise RootError(
                f"version {version} of the root key is not in the root key file: was it forgotten or replaced?"
            )
        try:
            return bytes(cipher.unseal(wrapped[2:], context))
        except Tampered:
            raise RootError(
                "a key of the database was not wrapped by this root key: is this the root key file of this data?"
            ) from None

    def is_current(self, wrapped: bytes) -> bool:
        return wrapped_by(wrapped) == self._current


def create(path: Path, passphrase: Secret[str] | None = None) -> None:
    """Make a new root key file of mode 0600. Raises RootError if there is one: a root is never overwritten."""
    with exclusive(path.parent):
        if path.exists():
            raise RootError(f"{path} exists: a root key is never overwritten, everything under it would be lost")
        _write(path, _Versions(1, {1: os.urandom(KEY_BYTES)}), passphrase)


def rotate(path: Path, passphrase: Secret[str] | None = None) -> int:
    """Add a version and make it the current one; returns its number. Services re-wrap within the hour, or at their next start.

    The key is on disk before it becomes current. Otherwise a service could wrap by a version that is then lost in a power failure.
    After an interruption between the two steps the next rotation makes the added version current. Of two rotations at once the second
    waits: it would lose the other's key.
    """
    with exclusive(path.parent):
        old = _read(path, passphrase)
        version = max(old.keys)
        if version == old.current:
            version += 1
            old = _Versions(old.current, {**old.keys, version: os.urandom(KEY_BYTES)})
            _write(path, old, passphrase)
        _write(path, _Versions(version, old.keys), passphrase)
    return version


def versions(path: Path, passphrase: Secret[str] | None = None) -> tuple[int, list[int]]:
    """The current version, and all versions in the file, oldest first."""
    found = _read(path, passphrase)
    return found.current, sorted(found.keys)


def forget(path: Path, version: int, passphrase: Secret[str] | None = None) -> None:
    """Remove an old version for good. What is still wrapped by it, such as old backups, can't be read any more."""
    with exclusive(path.parent):
        old = _read(path, passphrase)
        if version >= old.current or version not in old.keys:
            raise RootError(f"version {version} is the current one, or not there")
        _write(path, _Versions(old.current, {v: k for v, k in old.keys.items() if v != version}), passphrase)


def wrapped_by(wrapped: bytes) -> int:
    """The version of the local root that wrapped a key."""
    return int.from_bytes(wrapped[:2], "big")


def _read(path: Path, passphrase: Secret[str] | None) -> _Versions:
    file = _load(path)
    if file.plain is not None:
        if passphrase is not None:
            raise RootError(f"{path} is not sealed, although a passphrase is set: create it anew with the passphrase")
        return _checked(path, file.plain)
    if file.sealing is None or file.sealed is None:
        raise RootError(f"{path} holds no key")
    if passphrase is None:
        raise RootError(f"{path} is sealed: set TALLYSTICK_ROOT_PASSPHRASE_FILE")
    try:
        versions = _cipher(passphrase, file.sealing).unseal(file.sealed, _FORMAT.encode())
    except Tampered:
        raise RootError(f"{path} does not open: the passphrase is another one, or the file is damaged") from None
    return _checked(path, msgspec.json.decode(bytes(versions), type=_Versions))


def _load(path: Path) -> _File:
    try:
        return msgspec.json.decode(_private(path), type=_File)
    except ValueError:
        # The decoder's error may quote the file, or hold all of it.
        raise RootError(f"{path} is not a root key file ({_FORMAT})") from None


def _checked(path: Path, versions: _Versions) -> _Versions:
    if versions.current not in versions.keys or any(len(key) != KEY_BYTES for key in versions.keys.values()):
        raise RootError(f"{path} is damaged: a version is missing or is not {KEY_BYTES} bytes long")
    return versions


def _private(path: Path) -> bytes:
    """The bytes of a file that only its owner can read."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise RootError(f"{path} can be read by others: chmod 600 it, and ask who read it")
            return file.read(64 * 1024)
    except OSError as error:
        raise RootError(f"{path} can't be read: {error.strerror}") from None


def _cipher(passphrase: Secret[str], sealing: _Sealing) -> Xaes:
    secret = passphrase.reveal().strip().encode()
    if len(secret) < _MIN_PASSPHRASE:
        raise RootError(f"the passphrase of the root key has fewer than {_MIN_PASSPHRASE} bytes")
    return Xaes(
        Argon2id(
            salt=sealing.salt,
            length=KEY_BYTES,
            iterations=sealing.passes,
            lanes=sealing.lanes,
            memory_cost=sealing.memory_kib,
        ).derive(secret)
    )


def _write(path: Path, versions: _Versions, passphrase: Secret[str] | None) -> None:
    """Write the whole file, sync it and rename it into place: a crash leaves the old file or the new one."""
    if passphrase is None:
        file = _File(_FORMAT, plain=versions)
    else:
        sealing = _Sealing(os.urandom(16))
        sealed = _cipher(passphrase, sealing).seal(msgspec.json.encode(versions), _FORMAT.encode())
        file = _File(_FORMAT, sealing=sealing, sealed=sealed)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".root-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(msgspec.json.format(msgspec.json.encode(file)) + b"\n")
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
