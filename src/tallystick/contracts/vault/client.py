"""The vault's client for payments: all requests that wait at a moment go in one call."""

from __future__ import annotations

import msgspec

from tallystick.chassis.batching import Batcher
from tallystick.chassis.call import Client
from tallystick.contracts.vault.messages import (
    DescribeAnswer,
    DescribeBatch,
    DescribeItem,
    ForwardAnswer,
    ForwardBatch,
    Forwarded,
    ForwardItem,
    ForwardResult,
    Outgoing,
    Token,
)
from tallystick.contracts.vault.problems import FORWARD_PROBLEMS, TokenDestroyed, TokenNotFound
from tallystick.kernel.problem import decode

#: Items per call. Few, because a batch is answered only when its slowest item is answered, or is `pending`.
_BATCH = 32
_IN_FLIGHT = 8


class ForwardCall(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a destination, with the transaction token under which it is made (see `ForwardItem`)."""

    token: str
    destination: str
    request: Outgoing
    request_id: str
    timeout_ms: int
    card_token: str | None = None


class DescribeCall(msgspec.Struct, frozen=True, kw_only=True):
    """`id` is `tok_...`; `token` is the transaction token of the subject who asks."""

    token: str
    id: str


class VaultClient:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._forwards: Batcher[ForwardCall, ForwardResult] = Batcher(
            self._forward, max_batch=_BATCH, concurrency=_IN_FLIGHT, name="vault.forward"
        )
        self._describes: Batcher[DescribeCall, Token] = Batcher(
            self._describe, max_batch=_BATCH, concurrency=2, name="vault.describe"
        )

    async def forward(self, call: ForwardCall) -> Forwarded:
        """Send the request with the number filled in; returns the destination's answer, whatever its status.

        Raises a problem of `FORWARD_PROBLEMS`, Upstream or DeadlineExceeded. The destination may have acted if the problem has
        `outcome_unknown` set (Upstream, DeadlineExceeded and their subclasses), and has not acted otherwise.
        """
        result = await self._forwards.submit(call)
        if result.pending:
            # Slower than usual for this destination: wait for this one alone.
            (result,) = await self._send([call], wait=True)
        if result.answer is not None:
            return result.answer
        raise decode(result.problem or {}, FORWARD_PROBLEMS)

    async def describe(self, call: DescribeCall) -> Token:
        """The masked view: brand, first six and last four digits, fingerprint. Raises TokenNotFound, TokenDestroyed."""
        return await self._describes.submit(call)

    async def _forward(self, calls: list[ForwardCall]) -> list[ForwardResult | Exception]:
        return list(await self._send(calls, wait=False))

    async def _send(self, calls: list[ForwardCall], *, wait: bool) -> list[ForwardResult]:
        tokens: dict[str, int] = {}
        items = [
            ForwardItem(
                token=tokens.setdefault(call.token, len(tokens)),
                destination=call.destination,
                request=call.request,
                request_id=call.request_id,
                timeout_ms=call.timeout_ms,
                card_token=call.card_token,
                wait=wait,
            )
            for call in calls
        ]
        answer = await self._client.request(
            "POST",
            "/internal/forward",
            ForwardBatch(list(tokens), items),
            answer=ForwardAnswer,
            # Repeating is safe, because the destination identifies each request by its id.
            idempotent=True,
        )
        return answer.items

    async def _describe(self, calls: list[DescribeCall]) -> list[Token | Exception]:
        tokens: dict[str, int] = {}
        items = [DescribeItem(tokens.setdefault(call.token, len(tokens)), call.id) for call in calls]
        answer = await self._client.request(
            "POST",
            "/internal/describe",
            DescribeBatch(list(tokens), items),
            answer=DescribeAnswer,
            idempotent=True,
        )
        return [each.token or decode(each.problem or {}, (TokenNotFound, TokenDestroyed)) for each in answer.items]
