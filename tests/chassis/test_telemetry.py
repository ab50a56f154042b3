"""Telemetry: what may not be written is not written, every line has its trace, spans follow the sampled flag."""

from __future__ import annotations

import ast
import json
import logging
import os
import random
import re
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export import SpanExportResult

from tallystick.chassis import telemetry
from tallystick.chassis.telemetry import context, logs, metrics, redact, store, traces
from tallystick.chassis.telemetry.output import Output
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.ids import PaymentId, TokenId
from tallystick.kernel.luhn import luhn
from tallystick.kernel.problem import NotFound

CARD = "4242424242424242"
TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJjbGllbnQifQ.c2lnbmF0dXJl"
IBAN = "DE89370400440532013000"
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# --- redaction


@pytest.mark.parametrize(
    "text",
    [
        CARD,
        f"card {CARD} declined",
        "4242 4242 4242 4242",
        "4242-4242-4242-4242",
        f"x{CARD}x",
        f"{CARD}0000",  # grown into one run of 20 digits
        "378282246310005",
        TOKEN,
        f"DPoP {TOKEN}",
        IBAN,
        "DE89 3704 0044 0532 0130 00",
        "-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str) -> None:
    masked = redact.mask(text)
    for part in (CARD, "4242 4242", "4242-4242", "378282246310005", TOKEN, IBAN, "3704 0044", "MIGH"):
        assert part not in masked


NEIGHBOURS = ("{} 12/2035", "{} 837", "1 {}", "{}-12", "2026 {} 12 2030", "{} EUR", "to {} from DE12 3456", "AB12 {}")


@pytest.mark.parametrize("around", NEIGHBOURS)
@pytest.mark.parametrize(
    "number", [CARD, "4242 4242 4242 4242", "378282246310005", "GB29NWBK60161331926819", "gb29 nwbk 6016 1331 9268 19"]
)
def test_what_stands_beside_a_number_does_not_hide_it(around: str, number: str) -> None:
    text = around.format(number)
    for masked in (redact.mask(text), redact.blot(text), json.dumps(redact.clean([text]))):
        assert number[:-3] not in masked, masked


@pytest.mark.parametrize(
    "text",
    [
        f"{CARD}837",
        f"a{CARD}b",
        "4242/4242/4242/4242",
        "4242 -- 4242 -- 4242 -- 4242",
        "xGB29NWBK60161331926819EUR",
        "GB29-NWBK-6016-1331-9268-19",
        "AB12GB29NWBK60161331926819",
        "４２４２４２４２４２４２４２４２",
    ],
)
def test_a_clients_own_text_comes_back_without_any_long_number(text: str) -> None:
    shown = redact.blot(text)
    assert not re.search(r"\d(?:\W{0,3}\d){11}|9268", shown), shown


def test_a_number_at_the_end_of_a_long_text_is_not_cut_in_half() -> None:
    for room in range(30):
        shown = redact.mask("x" * (redact.MAX_TEXT - room) + " " + CARD)
        assert CARD[:12] not in shown
        assert len(shown) <= redact.MAX_TEXT + 1


def test_ids_times_and_amounts_are_masked_by_chance_no_more_than_by_the_simple_rule() -> None:
    """The simple rule: a run of 13 to 19 digits as a whole passes the check, or it is longer."""

    def simple(text: str) -> bool:
        runs = re.findall(r"(?<!\d)\d(?:[ \-.]?\d){12,}", text)
        return any(len(run) > 19 or luhn(run) for run in (re.sub(r"\D", "", run) for run in runs))

    pick = random.Random(7)

    def dated() -> uuid.UUID:
        """As a UUID of version 7 is: the milliseconds, and what was drawn."""
        return uuid.UUID(int=pick.randrange(16 * 10**11, 19 * 10**11) << 80 | 0x7 << 76 | pick.getrandbits(76))

    made: list[Callable[[], str]] = [
        lambda: ids.payments.text(PaymentId(dated())),
        lambda: ids.tokens.text(TokenId(uuid.UUID(int=pick.getrandbits(128)))),
        lambda: str(uuid.UUID(int=pick.getrandbits(128))),
        lambda: f"{pick.getrandbits(128):032x}",
        lambda: rfc3339(datetime.fromtimestamp(pick.uniform(1.6e9, 1.9e9), UTC)),
        lambda: f"{datetime.fromtimestamp(pick.randrange(10**9, 2 * 10**9), UTC):%Y-%m-%d %H:%M:%S} took 12.5 ms",
        lambda: str(pick.randrange(1_600_000_000_000, 1_900_000_000_000)),
        lambda: f"{pick.randrange(10**18)} of {pick.randrange(10**18)} {pick.choice(['EUR', 'JPY'])}",
        lambda: f"{pick.randrange(10**9)}.{pick.randrange(100):02d} EUR, {pick.randrange(10**6)}.00 EUR",
    ]
    for make in made:
        texts = [make() for _ in range(4000)]
        masked = sum(redact.mask(text) != text for text in texts)
        assert masked <= sum(map(simple, texts)) + 4, make()  # one in a thousand


@pytest.mark.parametrize("text", ["pay_01j9zq2v7nq8h3t5w0r4x6y8z0", "2026-11-23T16:32:50.123456Z", "4242424242424241"])
def test_what_does_not_is_left_as_it_is(text: str) -> None:
    assert redact.mask(text) == text


def luhn_number(length: int, seed: int) -> str:
    digits = "".join(random.Random(seed).choices("0123456789", k=length - 1))
    return next(digits + last for last in "0123456789" if luhn(digits + last))


@given(st.integers(13, 19), st.integers(), st.text(max_size=20), st.text(max_size=20))
def test_no_card_number_survives_in_any_surroundings(length: int, seed: int, before: str, after: str) -> None:
    number = luhn_number(length, seed)
    if before[-1:].isdigit() or after[:1].isdigit() or before[-1:] in " -." or after[:1] in " -.":
        return  # a longer run: it is masked as a whole only if it is too long or checks out
    assert number not in redact.mask(before + number + after)


@given(st.integers(13, 19), st.integers())
def test_no_card_number_survives_as_an_integer(length: int, seed: int) -> None:
    number = luhn_number(length, seed)
    if number.startswith("0"):
        return
    assert redact.clean(int(number)) == "[number]"


def test_a_key_that_nobody_allowed_is_dropped_and_named() -> None:
    with telemetry_lines() as lines:
        telemetry.log.info("payment.settled", payment="pay_1", customer_name="Ada Lovelace")
    assert "Ada" not in json.dumps(lines)
    assert lines[0]["payment"] == "pay_1"
    assert lines[0]["dropped"] == ["customer_name"]


def test_an_allowed_key_does_not_open_the_door_for_a_card_number() -> None:
    with telemetry_lines() as lines:
        telemetry.log.warning("vault.odd", reason=f"number {CARD}", count=int(CARD), type=[CARD, {"a": CARD}])
        telemetry.log.info(f"event {CARD}")
    assert CARD not in json.dumps(lines)
    assert lines[0]["reason"] == "number [number]"


def test_a_service_allows_its_own_keys_but_no_vague_ones() -> None:
    with telemetry_lines() as lines:
        telemetry.log.info("shop.sold", till_of_this_test=4)
        telemetry.allow("till_of_this_test")
        telemetry.log.info("shop.sold", till_of_this_test=4)
    assert "till_of_this_test" not in lines[0]
    assert lines[1]["till_of_this_test"] == 4
    with pytest.raises(ValueError, match="body"):
        telemetry.allow("body")


def test_an_exception_is_written_as_types_and_places_without_its_message() -> None:
    with telemetry_lines() as lines:
        try:
            try:
                raise KeyError(f"row with {CARD} and name Ada")
            except KeyError as error:
                raise RuntimeError("Ada again") from error
        except RuntimeError as error:
            telemetry.log.error("worker.failed", error=error)
    text = json.dumps(lines)
    assert "Ada" not in text
    assert CARD not in text
    assert lines[0]["error"] == "RuntimeError"
    assert any("test_telemetry.py" in place for place in lines[0]["stack"])
    assert "KeyError" in lines[0]["stack"]


def test_lines_of_libraries_pass_the_same_guards() -> None:
    read, write = os.pipe()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.setup(service="shop", replica=1, level="info", descriptor=write)
        logging.getLogger("nats").warning("connected with %s and %s", TOKEN, CARD)
        telemetry.request_done(route="GET /", status=500, seconds=0.0123, trace="f" * 32, slug="internal-error")
        telemetry.log.debug("too.quiet")
        logs.close()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        os.close(write)
    with os.fdopen(read, "rb") as pipe:
        lines = [json.loads(line) for line in pipe]
    assert [line["event"] for line in lines] == ["library.log", "request.done"]
    assert lines[0]["message"] == "connected with [token] and [number]"
    assert (lines[1]["service"], lines[1]["replica"], lines[1]["ms"], lines[1]["level"]) == ("shop", 1, 12.3, "error")


class Word(str):
    """As libraries have them: no plain text."""

    __slots__ = ()


ODD = ("half \ud800 of a pair", "\udc80", "byte \udcff of a file's name", "\ud83d\ude00", Word("x"), Word("x" * 20))


@pytest.mark.parametrize("text", ODD)
def test_no_text_is_too_odd_for_a_line(text: str) -> None:
    code = compile("raise KeyError", f"/tmp/{text}.py", "exec", dont_inherit=True)
    with logs.captured() as lines:
        telemetry.log.info(f"odd.{text}", reason=text, errors=[text, CARD])
        try:
            exec(code)
        except KeyError as error:
            telemetry.log.error("odd.failed", error=error, name=text)
    assert [(line["event"][:4], line["level"]) for line in lines] == [("odd.", "info"), ("odd.", "error")]
    assert lines[0]["errors"][1] == "[number]"
    assert redact.mask(f"\ud800 {CARD} \udfff") == "? [number] ?"


def test_a_librarys_line_that_can_not_be_made_is_told_without_what_it_holds(capfd: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("nats", logging.ERROR, "x.py", 1, "%d cards: %s", (CARD, TOKEN), None)
    with logs.captured() as lines:
        logs._Bridge().handle(record)
    assert [(line["event"], line["logger"], line["error"]) for line in lines] == [("library.log", "nats", "TypeError")]
    assert capfd.readouterr() == ("", "")


def telemetry_lines() -> Any:
    return logs.captured()


# --- output


def test_a_reader_that_stands_still_blocks_nobody() -> None:
    read, write = os.pipe()
    output = Output(write, max_lines=100)
    line = b"x" * 4095 + b"\n"
    for _ in range(1000):  # a pipe holds 64 KiB; this would block for ever
        output.write(line)
    received = bytearray()

    def reader() -> None:
        while chunk := os.read(read, 65536):
            received.extend(chunk)

    thread = threading.Thread(target=reader)
    thread.start()
    output.close()
    os.close(write)
    thread.join()
    os.close(read)
    lines = received.split(b"\n")
    dropped = sum(json.loads(each)["count"] for each in lines if b"log.dropped" in each)
    assert dropped > 0
    assert dropped + sum(each.startswith(b"x") for each in lines) == 1000


def test_a_reader_that_is_gone_kills_nobody() -> None:
    read, write = os.pipe()
    os.close(read)
    output = Output(write)
    output.write(b"into the void\n")
    output.close()
    os.close(write)


# --- trace context


def test_parses_a_traceparent() -> None:
    trace = context.parse(SAMPLED)
    assert trace is not None
    assert (trace.trace_id, trace.span_id, trace.sampled) == (SAMPLED[3:35], SAMPLED[36:52], True)
    assert trace.traceparent == SAMPLED


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "garbage",
        SAMPLED.upper(),
        SAMPLED + "-more",
        "ff" + SAMPLED[2:],
        "00-" + "0" * 32 + SAMPLED[35:],
        SAMPLED[:36] + "0" * 16 + "-01",
        SAMPLED + "\n",
        "01" + SAMPLED[2:] + "-" + "x" * 600,
    ],
)
def test_a_bad_traceparent_names_no_trace(header: str | None) -> None:
    assert context.parse(header) is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    trace = context.parse("01" + SAMPLED[2:] + "-extra")
    assert trace is not None
    assert trace.sampled


def test_lines_carry_the_trace() -> None:
    with telemetry_lines() as lines, telemetry.continued(SAMPLED):
        telemetry.log.info("payment.settled")
    assert lines[0]["trace"] == SAMPLED[3:35]


# --- spans


def test_sampled_spans_nest_and_are_read_back(tmp_path: Path) -> None:
    traces.setup(service="shop", replica=2, trace_dir=tmp_path, otlp_endpoint=None)
    try:
        with telemetry.continued(SAMPLED), telemetry.span("outer", payment="pay_1", nonsense=1) as outer:
            outer.set("reason", f"card {CARD}")
            outer.set("body", "no")
            inner_parent = telemetry.traceparent()
            with pytest.raises(KeyError), telemetry.span("inner"):
                raise KeyError(CARD)
            with pytest.raises(NotFound), telemetry.span("refused"):
                raise NotFound
        with telemetry.continued(SAMPLED[:-1] + "0"), telemetry.span("unsampled"):
            pass
    finally:
        traces.close()
    spans = {span.name: span for span in store.read_trace(tmp_path, SAMPLED[3:35])}
    assert set(spans) == {"outer", "inner", "refused"}
    assert spans["outer"].parent == SAMPLED[36:52]
    assert spans["inner"].parent == spans["outer"].span == inner_parent[36:52]
    assert spans["outer"].attributes == {"payment": "pay_1", "reason": "card [number]"}
    assert (spans["inner"].failed, spans["refused"].failed) == (True, False)
    assert spans["refused"].attributes == {"error": "not-found"}
    assert (spans["outer"].service, spans["outer"].replica) == ("shop", 2)
    assert CARD not in "".join(path.read_text() for path in tmp_path.iterdir())


def test_without_a_trace_or_a_place_to_keep_it_a_span_is_nothing() -> None:
    with telemetry.span("alone") as alone:
        alone.set("payment", "pay_1")
    with telemetry.continued(SAMPLED) as trace, telemetry.span("no exporter"):
        assert telemetry.traceparent() == trace.traceparent


def make_span(number: int, trace: str = "a" * 32) -> store.Span:
    return store.Span(trace=trace, span=f"{number:016x}", name="n", service="s", start=number, end=number + 5)


def test_the_store_is_bounded_and_forgets_the_oldest(tmp_path: Path) -> None:
    file = store.SpanFile(tmp_path, "shop-0", max_bytes=4_000)
    for number in range(200):
        file.append([make_span(number)])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 8_000
    kept = [span.start for span in store.read_trace(tmp_path, "a" * 32)]
    assert kept == list(range(kept[0], 200))
    assert kept[0] > 0
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_spans_of_a_file_that_is_rotated_while_they_are_read_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = store.SpanFile(tmp_path, "shop-0", max_bytes=200)
    file.append([make_span(1)])
    file.append([make_span(2)])
    assert {path.name for path in tmp_path.iterdir()} == {"shop-0.jsonl", "shop-0.1.jsonl"}
    decode, read = store._decoder.decode, list[int]()

    class Rotating:
        def decode(self, line: bytes) -> store.Span:
            if not read:
                file.append([make_span(3)])
            read.append(1)
            return decode(line)

    monkeypatch.setattr(store, "_decoder", Rotating())
    assert 2 in [span.start for span in store.read_trace(tmp_path, "a" * 32)]
    read.append(1)
    (tmp_path / "shop-0.jsonl").unlink()  # as it is between the rename and the next span
    assert [span.start for span in store.read_trace(tmp_path, "a" * 32)] == [2]


def test_half_a_line_of_a_crash_is_skipped(tmp_path: Path) -> None:
    store.SpanFile(tmp_path, "shop-0").append([make_span(1), make_span(2, "b" * 32)])
    with (tmp_path / "shop-0.jsonl").open("ab") as file:
        file.write(b'{"trace":"' + b"a" * 32 + b'","sp\n{"trace":"' + b"a" * 32)
    assert [span.start for span in store.read_trace(tmp_path, "a" * 32)] == [1]


def test_a_trace_id_is_no_pattern(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a trace id"):
        store.read_trace(tmp_path, "../../etc")


def test_a_full_disk_loses_spans_but_says_so_once(tmp_path: Path) -> None:
    exporter = traces.FileExporter(store.SpanFile(tmp_path / "there", "shop-0"), service="shop", replica=0)
    (tmp_path / "there").rmdir()
    with telemetry_lines() as lines:
        assert exporter.export([]) is exporter.export([]) is SpanExportResult.FAILURE
    assert [line["event"] for line in lines] == ["trace.not-stored"]


# --- metrics


def test_metrics_are_made_once_and_exposed() -> None:
    made = telemetry.counter("test_sales", "Sales of this test", ["till"])
    assert telemetry.counter("test_sales", "Sales of this test", ["till"]) is made
    made.labels("one").inc()
    assert b'tallystick_test_sales_total{till="one"} 1.0' in telemetry.exposition()
    with pytest.raises(TypeError):
        telemetry.gauge("test_sales", "another kind")


def test_lines_of_errors_are_counted_by_event_and_no_others() -> None:
    def count() -> float:
        return metrics.registry.get_sample_value("tallystick_errors_logged_total", {"event": "test.broke"}) or 0

    before = count()
    with telemetry_lines():
        telemetry.log.warning("test.broke")
        telemetry.log.error("test.broke")
        telemetry.log.error(f"test.{CARD}")
        telemetry.log.error("test.\ud800 of a pair")
    assert count() == before + 1
    assert CARD.encode() not in telemetry.exposition()


# --- the code of all services


def written_keys() -> dict[str, set[str]]:
    """Each key that a log call, a span or a problem's context in the source names, and where."""
    found: dict[str, set[str]] = {}
    for path in sorted((Path(__file__).parents[2] / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            keys: list[str | None] = []
            called = node.func
            if isinstance(called, ast.Attribute) and called.attr in {"debug", "info", "warning", "error", "exception"}:
                holder = called.value
                name = holder.attr if isinstance(holder, ast.Attribute) else getattr(holder, "id", "")
                if name == "log":
                    keys += [keyword.arg for keyword in node.keywords]
            for keyword in node.keywords:
                if keyword.arg == "context" and isinstance(keyword.value, ast.Dict):
                    keys += [getattr(key, "value", None) for key in keyword.value.keys]
            for key in keys:
                if key is not None:
                    found.setdefault(key, set()).add(f"{path.name}:{node.lineno}")
    return found


def allowed_by_services() -> set[str]:
    """The literal arguments of all calls of `allow`."""
    found: set[str] = set()
    for path in sorted((Path(__file__).parents[2] / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "allow":
                found |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def test_every_key_that_the_code_writes_is_allowed() -> None:
    """A key that nobody allowed is dropped when it is written, which is when it would have been needed."""
    known = allowed_by_services()
    unknown = {key: where for key, where in written_keys().items() if not redact.allowed(key) and key not in known}
    assert unknown == {}, "add it to telemetry/redact.py, or to the service's telemetry.allow(...)"
