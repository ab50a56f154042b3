"""What commands draw and print: the waterfall, log lines, the table of commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from uuid import UUID

import asyncpg
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.chassis import dead_letters as letters
from tallystick.chassis.db import CommitUnknown, Contended
from tallystick.chassis.dead_letters import DeadLetter
from tallystick.chassis.keys import root
from tallystick.chassis.telemetry.store import Span, SpanFile
from tallystick.cli import dead_letters, risk
from tallystick.cli.commands import COMMANDS, dispatch, overview
from tallystick.cli.logs import render
from tallystick.cli.status import _show
from tallystick.cli.trace import waterfall
from tallystick.contracts.identity.messages import Tenant
from tallystick.contracts.risk.messages import ListEntry
from tallystick.kernel.problem import Problem, StorageFull
from tallystick.kernel.secret import Secret
from tallystick.local import control, program
from tallystick.local.collector import spans, strip
from tallystick.local.control import PartStatus, ReplicaStatus, ServiceStatus, Status
from tallystick.local.doctor import examine
from tallystick.local.layout import Layout
from tallystick.local.logs import Line

T = "ab" * 16


def span(name: str, begin: int, end: int, parent: str | None = None, own: str | None = None) -> Span:
    return Span(
        trace=T, span=own or f"{hash(name) & 0xFFFF:016x}", parent=parent, name=name, service="s", start=begin, end=end
    )


def test_the_waterfall_shows_who_waited_for_whom() -> None:
    found = [
        span("edge", 0, 10_000_000, own="1"),
        span("POST /v1/payments", 1_000_000, 9_000_000, "1", "2"),
        span("later", 6_000_000, 8_000_000, "2", "4"),
        span("first", 2_000_000, 5_000_000, "2", "3"),
    ]
    head, *lines = waterfall(found, room=21 + len(" ││     0.00 +10.00 ms") + 10)
    assert head == "4 spans, 1 service, 10.00 ms"
    assert [line.split("│")[0].rstrip() for line in lines] == [
        "s edge",
        "  s POST /v1/payments",
        "    s first",
        "    s later",
    ]
    assert [line.split("│")[1] for line in lines] == ["██████████", " ████████ ", "  ███     ", "      ██  "]


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"), st.sampled_from([*"abcdef", None]), st.integers(0, 1000), st.integers(0, 1000)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_every_span_is_drawn_once_whatever_its_parents(rows: list[tuple[str, str | None, int, int]]) -> None:
    """Circles and lost parents included."""
    made = {own: span(own, begin, begin + length, parent, own) for own, parent, begin, length in rows}
    lines = list(waterfall(list(made.values())))[1:]
    assert len(lines) == len(made)
    assert all(len(line.split("│")[1]) == 48 for line in lines)


def test_the_waterfall_fits_into_a_terminal() -> None:
    found = [
        span("edge", 0, 10_000_000, own="1"),
        *(span(f"POST /internal/accounts/lookups {n}", n, 9_000_000, str(n), str(n + 1)) for n in range(1, 8)),
    ]
    for room in (80, 100, 120):
        lines = list(waterfall(found, room=room))
        assert max(map(len, lines)) <= room
        assert len({line.index("│") for line in lines[1:]}) == 1
    assert {len(line.split("│")[1]) for line in list(waterfall(found))[1:]} == {48}
    assert {len(line.split("│")[1]) for line in list(waterfall(found, room=1))[1:]} == {8}, "there is a bar in any case"


def test_a_line_for_people() -> None:
    at = datetime(2026, 5, 1, 10, 0, 1, 234567, tzinfo=UTC)
    fields = {
        "time": "x",
        "level": "error",
        "event": "request.done",
        "service": "ledger",
        "replica": 0,
        "route": "GET /a b",
        "status": 500,
        "tenant": None,
    }
    line = render(Line(at=at, process="ledger-0", fields=fields), colour=False)
    assert line == '10:00:01.234 ledger-0     request.done route="GET /a b" status=500'
    assert "\033[31m" in render(Line(at=at, process="ledger-0", fields=fields), colour=True)
    assert render(Line(at=at, process="nats", text="ready"), colour=False) == "10:00:01.234 nats         ready"


def test_the_proxys_spans_lose_what_a_client_typed() -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    one = request.resource_spans.add().scope_spans.add().spans.add()
    one.trace_id, one.span_id, one.name = bytes.fromhex(T), b"\x01" * 8, "edge"
    one.kind = one.SPAN_KIND_SERVER
    one.start_time_unix_nano, one.end_time_unix_nano = 5, 9
    for key, value in (
        ("http.url", "https://x/?card=4242424242424242"),
        ("user_agent", "4242"),
        ("http.status_code", "200"),
    ):
        one.attributes.add(key=key).value.string_value = value
    strip(request)
    [found] = spans(request)
    assert (found.trace, found.span, found.parent, found.kind, found.service) == (T, "01" * 8, None, "server", "envoy")
    assert found.attributes == {"http.status_code": "200"}


def test_every_command_is_there() -> None:
    for name, command in COMMANDS.items():
        assert find_spec(f"tallystick.cli.{command.module}") is not None, name
        assert f"  {name} " in overview()
    assert max(map(len, overview().splitlines())) <= 80


def test_wrong_commands_and_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert dispatch([]) == 2
    assert dispatch(["statsu"]) == 2
    assert "did you mean `tallystick status`?" in capsys.readouterr().err
    assert dispatch(["status", "--data", str(tmp_path), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["status"] == 3
    assert dispatch(["status", "--no-such"]) == 2
    assert "Unknown option: --no-such" in capsys.readouterr().err
    assert dispatch(["trace", "xyz", "--data", str(tmp_path)]) == 2
    assert dispatch(["render", "no-such"]) == 2
    assert dispatch(["ledger", "statement", "--no-such", "x", "--data", str(tmp_path)]) == 2
    assert "`tallystick ledger statement --help` shows the usage" in capsys.readouterr().err
    assert dispatch(["logs", "-n", "-5", "--data", str(tmp_path)]) == 2
    assert dispatch(["logs", "--data", str(tmp_path)]) == 2
    assert "was the platform ever started?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ledger statemnt x", "there is no command 'ledger statemnt': did you mean `tallystick ledger statement`?"),
        ("ledger nope", "there is no command 'ledger nope': `tallystick ledger --help` lists the commands"),
        ("call GET", "PATH is missing"),
        ("client create shop", "--scope is missing"),
        ("call GET / --client", "--client needs a value"),
        ("status now", "too many arguments: now"),
        ("render --target envoy", "Unknown option"),
        ("risk deny account customers:1", "VALUE of an account must be of the form acc_..."),
    ],
)
def test_what_is_wrong_with_the_words_is_said(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(words.split()) == 2
    assert f"tallystick: {said}" in capsys.readouterr().err


def test_a_default_that_says_nothing_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["bench", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "[default: 15]" in shown
    assert "False" not in shown
    assert dispatch(["risk", "deny", "--help"]) == 0
    assert '""' not in capsys.readouterr().out


def test_a_place_for_files_that_can_not_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert dispatch(["render", "nats", "--out", str(tmp_path / "file")]) == 2
    assert f"tallystick: can't write {tmp_path / 'file'}: File exists" in capsys.readouterr().err


def test_what_a_part_says_is_shown_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Rich took `[Errno 39]` for a style, and `[/opt]` for the end of none: `status` ended with a stack trace."""
    said = "[Errno 39] Directory not empty: [/opt/x]"
    part = PartStatus(
        name="postgres", version="18", pid=None, ready=False, phase="failed", restarts=0, started_at=None, error=said
    )
    found = Status(
        edge="https://localhost:1", mtls="https://localhost:4", ca="[red]/ca.pem", ops="http://127.0.0.1:2", data="/data", pid=1,
        ready=False, started_at="2026-01-01T00:00:00Z", parts=[part], services=[], rejections=["no [/such] cluster"],
    )  # fmt: skip
    _show(found)
    out = capsys.readouterr().out
    assert f"postgres: {said}" in out
    _show(msgspec.structs.replace(found, parts=[msgspec.structs.replace(part, started_at="2026-01-01T00:00:00Z")]))
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("postgres ")]
    assert line.split() == ["postgres", "failed", "-", "-", "18"], (
        "what has ended was started once, and is not since then what it is"
    )
    assert "CA file  [red]/ca.pem" in out.splitlines()
    assert "envoy refused: no [/such] cluster" in out
    data = tmp_path / "[bold]a"
    assert dispatch(["doctor", "--data", str(data)]) in {0, 1}
    assert f"{data} will be created" in capsys.readouterr().out


