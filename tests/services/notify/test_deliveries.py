"""Deliveries to real receivers on loopback: what is sent, when again, and what brings it to an end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tallystick.chassis.bus import Bus, Consumer
from tallystick.chassis.db import Transaction
from tallystick.chassis.keys import Aad
from tallystick.chassis.telemetry import logs
from tallystick.kernel import ids
from tallystick.kernel.clock import ManualClock
from tallystick.services.notify import model
from tallystick.services.notify.model import Delivery
from tallystick.services.notify.service import deliveries as service_deliveries
from tallystick.services.notify.service.deliveries import LEASE, PER_ENDPOINT, PER_TENANT
from tallystick.services.notify.store import Store, queries
from tallystick.services.notify.worker import SUBSCRIPTIONS
from tests.conftest import DatabaseFor
from tests.services.notify.support import PATH, Env, Receiver, asleep, fact, running, slug
from tests.support.facts import append, relaying
from tests.support.http import World
from tests.support.parts import NatsServer


async def one(env: Env, receiver: Receiver, *answers: Any) -> dict[str, Any]:
    """An endpoint with one event on its way to it."""
    receiver.answers = list(answers)
    endpoint = await env.endpoint(receiver.url)
    await env.told(fact())
    return endpoint


async def stored(env: Env, endpoint: dict[str, Any], url: str) -> None:
    """As if it had been taken before there was a rule against it."""
    await env.service.query(
        "UPDATE endpoint SET url = $2 WHERE id = $1", ids.webhook_endpoints.parse(endpoint["id"]), url
    )


# ---- what is sent


async def test_a_webhook_is_the_standards(env: Env, receiver: Receiver) -> None:
    endpoint = await env.endpoint(receiver.url, "payment.settled")
    told = fact(amount="1250")
    await env.told(told)
    await env.send()
    ((headers, body),) = receiver.got
    assert Webhook(endpoint["secret"]).verify(body, headers) == {
        "id": ids.facts.text(told.id),
        "type": "payment.settled",
        "timestamp": "2026-01-01T00:00:00.000000Z",
        "data": {"id": "pay_x", "amount": "1250"},
    }
    assert headers["webhook-id"] == ids.facts.text(told.id)
    assert headers["content-type"] == "application/json"
    with pytest.raises(WebhookVerificationError):
        Webhook(endpoint["secret"]).verify(body.replace(b"1250", b"9999"), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(model.new_secret()).verify(body, headers)
    (delivery,) = await env.deliveries(endpoint)
    assert (delivery["status"], delivery["attempts"], delivery["last_status"]) == ("delivered", 1, 204)
    assert delivery["event"] == headers["webhook-id"]
    await env.send()
    assert len(receiver.got) == 1


async def test_endpoints_get_what_they_listen_to_of_their_tenant(env: Env, receiver: Receiver) -> None:
    settled = await env.endpoint(receiver.url, "payment.settled")
    transfers = await env.endpoint(receiver.url, "transfers.*", "refund.*")
    everything = await env.endpoint(receiver.url)
    disabled = await env.endpoint(receiver.url)
    foreign = await env.endpoint(receiver.url, tenant="other")
    await env.service.query("UPDATE endpoint SET disabled_reason = 'x' WHERE id = $1", ids.webhook_endpoints.parse(disabled["id"]))  # fmt: skip
    await env.told(
        fact(), fact("payments.payment.declined"), fact("ledger.transfers.posted"), fact("payments.refund.succeeded")
    )
    await env.told()
    await env.send()
    for endpoint, expected in [
        (settled, {"payment.settled"}),
        (transfers, {"transfers.posted", "refund.succeeded"}),
        (everything, {"payment.settled", "payment.declined", "transfers.posted", "refund.succeeded"}),
        (disabled, set()),
    ]:
        assert {each["type"] for each in await env.deliveries(endpoint)} == expected
    assert (await env.edge("GET", f"{PATH}/{foreign['id']}/deliveries", tenant="other")).json["data"] == []


async def test_facts_come_from_the_bus_and_become_one_delivery(
    env: Env, receiver: Receiver, nats_server: NatsServer, database_for: DatabaseFor
) -> None:
    bus = await Bus.open(nats_server.url, nats_server.ADMIN, nats_server.password())
    endpoint = await env.endpoint(receiver.url)
    sources = {each.source: each for each in SUBSCRIPTIONS}
    assert set(sources) == {"payments", "ledger"}
    payments = await (await database_for("tallystick.chassis", "payments_test")).open()
    facts = [fact(n=n) for n in range(20)]
    await append(payments, *facts)

    async def consume(until: int) -> None:
        consumer = Consumer(env.database, bus, sources["payments"], env.notify, pause_s=0.02)
        task = asyncio.create_task(consumer.run())
        async with asyncio.timeout(60):
            while not await env.service.query("SELECT 1 FROM inbox WHERE last_seq >= $1", until):
                await asyncio.sleep(0.02)
        consumer.stop()
        await task

    async with relaying(payments, bus, "payments"):
        await consume(20)
        # An inbox that forgot, as after a restored backup, makes no second delivery.
        await env.service.query("UPDATE inbox SET last_seq = 0")
        await consume(20)
    await env.send()
    assert sorted(receiver.ids) == sorted(ids.facts.text(each.id) for each in facts)
    assert len(await env.deliveries(endpoint, "?limit=200")) == 20
    await bus.close()


# ---- when again


async def test_without_an_endpoint_facts_are_passed_and_from_its_making_on_none_is_lost(
    env: Env, receiver: Receiver, database_for: DatabaseFor, nats_server: NatsServer
) -> None:
    """Each of the tenant's facts after the answer that the endpoint was made, however the two fall together."""
    payments = await (await database_for("tallystick.chassis")).open()
    bus = await Bus.open(nats_server.url, nats_server.ADMIN, nats_server.password())
    (subscription,) = (each for each in SUBSCRIPTIONS if each.source == "payments")
    transactions = 0

    async def counted(notify: Any, tx: Any, facts: Any) -> None:
        nonlocal transactions
        transactions += 1
        await subscription.handle(notify, tx, facts)

    consumer = Consumer(env.database, bus, replace(subscription, handle=counted), env.notify)
    task = asyncio.create_task(consumer.run())

    async def passed(count: int) -> None:
        async with asyncio.timeout(60):
            while consumer.last_seq < count:
                await asyncio.sleep(0.01)

    try:
        async with relaying(payments, bus, "payments"):
            await append(payments, *(fact() for _ in range(20)))
            await passed(20)
            assert transactions == 0
            others = [asyncio.create_task(append(payments, fact())) for _ in range(10)]
            endpoint = await env.endpoint(receiver.url)
            heard = [fact() for _ in range(30)]
            for one_fact in heard:
                await append(payments, one_fact)
            await asyncio.gather(*others)
            await passed(60)
    finally:
        consumer.stop()
        await task
        await bus.close()
    rows = await env.service.query("SELECT fact, endpoint FROM delivery")
    assert {each.id for each in heard} <= {row["fact"] for row in rows}
    assert {ids.webhook_endpoints.text(row["endpoint"]) for row in rows} == {endpoint["id"]}


