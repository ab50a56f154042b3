"""A service's stream of facts in JetStream, `facts-<service>` with the subject `facts.<service>`: creating, writing and reading it.

A message is `{"service": "payments", "first": 17, "facts": [...]}`. Its id `payments-17-24` has the same numbers (first, count), for
those who don't read the content. Messages follow each other without gaps, because each names the stream sequence that must precede
it. Readers keep no state in NATS: they ask for messages by sequence, so losing a server or a reader loses no position.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg
from nats.js import api

from tallystick.chassis import telemetry
from tallystick.chassis.bus.connection import Bus, BusUnavailable

_NAME_IN_USE: Final = 10058
#: The subject prefix of the JetStream API. Not `$JS.API`: the streams are in an account that nobody logs in to, from which this prefix is
#: exported to the services' accounts.
API: Final = "jetstream"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """`replicas`: 3 on a cluster. Messages are kept for `max_age`; the outbox keeps its facts longer."""

    replicas: int = 1
    max_age: timedelta = timedelta(days=7)
    duplicate_window: timedelta = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a stream: its first and last sequence (`first = last + 1`: it is empty) and the number of its last fact (0: none).
    `created` tells it from another stream of the same name.
    """

    created: str
    first: int
    last: int
    fact: int


@dataclass(frozen=True, slots=True)
class Message:
    """The message at `sequence` of the stream, with the facts numbered `first` .. `last`; `data` is its encoded envelope."""

    sequence: int
    first: int
    count: int
    data: bytes

    @property
    def last(self) -> int:
        return self.first + self.count - 1


class Hole(Exception):
    """The next message of a stream does not have the next facts: some are missing, or no relay of the service wrote it."""


class Envelope(msgspec.Struct, frozen=True):
    service: str
    first: int
    facts: list[msgspec.Raw]


decode: Final = msgspec.json.Decoder(Envelope).decode


def name(service: str) -> str:
    return f"facts-{service}"


def subject(service: str) -> str:
    return f"facts.{service}"


def stored_subject(service: str) -> str:
    """The subject on which the relay announces, without content, that the stream has more."""
    return f"stored.{service}"


def create_subject(service: str) -> str:
    """The subject for creating the stream. Only its own service may use it, because the request decides about the stream's settings."""
    return f"{API}.STREAM.CREATE.{name(service)}"


def info_subject(service: str) -> str:
    """The subject for asking about the stream's state."""
    return f"{API}.STREAM.INFO.{name(service)}"


def get_subject(service: str) -> str:
    """The subject for reading the stream. One request may have many answers."""
    return f"{API}.DIRECT.GET.{name(service)}"


def encode(service: str, first: int, facts: Sequence[bytes]) -> bytes:
    """The message of a batch; the facts' own bytes are embedded unchanged."""
    return b'{"service":"%s","first":%d,"facts":[%s]}' % (service.encode(), first, b",".join(facts))


async def ensure(bus: Bus, service: str, settings: StreamSettings) -> None:
    """Create the stream if it is not there. Raises BusUnavailable.

    A stream that exists with other settings stays as it is: no service may change a stream, not even its own (see `fabric.nats`).
    """
    config: dict[str, Any] = {
        "name": name(service),
        "subjects": [subject(service)],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_age": _nanoseconds(settings.max_age),
        "max_bytes": -1,
        "max_msgs": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "num_replicas": settings.replicas,
        "duplicate_window": _nanoseconds(settings.duplicate_window),
        "allow_direct": True,
    }
    answer = await _api(bus, create_subject(service), config)
    if answer.get("error", {}).get("err_code") == _NAME_IN_USE:
        telemetry.log.warning("bus.stream_has_other_settings", stream=name(service))
        return
    if "error" in answer:
        raise _refused(answer)


async def tail(bus: Bus, service: str) -> Tail:
    """The end of the stream. Raises BusUnavailable, also when there is no such stream."""
    end = await bounds(bus, service)
    found = await get(bus, service, end.last) if end.first <= end.last else None
    return replace(end, fact=found.last) if found is not None else end


async def bounds(bus: Bus, service: str) -> Tail:
    """Like `tail`, but without reading the last message: `fact` is 0."""
    answer = await _api(bus, info_subject(service), None)
    if "error" in answer:
        raise _refused(answer)
    state = answer["state"]
    # A stream that never had a message reports 0 and 0, which would mean one message of sequence 0. Sequences begin at 1.
    return Tail(answer["created"], max(1, state["first_seq"]), state["last_seq"], 0)


async def publish(bus: Bus, service: str, first: int, facts: Sequence[bytes], *, expected: int) -> int:
    """Store a batch as the message after sequence `expected`; returns its sequence. Raises BusUnavailable, also when the stream does not
    end at `expected`.
    """
    headers = {
        api.Header.MSG_ID.value: f"{service}-{first}-{len(facts)}",
        api.Header.EXPECTED_STREAM.value: name(service),
        api.Header.EXPECTED_LAST_SEQUENCE.value: str(expected),
    }
    message = await bus.request(subject(service), encode(service, first, facts), headers=headers)
    answer = json.loads(message.data)
    if "error" in answer:
        raise _refused(answer)
    return int(answer["seq"])


