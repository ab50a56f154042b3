"""The bus permissions on a real server: a fact's origin is certain, and facts reach only those whose charters consume them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import nats.js.errors
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from tallystick.chassis import charter as charters_module
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
    await service.client.jetstream().add_stream(
        StreamConfig(name=rendered.stream(service.name), subjects=[rendered.subject(service.name)])
    )


async def test_facts_go_from_their_service_to_its_consumers_and_nobody_else(bus: str) -> None:
    async with connected(bus, "payments", "risk", "vault") as (payments, risk, vault):
        await own_stream(payments)
        await payments.client.jetstream().publish("facts.payments", b"one")
        assert (await payments.client.jetstream().stream_info("facts-payments")).state.messages == 1

        # risk's charter consumes payments' facts: by a durable pull consumer that bears its name
        context = risk.client.jetstream()
        config = ConsumerConfig(durable_name="risk", ack_policy=AckPolicy.EXPLICIT, filter_subject="facts.payments")
        await context.add_consumer("facts-payments", config)
        subscription = await context.pull_subscribe_bind("risk", "facts-payments")
        (message,) = await subscription.fetch(1, timeout=10)
        assert message.data == b"one"
        await message.ack_sync(timeout=10)
        assert risk.refused == []

        # nobody else's business
        assert await vault.is_refused(vault.client.jetstream(timeout=0.5).stream_info("facts-payments"))
        assert await vault.is_refused(
            vault.client.jetstream(timeout=0.5).add_consumer("facts-payments", ConsumerConfig(durable_name="vault"))
        )
        # not under another's name: its place in the stream would move
        other = ConsumerConfig(durable_name="audit", ack_policy=AckPolicy.EXPLICIT)
        assert await risk.is_refused(risk.client.jetstream(timeout=0.5).add_consumer("facts-payments", other))


async def test_nobody_speaks_or_listens_for_another(bus: str) -> None:
    async with connected(bus, "payments", "risk") as (payments, risk):
        await own_stream(payments)
        await own_stream(risk)
        for subject in ("facts.ledger", "facts.payments.x", "identity.revocations", "_INBOX.payments.1", "anything"):
            assert await risk.is_refused(risk.client.publish(subject, b"forged")), subject
        for subject in (">", "facts.>", "facts.payments", "_INBOX.>", "_INBOX.payments.>", "$JS.API.>"):
            assert await risk.is_refused(risk.client.subscribe(subject)), subject
        context = risk.client.jetstream(timeout=0.5)
        for what in (
            context.delete_stream("facts-risk"),
            context.purge_stream("facts-risk"),
            context.update_stream(StreamConfig(name="facts-risk", subjects=["facts.risk"], max_msgs=1)),
            context.streams_info(),
            context.add_stream(StreamConfig(name="mine", subjects=["mine"])),
            context.get_msg("facts-payments", 1),
        ):
            assert await risk.is_refused(what)


async def test_everyone_hears_what_identity_revokes(bus: str) -> None:
    async with connected(bus, "identity", *(name for name in CHARTERS if name != "identity")) as (identity, *others):
        heard = [await service.client.subscribe(rendered.REVOCATIONS) for service in others]
        for service in others:
            await service.client.flush()
        await identity.client.publish(rendered.REVOCATIONS, b"revoked")
        await identity.client.flush()
        for subscription in heard:
            assert (await subscription.next_msg(timeout=10)).data == b"revoked"
        assert await others[0].is_refused(others[0].client.publish(rendered.REVOCATIONS, b"forged"))


@pytest.mark.parametrize("name", list(CHARTERS))
def test_a_user_names_no_subject_of_a_service_that_it_does_not_consume(name: str) -> None:
    strangers = set(CHARTERS) - {name, *CHARTERS[name].consumes}
    for subject in PERMISSIONS[name].publish:
        assert not any(f"facts-{stranger}" in subject or subject == f"facts.{stranger}" for stranger in strangers)
        assert subject not in {">", "facts.>", "$JS.API.>"}