async def test_a_failure_is_tried_again_at_its_time_and_not_before(env: Env, receiver: Receiver) -> None:
    endpoint = await one(env, receiver, 500, 503)
    await env.send()
    (delivery,) = await env.deliveries(endpoint)
    assert (delivery["status"], delivery["attempts"], delivery["last_status"]) == ("pending", 1, 500)
    assert delivery["last_error"] == "answered 500"
    await env.send()
    assert len(receiver.got) == 1
    env.clock.advance(timedelta(seconds=4.9))
    await env.send()
    assert len(receiver.got) == 1, "the first pause is 5 s or longer"
    env.clock.advance(timedelta(seconds=1.2))
    await env.send()
    assert len(receiver.got) == 2
    env.clock.advance(timedelta(seconds=59))
    await env.send()
    assert len(receiver.got) == 2, "the second is a minute or longer"
    env.clock.advance(timedelta(seconds=14))
    await env.send()
    assert len(receiver.got) == 3
    assert len(set(receiver.ids)) == 1, "the same id over all attempts"
    stamps = [int(headers["webhook-timestamp"]) for headers, _ in receiver.got]
    assert stamps == sorted(set(stamps))
    for headers, body in receiver.got[2:]:
        assert headers["webhook-signature"] != receiver.got[0][0]["webhook-signature"]
        assert body == receiver.got[0][1]
    (delivery,) = await env.deliveries(endpoint)
    assert (delivery["status"], delivery["attempts"], "last_error" in delivery) == ("delivered", 3, False)


