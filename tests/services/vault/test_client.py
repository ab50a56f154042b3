"""What payments holds in its hand: the vault's client, over a real socket, to the real vault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from valkey.asyncio import Valkey

from tallystick.chassis.call import Client
from tallystick.contracts.vault.client import DescribeCall, ForwardCall, VaultClient
from tallystick.contracts.vault.messages import Outgoing
from tallystick.contracts.vault.problems import (
    DestinationNotAllowed,
    ForwardOutcomeUnknown,
    NotForwarded,
    TokenDestroyed,
    TokenNotFound,
)
from tests.conftest import DatabaseFor
from tests.services.vault.support import CARD, SLOW, TEMPLATE, Env, rail, running
from tests.support.http import World


@asynccontextmanager
async def connected(env: Env, directory: Path) -> AsyncIterator[VaultClient]:
    """A client whose calls arrive as those of payments do."""
    peer = env.world.mesh("payments")

    async def as_payments(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], *peer]}
        await env.app(scope, receive, send)

    socket = directory / "vault.sock"
    config = uvicorn.Config(as_payments, uds=str(socket), lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    client = Client(socket, "vault", timeout=60.0)
    try:
        yield VaultClient(client)
    finally:
        await client.close()
        server.should_exit = True
        await serving


def call(env: Env, request_id: str, card: str, **changes: Any) -> ForwardCall:
    return ForwardCall(
        **{
            "token": env.world.issuer.transaction(),
            "destination": "sandbox-rail",
            "request": Outgoing("POST", "/authorizations", TEMPLATE % request_id),
            "request_id": request_id,
            "timeout_ms": 60_000,
            "card_token": card,
            **changes,
        }
    )


async def test_forwarding_and_describing(env: Env, directory: Path) -> None:
    token, gone = await env.create(), await env.create()
    await env.edge("DELETE", f"/v1/tokens/{gone['id']}")
    async with connected(env, directory) as vault:
        answers = await asyncio.gather(*(vault.forward(call(env, f"r{i}", token["id"])) for i in range(60)))
        assert {answer.status for answer in answers} == {200}
        user = env.world.issuer.transaction()
        described = await vault.describe(DescribeCall(token=user, id=token["id"]))
        assert described.card is not None
        assert described.card.fingerprint == token["card"]["fingerprint"]
        with pytest.raises(TokenDestroyed):
            await vault.describe(DescribeCall(token=user, id=gone["id"]))
        foreign = env.world.issuer.transaction(tenant="other")
        with pytest.raises(TokenNotFound):
            await vault.describe(DescribeCall(token=foreign, id=token["id"]))
        with pytest.raises(TokenNotFound):
            await vault.forward(call(env, "x", token["id"], token=foreign))
        with pytest.raises(DestinationNotAllowed):
            await vault.forward(call(env, "x", token["id"], destination="elsewhere"))


async def test_a_slow_one_is_waited_for_alone_and_a_lost_one_is_unknown(
    around: World, database_for: DatabaseFor, valkey: Valkey, directory: Path
) -> None:
    service = await database_for("tallystick.services.vault")
    async with running(around, service, valkey, directory) as env, connected(env, directory) as vault:
        slow = (await env.create({**CARD, "number": SLOW}))["id"]
        lost = (await env.create({**CARD, "number": "4000000000000341"}))["id"]
        good = (await env.create())["id"]
        with pytest.raises(NotForwarded) as nowhere:
            await vault.forward(call(env, "down", good))
        assert not nowhere.value.outcome_unknown
        goes_on = asyncio.Event()
        async with rail(directory, slow_seconds=0, goes_on=goes_on) as seen:
            waiting = asyncio.create_task(vault.forward(call(env, "slow", slow)))
            fast = [asyncio.create_task(vault.forward(call(env, f"fast{i}", good))) for i in range(20)]
            await asyncio.wait(fast)
            assert not waiting.done()
            assert {task.result().status for task in fast} == {200}
            goes_on.set()
            assert (await waiting).status == 200
            assert seen.count("POST /authorizations") == 21
            with pytest.raises(ForwardOutcomeUnknown) as unknown:
                await vault.forward(call(env, "lost", lost))
            assert unknown.value.outcome_unknown
            assert (await vault.forward(call(env, "lost", lost))).status == 200
