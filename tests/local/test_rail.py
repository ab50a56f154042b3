"""The sandbox rail: what each number does, and that it remembers across a restart without keeping a number."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.clock import ManualClock
from tallystick.kernel.luhn import luhn
from tallystick.kernel.money import Money
from tallystick.local import rail
from tallystick.local.rail import Authorization, Rail, RailSettings, decide_move

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
EUR = {"amount": "1250", "currency": "EUR"}


class Caller:
    def __init__(self, session: aiohttp.ClientSession, clock: ManualClock) -> None:
        self.session = session
        self.clock = clock

    async def post(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        async with self.session.post(f"http://rail{path}", json=body) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        async with self.session.get(f"http://rail{path}") as answer:
            return answer.status, await answer.json()

    async def authorize(self, request_id: str, number: str = "4242424242424242", **more: Any) -> dict[str, Any]:
        card = {"number": number, "exp_month": 12, "exp_year": 2030}
        status, answer = await self.post(
            "/authorizations", {"request_id": request_id, "amount": EUR, "card": card, **more}
        )
        assert status == 200, answer
        assert answer["sandbox"] is True
        return answer


@asynccontextmanager
async def running(folder: Path, clock: ManualClock, slow: float = 30.0) -> AsyncIterator[Caller]:
    settings = RailSettings(socket=folder / "rail.sock", data=folder / "rail.db", slow_seconds=slow)
    it = Rail(settings, clock)
    runner = web.AppRunner(it.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(settings.socket)).start()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(settings.socket))) as session:
        yield Caller(session, clock)
    await runner.cleanup()
    it.close()


@pytest.fixture
async def caller(tmp_path: Path) -> AsyncIterator[Caller]:
    async with running(tmp_path, ManualClock(NOW)) as it:
        yield it


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        ("4242424242424242", "approved", "00"),
        ("4000000000000002", "declined", "05"),
        ("4000000000009995", "declined", "51"),
        ("4111111111111111", "approved", "00"),
        ("4111111111111112", "declined", "14"),
    ],
)
async def test_numbers(caller: Caller, number: str, status: str, code: str) -> None:
    answer = await caller.authorize("r1", number)
    assert (answer["status"], answer["code"]) == (status, code)
    assert number not in str(answer)


async def test_expired(caller: Caller) -> None:
    body = {
        "request_id": "r1",
        "amount": EUR,
        "card": {"number": "4242424242424242", "exp_month": 10, "exp_year": 2026},
    }
    assert (await caller.post("/authorizations", body))[1]["code"] == "54"


async def test_a_repeat_gets_the_same_answer_and_another_content_409(caller: Caller) -> None:
    first = await caller.authorize("r1")
    assert await caller.authorize("r1") == first
    body = {
        "request_id": "r1",
        "amount": EUR,
        "card": {"number": "4111111111111111", "exp_month": 12, "exp_year": 2030},
    }
    status, answer = await caller.post("/authorizations", body)
    assert (status, answer["error"], answer["sandbox"]) == (409, "request-id-reused", True)
    status, _ = await caller.post("/voids", {"request_id": "r1", "authorization": "r1"})
    assert status == 409


async def test_lost_answer(caller: Caller) -> None:
    with pytest.raises(aiohttp.ClientError):
        await caller.authorize("r1", "4000000000000341")
    status, looked_up = await caller.get("/authorizations/r1")
    assert (status, looked_up["status"]) == (200, "approved")
    assert await caller.authorize("r1", "4000000000000341") == looked_up


async def test_slow_answer(tmp_path: Path) -> None:
    """The decision is there at once; the answer comes when its time has come, also for a repeat."""
    clock = ManualClock(NOW)
    async with running(tmp_path, clock, slow=3600.0) as it:
        waiting = asyncio.create_task(it.authorize("r1", "4000000000000119"))
        while (await it.get("/authorizations/r1"))[0] == 404:
            await asyncio.sleep(0.01)
        assert not waiting.done()
        waiting.cancel()
        clock.advance(timedelta(seconds=3601))
        assert (await it.authorize("r1", "4000000000000119"))["status"] == "approved"


async def test_capture_refund_void(caller: Caller) -> None:
    await caller.authorize("a")

    async def move(path: str, request_id: str, amount: str, currency: str = "EUR") -> tuple[str, str]:
        body = {"request_id": request_id, "authorization": "a", "amount": {"amount": amount, "currency": currency}}
        _, answer = await caller.post(path, body)
        return answer["status"], answer["code"]

    assert await move("/captures", "c1", "1000") == ("approved", "00")
    assert await move("/captures", "c2", "251") == ("declined", "61")
    assert await move("/captures", "c3", "1", "USD") == ("declined", "12")
    assert await move("/refunds", "f1", "1001") == ("declined", "61")
    assert await move("/refunds", "f2", "600") == ("approved", "00")
    assert await move("/refunds", "f2", "600") == ("approved", "00")
    assert await move("/refunds", "f3", "401") == ("declined", "61")
    assert await move("/refunds", "f4", "400") == ("approved", "00")
    void = {"request_id": "v1", "authorization": "a"}
    assert (await caller.post("/voids", void))[1]["status"] == "approved"
    assert await move("/captures", "c4", "1") == ("declined", "61")
    assert (await caller.post("/voids", {**void, "request_id": "v2"}))[1]["code"] == "12"
    await caller.authorize("b")
    for request_id, code in (("v3", "00"), ("v4", "25")):
        assert (await caller.post("/voids", {"request_id": request_id, "authorization": "b"}))[1]["code"] == code
    assert (await caller.get("/refunds/f2"))[1]["amount"] == {"amount": "600", "currency": "EUR"}
    assert (await caller.get("/captures/f2"))[0] == 404


async def test_a_final_capture_gives_back_the_rest(caller: Caller) -> None:
    await caller.authorize("f1")
    some = {"authorization": "f1", "amount": {"amount": "200", "currency": "EUR"}}
    assert (await caller.post("/captures", {"request_id": "f2", **some}))[1]["status"] == "approved"
    last = {"request_id": "f3", **some, "final": True}
    first = await caller.post("/captures", last)
    assert first[1]["status"] == "approved"
    assert await caller.post("/captures", last) == first
    more = await caller.post("/captures", {"request_id": "f4", **some})
    assert (more[1]["status"], more[1]["code"]) == ("declined", "61")
    void = await caller.post("/voids", {"request_id": "f5", "authorization": "f1"})
    assert (void[1]["status"], void[1]["code"]) == ("declined", "12")
    changed = await caller.post("/captures", {"request_id": "f3", **some})
    assert changed[0] == 409


async def test_moves_on_nothing_and_on_a_declined_authorization(caller: Caller) -> None:
    await caller.authorize("no", "4000000000000002")
    for i, authorization in enumerate(("no", "never")):
        body = {"request_id": f"c{i}", "authorization": authorization, "amount": EUR}
        assert (await caller.post("/captures", body))[1]["code"] == "25"


async def test_dispute_comes_later(caller: Caller) -> None:
    await caller.authorize("a", "4000000000000259")
    await caller.post("/captures", {"request_id": "c", "authorization": "a", "amount": EUR})
    assert (await caller.get("/disputes"))[1]["data"] == []
    caller.clock.advance(timedelta(seconds=6))
    (dispute,) = (await caller.get("/disputes"))[1]["data"]
    assert (dispute["authorization"], dispute["capture"], dispute["amount"]) == ("a", "c", EUR)
    assert (await caller.get(f"/disputes?after={dispute['position']}"))[1]["data"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"request_id": "r1"},
        {"request_id": "r 1", "amount": EUR, "card": {"number": "4242424242424242", "exp_month": 1, "exp_year": 2030}},
        {
            "request_id": "r1",
            "amount": {"amount": "-1", "currency": "EUR"},
            "card": {"number": "4242424242424242", "exp_month": 1, "exp_year": 2030},
        },
        {
            "request_id": "r1",
            "amount": {"amount": "1", "currency": "XXY"},
            "card": {"number": "4242424242424242", "exp_month": 1, "exp_year": 2030},
        },
        {"request_id": "r1", "amount": EUR, "card": {"number": "4242", "exp_month": 1, "exp_year": 2030}},
        {"request_id": "r1", "amount": EUR, "card": {"number": "4242424242424242", "exp_month": 13, "exp_year": 2030}},
    ],
)
async def test_nonsense_is_refused(caller: Caller, body: dict[str, Any]) -> None:
    status, answer = await caller.post("/authorizations", body)
    assert (status, answer["error"], answer["sandbox"]) == (400, "invalid-request", True)
    assert "4242" not in answer["detail"]


async def test_own_refusals_say_sandbox_too(caller: Caller) -> None:
    assert await caller.get("/nowhere") == (404, {"sandbox": True, "error": "not-found", "detail": "Not Found"})
    status, answer = await caller.post("/authorizations", {"x": "y" * 20_000})
    assert (status, answer["sandbox"]) == (413, True)


async def test_remembers_across_a_kill_and_keeps_no_number(tmp_path: Path) -> None:
    number = "4556737586899855"

    async def start() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tallystick.local.rail",
            "--socket", str(tmp_path / "r.sock"), "--data", str(tmp_path / "rail.db"),
        )  # fmt: skip
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await asyncio.open_unix_connection(str(tmp_path / "r.sock"))
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    await writer.wait_closed()
                    return process

    async def ask() -> dict[str, Any]:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "r.sock"))) as session:
            return await Caller(session, ManualClock(NOW)).authorize("r1", number)

    process = await start()
    first = await ask()
    assert (tmp_path / "r.sock").stat().st_mode & 0o777 == 0o600
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    process = await start()
    assert await ask() == first
    process.terminate()
    assert await process.wait() == 0
    with sqlite3.connect(tmp_path / "rail.db") as db:
        dump = "\n".join(db.iterdump())
    db.close()
    assert b"9855".hex().upper() in dump
    assert number.encode().hex().upper() not in dump
    for file in tmp_path.glob("rail.db*"):
        assert number.encode() not in file.read_bytes()
    assert number not in dump


@given(
    st.lists(
        st.tuples(st.sampled_from(["captures", "voids", "refunds"]), st.integers(1, 120), st.booleans()), max_size=20
    )
)
def test_totals_never_pass_what_was_authorized(moves: list[tuple[rail.Kind, int, bool]]) -> None:
    state = Authorization(currency="EUR", authorized=100)
    for kind, minor, final in moves:
        _, changed = decide_move(kind, Money(minor, "EUR"), state, final=final)
        if changed is not None and final and kind == "captures":
            assert changed.captured + changed.voided == 100
        state = changed or state
        assert state.captured + state.voided <= 100
        assert 0 <= state.refunded <= state.captured


@given(st.text("0123456789", min_size=11, max_size=18), st.integers(0, 18), st.integers(1, 9))
def test_luhn_notices_one_wrong_digit(head: str, at: int, by: int) -> None:
    number = next(head + str(digit) for digit in range(10) if luhn(head + str(digit)))
    at %= len(number)
    wrong = number[:at] + str((int(number[at]) + by) % 10) + number[at + 1 :]
    assert not luhn(wrong)


def test_its_socket_may_lie_anywhere() -> None:
    socket = "/srv/josé \"x' \\n #1/rail.sock"
    assert tomllib.loads(rail.destination(Path(socket)))["sandbox-rail"]["socket"] == socket