async def read(
    bus: Bus, service: str, sequence: int, *, batch: int = 64, max_bytes: int = 1024 * 1024
) -> list[Message]:
    """Messages from `sequence` on; empty when there are none yet. Raises BusUnavailable, also when there is no such stream, and Hole
    when the first of them was not written by a relay.
    """
    return (await read_page(bus, service, sequence, batch=batch, max_bytes=max_bytes))[0]


async def read_page(
    bus: Bus, service: str, sequence: int, *, batch: int = 64, max_bytes: int = 1024 * 1024
) -> tuple[list[Message], bool]:
    """Like `read`, together with whether the stream had more at that moment. A page ends before a message that no relay wrote."""
    request = json.dumps({"seq": max(1, sequence), "batch": batch, "max_bytes": max_bytes}).encode()
    *messages, end = await bus.request_many(get_subject(service), request)
    headers = end.headers or {}
    status = headers.get("Status")
    if status not in {"204", "404"}:
        raise BusUnavailable(f"the stream {name(service)} can't be read", context={"status": status})
    found: list[Message] = []
    for message in messages:
        try:
            found.append(_message(message))
        except Hole:
            if not found:
                raise
            return found, True
    return found, headers.get("Nats-Num-Pending", "0") != "0"


async def get(bus: Bus, service: str, sequence: int) -> Message | None:
    """The message at a sequence, None when there is none. Raises BusUnavailable, and Hole for a message that no relay wrote."""
    message = await bus.request(get_subject(service), json.dumps({"seq": sequence}).encode())
    if message.headers and "Status" in message.headers:
        if message.headers["Status"] == "404":
            return None
        raise BusUnavailable(f"the stream {name(service)} can't be read", context={"status": message.headers["Status"]})
    return _message(message)


async def locate(bus: Bus, service: str, fact: int) -> int:
    """The sequence of the first message that holds `fact` or a later one; one past the end when there is none. Raises BusUnavailable."""
    end = await bounds(bus, service)
    low, high = end.first, end.last + 1
    while low < high:
        middle = (low + high) // 2
        try:
            found = await get(bus, service, middle)
            later = (
                found is None or found.last < fact
            )  # None: dropped by age meanwhile, so the fact is in a later message
        except Hole:
            later = False  # nothing after it can be read; a reader who needs that comes upon it
        if later:
            low = middle + 1
        else:
            high = middle
    return low


def facts_after(messages: Sequence[Message], service: str, fact: int) -> list[bytes]:
    """The facts in these consecutive messages after fact number `fact`, raw, in order. Raises Hole."""
    found: list[bytes] = []
    for message in messages:
        skip = max(0, fact + 1 + len(found) - message.first)
        found.extend(bytes(raw) for raw in facts(message, service)[skip:])
    return found


def facts(message: Message, service: str) -> list[msgspec.Raw]:
    """The facts in a message. Raises Hole when they are not the service's facts of the numbers in the message's id."""
    try:
        envelope = decode(message.data)
    except ValueError as error:  # no JSON, or no UTF-8
        raise Hole(f"message {message.sequence} of {name(service)} can't be read") from error
    if (envelope.service, envelope.first, len(envelope.facts)) != (service, message.first, message.count):
        raise Hole(f"message {message.sequence} of {name(service)} is not the facts that its id says")
    return envelope.facts


def _message(message: Msg) -> Message:
    headers = message.headers or {}
    sequence = int(headers["Nats-Sequence"])
    try:
        _, first, count = headers[api.Header.MSG_ID.value].rsplit("-", 2)
        return Message(sequence, int(first), int(count), message.data)
    except (KeyError, ValueError) as error:
        raise Hole(f"message {sequence} has no id with the numbers of its facts") from error


async def _api(bus: Bus, subject: str, request: dict[str, Any] | None) -> dict[str, Any]:
    message = await bus.request(subject, b"" if request is None else json.dumps(request).encode())
    answer: dict[str, Any] = json.loads(message.data)
    return answer


def _refused(answer: dict[str, Any]) -> BusUnavailable:
    error = answer["error"]
    context = {"code": error.get("err_code"), "reason": error.get("description")}
    return BusUnavailable(f"JetStream refused: {error.get('description', 'no reason given')}", context=context)


def _nanoseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000_000_000)


__all__ = [
    "API",
    "Envelope",
    "Hole",
    "Message",
    "StreamSettings",
    "Tail",
    "bounds",
    "create_subject",
    "decode",
    "encode",
    "ensure",
    "facts",
    "facts_after",
    "get",
    "get_subject",
    "info_subject",
    "locate",
    "name",
    "publish",
    "read",
    "read_page",
    "stored_subject",
    "subject",
    "tail",
]