async def test_after_the_last_attempt_it_has_failed_and_can_be_replayed(env: Env, receiver: Receiver) -> None:
    endpoint = await one(env, receiver, *[500] * model.MAX_ATTEMPTS)
    for pause in (*model.SCHEDULE, timedelta(days=30)):
        await env.send()
        env.clock.advance(pause * 1.3)
    await env.send()
    assert len(receiver.got) == model.MAX_ATTEMPTS
    (delivery,) = await env.deliveries(endpoint)
    assert (delivery["status"], delivery["attempts"], "next_attempt_at" in delivery) == ("failed", 11, False)
    answer = await env.edge("POST", f"{PATH}/{endpoint['id']}/deliveries/{delivery['id']}/replay")
    assert (answer.status, answer.json["status"], answer.json["attempts"]) == (202, "pending", 0)
    await env.send()
    (delivery,) = await env.deliveries(endpoint)
    assert (delivery["status"], delivery["attempts"]) == ("delivered", 1)
    assert len(set(receiver.ids)) == 1
    assert ("notify.delivery.replayed", "cli_one") in await env.facts()


async def test_what_was_delivered_can_be_sent_once_more(env: Env, receiver: Receiver) -> None:
    endpoint = await one(env, receiver)
    await env.send()
    (delivery,) = await env.deliveries(endpoint)
    await env.edge("POST", f"{PATH}/{endpoint['id']}/deliveries/{delivery['id']}/replay")
    await env.send()
    assert len(receiver.got) == 2
    assert len(set(receiver.ids)) == 1


@pytest.mark.parametrize(
    ("status", "wish", "seconds"),
    [(429, "600", 600), (503, "86400", 86400), (503, "999999", 86400), (429, "date", 600), (400, "600", 5), (503, "soon", 5), (429, "-5", 5), (429, "9" * 7, 5)],
)  # fmt: skip
async def test_the_endpoints_wish_is_honoured_up_to_a_day(
    env: Env, receiver: Receiver, status: int, wish: str, seconds: int
) -> None:
    if wish == "date":
        wish = format_datetime(env.clock.now().replace(microsecond=0) + timedelta(seconds=seconds), usegmt=True)
    endpoint = await one(env, receiver, web.Response(status=status, headers={"Retry-After": wish}))
    await env.send()
    (delivery,) = await env.deliveries(endpoint)
    pause = datetime.fromisoformat(delivery["next_attempt_at"]) - env.clock.now()
    assert timedelta(seconds=seconds - 1) <= pause <= timedelta(seconds=seconds * 1.2)


# ---- what comes back


async def test_gone_disables_the_endpoint_and_what_waits_for_it(env: Env, receiver: Receiver) -> None:
    endpoint = await one(env, receiver, 500, 410)
    await env.send()
    await env.told(fact())
    await env.send()
    assert (await env.edge("GET", f"{PATH}/{endpoint['id']}")).json["status"] == "disabled"
    assert {(each["status"], each["attempts"]) for each in await env.deliveries(endpoint)} == {("failed", 1)}
    env.clock.advance(timedelta(days=1))
    await env.told(fact())
    await env.send()
    assert len(receiver.got) == 2
    (last, _) = await env.deliveries(endpoint)
    answer = await env.edge("POST", f"{PATH}/{endpoint['id']}/deliveries/{last['id']}/replay")
    assert (answer.status, slug(answer)) == (409, "webhook-endpoint-disabled")
    answer = await env.edge("POST", f"{PATH}/{endpoint['id']}/enable")
    assert (answer.status, answer.json["status"]) == (200, "enabled")
    await env.edge("POST", f"{PATH}/{endpoint['id']}/enable")
    await env.edge("POST", f"{PATH}/{endpoint['id']}/deliveries/{last['id']}/replay")
    await env.told(fact())
    await env.send()
    assert len(receiver.got) == 4
    assert [each for each, _ in await env.facts()] == [
        "notify.endpoint.created", "notify.endpoint.disabled", "notify.endpoint.enabled", "notify.delivery.replayed",
    ]  # fmt: skip


