"""`tallystick risk`, against risk behind a Unix socket as the operator reaches it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tallystick.chassis.app.server import Server
from tallystick.chassis.charter import OPERATOR
from tallystick.cli.commands import dispatch
from tallystick.cli.output import NO, Common, Failed
from tallystick.cli.tenant import checked
from tallystick.local import control
from tallystick.local.layout import Layout
from tests.services.risk.support import CLIENT, Env, card

Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest_asyncio.fixture
async def run(
    env: Env, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Run]:
    """Exit status, standard output, standard error of one command line. Identity is not there: which tenants there are is said here."""

    def known(_: Common, name: str) -> str:
        if checked(name) not in {"acme", "default"}:
            raise Failed(f"there is no tenant {name}", NO)
        return name

    monkeypatch.setattr("tallystick.cli.risk.known", known)
    layout = Layout(directory / "p")
    layout.prepare()
    (layout.mesh / OPERATOR).mkdir(mode=0o700)

    async def as_envoy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], *env.world.mesh(OPERATOR)]
        await env.app(scope, receive, send)

    async def answer(request: control.Request) -> control.Answer:
        del request
        return control.Status(
            edge="https://localhost:8443",
            mtls="https://localhost:8446",
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
    server = Server(as_envoy, layout.mesh / OPERATOR / "risk.sock", drain_seconds=1)
    serving = asyncio.create_task(server.serve())
    await server.listening.wait()

    async def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = await asyncio.to_thread(dispatch, ["risk", *arguments, "--data", str(layout.data)])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    try:
        yield command
    finally:
        server.stop()
        await serving
        await supervisor.stop()


async def test_the_lists_are_kept_from_the_command_line(run: Run, env: Env) -> None:
    good, bad = card(), card()
    assert (await run("deny", "card", bad, "--tenant", "acme", "--note", "stolen"))[:2] == (0, f"deny card {bad}\n")
    assert (await run("allow", "card", good, "--tenant", "acme"))[0] == 0
    assert (await run("deny", "client", CLIENT))[0] == 0
    status, out, _ = await run("lists", "--tenant", "acme", "--json")
    assert status == 0
    assert sorted(json.loads(out)["data"], key=lambda each: str(each["outcome"])) == [
        {"tenant": "acme", "outcome": "allow", "kind": "card", "value": good, "note": ""},
        {"tenant": "acme", "outcome": "deny", "kind": "card", "value": bad, "note": "stolen"},
    ]
    shown = (await run("lists", "--tenant", "acme"))[1]
    assert bad in shown
    assert "stolen" in shown
    assert (await env.decide(card=bad))["reasons"] == ["deny-list-card"]
    assert (await env.decide(card=good, minor=9_000_000))["decision"] == "allow"
    status, out, _ = await run("remove", "card", bad, "--tenant", "acme", "--json")
    assert (status, json.loads(out)["removed"]) == (0, True)
    assert (await env.decide(card=bad))["decision"] == "allow"
    status, out, err = await run("remove", "card", bad, "--tenant", "acme")
    assert (status, out) == (1, "")
    assert "none of the tenant's lists" in err
    assert json.loads((await run("lists", "--json"))[1])["data"][0]["value"] == CLIENT


async def test_empty_lists_say_so(run: Run, env: Env) -> None:
    del env
    assert (await run("lists", "--tenant", "acme"))[:2] == (0, "the lists of acme are empty\n")
    assert json.loads((await run("lists", "--tenant", "acme", "--json"))[1]) == {"data": []}


async def test_a_tenant_that_is_not_there_has_no_lists(run: Run, env: Env) -> None:
    for arguments in (("deny", "client", CLIENT), ("remove", "client", CLIENT), ("lists",)):
        status, out, err = await run(*arguments, "--tenant", "nope")
        assert (status, out) == (1, "")
        assert "there is no tenant nope" in err
    assert await env.service.query("SELECT * FROM list_entry") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("deny", "card", "4242424242424242"), ("deny", "card", "acc_" + "0" * 26), ("deny", "card", "fp_short"),
        ("allow", "planet", "fp_" + "0" * 26), ("deny", "card", "fp_" + "0" * 26, "--tenant", "A B"),
        ("deny", "card", "fp_" + "0" * 26, "--note", "n" * 201), ("remove", "card", "../x"), ("deny", "card"),
        ("lists", "--tenant", "a/b"), ("deny", "card", "fp_" + "0" * 26, "--note", "stolen, was 4242 4242 4242 4242"),
    ],
)  # fmt: skip
async def test_wrong_usage_changes_nothing_and_repeats_no_number(
    run: Run, env: Env, arguments: tuple[str, ...]
) -> None:
    status, out, err = await run(*arguments)
    assert (status, out) == (2, "")
    assert not re.search("4242 ?4242", err)
    assert await env.service.query("SELECT * FROM list_entry") == []


async def test_without_a_platform_it_says_so(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = await asyncio.to_thread(dispatch, ["risk", "lists", "--data", str(directory / "nothing")])
    assert status == 3
    capsys.readouterr()
