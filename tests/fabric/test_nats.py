"""The bus permissions on a real server: a fact's origin is certain, and facts reach only those whose charters consume them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from tallystick.local.parts import Nats, NatsUser
from tallystick.local.parts.nats import hash_password
from tests.support.parts import free_port

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
        try:
            await what
            await self.client.flush()
        except (nats.errors.Error, TimeoutError):
            pass
        for _ in range(100):  # the client tells of an error in a task of its own
            if len(self.refused) > before:
                break
            await asyncio.sleep(0.01)
        return any("permissions violation" in line for line in self.refused[before:])


@pytest_asyncio.fixture
async def bus(directory: Path) -> AsyncIterator[str]:
    """A server whose users are those of the charters; its URL."""
    users = [
        NatsUser(name, hash_password(PASSWORD), permission.publish, permission.subscribe)
        for name, permission in PERMISSIONS.items()
    ]
    part = Nats(directory / "nats", port=free_port(), users=users, log=directory / "nats.log")
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
        assert await streams.facts_after(listener, "payments", 0) == [b'{"one":1}']
        assert (payments.refused, risk.refused) == ([], [])

        context = vault.client.jetstream(timeout=0.5)
        assert await vault.is_refused(context.stream_info("facts-payments"))
        assert await vault.is_refused(vault.client.publish("$JS.API.DIRECT.GET.facts-payments", b'{"seq":1}'))
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
        context = risk.client.jetstream(timeout=0.5)
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
        assert await risk.is_refused(risk.client.publish("$JS.API.STREAM.UPDATE.facts-risk", wish))
        answer = json.loads((await risk.client.request("$JS.API.STREAM.CREATE.facts-risk", wish, timeout=10)).data)
        assert "error" in answer, "it is there already, as the relay made it"
        await streams.publish(Bus(risk.client, "risk"), "risk", 1, [b"{}"], expected=0)
        assert (await streams.tail(Bus(payments.client, "payments"), "payments")).last == 0


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
