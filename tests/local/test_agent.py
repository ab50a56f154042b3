"""Certificates go on being renewed, whatever fails."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.x509.verification import VerificationError

from tallystick.fabric.envoy import BUNDLE
from tallystick.local import pki
from tallystick.local.ads import AdsServer
from tallystick.local.agent import IdentityAgent
from tallystick.local.pki import ANNOUNCE, ROOT_LIFE, SWITCH, Authority
from tests.local.test_pki import SPIFFE, Home, verify
from tests.simulation.loop import in_virtual_time


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
        self.looks = 0
        self.bundle = b""
        self.unpublished: Exception | None = None
        plain = authority.renew

        async def renew() -> None:
            self.looks += 1
            if self.failing is not None:
                raise self.failing
            await plain()

        monkeypatch.setattr(authority, "renew", renew)
        self.agent = IdentityAgent(
            authority,
            cast("AdsServer", self.ads),
            {"ledger": SPIFFE},
            clock=home.clock,
            on_bundle=self._publish,
            on_error=self.told.append,
        )
        self.agent.issue_all()
        self.ads.issued.clear()

    def _publish(self, bundle: bytes) -> None:
        if self.unpublished is not None:
            raise self.unpublished
        self.bundle = bundle


@pytest.fixture
async def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    return await made(tmp_path, monkeypatch)


async def made(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    home = Home(directory)
    await home.open()
    home.clock.advance(timedelta(hours=5))  # the root was made a while ago
    return Certificates(home, await home.open(), monkeypatch)


async def test_a_look_that_fails_is_not_the_last_one(certificates: Certificates) -> None:
    full = certificates.failing = OSError(28, "No space left on device")
    task = asyncio.create_task(certificates.agent.run(every=0.01))
    async with asyncio.timeout(60):
        while certificates.looks < 3:
            await asyncio.sleep(0.01)
        assert certificates.told == [full], "once"
        certificates.failing = None
        certificates.home.clock.advance(timedelta(minutes=40))
        while len(certificates.ads.issued) < 2:
            await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()


def test_a_machine_that_slept_for_hours_has_certificates_again_in_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of the loop stood still meanwhile, that of certificates did not."""
    certificates = asyncio.run(made(tmp_path, monkeypatch))

    @in_virtual_time
    async def sleeps() -> None:
        task = asyncio.create_task(certificates.agent.run())
        await asyncio.sleep(60.5)
        assert certificates.ads.issued == []
        certificates.home.clock.advance(timedelta(hours=8))
        await asyncio.sleep(1)
        assert len(certificates.ads.issued) == 2
        task.cancel()

    sleeps()


async def test_leaves_are_renewed_while_the_authority_itself_can_not_be(certificates: Certificates) -> None:
    certificates.failing = OSError(28, "No space left on device")
    certificates.home.clock.advance(timedelta(minutes=40))
    with pytest.raises(OSError, match="No space"):
        await certificates.agent.renew()
    assert len(certificates.ads.issued) == 2


@pytest.mark.parametrize("where", ["authority.json", "ca.pem"])
async def test_a_root_that_is_made_while_the_disk_is_full_is_trusted_as_soon_as_there_is_room(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It was in this process only, and nobody was told to trust it: six weeks later all that it signs would have been refused."""
    home, authority, agent = certificates.home, certificates.authority, certificates.agent
    full = OSError(28, "No space left on device")

    def no_room(*_: object) -> None:
        raise full

    home.clock.advance(ROOT_LIFE - ANNOUNCE - timedelta(days=1))
    await agent.renew()
    home.clock.advance(timedelta(days=1))
    with monkeypatch.context() as disk:
        if where == "authority.json":
            disk.setattr(pki, "write_private", no_room)
        else:
            certificates.unpublished = full
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                await agent.renew()
    certificates.unpublished = None
    assert certificates.bundle.count(b"BEGIN") == 1
    certificates.ads.issued.clear()
    await agent.renew()
    assert certificates.bundle == authority.bundle == (await home.open()).bundle
    assert certificates.bundle.count(b"BEGIN") == 2
    assert BUNDLE in certificates.ads.issued
    home.clock.advance(ANNOUNCE - SWITCH)
    await agent.renew()
    verify(certificates.bundle, authority.edge().chain, home.clock.now())


async def test_when_the_clock_is_set_back_all_get_certificates_that_are_valid_then(certificates: Certificates) -> None:
    home, authority = certificates.home, certificates.authority
    home.clock._now -= timedelta(hours=2)
    with pytest.raises(VerificationError):
        verify(authority.bundle, authority.edge().chain, home.clock.now())
    assert len(await certificates.agent.renew()) == 2
    verify(authority.bundle, authority.edge().chain, home.clock.now())
    assert await certificates.agent.renew() == [], "once"
