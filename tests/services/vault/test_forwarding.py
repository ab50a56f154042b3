"""Forwarding: the number goes where the operator said and nowhere else, and does not come back."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from valkey.asyncio import Valkey

from tallystick.chassis.egress import AddressRefused, CheckedResolver
from tallystick.services.vault.model import Destination
from tallystick.services.vault.service import forwarding
from tests.conftest import DatabaseFor
from tests.services.vault.support import CARD, IBAN, NUMBER, SLOW, Env, answered, item, rail, running, slug
from tests.support.http import World
from tests.support.ports import free_port

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def test_the_acquirer_gets_the_number_and_payments_does_not(env: Env) -> None:
    token = await env.create()
    (result,) = await env.forward(item("req_1", token["id"]))
    decision = answered(result)
    assert (decision["status"], decision["card"]["last4"], decision["sandbox"]) == ("approved", "9855", True)
    assert NUMBER not in json.dumps(result)
    fact = (await env.facts())[-1]
    assert (fact["type"], fact["tenant"], fact["actor"]) == ("vault.tokens.forwarded", "acme", "payments")
    assert fact["data"]["uses"] == [[token["id"], "sandbox-rail", "req_1", "cli_one"]]
    capture = {"request_id": "req_2", "authorization": "req_1", "amount": {"amount": "1250", "currency": "EUR"}}
    request = {"method": "POST", "path": "/captures", "body": json.dumps(capture)}
    (result,) = await env.forward(item("req_2", None, request=request))
    assert answered(result)["status"] == "approved"
    (result,) = await env.forward(item("req_3", None, request={"method": "GET", "path": "/authorizations/req_1"}))
    assert answered(result) == decision


async def test_each_item_stands_alone(env: Env) -> None:
    token, gone, foreign = await env.create(), await env.create(), await env.create(tenant="other")
    bank = (await env.edge("POST", "/v1/tokens", {"type": "bank_account", "bank_account": {"iban": IBAN}})).json
    await env.edge("DELETE", f"/v1/tokens/{gone['id']}")
    request = item("x", None)["request"]
    results = await env.forward(
        item("r1", token["id"], wait=True),
        item("r2", gone["id"]),
        item("r3", foreign["id"]),
        item("r4", "nonsense"),
        item("r5", token["id"], token=5),
        item("r6", token["id"], destination="elsewhere"),
        item("r7", token["id"], request={**request, "path": "/admin"}),
        item("r8", token["id"], request={**request, "path": "/authorizations/../admin"}),
        item("r9", token["id"], request={**request, "method": "PUT"}),
        item("ra", token["id"], request={**request, "headers": {"X-Forwarded-For": "1.2.3.4"}}),
        item("rb", None),
        item("rc", token["id"], request={**request, "body": "{}"}),
        item("rd", token["id"], request={**request, "body": "{{card.cvc}}"}),
        item("re", bank["id"]),
        item("rf", token["id"], wait=True),
    )
    assert answered(results[0])["status"] == answered(results[-1])["status"] == "approved"
    assert [slug(result) for result in results[1:-1]] == [
        "token-destroyed", "token-not-found", "token-not-found", "invalid-request",
        *["destination-not-allowed"] * 5, *["invalid-forward"] * 4,
    ]  # fmt: skip
    uses = [
        use for fact in await env.facts() if fact["type"] == "vault.tokens.forwarded" for use in fact["data"]["uses"]
    ]
    assert [use[2] for use in uses] == ["r1", "rf"]


async def test_only_payments_may_forward(env: Env) -> None:
    token = await env.create()
    for peer in ("risk", "ledger", "vault", "operator"):
        assert (await env.mesh("/internal/forward", [item("r", token["id"])], peer=peer)).status == 403
    assert (
        await env.edge("POST", "/internal/forward", {"tokens": ["x"], "items": [item("r", token["id"])]})
    ).status in (
        403,
        404,
    )
    (result,) = await env.forward(item("r", token["id"]), tenant="other")
    assert slug(result) == "token-not-found"
    (result,) = await env.forward(item("r", token["id"]), exp=1)
    assert slug(result) == "unauthenticated"


@pytest.mark.parametrize("path", ["/a b", "/a\n", "/{{card.number}}", "/a%2e%2e/b", "http://evil/", "/a#b", "/a\\b"])
async def test_paths_that_are_none(env: Env, path: str) -> None:
    token = await env.create()
    request = {"method": "POST", "path": path, "body": "{{card.number}}"}
    assert (await env.mesh("/internal/forward", [item("r", token["id"], request=request)])).status == 400


async def test_a_slow_acquirer_holds_up_nobody(
    around: World, database_for: DatabaseFor, valkey: Valkey, directory: Path
) -> None:
    """The slow item is `pending`; asked for again it is joined, and the acquirer has seen it once."""
    service = await database_for("tallystick.services.vault")
    goes_on = asyncio.Event()
    async with (
        rail(directory, slow_seconds=0, goes_on=goes_on) as seen,
        running(around, service, valkey, directory) as env,
    ):
        slow = await env.create({**CARD, "number": SLOW})
        fast = await env.create()
        results = await env.forward(
            item("slow", slow["id"], timeout_ms=60_000), item("fast", fast["id"], wait=True, timeout_ms=60_000)
        )
        assert results[0] == {"pending": True}
        assert answered(results[1])["status"] == "approved"
        other = item("slow", fast["id"], wait=True)
        assert slug((await env.forward(other))[0]) == "invalid-forward"
        joined = asyncio.create_task(env.forward(item("slow", slow["id"], wait=True, timeout_ms=60_000)))
        await asyncio.sleep(0)
        goes_on.set()
        (result,) = await joined
        assert answered(result)["status"] == "approved"
        assert seen.count("POST /authorizations") == 2


async def test_an_answer_in_no_time_is_an_unknown_outcome(env: Env) -> None:
    slow = await env.create({**CARD, "number": "4000000000000119"})
    (result,) = await env.forward(item("r", slow["id"], timeout_ms=200))
    assert slug(result) == "forward-outcome-unknown"
    (result,) = await env.forward(item("l", None, request={"method": "GET", "path": "/authorizations/r"}))
    assert answered(result)["status"] == "approved"


async def test_a_lost_answer_and_its_repeat(env: Env) -> None:
    lost = await env.create({**CARD, "number": "4000000000000341"})
    (result,) = await env.forward(item("r", lost["id"]))
    assert slug(result) == "forward-outcome-unknown"
    (again,) = await env.forward(item("r", lost["id"]))
    assert answered(again)["status"] == "approved"


async def test_a_rail_that_is_down_got_nothing(
    around: World, database_for: DatabaseFor, valkey: Valkey, directory: Path
) -> None:
    service = await database_for("tallystick.services.vault")
    async with running(around, service, valkey, directory) as env:
        token = await env.create()
        (result,) = await env.forward(item("r", token["id"]))
        assert slug(result) == "not-forwarded"
        async with rail(directory):
            assert answered((await env.forward(item("r", token["id"])))[0])["status"] == "approved"


async def test_nothing_is_sent_before_its_use_is_recorded(
    around: World, database_for: DatabaseFor, valkey: Valkey, directory: Path
) -> None:
    service = await database_for("tallystick.services.vault")
    async with rail(directory) as seen, running(around, service, valkey, directory) as env:
        token = await env.create()
        connection = await service.connection()
        await connection.execute(f"REVOKE INSERT ON outbox FROM {service.dsn.user}")
        await connection.close()
        assert (await env.mesh("/internal/forward", [item("r", token["id"])])).status >= 500
        assert seen == []


async def test_what_could_not_be_recorded_leaves_no_number_in_memory(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    token = (await env.create())["id"]
    filled: list[Any] = []
    fill = forwarding._fill

    def noted(*of: Any) -> Any:
        filled.append(fill(*of))
        return filled[-1]

    monkeypatch.setattr(forwarding, "_fill", noted)
    connection = await env.service.connection()
    await connection.execute(f"REVOKE INSERT ON outbox FROM {env.service.dsn.user}")
    assert (await env.mesh("/internal/forward", [item("r", token)])).status >= 500
    await connection.execute(f"GRANT INSERT ON outbox TO {env.service.dsn.user}")
    await connection.close()
    (one,) = filled
    assert set(one.body) == set(one.number) == {0}


async def test_many_at_once(env: Env) -> None:
    tokens = await asyncio.gather(*(env.create() for _ in range(20)))
    batches = await asyncio.gather(
        *(env.forward(*(item(f"r{b}-{i}", tokens[i]["id"], wait=True) for i in range(20))) for b in range(10))
    )
    assert {answered(result)["status"] for batch in batches for result in batch} == {"approved"}


# ---- destinations that misbehave


@asynccontextmanager
async def acquirer(handler: Handler) -> AsyncIterator[tuple[Destination, list[web.Request]]]:
    """A destination on loopback that answers as `handler` does."""
    seen: list[web.Request] = []

    async def noted(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        await request.read()
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", noted)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield (
            Destination(methods=("POST",), paths=("/pay",), host="127.0.0.1", port=port, scheme="http", private=True),
            seen,
        )
    finally:
        await runner.cleanup()


def pay(request_id: str, token: str, **changes: Any) -> dict[str, Any]:
    request = {"method": "POST", "path": "/pay", "body": '{"pan":"{{ card.number }}"}'}
    return item(request_id, token, destination="acquirer", request=request, **changes)


@pytest.fixture
def with_acquirer(
    around: World, database_for: DatabaseFor, valkey: Valkey, directory: Path
) -> Callable[[Handler], Any]:
    @asynccontextmanager
    async def make(handler: Handler) -> AsyncIterator[tuple[Env, list[web.Request]]]:
        service = await database_for("tallystick.services.vault")
        async with (
            acquirer(handler) as (destination, seen),
            running(around, service, valkey, directory, more={"acquirer": destination}) as env,
        ):
            yield env, seen

    return make


def says(body: str | bytes, status: int = 200, encoding: str = "identity", location: str = "") -> Handler:
    async def handler(request: web.Request) -> web.Response:
        raw = body if isinstance(body, bytes) else body.encode()
        return web.Response(status=status, body=raw, headers={"Content-Encoding": encoding, "Location": location})

    return handler


async def test_what_is_sent(with_acquirer: Callable[[Handler], Any]) -> None:
    async with with_acquirer(says("{}")) as (env, seen):
        token = await env.create()
        await env.forward(pay("r", token["id"]))
        assert await seen[0].json() == {"pan": NUMBER}
        assert seen[0].headers["Accept-Encoding"] == "identity"
        assert NUMBER not in str(seen[0].headers) + str(seen[0].url)


async def test_a_header_is_sent_once_however_its_name_is_written(
    around: World, database_for: DatabaseFor, valkey: Valkey, directory: Path
) -> None:
    """`content-type` of the request went out beside the vault's own `Content-Type`."""
    async with acquirer(says("{}")) as (destination, seen):
        taking = msgspec.structs.replace(destination, headers=("Content-Type", "User-Agent"))
        service = await database_for("tallystick.services.vault")
        async with running(around, service, valkey, directory, more={"acquirer": taking}) as env:
            request = {"method": "POST", "path": "/pay", "body": "pan={{ card.number }}"}
            sent = {"content-type": "application/x-www-form-urlencoded", "user-agent": "shop"}
            token = (await env.create())["id"]
            await env.forward(item("r", token, destination="acquirer", request={**request, "headers": sent}))
            assert {name: seen[0].headers.getall(name) for name in sent} == {n: [v] for n, v in sent.items()}