async def test_gone_that_is_said_to_several_at_once_is_one_disabling(
    env: Env, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its delivery and wants those of the others: they must not wait for each other in a circle."""
    real = Store.save_delivery

    async def slowly(self: Store, tx: Transaction, d: Delivery, *, lease: datetime | None) -> bool:
        saved = await real(self, tx, d, lease=lease)
        await asyncio.sleep(0.05)  # the others' answers come meanwhile
        return saved

    monkeypatch.setattr(Store, "save_delivery", slowly)
    endpoint = await env.endpoint(receiver.url)
    receiver.answers = [410] * 4
    await env.told(*(fact(n=n) for n in range(4)))
    with logs.captured() as lines:
        await env.send()
    assert len(receiver.got) == 4
    assert "webhook.attempt_broken" not in {line["event"] for line in lines}
    assert {(each["attempts"], each["last_status"]) for each in await env.deliveries(endpoint)} == {(1, 410)}
    assert [each for each, _ in await env.facts()] == ["notify.endpoint.created", "notify.endpoint.disabled"]


async def _disabled_meanwhile(
    env: Env, receiver: Receiver, brings: int
) -> tuple[dict[str, Any], asyncio.Task[Any], asyncio.Event]:
    """An endpoint that the answer to its second webhook has disabled, while its first is under way: that is answered with `brings` once
    the event is set.
    """
    disabled = asyncio.Event()

    async def late(request: web.Request) -> web.Response:
        await disabled.wait()
        return web.Response(status=brings)

    endpoint = await env.endpoint(receiver.url)
    receiver.answers = [late, 410]
    await env.told(fact(n=1), fact(n=2))
    sending = asyncio.create_task(env.send())
    async with asyncio.timeout(60):
        while (await env.edge("GET", f"{PATH}/{endpoint['id']}")).json["status"] != "disabled":
            await asyncio.sleep(0.02)
    return endpoint, sending, disabled


@pytest.mark.parametrize("brings", [204, 500, 410])
async def test_what_is_under_way_when_its_endpoint_is_disabled_is_stored_as_what_it_was(
    env: Env, receiver: Receiver, brings: int
) -> None:
    """The receiver had accepted it, and the list said that it had failed; whoever replayed the failed ones sent it twice."""
    endpoint, sending, disabled = await _disabled_meanwhile(env, receiver, brings)
    assert [each["status"] for each in await env.deliveries(endpoint)] == ["failed", "failed"]
    await env.told(fact(n=3))
    disabled.set()
    await sending
    first = next(each for each in await env.deliveries(endpoint) if each["event"] == receiver.ids[0])
    assert (first["attempts"], first["last_status"]) == (1, brings)
    if brings == 204:
        assert (first["status"], first.get("last_error")) == ("delivered", None)
        assert "delivered_at" in first
    else:
        assert first["status"] == "failed"
        assert first["last_error"] == ("answered 410" if brings == 410 else "the endpoint was disabled")
    assert "next_attempt_at" not in first
    assert len(receiver.got) == 2
    assert [each for each, _ in await env.facts()] == ["notify.endpoint.created", "notify.endpoint.disabled"]


async def test_what_was_replayed_since_is_not_overwritten_by_an_attempt_from_before(
    env: Env, receiver: Receiver
) -> None:
    endpoint, sending, disabled = await _disabled_meanwhile(env, receiver, 500)
    await env.edge("POST", f"{PATH}/{endpoint['id']}/enable")
    first = next(each for each in await env.deliveries(endpoint) if each["event"] == receiver.ids[0])
    await env.edge("POST", f"{PATH}/{endpoint['id']}/deliveries/{first['id']}/replay")
    disabled.set()
    await sending
    first = next(each for each in await env.deliveries(endpoint) if each["event"] == receiver.ids[0])
    assert (first["status"], first["attempts"], receiver.ids.count(first["event"])) == ("delivered", 1, 2)


async def test_a_redirect_is_no_direction(env: Env, receiver: Receiver) -> None:
    elsewhere = Receiver()
    await elsewhere.start()
    endpoint = await one(env, receiver, web.Response(status=307, headers={"Location": elsewhere.url}))
    await env.send()
    assert elsewhere.got == []
    (delivery,) = await env.deliveries(endpoint)
    assert (delivery["status"], delivery["last_error"]) == ("pending", "answered 307")
    await elsewhere.stop()


async def test_a_receiver_that_does_not_answer_is_not_waited_for(
    around: World, env: Env, receiver: Receiver, directory: Path
) -> None:
    async with running(around, env.service, directory, seconds=0.3) as hasty:
        endpoint = await one(hasty, receiver, asleep)
        await hasty.send()
        (delivery,) = await hasty.deliveries(endpoint)
        assert (delivery["status"], delivery["last_error"]) == ("pending", "no answer within 0.3 s")


async def dripping(request: web.Request) -> web.StreamResponse:
    """An answer that says 200 and never ends."""
    answer = web.StreamResponse(status=200)
    await answer.prepare(request)
    while True:
        await answer.write(b"x")
        await asyncio.sleep(0.05)


async def huge(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(status=200)
    await answer.prepare(request)
    sent = 0
    try:
        while sent < 1 << 30:
            await answer.write(b"x" * 65536)
            sent += 65536
    finally:
        request.app["sent"] = sent
    return answer


async def bomb(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"\x1f\x8bnot really", headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize("answer", [dripping, huge, bomb])
async def test_the_status_counts_and_the_body_is_not_read(env: Env, receiver: Receiver, answer: Any) -> None:
    endpoint = await one(env, receiver, answer)
    async with asyncio.timeout(60):
        await env.send()
    (delivery,) = await env.deliveries(endpoint)
    assert (delivery["status"], delivery["last_status"]) == ("delivered", 200)


@asynccontextmanager
async def raw_receiver(said: bytes) -> AsyncIterator[str]:
    """Something that is no HTTP server, or not a good one."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    server.close()


@pytest.mark.parametrize(
    "said", [b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000, b"HTTP/1.1 999999 No\r\n\r\n"]
)
async def test_nonsense_is_a_failed_attempt(env: Env, said: bytes) -> None:
    async with raw_receiver(said) as url:
        endpoint = await env.endpoint(url)
        await env.told(fact())
        await env.send()
    (delivery,) = await env.deliveries(endpoint)
    assert (delivery["status"], delivery["attempts"]) == ("pending", 1)
    assert delivery["last_error"].startswith("the exchange broke: ")


async def test_nobody_there_is_a_failed_attempt(env: Env, receiver: Receiver) -> None:
    endpoint = await one(env, receiver)
    await receiver.stop()
    await env.send()
    (delivery,) = await env.deliveries(endpoint)
    assert (delivery["status"], delivery["attempts"], delivery["last_error"]) == ("pending", 1, "could not connect")


# ---- where it may go


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1", "64:ff9b::7f00:1", "0.0.0.0"]
)  # fmt: skip
async def test_a_name_that_leads_inside_is_refused(
    around: World, env: Env, receiver: Receiver, directory: Path, address: str
) -> None:
    async def resolve(host: str) -> list[str]:
        return ["93.184.216.34", address]

    async with running(around, env.service, directory, private=False, resolve=resolve) as strict:
        endpoint = await strict.endpoint("https://shop.example/hook")
        await strict.told(fact())
        await strict.send()
        (delivery,) = await strict.deliveries(endpoint)
        assert delivery["last_error"] == "the address is not a public one"
    assert receiver.got == []


