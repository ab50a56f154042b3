"""The demo's own part: a card for each run. What it does with the platform is tested by running it (`tests/system`)."""

from __future__ import annotations

from typing import Any

import pytest

from tallystick.cli.demo import Wrong, _Demo, _Show, _why
from tallystick.cli.output import Common
from tallystick.kernel.luhn import luhn
from tallystick.local.rail.rules import BEHAVIOURS


async def test_each_run_has_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Risk adds up what was tried on a card within a day: the fourth run on one card would be refused."""
    numbers: set[str] = set()

    async def post(_: _Demo, __: str, body: dict[str, Any]) -> dict[str, Any]:
        numbers.add(body["card"]["number"])
        return {"id": "tok_1", "card": {"brand": "visa", "last4": "0000"}}

    monkeypatch.setattr(_Demo, "_post", post)
    for _ in range(4):
        await _Demo(_Show(Common()))._token()
    assert len(numbers) == 4
    assert all(luhn(number) and number not in BEHAVIOURS for number in numbers)


def test_a_refusal_is_told_with_its_reasons() -> None:
    denied = {"decline": {"code": "risk_denied"}, "risk": {"reasons": ["card-sum-24h", "amount"]}}
    assert _why(denied) == ": risk_denied: card-sum-24h, amount"
    assert _why({"decline": {"code": "card_declined"}, "risk": None}) == ": card_declined"
    assert _why({"decline": None, "risk": {"reasons": []}}) == ""


async def test_the_endpoint_is_deleted_when_a_step_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stayed, and was sent to for days, at a port that another program may have by then."""
    deleted: list[str] = []

    async def post(_: _Demo, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/transfers":
            raise Wrong("no money")
        card = {"brand": "visa", "last4": "0000"}
        return {"id": path, "secret": "whsec_", "card": card}

    async def forget(_: _Demo, endpoint: str) -> tuple[str, None]:
        deleted.append(endpoint)
        return endpoint, None

    monkeypatch.setattr(_Demo, "_post", post)
    monkeypatch.setattr(_Demo, "_forget", forget)
    with pytest.raises(Wrong, match="no money"):
        await _Demo(_Show(Common()))._all("http://127.0.0.1:1/hook")
    assert deleted == ["/v1/webhook_endpoints"]


async def test_a_webhook_with_a_wrong_signature_is_told() -> None:
    """It was a stack trace."""
    demo = _Demo(_Show(Common()))
    headers = {"webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
    demo._heard.append((headers, b"{}"))
    with pytest.raises(Wrong, match="signature is wrong"):
        await demo._webhooks("whsec_" + "A" * 32)
