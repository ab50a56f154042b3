"""How payments asks risk (one call for all payments that wait at the moment), and how the operator keeps the lists."""

from __future__ import annotations

import msgspec

from tallystick.chassis.batching import WORK_PACE, Batcher
from tallystick.chassis.call import Client
from tallystick.contracts.risk.messages import (
    MAX_ITEMS,
    DecideAnswer,
    DecideBatch,
    Decision,
    DecisionRequest,
    ListEntries,
    ListEntry,
)
from tallystick.contracts.risk.problems import DecisionIsForAnotherPayment, InvalidListValue, NotListed
from tallystick.kernel.money import Money, from_money
from tallystick.kernel.problem import InvalidRequest, decode


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One payment to be decided upon, with the transaction token that it is asked under."""

    token: str
    id: str
    payment: str
    amount: Money
    card: str | None
    account: str | None


class RiskClient:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._batcher: Batcher[Question, Decision] = Batcher(
            self._flush, max_batch=MAX_ITEMS // 2, concurrency=2, pace=WORK_PACE, name="risk.decide"
        )

    async def decide(self, question: Question) -> Decision:
        """The decision on one payment; the same again for the same id. Raises Upstream or DeadlineExceeded."""
        return await self._batcher.submit(question)

    async def _flush(self, questions: list[Question]) -> list[Decision | Exception]:
        tokens: dict[str, int] = {}
        items = [
            DecisionRequest(
                token=tokens.setdefault(q.token, len(tokens)),
                id=q.id,
                payment=q.payment,
                amount=from_money(q.amount),
                card=q.card,
                account=q.account,
            )
            for q in questions
        ]
        answer = await self._client.request(
            "POST",
            "/internal/decisions",
            DecideBatch(list(tokens), items),
            answer=DecideAnswer,
            idempotent=True,
        )
        return [item.decision or decode(item.problem or {}, (DecisionIsForAnotherPayment,)) for item in answer.items]


class RiskLists:
    """A tenant's deny and allow lists, for the operator. Raises the problems named at each, and what `Client.request` raises."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def entries(self, tenant: str) -> list[ListEntry]:
        path = f"/internal/lists?tenant={tenant}"
        return (await self._client.request("GET", path, answer=ListEntries, problems=(InvalidRequest,))).data

    async def put(self, entry: ListEntry) -> ListEntry:
        """InvalidListValue, InvalidRequest. What the list said of the value before is replaced."""
        return await self._client.request(
            "PUT", "/internal/lists", entry, answer=ListEntry, problems=(InvalidListValue, InvalidRequest)
        )

    async def remove(self, tenant: str, kind: str, value: str) -> None:
        """NotListed."""
        path = f"/internal/lists/{tenant}/{kind}/{value}"
        await self._client.request("DELETE", path, idempotent=False, problems=(NotListed,))
