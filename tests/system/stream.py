"""A stream of payments through the edge, by book and by card, and what it was told: to be held against the truth afterwards."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tallystick.cli.apiclient import Answer, ApiClient, EdgeUnreachable, TokenRefused
from tallystick.cli.credentials import Credentials
from tests.system.conftest import PlatformUnderTest

SCOPE = "tokens:write accounts:write accounts:read transfers:write payments:write payments:read refunds:write"
#: Longer than a lease: a payment whose process was killed is taken up after it.
PATIENCE = 75.0


def client_of(platform: PlatformUnderTest, file: Path, scope: str = SCOPE) -> Credentials:
    """A new client, kept in `file`."""
    made = platform.cli("client", "create", file.stem, "--scope", scope, "--out", str(file))
    assert made.status == 0, made
    return Credentials.load(file)


async def made(api: ApiClient, path: str, body: Any, key: str, *, status: int = 201) -> Any:
    """A request that has to succeed, repeated with its key for as long as it takes."""
    ends = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            answer = await api.request("POST", path, body, idempotency_key=key)
            if answer.status == status:
                return answer.json()
            assert _may_be_repeated(answer), f"{path}: {answer.status} {answer.body!r}"
            last = f"{answer.status} {answer.body!r}"
        except (EdgeUnreachable, TokenRefused) as error:
            last = str(error)
        assert asyncio.get_running_loop().time() < ends, f"{path} {key}: {last}"
        await asyncio.sleep(0.3)


def _may_be_repeated(answer: Answer) -> bool:
    return answer.status == 202 or (answer.slug != "" and answer.json()["retryable"])


def money(minor: int) -> dict[str, str]:
    return {"amount": str(minor), "currency": "EUR"}


@dataclass
class Stream:
    """`answers`: what was answered for good, by key. `open`: requests that were sent and have no final answer yet."""

    api: ApiClient
    shop: str
    payer: str
    cards: list[str]
    answers: dict[str, Any] = field(default_factory=dict)
    open: dict[str, Any] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    _stopping: bool = False

    async def until(self, more: int) -> None:
        """Until so many more were answered."""
        wanted = len(self.answers) + more
        async with asyncio.timeout(PATIENCE):
            while len(self.answers) < wanted:
                await asyncio.sleep(0.02)

    async def send(self) -> None:
        """One sender. A refusal that may be repeated is counted and left for later: its key stays open."""
        while not self._stopping:
            self.sent += 1
            key = f"stream-{self.sent}"
            body = self._body()
            self.open[key] = body
            await self._once(key, body)
            await asyncio.sleep(0.01)

    async def _once(self, key: str, body: Any) -> None:
        try:
            answer = await self.api.request("POST", "/v1/payments", body, idempotency_key=key)
        except (EdgeUnreachable, TokenRefused) as error:
            self.errors[type(error).__name__] += 1
            await asyncio.sleep(0.2)
            return
        if answer.status == 201:
            self.answers[key] = answer.json()
            del self.open[key]
            return
        assert _may_be_repeated(answer), f"{key}: {answer.status} {answer.body!r}"
        self.errors[answer.slug or str(answer.status)] += 1
        await asyncio.sleep(0.1)

    def _body(self) -> dict[str, Any]:
        source = (
            {"type": "card", "token": random.choice(self.cards)}
            if random.random() < 0.5
            else {"type": "account", "account": self.payer}
        )
        return {"amount": money(random.randint(1, 2000)), "source": source, "destination": {"account": self.shop}}

    async def finish(self) -> None:
        """Every request that has no final answer gets one, under its key."""
        for key, body in list(self.open.items()):
            self.answers[key] = await made(self.api, "/v1/payments", body, key)
            del self.open[key]

    async def holds(self) -> None:
        """What was answered is true: each payment is as it was said, and the shop has what was paid, to the cent."""
        settled = 0
        for key, told in self.answers.items():
            answer = await self.api.request("GET", f"/v1/payments/{told['id']}")
            assert answer.ok, answer.body
            assert answer.json() == told, key
            if told["status"] == "settled":
                settled += int(told["amount"]["amount"])
        assert len({told["id"] for told in self.answers.values()}) == len(self.answers)
        account = (await self.api.request("GET", f"/v1/accounts/{self.shop}")).json()
        assert int(account["balance"]["posted"]["amount"]) == settled


@asynccontextmanager
async def streaming(credentials: Credentials, senders: int = 4) -> AsyncIterator[Stream]:
    """Payments flow during the block. What was begun is carried to its end afterwards, and held against the truth."""
    # One attempt: errors are to be seen here, not healed by the client.
    async with ApiClient(credentials, connections=16, attempts=1) as api:
        name = random.randbytes(6).hex()

        async def account(what: str) -> str:
            body = {"name": what, "currency": "EUR", "normal_side": "credit"}
            return str((await made(api, "/v1/accounts", body, f"{name}-{what}"))["id"])

        async def token(number: str) -> str:
            body = {"type": "card", "card": {"number": number, "exp_month": 12, "exp_year": 2039}}
            return str((await made(api, "/v1/tokens", body, f"{name}-{number[-4:]}"))["id"])

        cards = [await token(number) for number in ("4242424242424242", "4000000000000341", "4000000000000002")]
        stream = Stream(api, await account("shop"), await account("payer"), cards)
        tasks = [asyncio.create_task(stream.send()) for _ in range(senders)]
        try:
            await stream.until(20)
            yield stream
        finally:
            stream._stopping = True
            await asyncio.gather(*tasks)
        await stream.finish()
        await stream.holds()
