"""Certificates go on being renewed, whatever fails."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.x509.verification import VerificationError

from tallystick.local.ads import AdsServer
from tallystick.local.agent import IdentityAgent
from tallystick.local.pki import Authority
from tests.local.test_pki import SPIFFE, Home, verify


class Ads:
    """Counts what is handed out."""

    def __init__(self) -> None:
        self.issued: list[str] = []

    def put(self, _: str, resources: dict[str, Any]) -> None:
        self.issued += resources


class Certificates:
    """An agent on a real authority, which fails while `failing` says with what."""

    def __init__(self, home: Home, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.authority, self.ads = home, authority, Ads()
        self.failing: Exception | None = None
        self.told: list[Exception] = []
        plain = authority.renew

        async def renew() -> bool:
            if self.failing is not None:
                raise self.failing
            return await plain()

        monkeypatch.setattr(authority, "renew", renew)
        self.agent = IdentityAgent(
            authority,
            cast("AdsServer", self.ads),
            {"ledger": SPIFFE},
            clock=home.clock,
            on_bundle=lambda _: None,
            on_error=self.told.append,
        )
        self.agent.issue_all()
        self.ads.issued.clear()


@pytest.fixture
async def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    home = Home(tmp_path)
    await home.open()
    home.clock.advance(timedelta(hours=5))  # the root was made a while ago
    return Certificates(home, await home.open(), monkeypatch)


async def test_a_look_that_fails_is_not_the_last_one(certificates: Certificates) -> None:
    full = certificates.failing = OSError(28, "No space left on device")
    task = asyncio.create_task(certificates.agent.run(every=0.01))
    async with asyncio.timeout(60):
        while len(certificates.told) < 2:
            await asyncio.sleep(0.01)
        assert set(certificates.told) == {full}
        certificates.failing = None
        certificates.home.clock.advance(timedelta(minutes=40))
        while len(certificates.ads.issued) < 2:
            await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()


async def test_leaves_are_renewed_while_the_authority_itself_can_not_be(certificates: Certificates) -> None:
    certificates.failing = OSError(28, "No space left on device")
    certificates.home.clock.advance(timedelta(minutes=40))
    with pytest.raises(OSError, match="No space"):
        await certificates.agent.renew()
    assert len(certificates.ads.issued) == 2


async def test_when_the_clock_is_set_back_all_get_certificates_that_are_valid_then(certificates: Certificates) -> None:
    home, authority = certificates.home, certificates.authority
    home.clock._now -= timedelta(hours=2)
    with pytest.raises(VerificationError):
        verify(authority.bundle, authority.edge().chain, home.clock.now())
    assert len(await certificates.agent.renew()) == 2
    verify(authority.bundle, authority.edge().chain, home.clock.now())
    assert await certificates.agent.renew() == [], "once"
