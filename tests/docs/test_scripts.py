"""The programs that the documentation gives to strangers: they accept what the platform makes, and nothing that was bent."""

from __future__ import annotations

import base64
import importlib.util
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from http.server import HTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.chassis.audit import merkle, note, receipt
from tallystick.kernel import ids
from tallystick.services.notify import model as notify
from tools.reference.text import DOCS

KEY = Ed25519PrivateKey.generate()
LOG = note.VerifierKey("tallystick.test/log", KEY.public_key())


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "how-to" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


verifier = script("verify_receipt")
receiver = script("webhook_receiver")


def fact(number: int) -> bytes:
    return msgspec.json.encode(
        {
            "id": f"fct_{number}",
            "type": "payments.payment.settled",
            "data": {"text": 'quotes " and "fact": in it, and \u20ac'},
        }
    )


def log_of(size: int, index: int, *, service: str = "payments") -> str:
    """The receipt of fact `index` in a log of `size` entries."""
    tiles: dict[tuple[int, int], bytes] = {}
    frontier, counts = merkle.Frontier(), dict[int, int]()
    for number in range(size):
        entry = receipt.leaf(service, number + 1, sha256(fact(number)).digest())
        for level, node in frontier.append(merkle.leaf_hash(entry)):
            place = counts.get(level, 0)
            counts[level] = place + 1
            tiles[level, place // 256] = tiles.get((level, place // 256), b"") + node
    proof = merkle.prove_inclusion(lambda level, tile: tiles[level, tile], index, size)
    head = note.sign(note.Checkpoint(LOG.name, size, frontier.root()).text(), LOG.name, KEY)
    return receipt.write(index, proof, head, service=service, seq=index + 1, fact=fact(index))


@given(data=st.data())
@settings(max_examples=60)
def test_a_receipt_of_the_log_is_proved_and_every_bent_one_is_not(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 300))
    index = data.draw(st.integers(0, size - 1))
    text = log_of(size, index)
    assert verifier.verify(str(LOG), text) == (index, size, "payments", fact(index).decode())

    place = data.draw(st.integers(0, len(text) - 1))
    bent = (
        text[:place]
        + data.draw(st.sampled_from("0123456789abcXYZ+/ \n").filter(lambda c: c != text[place]))
        + text[place + 1 :]
    )
    try:
        told = verifier.verify(str(LOG), bent)
    except (ValueError, KeyError, TypeError):
        return
    # what still verifies must say the same: the last bits of base64 may mean nothing
    assert told == (index, size, "payments", fact(index).decode())


def test_what_another_service_told_in_a_services_name_is_not_proved() -> None:
    assert verifier.verify(str(LOG), log_of(5, 2, service="payments-eu"))[2] == "payments-eu"
    for service in ("risk", "risk-payments", "payments_eu"):
        with pytest.raises(ValueError, match="not its to tell"):
            verifier.verify(str(LOG), log_of(5, 2, service=service))


@pytest.mark.parametrize(
    ("whole", "bent"),
    [
        ("index 2", "index two"),
        ("extra ", "extra AAAA"),
        ("extra ", "extra ="),
        ("\u2014 ", "\u2014\u2014"),
        ("index 2\n", "index 2\n*\n"),
    ],
)
def test_a_damaged_receipt_is_said_to_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], whole: str, bent: str
) -> None:
    """In words for its reader, not in those of the library that could not decode it."""
    text = log_of(5, 2)
    assert whole in text
    (tmp_path / "key").write_text(str(LOG))
    (tmp_path / "receipt").write_text(text.replace(whole, bent, 1))
    monkeypatch.setattr("sys.argv", ["verify_receipt.py", str(tmp_path / "key"), str(tmp_path / "receipt")])
    assert verifier.main() == 1
    assert capsys.readouterr().out == "NOT proved: the key or the receipt is damaged\n"


