"""The bus permissions on a real server: a fact's origin is certain, and facts reach only those whose charters consume them."""

from __future__ import annotations

import asyncio
from typing import Any

import nats
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from tallystick.chassis import charter as charters_module
from tallystick.fabric import nats as rendered
from tests.support.parts import NatsServer

CHARTERS = charters_module.load_all()
PERMISSIONS = rendered.permissions(CHARTERS)


class Service:
    """A connection of a service's user, and what the server refused it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.refused: list[str] = []
        self.client = Client()

    async def _on_error(self, error: Exception) -> None:
        self.refused.append(str(error).lower())

    async def open(self, server: NatsServer) -> Service:
        for name, permission in PERMISSIONS.items():
            if name not in server.passwords:
                await server.user(name, permission.publish, permission.subscribe)
        async with asyncio.timeout(20):
            while not self.client.is_connected:
                try:
                    await self.client.connect(
                        server.url,
                        user=self.name,
                        password=server.password(self.name).reveal(),
                        inbox_prefix=rendered.inbox(self.name).encode(),
                        error_cb=self._on_error,
                        allow_reconnect=False,
                        connect_timeout=2,
                    )
                except (nats.errors.Error, OSError):  # the reload has not reached it yet
                    await asyncio.sleep(0.1)
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


async def connected(server: NatsServer, *names: str) -> list[Service]:
    return [await Service(name).open(server) for name in names]


async def own_stream(service: Service) -> None:
    await service.client.jetstream().add_stream(
        StreamConfig(name=rendered.stream(service.name), subjects=[rendered.subject(service.name)])
    )


async def test_facts_go_from_their_service_to_its_consumers_and_nobody_else(nats_server: NatsServer) -> None:
    payments, risk, vault = await connected(nats_server, "payments", "risk", "vault")
    try:
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
        assert await vault.is_refused(vault.client.jetstream(timeout=1).stream_info("facts-payments"))
        assert await vault.is_refused(
            vault.client.jetstream(timeout=1).add_consumer("facts-payments", ConsumerConfig(durable_name="vault"))
        )
        # not under another's name: its place in the stream would move
        other = ConsumerConfig(durable_name="audit", ack_policy=AckPolicy.EXPLICIT)
        assert await risk.is_refused(risk.client.jetstream(timeout=1).add_consumer("facts-payments", other))
    finally:
        for service in (payments, risk, vault):
            await service.client.close()


async def test_nobody_speaks_or_listens_for_another(nats_server: NatsServer) -> None:
    payments, risk = await connected(nats_server, "payments", "risk")
    try:
        await own_stream(payments)
        await own_stream(risk)
        for subject in ("facts.ledger", "facts.payments.x", "identity.revocations", "_INBOX.payments.1", "anything"):
            assert await risk.is_refused(risk.client.publish(subject, b"forged")), subject
        for subject in (">", "facts.>", "facts.payments", "_INBOX.>", "_INBOX.payments.>", "$JS.API.>"):
            assert await risk.is_refused(risk.client.subscribe(subject)), subject
        context = risk.client.jetstream(timeout=1)
        for what in (
            context.delete_stream("facts-risk"),
            context.purge_stream("facts-risk"),
            context.update_stream(StreamConfig(name="facts-risk", subjects=["facts.risk"], max_msgs=1)),
            context.streams_info(),
            context.add_stream(StreamConfig(name="mine", subjects=["mine"])),
            context.get_msg("facts-payments", 1),
        ):
            assert await risk.is_refused(what)
    finally:
        for service in (payments, risk):
            await service.client.close()


async def test_everyone_hears_what_identity_revokes(nats_server: NatsServer) -> None:
    identity, *others = await connected(
        nats_server, *(["identity", *(name for name in CHARTERS if name != "identity")])
    )
    try:
        heard = [await service.client.subscribe(rendered.REVOCATIONS) for service in others]
        for service in others:
            await service.client.flush()
        await identity.client.publish(rendered.REVOCATIONS, b"revoked")
        await identity.client.flush()
        for subscription in heard:
            assert (await subscription.next_msg(timeout=10)).data == b"revoked"
        assert await others[0].is_refused(others[0].client.publish(rendered.REVOCATIONS, b"forged"))
    finally:
        for service in (identity, *others):
            await service.client.close()


@pytest.mark.parametrize("name", list(CHARTERS))
def test_a_user_names_no_subject_of_a_service_that_it_does_not_consume(name: str) -> None:
    strangers = set(CHARTERS) - {name, *CHARTERS[name].consumes}
    for subject in PERMISSIONS[name].publish:
        assert not any(f"facts-{stranger}" in subject or subject == f"facts.{stranger}" for stranger in strangers)
        assert subject not in {">", "facts.>", "$JS.API.>"}
