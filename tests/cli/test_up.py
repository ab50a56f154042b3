"""What `tallystick up` starts with. That it starts is tested in `tests/system`."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tallystick.chassis.audit import VerifierKey
from tallystick.chassis.charter import Charter, load_all
from tallystick.cli import status as stopping
from tallystick.cli import up as starting
from tallystick.cli.commands import dispatch
from tallystick.cli.output import Common, Failed
from tallystick.cli.progress import LineProgress
from tallystick.cli.status import _show
from tallystick.local import control
from tallystick.local import state as states
from tallystick.local.control import Status
from tallystick.local.environment import Options
from tallystick.local.layout import Layout
from tallystick.local.platform import Platform
from tallystick.local.secrets import SecretFiles
from tallystick.local.supervisor import StartFailed
from tests.support.ports import free_port, free_ports


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """`up` sets it for its process."""
    before = os.umask(0o022)
    yield
    os.umask(before)


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
    monkeypatch.setattr(starting, "_check_ports", lambda _: None)
    assert starting.up(shard=["eu"], replicas=["risk=2"], common=common) == 0
    state, charters = begun[0]
    assert (state.shards, state.replicas) == (["us", "eu"], {"ledger": 2, "risk": 2})
    assert charters.keys() >= {"ledger", "ledger-us", "ledger-eu"}


def test_ports_that_can_not_be_had_are_said_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starting, "_foreground", lambda *_: pytest.fail("it was started"))
    monkeypatch.setattr(starting, "PREDECESSOR_GONE", 0.0)
    port, data = free_ports(4), tmp_path / "d"
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
    found = msgspec.structs.replace(STARTING, migrating={"ledger": "0016_transfer_row.sql"})
    progress = LineProgress(Common(data=tmp_path))
    for _ in range(3):
        progress.status(found)
    said = capsys.readouterr().out
    assert said.startswith("ledger migrating 0.0 s: 0016_transfer_row.sql\n")
    assert said.count("\n") == 1
    _show(found)
    assert "its database is being migrated (0016_transfer_row.sql)" in " ".join(capsys.readouterr().out.split())


def test_a_start_is_waited_for_when_nobody_reads_how_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up --detach | grep -q ready` had heard of the first part, and was told 0 before the platform was ready."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    found = iter([STARTING, msgspec.structs.replace(STARTING, ready=True, parts=[], services=[])])

    async def ask(*_: object) -> Status:
        return next(found)

    monkeypatch.setattr("tallystick.local.control.ask", ask)
    monkeypatch.setattr("sys.stdout", Gone())
    assert starting._until_ready(Layout(tmp_path), Common(data=tmp_path), lambda: False) == 0
    assert next(found, None) is None


def test_a_program_is_told_the_same_by_a_start_and_by_a_platform_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Status(
        edge="https://localhost:1", mtls="https://localhost:4", ca="ca.pem", ops="http://127.0.0.1:2", data=str(tmp_path), pid=1,
        ready=True, started_at="2026-01-01T00:00:00Z", parts=[], services=[], rejections=[],
    )  # fmt: skip
    common = Common(data=tmp_path, json=True)
    LineProgress(common).announce(found, 1.234)
    started = json.loads(capsys.readouterr().out)

    assert starting._already_running(found, Layout(tmp_path), common, detach=False) == 0
    running = json.loads(capsys.readouterr().out)
    assert started.pop("seconds") == 1.23
    assert (started.pop("already_running"), running.pop("already_running")) == (False, True)
    assert started == running
    assert running["ops"] == "http://127.0.0.1:2"


@pytest.mark.parametrize("umask", [0, 0o777])
def test_what_it_makes_is_its_owners_whatever_the_umask_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    monkeypatch.setattr(starting, "_foreground", lambda *_: 0)
    monkeypatch.setattr(starting, "_check_ports", lambda _: None)
    common = Common(data=tmp_path / "d")
    os.umask(umask)
    assert starting.up(common=common) == 0
    made = {path: path.stat().st_mode & 0o777 for path in (common.layout.data, *common.layout.data.rglob("*"))}
    assert made == {path: 0o700 if path.is_dir() else 0o600 for path in made}


# ---- one after the other -------------------------------------------------------------------------------------------


STARTING = Status(
    edge="https://localhost:1", mtls="https://localhost:4", ca="ca.pem", ops="http://127.0.0.1:2", data="/data", pid=1,
    ready=False, started_at="2026-01-01T00:00:00Z", parts=[], services=[], rejections=[],
)  # fmt: skip
STOPPING = msgspec.structs.replace(STARTING, stopping=True)
READY = msgspec.structs.replace(STARTING, ready=True)


def answers(monkeypatch: pytest.MonkeyPatch, *answers: Status | BaseException) -> list[control.Request]:
    """What the supervisor answers, one after the other; nothing more is asked. What it was asked."""
    asked: list[control.Request] = []
    left = iter(answers)

    async def ask(_: Layout, request: control.Request, kind: type, timeout: float = 0) -> object:
        asked.append(request)
        if kind is not Status:
            return kind()
        answer = next(left)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(control, "ask", ask)
    return asked


def lock_is_free(monkeypatch: pytest.MonkeyPatch, *free: bool) -> None:
    left = iter(free)
    acquire = states.Lock.acquire
    monkeypatch.setattr(states.Lock, "acquire", lambda self: next(left) and acquire(self))


def test_one_that_stops_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` said that the platform is already running, and a moment later none did."""
    common = Common(data=tmp_path / "d")
    begun: list[Layout] = []

    def foreground(layout: Layout, *_: object) -> int:
        begun.append(layout)
        return 0

    monkeypatch.setattr(starting, "_foreground", foreground)
    monkeypatch.setattr(starting, "_check_ports", lambda _: None)
    lock_is_free(monkeypatch, False, False, True)
    answers(monkeypatch, STOPPING, control.NotRunning(tmp_path))
    assert starting.up(common=common) == 0
    assert begun == [common.layout]