@pytest.mark.parametrize(
    "echo",
    [
        f'{{"pan":"{NUMBER}"}}',
        '{"pan":"4556 7375 8689 9855"}',
        '{"pan":"4556-7375-8689-9855"}',
        '{"pan":"4556.7375.8689.9855"}',
        f"error near {NUMBER * 2}",
    ],
)
async def test_a_number_in_the_answer_is_masked(with_acquirer: Callable[[Handler], Any], echo: str) -> None:
    async with with_acquirer(says(echo)) as (env, _):
        (result,) = await env.forward(pay("r", (await env.create())["id"]))
        assert result["answer"]["masked"] is True
        assert "455673******9855" in result["answer"]["body"]
        assert "737586" not in result["answer"]["body"].replace(" ", "")


@pytest.mark.parametrize(
    "echo",
    [
        json.dumps({"pan": base64.b64encode(NUMBER.encode()).decode()}),
        json.dumps({"pan": base64.b64encode(b'{"pan":"' + NUMBER.encode() + b'"}').decode()}),
        json.dumps({"pan": base64.b64encode(b"x" + NUMBER.encode() + b"y").decode()}),
        json.dumps({"pan": NUMBER.encode().hex()}),
        '{"pan":"' + "".join(f"\\u{ord(c):04x}" for c in NUMBER) + '"}',
        "pan=" + "".join(f"%{ord(c):02x}" for c in NUMBER),
        "".join(f"&#{ord(c)};" for c in NUMBER),
        json.dumps({"a": NUMBER[:8], "b": NUMBER[8:]}),
        json.dumps([int(c) for c in NUMBER]),
        "_".join(NUMBER),
        b"\xff\xfe" + NUMBER.encode(),
        NUMBER.encode("utf-16-le"),
    ],
)
async def test_a_number_in_disguise_is_not_passed_on(
    with_acquirer: Callable[[Handler], Any], echo: str | bytes
) -> None:
    async with with_acquirer(says(echo)) as (env, _):
        (result,) = await env.forward(pay("r", (await env.create())["id"]))
        assert slug(result) == "forward-answer-refused"
        assert "9855" not in json.dumps(result)


