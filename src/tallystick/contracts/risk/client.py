"""Risk's clients: for payments (all payments that wait at a moment go in one call), and for the operator, who keeps the lists."""

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
    """One payment to decide about, with the transaction token for the request."""

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
        """The decision about a payment; for the same id always the same one. Raises Upstream or DeadlineExceeded."""
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
    """A tenant's deny and allow lists, for the operator. Methods raise the problems that they name, and what `Client.request` raises."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def entries(self, tenant: str) -> list[ListEntry]:
        path = f"/internal/lists?tenant={tenant}"
        return (await self._client.request("GET", path, answer=ListEntries, problems=(InvalidRequest,))).data

    async def put(self, entry: ListEntry) -> ListEntry:
        """Set an entry, replacing an earlier one for the same value. Raises InvalidListValue, InvalidRequest."""
        return await self._client.request(
            "PUT", "/internal/lists", entry, answer=ListEntry, problems=(InvalidListValue, InvalidRequest)
        )

    async def remove(self, tenant: str, kind: str, value: str) -> None:
        """Raises NotListed."""
        path = f"/internal/lists/{tenant}/{kind}/{value}"
        await self._client.request("DELETE", path, idempotent=False, problems=(NotListed,))
