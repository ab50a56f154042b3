"""The file of a backup and what is refused of it, without a platform. With one: `tests/system/test_backup.py`."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import stat
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tallystick.cli.commands import dispatch
from tallystick.local.backup import BackupRefused
from tallystick.local.backup import take as taking
from tallystick.local.backup.archive import FORMAT, Damaged, Header, Writer, read
from tallystick.local.layout import Layout
from tallystick.local.state import Lock

FILES = {
    "platform.json": b"{}",
    "postgres/base/1/1259": random.Random(1).randbytes(3000),
    "postgres/pg_wal/empty": b"",
    "secrets/ledger/database": b"x" * 44,
}
FOLDERS = ["postgres", "postgres/pg_notify"]


def made(form: int = FORMAT, **more: bytes) -> bytes:
    out = io.BytesIO()
    writer = Writer(out, Header(format=form, program="9.0", begun_at="2026-12-01T00:00:00Z", root_key=True))
    for path in FOLDERS:
        writer.directory(path)
    for path, content in {**FILES, **more}.items():
        writer.file(path, len(content), io.BytesIO(content))
    writer.close("2026-12-01T00:00:01Z")
    return out.getvalue()


def members(raw: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return [(each, b"" if (file := tar.extractfile(each)) is None else file.read()) for each in tar]


def packed(parts: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member, content in parts:
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def there(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_what_was_packed_is_unpacked_for_its_owner_only(tmp_path: Path) -> None:
    header, manifest = read(io.BytesIO(made()), tmp_path)
    assert there(tmp_path) == FILES
    assert (header.program, manifest.ended_at) == ("9.0", "2026-12-01T00:00:01Z")
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {True: 0o700, False: 0o600}
    assert (tmp_path / "postgres/pg_notify").is_dir()


def test_a_byte_that_was_changed_anywhere_is_found_or_changes_nothing() -> None:
    raw = made()
    content = raw.index(FILES["postgres/base/1/1259"])
    inside = range(content, content + len(FILES["postgres/base/1/1259"]))
    refused = 0
    for place in [*range(0, len(raw), 11), *inside]:
        changed = bytearray(raw)
        changed[place] ^= 1 << place % 8
        try:
            header, manifest = read(io.BytesIO(changed), None)
        except Damaged:
            refused += 1
        else:
            assert place not in inside
            assert (header, manifest) == read(io.BytesIO(raw), None)
    assert refused > len(inside)


def test_what_was_cut_short_has_no_end() -> None:
    raw = made()
    end = raw.index(b'"sha256":"', raw.index(b"manifest.json"))
    for size in [0, 100, *range(512, end, 512)]:
        with pytest.raises(Damaged):
            read(io.BytesIO(raw[:size]), None)


def without(parts: list[tuple[tarfile.TarInfo, bytes]], name: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [part for part in parts if part[0].name != name]


def named(path: str, kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(path)
    member.type, member.linkname = kind, "/etc/passwd"
    return member, b""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda parts: without(parts, "platform.json"), "platform.json is missing, changed"),
        (lambda parts: without(parts, "postgres/pg_notify"), "a directory is missing"),
        (lambda parts: without(parts, "manifest.json"), "its end is missing"),
        (lambda parts: without(parts, "backup.json"), "not a backup"),
        (lambda parts: [*parts[:2], named("more"), *parts[2:]], "more is missing, changed or not of this backup"),
        (lambda parts: [*parts[:2], named("../more"), *parts[2:]], "no path inside"),
        (lambda parts: [*parts[:2], named("/tmp/more"), *parts[2:]], "no path inside"),
        (lambda parts: [*parts[:2], named("more", tarfile.SYMTYPE), *parts[2:]], "neither a file nor a directory"),
    ],
)
def test_other_content_is_refused(
    change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], list[tuple[tarfile.TarInfo, bytes]]],
    says: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(Damaged, match=says):
        read(io.BytesIO(packed(change(members(made())))), tmp_path / "into")
    assert not (tmp_path / "more").exists()


def test_a_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    parts = members(made())
    with pytest.raises((Damaged, FileExistsError)):
        read(io.BytesIO(packed([*parts[:-1], parts[3], parts[-1]])), tmp_path)
    with pytest.raises(Damaged):
        read(io.BytesIO(packed([*parts[:-1], parts[3], parts[-1]])), None)


def test_what_a_newer_version_made_is_refused() -> None:
    with pytest.raises(Damaged, match=r"newer version \(9.0\)"):
        read(io.BytesIO(made(FORMAT + 1)), None)


def restored(capsys: pytest.CaptureFixture[str], file: Path, data: Path, *more: str) -> tuple[int, str]:
    status = dispatch(["restore", str(file), "--data", str(data), "--json", *more])
    return status, json.loads(capsys.readouterr().out).get("error", "")


def test_the_command_refuses_what_is_damaged_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, data = tmp_path / "it.tar", tmp_path / "data"
    file.write_bytes(made()[:4000])
    status, error = restored(capsys, file, data)
    assert status == 1
    assert "can't be restored: it is" in error
    assert not data.exists()
    assert restored(capsys, file, data, "--check")[0] == 1
    data.mkdir()
    assert restored(capsys, file, data)[0] == 1
    assert {path.name for path in data.iterdir()} == {"lock"}
    file.write_bytes(made())
    assert restored(capsys, file, data, "--check") == (0, "")


def test_the_command_refuses_a_directory_that_is_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, data = tmp_path / "it.tar", tmp_path / "data"
    file.write_bytes(made())
    data.mkdir()
    (data / "mine.txt").write_text("mine")
    status, error = restored(capsys, file, data)
    assert (status, "is not empty" in error) == (1, True)
    assert there(data) == {"mine.txt": b"mine"}
    (data / "mine.txt").unlink()
    lock = Lock(data / "lock")
    assert lock.acquire()
    status, error = restored(capsys, file, data)
    assert (status, "is running on" in error) == (1, True)
    lock.release()


def test_a_restore_that_was_interrupted_is_no_platform(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "restoring" / "secrets").mkdir(parents=True)
    assert dispatch(["up", "--data", str(tmp_path)]) == 4
    assert "the restore was interrupted" in capsys.readouterr().err


def test_there_has_to_be_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, data = tmp_path / "it.tar", tmp_path / "data"
    file.write_bytes(made())
    monkeypatch.setattr("tallystick.local.backup.restore.ROOM", 1 << 60)
    status, error = restored(capsys, file, data)
    assert (status, "MiB free" in error, data.exists()) == (4, True, False)


def test_a_backup_is_not_written_over_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "it.tar"
    file.write_bytes(b"before")
    assert dispatch(["backup", str(file), "--data", str(tmp_path / "data")]) == 1
    assert "exists: choose another name" in capsys.readouterr().err
    assert dispatch(["backup", str(tmp_path), "--data", str(tmp_path / "data")]) == 1
    assert "there is no platform" in capsys.readouterr().err
    assert there(tmp_path) == {"it.tar": b"before"}
    assert dispatch(["backup", str(tmp_path), "--max-rate", "0"]) == 2
    layout = Layout(tmp_path / "data")
    layout.postgres.mkdir(parents=True)
    layout.state.write_text("{}")
    assert dispatch(["backup", str(layout.data), "--data", str(layout.data)]) == 1
    assert "is in the data directory" in capsys.readouterr().err


def test_files_that_valkey_replaces_meanwhile_are_taken_of_one_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes a new base, then its list, and removes the old files: whoever has read the old list finds them gone."""
    layout = Layout(tmp_path)
    folder = layout.valkey / "appendonlydir"
    folder.mkdir(parents=True)
    files = {
        "a.manifest": b"file a.2.rdb seq 2 type b\nfile a.2.aof seq 2 type i\n",
        "a.2.rdb": b"base",
        "a.2.aof": b"more",
    }
    (folder / "a.manifest").write_bytes(b"file a.1.rdb seq 1 type b\n")
    opened = Path.open

    def replaced(path: Path, *args: object, **kwargs: object) -> object:
        if path.name == "a.1.rdb":
            for name, content in files.items():
                (folder / name).write_bytes(content)
        return opened(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", replaced)
    out = io.BytesIO()
    writer = Writer(out, Header(format=FORMAT, program="9.0", begun_at="", root_key=True))
    taking._valkey(writer, layout)
    found = {Path(member.name).name: content for member, content in members(out.getvalue())}
    assert {name: found.get(name) for name in files} == files


def test_nothing_is_left_of_a_backup_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(taking, "_databases", broken)
    data, target = tmp_path / "data", tmp_path / "it.tar"
    data.mkdir()
    write = taking._write(
        Layout(data), target, taking.Login("", None), 0, root_key=True, running=True, progress=lambda *_: None
    )
    with pytest.raises(OSError, match="No space"):
        asyncio.run(write)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_nothing_is_left_of_a_backup_that_is_interrupted_as_its_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def interrupted(*arguments: Any) -> int:
        os.close(opened(*arguments))
        raise KeyboardInterrupt

    async def write() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", interrupted)
            with pytest.raises(KeyboardInterrupt):
                await taking._write(
                    Layout(tmp_path),
                    tmp_path / "it.tar",
                    taking.Login("", None),
                    0,
                    root_key=True,
                    running=True,
                    progress=lambda *_: None,
                )

    asyncio.run(write())
    assert list(tmp_path.iterdir()) == []


def test_two_backups_never_write_to_one_file(tmp_path: Path) -> None:
    """Those of two platforms, begun in the same second in one directory, were one file of both, and one of them was told to be whole."""
    target = tmp_path / "it.tar"
    with pytest.raises(BackupRefused, match="exists"), taking._whole(target) as first:
        first.write(b"the first")
        with taking._whole(target) as second:
            first.flush()
            second.write(b"second")
        assert target.read_bytes() == b"second"
    target.unlink()
    with ExitStack() as stack:
        with pytest.raises(BackupRefused, match="another backup is being written"), taking._whole(target) as first:
            second = stack.enter_context(taking._whole(target))
        second.write(b"second")
    assert there(tmp_path) == {"it.tar": b"second"}


def test_a_root_key_that_is_a_link_is_in_the_backup(tmp_path: Path) -> None:
    """It was left out, and the backup was said to be with it."""
    layout = Layout(tmp_path / "data")
    layout.secrets.mkdir(parents=True)
    (tmp_path / "root.key").write_bytes(b"key")
    layout.root_key.symlink_to(tmp_path / "root.key")
    (layout.data / "gone").symlink_to(tmp_path / "gone")
    for root_key, found in ((True, {"backup.json", "secrets/root.key"}), (False, {"backup.json"})):
        out = io.BytesIO()
        taking._rest(
            Writer(out, Header(format=FORMAT, program="9.0", begun_at="", root_key=root_key)), layout, root_key=root_key
        )
        contents = {member.name: (member.isreg(), content) for member, content in members(out.getvalue())}
        assert contents.keys() == found
        assert not root_key or contents["secrets/root.key"] == (True, b"key")


def test_a_backup_with_the_root_key_needs_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was said to be with it."""
    data = tmp_path / "data"
    (data / "postgres").mkdir(parents=True)
    (data / "platform.json").write_text("{}")
    assert dispatch(["backup", str(tmp_path / "it.tar"), "--data", str(data)]) == 1
    assert "secrets/root.key: put it back, or leave it out" in capsys.readouterr().err