async def test_one_request_id_is_sent_once(with_acquirer: Callable[[Handler], Any]) -> None:
    async with with_acquirer(says("{}")) as (env, seen):
        token = (await env.create())["id"]
        one, other = pay("r", token), pay("r", token)
        other["request"] = {**other["request"], "body": '{"pan":"{{card.number}}","amount":"2"}'}
        results = await env.forward(one, other, one)
        assert [slug(result) if "problem" in result else "sent" for result in results] == [
            "sent",
            "invalid-forward",
            "sent",
        ]
        assert len(seen) == 1
        # At the same moment from two callers: neither has been sent when the other asks.
        again = pay("s", token, wait=True)
        calls = await asyncio.gather(*(env.forward(again) for _ in range(5)))
        assert [answered(result) for (result,) in calls] == [{}] * 5
        assert len(seen) == 2
        uses = [fact["data"]["uses"] for fact in await env.facts() if fact["type"] == "vault.tokens.forwarded"]
        assert [[use[2] for use in each] for each in uses] == [["r"], ["s"]]
        # What is over and told is forgotten: the same request asked for anew is sent anew.
        await env.forward(one)
        assert len(seen) == 3


async def test_who_joined_is_told_when_it_was_not_sent(env: Env) -> None:
    token = (await env.create())["id"]
    connection = await env.service.connection()
    await connection.execute(f"REVOKE INSERT ON outbox FROM {env.service.dsn.user}")
    answers = await asyncio.gather(*(env.mesh("/internal/forward", [item("r", token, wait=True)]) for _ in range(2)))
    assert all(answer.status >= 500 or "problem" in answer.json["items"][0] for answer in answers)
    await connection.execute(f"GRANT INSERT ON outbox TO {env.service.dsn.user}")
    await connection.close()
    (result,) = await env.forward(item("r", token))
    assert answered(result)["status"] == "approved"


