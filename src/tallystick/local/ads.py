"""The control plane of the one Envoy: the aggregated discovery service (ADS, state of the world) on a Unix socket.

`Conversation` is the protocol, pure: requests and changes in, responses out. `AdsServer` moves them over gRPC. What Envoy refuses
(NACK) comes back with its own words and is in `rejections` until it has taken something else instead: a configuration that isn't taken
is an error that somebody sees.

Listeners and clusters are always sent whole (what is missing is removed); endpoints and secrets only where they changed, because
Envoy asks for each by name and keeps what isn't mentioned.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

# Children are started by posix_spawn-like calls; gRPC's own fork handling only adds warnings.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from tallystick.fabric.envoy.wire import Kind, type_url

_DiscoveryResponse: Any = getattr(discovery_pb2, "DiscoveryResponse")  # noqa: B009 - generated at import, unknown to type checkers
_add_service: Any = ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server

#: Make before break: a listener's clusters are there before it, a cluster's endpoints right after it.
ORDER: Final[tuple[Kind, ...]] = ("cluster", "endpoints", "secret", "listener")
WHOLE: Final = frozenset({type_url("cluster"), type_url("listener")})
URLS: Final[dict[str, Kind]] = {type_url(kind): kind for kind in ORDER}


@dataclass(frozen=True, slots=True)
class Rejection:
    """Envoy refused a configuration; `text` is its reason."""

    type_url: str
    version: str
    text: str


@dataclass(frozen=True, slots=True)
class Packed:
    version: str
    any: Any


@dataclass(frozen=True, slots=True)
class Response:
    type_url: str
    version: str
    nonce: str
    names: tuple[str, ...]


@dataclass(slots=True)
class _Wanted:
    """What one stream asked for of one type, and what it was sent."""

    names: frozenset[str]
    sent: dict[str, str] = field(default_factory=dict)
    nonce: str = ""
    unanswered: dict[str, Response] = field(default_factory=dict)
    """Responses by nonce, oldest first, of which Envoy has not said whether it takes them."""


class Conversation:
    """One stream's side of the protocol. `table` maps type URL and name to a version, and is read at each step."""

    def __init__(self, table: Mapping[str, Mapping[str, str]]) -> None:
        self._table = table
        self._refused: dict[tuple[str, str], Rejection] = {}
        self._wanted: dict[str, _Wanted] = {}
        self._counter = 0

    @property
    def rejections(self) -> list[Rejection]:
        """What Envoy does without now: what it refused, without having taken another version of it since, and that is still to be had."""
        return list(dict.fromkeys(it for (url, name), it in self._refused.items() if name in self._table.get(url, {})))

    def heard(self, url: str, version: str, nonce: str, refusal: str | None) -> Rejection | None:
        """What a request says of the responses up to `nonce`: refused for a reason, or else taken, if `version` is that one's."""
        unanswered = self._wanted[url].unanswered if url in self._wanted else {}
        answered = unanswered.get(nonce)
        if answered is None or (refusal is None and version != answered.version):
            # An earlier one, or only other names: after a refusal it goes on to name the version before.
            return None if refusal is None else Rejection(url, version, refusal)
        for number in [number for number in unanswered if int(number) <= int(nonce)]:
            taken = unanswered.pop(number)
            for key in [key for key in self._refused if key[0] == url and (url in WHOLE or key[1] in taken.names)]:
                del self._refused[key]
        if refusal is None:
            return None
        rejection = Rejection(url, version, refusal)
        self._refused |= {(url, name): rejection for name in answered.names}
        return rejection

    def request(self, url: str, names: Iterable[str], nonce: str) -> list[Response]:
        """What to answer to a request. An acknowledgement needs no answer; a stale one (another nonce) is not one."""
        asked = frozenset(names)
        known = self._wanted.get(url)
        if known is None:
            known = self._wanted[url] = _Wanted(asked)
            return self._changes(url, known, first=True)
        if nonce and nonce != known.nonce:
            return []
        # Names asked for anew are sent again: Envoy forgets a resource with the cluster or listener that needed it.
        for name in asked - known.names:
            known.sent.pop(name, None)
        known.names = asked
        return self._changes(url, known)

    def changed(self) -> list[Response]:
        """What to send because the table changed."""
        found: list[Response] = []
        for kind in ORDER:
            url = type_url(kind)
            if url in self._wanted:
                found += self._changes(url, self._wanted[url])
        return found

    def _changes(self, url: str, wanted: _Wanted, *, first: bool = False) -> list[Response]:
        table = self._table.get(url, {})
        relevant = {name: v for name, v in table.items() if url in WHOLE or name in wanted.names}
        fresh = {name: version for name, version in relevant.items() if wanted.sent.get(name) != version}
        if url in WHOLE:
            # An empty first answer matters too: without one Envoy waits for its first listeners before it starts.
            if not fresh and not first and relevant.keys() == wanted.sent.keys():
                return []
            fresh = relevant
            wanted.sent = dict(relevant)
        elif fresh:
            wanted.sent.update(fresh)
        else:
            return []
        self._counter += 1
        wanted.nonce = str(self._counter)
        digest = hashlib.sha256(repr(sorted(fresh.items())).encode()).hexdigest()[:16]
        response = Response(url, digest, wanted.nonce, tuple(sorted(fresh)))
        wanted.unanswered[wanted.nonce] = response
        return [response]


