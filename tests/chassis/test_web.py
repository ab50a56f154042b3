"""Web: the real application, the real authenticator, real policies; each kind of bad input has its answer."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator
from valkey.asyncio import Valkey

from tallystick.chassis.auth.cedar import Authorizer
from tallystick.chassis.charter import DURATION_BOUNDS_MS, Rate
from tallystick.chassis.deadline import Deadline
from tallystick.chassis.limits import Bucket, Limits
from tallystick.chassis.shares import OWNER
from tallystick.chassis.telemetry import context, logs
from tallystick.chassis.telemetry.metrics import registry
from tallystick.chassis.web import (
    Application,
    Endpoint,
    Further,
    Page,
    Paging,
    Reply,
    Request,
    cursor,
    openapi,
    page,
    read_cursor,
    wire,
)
from tallystick.chassis.web.decode import MAX_DEPTH, body_decoder, check_strict, locate, query_decoder
from tallystick.kernel.money import MoneyWire
from tallystick.kernel.numbers import NUMBER_BELONGS
from tallystick.kernel.problem import (
    Conflict,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Problem,
    StorageFull,
    Unavailable,
)
from tests.support.http import Answer, World, ask, world

POLICY = """
permit (principal, action in [Action::"sell", Action::"list", Action::"look", Action::"stock"], resource)
when { principal.tenant == resource.tenant };
"""

CARD = "4242424242424242"
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    amount: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,19}$", max_length=19, extra=NUMBER_BELONGS)]
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$", max_length=3)]


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    count: Annotated[int, msgspec.Meta(ge=1, le=99)]
    price: Price


class Sale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    lines: Annotated[list[Line], msgspec.Meta(min_length=1, max_length=1000)]
    note: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    tags: Annotated[dict[str, Annotated[str, msgspec.Meta(max_length=9)]], msgspec.Meta(max_length=5)] = {}


class Capture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    price: Price | None = None


class Sold(msgspec.Struct, frozen=True):
    id: str
    lines: int
    problem: dict[str, object] | msgspec.UnsetType = msgspec.UNSET


class Filter(Paging, frozen=True, kw_only=True):
    state: Annotated[str, msgspec.Meta(max_length=10)] | None = None
    sequence: Annotated[int, msgspec.Meta(ge=0)] | None = None


Number = Annotated[str, msgspec.Meta(max_length=20, extra_json_schema={"pattern": "^sale_[0-9]+$"})]


class Form(msgspec.Struct, frozen=True):
    grant_type: str
    scope: str | None = None


class Refused(msgspec.Struct, frozen=True):
    error: str


class Stock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: list[str]


class SoldOut(Conflict):
    slug, title = "sold-out", "It is sold out"


class Shop:
    def __init__(self) -> None:
        self.requests: list[Request[Any, Any]] = []
        self.raises: BaseException | None = None
        self.release: asyncio.Event | None = None
        self.status: int | None = None


async def sell(shop: Shop, request: Request[Sale]) -> Reply[Sold]:
    shop.requests.append(request)
    if shop.raises is not None:
        raise shop.raises
    if shop.release is not None:
        await shop.release.wait()
    return Reply(Sold(id="sale_1", lines=len(request.body.lines)), shop.status)


async def capture(shop: Shop, request: Request[Capture]) -> Reply[Capture]:
    shop.requests.append(request)
    return Reply(request.body, replayed=True)


async def look(shop: Shop, request: Request) -> Reply[Sold]:
    return Reply(Sold(id=request.path["id"], lines=0), headers={"Cache-Control": "max-age=60"})


async def listing(shop: Shop, request: Request[None, Filter]) -> Reply[Page[Sold]]:
    start = read_cursor(request.query.after, int)
    first = 0 if start is None else int(start[0])
    found = [Sold(id=str(n), lines=n) for n in range(first + 1, min(first + request.query.limit + 1, 7) + 1)]
    return Reply(page(found, request.query.limit, lambda sold: (sold.lines,)))


async def stock(shop: Shop, request: Request[Stock]) -> Reply[list[str]]:
    shop.requests.append(request)
    judged = await request.judge(request.body.tokens)
    return Reply([each.slug if isinstance(each, Problem) else each.client_id for each in judged])


async def token(shop: Shop, request: Request[Form]) -> Reply[Any]:
    return Reply({"scope": request.body.scope}, headers={"Content-Type": "application/json"})


async def tile(shop: Shop, request: Request) -> Reply[Any]:
    return Reply.raw(request.path["tile"].encode())


ENDPOINTS = (
    Endpoint(
        "POST", "/v1/sales", sell, scope="payments:write", action="sell", resource="Sale", body=Sale, answer=Sold,
        status=201, further={202: Further("Taken", Sold)}, idempotency="required", rate="money", problems=(SoldOut,), timeout=60,
        summary="Sell",
    ),
    Endpoint("GET", "/v1/sales", listing, scope="payments:read", action="list", query=Filter, answer=Page[Sold]),
    Endpoint("GET", "/v1/sales/{id}", look, scope="payments:read", action="look", answer=Sold, rate="few", segments={"id": Number}),
    Endpoint("POST", "/v1/sales/{id}/capture", capture, scope="payments:write", action="forbidden", body=Capture, segments={"id": str}),
    Endpoint("POST", "/internal/stock", stock, mesh=("payments",), action="stock", body=Stock, answer=list[str]),
    Endpoint("POST", "/oauth2/token", token, public="it authenticates by itself", body=Form, media="form"),
    Endpoint("POST", "/public/capture", capture, public="a test", body=Capture, idempotency="optional"),
    Endpoint("POST", "/oauth2/raw", token, public="the same, its form its own", form=Form, media="form", refusal=Refused),
    Endpoint("GET", "/tile/{tile:path}", tile, public="a log is public", produces="application/octet-stream", segments={"tile": str}),
)  # fmt: skip

SALE = {"lines": [{"count": 2, "price": {"amount": "1250", "currency": "EUR"}}]}
GOOD = json.dumps(SALE).encode()
KEY = (b"idempotency-key", b"sale-1")


class Env:
    def __init__(self, around: World, valkey: Valkey) -> None:
        self.world = around
        self.shop = Shop()
        self.limits = Limits(
            "shop",
            {"money": Rate(per_second=10_000, burst=10_000), "few": Rate(per_second=1, burst=2)},
            max_in_flight=4,
            max_queue=2,
            valkey=valkey,
        )
        # A token an hour: how many a test takes must not depend on how fast it is.
        self.limits._buckets["few"] = Bucket(3600e6, 2)
        self.parts = {"database": True}
        self.app = self.application(ENDPOINTS)

    def application(self, endpoints: Sequence[Endpoint], max_body_bytes: int = 64 * 1024) -> Application:
        return Application(
            "shop",
            self.shop,
            endpoints,
            authenticator=self.world.authenticator,
            authorizer=Authorizer(POLICY),
            limits=self.limits,
            max_body_bytes=max_body_bytes,
            ready=lambda: (self.parts["database"], self.parts),
        )

    async def sell(self, body: Any = GOOD, *more: tuple[bytes, bytes], key: bool = True) -> Answer:
        headers = [*self.world.edge("POST", "/v1/sales"), *more, *([KEY] if key else [])]
        return await ask(self.app, "POST", "/v1/sales", body, headers)

    async def get(self, target: str, **claims: Any) -> Answer:
        return await ask(self.app, "GET", target, headers=self.world.edge("GET", target.partition("?")[0], **claims))


@pytest_asyncio.fixture
async def env(directory: Path, valkey: Valkey) -> AsyncIterator[Env]:
    async with world(directory, valkey) as around:
        yield Env(around, valkey)


def pointer(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["errors"][0]["pointer"]


# --- a good request


async def test_a_request_is_answered(env: Env) -> None:
    with logs.captured() as lines:
        answer = await env.sell(GOOD, (b"traceparent", TRACE))
    assert answer.status == 201
    assert answer.json == {"id": "sale_1", "lines": 1}
    assert answer.header("request-id") == TRACE[3:35].decode()
    assert answer.header("cache-control") == "no-store"
    assert answer.header("content-type") == "application/json"
    request = env.shop.requests[0]
    assert (request.subject.tenant, request.subject.client_id) == ("acme", "cli_one")
    assert (request.idempotency_key, request.route, request.raw_body) == ("sale-1", "POST /v1/sales", GOOD)
    assert request.body.lines[0].price.amount == "1250"
    done = lines[-1]
    assert (done["event"], done["route"], done["status"]) == ("request.done", "POST /v1/sales", 201)
    assert (done["trace"], done["tenant"], done["client"]) == (TRACE[3:35].decode(), "acme", "cli_one")
    assert done["bytes_in"] == len(GOOD)
    assert context.current() is None
    assert Deadline.current() is None


async def test_a_request_without_a_trace_begins_one(env: Env) -> None:
    first, second = await env.sell(), await env.sell()
    assert first.header("request-id") != second.header("request-id")
    assert len(first.header("request-id") or "") == 32


async def test_a_body_may_come_in_pieces(env: Env) -> None:
    assert (await env.sell([GOOD[:5], b"", GOOD[5:]])).status == 201


async def test_a_replayed_answer_says_so_and_an_optional_body_may_be_left_out(env: Env) -> None:
    for body in (None, b"", b"{}"):
        answer = await ask(env.app, "POST", "/public/capture", body)
        assert (answer.status, answer.json) == (200, {"price": None})
        assert answer.header("idempotent-replayed") == "true"
    assert env.shop.requests[0].idempotency_key is None


async def test_an_answer_may_set_its_own_caching(env: Env) -> None:
    assert (await env.get("/v1/sales/sale_9")).header("cache-control") == "max-age=60"


# --- bad bodies


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", ""),
        (b"{", ""),
        (b'{"lines": [}', ""),
        (b"null", ""),
        (b"[]", ""),
        (GOOD + b"x", ""),
        (GOOD + GOOD, ""),
        (b"\xef\xbb\xbf" + GOOD, ""),
        (b'{"lines": [], "note": "\xff"}', ""),
        (GOOD.decode().encode("utf-16"), ""),
        (b'{"lines": [], "lines": []}', ""),
        (b'{"lines": [], "l\\u0069nes": []}', ""),
        (b'{"\\ud800": 1, "\\ud800": 2}', ""),
        (b'{"lines": [{"count": 1, "price": {"amount": "1", "amount": "2", "currency": "EUR"}}]}', ""),
        (b'{"lines": [], "tags": {"a": "1", "a": "2"}}', ""),
        (b'{"note": "\\ud800", "lines": []}', ""),
        (GOOD.replace(b"}]", b"}]").replace(b'{"lines"', b'{"note": "a\\u0000b", "lines"'), ""),
        (b'{"lines": [{"count": NaN}]}', ""),
        (b'{"lines": [{"count": -Infinity}]}', ""),
        (b'{"lines": [{"count": ' + b"9" * 5000 + b"}]}", ""),
        (nested(MAX_DEPTH + 1), ""),
        (nested(30_000), ""),
        (b'{"note": ' + nested(30_000) + b', "lines": []}', ""),
        (b"{}", ""),
        (GOOD[:-1] + b', "extra": 1}', "/extra"),
        (GOOD[:-1] + b', "a/b~c": 1}', "/a~1b~0c"),
        (b'{"lines": []}', "/lines"),
        (GOOD.replace(b'"count": 2', b'"count": 0'), "/lines/0/count"),
        (GOOD.replace(b'"count": 2', b'"count": 2.0'), "/lines/0/count"),
        (GOOD.replace(b'"count": 2', b'"count": 1e1'), "/lines/0/count"),
        (GOOD.replace(b'"count": 2', b'"count": "2"'), "/lines/0/count"),
        (GOOD.replace(b'"count": 2', b'"count": true'), "/lines/0/count"),
        (GOOD.replace(b'"count": 2', b'"count": 99999999999999999999'), "/lines/0/count"),
        (GOOD.replace(b'"1250"', b'"-1"'), "/lines/0/price/amount"),
        (GOOD.replace(b'"1250"', b'"1\\n"'), ""),  # `$` matches before a final line feed
        (GOOD.replace(b'"1250"', b'"1\\u000A"'), ""),
        (GOOD.replace(b'"1250"', b"1250"), "/lines/0/price/amount"),
        (GOOD.replace(b'"EUR"', b'"EUR\\n"'), ""),
        (GOOD.replace(b'"lines"', b'"tags": {"a": 1}, "lines"'), "/tags"),
    ],
)
async def test_a_bad_body_is_refused_and_pointed_at(env: Env, body: bytes, where: str) -> None:
    answer = await env.sell(body)
    assert pointer(answer) == (400, where)
    assert answer.header("content-type") == "application/problem+json"
    document = answer.json
    assert document["type"] == "https://tallystick.dev/problems/invalid-request"
    assert (document["status"], document["retryable"]) == (400, False)
    (error,) = document["errors"]
    assert document["detail"] == (f"{where}: {error['detail']}" if where else error["detail"])
    assert document["request_id"] == answer.header("request-id")
    assert env.shop.requests == []


async def test_what_is_pointed_at_does_not_repeat_secrets_or_megabytes(env: Env) -> None:
    for name in (CARD, "x" * 60_000):
        answer = await env.sell(json.dumps({**SALE, name: 1}).encode())
        assert answer.status == 400
        assert CARD.encode() not in answer.content
        assert len(answer.content) < 1500


@pytest.mark.parametrize("as_pieces", [False, True])
async def test_a_body_of_a_mebibyte_is_refused(env: Env, as_pieces: bool) -> None:
    big = json.dumps({**SALE, "note": "x" * (1 << 20)}).encode()
    answer = await env.sell([big[n : n + 16384] for n in range(0, len(big), 16384)] if as_pieces else big)
    assert answer.status == 413
    assert answer.json["limit"] == 64 * 1024
    # closing while the other side still sends would break the connection under the answer
    assert answer.header("connection") is None


async def test_an_absurd_length_is_refused_without_reading(env: Env) -> None:
    for length in (b"9" * 400, b"-1", b"1e3", "٣".encode()):
        headers = [*env.world.edge("POST", "/v1/sales"), KEY, (b"content-length", length)]
        assert (await ask(env.app, "POST", "/v1/sales", headers=headers)).status == 413


@pytest.mark.parametrize(
    "media",
    [b"text/plain", b"application/x-www-form-urlencoded", b"application/jsonx", b"application/json; charset=latin-1"],
)
async def test_another_media_type_is_refused(env: Env, media: bytes) -> None:
    assert (await env.sell(GOOD, (b"content-type", media))).status == 415


async def test_json_may_name_its_charset_but_no_encoding(env: Env) -> None:
    assert (await env.sell(GOOD, (b"content-type", b'Application/JSON; charset="UTF-8"'))).status == 201
    assert (await env.sell(GOOD, (b"content-encoding", b"gzip"))).status == 415


async def test_a_body_where_none_is_taken_is_refused(env: Env) -> None:
    headers = env.world.edge("GET", "/v1/sales/a")
    assert (await ask(env.app, "GET", "/v1/sales/a", b'{"a": 1}', headers)).status == 400


@pytest.mark.parametrize(("came", "status"), [(b"{", 408), (b"[" * (64 * 1024 + 1), 413)])
async def test_a_body_that_stops_coming_ends_at_the_deadline(
    env: Env, monkeypatch: pytest.MonkeyPatch, came: bytes, status: int
) -> None:
    """To send the same again is no way out where more than is taken had come already."""
    monkeypatch.setattr(wire, "DISCARD_SECONDS", 0.05)
    env.app = env.application([replace(row, timeout=0.2) if row.handler is sell else row for row in ENDPOINTS])
    parts = iter([{"type": "http.request", "body": came, "more_body": True}])
    sent: list[Any] = []

    async def receive() -> Any:
        for part in parts:
            return part
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [*env.world.edge("POST", "/v1/sales"), KEY, (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": "/v1/sales", "query_string": b"", "headers": headers}
    await env.app(scope, receive, send)
    assert sent[0]["status"] == status


async def test_a_client_that_hangs_up_gets_no_answer_but_a_line(env: Env) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [*env.world.edge("POST", "/v1/sales"), KEY, (b"content-length", b"100")]
    scope = {"type": "http", "method": "POST", "path": "/v1/sales", "query_string": b"", "headers": headers}
    with logs.captured() as lines:
        await env.app(scope, receive, send)
    assert sent == []
    assert lines[-1]["status"] == 499
    assert env.limits.gate.in_flight == 0


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    lines: list[str] = []
    metadata: dict[str, str] = {}
    price: Price | None = None
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9:._-]+$", max_length=99)] | None = None
    names: dict[str, Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]+$", max_length=63)]] = {}


NUMBER = "4242424242424242"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"text": f"paid with {NUMBER}"}, "/text"),
        ({"text": "4242-4242-4242-4242"}, "/text"),
        ({"text": "DE89 3704 0044 0532 0130 00"}, "/text"),
        ({"lines": ["a", NUMBER]}, "/lines/1"),
        ({"metadata": {"a/b": NUMBER}}, "/metadata/a~1b"),
        ({"metadata": {NUMBER: "a"}}, "/metadata"),
        ({"name": NUMBER}, "/name"),
        ({"name": f"customers:{NUMBER}"}, "/name"),
        ({"name": f"evidence.{NUMBER}"}, "/name"),
        ({"name": "DE89370400440532013000"}, "/name"),
        ({"names": {"main": NUMBER}}, "/names/main"),
        ({"text": "https://shop.example/?pan=4242%204242%204242%204242"}, "/text"),
        ({"text": "https://shop.example/card-4242424242424242"}, "/text"),
    ],
)
def test_a_card_number_or_iban_in_a_text_is_refused_and_not_repeated(body: Any, pointer: str) -> None:
    guarded = body_decoder(Note, guarded=True)
    encoded = json.dumps(body).encode()
    hidden = encoded.replace(b"4242", b"\\u00342\\u00342").replace(b"DE89", b"D\\u004589")
    for each in (encoded, hidden):
        with pytest.raises(InvalidRequest) as refused:
            guarded(each)
        said = refused.value.document("trace")
        assert [error["pointer"] for error in said["errors"]] == [pointer]
        assert "POST /v1/tokens" in json.dumps(said) or "tokenise" in json.dumps(said)
        assert not re.search(r"4242|0532", json.dumps(said))
    assert body_decoder(Note)(encoded) is not None  # between services it is the edge that has looked


@pytest.mark.parametrize("name", [f"{NUMBER} 837", f"{NUMBER}/12", "gb29nwbk60161331926819 EUR", NUMBER + "837"])
def test_an_unknown_field_is_not_repeated_with_a_number_in_its_name(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        body_decoder(Note)(json.dumps({name: 1}).encode())
    assert not re.search(r"4242|926819", json.dumps(refused.value.document("trace")))


class Named(msgspec.Struct, forbid_unknown_fields=True):
    name: (
        Annotated[str, msgspec.Meta(pattern=r"^[a-z'\\]+$", max_length=9, description="a name: letters a-z")] | None
    ) = None
    names: dict[str, Annotated[str, msgspec.Meta(pattern="^[0-9]+$", max_length=9)]] = {}
    amounts: list[MoneyWire] = []
    other: Annotated[str, msgspec.Meta(pattern=r"^[a-z'\\]+$", max_length=9, description="another name")] | None = None
    words: dict[str, Annotated[str, msgspec.Meta(pattern="^[a-z]+$", max_length=9, description="a word")]] = {}


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        ({"name": "A"}, "/name", "Expected a name: letters a-z"),
        ({"names": {"x": "A"}}, "/names", "Expected `str` matching regex '^[0-9]+$'"),
        ({"amounts": [{"amount": "-1", "currency": "EUR"}]}, "/amounts/0/amount", "Expected minor units as digits"),
        ({"other": "A"}, "/other", "Expected another name"),
        ({"words": {"x": "A"}}, "/words", "Expected a word"),
        ({"name": "a" * 10}, "/name", "Expected `str` of length <= 9"),
    ],
)
def test_what_a_text_should_be_is_told_in_words(body: Any, pointer: str, detail: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        body_decoder(Named)(json.dumps(body).encode())
    [error] = refused.value.extensions["errors"]
    assert error["pointer"] == pointer
    assert error["detail"].startswith(detail)
    if "name" in body:
        with pytest.raises(InvalidRequest) as refused:
            query_decoder(OneName)(f"name={body['name']}".encode())
        assert refused.value.extensions["errors"] == [error]


class OneName(msgspec.Struct, forbid_unknown_fields=True):
    name: (
        Annotated[str, msgspec.Meta(pattern=r"^[a-z'\\]+$", max_length=9, description="a name: letters a-z")] | None
    ) = None


def test_a_long_limit_is_told() -> None:
    class Large(msgspec.Struct, forbid_unknown_fields=True):
        count: Annotated[int, msgspec.Meta(le=10**15)]

    with pytest.raises(InvalidRequest) as refused:
        body_decoder(Large)(b'{"count": 9000000000000000}')
    assert refused.value.extensions["errors"][0]["detail"] == "Expected `int` <= 1000000000000000"


def test_where_a_number_belongs_it_may_be() -> None:
    found = body_decoder(Note, guarded=True)(json.dumps({"price": {"amount": NUMBER, "currency": "EUR"}}).encode())
    assert found.price.amount == NUMBER


async def test_a_card_number_as_idempotency_key_is_refused(env: Env) -> None:
    headers = [*env.world.edge("POST", "/v1/sales"), (b"idempotency-key", NUMBER.encode())]
    answer = await ask(env.app, "POST", "/v1/sales", GOOD, headers)
    assert answer.status == 400
    assert NUMBER not in answer.content.decode()


async def test_a_card_number_is_refused_at_the_edge_before_a_handler_sees_it(env: Env) -> None:
    body = {**SALE, "note": f"card {NUMBER}"}
    with logs.captured() as lines:
        answer = await env.sell(json.dumps(body).encode())
    assert answer.status == 400
    assert answer.json["errors"][0]["pointer"] == "/note"
    assert NUMBER not in answer.content.decode() + json.dumps(lines)


names = st.text(alphabet='ab\\u0"{}[]:, é', max_size=4)
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)
accept_any = body_decoder(dict[str, int])


@given(documents, st.booleans())
def test_any_document_is_taken_or_refused_but_never_an_accident(document: Any, ascii_only: bool) -> None:
    try:
        value = accept_any(json.dumps(document, ensure_ascii=ascii_only).encode())
    except InvalidRequest:
        return
    assert value == document


@given(st.binary(max_size=40))
def test_any_bytes_are_taken_or_refused_but_never_an_accident(raw: bytes) -> None:
    try:
        accept_any(raw)
    except InvalidRequest:
        return


@given(st.lists(st.tuples(names, st.integers(0, 9)), min_size=1, max_size=6), st.booleans())
def test_a_key_twice_is_found_however_it_is_written(pairs: list[tuple[str, int]], ascii_only: bool) -> None:
    text = "{" + ",".join(f"{json.dumps(k, ensure_ascii=ascii_only)}:{v}" for k, v in pairs) + "}"
    if len({key for key, _ in pairs}) == len(pairs):
        assert accept_any(text.encode()) == dict(pairs)
    else:
        with pytest.raises(InvalidRequest):
            accept_any(text.encode())


def test_places_of_errors_become_pointers() -> None:
    assert locate("Expected `int` - at `$.a[3].b`") == ("/a/3/b", "Expected `int`")
    assert locate("Expected `int` - at `$.a[...].b`") == ("/a", "Expected `int`")
    assert locate("Object missing required field `a`") == ("", "Object missing required field `a`")


class Labelled(msgspec.Struct, forbid_unknown_fields=True):
    labels: list[dict[Annotated[str, msgspec.Meta(min_length=1, max_length=3)], int]]


@pytest.mark.parametrize("key", ["", "long"])
def test_a_key_that_is_wrong_is_told_with_the_place_of_its_map(key: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        body_decoder(Labelled)(json.dumps({"labels": [{}, {key: 1}]}).encode())
    bound = "<= 3" if key else ">= 1"
    error = {"pointer": "/labels/1", "detail": f"a key: Expected `str` of length {bound}"}
    assert refused.value.extensions["errors"] == [error]


class Chosen(msgspec.Struct, forbid_unknown_fields=True):
    mode: Literal["one", "other"]


@pytest.mark.timeout(30)
def test_a_large_value_that_repeats_the_words_of_a_message_costs_no_more_than_another() -> None:
    value = "unknown field `" * 69_000  # a body of a mebibyte; searched anew from each of these, it takes minutes
    with pytest.raises(InvalidRequest) as refused:
        body_decoder(Chosen)(json.dumps({"mode": value}).encode())
    [error] = refused.value.extensions["errors"]
    assert error["pointer"] == "/mode"
    assert error["detail"].startswith("Invalid enum value 'unknown field `")


class Loose(msgspec.Struct):
    a: int


class LooseByAnRfc(msgspec.Struct):
    IGNORES: ClassVar[str] = "RFC 1"


class Endless(msgspec.Struct, forbid_unknown_fields=True):
    inner: Endless | None = None


@pytest.mark.parametrize(
    "kind",
    [
        Loose, list[Loose], Endless, Any, dict[str, Any], list[msgspec.Raw], dict,
        Annotated[str, msgspec.Meta(pattern="^a$")], dict[str, object],
    ],
)  # fmt: skip
def test_a_type_that_is_not_strict_can_not_be_a_body(kind: Any) -> None:
    with pytest.raises(TypeError):
        check_strict(kind)


# --- who asks


async def test_without_a_token_there_is_no_answer_and_the_body_is_not_looked_at(env: Env) -> None:
    answer = await ask(env.app, "POST", "/v1/sales", b"{{{", [KEY])
    assert answer.status == 401
    assert (answer.header("www-authenticate") or "").startswith("DPoP ")


@pytest.mark.parametrize("announced", [b"400000", b"0" * 30 + b"400000", None])
async def test_of_a_large_body_nothing_is_kept_before_its_sender_is_known(env: Env, announced: bytes | None) -> None:
    """Or who has no token could fill the memory: it is read and dropped, and then there is an answer."""
    pieces = [b"x" * 10_000] * 40
    kept = 0

    class Piece(bytes):
        def __del__(self) -> None:
            nonlocal kept
            kept -= 1

    async def receive() -> Any:
        nonlocal kept
        if not pieces:
            return await asyncio.Event().wait()
        assert kept <= 1
        kept += 1
        return {"type": "http.request", "body": Piece(pieces.pop()), "more_body": bool(pieces)}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    env.app = env.application(ENDPOINTS, max_body_bytes=1 << 20)
    length = (b"content-length", announced) if announced else (b"transfer-encoding", b"chunked")
    scope = {"type": "http", "method": "POST", "path": "/v1/sales", "query_string": b"", "headers": [KEY, length]}
    await env.app(scope, receive, send)
    assert sent[0]["status"] == 401
    assert pieces == []


async def test_a_large_body_of_who_is_known_is_taken(env: Env) -> None:
    env.app = env.application(ENDPOINTS, max_body_bytes=1 << 20)
    whole = json.dumps({**SALE, "lines": SALE["lines"] * 900}).encode() + b" " * 100_000
    for body in (whole, [whole[n : n + 16384] for n in range(0, len(whole), 16384)]):
        answer = await env.sell(body)
        assert (answer.status, answer.json["lines"]) == (201, 900)
    assert len(env.shop.requests) == 2


async def test_a_request_is_its_tenants(env: Env) -> None:
    """By which the connections to the database are shared out."""
    owners: list[str | None] = []

    async def stock(shop: Shop, request: Request[Any]) -> Reply[Sold]:
        owners.append(OWNER.get())
        return await sell(shop, request)

    env.app = env.application([replace(row, handler=stock) if row.handler is sell else row for row in ENDPOINTS])
    assert (await env.sell()).status == 201
    assert owners == [env.shop.requests[0].subject.tenant]
    assert OWNER.get() is None


async def test_a_token_without_the_scope_is_refused(env: Env) -> None:
    answer = await env.get("/v1/sales", scope="payments:write")
    assert (answer.status, answer.json["scope"]) == (403, "payments:read")
    assert 'error="insufficient_scope"' in (answer.header("www-authenticate") or "")


async def test_what_no_policy_permits_is_refused(env: Env) -> None:
    headers = env.world.edge("POST", "/v1/sales/a/capture")
    answer = await ask(env.app, "POST", "/v1/sales/a/capture", b"{}", headers)
    assert (answer.status, answer.json["type"]) == (403, "https://tallystick.dev/problems/forbidden")


async def test_a_proof_is_good_once(env: Env) -> None:
    headers = env.world.edge("GET", "/v1/sales")
    assert (await ask(env.app, "GET", "/v1/sales", headers=headers)).status == 200
    assert (await ask(env.app, "GET", "/v1/sales", headers=headers)).status == 401


async def test_money_stands_still_when_revocations_are_not_heard(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(env.world.feed), "age", lambda _: math.inf)
    answer = await env.sell()
    assert (answer.status, answer.json["retryable"]) == (503, True)
    assert (await env.get("/v1/sales")).status == 200


async def test_a_mesh_row_is_for_the_services_it_names(env: Env) -> None:
    body = b'{"tokens": []}'
    mesh = env.world.mesh
    assert (await ask(env.app, "POST", "/internal/stock", body, mesh("payments"))).status == 200
    assert (await ask(env.app, "POST", "/internal/stock", body, mesh("risk"))).status == 403
    assert (await ask(env.app, "POST", "/internal/stock", body)).status == 403
    assert (await ask(env.app, "POST", "/internal/stock", body, mesh("payments") * 2)).status == 403
    for forged in (
        b"spiffe://evil.test/ns/default/sa/payments",
        b"payments",
        b"",
        b"spiffe://tallystick.test/payments",
    ):
        headers = [(b"x-tallystick-peer", forged)]
        assert (await ask(env.app, "POST", "/internal/stock", body, headers)).status == 403


async def test_only_reads_go_on_without_news_of_revocations(env: Env) -> None:
    """Whatever their rates are: who freezes an account or asks for a number in clear must not do so with a revoked token either."""
    env.world.feed._heard_at = float("-inf")
    for path in ("/v1/sales", "/v1/sales/a/capture"):
        answer = await ask(env.app, "POST", path, GOOD, [*env.world.edge("POST", path), KEY])
        assert (answer.status, answer.json["type"].rpartition("/")[2]) == (503, "revocation-feed-stale")
    assert (await env.get("/v1/sales/7")).status == 200


async def test_only_reads_go_on_without_valkey(env: Env) -> None:
    gone = Valkey(unix_socket_path="/tmp/there-is-no-valkey.sock")
    env.world.authenticator._proofs._script.registered_client = gone
    with logs.captured():
        for path in ("/v1/sales", "/v1/sales/a/capture"):
            answer = await ask(env.app, "POST", path, GOOD, [*env.world.edge("POST", path), KEY])
            assert (answer.status, answer.json["type"].rpartition("/")[2]) == (503, "replay-check-unavailable")
        assert (await env.get("/v1/sales/7")).status == 200
    await gone.aclose()


async def test_a_query_is_refused_unless_the_row_has_to_ignore_it(env: Env) -> None:
    assert (await ask(env.app, "GET", "/tile/1?x=1")).status == 400
    row = Endpoint("GET", "/a", nothing, public="x", ignores_query=True)
    assert (await ask(Application("s", None, [row]), "GET", "/a?x=1&x=%zz")).status == 200


async def test_an_edge_row_is_not_for_services(env: Env) -> None:
    headers = [*env.world.edge("GET", "/v1/sales"), *env.world.mesh("payments")]
    assert (await ask(env.app, "GET", "/v1/sales", headers=headers)).status == 404


async def test_one_bad_token_of_a_batch_refuses_only_its_own_item(env: Env) -> None:
    good, expired = env.world.issuer.transaction("cli_a"), env.world.issuer.transaction("cli_b", exp=1)
    body = json.dumps({"tokens": [good, expired, "x", env.world.issuer.transaction("cli_c")]}).encode()
    answer = await ask(env.app, "POST", "/internal/stock", body, env.world.mesh("payments"))
    assert answer.json == ["cli_a", "unauthenticated", "unauthenticated", "cli_c"]
    with pytest.raises(Problem):
        await env.shop.requests[0].subjects([good, expired])
    assert [each.client_id for each in await env.shop.requests[0].subjects([good])] == ["cli_a"]


async def test_a_mesh_call_may_carry_one_token_for_all(env: Env) -> None:
    token = (b"txn-token", env.world.issuer.transaction("cli_z").encode())
    headers = env.world.mesh("payments", token)
    assert (await ask(env.app, "POST", "/internal/stock", b'{"tokens": []}', headers)).status == 200
    assert env.shop.requests[0].subject.client_id == "cli_z"
    refused = await ask(env.app, "POST", "/internal/stock", b'{"tokens": []}', [*headers, token])
    assert refused.status == 400


# --- time, room, rates


async def test_a_service_says_how_much_of_its_time_is_left(env: Env) -> None:
    for text, most in ((b"5000", 5.0), (b"999999", 10.0)):
        headers = env.world.mesh("payments", (b"tallystick-timeout-ms", text))
        assert (await ask(env.app, "POST", "/internal/stock", b'{"tokens": []}', headers)).status == 200
        assert env.shop.requests[-1].deadline.remaining() <= most
    for bad in (b"0", b"-5", b"1.5", b"soon", b"1000000"):
        headers = env.world.mesh("payments", (b"tallystick-timeout-ms", bad))
        assert (await ask(env.app, "POST", "/internal/stock", b'{"tokens": []}', headers)).status == 400


async def test_a_client_has_no_say_in_our_time(env: Env) -> None:
    await env.sell(GOOD, (b"tallystick-timeout-ms", b"1"))
    assert env.shop.requests[0].deadline.at > 0
    assert (await env.sell(GOOD, (b"tallystick-timeout-ms", b"1"))).status == 201


async def test_a_handler_that_does_not_end_is_ended(env: Env) -> None:
    env.shop.release = asyncio.Event()
    env.app = env.application([replace(row, timeout=0.05) if row.handler is sell else row for row in ENDPOINTS])
    answer = await env.sell()
    assert (answer.status, answer.json["retryable"]) == (504, True)
    assert env.limits.gate.in_flight == 0


async def test_what_there_is_no_room_for_is_refused_at_once(env: Env) -> None:
    env.shop.release = asyncio.Event()
    tasks = [asyncio.create_task(env.sell()) for _ in range(9)]
    while sum(task.done() for task in tasks) < 3:
        await asyncio.sleep(0.001)
    refused = [task.result() for task in tasks if task.done()]
    assert {(answer.status, answer.header("retry-after")) for answer in refused} == {(503, "1")}
    env.shop.release.set()
    answers = await asyncio.gather(*tasks)
    assert sorted(answer.status for answer in answers) == [201] * 6 + [503] * 3
    assert (env.limits.gate.in_flight, env.limits.gate.queued) == (0, 0)


async def test_a_rate_is_kept(env: Env) -> None:
    answers = [await env.get("/v1/sales/a") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert 3000 < int(answers[-1].header("retry-after") or 0) <= 3600


# --- keys, queries, paths


@pytest.mark.parametrize("key", [b"", b"x" * 256, "ü".encode(), b"a\x00b", b"a\x7f"])
async def test_an_idempotency_key_is_printable_and_not_too_long(env: Env, key: bytes) -> None:
    assert (await env.sell(GOOD, (b"idempotency-key", key), key=False)).status == 400


async def test_an_idempotency_key_is_required_once(env: Env) -> None:
    assert (await env.sell(GOOD, key=False)).status == 400
    assert (await env.sell(GOOD, (b"idempotency-key", b"other"))).status == 400
    assert (await env.sell(GOOD, (b"idempotency-key", b"x" * 255), key=False)).status == 201


async def test_lists_go_page_by_page(env: Env) -> None:
    seen: list[str] = []
    target = "/v1/sales?limit=3"
    for _ in range(3):
        answer = (await env.get(target)).json
        seen += [each["id"] for each in answer["data"]]
        if not answer["has_more"]:
            assert answer["next"] is None
            break
        target = f"/v1/sales?limit=3&after={answer['next']}"
    assert seen == list("1234567")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=201", "limit=1.5", "limit=x", "limit=1e1", "limit=1.0", "limit=01", "limit=-0", "limit=" + "9" * 4000, "sequence=null",
        "sequence=NULL", "sequence=9007199254740993.0", "sequence=+1", "sequence=-0", "limit=1&limit=2", "limit", "unknown=1", "state=" + "x" * 11,
        "after=", "after=!!!", "after=" + cursor("text"), "after=" + cursor(1, 2), "after=" + cursor(-1), "after=" + cursor(1 << 63), "after=" + cursor(1)[:-1] + "%00",
        "state=%ff", "state=a%00b", "state=a%0a", "a=" + "x" * 5000, "&".join(f"a{n}=1" for n in range(100)),
    ],
)  # fmt: skip
async def test_a_bad_query_is_refused(env: Env, query: str) -> None:
    assert (await env.get(f"/v1/sales?{query}")).status == 400


async def test_a_query_where_none_is_taken_is_refused(env: Env) -> None:
    assert (await env.get("/v1/sales/a?b=c")).status == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404), ("GET", "/v1/sales/", 404), ("GET", "//v1/sales", 404), ("GET", "/v1/sales/a/b", 404),
        ("GET", "/V1/sales", 404), ("GET", "/v1/%73ales", 404), ("GET", "/v1/sales/a%2Fcapture", 404), ("GET", "/tile/a%253Ab", 404),
        ("DELETE", "/v1/sales", 405), ("HEAD", "/v1/sales/a/capture", 405), ("OPTIONS", "/v1/sales/a", 405),
        ("POST", "/health/live", 404),
    ],
)  # fmt: skip
async def test_a_path_or_method_that_is_not_there(env: Env, method: str, path: str, status: int) -> None:
    answer = await ask(env.app, method, path)
    assert answer.status == status
    assert answer.header("request-id")
    assert (answer.header("allow") is not None) == (status == 405)


@pytest.mark.parametrize("path", ["/tile/a:b:c", "/tile/a%3Ab%3ac"])
async def test_a_colon_in_a_path_may_be_escaped(env: Env, path: str) -> None:
    assert (await ask(env.app, "GET", path)).content == b"a:b:c"


async def test_405_says_what_is_allowed(env: Env) -> None:
    assert (await ask(env.app, "PUT", "/v1/sales")).header("allow") == "GET, HEAD, POST"


@pytest.mark.parametrize(
    "target", ["/v1/sales?limit=3", "/v1/sales/sale_9", "/v1/sales?no=1", "/tile/0/x001/067", "/health/live", "/openapi/shop.json"]
)  # fmt: skip
async def test_what_may_be_got_may_be_asked_for_its_head(env: Env, target: str) -> None:
    """RFC 9110 section 9.1: GET and HEAD are what every server knows. The same checks, status and headers; no content."""
    path = target.partition("?")[0]
    got, headed = [
        await ask(env.app, method, target, headers=env.world.edge(method, path)) for method in ("GET", "HEAD")
    ]
    assert (headed.status, headed.content) == (got.status, b"")

    def headers(answer: Answer) -> list[tuple[str, str]]:
        return [(name, value) for name, value in answer.headers if name != "request-id"]

    if got.status < 400:
        assert headers(headed) == headers(got)
    assert int(headed.header("content-length") or 0) == len(got.content)
    assert headed.header("request-id")


async def test_a_proof_for_get_is_none_for_head(env: Env) -> None:
    with logs.captured() as lines:
        good = await ask(env.app, "HEAD", "/v1/sales", headers=env.world.edge("HEAD", "/v1/sales"))
        bad = await ask(env.app, "HEAD", "/v1/sales", headers=env.world.edge("GET", "/v1/sales"))
        poor = await ask(
            env.app, "HEAD", "/v1/sales", headers=env.world.edge("HEAD", "/v1/sales", scope="payments:write")
        )
    assert (good.status, bad.status, poor.status, bad.content, poor.content) == (200, 401, 403, b"", b"")
    assert "invalid_dpop_proof" in (bad.header("www-authenticate") or "")
    done = [line for line in lines if line["event"] == "request.done"]
    assert [(line["route"], line["bytes_out"]) for line in done] == [("GET /v1/sales", 0)] * 3


async def test_a_path_may_take_the_rest(env: Env) -> None:
    answer = await ask(env.app, "GET", "/tile/0/x001/067")
    assert (answer.content, answer.header("content-type")) == (b"0/x001/067", "application/octet-stream")


# --- forms


async def test_a_form_is_decoded(env: Env) -> None:
    form = [(b"content-type", b"application/x-www-form-urlencoded")]
    good = b"grant_type=client_credentials&scope=a+b&unknown=is+ignored"
    assert (await ask(env.app, "POST", "/oauth2/token", good, form)).json == {"scope": "a b"}
    for bad in (b"scope=a", b"grant_type=a&grant_type=b", b"grant_type=%ff", b"grant_type", b"grant_type=\xff"):
        assert (await ask(env.app, "POST", "/oauth2/token", bad, form)).status == 400
    assert (await ask(env.app, "POST", "/oauth2/token", b"{}")).status == 415


# --- problems


async def test_a_listed_problem_is_an_answer(env: Env) -> None:
    env.shop.raises = SoldOut(
        "Not one left.", context={"reason": "inner", "route": "of another"}, headers={"Retry-After": "7"}, left=0
    )
    with logs.captured() as lines:
        answer = await env.sell()
    assert (answer.status, answer.json["detail"], answer.json["left"]) == (409, "Not one left.", 0)
    assert answer.header("retry-after") == "7"
    assert b"inner" not in answer.content
    assert [line["event"] for line in lines] == ["request.refused", "request.done"]
    assert (lines[0]["reason"], lines[1]["slug"]) == ("inner", "sold-out")


@pytest.mark.parametrize(
    ("problem", "wish"),
    [
        (Unavailable(), "1"),
        (Unavailable(headers={"Retry-After": "7"}), "7"),
        (Unavailable(headers={"retry-after": "7"}), "7"),
        (StorageFull(), "1"),
        (Conflict(), None),
        (Problem(), None),
    ],
)
async def test_whoever_may_ask_again_is_told_when(env: Env, problem: Problem, wish: str | None) -> None:
    env.shop.raises = problem
    answer = await env.sell()
    assert (answer.status, answer.header("retry-after")) == (problem.status, wish)


async def test_a_problem_that_the_row_does_not_list_is_told(env: Env) -> None:
    env.shop.raises = Conflict("Something else.")
    with logs.captured() as lines:
        assert (await env.sell()).status == 409
    assert lines[0]["event"] == "problem.unlisted"


async def test_a_status_of_success_that_the_row_does_not_list_is_told(env: Env) -> None:
    env.shop.status = 203
    with logs.captured() as lines:
        assert (await env.sell()).status == 203
    assert (lines[0]["event"], lines[0]["status"]) == ("status.unlisted", 203)
    env.shop.status = 202
    with logs.captured() as lines:
        assert (await env.sell()).status == 202
    assert "status.unlisted" not in {line["event"] for line in lines}


async def test_an_accident_shows_nothing_of_itself(env: Env) -> None:
    env.shop.raises = KeyError(f"card {CARD} of Ada Lovelace")
    with logs.captured() as lines:
        answer = await env.sell()
    assert answer.status == 500
    assert answer.json["request_id"] == answer.header("request-id")
    written = answer.content.decode() + json.dumps(lines)
    assert CARD not in written
    assert "Ada" not in written
    failed = next(line for line in lines if line["event"] == "request.failed")
    assert failed["error"] == "KeyError"
    assert any("test_web.py" in place for place in failed["stack"])
    assert failed["trace"] == answer.header("request-id")


async def test_a_problem_that_can_not_be_written_is_still_answered(env: Env) -> None:
    env.shop.raises = SoldOut("x", odd=object())
    assert (await env.sell()).status == 409


async def test_a_request_that_is_cancelled_gives_its_place_back(env: Env) -> None:
    env.shop.release = asyncio.Event()
    task = asyncio.create_task(env.sell())
    while env.limits.gate.in_flight == 0:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert env.limits.gate.in_flight == 0


# --- the chassis' own endpoints


async def test_health_metrics_and_the_document(env: Env) -> None:
    assert (await ask(env.app, "GET", "/health/live")).status == 200
    assert (await ask(env.app, "GET", "/health/ready")).json == {"ready": True, "parts": {"database": True}}
    env.parts["database"] = False
    assert (await ask(env.app, "GET", "/health/ready")).status == 503
    await env.sell()
    metrics = (await ask(env.app, "GET", "/metrics")).content
    assert b'tallystick_request_seconds_count{route="POST /v1/sales",status="201"}' in metrics
    assert (
        b"/health" not in metrics
    )  # nor is the endpoint of metrics counted: they say nothing about a service's promises
    assert b'route="GET /metrics' not in metrics
    for bound in DURATION_BOUNDS_MS:
        labels = {"route": "POST /v1/sales", "status": "201", "le": str(bound / 1000)}
        assert registry.get_sample_value("tallystick_request_seconds_bucket", labels) is not None
    assert (await ask(env.app, "GET", "/openapi/shop.json")).json == json.loads(json.dumps(openapi("shop", ENDPOINTS)))


def test_the_document_is_openapi_3_1() -> None:
    document = json.loads(msgspec.json.encode(openapi("shop", ENDPOINTS)))
    OpenAPIV31SpecValidator(document).validate()
    names = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert sorted(names) == sorted(set(names))
    assert {"sell", "postOauth2Token", "getTileTile"} <= set(names)
    sale = document["paths"]["/v1/sales"]["post"]
    assert sale["security"] == [{"dpop": ["payments:write"]}, {"certificate": ["payments:write"]}]
    assert {each["name"]: each["required"] for each in sale["parameters"]} == {"Idempotency-Key": True, "DPoP": False}
    assert set(sale["responses"]) >= {"201", "400", "401", "403", "409", "413", "415", "429", "500", "503", "504"}
    assert "It is sold out" in sale["responses"]["409"]["description"]
    assert {status: answer["description"] for status, answer in sale["responses"].items() if status < "300"} == {
        "201": "Done",
        "202": "Taken",
    }
    number = document["paths"]["/v1/sales/{id}"]["get"]["parameters"][0]
    assert (number["name"], number["schema"]["pattern"]) == ("id", "^sale_[0-9]+$")
    raw = document["paths"]["/oauth2/raw"]["post"]
    assert "application/x-www-form-urlencoded" in raw["requestBody"]["content"]
    assert set(raw["responses"]["400"]["content"]) == {"application/json", "application/problem+json"}
    assert set(raw["responses"]["401"]["content"]) == {"application/json"}
    assert {"Sale", "SoldPage"} <= set(document["components"]["schemas"])
    assert document["components"]["schemas"]["SoldPage"]["title"] == "SoldPage"
    listing = document["paths"]["/v1/sales"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert listing == {"$ref": "#/components/schemas/SoldPage"}
    headers = {status: set(answer["headers"]) for status, answer in sale["responses"].items()}
    assert headers["201"] == {"Request-Id", "Idempotent-Replayed"}
    assert headers["202"] == {"Request-Id", "Idempotent-Replayed", "Retry-After"}
    assert headers["401"] == {"Request-Id", "WWW-Authenticate"}
    assert headers["429"] == headers["503"] == {"Request-Id", "Retry-After"}
    assert headers["415"] == {"Request-Id"}
    listing_names = [each["name"] for each in document["paths"]["/v1/sales"]["get"]["parameters"]]
    assert {"limit", "after", "state"} <= set(listing_names)
    assert "/internal/stock" not in document["paths"]
    inner = json.loads(msgspec.json.encode(openapi("shop", ENDPOINTS, mesh=True)))
    OpenAPIV31SpecValidator(inner).validate()
    assert set(inner["paths"]) == {"/internal/stock"}
    for each in (document, inner):
        text = json.dumps(each)
        assert [name for name in components(each) if f'"#/components/{name}"' not in text] == []


def components(document: dict[str, Any]) -> list[str]:
    return [f"{kind}/{name}" for kind in ("schemas", "headers") for name in document["components"][kind]]


# --- tables that can't be written


async def nothing(service: Any, request: Request) -> Reply[None]:
    return Reply(None)


@pytest.mark.parametrize(
    "row",
    [
        {}, {"scope": "a", "public": "b", "action": "c"}, {"scope": "a", "mesh": ("b",), "action": "c"},
        {"scope": "a"}, {"mesh": ("a",)}, {"public": ""}, {"scope": "", "action": "a"},
        {"public": "x", "timeout": 0},
    ],
)  # fmt: skip
def test_a_row_says_who_may_use_it(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="GET /a"):
        Endpoint("GET", "/a", nothing, **row)


@pytest.mark.parametrize("path", ["a", "/a/", "//a", "/{a", "/{A}", "/a}"])
def test_a_path_is_well_formed(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|parameters"):
        Endpoint("GET", path, nothing, public="x")


def test_a_table_that_can_not_be_served_is_refused() -> None:
    row = Endpoint("GET", "/a/{b}", nothing, public="x", action="one", segments={"b": str})
    with pytest.raises(ValueError, match="twice"):
        Application("s", None, [row, Endpoint("GET", "/a/{b}", nothing, public="x", action="two", segments={"b": str})])
    for hidden in ("/a/{c}", "/b/{c}/{rest:path}"):
        rows = [row, Endpoint("GET", "/b/{b}/{all:path}", nothing, public="x", segments={"b": str, "all": str})]
        names = dict.fromkeys(re.findall(r"(\w+)(?::path)?\}", hidden), str)
        with pytest.raises(ValueError, match="other names"):
            Application("s", None, [*rows, Endpoint("DELETE", hidden, nothing, public="x", segments=names)])
    with pytest.raises(ValueError, match="authenticator"):
        Application("s", None, [Endpoint("GET", "/a", nothing, scope="x", action="y")])
    with pytest.raises(TypeError, match="forbid_unknown_fields"):
        Application("s", None, [Endpoint("POST", "/a", nothing, public="x", body=Loose)])
    Application("s", None, [Endpoint("POST", "/a", nothing, public="x", body=LooseByAnRfc)])


async def test_the_more_literal_path_wins() -> None:
    async def one(service: Any, request: Request) -> Reply[str]:
        return Reply("one")

    async def two(service: Any, request: Request) -> Reply[str]:
        return Reply("two")

    rows = [
        Endpoint("GET", "/a/{b}/{c}", one, public="x", segments={"b": str, "c": str}),
        Endpoint("GET", "/a/{b}/d", two, public="x", segments={"b": str}),
    ]
    app = Application("s", None, rows)
    assert (await ask(app, "GET", "/a/1/d")).json == "two"
    assert (await ask(app, "GET", "/a/1/e")).json == "one"


def test_a_request_does_not_show_what_it_carries(env: Env) -> None:
    raises = (MethodNotAllowed, NotFound)
    assert all(issubclass(each, Problem) for each in raises)
    decode = query_decoder(Filter)
    assert decode(b"state=a%20b") == Filter(state="a b")


def test_a_parameter_is_a_text_or_a_whole_number() -> None:
    class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        limit: int | None = None
        seconds: float = 0.0
        final: bool = False

    with pytest.raises(TypeError, match=r"Asked: .*: seconds, final$"):
        query_decoder(Asked)


@pytest.mark.parametrize(("status", "length"), [(200, b"0"), (204, None)])
async def test_an_answer_without_content_has_no_length(status: int, length: bytes | None) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await wire.send_answer({"method": "DELETE"}, send, wire.Answer(status, [], b""))
    assert dict(sent[0]["headers"]).get(b"content-length") == length
