"""The file that `tallystick client create` writes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tallystick.cli.client import new_file
from tallystick.cli.output import PART_FAILED, Failed


def test_it_has_its_document_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "shop.json"
    with new_file(file) as write:
        write({"client_id": "cli_one"})
    assert file.read_text() == '{\n  "client_id": "cli_one"\n}\n'
    assert file.stat().st_mode & 0o777 == 0o600


def test_on_a_full_disk_nothing_is_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was, and its key was lost in a stack trace."""
    file = tmp_path / "shop.json"

    def no_room(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(Failed, match=r"can't write .*shop\.json: No space left on device") as caught, new_file(file):
        pytest.fail("this is where it is registered")
    assert caught.value.status == PART_FAILED
    assert not file.exists()
