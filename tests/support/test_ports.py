"""Ports for tests are nobody else's: neither the kernel's to give away nor another test process'."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

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


def test_no_port_is_one_that_the_kernel_gives_to_whoever_asks_for_any() -> None:
    with socket.socket() as anybodys:
        anybodys.bind(("127.0.0.1", 0))
        assert anybodys.getsockname()[1] not in set(candidates())


def test_a_port_on_which_somebody_listens_is_left_out() -> None:
    port = free_port()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", port))
        listening.listen()
        ports._held.pop(port).close()
        assert free_port() != port
