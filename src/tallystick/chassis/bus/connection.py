"""The connection to NATS: one per process, as the service's own user. It reconnects for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import nats.errors
from nats.aio.client import Client

from tallystick.chassis import telemetry
from tallystick.chassis.deadline import budget
from tallystick.kernel.problem import Unavailable
from tallystick.kernel.secret import Secret

if TYPE_CHECKING:
    import ssl

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription as NatsSubscription
    from nats.js import JetStreamContext

REQUEST_S: Final = 5.0


class BusUnavailable(Unavailable):
    """The message bus (NATS) can't be reached. Facts wait in the outboxes of their services and are published when it is back."""

    slug, title = "bus-unavailable", "The message bus is not available"


class Bus:
    """A thin wrapper of the NATS client.

    Replies go to inboxes below `_INBOX.<user>`, the only ones that this user may subscribe to.
    """

    def __init__(self, client: Client, user: str) -> None:
        self._client = client
        self.user = user

    @classmethod
    async def open(
        cls,
        url: str,
        user: str,
        password: Secret[str],
        *,
        name: str = "tallystick",
        tls: ssl.SSLContext | None = None,
        within: float = 10.0,
    ) -> Bus:
        """Connect. `url` is `nats://host:port`, or `tls://host:port` together with `tls`, a context that verifies the server. Raises
        BusUnavailable when that takes longer than `within` seconds, or when the password is refused.
        """

        async def failed(error: Exception) -> None:
            telemetry.log.warning("bus.error", error=error)

        async def disconnected() -> None:
            telemetry.log.warning("bus.disconnected")

        async def reconnected() -> None:
            telemetry.log.info("bus.reconnected")

        options: dict[str, Any] = {"reconnect_time_wait": 0.25, **({"tls": tls} if tls is not None else {})}
        client = Client()
        try:
            async with asyncio.timeout(within):
                await client.connect(
                    url,
                    user=user,
                    password=password.reveal(),
                    name=name,
                    inbox_prefix=f"_INBOX.{user}",
                    error_cb=failed,
                    disconnected_cb=disconnected,
                    reconnected_cb=reconnected,
                    max_reconnect_attempts=-1,
                    connect_timeout=2,
                    ping_interval=10,
                    max_outstanding_pings=2,
                    **options,
                )
        except BaseException as error:
            with suppress(nats.errors.Error, OSError):
                await client.close()  # otherwise a failed attempt leaves its socket behind
            if isinstance(error, OSError | nats.errors.Error):
                raise BusUnavailable("the bus can't be reached", context={"error": type(error).__name__}) from error
            raise
        return cls(client, user)

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected)

    @property
    def client(self) -> Client:
        return self._client

    def jetstream(self) -> JetStreamContext:
        return self._client.jetstream(timeout=REQUEST_S)

    async def publish(self, subject: str, data: bytes, *, headers: dict[str, str] | None = None) -> None:
        """Send to whoever is subscribed now, at most once. Raises BusUnavailable while there is no connection."""
        if not self._client.is_connected:  # the client would buffer it and send it later, when it may no longer be true
            raise BusUnavailable("the bus is not connected")
        try:
            await self._client.publish(subject, data, headers=headers)
        except (nats.errors.Error, OSError) as error:
            raise BusUnavailable("the bus did not take a message", context={"error": type(error).__name__}) from error

    async def subscribe(self, subject: str, handle: Callable[[bytes], Awaitable[None] | None]) -> NatsSubscription:
        """Call `handle(data)` for each message on `subject` (wildcards `*`, `>`), also after reconnecting. `unsubscribe()` ends it."""

        async def deliver(message: Msg) -> None:
            try:
                result = handle(message.data)
                if result is not None:
                    await result
            except Exception as error:  # noqa: BLE001 - one bad message must not end the subscription
                telemetry.log.error("bus.handler_failed", subject=subject, error=error)

        return await self._client.subscribe(subject, cb=deliver)

    async def request(
        self, subject: str, data: bytes, *, headers: dict[str, str] | None = None, timeout: float = REQUEST_S
    ) -> Msg:
        """Send a request; returns its one answer. Raises BusUnavailable when none comes in time."""
        if not self._client.is_connected:
            raise BusUnavailable("the bus is not connected")
        before = _cancellations()
        try:
            answer = await self._client.request(subject, data, timeout=budget(timeout), headers=headers)
        except (nats.errors.Error, OSError) as error:
            raise BusUnavailable(
                "the bus did not answer", context={"error": type(error).__name__, "subject": subject}
            ) from error
        # Up to Python 3.11 asyncio.wait_for, which the client uses, swallows a cancellation when the answer arrives at that moment.
        if _cancellations() > before:
            raise asyncio.CancelledError
        return answer

    async def request_many(self, subject: str, data: bytes, *, timeout: float = REQUEST_S) -> list[Msg]:
        """Send a request; returns all its answers, up to and including the one with a `Status` header. Raises BusUnavailable."""
        if not self._client.is_connected:
            raise BusUnavailable("the bus is not connected")
        inbox = self._client.new_inbox()
        answers: list[Msg] = []
        try:
            subscription = await self._client.subscribe(inbox)
            try:
                await self._client.publish(subject, data, reply=inbox)
                async with asyncio.timeout(budget(timeout)):
                    while True:
                        message = await subscription.next_msg(timeout=None)
                        answers.append(message)
                        if message.headers and "Status" in message.headers:
                            return answers
            finally:
                if self._client.is_connected:
                    await subscription.unsubscribe()
        except (nats.errors.Error, OSError) as error:
            raise BusUnavailable(
                "the bus did not answer", context={"error": type(error).__name__, "subject": subject}
            ) from error

    async def close(self) -> None:
        """Send what is pending and disconnect, within two seconds."""
        try:
            async with asyncio.timeout(2):
                if self._client.is_connected:
                    await self._client.flush(1)
        except (nats.errors.Error, OSError):
            pass
        finally:
            await self._client.close()


def _cancellations() -> int:
    """How many cancellations of this task were requested."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