def test_the_version_of_each_process_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """What is started again after a checkout was brought up to date is of another version than the rest."""
    replica = ReplicaStatus(
        version="0.2.0", pid=7, ready=True, phase="ready", restarts=1, started_at="2026-01-01T00:00:00Z", error=None, socket="s"
    )  # fmt: skip
    found = Status(
        edge="https://localhost:1", mtls="https://localhost:4", ca="ca.pem", ops="http://127.0.0.1:2", data="/data", pid=1, ready=True,
        started_at="2026-01-01T00:00:00Z", parts=[], services=[ServiceStatus(name="vault", replicas=[replica])], rejections=[],
    )  # fmt: skip
    _show(found)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("vault-0 ")]
    assert line.split()[-1] == "0.2.0"


def test_memory_above_the_charters_plan_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    replica = ReplicaStatus(
        pid=7, ready=True, phase="ready", restarts=0, started_at="2026-01-01T00:00:00Z", error=None, socket="s", memory_mib=257
    )  # fmt: skip
    service = ServiceStatus(name="vault", replicas=[replica, msgspec.structs.replace(replica, memory_mib=256)])
    found = Status(
        edge="https://localhost:1", mtls="https://localhost:4", ca="ca.pem", ops="http://127.0.0.1:2", data="/data", pid=1, ready=True,
        started_at="2026-01-01T00:00:00Z", parts=[], services=[msgspec.structs.replace(service, memory_mib=256)], rejections=[],
    )  # fmt: skip
    _show(found)
    out = capsys.readouterr().out
    assert [line.split()[-2:] for line in out.splitlines() if line.startswith("vault-") and "ready" in line] == [
        ["257", "MiB"],
        ["256", "MiB"],
    ]
    assert [line for line in out.splitlines() if "plans" in line] == [
        "vault-0: takes 257 MiB of memory; its charter plans 256"
    ]
    _show(msgspec.structs.replace(found, services=[service]))
    assert "plans" not in capsys.readouterr().out, "an older supervisor does not say it"