@pytest.mark.parametrize(
    "said", [b"[" * 100_000 + b"]" * 100_000, b"[]", b"7", b'{"service":"payments","seq":1,"fact":[]}']
)
def test_what_is_no_fact_is_not_proved_and_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: bytes
) -> None:
    text = log_of(5, 2)
    extra = text.split("\n")[1]
    (tmp_path / "key").write_text(str(LOG))
    (tmp_path / "receipt").write_text(text.replace(extra, "extra " + base64.b64encode(said).decode()))
    monkeypatch.setattr("sys.argv", ["verify_receipt.py", str(tmp_path / "key"), str(tmp_path / "receipt")])
    assert verifier.main() == 1
    assert capsys.readouterr().out.startswith("NOT proved: ")


@pytest.mark.parametrize(
    "text",
    ["", "\n", str(LOG), "c2sp.org/tlog-proof@v1\nextra AAAA", '{"type":"about:blank"}'],
    ids=["empty", "blank", "key", "cut", "problem"],
)
def test_a_file_that_is_no_receipt_is_said_to_be_none(text: str) -> None:
    """The two files in the wrong order, or the answer of a refused request: what was said was of Python's tuples."""
    with pytest.raises(ValueError, match="this is not a receipt"):
        verifier.verify(str(LOG), text)


def test_another_logs_key_proves_nothing() -> None:
    other = note.VerifierKey(LOG.name, Ed25519PrivateKey.generate().public_key())
    with pytest.raises(ValueError, match="has not signed"):
        verifier.verify(str(other), log_of(5, 2))


def test_a_webhook_of_notify_is_genuine_and_a_bent_one_is_not() -> None:
    secret, now = notify.new_secret(), datetime.now(UTC)
    id_ = ids.facts.new()
    delivery = notify.Delivery(
        id=ids.deliveries.new(),
        tenant="default",
        endpoint=ids.webhook_endpoints.new(),
        fact=id_,
        type="payment.settled",
        body=notify.body(id_, "payment.settled", now, {"id": "pay_1"}),
        created_at=now,
        next_at=None,
    )
    headers = notify.headers(secret, delivery, now)
    stamp = now.timestamp()
    assert receiver.verify(secret, headers, delivery.body, stamp)["type"] == "payment.settled"
    wrong = [
        (notify.new_secret(), headers, delivery.body, stamp),
        (secret, headers, delivery.body + b" ", stamp),
        (secret, headers, delivery.body, stamp + 301),
        (secret, headers | {"webhook-id": "fct_other"}, delivery.body, stamp),
        (secret, headers | {"webhook-timestamp": str(int(stamp) - 1)}, delivery.body, stamp),
        (secret, headers | {"webhook-signature": "v1,AAAA"}, delivery.body, stamp),
        (secret, headers | {"webhook-signature": "v1,\u00e9"}, delivery.body, stamp),
    ]
    for each in wrong:
        with pytest.raises(ValueError, match=r"."):
            receiver.verify(*each)


@pytest.fixture
def listening() -> Iterator[int]:
    """The receiver, as a stranger runs it."""
    receiver.Receiver.secret = notify.new_secret()
    server = HTTPServer(("127.0.0.1", 0), receiver.Receiver)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def status_of(port: int, request: str) -> bytes:
    """The whole answer is read: the receiver would say that somebody went away."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection, connection.makefile("rb") as answer:
        connection.sendall(request.encode())
        return answer.read().split(b"\r\n")[0].split()[1]


@pytest.mark.parametrize("length", ["x", "-1", "-99999", "1e3", "", str(receiver.MAX_BODY + 1), "9" * 5000])
def test_a_length_that_is_none_is_a_400_and_holds_up_nobody(listening: int, length: str) -> None:
    assert status_of(listening, f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n") == b"400"


def test_a_signature_that_is_not_ascii_is_a_400(listening: int) -> None:
    stamp = int(datetime.now(UTC).timestamp())
    request = f"POST / HTTP/1.1\r\nwebhook-id: a\r\nwebhook-timestamp: {stamp}\r\nwebhook-signature: v1,\u00e9\r\n\r\n"
    assert status_of(listening, request) == b"400"
