"""The file of a backup: a plain tar file whose paths are those of the data directory.

The first member is `backup.json` (a `Header`), the last is `manifest.json`: every path, with the size and SHA-256 of each file, and the
SHA-256 of that list itself. So a file that was cut short has no manifest, and a byte that was changed anywhere shows. Modes and owners are
not stored: everything is private to whoever restores it.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

import msgspec

#: Raised when a later version writes what this one could not restore.
FORMAT: Final = 1
HEADER: Final = "backup.json"
MANIFEST: Final = "manifest.json"
CHUNK: Final = 1 << 20
#: The longest list of files that is read into memory: that of some 500,000.
MAX_JSON: Final = 64 << 20


class Damaged(Exception):
    """The file is no backup, is not whole, or is of a newer version. The message says which."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    program: str
    """The version of the program that made the backup."""
    begun_at: str
    """RFC 3339."""
    root_key: bool
    """Whether `secrets/root.key` is in the backup."""


class Entry(msgspec.Struct, frozen=True):
    path: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    ended_at: str
    """RFC 3339. The databases are as they were a moment before."""
    directories: list[str]
    files: list[Entry]


class _Sealed(msgspec.Struct, frozen=True):
    manifest: msgspec.Raw
    sha256: str


class _Hashing:
    """Reads from `source`, and hashes and counts what it gives."""

    def __init__(self, source: IO[bytes], told: Callable[[int], None]) -> None:
        self._source, self._told = source, told
        self.sha256 = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        part = self._source.read(size)
        self.sha256.update(part)
        self.size += len(part)
        self._told(len(part))
        return part


class Writer:
    """Writes a backup to `target`, a file opened for writing. `told` is called with the size of each part that is written."""

    def __init__(self, target: IO[bytes], header: Header, told: Callable[[int], None] = lambda _: None) -> None:
        self._tar = tarfile.TarFile(fileobj=target, mode="w", format=tarfile.PAX_FORMAT, copybufsize=CHUNK)
        self._told = told
        self.directories: list[str] = []
        self.files: list[Entry] = []
        self._bytes(HEADER, msgspec.json.encode(header))

    def directory(self, path: str) -> None:
        self._tar.addfile(_member(_checked(path), tarfile.DIRTYPE, 0o700))
        self.directories.append(path)

    def file(self, path: str, size: int, source: IO[bytes]) -> None:
        """Adds `size` bytes of `source`. Raises OSError if there are fewer."""
        member = _member(_checked(path), tarfile.REGTYPE, 0o600)
        member.size = size
        hashing = _Hashing(source, self._told)
        self._tar.addfile(member, hashing)
        self.files.append(Entry(path, size, hashing.sha256.hexdigest()))

    def close(self, ended_at: str) -> Manifest:
        """Adds the manifest: without it the file is no backup."""
        manifest = Manifest(ended_at=ended_at, directories=self.directories, files=[*self.files])
        raw = msgspec.json.encode(manifest)
        sealed = _Sealed(msgspec.Raw(raw), hashlib.sha256(raw).hexdigest())
        self._bytes(MANIFEST, msgspec.json.encode(sealed))
        self._tar.close()
        return manifest

    def _bytes(self, path: str, content: bytes) -> None:
        self.file(path, len(content), io.BytesIO(content))


def read(source: IO[bytes], into: Path | None, told: Callable[[int], None] = lambda _: None) -> tuple[Header, Manifest]:
    """Checks a whole backup, and with `into` unpacks it into that empty directory on the way: what is there must not be used unless this returns.

    Raises Damaged, and OSError of the disk.
    """
    try:
        with tarfile.open(fileobj=source, mode="r|", bufsize=CHUNK) as tar:
            header, manifest, directories, files = _read(tar, into, told)
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise Damaged("it is not a backup, or it is damaged") from error
    if len(set(manifest.files)) != len(files) or set(manifest.files) != set(files):
        wrong = sorted({each.path for each in set(manifest.files) ^ set(files)})
        raise Damaged(f"it is damaged: {', '.join(wrong[:3])} is missing, changed or not of this backup")
    if set(manifest.directories) != set(directories):
        raise Damaged("it is damaged: a directory is missing or not of this backup")
    return header, manifest


def _read(
    tar: tarfile.TarFile, into: Path | None, told: Callable[[int], None]
) -> tuple[Header, Manifest, list[str], list[Entry]]:
    members = iter(tar)
    header_member = next(members, None)
    if header_member is None or header_member.name != HEADER:
        raise Damaged("it is not a backup of a platform")
    raw = _content(tar, header_member)
    header = msgspec.json.decode(raw, type=Header)
    if header.format > FORMAT:
        raise Damaged(f"it was made by a newer version ({header.program}): restore it with that version")
    files = [Entry(HEADER, len(raw), hashlib.sha256(raw).hexdigest())]
    directories: list[str] = []
    for member in members:
        path = _checked(member.name)
        if path == MANIFEST:
            return header, _manifest(_content(tar, member)), directories, files
        if member.isdir():
            directories.append(path)
            if into is not None:
                (into / path).mkdir(mode=0o700, parents=True)
        elif member.isreg():
            files.append(_unpack(tar, member, into, told))
        else:
            raise Damaged(f"it is damaged: {path} is neither a file nor a directory")
    raise Damaged("it is not whole: its end is missing")


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path | None, told: Callable[[int], None]) -> Entry:
    hashing = _Hashing(_opened(tar, member), told)
    if into is None:
        for _ in _parts(hashing):
            pass
    else:
        target = into / member.name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with target.open("xb") as file:
            target.chmod(0o600)
            for part in _parts(hashing):
                file.write(part)
    if hashing.size != member.size:
        raise Damaged("it is not whole: its end is missing")
    return Entry(member.name, member.size, hashing.sha256.hexdigest())


def _parts(source: _Hashing) -> Iterator[bytes]:
    while part := source.read(CHUNK):
        yield part


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_JSON:
        raise Damaged(f"it is damaged: its {member.name} is too large")
    return _opened(tar, member).read()


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    opened = tar.extractfile(member)
    if opened is None:
        raise Damaged(f"it is damaged: {member.name} is not a file")
    return opened


def _manifest(raw: bytes) -> Manifest:
    sealed = msgspec.json.decode(raw, type=_Sealed)
    if hashlib.sha256(bytes(sealed.manifest)).hexdigest() != sealed.sha256:
        raise Damaged("it is damaged: its list of files was changed")
    return msgspec.json.decode(sealed.manifest, type=Manifest)


def _member(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type, member.mode = kind, mode
    return member


def _checked(path: str) -> str:
    """A path that stays inside of the directory. Raises Damaged."""
    parts: Any = PurePosixPath(path).parts
    if not parts or path != "/".join(parts) or ".." in parts or parts[0] == "/":
        raise Damaged(f"it is damaged: {path!r} is no path inside of a data directory")
    return path
