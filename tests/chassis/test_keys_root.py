"""The root key file: what it refuses, and that the refusal says why."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tallystick.chassis.keys import LocalRoot, RootError, root
from tallystick.chassis.keys.envelope import Header
from tallystick.chassis.keys.store import Key, NewKey
from tallystick.chassis.keys.xaes import Xaes
from tallystick.kernel.secret import Secret

PASSPHRASE = Secret("correct horse battery staple")
KEY = b"\x07" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "root.key"


async def test_plain_round_trip(path: Path) -> None:
    root.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    opened = await LocalRoot.open(path)
    wrapped = await opened.wrap(KEY, b"local|vault|1")
    assert KEY not in wrapped
    assert await (await LocalRoot.open(path)).unwrap(wrapped, b"local|vault|1") == KEY


async def test_context_is_bound(path: Path) -> None:
    root.create(path)
    opened = await LocalRoot.open(path)
    with pytest.raises(RootError, match="not wrapped by this root"):
        await opened.unwrap(await opened.wrap(KEY, b"local|vault|1"), b"local|identity|1")


async def test_sealed_round_trip(path: Path) -> None:
    root.create(path, PASSPHRASE)
    wrapped = await (await LocalRoot.open(path, PASSPHRASE)).wrap(KEY, b"c")
    assert await (await LocalRoot.open(path, PASSPHRASE)).unwrap(wrapped, b"c") == KEY
    with pytest.raises(RootError, match="passphrase is another one"):
        await LocalRoot.open(path, Secret("correct horse battery stable"))
    with pytest.raises(RootError, match="TALLYSTICK_ROOT_PASSPHRASE_FILE"):
        await LocalRoot.open(path)


async def test_plain_file_with_a_passphrase_is_a_mistake(path: Path) -> None:
    root.create(path)
    with pytest.raises(RootError, match="is not sealed"):
        await LocalRoot.open(path, PASSPHRASE)


async def test_short_passphrase(path: Path) -> None:
    with pytest.raises(RootError, match="fewer than 12"):
        root.create(path, Secret("hunter2"))
    assert not path.exists()


async def test_other_root(path: Path, tmp_path: Path) -> None:
    root.create(path)
    other = tmp_path / "other.key"
    root.create(other)
    wrapped = await (await LocalRoot.open(path)).wrap(KEY, b"c")
    with pytest.raises(RootError, match="root key file of this data"):
        await (await LocalRoot.open(other)).unwrap(wrapped, b"c")


def test_never_overwritten(path: Path) -> None:
    root.create(path)
    before = path.read_bytes()
    with pytest.raises(RootError, match="never overwritten"):
        root.create(path)
    assert path.read_bytes() == before


async def test_of_several_that_create_it_at_once_one_does(path: Path) -> None:
    made = await asyncio.gather(*(asyncio.to_thread(root.create, path) for _ in range(8)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in made) == ["NoneType", *["RootError"] * 7]


def test_what_holds_a_key_does_not_show_it(path: Path) -> None:
    root.create(path)
    file = root._load(path)
    assert file.plain is not None
    (key,) = file.plain.keys.values()
    new = NewKey(Key(Header(b"12345678", 1), "tenant", "acme", "", Xaes(key)), key)
    for holder in (file, file.plain, new):
        assert repr(key)[2:-1] not in repr(holder)


async def test_missing_readable_by_others_damaged(path: Path) -> None:
    with pytest.raises(RootError, match="No such file"):
        await LocalRoot.open(path)
    root.create(path)
    path.chmod(0o640)
    with pytest.raises(RootError, match="chmod 600"):
        await LocalRoot.open(path)
    path.chmod(0o600)
    text = path.read_bytes()
    path.write_bytes(text[: len(text) // 2])
    with pytest.raises(RootError, match="not a root key file") as caught:
        await LocalRoot.open(path)
    assert "plain" not in str(caught.value)
    path.write_bytes(text.replace(b'"format": "', b'"format": "\xff'))
    with pytest.raises(RootError, match="not a root key file"):
        await LocalRoot.open(path)


async def test_damaged_sealed_file(path: Path) -> None:
    root.create(path, PASSPHRASE)
    text = path.read_text()
    at = text.index('"sealed": "') + 60
    path.write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])
    with pytest.raises(RootError, match="does not open"):
        await LocalRoot.open(path, PASSPHRASE)


async def test_a_rotation_broken_off_loses_nothing_and_is_gone_on_with(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new key is on disk before it is the current one: nobody wraps by a key that a power failure takes back."""
    root.create(path)
    old = await (await LocalRoot.open(path)).wrap(KEY, b"c")
    whole, calls = root._write, 0

    def once(*given: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError("the power is gone")
        whole(*given)

    monkeypatch.setattr(root, "_write", once)
    with pytest.raises(OSError):
        root.rotate(path)
    assert root.versions(path) == (1, [1, 2])
    with pytest.raises(RootError, match="current"):
        root.forget(path, 2)
    waiting = path.read_bytes()
    monkeypatch.undo()
    assert root.rotate(path) == 2
    assert root.versions(path) == (2, [1, 2])
    new = await (await LocalRoot.open(path)).wrap(KEY, b"c")
    path.write_bytes(waiting)  # as after a power failure that took the second change back
    opened = await LocalRoot.open(path)
    assert [await opened.unwrap(each, b"c") for each in (old, new)] == [KEY, KEY]


async def test_of_two_rotations_at_once_none_loses_the_others_key(path: Path) -> None:
    root.create(path)
    made = await asyncio.gather(*(asyncio.to_thread(root.rotate, path) for _ in range(8)))
    assert sorted(made) == list(range(2, 10))
    assert root.versions(path) == (9, list(range(1, 10)))


async def test_rotation_and_forgetting(path: Path) -> None:
    root.create(path)
    old = await (await LocalRoot.open(path)).wrap(KEY, b"c")
    assert root.rotate(path) == 2
    opened = await LocalRoot.open(path)
    assert not opened.is_current(old)
    assert await opened.unwrap(old, b"c") == KEY
    new = await opened.wrap(KEY, b"c")
    assert opened.is_current(new)
    with pytest.raises(RootError, match="current"):
        root.forget(path, 2)
    root.forget(path, 1)
    opened = await LocalRoot.open(path)
    assert await opened.unwrap(new, b"c") == KEY
    with pytest.raises(RootError, match="version 1"):
        await opened.unwrap(old, b"c")
