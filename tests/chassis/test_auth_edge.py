"""Authentication as a service has it: real keys, identity's endpoints behind a Unix socket, a real Valkey and a real bus."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats
import pytest
import valkey.asyncio

from tallystick.chassis.auth import (
    Authenticator,
    CredentialsRefused,
    IdentityUnavailable,
    MeshIdentity,
    ProofStore,
    ReplayCheckUnavailable,
    RevocationFeed,
    RevocationFeedStale,
    Subject,
    revocation,
)
from tallystick.chassis.bus import REVOCATIONS
from tallystick.chassis.call import Client
from tallystick.chassis.deadline import Deadline
from tallystick.chassis.telemetry.logs import captured
from tallystick.kernel.clock import ManualClock
from tallystick.kernel.problem import DeadlineExceeded, Forbidden, Upstream
from tests.support.parts import NatsServer
from tests.support.tokens import MTLS_URL, PUBLIC_URL, TRUST_DOMAIN, Holder, IdentityServer, Issuer, authorization

PATH = "/v1/payments"


class World:
    """One service's authentication and what it stands on. Time is the real one, moved by `later`."""

    def __init__(self, directory: Path, store: valkey.asyncio.Valkey) -> None:
        self.issuer = Issuer()
        self.holder = Holder()
        self.server = IdentityServer(directory / "identity.sock", self.issuer)
        self.client = Client(self.server.socket, "identity", timeout=30.0, retries=1)
        self.clock = ManualClock(datetime.now(UTC))
        self.elapsed = 0.0
        mesh = MeshIdentity(self.client)
        self.feed = RevocationFeed(mesh.revocations, monotonic=lambda: time.monotonic() + self.elapsed)
        self.auth = Authenticator(
            public_url=PUBLIC_URL,
            mtls_url=MTLS_URL,
            trust_domain=TRUST_DOMAIN,
            identity=mesh,
            proofs=ProofStore(store, "payments"),
            feed=self.feed,
            clock=self.clock,
        )

    def later(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))
        self.elapsed += seconds

    async def ask(self, headers: list[tuple[bytes, bytes]], *, strict: bool = True, method: str = "POST") -> Subject:
        return await self.auth.edge(method, PATH, headers, strict=strict)

    async def refused(
        self, headers: list[tuple[bytes, bytes]], error: str | None, **options: Any
    ) -> CredentialsRefused:
        with pytest.raises(CredentialsRefused) as caught:
            await self.ask(headers, **options)
        challenge = caught.value.headers["WWW-Authenticate"]
        assert challenge.startswith("DPoP ")
        assert 'algs="ES256 PS256 EdDSA Ed25519"' in challenge
        assert (f'error="{error}"' in challenge) if error else ("error=" not in challenge)
        assert caught.value.status == 401
        return caught.value


@asynccontextmanager
async def opened(directory: Path, valkey: valkey.asyncio.Valkey) -> AsyncIterator[World]:
    made = World(directory, valkey)
    await made.server.start()
    await made.feed.fetch()
    yield made
    await made.client.close()
    await made.server.stop()


@pytest.fixture
async def world(directory: Path, valkey: valkey.asyncio.Valkey) -> AsyncIterator[World]:
    async with opened(directory, valkey) as made:
        yield made


async def test_a_good_request(world: World) -> None:
    token = world.issuer.access(world.holder)
    for _ in range(3):
        subject = await world.ask(world.holder.headers(token))
        assert (subject.client_id, subject.tenant) == ("cli_one", "acme")
    assert world.server.count("/internal/jwks") == 1


async def test_scheme_is_case_insensitive(world: World) -> None:
    token = world.issuer.access(world.holder)
    await world.ask(authorization(token, world.holder.proof(token), scheme="dpop"))


@pytest.mark.parametrize("alg", ["PS256", "EdDSA"])
async def test_proofs_of_other_algorithms(world: World, alg: str) -> None:
    from joserfc.jwk import OKPKey, RSAKey

    holder = Holder(RSAKey.generate_key(2048) if alg == "PS256" else OKPKey.generate_key("Ed25519"), alg)
    await world.ask(holder.headers(world.issuer.access(holder)))


async def test_no_credentials_at_all_get_no_error_code(world: World) -> None:
    problem = await world.refused([(b"host", b"x")], None)
    assert problem.extensions["error"] == "missing_token"


