"""The platform as a whole: what it gives, what it survives, what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tallystick.chassis.charter import load_all
from tallystick.local import slowly
from tallystick.local import state as states
from tallystick.local.environment import Options
from tallystick.local.layout import Layout
from tallystick.local.platform import Platform
from tests.support.parts import remove, short_directory
from tests.support.ports import free_ports
from tests.system.conftest import NewPlatform, PlatformUnderTest, pids_of

PARTS = ("postgres", "nats", "valkey", "envoy", "rail")


def get(platform: PlatformUnderTest, path: str) -> tuple[int, dict[str, str], Any]:
    """One GET at the edge: status, headers (lower case), body."""
    request = urllib.request.Request(platform.url + path)
    try:
        with urllib.request.urlopen(request, context=platform.tls(), timeout=20) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, json.loads(error.read() or b"null")


def scrape(platform: PlatformUnderTest, path: str) -> str:
    with urllib.request.urlopen(platform.ops + path, timeout=20) as answer:
        return str(answer.read().decode())


# ---- what it gives -------------------------------------------------------------------------------------------------


def test_the_edge_answers_with_a_certificate_of_the_ca_file(platform: PlatformUnderTest) -> None:
    status, headers, body = get(platform, "/.well-known/openid-configuration")
    assert (status, body["issuer"]) == (200, platform.url)
    assert headers["cache-control"]
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(platform.url, timeout=20)


def test_the_edge_speaks_nothing_older_than_tls_1_3(platform: PlatformUnderTest) -> None:
    context = platform.tls()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", platform.port), 20) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize("path", ["/internal/jwks", "/health/ready", "/metrics", "/nothing"])
def test_what_is_inside_is_not_at_the_edge(platform: PlatformUnderTest, path: str) -> None:
    assert get(platform, path)[0] == 404


def test_status_says_what_the_contract_says(platform: PlatformUnderTest) -> None:
    found = platform.status()
    assert (found["edge"], found["mtls"]) == (platform.url, f"https://localhost:{platform.mtls_port}")
    assert Path(found["ca"]).read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")
    assert {part["name"] for part in found["parts"]} == set(PARTS)
    for part in found["parts"]:
        assert part["version"]
        assert part["ready"]
        assert psutil.pid_exists(part["pid"])
    assert "identity" in {service["name"] for service in found["services"]}
    for service in found["services"]:
        for replica in service["replicas"]:
            assert replica["ready"]
            assert replica["version"] == found["program"]
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", replica["started_at"])
    assert found["rejections"] == []


def test_a_second_up_says_so_and_is_content(platform: PlatformUnderTest) -> None:
    found = platform.cli("up")
    assert found.status == 0
    assert "is already running" in found.out
    assert platform.url in found.out
    assert platform.cli("up", "--json").json["already_running"] is True


def test_metrics_of_every_process_by_discovery(platform: PlatformUnderTest) -> None:
    entries = json.loads(scrape(platform, "/sd"))
    jobs = {entry["labels"]["job"] for entry in entries}
    assert {"envoy", "supervisor", "identity"} <= jobs
    for entry in entries:
        assert entry["targets"] == [f"127.0.0.1:{platform.port + 1}"]
        text = scrape(platform, entry["labels"]["__metrics_path__"])
        assert "# TYPE" in text
    assert 'tallystick_process_up{process="postgres"} 1.0' in scrape(platform, "/metrics/supervisor/0")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scrape(platform, "/metrics/no-such/0")


def test_a_page_of_another_name_does_not_read_metrics(platform: PlatformUnderTest) -> None:
    request = urllib.request.Request(platform.ops + "/sd", headers={"host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="421"):
        urllib.request.urlopen(request, timeout=20)


def test_a_request_is_found_in_logs_and_trace(platform: PlatformUnderTest) -> None:
    _, headers, _ = get(platform, "/oauth2/jwks")
    trace = headers["request-id"]
    assert re.fullmatch("[0-9a-f]{32}", trace)
    services: set[str] = set()
    ending = time.monotonic() + 60
    while not {"envoy", "identity"} <= services and time.monotonic() < ending:
        found = platform.cli("trace", trace, "--json")
        services = {span["service"] for span in found.json["spans"]} if found.status == 0 else set()
        time.sleep(0.2)
    assert {"envoy", "identity"} <= services
    picture = platform.cli("trace", trace)
    assert "█" in picture.out
    lines = [json.loads(line) for line in platform.cli("logs", "--trace", trace, "--json").out.splitlines()]
    assert "request.done" in {line["event"] for line in lines}
    assert platform.cli("trace", "0" * 32).status == 1
    assert platform.cli("trace", "nonsense").status == 2


def test_secrets_are_in_files_for_their_owner_and_nowhere_else(platform: PlatformUnderTest) -> None:
    secrets = {path: path.read_bytes().strip() for path in (platform.data / "secrets").rglob("*") if path.is_file()}
    assert len(secrets) > 10
    for path in secrets:
        assert path.stat().st_mode & 0o777 == 0o600
    for path in (platform.data, platform.data / "secrets", platform.data / "run", platform.data / "logs"):
        assert path.stat().st_mode & 0o777 == 0o700
    values = [value for value in secrets.values() if len(value) < 200]
    for pid in platform.pids().values():
        for place in ("cmdline", "environ"):
            content = Path(f"/proc/{pid}/{place}").read_bytes()
            assert not any(value in content for value in values)
    for log in (platform.data / "logs").iterdir():
        content = log.read_bytes()
        assert not any(value in content for value in values), log


def test_only_the_edge_the_bus_and_the_metrics_listen_on_loopback(platform: PlatformUnderTest) -> None:
    listening = set()
    for pid in platform.pids().values():
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # PostgreSQL's come and go
                for connection in process.net_connections("inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        listening.add((connection.laddr.ip, connection.laddr.port))
    assert listening == {("127.0.0.1", platform.port + offset) for offset in (0, 1, 2, 3)}


def test_sockets_are_for_their_owner(platform: PlatformUnderTest) -> None:
    sockets = [path for path in (platform.data / "run").rglob("*.sock") if path.is_socket()]
    assert len(sockets) > 10
    assert {path.stat().st_mode & 0o777 for path in sockets} == {0o600}


# ---- what it survives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [*PARTS, "identity-0"])
def test_what_is_killed_comes_back(platform: PlatformUnderTest, victim: str) -> None:
    before = platform.pids()
    os.kill(before[victim], signal.SIGKILL)

    def recovered(found: Any) -> bool:
        return bool(found["ready"]) and pids_of(found)[victim] != before[victim]

    platform.until(recovered)
    # Nobody else had to be started again.
    after = platform.pids()
    assert {name for name in before if before[name] != after[name]} == {victim}
    ending = time.monotonic() + 60
    while get(platform, "/oauth2/jwks")[0] != 200:
        assert time.monotonic() < ending
        time.sleep(0.1)
    [line, *_] = [
        json.loads(text) for text in platform.cli("logs", "supervisor", "--json", "-n", "0").out.splitlines()
    ][::-1]
    assert line["event"].startswith("process.")


@pytest.mark.parametrize("moment", [("postgres", "ready"), ("ledger", "migrating"), ("risk-0", "starting")])
async def test_a_database_that_dies_while_services_start_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, moment: tuple[str, str]
) -> None:
    """Once while databases are made, once while one is migrated, once while a service is at its first start."""
    monkeypatch.setattr(slowly.Slowly.__init__, "__defaults__", (0.0,))
    port = free_ports(4)
    layout = Layout(short_directory() / "data")
    layout.prepare()
    killed: list[int] = []

    def report(name: str, phase: str, _: str) -> None:
        if (name, phase) == moment and not killed:
            killed.extend(part.pid or 0 for part in platform.status().parts if part.name == "postgres")
            os.kill(killed[0], signal.SIGKILL)

    platform = Platform(layout, states.plan(None, port, None, None), load_all(), options=Options(), report=report)
    try:
        await platform.start()
        [postgres] = [part for part in platform.status().parts if part.name == "postgres"]
        assert (platform.status().ready, postgres.restarts, postgres.pid in killed) == (True, 1, False)
    finally:
        await platform.stop()
        remove(layout.data.parent)


def test_the_supervisor_takes_everything_along_and_the_next_goes_on(new_platform: NewPlatform) -> None:
    one = new_platform()
    one.start()
    key = get(one, "/oauth2/jwks")[2]
    assert one.process is not None
    one.process.kill()
    one.process.wait()
    one.process = None
    ending = time.monotonic() + 60
    while one.processes():
        assert time.monotonic() < ending, one.processes()
        time.sleep(0.05)
    assert one.cli("status").status == 3
    ca = one.ca.read_bytes()
    one.start()
    assert one.ca.read_bytes() == ca
    assert get(one, "/oauth2/jwks")[2] == key
    assert one.stop() == 0
    assert one.processes() == []
    assert [path for path in (one.data / "run").rglob("*") if path.is_socket()] == []


def test_two_platforms_side_by_side_with_replicas(platform: PlatformUnderTest, new_platform: NewPlatform) -> None:
    other = new_platform("--replicas", "identity=2")
    other.start()
    assert get(other, "/oauth2/jwks")[2] != get(platform, "/oauth2/jwks")[2]
    first, second = other.pids()["identity-0"], other.pids()["identity-1"]
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(platform.url, context=other.tls(), timeout=20)
    # One of two replicas dies: reads go on without a failure, because the proxy may ask the other.
    os.kill(first, signal.SIGKILL)
    answers = [get(other, "/oauth2/jwks") for _ in range(100)]
    assert [answer for answer in answers if answer[0] != 200] == []
    other.until(lambda found: bool(found["ready"]) and pids_of(found)["identity-0"] != first)
    assert other.pids()["identity-1"] == second
    down = other.cli("down")
    assert (down.status, down.out.strip()) == (0, "stopped")
    assert other.process is not None
    assert other.process.wait(60) == 0
    assert platform.status()["ready"]
    # Ports and replicas are remembered.
    other.options = ()
    assert json.loads((other.data / "platform.json").read_text())["replicas"] == {"identity": 2}


def test_detached(new_platform: NewPlatform) -> None:
    one = new_platform()
    found = one.cli("up", "--detach", "--port", str(one.port), "--json")
    try:
        assert found.status == 0, found
        assert found.json["edge"] == one.url
        assert get(one, "/oauth2/jwks")[0] == 200
    finally:
        down = one.cli("down")
    assert down.status == 0, down
    assert one.processes() == []
    assert one.cli("status").status == 3


# ---- what it says when it can't ------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_named(new_platform: NewPlatform) -> None:
    one = new_platform()
    for offset in (0, 1, 2, 3):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", one.port + offset))
            taken.listen()
            found = one.cli("up", "--port", str(one.port))
        assert found.status == 4
        assert str(one.port + offset) in found.err
        assert ("--ops-port" if offset == 1 else "--port") in found.err
        assert one.processes() == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--port", "0"),
        ("--port", "65532"),
        ("--port", "x"),
        ("--replicas", "nobody=2"),
        ("--replicas", "identity=0"),
        ("--nope",),
    ],
)
def test_wrong_usage_is_2(new_platform: NewPlatform, arguments: tuple[str, ...]) -> None:
    found = new_platform().cli("up", *arguments)
    assert found.status == 2
    assert found.err.startswith("tallystick: ")


@pytest.mark.parametrize("command", ["status", "down"])
def test_not_running_is_3(new_platform: NewPlatform, command: str) -> None:
    found = new_platform().cli(command, "--json")
    assert found.status == 3
    assert "start it with `tallystick up`" in found.json["error"]


def test_help_lists_every_command_without_loading_any() -> None:
    code = "import sys; from tallystick.cli.commands import dispatch; dispatch(['--help']); print(sorted(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    for command in (
        "up",
        "down",
        "status",
        "tenant",
        "call",
        "replay",
        "trace",
        "logs",
        "verify",
        "bench",
        "render",
        "doctor",
    ):
        assert f"\n  {command} " in said
    assert "'cyclopts'" not in said
    assert "'grpc'" not in said
