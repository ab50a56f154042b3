"""The bus's accounts and permissions on a real server: a fact's origin is certain, and facts reach only those whose charters consume them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import nats
import nats.js.errors
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, StreamConfig

from tallystick.chassis import charter as charters_module
from tallystick.chassis.bus import REVOCATIONS, Bus, StreamSettings, streams
from tallystick.fabric import nats as rendered
from tallystick.kernel.secret import Secret
from tallystick.local.parts import Nats
from tallystick.local.parts.nats import hash_password
from tests.support.ports import free_port

CHARTERS = charters_module.load_all()
PASSWORD = Secret("a-password-of-the-tests-0123456789")
PERMISSIONS = rendered.permissions(CHARTERS)


class Service:
    """A connection of a service's user, and what the server refused it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.refused: list[str] = []
        self.client = Client()

    async def _on_error(self, error: Exception) -> None:
        self.refused.append(str(error).lower())

    async def open(self, url: str) -> Service:
        await self.client.connect(
            url,
            user=self.name,
            password=PASSWORD.reveal(),
            inbox_prefix=rendered.inbox(self.name).encode(),
            error_cb=self._on_error,
            allow_reconnect=False,
        )
        return self

    async def is_refused(self, what: Any) -> bool:
        """Whether the server refused an action (asynchronously, as NATS does)."""
        before = len(self.refused)
        with suppress(nats.errors.Error, TimeoutError):
            await what
            await self.client.flush()
        async with asyncio.timeout(60):  # the client tells of an error in a task of its own
            while len(self.refused) == before:
                await asyncio.sleep(0.01)
        return any("permissions violation" in line for line in self.refused[before:])


@pytest_asyncio.fixture
async def bus(directory: Path) -> AsyncIterator[str]:
    """A server whose users are those of the charters; its URL."""
    accounts = rendered.accounts(CHARTERS, lambda _: hash_password(PASSWORD))
    part = Nats(directory / "nats", port=free_port(), accounts=accounts, log=directory / "nats.log")
    await part.start()
    yield part.url
    await part.stop()


@asynccontextmanager
async def connected(url: str, *names: str) -> AsyncIterator[list[Service]]:
    services = [await Service(name).open(url) for name in names]
    yield services
    for service in services:
        await service.client.close()


async def own_stream(service: Service) -> None:
    """As the relay makes it."""
    await streams.ensure(Bus(service.client, service.name), service.name, StreamSettings())


async def test_facts_go_from_their_service_to_its_consumers_and_nobody_else(bus: str) -> None:
    async with connected(bus, "payments", "risk", "vault") as (payments, risk, vault):
        await own_stream(payments)
        speaker, listener = Bus(payments.client, "payments"), Bus(risk.client, "risk")
        woken = await risk.client.subscribe(streams.stored_subject("payments"))
        await risk.client.flush()
        await streams.publish(speaker, "payments", 1, [b'{"one":1}'], expected=0)
        await payments.client.publish(streams.stored_subject("payments"), b"")
        await woken.next_msg(timeout=10)
        assert streams.facts_after(await streams.read(listener, "payments", 1), "payments", 0) == [b'{"one":1}']
        assert (payments.refused, risk.refused) == ([], [])

        context = vault.client.jetstream(timeout=0.1)
        assert await vault.is_refused(context.stream_info("facts-payments"))
        assert await vault.is_refused(vault.client.publish(streams.get_subject("payments"), b'{"seq":1}'))
        assert await vault.is_refused(vault.client.subscribe(streams.stored_subject("payments")))


async def test_nobody_speaks_or_listens_for_another(bus: str) -> None:
    async with connected(bus, "payments", "risk") as (payments, risk):
        await own_stream(payments)
        await own_stream(risk)
        for subject in (
            "facts.ledger",
            "facts.payments",
            "facts.payments.x",
            "stored.payments",
            "identity.revocations",
            "_INBOX.payments.1",
            "anything",
        ):
            assert await risk.is_refused(risk.client.publish(subject, b"forged")), subject
        for subject in (
            ">",
            "facts.>",
            "facts.payments",
            "stored.ledger",
            "_INBOX.>",
            "_INBOX.payments.>",
            "$JS.API.>",
        ):
            assert await risk.is_refused(risk.client.subscribe(subject)), subject
        context = risk.client.jetstream(timeout=0.1)
        push = ConsumerConfig(durable_name="risk", deliver_subject="facts.ledger")
        for what in (
            context.delete_stream("facts-risk"),
            context.purge_stream("facts-risk"),
            context.streams_info(),
            context.add_stream(StreamConfig(name="mine", subjects=["mine"])),
            context.get_msg("facts-payments", 1),
            context.add_consumer("facts-payments", push),
            context.add_consumer("facts-risk", push),
        ):
            assert await risk.is_refused(what)