class AdsServer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc, unused-ignore]
    """Serves what was `put` to every Envoy that connects to the socket (mode 0600).

    `on_rejection` is called for each refusal. `streams` is how many Envoys are connected, `rejections` what these do without.
    """

    def __init__(self, socket: Path, on_rejection: Callable[[Rejection], None]) -> None:
        self._socket = socket
        self._on_rejection = on_rejection
        self._packed: dict[str, dict[str, Packed]] = {url: {} for url in URLS}
        self._versions: dict[str, dict[str, str]] = {url: {} for url in URLS}
        self._streams: dict[Conversation, asyncio.Event] = {}
        self._server: grpc.aio.Server | None = None

    @property
    def streams(self) -> int:
        return len(self._streams)

    @property
    def rejections(self) -> list[Rejection]:
        return [rejection for conversation in self._streams for rejection in conversation.rejections]

    async def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        server = grpc.aio.server(options=[("grpc.max_send_message_length", 64 << 20)])
        _add_service(self, server)
        server.add_insecure_port(f"unix:{self._socket}")
        await server.start()
        self._socket.chmod(0o600)
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None
        self._socket.unlink(missing_ok=True)

    def put(self, kind: Kind, messages: Mapping[str, Any], *, only: bool = False) -> None:
        """Serve these messages (by name); with `only`, and nothing else of the kind."""
        url = type_url(kind)
        if only:
            for name in self._packed[url].keys() - messages.keys():
                self.remove(kind, name)
        for name, message in messages.items():
            content = message.SerializeToString(deterministic=True)
            version = hashlib.sha256(content).hexdigest()[:16]
            wrapped = _DiscoveryResponse().resources.add()
            wrapped.type_url, wrapped.value = url, content
            self._packed[url][name] = Packed(version, wrapped)
            self._versions[url][name] = version
        self._wake()

    def remove(self, kind: Kind, name: str) -> None:
        url = type_url(kind)
        self._packed[url].pop(name, None)
        self._versions[url].pop(name, None)
        self._wake()

    def _wake(self) -> None:
        for waker in self._streams.values():
            waker.set()

    async def StreamAggregatedResources(  # noqa: N802 - the service's name for it
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        del context
        conversation = Conversation(self._versions)
        waker = asyncio.Event()
        self._streams[conversation] = waker
        pending: asyncio.Task[Any] | None = None
        changed: asyncio.Task[Any] | None = None
        try:
            while True:
                pending = pending or asyncio.ensure_future(anext(request_iterator, None))
                changed = changed or asyncio.ensure_future(waker.wait())
                await asyncio.wait({pending, changed}, return_when=asyncio.FIRST_COMPLETED)
                responses: list[Response] = []
                if changed.done():
                    changed = None
                    waker.clear()
                    responses += conversation.changed()
                if pending.done():
                    request, pending = pending.result(), None
                    if request is None:
                        return
                    self._hear(conversation, request)
                    responses += conversation.request(request.type_url, request.resource_names, request.response_nonce)
                for response in responses:
                    yield self._message(response)
        finally:
            del self._streams[conversation]
            for task in (pending, changed):
                if task is not None:
                    task.cancel()

    def _hear(self, conversation: Conversation, request: Any) -> None:
        refusal = str(request.error_detail.message)[:4000] if request.HasField("error_detail") else None
        rejection = conversation.heard(request.type_url, request.version_info, request.response_nonce, refusal)
        if rejection is not None:
            self._on_rejection(rejection)

    def _message(self, response: Response) -> Any:
        table = self._packed[response.type_url]
        return _DiscoveryResponse(
            type_url=response.type_url,
            version_info=response.version,
            nonce=response.nonce,
            resources=[table[name].any for name in response.names if name in table],
        )