async def test_an_address_from_before_the_rule_was_made_is_refused_when_it_is_sent_to(
    around: World, env: Env, receiver: Receiver, directory: Path
) -> None:
    endpoint = await env.endpoint(receiver.url)
    async with running(around, env.service, directory, private=False) as strict:
        await strict.told(fact())
        await strict.send()
        (delivery,) = await strict.deliveries(endpoint)
        assert delivery["last_error"] == "the address is not a public one"
    assert receiver.got == []


@pytest.mark.parametrize(
    "host",
    ["[::ffff:127.0.0.1%25]", "[::1%25]", "[::%25]", "[::ffff:7f00:1]", "127.1", "127.0.0.1.", "2130706433", "0", "0x7f.1", "localhost"],
)  # fmt: skip
async def test_no_spelling_of_an_inner_address_opens_a_connection(
    around: World, env: Env, receiver: Receiver, directory: Path, host: str
) -> None:
    """At the socket: whatever a URL from before the rule says, nothing is connected."""
    connected = []

    async def inside(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer.get_extra_info("sockname"))
        writer.close()

    server = await asyncio.start_server(inside, ["127.0.0.1", *(["::1"] if socket.has_ipv6 else [])], 0)
    ports = {listening.getsockname()[1] for listening in server.sockets}
    async with server, running(around, env.service, directory, private=False) as strict:
        for port in ports:
            endpoint = await env.endpoint(receiver.url)
            await stored(env, endpoint, f"https://{host}:{port}/")
            await strict.told(fact())
            await strict.send()
            (delivery,) = await strict.deliveries(endpoint)
            assert (delivery["attempts"], delivery["status"]) == (1, "pending")
            assert delivery["last_error"] == "the address is not a public one"
            await env.edge("DELETE", f"{PATH}/{endpoint['id']}")
    assert connected == []


