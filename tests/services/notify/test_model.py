"""Webhooks by the rules: who is told, how it is signed, when it is tried again, where it may go."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tallystick.contracts.notify.messages import URL_FORM
from tallystick.contracts.notify.problems import InvalidUrl, UnknownWebhookEvent
from tallystick.kernel import ids
from tallystick.services.notify import model
from tallystick.services.notify.model import Answer, Delivery

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def delivery(attempts: int = 0) -> Delivery:
    fact = ids.facts.new()
    return Delivery(
        id=ids.deliveries.new(),
        tenant="default",
        endpoint=ids.webhook_endpoints.new(),
        fact=fact,
        type="payment.settled",
        body=model.body(fact, "payment.settled", NOW, {"id": "pay_x", "amount": "1"}),
        attempts=attempts,
        created_at=NOW,
        next_at=NOW,
    )


@pytest.mark.parametrize(
    ("patterns", "event", "expected"),
    [
        (["*"], "payment.settled", True),
        (["payment.settled"], "payment.settled", True),
        (["payment.*"], "payment.settled", True),
        (["payment.*"], "payments.settled", False),
        (["payment"], "payment.settled", False),
        (["refund.*", "transfers.posted"], "payment.settled", False),
        ([], "payment.settled", False),
    ],
)
def test_who_wants_what(patterns: list[str], event: str, expected: bool) -> None:
    assert model.wants(patterns, event) is expected


EVENTS = ("payment.received", "payment.settled", "refund.succeeded", "transfers.posted")


@pytest.mark.parametrize(
    "patterns",
    [("*",), ("payment.*",), ("refund.*", "payment.settled"), EVENTS, ("payment.settled", "*")],
)
def test_events_that_there_are_can_be_asked_for(patterns: tuple[str, ...]) -> None:
    model.check_events(patterns, EVENTS)


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("payment.setled", "payment.settled"), ("payments.payment.settled", "payment.settled"), ("payment", "payment.*"),
        ("payments.*", "payment.*"), ("transfer.*", "transfers.*"), ("payment.settled.*", "payment.*"), ("paymen.*", "payment.*"),
        ("transfers", "transfers.*"), ("zzz", None), ("zzz.*", None),
    ],
)  # fmt: skip
def test_an_event_that_nobody_tells_is_refused_and_the_nearest_named(pattern: str, nearest: str | None) -> None:
    with pytest.raises(UnknownWebhookEvent) as refused:
        model.check_events(("payment.*", pattern), EVENTS)
    said = f'; the nearest is "{nearest}"' if nearest else ""
    assert refused.value.detail == (
        f'no event is called "{pattern}"{said}. All events: https://tallystick.dev/reference/facts/'
    )
    assert refused.value.extensions["errors"] == [{"pointer": "/events/1", "detail": refused.value.detail}]


@given(
    st.lists(st.sampled_from(["*", "a.*", "a.b", "a.b.*", "a.b.c", "b.*", "b.c", "ab.*", "x"]), min_size=1),
    st.lists(st.sampled_from(["a.b", "a.b.c", "b.c", "ab.c", "a.c"]), unique=True),
)
def test_what_is_taken_is_what_something_could_be_sent_for(patterns: list[str], events: list[str]) -> None:
    idle = [pattern for pattern in patterns if not any(model.wants((pattern,), event) for event in events)]
    if idle:
        with pytest.raises(UnknownWebhookEvent, match=f'"{re.escape(idle[0])}"'):
            model.check_events(patterns, events)
    else:
        model.check_events(patterns, events)


def test_signatures_are_those_of_the_standard_and_cover_all() -> None:
    secret, one = model.new_secret(), delivery()
    now = datetime.now(UTC)
    headers = model.headers(secret, one, now)
    assert Webhook(secret).verify(one.body, headers) == msgspec.json.decode(one.body)
    for bad in [{"webhook-id": "fct_other"}, {"webhook-timestamp": str(int(now.timestamp()) - 1)}]:
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(one.body, headers | bad)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(one.body + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(model.new_secret()).verify(one.body, headers)


def test_the_id_stays_the_same_over_attempts() -> None:
    one = delivery()
    later, _ = model.after(one, Answer(500), NOW, 0.0)
    secret = model.new_secret()
    assert model.headers(secret, one, NOW)["webhook-id"] == model.headers(secret, later, NOW)["webhook-id"]


@given(st.sampled_from([None, 100, 301, 400, 404, 429, 500, 503]), st.floats(0, 1))
def test_failure_is_tried_again_with_growing_pauses_and_then_ends(status: int | None, jitter: float) -> None:
    one, pauses = delivery(), []
    for _ in range(model.MAX_ATTEMPTS - 1):
        one, disabled = model.after(one, Answer(status, "x"), NOW, jitter)
        assert disabled is None
        assert one.status == "pending"
        assert one.next_at is not None
        pauses.append(one.next_at - NOW)
    assert pauses == sorted(pauses)
    assert all(p >= s for p, s in zip(pauses, model.SCHEDULE, strict=True))
    one, _ = model.after(one, Answer(status, "x"), NOW, jitter)
    assert (one.status, one.next_at, one.attempts) == ("failed", None, model.MAX_ATTEMPTS)


def test_success_ends_it() -> None:
    one, disabled = model.after(delivery(3), Answer(204), NOW, 0.5)
    assert (one.status, one.next_at, one.delivered_at, disabled) == ("delivered", None, NOW, None)


def test_gone_disables_the_endpoint() -> None:
    one, disabled = model.after(delivery(), Answer(410), NOW, 0.5)
    assert one.status == "failed"
    assert disabled is not None


def test_retry_after_is_honoured_within_bounds() -> None:
    one, _ = model.after(delivery(), Answer(429, "x", timedelta(minutes=7)), NOW, 0.0)
    assert one.next_at == NOW + timedelta(minutes=7)
    one, _ = model.after(delivery(), Answer(503, "x", timedelta(days=30)), NOW, 0.0)
    assert one.next_at == NOW + model.MAX_RETRY_AFTER
    one, _ = model.after(delivery(), Answer(400, "x", timedelta(minutes=7)), NOW, 0.0)
    assert one.next_at == NOW + model.SCHEDULE[0]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook", "ftp://example.com/", "https://user:pw@example.com/", "https://example.com/#x", "https://",
        "https://localhost/", "https://127.0.0.1/", "https://10.0.0.1/", "https://[::1]/", "https://169.254.169.254/latest",
        "https://[::ffff:10.0.0.1]/", "https://0.0.0.0/", "https://metadata.internal/", "not a url", "https://example.com:99999/",
        "https://[::ffff:127.0.0.1%25]/", "https://[::1%25]/", "https://[::%25]/", "https://127.1/", "https://2130706433/", "https://0/",
        "https://127.0.0.1./", "https://[fec0::1]/", "https://168.63.129.16/metadata",
    ],
)  # fmt: skip
def test_urls_that_lead_inside_or_nowhere_are_refused(url: str) -> None:
    with pytest.raises(InvalidUrl):
        model.check_url(url, private=False)


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize(
    "url",
    [
        "https://[fe80::1%25eth0]/", "https://[v1.fe80::1]/", "https://[v1.fe80:1]/", "https://[v1.abc]/", "https://xn--/", "https://xn--0.example/",
        "https://xn--a-.example/x", "https://:@example.com/", "https://example.com:0/", "https://%31%32%37.0.0.1/", "https://1.2.3.4.5/",
        "https://@example.com/", "https://example.com/#", "https://example.com#",
    ],
)  # fmt: skip
def test_urls_that_no_client_could_read_again_are_refused_everywhere(url: str, private: bool) -> None:
    with pytest.raises(InvalidUrl):
        model.check_url(url, private=private)


@given(st.text("0123456789abxv.:[]%25-@/?#", max_size=30), st.booleans())
def test_a_url_that_is_taken_stays_what_it_is(rest: str, private: bool) -> None:
    try:
        url = model.check_url(f"https://{rest}", private=private)
    except InvalidUrl:
        return
    assert re.fullmatch(URL_FORM, f"https://{rest}"), "taken, and not as the contract says"
    assert model.check_url(url, private=private) == url


def test_public_urls_pass_and_the_sandbox_allows_private_ones() -> None:
    assert model.check_url("https://example.com/hook?x=1", private=False) == "https://example.com/hook?x=1"
    assert model.check_url("https://xn--mnchen-3ya.example:443/", private=False) == "https://xn--mnchen-3ya.example/"
    assert model.check_url("https://[2606:4700:0::1111]/", private=False) == "https://[2606:4700::1111]/"
    assert model.check_url("http://127.0.0.1:9000/hook", private=True) == "http://127.0.0.1:9000/hook"
    for url in ("https://example.com/@shop/hook?to=a@b", "HTTPS://Example.com/@shop/hook?to=a@b"):
        assert model.check_url(url, private=False) == "https://example.com/@shop/hook?to=a@b"
        assert re.fullmatch(URL_FORM, url), "taken, and not as the contract says"
