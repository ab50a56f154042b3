"""What `tallystick up` starts with. That it starts is tested in `tests/system`."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from tallystick.chassis.charter import Charter
from tallystick.cli import up as starting
from tallystick.cli.commands import dispatch
from tallystick.cli.output import Common
from tallystick.cli.progress import LineProgress
from tallystick.cli.status import _show
from tallystick.local import state as states
from tallystick.local.control import Status
from tallystick.local.layout import Layout
from tests.support.parts import free_port


def test_what_was_changed_before_it_had_the_lock_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another `up` ends between its first look and its turn, and has added a shard: books may be on it."""
    common = Common(data=tmp_path / "d")
    begun: list[tuple[states.State, Mapping[str, Charter]]] = []
    acquire = states.Lock.acquire

    def late(self: states.Lock) -> bool:
        states.write(common.layout, states.plan(None, None, None, {"ledger": 2}, ["us"]))
        return acquire(self)

    def foreground(_: Layout, state: states.State, charters: Mapping[str, Charter], __: Common) -> int:
        begun.append((state, charters))
        return 0

    monkeypatch.setattr(states.Lock, "acquire", late)
    monkeypatch.setattr(starting, "_foreground", foreground)
    monkeypatch.setattr(starting, "_have", lambda _: None)
    assert starting.up(shard=["eu"], replicas=["risk=2"], common=common) == 0
    state, charters = begun[0]
    assert (state.shards, state.replicas) == (["us", "eu"], {"ledger": 2, "risk": 2})
    assert charters.keys() >= {"ledger", "ledger-us", "ledger-eu"}


def test_ports_that_can_not_be_had_are_said_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starting, "_foreground", lambda *_: pytest.fail("it was started"))
    monkeypatch.setattr(starting, "PREDECESSOR_GONE", 0.0)
    port, data = free_port(), tmp_path / "d"
    options = ["up", "--data", str(data), "--port", str(port)]
    for place, option in enumerate(("--port", "--ops-port", "--port", "--port")):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", port + place))
            taken.listen()
            assert dispatch(options) == 4
        said = capsys.readouterr().err
        assert f"port {port + place} (" in said
        assert said.endswith(f"choose another with {option}\n")
    assert dispatch([*options, "--ops-port", str(port)]) == 2
    assert "--ops-port" in capsys.readouterr().err
    assert not Layout(data.resolve()).state.exists()


def test_a_database_that_is_migrated_for_long_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = Status(
        edge="https://localhost:1", mtls="https://localhost:4", ca="ca.pem", ops="http://127.0.0.1:2", data=str(tmp_path), pid=1,
        ready=False, started_at="2026-01-01T00:00:00Z", parts=[], services=[], rejections=[],
        migrating={"ledger": "0016_transfer_row.sql"},
    )  # fmt: skip
    progress = LineProgress(Common(data=tmp_path))
    for _ in range(3):
        progress.status(found)
    said = capsys.readouterr().out
    assert said.startswith("ledger migrating 0.0 s: 0016_transfer_row.sql\n")
    assert said.count("\n") == 1
    _show(found)
    assert "its database is being migrated, 0016_transfer_row.sql" in " ".join(capsys.readouterr().out.split())
