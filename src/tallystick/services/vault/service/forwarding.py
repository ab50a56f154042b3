"""Sends requests to acquirers with the number filled in. The caller never sees the number, and it goes to allowed destinations only.

Each item of a batch is independent, with its own destination, deadline and result. An item that takes longer than is usual for its
destination is answered `pending`, and continues. A repeat with the same request id joins it and is not sent again. If the repeat reaches
another replica, the request is sent again under the same id, by which the destination recognises it as the same request.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from tallystick.chassis import outbox
from tallystick.chassis.auth import Subject
from tallystick.chassis.db import Database
from tallystick.chassis.keys import Keyring, KeyringError, Shredded
from tallystick.chassis.outbox import Fact
from tallystick.contracts.vault.messages import Forwarded, ForwardResult, Outgoing, TokensForwarded
from tallystick.contracts.vault.problems import (
    ForwardOutcomeUnknown,
    InvalidForward,
    NotForwarded,
    TokenDestroyed,
    TokenNotFound,
)
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import TokenId
from tallystick.kernel.problem import Overloaded, Problem
from tallystick.services.vault.model import Destination, StoredToken, Template, allow, conceal, wipe
from tallystick.services.vault.service.egress import Egress
from tallystick.services.vault.store import NUMBER, Store

#: The most finished results that are kept until somebody asks for them.
_KEPT = 2048


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """One request to be sent on behalf of `subject`."""

    subject: Subject
    destination: str
    request: Outgoing
    request_id: str
    timeout: float
    token: TokenId | None
    trace: str
    wait: bool = False


class _Ready(msgspec.Struct, frozen=True):
    """An item that may be sent."""

    send: Send
    destination: Destination
    template: Template


class _Filled(msgspec.Struct, frozen=True):
    """A request with card data in it. It exists only between decryption and the end of the exchange, and is then wiped."""

    send: Send
    body: bytearray
    number: bytearray

    def __repr__(self) -> str:
        return "Filled(****)"


#: The future answer, shared by all who ask for it.
_Result: TypeAlias = "asyncio.Future[Forwarded]"
#: Tenant and token.
_Key = tuple[str, TokenId]
#: Tenant, destination and request id, which identify a request.
_Name = tuple[str, str, str]


class Forwarding:
    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        ring: Keyring,
        clock: Clock,
        egress: Egress,
        max_in_flight: int = 512,
    ) -> None:
        self._database = database
        self._store = store
        self._ring = ring
        self._clock = clock
        self._egress = egress
        self._max_in_flight = max_in_flight
        #: Requests by name, from before they are sent until somebody has fetched the result.
        self._known: OrderedDict[_Name, tuple[Send, _Result]] = OrderedDict()
        self._tasks: set[asyncio.Task[Forwarded]] = set()

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._egress.close()

    async def forward(self, items: Sequence[Send | Problem]) -> list[ForwardResult]:
        """One result per item, in order. A single item's failure is its result, and is not raised."""
        results: list[_Result | Problem] = []
        ours: list[tuple[_Ready, _Result]] = []
        # No await in this loop, so that a repeat a moment later, or in the same batch, joins the first request.
        for item in items:
            found = item if isinstance(item, Problem) else self._joined(item) or self._ready(item)
            if isinstance(found, _Ready):
                ours.append((found, self._reserve(found.send)))
                found = ours[-1][1]
            results.append(found)
        await self._start(ours)
        await self._wait(items, results)
        return [self._result(item, result) for item, result in zip(items, results, strict=True)]

    def _joined(self, send: Send) -> _Result | Problem | None:
        """The result of the same request, if this replica has it under way."""
        known = self._known.get(_name(send))
        if known is None:
            return None
        first, result = known
        if (first.request, first.token) != (send.request, send.token):
            return InvalidForward("this request id is under way with other content")
        return result

    def _reserve(self, send: Send) -> _Result:
        """Register a future for the result under the request's name."""
        result: _Result = asyncio.get_running_loop().create_future()
        # Retrieve the exception, so that asyncio does not report a failure that nobody asks for: the use is recorded as a fact.
        result.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._known[_name(send)] = (send, result)
        while len(self._known) > self._max_in_flight + _KEPT:
            oldest = next((name for name, (_, each) in self._known.items() if each.done()), None)
            if oldest is None:
                break
            del self._known[oldest]
        return result

    def _ready(self, send: Send) -> _Ready | Problem:
        try:
            destination = allow(self._egress.destination(send.destination), send.request)
            template = Template(send.request.body)
            if template.fields and send.token is None:
                raise InvalidForward("the body asks for a number, but no token was named")
            if send.token is not None and not template.fields:
                raise InvalidForward("a token was named, but the body has no place for its number")
        except Problem as problem:
            return problem
        return _Ready(send, destination, template)

    async def _start(self, ours: Sequence[tuple[_Ready, _Result]]) -> None:
        """Decrypt the numbers, record each use, and only then send. What it raises is also raised for those who joined."""
        try:
            filled = await self._fill([ready for ready, _ in ours])
        except BaseException as error:
            for ready, result in ours:
                failed = (
                    error
                    if isinstance(error, Exception)
                    else NotForwarded("the request was cancelled before it was sent")
                )
                result.set_exception(failed)
                self._forget(ready.send, result)
            raise
        for body, (_, result) in zip(filled, ours, strict=True):
            if isinstance(body, Problem):
                result.set_exception(body)
            else:
                self._run(body, result)

    async def _fill(self, ready: Sequence[_Ready]) -> list[_Filled | Problem]:
        using = [key for each in ready if (key := _key(each.send)) is not None]
        stored = await self._store.find(self._database, using) if using else {}
        numbers = await self._open(stored)
        filled: list[_Filled | Problem] = []
        try:
            filled.extend(_fill(each, stored, numbers) for each in ready)
            await self._record([body.send for body in filled if isinstance(body, _Filled) and body.number])
        except BaseException:
            for body in filled:
                if isinstance(body, _Filled):
                    wipe(body.body, body.number)
            raise
        finally:
            wipe(*(number for number in numbers.values() if isinstance(number, bytearray)))
        return filled

    async def _open(self, stored: Mapping[_Key, StoredToken]) -> dict[_Key, bytearray | Problem]:
        whole = {key: token.sealed for key, token in stored.items() if token.sealed is not None}
        opened = await self._ring.open_many([(sealed, NUMBER.aad(*key)) for key, sealed in whole.items()])
        numbers: dict[_Key, bytearray | Problem] = {}
        for key, number in zip(whole, opened, strict=True):
            if isinstance(number, Shredded):
                numbers[key] = TokenDestroyed()
            elif isinstance(number, KeyringError):
                # Not the request's fault, so not a problem of the item: somebody changed the table.
                raise number
            else:
                numbers[key] = number
        return numbers

    async def _record(self, used: Sequence[Send]) -> None:
        """Store one fact per tenant and batch, before anything is sent: which token goes where, for which request."""
        by_tenant: dict[str, list[Send]] = {}
        for send in used:
            by_tenant.setdefault(send.subject.tenant, []).append(send)
        if not by_tenant:
            return
        at = self._clock.now()
        facts = [
            Fact(
                id=ids.facts.new(),
                type="vault.tokens.forwarded",
                tenant=tenant,
                actor=sends[0].subject.caller or "vault",
                resource="vault-tokens",
                at=at,
                trace=sends[0].trace,
                data=msgspec.to_builtins(
                    TokensForwarded(
                        [
                            (ids.tokens.text(send.token), send.destination, send.request_id, send.subject.client_id)
                            for send in sends
                            if send.token is not None
                        ]
                    )
                ),
            )
            for tenant, sends in by_tenant.items()
        ]
        async with self._database.transaction() as tx:
            await outbox.append(tx, facts)

    def _run(self, filled: _Filled, result: _Result) -> None:
        """Start sending."""
        if len(self._tasks) >= self._max_in_flight:
            wipe(filled.body, filled.number)
            result.set_exception(Overloaded("too many requests are on their way to acquirers"))
            return

        def done(task: asyncio.Task[Forwarded]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                result.cancel()
            elif (error := task.exception()) is not None:
                result.set_exception(error)
            else:
                result.set_result(task.result())

        task = asyncio.create_task(self._exchange(filled), name="vault.forward")
        self._tasks.add(task)
        task.add_done_callback(done)

    async def _exchange(self, filled: _Filled) -> Forwarded:
        send = filled.send
        channel = self._egress[send.destination]
        try:
            status, body = await channel.send(
                send.request, filled.body, min(send.timeout, channel.destination.timeout_seconds)
            )
            text, masked = conceal(body, filled.number)
            return Forwarded(status, text, masked)
        finally:
            wipe(filled.body, filled.number)

    async def _wait(self, items: Sequence[Send | Problem], results: Sequence[_Result | Problem]) -> None:
        """Wait for all results, but for items that nobody waits for in particular only as long as is usual for their destinations."""
        must = [r for i, r in zip(items, results, strict=True) if isinstance(r, asyncio.Future) and _patient(i, items)]
        may = [r for r in results if isinstance(r, asyncio.Future) and r not in must]
        if may:
            usual = max(self._usual(item) for item in items if isinstance(item, Send))
            await asyncio.wait(may, timeout=usual)
        if must:
            await asyncio.wait(must)

    def _usual(self, send: Send) -> float:
        destination = self._egress.destination(send.destination)
        return 0.0 if destination is None else destination.usual_seconds

    def _result(self, item: Send | Problem, result: _Result | Problem) -> ForwardResult:
        if isinstance(item, Problem):
            return ForwardResult(problem=item.document())
        if isinstance(result, Problem):
            return ForwardResult(problem=result.document())
        if not result.done():
            return ForwardResult(pending=True)
        self._forget(item, result)
        if result.cancelled():
            return ForwardResult(problem=ForwardOutcomeUnknown("the vault is shutting down").document())
        error = result.exception()
        if error is None:
            return ForwardResult(answer=result.result())
        if isinstance(error, Problem):
            return ForwardResult(problem=error.document())
        raise error

    def _forget(self, send: Send, result: _Result) -> None:
        known = self._known.get(_name(send))
        if known is not None and known[1] is result:
            del self._known[_name(send)]


def _name(send: Send) -> _Name:
    return (send.subject.tenant, send.destination, send.request_id)


def _key(send: Send) -> _Key | None:
    return None if send.token is None else (send.subject.tenant, send.token)


def _patient(item: Send | Problem, items: Sequence[Send | Problem]) -> bool:
    """Whether to wait for this item until its own deadline: if it asked for that, or is alone in its batch."""
    return isinstance(item, Send) and (item.wait or len(items) == 1)


def _fill(
    ready: _Ready, stored: Mapping[_Key, StoredToken], numbers: Mapping[_Key, bytearray | Problem]
) -> _Filled | Problem:
    """The item's body with the values filled in, and a copy of the number, to search the answer for."""
    key = _key(ready.send)
    if key is None:
        return _Filled(ready.send, bytearray((ready.send.request.body or "").encode()), bytearray())
    token = stored.get(key)
    if token is None:
        return TokenNotFound()
    number = numbers.get(key, TokenDestroyed())
    if isinstance(number, Problem) or token.masked is None:
        return TokenDestroyed()
    values: dict[str, bytes | bytearray] = {"bank_account.iban": number}
    if token.type == "card":
        values = {
            "card.number": number,
            "card.exp_month": str(token.masked.exp_month).encode(),
            "card.exp_year": str(token.masked.exp_year).encode(),
        }
    try:
        return _Filled(ready.send, ready.template.fill(values), bytearray(number))
    except Problem as problem:
        return problem
