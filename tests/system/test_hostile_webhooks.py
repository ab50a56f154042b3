"""Webhooks as a way in: what a tenant may have the platform call, and what a receiver can make of it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from tallystick.contracts.notify.problems import InvalidUrl
from tallystick.services.notify.model import check_url
from tallystick.services.notify.service import Sender
from tests.support.ports import free_port
from tests.support.stranger import Client, Edge, hang_up, plant, refused
from tests.system.conftest import Credentials, PlatformUnderTest

TENANT = "hostile-hooks"


class Receiver:
    """A web server of the tenant: notes what arrives and answers what it was told to, byte by byte."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Receiver]:
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            self.bodies.append(await reader.readexactly(int(length[1]) if length else 0))
            self.heads.append(head)
            writer.write(self.answer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            await hang_up(writer) if not self.answer else writer.close()

    async def heard(self, count: int = 1, within: float = 60) -> None:
        async with asyncio.timeout(within):
            while len(self.heads) < count:
                await asyncio.sleep(0.02)


async def one_payment(client: Client) -> str:
    """Something to tell of; answers the payment's id."""
    a, b = [
        (await client.make("/v1/accounts", {"name": side, "currency": "EUR", "normal_side": side}))["id"]
        for side in ("debit", "credit")
    ]
    pay = {"amount": {"amount": "5", "currency": "EUR"}, "source": {"type": "account", "account": a}}
    made = await client.make("/v1/payments", {**pay, "destination": {"account": b}})
    return str(made["id"])


async def endpoint(client: Client, url: str) -> tuple[str, str]:
    """A new endpoint's id and secret."""
    made = await client.make("/v1/webhook_endpoints", {"url": url, "events": ["payment.settled"]})
    return made["id"], plant("webhook secret", made["secret"])


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "unix:///tmp/x.sock",
        "//example.com/",
        "example.com/hook",
        "https://",
        "https:///hook",
        "https://user:password@example.com/",
        "https://example.com@127.0.0.1/",
        "https://example.com/#fragment",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://exa mple.com/",
        "https://example.com/\r\nX-A: b",
        "javascript:alert(1)",
        "data:text/plain,x",
        " https://example.com/",
        "https://[::1",
        "x" * 3000,
    ],
)
async def test_only_web_addresses_are_called(platform: PlatformUnderTest, credentials: Credentials, url: str) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        answer = await client.call("POST", "/v1/webhook_endpoints", {"url": url, "events": ["*"]})
        assert answer.status in {400, 422}, answer
        refused(answer, answer.status, answer.json["type"].rpartition("/")[2])
        assert url not in json.dumps((await client.call("GET", "/v1/webhook_endpoints?limit=200")).json)


async def test_a_redirect_leads_nowhere(platform: PlatformUnderTest, credentials: Credentials) -> None:
    """A tenant's server can't send the platform on to somewhere else, with whatever status it tries."""
    async with Edge(platform.port, platform.ca) as edge, Receiver(b"HTTP/1.1 200 OK\r\n\r\n").listening() as inside:
        client = Client(edge, credentials(TENANT + "-redirect"))
        target = b"Location: http://127.0.0.1:%d/metrics\r\n" % inside.port
        moved = {
            status: Receiver(b"HTTP/1.1 %d Moved\r\n" % status + target + b"Content-Length: 0\r\n\r\n")
            for status in (301, 302, 303, 307, 308)
        }
        moved[200] = Receiver(
            b"HTTP/1.1 200 OK\r\nRefresh: 0; url=http://127.0.0.1:%d/\r\n" % inside.port + target + b"\r\n"
        )
        async with asyncio.TaskGroup() as hosts:
            stop = asyncio.Event()

            async def host(receiver: Receiver) -> None:
                async with receiver.listening():
                    await stop.wait()

            for receiver in moved.values():
                hosts.create_task(host(receiver))
            while not all(receiver.port for receiver in moved.values()):
                await asyncio.sleep(0.01)
            made = {
                status: await endpoint(client, f"http://127.0.0.1:{receiver.port}/hook")
                for status, receiver in moved.items()
            }
            await one_payment(client)
            for receiver in moved.values():
                await receiver.heard()
            for status, (id_, _) in made.items():
                async with asyncio.timeout(60):
                    while True:
                        listed = await client.call("GET", f"/v1/webhook_endpoints/{id_}/deliveries")
                        [delivery] = listed.json["data"]
                        if delivery["attempts"]:
                            break
                        await asyncio.sleep(0.05)
                assert delivery["last_status"] == status, delivery
                assert delivery["status"] == ("delivered" if status == 200 else "pending"), delivery
            stop.set()
        assert inside.heads == []


