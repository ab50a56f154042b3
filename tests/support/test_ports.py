"""Ports for tests are nobody else's: neither the kernel's to give away nor another test process'."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ports
from tests.support.ports import candidates, free_port, free_ports


def test_a_port_is_given_once_also_to_another_process() -> None:
    first = free_ports(4)
    others = {free_port() for _ in range(3)}
    asks = "from tests.support.ports import free_port; print(free_port())"
    path = os.pathsep.join(path for path in sys.path if path)
    said = subprocess.run(
        [sys.executable, "-c", asks], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert int(said.stdout) not in others | set(range(first, first + 4))
    assert len(others | set(range(first, first + 4))) == 7


def test_ports_that_the_kernel_gives_to_whoever_asks_for_any_come_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ports, "_RANGE", tmp_path / "range")
    (tmp_path / "range").write_text("32768\t60999\n")
    found = list(candidates())
    assert set(found[: 65_000 - 20_000 - (61_000 - 32_768)]).isdisjoint(range(32_768, 61_000))
    for told in ("1024 65535", None):
        (tmp_path / "range").unlink() if told is None else (tmp_path / "range").write_text(told)
        assert sorted(candidates()) == sorted(found) == list(range(20_000, 65_000))


def test_a_port_on_which_somebody_listens_is_left_out() -> None:
    port = free_port()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", port))
        listening.listen()
        ports._held.pop(port).close()
        assert free_port() != port