async def test_bearer_and_other_schemes(world: World) -> None:
    token = world.issuer.access(world.holder)
    # a scheme that is not taken is as good as no credential at all (RFC 6750 section 3.1)
    for scheme, error in (("Bearer", "invalid_token"), ("bearer", "invalid_token"), ("Basic", None), ("", None)):
        await world.refused(authorization(token, world.holder.proof(token), scheme=scheme), error)
        await world.refused(authorization(token, scheme=scheme), error)


async def test_two_authorization_headers(world: World) -> None:
    token = world.issuer.access(world.holder)
    headers = world.holder.headers(token)
    proof, scheme = dict(headers)[b"dpop"], dict(headers)[b"authorization"]
    one, joined = (b"authorization", scheme), (b"authorization", scheme + b", " + scheme)
    for twice in ([one, one, (b"dpop", proof)], [joined, (b"dpop", proof)]):
        assert "exactly one Authorization header" in (await world.refused(twice, "invalid_token")).detail


async def test_without_a_proof_and_with_two(world: World) -> None:
    token = world.issuer.access(world.holder)
    await world.refused(authorization(token), "invalid_dpop_proof")
    proof = world.holder.proof(token)
    await world.refused(authorization(token, proof, proof), "invalid_dpop_proof")
    await world.refused(authorization(token, proof, world.holder.proof(token)), "invalid_dpop_proof")
    joined = authorization(token, f"{proof}, {world.holder.proof(token)}")
    assert "exactly one DPoP header" in (await world.refused(joined, "invalid_dpop_proof")).detail
    await world.ask(authorization(token, proof))


@pytest.mark.parametrize(
    "change", [{"exp": 1}, {"aud": "https://elsewhere"}, {"cnf": None}, {"header": {"typ": "JWT"}}]
)
async def test_bad_tokens(world: World, change: dict[str, Any]) -> None:
    await world.refused(world.holder.headers(world.issuer.access(world.holder, **change)), "invalid_token")


async def test_unknown_key(world: World) -> None:
    await world.refused(world.holder.headers(Issuer("k9").access(world.holder)), "invalid_token")
    await world.refused(world.holder.headers(Issuer("k1").access(world.holder)), "invalid_token")


async def test_token_of_somebody_else(world: World) -> None:
    token = world.issuer.access(world.holder)
    await world.refused(Holder().headers(token), "invalid_dpop_proof")


@pytest.mark.parametrize(
    "change",
    [
        {"method": "GET"},
        {"url": PUBLIC_URL + "/v1/refunds"},
        {"url": "https://internal:8443/v1/payments"},
        {"ath": None},
        {"pad": "x" * 5000},
    ],
)
async def test_bad_proofs(world: World, change: dict[str, Any]) -> None:
    await world.refused(world.holder.headers(world.issuer.access(world.holder), **change), "invalid_dpop_proof")


@pytest.mark.parametrize("away", [-120, 120])
async def test_a_proof_of_another_time(world: World, away: int) -> None:
    """Of two minutes ago or to come, from when it is sent: the tests are collected long before."""
    made = int(time.time()) + away
    await world.refused(world.holder.headers(world.issuer.access(world.holder), iat=made), "invalid_dpop_proof")


async def test_proof_for_another_token_of_the_same_client(world: World) -> None:
    one, other = world.issuer.access(world.holder), world.issuer.access(world.holder)
    await world.refused(authorization(one, world.holder.proof(other)), "invalid_dpop_proof")


async def test_the_host_header_means_nothing(world: World) -> None:
    token = world.issuer.access(world.holder)
    evil = world.holder.headers(token, url="https://evil.example/v1/payments")
    await world.refused(
        [(b"host", b"evil.example"), (b"x-forwarded-host", b"evil.example"), *evil], "invalid_dpop_proof"
    )


async def test_replay(world: World) -> None:
    headers = world.holder.headers(world.issuer.access(world.holder))
    await world.ask(headers)
    await world.refused(headers, "invalid_dpop_proof")
    await world.refused(headers, "invalid_dpop_proof", strict=False)


async def test_replay_race_of_200(world: World) -> None:
    headers = world.holder.headers(world.issuer.access(world.holder))
    results = await asyncio.gather(*(world.ask(headers) for _ in range(200)), return_exceptions=True)
    assert sum(isinstance(each, Subject) for each in results) == 1
    assert sum(isinstance(each, CredentialsRefused) for each in results) == 199


