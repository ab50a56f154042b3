"""Outgoing HTTP for requests that carry a card number. It is in one place and does as little as possible.

The connection goes to exactly the address that was checked (`chassis.egress`). Addresses that are not on the public internet are refused,
unless the operator allowed them for this destination. Redirects are not followed, proxies from the environment are not used, cookies are
not kept, answers are not decompressed, and size and time are limited.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import aiohttp
from yarl import URL

from tallystick.chassis.egress import AddressRefused, CheckedResolver, Resolve, system_resolve
from tallystick.contracts.vault.messages import MAX_FORWARD_BYTES, Outgoing
from tallystick.contracts.vault.problems import AnswerRefused, ForwardOutcomeUnknown, NotForwarded
from tallystick.services.vault.model import Destination

_CONNECT_SECONDS = 5.0


class Channel:
    """The connections to one destination."""

    def __init__(self, destination: Destination, resolve: Resolve) -> None:
        self.destination = destination
        self._slots = asyncio.Semaphore(destination.max_in_flight)
        #: Names in lower case, so that a request's header replaces ours instead of going out beside it.
        self._headers = {"accept-encoding": "identity", "user-agent": "tallystick"}
        if destination.authorization_file is not None:
            self._headers["authorization"] = _credential(destination.authorization_file)
        connector: aiohttp.BaseConnector
        if destination.socket is not None:
            self._origin = URL("http://localhost")
            connector = aiohttp.UnixConnector(str(destination.socket), limit=destination.max_in_flight)
        else:
            self._origin = URL.build(scheme=destination.scheme, host=destination.host or "", port=destination.port)
            connector = aiohttp.TCPConnector(
                limit=destination.max_in_flight,
                resolver=CheckedResolver(resolve, private=destination.private),
                use_dns_cache=False,
                ssl=_tls(destination.ca_file),
            )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            raise_for_status=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            max_line_size=8190,
            max_field_size=8190,
            trace_configs=[_noting_heads()],
        )

    async def send(self, request: Outgoing, body: bytes | bytearray, seconds: float) -> tuple[int, bytes]:
        """Status and body of the answer. Raises NotForwarded, ForwardOutcomeUnknown, AnswerRefused."""
        headers = self._headers | {name.lower(): value for name, value in request.headers.items()}
        if body:
            headers.setdefault("content-type", "application/json")
        began = False
        # aiohttp resends a GET or PUT whose connection broke. If that second connection is refused, the first request was sent all the same.
        head_sent = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                async with self._slots:
                    began = True
                    return await self._exchange(request, body, headers, head_sent)
        except aiohttp.ConnectionTimeoutError as error:
            if head_sent.is_set():
                raise _broken(error) from None
            raise NotForwarded("the destination did not take the connection in time") from None
        except TimeoutError:
            if not began:
                raise NotForwarded("too many requests wait for this destination") from None
            raise ForwardOutcomeUnknown("the destination did not answer in time") from None
        except (aiohttp.ClientConnectorError, AddressRefused) as error:
            if head_sent.is_set():
                raise _broken(error) from None
            raise NotForwarded("the destination can't be reached", context={"error": type(error).__name__}) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _broken(error) from None

    async def _exchange(
        self, request: Outgoing, body: bytes | bytearray, headers: Mapping[str, str], head_sent: asyncio.Event
    ) -> tuple[int, bytes]:
        url = self._origin.join(URL(request.path, encoded=True))
        async with self._session.request(
            request.method,
            url,
            data=body or None,
            headers=headers,
            allow_redirects=False,
            trace_request_ctx=head_sent,
        ) as answer:
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise AnswerRefused("the answer is compressed, although that was not asked for")
            content = await answer.content.read(MAX_FORWARD_BYTES + 1)
            while not answer.content.at_eof() and len(content) <= MAX_FORWARD_BYTES:
                content += await answer.content.read(MAX_FORWARD_BYTES + 1 - len(content))
            if len(content) > MAX_FORWARD_BYTES:
                answer.close()
                raise AnswerRefused(f"the answer is larger than {MAX_FORWARD_BYTES} bytes")
            return answer.status, content

    async def close(self) -> None:
        await self._session.close()


class Egress:
    """The channels to the operator's destinations."""

    def __init__(self, destinations: Mapping[str, Destination], resolve: Resolve = system_resolve) -> None:
        self._channels = {name: Channel(each, resolve) for name, each in destinations.items()}

    def __getitem__(self, name: str) -> Channel:
        return self._channels[name]

    def destination(self, name: str) -> Destination | None:
        channel = self._channels.get(name)
        return None if channel is None else channel.destination

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


def _noting_heads() -> aiohttp.TraceConfig:
    """Sets a request's event (its `trace_request_ctx`) when its header is written to a connection."""

    async def note(session: aiohttp.ClientSession, context: SimpleNamespace, sent: object) -> None:
        del session, sent
        context.trace_request_ctx.set()

    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(note)
    return tracing


def _broken(error: Exception) -> ForwardOutcomeUnknown:
    return ForwardOutcomeUnknown("the connection broke before the answer", context={"error": type(error).__name__})


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _credential(path: Path) -> str:
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} is open to other users: run `chmod 600` on it")
    return path.read_text().strip()
