"""The certificate authority: what it issues, how it rolls over, and that its key is nowhere in clear."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given
from hypothesis import strategies as st

from tallystick.chassis.keys import root as root_key
from tallystick.kernel.clock import ManualClock
from tallystick.local import pki
from tallystick.local.pki import ANNOUNCE, LEAF_LIFE, ROOT_LIFE, SWITCH, Authority, PkiError, announce, issuing

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SPIFFE = "spiffe://tallystick.local/ns/tallystick/sa/ledger"


class Home:
    """A directory with a root key file, and authorities opened on it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "authority.json"
        self.key = directory / "root.key"
        self.clock = ManualClock(START)
        self.opened = 0
        root_key.create(self.key)

    async def root(self) -> root_key.Root:
        self.opened += 1
        return await root_key.LocalRoot.open(self.key)

    async def open(self) -> Authority:
        return await Authority.open(
            self.path,
            self.root,
            trust_domain="tallystick.local",
            hosts=("localhost", "127.0.0.1", "::1"),
            clock=self.clock,
        )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def certificates(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


def verify(bundle: bytes, chain: bytes, at: datetime, name: str = "localhost") -> None:
    leaf, *rest = certificates(chain)
    policy = PolicyBuilder().store(Store(certificates(bundle))).time(at).build_server_verifier(x509.DNSName(name))
    policy.verify(leaf, rest)


async def test_a_service_has_one_uri_and_nothing_else(home: Home) -> None:
    leaf = (await home.open()).service(SPIFFE)
    certificate, intermediate = certificates(leaf.chain)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier(SPIFFE)]
    assert not list(certificate.subject)
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.not_valid_after_utc == START + LEAF_LIFE
    certificate.verify_directly_issued_by(intermediate)
    limits = intermediate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (limits.ca, limits.path_length) == (True, 0)


async def test_the_edge_is_trusted_by_the_ca_file_and_opens_no_inner_door(home: Home) -> None:
    authority = await home.open()
    leaf = authority.edge()
    verify(authority.bundle, leaf.chain, START)
    certificate = certificates(leaf.chain)[0]
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert not names.get_values_for_type(x509.UniformResourceIdentifier)
    with pytest.raises(VerificationError):
        verify(authority.bundle, leaf.chain, START, name="example.com")


async def test_whoever_trusts_ca_pem_trusts_it_for_nothing_else(home: Home) -> None:
    """Even with the intermediate's key a certificate for another host is refused by the root's name constraints."""
    authority = await home.open()
    authority._hosts = ("bank.example",)
    with pytest.raises(VerificationError, match="nstraint"):
        verify(authority.bundle, authority.edge().chain, START, name="bank.example")


async def test_openssl_takes_chain_key_and_bundle(home: Home, tmp_path: Path) -> None:
    authority = await home.open()
    leaf = authority.edge()
    both = tmp_path / "both.pem"
    both.write_bytes(leaf.chain + leaf.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    context.load_verify_locations(cadata=authority.bundle.decode())


async def test_the_key_is_sealed_on_disk(home: Home) -> None:
    authority = await home.open()
    text = home.path.read_bytes()
    assert home.path.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE KEY" not in text
    key = await authority._unseal(authority._roots[0].sealed)
    number = key.private_numbers().private_value.to_bytes(32, "big")
    assert number not in text
    assert "key" not in repr(authority.edge())


async def test_it_is_the_same_authority_after_a_restart(home: Home) -> None:
    first = await home.open()
    leaf = first.edge()
    second = await home.open()
    assert second.bundle == first.bundle
    verify(second.bundle, leaf.chain, START)


async def test_another_root_key_does_not_open_it(home: Home) -> None:
    await home.open()
    home.key.unlink()
    root_key.create(home.key)
    with pytest.raises(root_key.RootError):
        await home.open()


async def test_a_damaged_file_says_what_to_do(home: Home) -> None:
    home.path.write_text('{"format": 1')
    with pytest.raises(PkiError, match=r"authority\.json is damaged.*delete it"):
        await home.open()


async def test_after_the_root_key_was_rotated_the_old_version_can_go(home: Home) -> None:
    before = (await home.open()).bundle
    root_key.rotate(home.key)
    await home.open()
    root_key.forget(home.key, 1)
    assert (await home.open()).bundle == before


async def test_the_root_key_is_asked_for_only_when_the_private_key_is_needed(home: Home) -> None:
    authority = await home.open()
    opened = home.opened
    for _ in range(3):
        home.clock.advance(timedelta(hours=1))
        await authority.renew()
        authority.service(SPIFFE)
    assert home.opened == opened


async def test_the_intermediate_is_renewed_before_it_ends(home: Home) -> None:
    authority = await home.open()
    seen = set()
    for _ in range(60):
        home.clock.advance(timedelta(days=1))
        await authority.renew()
        leaf = authority.edge()
        verify(authority.bundle, leaf.chain, home.clock.now())
        assert leaf.ends == home.clock.now() + LEAF_LIFE
        seen.add(certificates(leaf.chain)[1].serial_number)
    assert len(seen) >= 3


async def test_rollover_never_leaves_a_side_behind(home: Home) -> None:
    """For two years: a client with a bundle of up to 45 days ago trusts today's leaf, and today's bundle trusts it too."""
    authority = await home.open()
    bundles: list[tuple[datetime, bytes]] = []
    widths = set()
    for _ in range(0, 730, 5):
        home.clock.advance(timedelta(days=5))
        await authority.renew()
        now = home.clock.now()
        bundles.append((now, authority.bundle))
        chain = authority.edge().chain
        for made, bundle in bundles:
            if now - made <= ANNOUNCE - SWITCH - timedelta(days=5):
                verify(bundle, chain, now)
        widths.add(len(certificates(authority.bundle)))
    assert widths == {1, 2}


async def test_a_root_of_the_future_is_kept_and_does_not_sign_yet(home: Home) -> None:
    """The clock was ahead when the platform was made, and was set right before it started again."""
    home.clock = ManualClock(START + timedelta(days=30))
    before = await home.open()
    future = certificates(before.bundle)
    home.clock = ManualClock(START)
    running = await home.open()
    verify(running.bundle, running.edge().chain, home.clock.now())
    assert certificates(running.bundle)[:-1] == future
    home.clock.advance(timedelta(days=31))
    again = await home.open()
    assert certificates(again.bundle) == certificates(running.bundle)
    verify(again.bundle, again.edge().chain, home.clock.now())


@given(st.lists(st.integers(-400, 400), min_size=1, max_size=5), st.integers(0, 10))
def test_a_valid_root_always_signs(days: list[int], hour: int) -> None:
    now = START + timedelta(hours=hour)
    ends = [now + timedelta(days=day, seconds=1) for day in days]
    index = issuing(ends, now)
    if index is None:
        assert all(end <= now for end in ends)
    else:
        assert ends[index] > now
        assert ends[index] - now > SWITCH or ends[index] == max(ends)


def test_the_next_root_is_made_in_time() -> None:
    assert announce([], START)
    assert not announce([START + ROOT_LIFE], START)
    assert announce([START + ANNOUNCE], START)
    assert not announce([START + ANNOUNCE, START + ROOT_LIFE], START)
    assert timedelta(days=30) <= pki.ANNOUNCE - pki.SWITCH