async def test_a_url_that_can_not_be_read_is_a_failed_attempt_like_any_other(env: Env, receiver: Receiver) -> None:
    endpoint = await env.endpoint(receiver.url)
    await stored(env, endpoint, "https://v1.fe80::1/")
    await env.told(fact())
    for attempt in range(1, model.MAX_ATTEMPTS + 1):
        await env.send()
        (delivery,) = await env.deliveries(endpoint)
        assert (delivery["attempts"], delivery["last_error"]) == (attempt, "the exchange broke: ValueError")
        env.clock.advance(timedelta(hours=30))
    assert [each["status"] for each in await env.deliveries(endpoint)] == ["failed"]


async def test_the_address_that_was_checked_is_the_one_connected_to(
    around: World, env: Env, receiver: Receiver, directory: Path
) -> None:
    """A name that changes between check and connection (DNS rebinding): it is asked once for each attempt."""
    asked = []

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.99"]

    async with running(around, env.service, directory, resolve=resolve) as it:
        await it.endpoint(f"http://shop.example:{receiver.port}/hook")
        await it.told(fact())
        await it.send()
    assert asked == ["shop.example"]
    assert len(receiver.got) == 1
    assert receiver.got[0][0]["host"] == f"shop.example:{receiver.port}"


async def test_a_name_that_turned_private_is_refused_the_next_time(
    around: World, env: Env, receiver: Receiver, directory: Path
) -> None:
    answers = [[], ["127.0.0.1"]]

    async def resolve(host: str) -> list[str]:
        return answers.pop(0)

    async with running(around, env.service, directory, private=False, resolve=resolve) as strict:
        endpoint = await strict.endpoint(f"https://shop.example:{receiver.port}/hook")
        await strict.told(fact())
        for attempt in (1, 2):
            await strict.send()
            (delivery,) = await strict.deliveries(endpoint)
            assert (delivery["attempts"], delivery["last_error"]) == (attempt, "the address is not a public one")
            strict.clock.advance(timedelta(seconds=10))
    assert receiver.got == []
    assert answers == []


# ---- crashes, replicas, fairness


async def test_a_crash_during_an_attempt_sends_it_again_with_the_same_id(env: Env, receiver: Receiver) -> None:
    endpoint = await one(env, receiver, asleep)
    sending = asyncio.create_task(env.send())
    async with asyncio.timeout(60):
        while not receiver.got:
            await asyncio.sleep(0.01)
    for task in list(env.notify.deliveries._running):
        task.cancel()
    await sending
    (delivery,) = await env.deliveries(endpoint)
    assert (delivery["status"], delivery["attempts"]) == ("pending", 0), "nothing is known of that attempt"
    env.clock.advance(LEASE - timedelta(seconds=1))
    await env.send()
    assert len(receiver.got) == 1, "the lease still holds"
    env.clock.advance(timedelta(seconds=1))
    await env.send()
    assert len(receiver.got) == 2
    assert len(set(receiver.ids)) == 1
    (delivery,) = await env.deliveries(endpoint)
    assert delivery["status"] == "delivered"


async def test_two_replicas_send_each_webhook_once(
    around: World, env: Env, receiver: Receiver, directory: Path
) -> None:
    for _ in range(10):
        await env.endpoint(receiver.url)
    facts = [fact(n=n) for n in range(20)]
    async with running(around, env.service, directory, clock=env.clock) as other:
        await env.told(*facts)
        await asyncio.gather(env.send(), other.send(), env.send(), other.send())
    assert len(receiver.got) == 200
    assert len({(headers["webhook-id"], headers["webhook-signature"]) for headers, _ in receiver.got}) == 200
    rows = await env.service.query("SELECT status, attempts, count(*) AS n FROM delivery GROUP BY 1, 2")
    assert [(row["status"], row["attempts"], row["n"]) for row in rows] == [("delivered", 1, 200)]