async def test_a_refused_proof_leaves_nothing_in_the_store(world: World, valkey: valkey.asyncio.Valkey) -> None:
    token = world.issuer.access(world.holder)
    await world.refused(Holder().headers(token), "invalid_dpop_proof")
    await world.refused(world.holder.headers(token, method="GET"), "invalid_dpop_proof")
    assert await valkey.dbsize() == 0


async def test_a_known_token_expires(world: World) -> None:
    token = world.issuer.access(world.holder, exp=int(time.time()) + 30)
    await world.ask(world.holder.headers(token))
    world.later(31)
    await world.feed.fetch()
    now = int(world.clock.now().timestamp())
    problem = await world.refused(world.holder.headers(token, iat=now), "invalid_token")
    assert "expired" in problem.detail


async def test_nothing_of_the_token_or_proof_is_told_or_logged(world: World) -> None:
    token = world.issuer.access(world.holder, aud="https://elsewhere")
    headers = world.holder.headers(token)
    with captured() as lines:
        problem = await world.refused(headers, "invalid_token")
    told = f"{problem.document()} {problem.context} {problem.headers} {lines}"
    assert not any(part in told for value in (token, headers[2][1].decode()) for part in value.split("."))


# ---- revocation ------------------------------------------------------------------------------------------------------