@pytest.mark.parametrize(
    "error", [StorageFull("there is no room"), Contended("it is locked"), CommitUnknown("who knows")]
)
@pytest.mark.parametrize(
    "command", [("dead-letters", "replay", "ledger", "all", "--reason", "mended"), ("keys", "rotate", "ledger")]
)
def test_a_database_that_can_not_store_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    error: Problem,
) -> None:
    """Only one that was away was told; a full disk ended in a stack trace."""

    async def answers(*_: object) -> None: ...

    async def refuses(*_: object, **__: object) -> None:
        raise error

    Layout(tmp_path).prepare()
    monkeypatch.setattr("tallystick.local.control.ask", answers)
    monkeypatch.setattr("tallystick.chassis.db.Database.open", refuses)
    assert dispatch([*command, "--data", str(tmp_path)]) == 4
    assert f"did not answer: {error}" in capsys.readouterr().err


def test_a_note_on_a_list_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = ListEntry(tenant="default", outcome="deny", kind="client", value="cli_1", note="see [/tickets/7] [red]")
    monkeypatch.setattr(risk, "known", lambda common, tenant: tenant)
    monkeypatch.setattr(risk, "operate", lambda *_: [entry])
    assert dispatch(["risk", "lists", "--data", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "deny   client   cli_1  see [/tickets/7] [red]\n"


def test_another_version_than_the_command_s_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a checkout was brought up to date what runs is what was started, and what is started again is not."""
    found = Status(
        edge="https://localhost:1", mtls="https://localhost:4", ca="ca.pem", ops="http://127.0.0.1:2", data="/data", pid=1, ready=True,
        started_at="2026-01-01T00:00:00Z", parts=[], services=[], rejections=[], program=program.program_version(),
    )  # fmt: skip
    _show(found)
    said = capsys.readouterr().out
    assert said.splitlines()[:5] == [
        f"ready  version {found.program}",
        "API      https://localhost:1",
        "mTLS     https://localhost:4",
        "CA file  ca.pem",
        "metrics  http://127.0.0.1:2/sd",
    ]
    assert "it runs" not in said
    _show(msgspec.structs.replace(found, program="0.0.9 (abc)"))
    assert "the platform runs 0.0.9 (abc), but this command is " in capsys.readouterr().out
    assert dispatch(["--version"]) == 0
    assert capsys.readouterr().out == f"tallystick {found.program}\n"


def test_a_version_names_the_commit_of_its_checkout_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = metadata.version("tallystick")
    monkeypatch.setattr(program, "CHECKOUT", tmp_path)
    assert program.program_version.__wrapped__() == version
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    if shutil.which("git") is None:
        pytest.skip("needs git")
    subprocess.run([*git, "init", "-q"], check=True)
    assert program.program_version.__wrapped__() == version, "nothing is committed"
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert re.fullmatch(rf"{re.escape(version)} \([0-9a-f]{{7,}}\)", program.program_version.__wrapped__())


def test_bytes_that_are_no_text_are_said_as_json_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert dispatch(["up", "--replicas", "\udcff=2", "--json", "--data", str(tmp_path)]) == 2
    assert "\\udcff" in json.loads(capsys.readouterr().out)["error"]


def test_databases_that_can_not_be_read_yet_are_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    async def ask(*_: object) -> None:
        """The supervisor is there, and PostgreSQL is not."""

    monkeypatch.setattr(control, "ask", ask)
    Layout(directory).prepare()
    assert dispatch(["verify", "--data", str(directory)]) == 4
    assert "can't be opened ([Errno 2] No such file or directory); `tallystick status`" in capsys.readouterr().err

    async def connect(**_: object) -> None:
        raise asyncpg.CannotConnectNowError("not yet\nDETAIL:  Not consistent.")

    with monkeypatch.context() as starting:
        starting.setattr(asyncpg, "connect", connect)
        assert dispatch(["verify", "--data", str(directory)]) == 4
    assert "can't be opened (not yet); `tallystick status`" in capsys.readouterr().err
    (Layout(directory).secrets / "postgres").write_text("")
    assert dispatch(["verify", "--data", str(directory)]) == 4
    assert "secrets/postgres is empty or damaged" in capsys.readouterr().err


LOOKING = (
    ("status",),
    ("down",),
    ("up",),
    ("doctor",),
    ("verify",),
    ("logs",),
    ("trace", T),
    ("call", "GET", "/v1/accounts"),
    ("client", "list"),
    ("ledger", "accounts"),
    ("keys", "status"),
    ("demo",),
)


@pytest.mark.parametrize("command", LOOKING, ids=" ".join)
def test_a_data_directory_that_can_not_be_one_is_said(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, circle = tmp_path / "file", tmp_path / "circle"
    file.touch()
    circle.symlink_to(circle)
    refused = 1 if command == ("doctor",) else 4
    for data, said in ((file, "is not a directory"), (file / "below", "can't access")):
        assert dispatch([*command, "--data", str(data)]) == refused
        told = capsys.readouterr()
        assert said in told.out + told.err
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 12345)
    assert dispatch([*command, "--data", str(tmp_path)]) == refused
    told = capsys.readouterr()
    assert f"{tmp_path} belongs to " in told.out + told.err
    assert dispatch([*command, "--data", str(circle)]) == 4
    assert "can't follow the path" in capsys.readouterr().err


def test_a_trace_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    SpanFile(tmp_path / "traces", "ledger-0").append([span("a", 1, 2)])
    assert dispatch(["trace", T, "--data", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spans"][0]["name"] == "a"
    assert dispatch(["trace", "0" * 32, "--data", str(tmp_path)]) == 1
    assert "this trace is not stored" in capsys.readouterr().err
    assert dispatch(["trace", T, "--data", str(tmp_path / "elsewhere")]) == 2
    assert f"there are no traces in {tmp_path}/elsewhere/traces" in capsys.readouterr().err


def test_logs_through_a_pipe_that_closes(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a-0.log").write_text('{"event":"x"}\n' * 20000)
    done = subprocess.run(
        f"{sys.executable} -m tallystick logs --lines 0 --data {tmp_path} | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""


def test_the_lines_of_a_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a-0.log").write_text(f'{{"event":"x","trace":"{T}"}}\n')
    of = ["logs", "--data", str(tmp_path), "--trace"]
    assert dispatch([*of, T.upper()]) == 0
    assert T in capsys.readouterr().out
    assert dispatch([*of, "zzz"]) == 2
    assert "32 hex digits" in capsys.readouterr().err
    assert dispatch([*of, "0" * 32]) == 1
    assert "no log lines of this request" in capsys.readouterr().err


def test_a_version_of_the_root_key_is_not_forgotten_for_several_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(tmp_path)
    layout.prepare()
    root.create(layout.root_key, None)
    assert root.rotate(layout.root_key) == 2
    for version, status, said in (
        ("7", 2, "no version 7 of the root key; the versions are 1, 2"),
        ("2", 1, "is the current one"),
        ("1", 3, "`tallystick up`"),
    ):
        assert dispatch(["keys", "forget-root", version, "--data", str(tmp_path)]) == status
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"\xff\xfe not a text"])
def test_a_passphrase_that_can_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    """One that is no UTF-8 ended `keys` with a traceback, and `up` without the file's name."""
    layout = Layout(tmp_path / "d")
    layout.prepare()
    root.create(layout.root_key, Secret("a passphrase of many bytes"))
    file = tmp_path / "passphrase"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("TALLYSTICK_ROOT_PASSPHRASE_FILE", str(file))
    assert dispatch(["keys", "status", "--data", str(layout.data)]) == 4
    said = capsys.readouterr().err
    assert f"can't read the passphrase file {file}" in said
    found = [each for each in examine(layout, file) if each.name == "root key"]
    assert [(each.verdict, str(file) in each.found) for each in found] == [("failed", True)]


def test_a_root_key_that_was_never_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("status",), ("rotate-root",), ("forget-root", "1")):
        assert dispatch(["keys", *command, "--data", str(tmp_path)]) == 2
        assert (
            capsys.readouterr().err
            == f"tallystick: there is no root key in {tmp_path}; was the platform ever started?\n"
        )


def test_a_client_without_a_name_or_a_scope(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = ["--data", str(tmp_path), "--out", str(tmp_path / "x.json")]
    assert dispatch(["client", "create", "", "--scope", "payments:read", *to]) == 2
    assert "the client's name" in capsys.readouterr().err
    assert dispatch(["client", "create", "x", "--scope", "", *to]) == 2
    assert "--scope" in capsys.readouterr().err


CARD = ("card", "fp_x")


@pytest.mark.parametrize(
    "command",
    [
        ("client", "list"),
        ("risk", "lists"),
        ("risk", "deny", *CARD),
        ("risk", "allow", *CARD),
        ("risk", "remove", *CARD),
    ],
    ids=" ".join,
)
def test_a_tenant_that_is_not_there(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tallystick.cli.tenant.administer", lambda *_: [Tenant(name="acme", created_at="")])
    assert dispatch([*command, "--tenant", "nope", "--data", str(tmp_path)]) == 1
    assert "there is no tenant nope" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("call", "POST", "/v1/accounts", "--body", "\udcff"),
        ("call", "POST", "/v1/accounts", "--body", "{}", "--idempotency-key", "a\nb"),
    ],
    ids=["body", "key"],
)
def test_arguments_that_can_not_be_sent_are_wrong_usage(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They ended in a stack trace and exit status 1."""
    monkeypatch.setattr("tallystick.cli.call.chosen_client", lambda *_: None)
    assert dispatch([*arguments, "--json", "--data", str(tmp_path)]) == 2
    assert json.loads(capsys.readouterr().out)["status"] == 2


#: By print and by rich, from this program and from what explains its options; the last is refused.
SAYING = (("--help",), ("ledger", "accounts", "--help"), ("doctor",), ("doctor", "--json"), ("nope", "--json"))


def _into(output: int, arguments: tuple[str, ...], directory: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tallystick", *arguments],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TALLYSTICK_HOME": str(directory / "d")},
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", SAYING, ids=" ".join)
def test_who_goes_away_changes_nothing_but_the_output(arguments: tuple[str, ...], tmp_path: Path) -> None:
    heard = _into(subprocess.DEVNULL, arguments, tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert _into(writer, arguments, tmp_path) == heard
    finally:
        os.close(writer)


@pytest.mark.parametrize("arguments", SAYING[:-1], ids=" ".join)
def test_a_full_disk_is_told(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        status, said = _into(full.fileno(), arguments, tmp_path)
    assert (status, said) == (4, "tallystick: can't write to standard output: No space left on device\n")


def _with(redirections: str, arguments: tuple[str, ...], directory: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "tallystick", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TALLYSTICK_HOME": str(directory / "d")},
    )
    # what the machine has free and what time it is differ from run to run
    return done.returncode, re.sub(r"[\d.]+", "0", done.stdout), done.stderr


@pytest.mark.parametrize("arguments", [("doctor", "--json"), ("nope", "--json")], ids=" ".join)
def test_closed_streams_are_as_good_as_nowhere(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """`>&-` ended in a stack trace and exit status 1; with `2>&-` what is for people came before the JSON document."""
    status, said, aside = _with("", arguments, tmp_path)
    assert _with(">&-", arguments, tmp_path) == (status, "", aside)
    assert _with("2>&-", arguments, tmp_path) == _with("2>/dev/full", arguments, tmp_path) == (status, said, "")
    assert _with("<&- >&- 2>&-", arguments, tmp_path) == (status, "", "")


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["lines", "json"])
def test_what_a_check_found_is_its_exit_status_whoever_listens(options: tuple[str, ...], tmp_path: Path) -> None:
    """A document larger than a buffer is written while the command still goes on; its reader had gone, and a check that failed was 0.
    A full disk under its progress was 1, that something is wrong, for books in which nothing is.
    """
    script = """
import sys
from tallystick import cli
from tallystick.cli import verify
from tallystick.cli.output import console
from tallystick.local.verify import Check
faults = {"faulty": ["wrong"], "sound": []}[sys.argv.pop()]
async def checked(common):
    for number in range(500):
        console(error=common.json).print(number)
    return [Check(name=str(number), promise="p" * 40, faults=faults, looked_at="", seconds=0.0) for number in range(500)]
verify._verify = checked
cli.main()
"""
    for faulty, status in (("faulty", 1), ("sound", 0)):
        command = [sys.executable, "-c", script, "verify", *options, "--data", str(tmp_path), faulty]
        reader, gone = os.pipe()
        os.close(reader)
        with Path("/dev/full").open("wb") as full:
            for out, aside in ((gone, subprocess.DEVNULL), (subprocess.DEVNULL, gone), (subprocess.DEVNULL, full)):
                done = subprocess.run(command, stdout=out, stderr=aside, timeout=60, check=False)
                assert done.returncode == status, (faulty, out, aside)
        os.close(gone)


def test_an_encoding_without_a_letter_ends_no_command(tmp_path: Path) -> None:
    """`verify` in a Latin-1 locale ended at its first `✓` with a stack trace and exit status 1: that books are wrong."""
    SpanFile(tmp_path / "traces", "ledger-0").append([span("a", 1, 2)])
    done = subprocess.run(
        [sys.executable, "-m", "tallystick", "trace", T, "--data", str(tmp_path)],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"s a \\u2502\\u2588" in done.stdout


def test_a_service_that_does_not_exist() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tallystick", "run", "nobody"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (2, "tallystick: there is no service 'nobody'\n")


@pytest.mark.parametrize("reason", ["was 4242 4242 4242 4242", "DE89370400440532013000"])
@pytest.mark.parametrize("decision", ["replay", "discard"])
def test_a_reason_that_is_kept_holds_no_number(decision: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["dead-letters", decision, "notify", "all", "--reason", reason]) == 2
    said = capsys.readouterr().err
    assert "--reason contains a" in said
    assert reason not in said


@pytest.mark.parametrize("decision", ["replay", "discard"])
def test_a_decision_without_a_reason_is_none(decision: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It can't be taken back, and its reason is what is left of it."""
    assert dispatch(["dead-letters", decision, "notify", "all", "--reason", " "]) == 2
    assert "--reason is empty" in capsys.readouterr().err


def test_letters_beyond_the_first_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only the first hundred of a service were shown, as if there were no others, and `--all` took these for all that were open."""
    discarded: letters.State = "discarded"
    waiting: letters.State = "waiting"
    kept = [
        DeadLetter(UUID(int=number), "payments", "notify", number, "payments.settled", b"{}", "ValueError", 5, state, datetime.now(UTC), None, "no [use]" if state == discarded else None)
        for number, state in enumerate([*repeat(discarded, 150), *repeat(waiting, 101)], 1)
    ]  # fmt: skip

    async def some(
        _: object, *, states: Sequence[str], after: UUID | None = None, limit: int = 100
    ) -> list[DeadLetter]:
        assert limit <= 100
        return [one for one in kept if one.state in states and (after is None or one.id > after)][:limit]

    async def count(_: object, *, states: Sequence[str] = letters.OPEN) -> int:
        return sum(one.state in states for one in kept)

    async def on(_: object, __: str, work: Callable[[None], Awaitable[object]]) -> object:
        return await work(None)

    monkeypatch.setattr(letters, "list_letters", some)
    monkeypatch.setattr(letters, "count_letters", count)
    monkeypatch.setattr(dead_letters, "_on", on)
    listing = ["dead-letters", "list", "notify", "--data", str(tmp_path)]
    assert dispatch(listing) == 1
    said = capsys.readouterr().out
    assert said.count("waiting") == 100
    assert said.endswith("and 1 more of notify: `tallystick dead-letters list notify --limit 101`\n")
    assert dispatch([*listing, "--limit", "101"]) == 1
    assert "more" not in capsys.readouterr().out
    assert dispatch([*listing, "--all"]) == 1
    assert capsys.readouterr().out.count("because: no [use]\n") == 100
    assert dispatch([*listing, "--all", "--json"]) == 1, "some are open, though not among these"
    document = json.loads(capsys.readouterr().out)
    assert (len(document["data"]), document["more"]) == (100, {"notify": 151})
    assert dispatch([*listing, "--all", "--json", "--limit", "1000"]) == 1
    assert len(json.loads(capsys.readouterr().out)["data"]) == 251
    assert dispatch([*listing, "--limit", "0"]) == 2


@pytest.mark.parametrize("name", ["client", "dead-letters", "keys", "ledger", "risk", "tenant"])
def test_a_command_without_its_own_command_did_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As `tallystick` alone: a script that forgot a word was told that it is done."""
    assert dispatch([name]) == 2
    assert f"Usage: tallystick {name} COMMAND" in capsys.readouterr().out
    assert dispatch([name, "--help"]) == 0