async def test_what_one_replica_is_taking_is_left_to_it(env: Env, receiver: Receiver) -> None:
    """Both look at the same moment, and neither has committed yet."""
    await env.endpoint(receiver.url)
    await env.told(*(fact(n=n) for n in range(6)))
    now = env.clock.now()
    arguments: tuple[Any, ...] = (now, now + LEASE, 4, 8, 32, [], [])
    async with env.database.transaction() as first:
        mine = await first.fetch(queries.take_due, *arguments)
        async with env.database.transaction() as second:
            assert await second.fetch(queries.take_due, *arguments) == []
    assert len(mine) == 4
    assert len(await env.database.fetch(queries.take_due, *arguments)) == 2


async def test_a_replica_that_slept_over_its_lease_undoes_nothing(
    around: World, env: Env, receiver: Receiver, directory: Path
) -> None:
    let_go = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await let_go.wait()
        return web.Response(status=500)

    endpoint = await one(env, receiver, slow)
    sleeping = asyncio.create_task(env.send())
    async with asyncio.timeout(60):
        while not receiver.got:
            await asyncio.sleep(0.01)
    later = ManualClock(env.clock.now() + LEASE)
    async with running(around, env.service, directory, clock=later) as other:
        await other.send()
    let_go.set()
    await sleeping
    assert len(receiver.got) == 2
    (delivery,) = await env.deliveries(endpoint)
    assert (delivery["status"], delivery["attempts"], delivery["last_status"]) == ("delivered", 1, 204)


async def test_a_replay_during_an_attempt_is_not_lost(env: Env, receiver: Receiver) -> None:
    let_go = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await let_go.wait()
        return web.Response(status=204)

    endpoint = await one(env, receiver, slow)
    sending = asyncio.create_task(env.send())
    async with asyncio.timeout(60):
        while not receiver.got:
            await asyncio.sleep(0.01)
    (delivery,) = await env.deliveries(endpoint)
    await env.edge("POST", f"{PATH}/{endpoint['id']}/deliveries/{delivery['id']}/replay")
    let_go.set()
    await sending
    assert len(receiver.got) == 2
    (delivery,) = await env.deliveries(endpoint)
    assert delivery["status"] == "delivered"


async def test_a_slow_endpoint_and_a_busy_tenant_leave_room_for_others(env: Env, receiver: Receiver) -> None:
    stuck = Receiver(answers=[asleep] * 1000)
    await stuck.start()
    for _ in range(6):
        await env.endpoint(stuck.url)
    await env.told(*(fact(n=n) for n in range(100)))  # 600 deliveries that go nowhere, all due before the other's
    env.clock.advance(timedelta(seconds=1))
    await env.endpoint(receiver.url, tenant="other")
    await env.told(*(fact(tenant="other", n=n) for n in range(40)))
    sending = asyncio.create_task(env.send())
    async with asyncio.timeout(60):
        while len(receiver.got) < 40:
            await asyncio.sleep(0.02)
    assert 0 < stuck.most_at_once <= min(6 * 2 * PER_ENDPOINT, 2 * PER_TENANT)
    sending.cancel()
    for task in list(env.notify.deliveries._running):
        task.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await stuck.stop()


async def test_one_attempt_that_breaks_breaks_no_other(env: Env, receiver: Receiver) -> None:
    good, bad = await env.endpoint(receiver.url), await env.endpoint(receiver.url)
    await env.service.query(
        "UPDATE endpoint SET sealed_secret = '\\x00' WHERE id = $1", ids.webhook_endpoints.parse(bad["id"])
    )
    await env.told(fact())
    await env.send()
    assert len(receiver.got) == 1
    assert (await env.deliveries(good))[0]["status"] == "delivered"
    (delivery,) = await env.deliveries(bad)
    assert (delivery["attempts"], delivery["last_error"]) == (1, "the signing secret can't be read")


async def test_a_secret_belongs_to_its_endpoint(env: Env, receiver: Receiver) -> None:
    """Sealed secrets that change places in the database sign nothing."""
    mine, other = await env.endpoint(receiver.url), await env.endpoint(receiver.url)
    await env.service.query(
        "UPDATE endpoint SET sealed_secret = (SELECT sealed_secret FROM endpoint WHERE id = $2) WHERE id = $1",
        ids.webhook_endpoints.parse(mine["id"]),
        ids.webhook_endpoints.parse(other["id"]),
    )
    await env.told(fact())
    await env.send()
    assert len(receiver.got) == 1
    assert (await env.deliveries(mine))[0]["last_error"] == "the signing secret can't be read"
    assert Aad("a", "b", "c", "d") != Aad("a", "b", "c", "e")