def test_who_keeps_the_lock_and_says_nothing_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "LOCK_WITHIN", 0.0)
    common = Common(data=tmp_path / "d")
    common.layout.prepare()
    lock = states.Lock(common.layout.lock)
    assert lock.acquire()
    with pytest.raises(Failed, match=r"another process holds the lock .*/lock"):
        starting.up(common=common)
    lock.release()


def test_detached_returns_when_it_is_ready_whoever_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = Common(data=tmp_path / "d", json=True)
    for detach in (False, True):
        lock_is_free(monkeypatch, False)
        answers(monkeypatch, STARTING, STARTING, READY)
        assert starting.up(detach=detach, common=common) == 0
        assert json.loads(capsys.readouterr().out)["ready"] is detach
    lock_is_free(monkeypatch, False)
    answers(monkeypatch, STARTING, control.NotRunning(tmp_path))
    with pytest.raises(Failed, match="stopped before it was ready"):
        starting.up(detach=True, common=common)


def test_another_one_that_came_first_is_the_one_that_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process that `up --detach` starts ends with 0 then, as it does when it is stopped."""
    layout = Layout(tmp_path)
    layout.prepare()
    [child] = children(monkeypatch, "print('the platform is already running')")
    left = iter((STARTING, STARTING, READY))

    async def ask(*_: object) -> Status:
        assert child[0].wait() == 0
        return next(left)

    monkeypatch.setattr(control, "ask", ask)
    assert starting._detach(layout, Common(data=tmp_path)) == 0
    assert "ready in" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--port=2", "--ops-port=3", "--replicas=risk=2", "--shard=us"])
def test_one_that_runs_with_other_settings_is_not_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """They were passed over in silence, and whoever gave them went on as if it had them."""
    running = msgspec.structs.replace(READY, shards=["eu"], replicas={"risk": 1, "ledger-eu": 2})
    lock_is_free(monkeypatch, False, False)
    answers(monkeypatch, running, running)
    same = ["up", "--data", str(tmp_path), "--port=1", "--ops-port=2", "--replicas=risk=1", "--shard=eu"]
    assert dispatch(same) == 0
    assert "is already running" in capsys.readouterr().out
    assert dispatch([*same[:3], option]) == 1
    said = capsys.readouterr().err
    assert f"with other settings than {option.replace('=', ' ', 1)} (it has " in said
    assert "`tallystick down`" in said


def test_a_port_that_can_not_be_is_wrong_also_beside_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_is_free(monkeypatch, False)
    answers(monkeypatch, READY)
    assert dispatch(["up", "--data", str(tmp_path), "--port", "70000"]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_interrupts_a_detached_start_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    layout = Layout(tmp_path)
    layout.prepare()
    [child] = children(monkeypatch, "import time; time.sleep(600)")
    before = signal.getsignal(signal.SIGTERM)
    # A shell lets what it starts in the background ignore Ctrl-C, and whatever that starts does too.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)

    async def interrupted(*_: object) -> None:
        os.kill(os.getpid(), number)
        await asyncio.sleep(600)

    monkeypatch.setattr(control, "ask", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            starting._detach(layout, Common(data=tmp_path))
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert child[0].returncode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def children(monkeypatch: pytest.MonkeyPatch, code: str) -> list[list[subprocess.Popen[bytes]]]:
    """`up --detach` starts this instead of a supervisor."""
    started: list[subprocess.Popen[bytes]] = []
    begin = subprocess.Popen

    def start(_: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(begin([sys.executable, "-c", code], **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return [started]


def test_one_that_has_just_begun_is_stopped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path)
    layout.prepare()
    common = Common(data=tmp_path)
    monkeypatch.setattr(stopping, "_until_gone", lambda _: None)
    lock = states.Lock(layout.lock)
    assert lock.acquire()
    asked = answers(monkeypatch, control.NotRunning(tmp_path), control.NotRunning(tmp_path), STARTING)
    assert stopping.down(common=common) == 0
    assert asked[-1] == control.Down()
    lock.release()
    answers(monkeypatch, control.NotRunning(tmp_path))
    with pytest.raises(control.NotRunning):
        stopping.down(common=common)


def test_a_file_in_the_way_of_the_lock_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(tmp_path / "d")
    layout.prepare()
    layout.lock.mkdir()
    assert dispatch(["up", "--data", str(layout.data)]) == 4
    assert capsys.readouterr().err == f"tallystick: not started: {layout.lock}: Is a directory\n"


def test_the_passphrase_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up --detach` runs on in the root folder."""
    layout = Layout(tmp_path)
    layout.prepare()
    given: list[Mapping[str, str]] = []

    def started(*_: object, env: Mapping[str, str], **__: object) -> None:
        given.append(env)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.chdir(tmp_path)
    for named in ("pass", ""):
        monkeypatch.setenv("TALLYSTICK_ROOT_PASSPHRASE_FILE", named)
        with pytest.raises(KeyboardInterrupt):
            starting._detach(layout, Common(data=tmp_path))
    with_one, without = (starting.options(environ).root_passphrase_file for environ in given)
    assert (with_one, without) == (tmp_path / "pass", None)
    assert given[0]["TALLYSTICK_ROOT_PASSPHRASE_FILE"] == str(tmp_path / "pass")