async def test_a_webhook_is_signed_and_says_nothing_of_our_insides(
    platform: PlatformUnderTest, credentials: Credentials
) -> None:
    async with (
        Edge(platform.port, platform.ca) as edge,
        Receiver(b"HTTP/1.1 204 No Content\r\n\r\n").listening() as receiver,
    ):
        client = Client(edge, credentials(TENANT + "-signed"))
        id_, secret = await endpoint(client, f"http://127.0.0.1:{receiver.port}/hook?a=b")
        payment = await one_payment(client)
        await receiver.heard()
        head, body = receiver.heads[0].decode(), receiver.bodies[0]
        lines = head.split("\r\n")
        assert lines[0] == "POST /hook?a=b HTTP/1.1"
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        # Standard Webhooks 1.0, by hand
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(secret.removeprefix("whsec_"))
        mac = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        assert f"v1,{mac}" in headers["webhook-signature"].split(" ")
        assert payment in body.decode()
        assert set(headers) <= {
            "host",
            "user-agent",
            "accept",
            "accept-encoding",
            "content-type",
            "content-length",
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
            "connection",
        }, headers
        # the secret is told once
        for path in (f"/v1/webhook_endpoints/{id_}", "/v1/webhook_endpoints?limit=200"):
            assert secret not in (await client.call("GET", path)).body.decode()
            assert '"secret"' not in (await client.call("GET", path)).body.decode()


async def test_a_receiver_that_misbehaves_costs_only_its_own_deliveries(
    platform: PlatformUnderTest, credentials: Credentials
) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT + "-bad"))
        bad = [
            Receiver(b""),
            Receiver(b"\x00\xff garbage\r\n\r\n"),
            Receiver(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 200_000),
            Receiver(b"HTTP/1.1 500 No\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
            Receiver(b"HTTP/1.1 503 No\r\nRetry-After: 99999999999999999999\r\nContent-Length: 0\r\n\r\n"),
            Receiver(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nnogzi"),
            Receiver(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
            Receiver(b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ]
        good = Receiver(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        stop = asyncio.Event()

        async def host(receiver: Receiver) -> None:
            async with receiver.listening():
                await stop.wait()

        async with asyncio.TaskGroup() as hosts:
            for receiver in (*bad, good):
                hosts.create_task(host(receiver))
            while not all(receiver.port for receiver in (*bad, good)):
                await asyncio.sleep(0.01)
            for receiver in bad:
                await endpoint(client, f"http://127.0.0.1:{receiver.port}/")
            await endpoint(client, f"http://127.0.0.1:{free_port()}/nobody-there")
            id_, _ = await endpoint(client, f"http://127.0.0.1:{good.port}/")
            await one_payment(client)
            await one_payment(client)
            await good.heard(2)
            async with asyncio.timeout(60):
                while True:
                    listed = await client.call("GET", f"/v1/webhook_endpoints/{id_}/deliveries")
                    if [one["status"] for one in listed.json["data"]] == ["delivered"] * 2:
                        break
                    await asyncio.sleep(0.05)
            stop.set()
        assert (await client.call("GET", "/v1/webhook_endpoints")).status == 200


# ---- where private addresses are not allowed, which is everywhere but in the sandbox -------------------------------

#: All of these are this machine, or a network that only we can reach.
PRIVATE = (
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.127.127.127",
    "0",
    "0.0.0.0",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7f.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "x.localhost",
    "[::ffff:127.0.0.1%25]",
    "[::1%25]",
    "[v1.fe80::1]",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fe80::1%25lo]",
    "[fc00::1]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "printer.local",
    "metadata.google.internal",
)


async def test_without_leave_no_spelling_of_a_private_address_is_connected_to() -> None:
    """Past the check of the URL, in case one day something gets past it: the sender itself, with the system's own resolver."""
    async with Receiver(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").listening() as inside:
        sender = Sender(private=False)
        try:
            for host in PRIVATE:
                for scheme in ("https", "http"):
                    answer = await sender.send(f"{scheme}://{host}:{inside.port}/", b"{}", {}, datetime.now(UTC))
                    assert answer.status is None, (host, answer)
                    assert answer.error, host
        finally:
            await sender.close()
        assert inside.heads == []


def test_without_leave_private_addresses_and_plain_http_are_no_urls() -> None:
    for host in PRIVATE:
        if host in {"0x7f000001", "0x7f.1"}:
            continue  # names to a URL parser; the resolver says what they are, and the sender asks it (above)
        with pytest.raises(InvalidUrl):
            check_url(f"https://{host}/hook", private=False)
    for url in ("http://example.com/", "HTTP://example.com/"):
        with pytest.raises(InvalidUrl):
            check_url(url, private=False)
    assert check_url("https://example.com/hook", private=False) == "https://example.com/hook"