async def test_revoked_over_the_bus(world: World, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not by a list that was fetched because the bus was quiet."""
    import json

    monkeypatch.setattr(revocation, "QUIET_AFTER", float("inf"))
    monkeypatch.setattr(revocation, "STALE_AFTER", float("inf"))

    login = {"user": nats_server.ADMIN, "password": nats_server.password().reveal()}
    bus = await nats.connect(nats_server.url, **login)

    async def received(message: Any) -> None:
        world.feed.receive(message.data)

    await bus.subscribe(REVOCATIONS, cb=received)
    running = asyncio.create_task(world.auth.run())
    try:
        doomed, spared = world.issuer.access(world.holder, jti="t1"), world.issuer.access(world.holder)
        await world.ask(world.holder.headers(doomed))
        entry = world.server.revoke("jti", "t1")
        await bus.publish(REVOCATIONS, json.dumps(entry).encode())
        await bus.flush()
        async with asyncio.timeout(60):
            while True:
                try:
                    await world.ask(world.holder.headers(doomed))
                except CredentialsRefused as refused:
                    assert "revoked" in refused.detail
                    break
        await world.ask(world.holder.headers(spared))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await bus.close()


@pytest.mark.parametrize(("kind", "name"), [("client", "cli_one"), ("kid", "k1"), ("all-before", "99999999999")])
async def test_each_kind_of_revocation(world: World, kind: str, name: str) -> None:
    token, inner = world.issuer.access(world.holder), world.issuer.transaction()
    await world.ask(world.holder.headers(token))
    await world.auth.transaction(inner, "payments")
    world.server.revoke(kind, name)
    await world.feed.fetch()
    await world.refused(world.holder.headers(token), "invalid_token")
    with pytest.raises(CredentialsRefused, match="revoked"):
        await world.auth.transaction(inner, "payments")


async def test_a_token_of_a_key_that_is_gone_is_refused_when_the_revocation_is_forgotten(world: World) -> None:
    """Whoever has stolen a key signs tokens that live longer than identity's, and than the revocation of the key."""
    end = int(time.time()) + 1_000_000
    token, inner = world.issuer.access(world.holder, exp=end), world.issuer.transaction(exp=end)
    await world.ask(world.holder.headers(token))
    await world.auth.transaction(inner, "payments")
    world.server.revoke("kid", "k1")["until"] = int(time.time()) - 61
    world.server.issuers = [Issuer("k2")]
    await world.feed.fetch()
    await world.auth._keys.refresh()
    await world.refused(world.holder.headers(token), "invalid_token")
    with pytest.raises(CredentialsRefused, match="a key that isn't known"):
        await world.auth.transaction(inner, "payments")


async def test_transaction_token_goes_with_its_access_token(world: World) -> None:
    inner = world.issuer.transaction(txn="t1")
    await world.auth.transaction(inner, "payments")
    world.server.revoke("jti", "t1")
    await world.feed.fetch()
    with pytest.raises(CredentialsRefused, match="revoked"):
        await world.auth.transaction(inner, "payments")


async def test_stale_feed_stops_writes_and_not_reads(world: World) -> None:
    token = world.issuer.access(world.holder)
    await world.ask(world.holder.headers(token))
    world.elapsed += 10.5
    with pytest.raises(RevocationFeedStale) as caught:
        await world.ask(world.holder.headers(token))
    assert (caught.value.status, caught.value.slug, caught.value.retryable) == (503, "revocation-feed-stale", True)
    await world.ask(world.holder.headers(token), strict=False)
    await world.feed.fetch()
    await world.ask(world.holder.headers(token))


async def test_before_the_first_list_nobody_is_let_in(directory: Path, valkey: valkey.asyncio.Valkey) -> None:
    world = World(directory, valkey)
    await world.server.start()
    token = world.issuer.access(world.holder)
    assert world.auth.ready is False
    with pytest.raises(IdentityUnavailable):
        await world.ask(world.holder.headers(token), strict=False)
    with pytest.raises(IdentityUnavailable):
        await world.auth.transaction(world.issuer.transaction(), "payments")
    await world.feed.fetch()
    await world.ask(world.holder.headers(token))
    await world.client.close()
    await world.server.stop()


async def test_identity_away_from_the_start(directory: Path, valkey: valkey.asyncio.Valkey) -> None:
    """The process starts, answers 503, and goes on when identity comes."""
    world = World(directory, valkey)
    with captured():
        running = asyncio.create_task(world.auth.run())
        await asyncio.sleep(0.05)
        with pytest.raises(IdentityUnavailable):
            await world.ask(world.holder.headers(world.issuer.access(world.holder)))
        await world.server.start()
        async with asyncio.timeout(60):
            while not world.auth.ready:
                await asyncio.sleep(0.05)
        await world.ask(world.holder.headers(world.issuer.access(world.holder)))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await world.client.close()
    await world.server.stop()


async def test_identity_away_later_changes_nothing_for_known_keys(world: World) -> None:
    await world.ask(world.holder.headers(world.issuer.access(world.holder)))
    world.server.down = True
    await world.ask(world.holder.headers(world.issuer.access(world.holder)))


async def test_rotated_key_is_learned(world: World) -> None:
    await world.ask(world.holder.headers(world.issuer.access(world.holder)))
    new = Issuer("k2")
    world.server.issuers.append(new)
    world.auth._keys._asked_at = float("-inf")
    await world.ask(world.holder.headers(new.access(world.holder)))


async def test_without_valkey_writes_stop(directory: Path) -> None:
    gone = valkey.asyncio.Valkey(unix_socket_path=str(directory / "none.sock"))
    world = World(directory, gone)
    await world.server.start()
    await world.feed.fetch()
    headers = world.holder.headers(world.issuer.access(world.holder))
    with captured():
        with pytest.raises(ReplayCheckUnavailable):
            await world.ask(headers)
        await world.ask(headers, strict=False)
        await world.refused(headers, "invalid_dpop_proof", strict=False)
    await gone.aclose()
    await world.client.close()
    await world.server.stop()


# ---- inside ----------------------------------------------------------------------------------------------------------


async def test_exchange_once_and_kept_until_shortly_before_its_end(world: World) -> None:
    subject = await world.ask(world.holder.headers(world.issuer.access(world.holder)))
    tokens = await asyncio.gather(*(world.auth.exchange(subject) for _ in range(50)))
    assert len(set(tokens)) == 1
    assert world.server.count("/internal/token-exchange") == 1
    assert subject.credential is not None
    assert world.server.asked == [{"access_token": subject.credential.reveal()}]
    world.later(48)
    assert await world.auth.exchange(subject) == tokens[0]
    world.later(3)
    assert await world.auth.exchange(subject) != tokens[0]


async def test_exchange_near_the_end_of_the_access_token_is_not_asked_for_again(world: World) -> None:
    """Identity gives no more than the access token has left, so asking once more would only be load."""
    world.server.expires_in = 5
    short = world.issuer.access(world.holder, exp=int(time.time()) + 5)
    subject = await world.ask(world.holder.headers(short))
    assert await world.auth.exchange(subject) == await world.auth.exchange(subject)
    subject = await world.ask(world.holder.headers(world.issuer.access(world.holder)))
    assert await world.auth.exchange(subject) != await world.auth.exchange(subject)


@pytest.mark.parametrize(("kind", "again"), [("kid", True), ("all-before", True), ("client", False), ("jti", False)])
async def test_what_is_kept_is_not_passed_on_when_its_key_or_its_time_was_taken_back(
    world: World, kind: str, again: bool
) -> None:
    subject = await world.ask(world.holder.headers(world.issuer.access(world.holder)))

    async def kept() -> tuple[str, str]:
        return await world.auth.exchange(subject), await world.auth.service_token("acme", "cli_two", "resume")

    before = await kept()
    world.server.revoke(kind, "1" if kind == "all-before" else "another")
    await world.feed.fetch()
    after = await kept()
    assert [one != other for one, other in zip(before, after, strict=True)] == [again, again]
    await world.feed.fetch()
    assert await kept() == after, "the same list again takes nothing back"


async def test_what_is_kept_is_not_passed_on_when_the_clock_was_set_back(world: World) -> None:
    """Nobody takes a token from the future, and it would have been passed on for as long as the clock was set back."""
    before = await world.auth.service_token("acme", "cli_two", "resume")
    world.clock._now -= timedelta(seconds=4)
    assert await world.auth.service_token("acme", "cli_two", "resume") == before, "clocks of machines differ by as much"
    world.clock._now -= timedelta(hours=1)
    after = await world.auth.service_token("acme", "cli_two", "resume")
    assert after != before
    assert await world.auth.service_token("acme", "cli_two", "resume") == after


async def test_inner_subject_passes_its_own_token_on(world: World) -> None:
    token = world.issuer.transaction()
    subject = await world.auth.transaction(token, "payments")
    assert await world.auth.exchange(subject) == token
    assert world.server.asked == []


async def test_exchange_refused_and_identity_away(world: World) -> None:
    subject = await world.ask(world.holder.headers(world.issuer.access(world.holder)))
    world.server.refuse = {"type": "https://tallystick.dev/problems/token-refused", "status": 401, "title": "x"}
    with pytest.raises(CredentialsRefused):
        await world.auth.exchange(subject)
    world.server.down = True
    with pytest.raises(Upstream):
        await world.auth.exchange(subject)
    world.server.refuse, world.server.down = None, False
    await world.auth.exchange(subject)


async def test_exchange_that_outlasts_the_request_is_a_late_answer(world: World) -> None:
    """And not a fault of ours: whoever asked may ask again."""
    subject = await world.ask(world.holder.headers(world.issuer.access(world.holder)))
    world.server.answers.clear()
    with Deadline.after(0.05).scope(), pytest.raises(DeadlineExceeded) as caught:
        await world.auth.exchange(subject)
    assert not caught.value.outcome_unknown
    with Deadline.after(0.05).scope(), pytest.raises(DeadlineExceeded):
        await world.auth.service_token("acme", "cli_one", "resume-payment")
    world.server.answers.set()
    assert await world.auth.exchange(subject)
    assert await world.auth.service_token("acme", "cli_one", "resume-payment")


async def test_service_token(world: World) -> None:
    one = await world.auth.service_token("acme", "cli_one", "resume-payment")
    assert await world.auth.service_token("acme", "cli_one", "resume-payment") == one
    assert await world.auth.service_token("other", "cli_one", "resume-payment") != one
    assert world.server.asked[0] == {"tenant": "acme", "subject": "cli_one", "purpose": "resume-payment"}
    assert world.server.count("/internal/service-tokens") == 2


async def test_transaction_token_belongs_to_the_caller_that_shows_it(world: World) -> None:
    token = world.issuer.transaction()
    for caller in ("payments", "risk", "payments"):
        assert (await world.auth.transaction(token, caller)).caller == caller


async def test_transaction_token_expires_and_oversize(world: World) -> None:
    token = world.issuer.transaction()
    await world.auth.transaction(token, "payments")
    world.later(61)
    with pytest.raises(CredentialsRefused, match="expired"):
        await world.auth.transaction(token, "payments")
    for bad in ("", "x" * 5000, "a.b.c", world.issuer.access(world.holder)):
        with pytest.raises(CredentialsRefused):
            await world.auth.transaction(bad, "payments")


def peer(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-tallystick-peer", value.encode()) for value in values]


async def test_peer(world: World) -> None:
    good = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/payments"
    assert world.auth.peer(peer(good)) == "payments"
    for bad in (
        [],
        peer(good, good),
        peer(f"{good},{good}"),
        peer(""),
        peer("payments"),
        peer(good.upper()),
        peer(good + "/x"),
        peer(good + "\n"),
        peer("spiffe://elsewhere/ns/default/sa/payments"),
        peer("spiffe://tallystickxtest/ns/default/sa/payments"),
        peer(f"spiffe://{TRUST_DOMAIN}/ns/default/sa/"),
        peer(f"spiffe://{TRUST_DOMAIN}/ns/a/ns/b/sa/payments"),
    ):
        with pytest.raises(Forbidden):
            world.auth.peer(bad)