@pytest.mark.parametrize("method", ["PUT", "GET", "POST"])
async def test_what_went_out_is_never_told_as_not_sent(
    parts: tuple[World, DatabaseFor, Valkey, Path], method: str
) -> None:
    """Requests that may be repeated are, on a second connection: that this one is refused says nothing of the first."""
    heads: list[bytes] = []
    server: asyncio.Server

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b""):
            head = await reader.readuntil(b"\r\n\r\n")
            heads.append(head)
            length = next(
                (int(line[16:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
            )
            await reader.readexactly(length)
            if not answer:
                server.close()  # nobody takes a second connection
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    there = Destination(
        methods=("PUT", "GET", "POST"),
        paths=("/pay",),
        host="acquirer.internal",
        port=port,
        scheme="http",
        private=True,
    )
    body = {} if method == "GET" else {"body": '{"pan":"{{card.number}}"}'}
    async with server, at(there, [["127.0.0.1"]], parts) as (env, _):
        token = None if method == "GET" else (await env.create())["id"]
        request = {"method": method, "path": "/pay", **body}
        first, second = [
            (await env.forward(item(name, token, destination="acquirer", request=request)))[0] for name in "ab"
        ]
        assert first["answer"]["status"] == 200
        assert slug(second) == "forward-outcome-unknown"
        assert len(heads) == 2
        (third,) = await env.forward(item("c", token, destination="acquirer", request=request))
        assert slug(third) == "not-forwarded"


async def test_redirects_are_not_followed(with_acquirer: Callable[[Handler], Any]) -> None:
    async with acquirer(says("stolen")) as (other, stolen):
        location = f"http://127.0.0.1:{other.port}/pay"
        for status in (301, 302, 303, 307, 308):
            async with with_acquirer(says("", status, location=location)) as (env, _):
                (result,) = await env.forward(pay("r", (await env.create())["id"]))
                assert result["answer"]["status"] == status
        assert stolen == []


@pytest.mark.parametrize(
    "handler",
    [
        says("x" * 20_000),
        says(gzip.compress(b"x" * 10_000_000), 200, "gzip"),
    ],
    ids=["too large", "compressed"],
)
async def test_answers_that_are_refused(with_acquirer: Callable[[Handler], Any], handler: Handler) -> None:
    async with with_acquirer(handler) as (env, _):
        (result,) = await env.forward(pay("r", (await env.create())["id"]))
        assert slug(result) == "forward-answer-refused"


async def test_an_endless_answer_ends(with_acquirer: Callable[[Handler], Any]) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x")
            await asyncio.sleep(0.02)

    async with with_acquirer(drip) as (env, _):
        (result,) = await env.forward(pay("r", (await env.create())["id"], timeout_ms=300))
        assert slug(result) == "forward-outcome-unknown"


# ---- addresses


@asynccontextmanager
async def at(
    destination: Destination, addresses: list[list[str]], parts: tuple[World, DatabaseFor, Valkey, Path]
) -> AsyncIterator[tuple[Env, list[str]]]:
    """A vault whose resolver gives the addresses of each look-up in turn."""
    around, database_for, valkey, directory = parts
    asked: list[str] = []

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        return addresses[min(len(asked), len(addresses)) - 1]

    service = await database_for("tallystick.services.vault")
    async with running(around, service, valkey, directory, more={"acquirer": destination}, resolve=resolve) as env:
        yield env, asked


@pytest.fixture
def parts(
    around: World, database_for: DatabaseFor, valkey: Valkey, directory: Path
) -> tuple[World, DatabaseFor, Valkey, Path]:
    return around, database_for, valkey, directory


NAMED = Destination(methods=("POST",), paths=("/pay",), host="acquirer.example", port=443)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["fd00::1"],
        ["fe80::1"],
        ["64:ff9b::7f00:1"],
        ["0.0.0.0"],
        ["100.64.0.1"],
        ["224.0.0.1"],
        ["93.184.216.34", "127.0.0.1"],
        [],
        ["not an address"],
    ],
    ids=str,
)
async def test_names_at_private_addresses(parts: tuple[World, DatabaseFor, Valkey, Path], addresses: list[str]) -> None:
    async with at(NAMED, [addresses], parts) as (env, _):
        (result,) = await env.forward(pay("r", (await env.create())["id"]))
        assert slug(result) == "not-forwarded"


async def test_the_address_that_was_checked_is_the_one_that_is_used() -> None:
    """A resolver that answers differently each time is asked once for a connection, and its answer is what is used."""
    answers = [["93.184.216.34"], ["127.0.0.1"], ["93.184.216.34", "10.0.0.1"]]

    async def rebinding(host: str) -> list[str]:
        return answers.pop(0)

    checked = CheckedResolver(rebinding, private=False)
    assert [found["host"] for found in await checked.resolve("acquirer.example", 443)] == ["93.184.216.34"]
    for _ in range(2):
        with pytest.raises(AddressRefused):
            await checked.resolve("acquirer.example", 443)


async def test_a_name_that_moves_after_it_was_checked(parts: tuple[World, DatabaseFor, Valkey, Path]) -> None:
    """DNS rebinding: each connection is checked anew, and nothing that listens on this machine hears of it."""
    hits: list[str] = []

    async def trap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hits.append("hit")
        writer.close()

    server = await asyncio.start_server(trap, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    moving = Destination(methods=("POST",), paths=("/pay",), host="acquirer.example", port=port)
    async with server, at(moving, [["127.0.0.1"], ["127.0.0.1"]], parts) as (env, asked):
        token = await env.create()
        for i in range(3):
            (result,) = await env.forward(pay(f"r{i}", token["id"]))
            assert slug(result) == "not-forwarded"
        assert asked == ["acquirer.example"] * 3
    assert hits == []


async def test_an_operator_may_allow_a_private_address(parts: tuple[World, DatabaseFor, Valkey, Path]) -> None:
    async with acquirer(says("{}")) as (open_, seen):
        named = Destination(
            methods=("POST",), paths=("/pay",), host="acquirer.internal", port=open_.port, scheme="http", private=True
        )
        async with at(named, [["127.0.0.1"]], parts) as (env, _):
            (result,) = await env.forward(pay("r", (await env.create())["id"]))
            assert result["answer"]["status"] == 200
            assert len(seen) == 1


async def test_a_server_without_a_certificate_gets_nothing(parts: tuple[World, DatabaseFor, Valkey, Path]) -> None:
    """https to a server that speaks plain HTTP, or whose certificate nobody vouches for."""
    async with acquirer(says("{}")) as (open_, seen):
        named = Destination(
            methods=("POST",), paths=("/pay",), host="acquirer.internal", port=open_.port, scheme="https", private=True
        )
        async with at(named, [["127.0.0.1"]], parts) as (env, _):
            (result,) = await env.forward(pay("r", (await env.create())["id"]))
            assert slug(result) == "not-forwarded"
            assert seen == []