async def test_a_stream_is_no_way_around_the_permissions(bus: str) -> None:
    """The server copies (`sources`) and republishes with its own rights: who may change a stream may forge and read."""
    async with connected(bus, "payments", "risk") as (payments, risk):
        await own_stream(payments)
        await own_stream(risk)
        forging = {
            "name": "facts-risk",
            "subjects": ["facts.risk"],
            "sources": [{"name": "facts-payments"}],
            "republish": {"src": "facts.risk", "dest": "facts.payments"},
        }
        wish = json.dumps(forging).encode()
        assert await risk.is_refused(risk.client.publish(f"{streams.API}.STREAM.UPDATE.facts-risk", wish))
        answer = json.loads((await risk.client.request(streams.create_subject("risk"), wish, timeout=10)).data)
        assert "error" in answer, "it is there already, as the relay made it"
        await streams.publish(Bus(risk.client, "risk"), "risk", 1, [b"{}"], expected=0)
        assert (await streams.tail(Bus(payments.client, "payments"), "payments")).last == 0


async def test_a_stream_made_to_forge_has_nothing_to_forge_with(bus: str) -> None:
    """Who makes a stream says what it is like, if it is not there: it finds nobody else's in its account."""
    async with connected(bus, "payments", "risk") as (payments, risk):
        await own_stream(payments)
        speaker = Bus(payments.client, "payments")
        await streams.publish(speaker, "payments", 1, [b'{"one":1}'], expected=0)
        wish = {
            "name": "facts-risk",
            "subjects": ["facts.risk", "facts.payments", "identity.revocations"],
            "sources": [{"name": "facts-payments"}],
            "republish": {"src": "facts.risk", "dest": "elsewhere"},
            "allow_direct": True,
        }
        # Headers by which the server tells itself whose a request is are its own.
        whose = {"Nats-Request-Info": json.dumps({"acc": "payments_stream", "svc": "payments_stream"})}
        made = await risk.client.request(
            streams.create_subject("risk"), json.dumps(wish).encode(), headers=whose, timeout=10
        )
        assert "error" not in json.loads(made.data)
        for _ in range(3):
            await risk.client.request("facts.risk", b"forged", timeout=10)
        await streams.publish(speaker, "payments", 2, [b'{"two":2}'], expected=1)
        assert streams.facts_after(await streams.read(speaker, "payments", 1), "payments", 0) == [
            b'{"one":1}',
            b'{"two":2}',
        ]
        assert (await streams.bounds(Bus(risk.client, "risk"), "risk")).last == 3, "nothing of payments' is in it"


LOOT = "_INBOX.risk.loot"
COPYING = {"deliver_subject": LOOT, "ack_policy": "none", "deliver_policy": "all", "replay_policy": "instant"}


def laundered(victim: str) -> list[tuple[str, bytes]]:
    """Where a service may want an answer of the server's to go, and what is to come there."""
    forged = streams.encode(victim, 2, [b'{"forged":1}'])
    consumer = json.dumps({"stream_name": f"facts-{victim}", "config": COPYING}).encode()
    changed = json.dumps({"name": f"facts-{victim}", "subjects": ["elsewhere"], "allow_direct": True}).encode()
    return [
        *((target, forged) for target in (f"facts.{victim}", REVOCATIONS) if target != "facts.risk"),
        *(
            (f"{api}.{what}.facts-{victim}", payload)
            for api in ("$JS.API", streams.API)
            for what, payload in (
                ("STREAM.PURGE", b""),
                ("STREAM.UPDATE", changed),
                ("STREAM.MSG.DELETE", b'{"seq":1}'),
                ("CONSUMER.CREATE", consumer),
                ("STREAM.DELETE", b""),
            )
        ),
    ]


