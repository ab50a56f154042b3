"""`tallystick tenant`, `client` and `call`, against identity behind a Unix socket as the operator reaches it."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from joserfc.jwk import ECKey

from tallystick.chassis.app.server import Server
from tallystick.chassis.charter import OPERATOR
from tallystick.cli.commands import dispatch
from tallystick.cli.credentials import Credentials
from tallystick.local import control
from tallystick.local.layout import Layout
from tests.services.identity.conftest import World
from tests.services.identity.support import ISSUER, MTLS_ORIGIN, ApiClient, peer


@dataclass
class CommandLine:
    layout: Layout
    world: World
    capture: pytest.CaptureFixture[str]

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        self.capture.readouterr()
        status = await asyncio.to_thread(dispatch, [*arguments, "--data", str(self.layout.data)])
        shown = self.capture.readouterr()
        return status, shown.out, shown.err

    async def json(self, *arguments: str) -> Any:
        status, out, err = await self.run(*arguments, "--json")
        assert status == 0, (out, err)
        return json.loads(out)


@pytest_asyncio.fixture
async def command_line(world: World, directory: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[CommandLine]:
    layout = Layout(directory / "p")
    layout.prepare()
    layout.ca.write_text("")
    (layout.mesh / OPERATOR).mkdir(mode=0o700)

    async def as_envoy(scope: MutableMapping[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], (b"x-tallystick-peer", peer(OPERATOR).encode())]
        await world.app(scope, receive, send)

    async def answer(request: control.Request) -> control.Answer:
        if not isinstance(request, control.GetStatus):
            return control.Refused("only the state can be asked for here")
        return control.Status(
            edge=ISSUER,
            mtls=MTLS_ORIGIN,
            ca=str(layout.ca),
            ops="http://127.0.0.1:1",
            data=str(layout.data),
            pid=1,
            ready=True,
            started_at="2026-01-01T00:00:00.000000Z",
            parts=[],
            services=[],
            rejections=[],
        )

    supervisor = control.ControlServer(layout.control, answer)
    await supervisor.start()
    server = Server(as_envoy, layout.mesh / OPERATOR / "identity.sock", drain_seconds=1)
    serving = asyncio.create_task(server.serve())
    await server.listening.wait()
    try:
        yield CommandLine(layout, world, capsys)
    finally:
        server.stop()
        await serving
        await supervisor.stop()


async def test_tenants(command_line: CommandLine) -> None:
    assert (await command_line.json("tenant", "create", "acme"))["name"] == "acme"
    assert [each["name"] for each in (await command_line.json("tenant", "list"))["data"]] == ["acme", "default"]
    status, out, err = await command_line.run("tenant", "create", "acme")
    assert (status, out) == (1, "")
    assert "acme" in err
    assert "acme" in (await command_line.run("tenant", "list"))[1]


@pytest.mark.parametrize("name", ["Acme", "a_b", "", "a" * 41, "1"])
async def test_a_bad_name_is_wrong_usage(command_line: CommandLine, name: str) -> None:
    assert (await command_line.run("tenant", "create", name))[0] == 2
    assert (await command_line.run("client", "create", "x", "--scope", "audit:read", "--tenant", name))[0] == 2


async def test_a_client_gets_tokens_with_the_key_in_its_file(command_line: CommandLine) -> None:
    made = await command_line.json("client", "create", "shop", "--scope", "payments:write accounts:read")
    file = Path(made["file"])
    assert file == command_line.layout.data / "clients" / "shop.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    document = json.loads(file.read_text())
    assert set(document) == {"client_id", "tenant", "issuer", "api", "scope", "private_key_jwk", "ca"}
    assert document["issuer"] == document["api"] == ISSUER
    assert document["ca"] == str(command_line.layout.ca)
    assert document["scope"] == "accounts:read payments:write"
    assert {"kty", "crv", "kid", "x", "y", "d"} <= set(document["private_key_jwk"])
    credentials = Credentials.load(file)
    assert credentials.key().key_size == 256
    key = ECKey.import_key(document["private_key_jwk"])
    client = ApiClient(command_line.world.app, command_line.world.clock, credentials.client_id, key)
    assert (await client.token()).status == 200
    # the private key went nowhere else
    rows = await command_line.world.tables.query("SELECT keys::text FROM client")
    assert document["private_key_jwk"]["d"] not in rows[0]["keys"]


async def test_a_key_is_never_written_over(command_line: CommandLine) -> None:
    file = command_line.layout.data / "mine.json"
    arguments = ("client", "create", "shop", "--scope", "audit:read", "--out", str(file))
    assert (await command_line.run(*arguments))[0] == 0
    before = file.read_bytes()
    assert (await command_line.run(*arguments))[0] == 1
    assert file.read_bytes() == before
    assert len((await command_line.json("client", "list"))["data"]) == 1


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--scope", "everything"), 2),
        (("--scope", "audit:read", "--tenant", "nobody"), 1),
        (("--scope", "audit:read", "--out", "/nonexistent/x.json"), 2),
        ((), 2),
    ],
)
async def test_what_fails_leaves_no_file(command_line: CommandLine, arguments: tuple[str, ...], status: int) -> None:
    assert (await command_line.run("client", "create", "shop", *arguments))[0] == status
    assert list(command_line.layout.data.glob("clients/*")) == []
    assert (await command_line.json("client", "list"))["data"] == []


async def test_a_name_that_makes_no_file_name(command_line: CommandLine) -> None:
    assert (await command_line.run("client", "create", "../evil", "--scope", "audit:read"))[0] == 2
    out = command_line.layout.data / "x.json"
    made = await command_line.json("client", "create", "The Shop", "--scope", "audit:read", "--out", str(out))
    assert made["file"] == str(out)


async def test_a_clients_name_is_no_card_number(command_line: CommandLine) -> None:
    status, out, err = await command_line.run("client", "create", "4242424242424242", "--scope", "audit:read")
    assert (status, out) == (2, "")
    assert "card number" in err
    assert "4242" not in err
    assert list(command_line.layout.data.glob("clients/*")) == []
    assert (await command_line.json("client", "list"))["data"] == []


async def test_clients_are_listed_and_revoked(command_line: CommandLine) -> None:
    assert "there are no clients yet" in (await command_line.run("client", "list"))[1]
    await command_line.json("tenant", "create", "acme")
    assert "acme has no clients yet" in (await command_line.run("client", "list", "--tenant", "acme"))[1]
    mine = await command_line.json("client", "create", "one", "--scope", "audit:read")
    other = await command_line.json("client", "create", "two", "--scope", "audit:read", "--tenant", "acme")
    everyone = (await command_line.json("client", "list"))["data"]
    assert [each["client_id"] for each in everyone] == [mine["client_id"], other["client_id"]]
    assert len((await command_line.json("client", "list", "--tenant", "acme"))["data"]) == 1
    assert (await command_line.json("client", "revoke", other["client_id"]))["revoked_at"]
    assert "revoked" in (await command_line.run("client", "list"))[1]
    assert (await command_line.run("client", "revoke", "cli_" + "0" * 26))[0] == 1
    assert (await command_line.run("client", "revoke", "nobody"))[0] == 2


async def test_without_a_platform(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["tenant", "list"], ["client", "create", "x", "--scope", "audit:read"], ["client", "list"]):
        status = await asyncio.to_thread(dispatch, [*arguments, "--data", str(directory / "none"), "--json"])
        assert (status, json.loads(capsys.readouterr().out)["status"]) == (3, 3)
    assert not (directory / "none").exists(), "asking leaves nothing behind"


async def test_call_says_what_is_wrong(command_line: CommandLine) -> None:
    assert (await command_line.run("call", "GET", "/v1/accounts"))[0] == 2  # there is no client yet
    made = await command_line.json("client", "create", "shop", "--scope", "audit:read")
    for arguments in (
        ("GET", "v1/accounts"),
        ("FETCH", "/"),
        ("GET", "/a b"),
        ("POST", "/", "--body", "@/nonexistent"),
    ):
        assert (await command_line.run("call", *arguments))[0] == 2, arguments
    Path(made["file"]).chmod(0o644)
    status, _, err = await command_line.run("call", "GET", "/v1/accounts")
    assert status == 2
    assert "chmod 600" in err
    await command_line.json("client", "create", "other", "--scope", "audit:read")
    status, _, err = await command_line.run("call", "GET", "/v1/accounts")
    assert status == 2
    assert "--client" in err
