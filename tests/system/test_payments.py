"""Payments on the whole platform: the acquirer's moods, and a client that is revoked while its payment is on its way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tallystick.cli.apiclient import ApiClient
from tests.system.conftest import PlatformUnderTest
from tests.system.stream import PATIENCE, client_of, made, money


async def _card(api: ApiClient, number: str, shop: str, key: str) -> Any:
    body = {"type": "card", "card": {"number": number, "exp_month": 12, "exp_year": 2039}}
    token = (await made(api, "/v1/tokens", body, f"token-{key}"))["id"]
    payment = {
        "amount": money(1250),
        "source": {"type": "card", "token": token},
        "destination": {"account": shop},
    }
    return await api.request("POST", "/v1/payments", payment, idempotency_key=key)


async def _until(api: ApiClient, payment: str, member: str, value: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        while True:
            found = (await api.request("GET", f"/v1/payments/{payment}")).json()
            if found[member] == value:
                return found
            await asyncio.sleep(0.3)


async def _moods(platform: PlatformUnderTest, directory: Path) -> None:
    mine, colleague = client_of(platform, directory / "mine.json"), client_of(platform, directory / "colleague.json")
    async with ApiClient(mine) as api, ApiClient(colleague) as other:
        account = {"name": "shop", "currency": "EUR", "normal_side": "credit"}
        shop = (await made(api, "/v1/accounts", account, "shop"))["id"]
        slow, lost, disputed, declined = await asyncio.gather(
            _card(api, "4000000000000119", shop, "slow"),
            _card(api, "4000000000000341", shop, "lost"),
            _card(api, "4000000000000259", shop, "disputed"),
            _card(api, "4000000000000002", shop, "declined"),
        )
        assert (lost.status, lost.json()["status"]) == (201, "settled")
        assert (declined.status, declined.json()["decline"]["code"]) == (201, "card_declined")
        assert (disputed.status, disputed.json()["disputed"]) == (201, False)
        assert (slow.status, slow.json()["status"]) == (202, "received")
        # Whoever asked is gone; the payment was accepted and goes on.
        revoked = await asyncio.to_thread(platform.cli, "client", "revoke", mine.client_id)
        assert revoked.status == 0, revoked
        await _until(other, slow.json()["id"], "status", "settled")
        assert (await _until(other, disputed.json()["id"], "disputed", True))["status"] == "settled"
        balance = (await other.request("GET", f"/v1/accounts/{shop}")).json()["balance"]["posted"]
        assert balance == money(3 * 1250)


def test_the_moods_of_the_acquirer_and_a_revoked_client(platform: PlatformUnderTest, tmp_path: Path) -> None:
    asyncio.run(_moods(platform, tmp_path))
    platform.verified()


async def _twice(platform: PlatformUnderTest, directory: Path) -> list[int]:
    """The same proof in two requests that claim to be one, as only the edge may say."""
    async with ApiClient(client_of(platform, directory / "thief.json")) as api:
        token = await api.token()
        headers = {
            "Authorization": f"DPoP {token}",
            "DPoP": api.proof_key.proof("GET", f"{platform.url}/v1/payments", token),
            "X-Request-Id": "7bd0f7f4-3f3b-4c4e-9f59-0e2b3cf4a001",
        }
        return [
            (await api._send("GET", f"{platform.url}/v1/payments", None, headers, attempt)).status for attempt in (1, 2)
        ]


def test_a_client_can_not_say_that_two_requests_are_one(platform: PlatformUnderTest, tmp_path: Path) -> None:
    assert asyncio.run(_twice(platform, tmp_path)) == [200, 401]


def test_the_demo_goes_as_often_as_one_likes(platform: PlatformUnderTest) -> None:
    """The fourth run on one card was more than risk allows a card within a day."""
    for _ in range(4):
        assert platform.cli("demo", "--json").json["fault"] is None