@pytest.mark.parametrize("victim", ["ledger", "payments", "risk"])
async def test_where_an_answer_is_wanted_is_no_way_around_the_permissions(bus: str, victim: str) -> None:
    """NATS does not check the reply subject of a request, and the server answers there with its own rights.

    Neither a stranger's stream nor one that risk consumes is reached by that, nor its own.
    """
    async with connected(bus, *{"identity": 0, "risk": 0, "payments": 0, victim: 0}) as services:
        of = {service.name: service for service in services}
        for service in services:
            await own_stream(service)
            await streams.publish(Bus(service.client, service.name), service.name, 1, [b'{"real":1}'], expected=0)
        risk = of["risk"].client
        heard = await of["payments"].client.subscribe(REVOCATIONS)
        loot = await risk.subscribe(LOOT)
        await of["payments"].client.flush()
        before = {name: await streams.tail(Bus(one.client, name), name) for name, one in of.items()}
        stored = 1
        for target, payload in laundered(victim):
            # Own bytes as the server's answer; then an answer of its own making, from its own stream and from one that it reads.
            stored = json.loads((await risk.request("facts.risk", payload, timeout=10)).data)["seq"]
            await risk.publish(streams.get_subject("risk"), b'{"seq":%d}' % stored, reply=target)
            await risk.publish(streams.info_subject("risk"), b"", reply=target)
            await risk.publish(streams.create_subject("risk"), b"{}", reply=target)
            await risk.publish("facts.risk", b"own", reply=target)
            stored += 1
            for subject in (streams.get_subject("payments"), streams.info_subject("payments")):
                await risk.publish(subject, b'{"seq":1}', reply=target)
            # The answers are under way on other connections; one to a request of the same connection comes after them.
            await risk.request(streams.info_subject("risk"), b"", timeout=10)
        await asyncio.sleep(0.3)
        assert of["risk"].refused == [], "what is published is allowed; what would be answered is not checked"
        for name, one in of.items():
            end = await streams.tail(Bus(one.client, name), name) if name != "risk" else before[name]
            assert end == before[name], name
        own = await streams.bounds(Bus(risk, "risk"), "risk")
        assert (own.created, own.first, own.last) == (before["risk"].created, 1, stored)
        assert await streams.get(Bus(risk, "risk"), "risk", 1)
        assert (heard.pending_msgs, loot.pending_msgs) == (0, 0)


async def test_everyone_hears_what_identity_revokes(bus: str) -> None:
    async with connected(bus, "identity", *(name for name in CHARTERS if name != "identity")) as (identity, *others):
        heard = [await service.client.subscribe(REVOCATIONS) for service in others]
        for service in others:
            await service.client.flush()
        await identity.client.publish(REVOCATIONS, b"revoked")
        await identity.client.flush()
        for subscription in heard:
            assert (await subscription.next_msg(timeout=10)).data == b"revoked"
        assert await others[0].is_refused(others[0].client.publish(REVOCATIONS, b"forged"))


@pytest.mark.parametrize("name", list(CHARTERS))
def test_a_user_names_no_subject_of_a_service_that_it_does_not_consume(name: str) -> None:
    strangers = set(CHARTERS) - {name, *CHARTERS[name].consumes}
    for subject in PERMISSIONS[name].publish:
        assert not any(f"facts-{stranger}" in subject or subject == f"facts.{stranger}" for stranger in strangers)
        assert subject not in {">", "facts.>", "$JS.API.>"}


def test_nothing_is_exported_to_everybody_and_nobody_logs_in_where_streams_are() -> None:
    made = rendered.accounts(CHARTERS, str)
    assert set(made) == set(CHARTERS) | {rendered.stream_account(name) for name in CHARTERS}
    for name, account in made.items():
        assert ("jetstream" in account) == ("users" not in account) == name.endswith("_stream")
        for export in account["exports"]:
            (subject,) = {export.get("service"), export.get("stream")} - {None}
            of = name.removesuffix("_stream")
            consumers = {other for other, charter in CHARTERS.items() if of in charter.consumes}
            expected = {
                f"facts.{of}": {of},
                f"stored.{of}": consumers,
                f"$JS.API.STREAM.CREATE.facts-{of}": {of},
                f"$JS.API.STREAM.INFO.facts-{of}": {of} | consumers,
                f"$JS.API.DIRECT.GET.facts-{of}": {of} | consumers,
                REVOCATIONS: set(CHARTERS) - {"identity"},
            }[subject]
            assert export["accounts"], "that would be everybody"
            assert set(export["accounts"]) == expected
        for found in account.get("imports", ()):
            (told,) = {*found} - {"to"}
            exports = {export.get(told) for export in made[found[told]["account"]]["exports"]}
            assert found[told]["subject"] in exports, "NATS would not start"
