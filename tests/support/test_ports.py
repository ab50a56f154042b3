"""Ports for tests are nobody else's: neither the kernel's to give away nor another test process'."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ports
from tests.support.ports import blocks, free_port, free_ports


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
    told = tmp_path / "range"
    monkeypatch.setattr(ports, "_RANGE", told)
    told.write_text("32768\t60999\n")
    usual = list(blocks())
    outside = [not (32_768 <= block.start <= 60_999 or 32_768 <= block[-1] <= 60_999) for block in usual]
    assert outside == sorted(outside, reverse=True)
    assert outside.count(True) > 60
    everything = sorted(block.start for block in usual)
    told.write_text("1024 65535")
    assert sorted(block.start for block in blocks()) == everything
    told.unlink()
    assert [block.start for block in blocks()] == everything


def test_a_port_on_which_somebody_listens_is_left_out() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", free_port() + 1))
        listening.listen()
        assert free_port() != listening.getsockname()[1]