async def test_what_waits_for_a_deleted_endpoint_is_not_sent(env: Env, receiver: Receiver) -> None:
    endpoint = await one(env, receiver)
    await env.edge("DELETE", f"{PATH}/{endpoint['id']}")
    await env.send()
    assert receiver.got == []
    (row,) = await env.service.query("SELECT status, last_error FROM delivery")
    assert (row["status"], row["last_error"]) == ("failed", "the endpoint was deleted")


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not ready():
            await asyncio.sleep(0.02)


async def test_the_task_outlives_a_database_that_is_away_and_ends_what_is_under_way(
    env: Env, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_deliveries, "PAUSE_SECONDS", 0.05)
    await env.endpoint(receiver.url)
    await env.service.query("ALTER TABLE delivery RENAME TO away")
    running_ = asyncio.create_task(env.notify.deliveries.run())
    await asyncio.sleep(0.5)
    assert not running_.done()
    await env.service.query("ALTER TABLE away RENAME TO delivery")
    await env.told(fact())
    await until(lambda: len(receiver.got) == 1)
    let_go = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        let_go.set()
        await asyncio.sleep(0.3)
        return web.Response(status=200)

    receiver.answers = [slow]
    await env.told(fact())
    await let_go.wait()
    running_.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running_
    rows = await env.service.query("SELECT status FROM delivery")
    assert [row["status"] for row in rows] == ["delivered", "delivered"]


# ---- lists and retention


async def test_deliveries_are_listed_page_by_page_while_more_come(env: Env, receiver: Receiver) -> None:
    endpoint = await env.endpoint(receiver.url)
    facts = [fact(n=n) for n in range(5)]
    await env.told(*facts)
    first = (await env.edge("GET", f"{PATH}/{endpoint['id']}/deliveries?limit=2")).json
    await env.told(fact(n=6))
    rest = (await env.edge("GET", f"{PATH}/{endpoint['id']}/deliveries?limit=200&after={first['next']}")).json
    assert [each["event"] for each in first["data"] + rest["data"]] == [ids.facts.text(f.id) for f in facts[::-1]]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    for query in ("limit=0", "limit=201", "after=x", "status=lost", "state=failed"):
        assert (await env.edge("GET", f"{PATH}/{endpoint['id']}/deliveries?{query}")).status == 400


async def test_deliveries_of_one_status_are_listed_page_by_page(env: Env, receiver: Receiver) -> None:
    endpoint = await one(env, receiver, 410)
    await env.send()
    await env.edge("POST", f"{PATH}/{endpoint['id']}/enable")
    facts = [fact(n=n) for n in range(3)]
    await env.told(*facts)
    (gone,) = await env.deliveries(endpoint, "?status=failed")
    assert (gone["status"], gone["last_status"]) == ("failed", 410)
    assert await env.deliveries(endpoint, f"?status=failed&after={gone['id']}") == []
    assert await env.deliveries(endpoint, "?status=delivered") == []
    (newest,) = await env.deliveries(endpoint, "?status=pending&limit=1")
    rest = await env.deliveries(endpoint, f"?status=pending&limit=2&after={newest['id']}")
    assert [each["event"] for each in (newest, *rest)] == [ids.facts.text(f.id) for f in facts[::-1]]


async def test_old_deliveries_and_deleted_endpoints_are_forgotten_in_the_end(
    env: Env, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_deliveries, "PURGE_PAGE", 2)
    endpoint, gone = await env.endpoint(receiver.url), await env.endpoint(receiver.url)
    receiver.answers = [200] * 10
    await env.told(*(fact(n=n) for n in range(5)))
    await env.send()
    receiver.answers = [500] * 2
    await env.told(fact(n=5))
    await env.send()
    await env.edge("DELETE", f"{PATH}/{gone['id']}")
    env.clock.advance(timedelta(days=89))
    await env.notify.deliveries.purge()
    assert len(await env.deliveries(endpoint)) == 6
    assert len(await env.service.query("SELECT * FROM delivery")) == 6
    assert len(await env.service.query("SELECT * FROM endpoint")) == 1
    env.clock.advance(timedelta(days=2))
    await env.notify.deliveries.purge()
    (left,) = await env.deliveries(endpoint)
    assert left["status"] == "pending", "what is still to be sent stays"