def test_what_is_stopped_while_it_starts_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path)
    layout.prepare()
    children(monkeypatch, "print('postgres starting 0.2 s')")
    with pytest.raises(Failed, match=r"^the platform was stopped before it was ready$"):
        starting._detach(layout, Common(data=tmp_path))


#: A session whose platform never gets ready and says when its start begins and that it was ended.
_SESSION = """
import asyncio, sys
from pathlib import Path
from types import SimpleNamespace
from tallystick.local import session
from tallystick.local import state as states
from tallystick.local.environment import Options
from tallystick.local.layout import Layout

async def start(platform):
    print("starting", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("ended", flush=True)

session.Platform.start = start
layout = Layout(Path(sys.argv[1]))
layout.prepare()
quiet = SimpleNamespace(process=lambda *_: None, ready=lambda *_: None, stopping=lambda: None)
asyncio.run(session.serve(layout, states.plan(None, None, None, None), {}, options=Options(), progress=quiet))
print("done", flush=True)
"""


@pytest.mark.parametrize("nohup", [False, True], ids=["a terminal", "nohup"])
def test_the_end_of_the_terminal_stops_it_but_not_under_nohup(directory: Path, nohup: bool) -> None:
    # The tests themselves may run under nohup.
    around = ["env", f"--{'ignore' if nohup else 'default'}-signal=HUP"]
    command = [*around, sys.executable, "-c", _SESSION, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == "starting\n"
        session.send_signal(signal.SIGHUP)
        if nohup:
            answer = asyncio.run(control.ask(Layout(directory), control.GetStatus(), control.Status))
            assert answer.pid == session.pid
            session.send_signal(signal.SIGTERM)
        assert session.stdout.read() == "ended\ndone\n"
    assert session.returncode == 0


async def test_a_root_key_is_never_made_over_data_of_another(directory: Path) -> None:
    layout = Layout(directory)
    layout.prepare()
    (layout.postgres).mkdir()
    (layout.postgres / "PG_VERSION").write_text("18")
    with pytest.raises(StartFailed, match=r"root\.key is missing, .* restore it"):
        await _platform(layout).start()
    assert not layout.root_key.exists()


async def test_what_is_left_of_a_platform_without_its_databases_is_refused(directory: Path) -> None:
    """It would start with new ones, empty, and all would be well to see."""
    layout = Layout(directory)
    layout.prepare()
    key = VerifierKey("log.example", Ed25519PublicKey.from_public_bytes(bytes(32)))
    layout.log_key.write_text(f"{key}\n")
    layout.postgres.mkdir()
    with pytest.raises(StartFailed, match=r"postgres is missing, .* restore it"):
        await _platform(layout).start()
    (layout.postgres / "base").mkdir()
    with pytest.raises(StartFailed, match=r"root\.key is missing, .* restore it"):
        await _platform(layout).start()
    assert not layout.root_key.exists()


@pytest.mark.parametrize("damage", ["", "log.example+00000000+AAAA", "é"])
async def test_a_damaged_key_of_the_log_is_found_at_the_start(directory: Path, damage: str) -> None:
    """Nobody noticed, until every receipt was refused."""
    layout = Layout(directory)
    layout.prepare()
    layout.log_key.write_text(damage)
    with pytest.raises(StartFailed, match=r"log\.key is damaged .* restore it, or delete it"):
        await _platform(layout).start()


async def test_what_is_wrong_before_anything_is_started_is_said(directory: Path) -> None:
    layout = Layout(directory)
    layout.prepare()
    SecretFiles(layout.secrets).get("ledger/nats")
    (layout.secrets / "ledger" / "nats").chmod(0o644)
    platform = _platform(layout)
    with pytest.raises(StartFailed, match=r"^other users may read .*ledger/nats"):
        await platform.start()
    assert platform.status().stopping


def _platform(layout: Layout) -> Platform:
    state = states.plan(None, free_port(), free_port(), None)
    return Platform(layout, state, load_all(), options=Options(), report=lambda *_: None)
