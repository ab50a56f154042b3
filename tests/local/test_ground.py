"""Layout, state, secrets, lock, control, sampling, doctor: the small things that everything stands on."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from tallystick.chassis import charter
from tallystick.chassis.audit import VerifierKey
from tallystick.chassis.keys import root as root_key
from tallystick.fabric.shards import with_shards
from tallystick.kernel.secret import Secret
from tallystick.local import control, doctor, sampling
from tallystick.local import state as states
from tallystick.local.environment import Options, environment
from tallystick.local.layout import LONGEST_SOCKET, Layout, LayoutError, data_directory
from tallystick.local.platform import Platform
from tallystick.local.secrets import SecretFiles, SecretsError
from tallystick.local.supervisor import StartFailed
from tests.support.ports import free_port, free_ports

# ---- layout --------------------------------------------------------------------------------------------------------


def test_sockets_fit_wherever_the_data_lies(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    wide = Path("/srv") / ("数" * 30)
    for data in (Path("/srv/tally"), deep, wide):
        layout = Layout(data)
        longest = layout.mesh / ("s" * 20) / ("t" * 20 + ".sock")
        assert len(os.fsencode(longest)) <= LONGEST_SOCKET
    assert Layout(deep).run != Layout(deep.with_name("f")).run


@pytest.mark.parametrize("name", ["two\nlines", "cr\r", "del\x7f", "latin-\udce9"])
def test_a_directory_whose_name_is_no_text_is_refused(tmp_path: Path, name: str) -> None:
    """PostgreSQL, Envoy's configuration and JSON can't have it, and said so late and each in its own way."""
    assert data_directory(tmp_path / "josé \"x' \\n #1 数").is_relative_to(tmp_path.resolve())
    with pytest.raises(LayoutError, match="not valid UTF-8: choose another") as caught:
        data_directory(tmp_path / name)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("mode", [0o770, 0o722])
def test_data_that_others_could_change_is_not_begun_with(directory: Path, mode: int) -> None:
    layout = Layout(directory)
    directory.chmod(mode)
    layout.prepare()  # nothing was in it
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(mode)
    with pytest.raises(LayoutError, match=f"other users may write to .* .mode {mode:04o}.*: run `chmod 700`"):
        layout.prepare()
    assert directory.stat().st_mode & 0o777 == mode, "what is wrong stays to be seen"
    directory.chmod(0o755)
    layout.prepare()


def test_everything_is_private(directory: Path) -> None:
    directory.chmod(0o755)
    layout = Layout(directory)
    layout.prepare()
    for path in (layout.data, layout.run, layout.secrets, layout.logs, layout.traces):
        assert path.stat().st_mode & 0o777 == 0o700


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(LayoutError, match=r"data"):
        Layout(tmp_path / "data").prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of somebody else")
def test_somebody_elses_directory_is_refused(directory: Path) -> None:
    os.chown(directory, 12345, 12345)
    with pytest.raises(LayoutError, match="belongs to user 12345"):
        Layout(directory).prepare()


def test_a_directory_that_holds_something_else_is_left_as_it_is(directory: Path) -> None:
    """`--data /tmp`, or a home, would be closed to everybody else."""
    directory.chmod(0o755)
    (directory / "lost+found").mkdir()
    (directory / "mine").write_text("")
    with pytest.raises(LayoutError, match="contains files that are not a platform"):
        Layout(directory).prepare()
    assert directory.stat().st_mode & 0o777 == 0o755
    assert {path.name for path in directory.iterdir()} == {"lost+found", "mine"}
    (directory / "mine").unlink()  # a volume of its own, just made
    Layout(directory).prepare()
    states.write(Layout(directory), states.plan(None, None, None, None))
    (directory / "mine").write_text("")
    Layout(directory).prepare()


def test_where_the_data_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TALLYSTICK_HOME", raising=False)
    assert data_directory(None) == tmp_path.resolve() / ".tallystick"
    monkeypatch.setenv("TALLYSTICK_HOME", str(tmp_path / "home"))
    assert data_directory(None) == tmp_path.resolve() / "home"
    assert data_directory(Path("here")) == tmp_path.resolve() / "here"


# ---- state ---------------------------------------------------------------------------------------------------------


def test_ports_stay_what_they_were() -> None:
    first = states.plan(None, None, None, None)
    assert (first.port, first.ops_port, first.nats_port, first.mtls_port) == (8443, 8444, 8445, 8446)
    moved = states.plan(first, 9443, None, {"ledger": 2})
    assert (moved.port, moved.ops_port, moved.nats_port, moved.mtls_port) == (9443, 9444, 9445, 9446)
    again = states.plan(moved, None, None, None)
    assert again == moved
    assert states.plan(moved, None, 7000, None).ops_port == 7000
    assert (again.url, again.mtls_url) == ("https://localhost:9443", "https://localhost:9446")
    assert states.plan(None, 443, None, None).url == "https://localhost"


def test_shards_that_keep_books_stay() -> None:
    first = states.plan(None, None, None, None, ["eu"])
    assert first.shards == ["eu"]
    more = states.plan(first, None, None, None, ["us", "eu"])
    assert more.shards == ["eu", "us"]
    assert states.plan(more, None, None, {"ledger": 2}).shards == ["eu", "us"]


def test_a_replica_of_a_shard_is_told_its_own_names(directory: Path) -> None:
    layout = Layout(directory)
    state = states.plan(None, None, None, None, ["eu"])
    charters = with_shards(charter.load_all(), state.shards)
    told = {name: environment(layout, state, Options(), charters[name], 0) for name in ("ledger", "ledger-eu", "audit")}
    for name, shard in (("ledger", "default"), ("ledger-eu", "eu"), ("audit", "default")):
        found = told[name]
        assert (found["TALLYSTICK_SERVICE"], found["TALLYSTICK_SHARD"]) == (name.partition("-")[0], shard)
        assert found["TALLYSTICK_SHARDS"] == "eu"
        assert found["TALLYSTICK_DATABASE_NAME"] == found["TALLYSTICK_DATABASE_USER"] == name
        assert found["TALLYSTICK_MESH_DIR"] == str(layout.mesh / name)
        for part in ("DATABASE", "NATS", "VALKEY"):
            assert f"/{name}/" in found[f"TALLYSTICK_{part}_PASSWORD_FILE"]
    alone = environment(layout, states.plan(None, None, None, None), Options(), charters["ledger"], 0)
    assert not {"TALLYSTICK_SHARD", "TALLYSTICK_SHARDS"} & set(alone)


@given(st.one_of(st.none(), st.integers(1, 65531)), st.one_of(st.none(), st.integers(1, 65535)))
def test_no_two_ports_are_the_same(port: int | None, ops: int | None) -> None:
    found = states.plan(None, port, ops, None)
    if ops != found.port:
        ports = {found.port, found.ops_port, found.nats_port, found.mtls_port}
        assert len(ports) == 4
        assert max(ports) <= 65535


def test_a_platform_from_before_the_second_edge_gets_a_port_for_it(directory: Path) -> None:
    layout = Layout(directory)
    for ops, expected in ((7444, 7446), (7446, 7447)):
        layout.state.write_text(f'{{"port": 7443, "ops_port": {ops}, "nats_port": 7445, "replicas": {{"risk": 2}}}}')
        found = states.read(layout)
        assert found is not None
        assert (found.mtls_port, found.ops_port, found.nats_port, found.replicas) == (expected, ops, 7445, {"risk": 2})
        assert states.plan(found, None, None, None) == found


def test_what_the_vault_reads_as_it_starts_again_is_with_the_data(directory: Path) -> None:
    """Where paths are long the sockets are below /tmp, which is cleared of what lies there for long."""
    layout = Layout(directory / ("d" * 100))
    layout.data.mkdir()
    found = environment(layout, states.plan(None, None, None, None), Options(), charter.load_all()["vault"], 0)
    for name in ("DESTINATIONS_FILE", "LOG_KEY_FILE", "ROOT_KEY_FILE", "TRACE_DIR", "DATABASE_PASSWORD_FILE"):
        assert layout.data in Path(found[f"TALLYSTICK_{name}"]).parents, name
    assert layout.data not in Path(found["TALLYSTICK_LISTEN"]).parents


def test_state_is_written_and_read(directory: Path) -> None:
    layout = Layout(directory)
    assert states.read(layout) is None
    state = states.plan(None, 7443, None, {"risk": 3})
    states.write(layout, state)
    assert states.read(layout) == state
    layout.state.unlink()
    layout.state.mkdir()
    with pytest.raises(LayoutError, match=r"can't read .*platform\.json"):
        states.read(layout)


@pytest.mark.parametrize(
    "change", ["", '"port": 0', '"nats_port": 65536', '"mtls_port": -1', '"replicas": {"risk": 0}']
)
def test_settings_that_can_not_be_are_damage_and_found(directory: Path, change: str) -> None:
    layout = Layout(directory)
    layout.prepare()
    ports = '"port": 7443, "ops_port": 7444, "nats_port": 7445, '
    layout.state.write_text(f"{{{ports}{change}}}")
    with pytest.raises(LayoutError, match=r"platform\.json is damaged .* ports, replicas and shards"):
        states.read(layout)
    [finding] = [finding for finding in doctor.examine(layout) if finding.name == "settings"]
    assert (finding.verdict, "damaged" in finding.found) == ("failed", True)


def test_settings_of_a_newer_program_are_no_damage(directory: Path) -> None:
    """Whoever deleted the file, as it said, had a platform without its shards."""
    layout = Layout(directory)
    layout.prepare()
    layout.state.write_text('{"port": 7443, "ops_port": 7444, "nats_port": 7445, "regions": ["eu"]}')
    with pytest.raises(
        LayoutError, match=r"does not know .*`regions`.*: if a newer version wrote it, use that version"
    ):
        states.read(layout)


def test_one_supervisor_per_directory(directory: Path) -> None:
    first, second = states.Lock(directory / "lock"), states.Lock(directory / "lock")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


# ---- secrets -------------------------------------------------------------------------------------------------------


def test_a_secret_is_made_once_and_only_for_its_owner(directory: Path) -> None:
    files = SecretFiles(directory / "secrets")
    first = files.get("ledger/database")
    assert SecretFiles(directory / "secrets").get("ledger/database").reveal() == first.reveal()
    assert len(first.reveal()) >= 43
    assert files.get("risk/database").reveal() != first.reveal()
    assert files.path("ledger/database").stat().st_mode & 0o777 == 0o600
    assert first.reveal() not in repr(first)


def test_a_secret_that_others_can_read_is_refused(directory: Path) -> None:
    files = SecretFiles(directory)
    value = files.get("postgres").reveal()
    files.path("postgres").chmod(0o644)
    with pytest.raises(SecretsError, match="other users may read") as caught:
        files.get("postgres")
    assert value not in str(caught.value)


def test_a_damaged_secret_is_named(directory: Path) -> None:
    files = SecretFiles(directory)
    files.get("postgres")
    for damage in ("", "é" * 40):
        files.path("postgres").write_text(damage)
        with pytest.raises(SecretsError, match="postgres is empty or damaged"):
            files.get("postgres")


@pytest.mark.parametrize("name", ["../x", "a/b/c", "/etc/passwd", "", "A", "a/", "a b"])
def test_a_name_is_not_a_path(directory: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a secret's name"):
        SecretFiles(directory).get(name)


# ---- control -------------------------------------------------------------------------------------------------------


def sample() -> control.Status:
    return control.Status(
        edge="https://localhost:1",
        mtls="https://localhost:4",
        ca="/ca.pem",
        ops="http://127.0.0.1:2",
        data="/data",
        pid=1,
        ready=True,
        started_at="2026-01-01T00:00:00.000000Z",
        parts=[],
        services=[],
        rejections=[],
    )


async def test_questions_over_the_control_socket(directory: Path) -> None:
    layout = Layout(directory)
    layout.prepare()
    asked: list[control.Request] = []

    async def handle(request: control.Request) -> control.Answer:
        asked.append(request)
        return sample() if isinstance(request, control.GetStatus) else control.Refused("not now")

    with pytest.raises(control.NotRunning, match="start it with `tallystick up`"):
        await control.ask(layout, control.GetStatus(), control.Status)
    server = control.ControlServer(layout.control, handle)
    await server.start()
    try:
        assert layout.control.stat().st_mode & 0o777 == 0o600
        assert await control.ask(layout, control.GetStatus(), control.Status) == sample()
        with pytest.raises(control.ControlFailed, match="not now"):
            await control.ask(layout, control.Down(), control.Done)
        reader, writer = await asyncio.open_unix_connection(str(layout.control))
        writer.write(b'{"type":"format-disk"}\n')
        refused = msgspec.json.decode(await reader.readline(), type=control.Refused)
        assert "format-disk" in refused.reason
        writer.close()
    finally:
        await server.stop()
    assert asked == [control.GetStatus(), control.Down()]
    with pytest.raises(control.NotRunning):
        await control.ask(layout, control.GetStatus(), control.Status)


@pytest.mark.parametrize("answer", [b'{"type":"status","edge":"https://localhost:1"}\n', b"{}" * (1 << 20), b"\n"])
async def test_an_answer_that_makes_no_sense_is_said(directory: Path, answer: bytes) -> None:
    """Of a supervisor of another version, say."""
    layout = Layout(directory)
    layout.prepare()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        with suppress(OSError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, str(layout.control)):
        with pytest.raises(control.ControlFailed, match="the supervisor's answer "):
            await control.ask(layout, control.GetStatus(), control.Status)


# ---- sampling ------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1e7))
def test_about_twenty_traces_a_second(rate: float) -> None:
    share = sampling.share(rate)
    assert 1 <= share <= sampling.WHOLE
    if rate <= sampling.TARGET:
        assert share == sampling.WHOLE
    elif rate < 100_000:
        assert 0.5 * sampling.TARGET <= rate * share / sampling.WHOLE <= 1.6 * sampling.TARGET


def test_the_proxy_is_told_only_of_changes_that_matter() -> None:
    assert sampling.worth_telling(None, 10)
    assert not sampling.worth_telling(1000, 1050)
    assert sampling.worth_telling(1000, 1200)
    assert sampling.worth_telling(9990, sampling.WHOLE)


# ---- doctor --------------------------------------------------------------------------------------------------------


def test_a_sound_machine_passes(directory: Path) -> None:
    layout = Layout(directory / "data")
    states_by_name = {finding.name: finding for finding in doctor.examine(layout)}
    for name in ("python", "system", "postgres", "nats", "valkey", "envoy", "data"):
        assert states_by_name[name].verdict == "ok"


def test_a_port_that_is_taken_is_found(directory: Path) -> None:
    layout = Layout(directory)
    layout.prepare()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        states.write(layout, states.plan(None, taken.getsockname()[1], free_port(), None))
        findings = [finding for finding in doctor.examine(layout) if "(edge)" in finding.name]
    assert [finding.verdict for finding in findings] == ["failed"]
    assert "--port" in findings[0].remedy


def test_a_directory_that_can_not_be_written_is_found(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(directory)
    layout.prepare()
    monkeypatch.setattr(os, "access", lambda *_: False)  # as on a file system that is mounted to be read
    assert [f.found for f in doctor.examine(layout) if f.verdict == "failed"] == [f"{layout.data} is not writable"]


def test_secrets_that_others_can_read_are_found(directory: Path) -> None:
    layout = Layout(directory)
    layout.prepare()
    SecretFiles(layout.secrets).get("ledger/nats")
    assert [f.verdict for f in doctor.examine(layout) if f.name == "modes"] == ["ok"]
    (layout.secrets / "ledger" / "nats").chmod(0o640)
    [finding] = [f for f in doctor.examine(layout) if f.name == "modes"]
    assert finding.verdict == "failed"
    assert "ledger/nats" in finding.found
    assert "never delete root.key" in finding.remedy, "deleted with the others it would take all data along"


@pytest.mark.parametrize(
    ("lost", "verdict", "told"),
    [
        ("postgres", "failed", r"/postgres is missing, and with it all data of this platform"),
        ("postgres/PG_VERSION", "failed", r"is not whole, its PG_VERSION is missing"),
        ("secrets/root.key", "failed", r"root\.key is missing, and the data can't be decrypted without it"),
        ("secrets/postgres", "failed", r"secrets/postgres is empty or damaged"),
        ("secrets/authority.json", "failed", r"authority\.json is damaged"),
        ("log.key", "failed", r"log\.key is damaged"),
        ("valkey", "warning", r"/valkey is missing, and is created anew"),
        ("nats", "warning", r"/nats is missing, and is rebuilt"),
    ],
)
async def test_what_is_damaged_or_lost_is_found_by_doctor_as_by_the_start(
    directory: Path, lost: str, verdict: str, told: str
) -> None:
    layout = _stopped(directory)
    assert [f.verdict for f in doctor.examine(layout) if f.name == "content"] == ["ok"]
    path = directory / lost
    if path.is_dir():
        shutil.rmtree(path)
    elif path.name in {"root.key", "PG_VERSION"}:
        path.unlink()
    else:
        path.write_text("")
    [finding] = [f for f in doctor.examine(layout) if f.name == "content"]
    assert finding.verdict == verdict
    assert re.search(told, finding.found)
    words = f"{finding.found}: {finding.remedy}"
    said: list[str] = []
    port = free_ports(4)
    platform = Platform(
        layout,
        states.plan(None, port, None, None),
        {},
        options=Options(),
        report=lambda *report: said.append(report[2]),
    )
    if verdict == "failed":
        with pytest.raises(StartFailed) as caught:
            await platform.start()
        assert str(caught.value) == words
    else:
        platform._find_whole()
        assert said == [words]


@pytest.mark.parametrize(("hours", "verdict"), [(0.1, "ok"), (2, "warning")])
def test_a_clock_behind_the_time_when_it_ran_last_is_told(directory: Path, hours: float, verdict: str) -> None:
    """What is to be tried again waited for a time that nobody knew of, and all was ready."""
    layout = _stopped(directory)
    log = layout.log("supervisor")
    log.parent.mkdir(exist_ok=True)
    log.touch()
    last = time.time() + hours * 3600
    os.utime(log, (last, last))
    [finding] = [f for f in doctor.examine(layout) if f.name == "content"]
    assert finding.verdict == verdict
    if verdict == "warning":
        ran = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(last))
        assert finding.found.startswith(f"the clock is before {ran}, when the platform last ran")
        assert finding.remedy == "set the clock, unless it is correct now"


def test_a_root_key_that_can_not_be_opened_is_found(directory: Path) -> None:
    layout = _stopped(directory)
    layout.root_key.unlink()
    word = directory / "word"
    word.write_text("of many letters")
    root_key.create(layout.root_key, Secret("of many letters"))
    [finding] = [f for f in doctor.examine(layout) if f.name in {"root key", "content"}]
    assert (finding.verdict, finding.found) == ("failed", f"{layout.root_key} is sealed")
    assert finding.remedy == "set TALLYSTICK_ROOT_PASSPHRASE_FILE"
    assert [f.verdict for f in doctor.examine(layout, word) if f.name in {"root key", "content"}] == ["ok"]


def test_data_of_a_platform_that_runs_is_not_judged(directory: Path) -> None:
    layout = _stopped(directory)
    shutil.rmtree(layout.postgres)
    lock = states.Lock(layout.lock)
    assert lock.acquire()
    assert not [f for f in doctor.examine(layout) if f.name == "content"]
    lock.release()


def test_a_directory_of_something_else_is_found(directory: Path) -> None:
    (directory / "mine").write_text("")
    [finding] = [f for f in doctor.examine(Layout(directory)) if f.name == "data"]
    assert (finding.verdict, "contains files that are not a platform" in finding.found) == ("failed", True)


def _stopped(directory: Path) -> Layout:
    """What a platform that has run leaves, as far as its files are looked at."""
    layout = Layout(directory)
    layout.prepare()
    root_key.create(layout.root_key)
    layout.authority.write_text('{"format": "tallystick-authority/1", "roots": []}')
    SecretFiles(layout.secrets).get("postgres")
    layout.log_key.write_text(f"{VerifierKey('log.example', Ed25519PublicKey.from_public_bytes(bytes(32)))}\n")
    for part in (layout.postgres, layout.valkey, layout.nats):
        part.mkdir()
        (part / "base").mkdir()
    (layout.postgres / "PG_VERSION").write_text("18")
    for path in layout.secrets.iterdir():
        path.chmod(0o600)
    return layout


def test_little_memory_disk_files_and_cores_are_said() -> None:
    assert doctor._memory(4 * doctor.GIB, doctor.GIB).verdict == "warning"
    assert doctor._memory(8 * doctor.GIB, 4 * doctor.GIB).verdict == "ok"
    assert doctor._files(1024).verdict == "failed"
    assert doctor._files(20000).verdict == "ok"
    assert doctor._cores(1).verdict == "warning"
