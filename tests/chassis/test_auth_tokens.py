"""Access and transaction tokens: each claim and header broken once; keys learned within bounds."""

import asyncio
import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from tallystick.chassis.auth.jose import Jwk, Refused, public_key
from tallystick.chassis.auth.problems import IdentityUnavailable
from tallystick.chassis.auth.tokens import KeySet, KeyUnknown, Verified, VerifiedTokens, access_token, transaction_token
from tallystick.chassis.telemetry.logs import captured
from tallystick.kernel.problem import Upstream
from tests.support.tokens import NOW, PUBLIC_URL, TRUST_DOMAIN, Holder, Issuer, b64, named, sign

ISSUER = Issuer()
HOLDER = Holder()
KEYS = {"k1": public_key(Jwk(**ISSUER.jwk))}


def access(token: str) -> Verified:
    return access_token(token, KEYS, issuer=PUBLIC_URL, audience=PUBLIC_URL, now=time.time())


def transaction(token: str) -> Verified:
    return transaction_token(
        token, KEYS, issuer=PUBLIC_URL, trust_domain=TRUST_DOMAIN, caller="payments", now=time.time()
    )


def test_access_token() -> None:
    token = ISSUER.access(HOLDER, jti="t1", exp=int(time.time()) + 60)
    found = access(token)
    assert (found.kid, found.ids, found.jkt) == ("k1", ("t1",), HOLDER.jkt)
    who = found.subject
    assert (who.tenant, who.client_id, who.actor, who.caller, who.inner) == ("acme", "cli_one", "cli_one", "", False)
    assert who.scopes == {"payments:write", "payments:read"}
    assert who.expires_at.timestamp() == found.expires_at
    assert token not in repr(who)


def test_transaction_token() -> None:
    found = transaction(ISSUER.transaction(jti="t1", txn="a1", act={"sub": "svc_payments"}))
    assert found.ids == ("t1", "a1")
    who = found.subject
    assert (who.client_id, who.actor, who.caller, who.inner) == ("cli_one", "svc_payments", "payments", True)


@pytest.mark.parametrize(
    "change",
    [
        {"header": {"typ": None}},
        {"header": {"typ": "JWT"}},
        {"header": {"typ": "AT+JWT"}},
        {"header": {"typ": "txntoken+jwt"}},
        {"header": {"typ": "dpop+jwt"}},
        {"header": {"kid": None}},
        {"header": {"kid": ""}},
        {"header": {"kid": "k2"}},
        {"header": {"kid": "../k1"}},
        {"header": {"kid": 1}},
        {"header": {"crit": ["b64"], "b64": True}},
        {"iss": "https://elsewhere"},
        {"iss": PUBLIC_URL + "/"},
        {"iss": None},
        {"aud": "https://elsewhere"},
        {"aud": [PUBLIC_URL, "https://elsewhere"]},
        {"aud": TRUST_DOMAIN},
        {"aud": None},
        {"exp": NOW - 1},
        {"exp": None},
        {"exp": str(NOW + 100)},
        {"iat": NOW + 86400},
        {"iat": None},
        {"jti": None},
        {"jti": ""},
        {"jti": "x" * 300},
        {"tenant": None},
        {"tenant": ""},
        {"client_id": None},
        {"client_id": ""},
        {"sub": None},
        {"cnf": None},
        {"cnf": {}},
        {"cnf": {"jkt": ""}},
        {"cnf": {"x5t": HOLDER.jkt}},
        {"cnf": {"jkt": HOLDER.jkt, "x5t#S256": HOLDER.jkt}},
        {"scope": ["payments:write"]},
        {"pad": "x" * 4096},
        {"key": ECKey.generate_key("P-256")},
    ],
    ids=named,
)
def test_bad_access_tokens(change: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        access(ISSUER.access(HOLDER, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"header": {"typ": "at+jwt"}},
        {"aud": PUBLIC_URL},
        {"aud": "other.test"},
        {"iss": "https://elsewhere"},
        {"exp": NOW - 1},
        {"txn": None},
        {"sub": None},
        {"tenant": None},
        {"act": {"sub": ""}},
        {"act": "svc_payments"},
        {"header": {"kid": "k2"}},
    ],
    ids=named,
)
def test_bad_transaction_tokens(change: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        transaction(ISSUER.transaction(**change))


def test_one_kind_is_never_taken_for_the_other() -> None:
    with pytest.raises(Refused):
        access(ISSUER.transaction())
    with pytest.raises(Refused):
        transaction(ISSUER.access(HOLDER))
    with pytest.raises(Refused):
        access(HOLDER.proof(None))


def test_other_algorithms() -> None:
    token = ISSUER.access(HOLDER)
    _, body, _ = token.split(".")
    payload = base64.urlsafe_b64decode(body + "==")
    for alg, key in (
        ("RS256", RSAKey.generate_key(2048)),
        ("PS256", RSAKey.generate_key(2048)),
        ("EdDSA", OKPKey.generate_key("Ed25519")),
        ("HS256", OctKey.import_key(json.dumps(ISSUER.jwk))),
        ("HS256", OctKey.import_key(b64(ISSUER.key.as_pem(private=False)))),
    ):
        for header in ({}, {"jwk": ISSUER.jwk}, {"jku": "https://elsewhere/jwks"}):
            with pytest.raises(Refused):
                access(sign({"typ": "at+jwt", "alg": alg, "kid": "k1", **header}, payload, key))
    for alg in ("none", "HS256", "RS256", "es256", ""):  # signed well, by our own key, under another name
        with pytest.raises(Refused):
            access(sign({"typ": "at+jwt", "alg": alg, "kid": "k1"}, payload, ISSUER.key, "ES256"))
    access(sign({"typ": "at+jwt", "alg": "ES256", "kid": "k1"}, payload, ISSUER.key))
    none = b64(json.dumps({"typ": "at+jwt", "alg": "none", "kid": "k1"}).encode())
    for forged in (f"{none}.{body}.", f"{none}.{body}.{b64(bytes(64))}"):
        with pytest.raises(Refused):
            access(forged)


def test_every_changed_character_is_noticed() -> None:
    token = ISSUER.access(HOLDER)
    for place in range(0, len(token) - 1, 7):  # the very last character may have bits that nobody reads
        other = "A" if token[place] != "A" else "B"
        if token[place] != ".":
            with pytest.raises(Refused):
                access(token[:place] + other + token[place + 1 :])


@given(st.text(max_size=100), st.sampled_from(["", ".", "..", "a.b.", "a.b.c.d"]))
def test_any_text(text: str, shape: str) -> None:
    for token in (text, shape, text + shape):
        with pytest.raises(Refused):
            access(token)


def test_verified_tokens_are_bounded() -> None:
    tokens = VerifiedTokens(remembered=2)
    verified = access(ISSUER.access(HOLDER))
    for name in (b"a", b"b"):
        tokens.put(name, verified)
    assert tokens.get(b"a") is verified
    tokens.put(b"c", verified)
    assert tokens.get(b"b") is None
    assert tokens.get(b"a") is verified
    assert tokens.get(b"a", "payments") is None
    tokens.drop(b"a")
    assert tokens.get(b"a") is None


# ---- keys ------------------------------------------------------------------------------------------------------------


class Source:
    def __init__(self) -> None:
        self.issuers = [Issuer("k1")]
        self.fetched = 0
        self.down = False
        self.extra: list[dict[str, Any]] = []

    async def fetch(self) -> list[Jwk]:
        self.fetched += 1
        await asyncio.sleep(0.01)
        if self.down:
            raise Upstream("down")
        members = Jwk.__struct_fields__
        listed = [issuer.jwk for issuer in self.issuers] + self.extra
        return [Jwk(**{name: value for name, value in jwk.items() if name in members}) for jwk in listed]


async def test_an_unknown_key_is_asked_for_once_by_all() -> None:
    source = Source()
    keys = KeySet(source.fetch)
    await asyncio.gather(*(keys.learn("k1") for _ in range(50)))
    assert source.fetched == 1
    assert set(keys.keys) == {"k1"}


async def test_who_comes_while_the_keys_are_fetched_waits_for_them() -> None:
    """With keys at hand too: after a key was retired at once, the first tokens by the next one come together."""
    source, now = Source(), [0.0]
    keys = KeySet(source.fetch, monotonic=lambda: now[0])
    await keys.refresh()
    source.issuers = [Issuer("k2")]
    now[0] = 10.0
    first = asyncio.create_task(keys.learn("k2"))
    await asyncio.sleep(0.001)
    await asyncio.gather(first, *(keys.learn("k2") for _ in range(4)))
    assert source.fetched == 2


async def test_a_key_that_is_younger_than_the_fetch_under_way_is_asked_for_again() -> None:
    source, now = Source(), [10.0]
    keys = KeySet(source.fetch, monotonic=lambda: now[0])
    await keys.refresh()
    now[0] = 20.0
    refreshing = asyncio.create_task(keys.refresh())
    await asyncio.sleep(0.001)
    with pytest.raises(KeyUnknown):
        await keys.learn("k2")
    await refreshing
    source.issuers.append(Issuer("k2"))
    now[0] = 21.0
    await keys.learn("k2")


async def test_a_made_up_key_is_not_asked_for_again_for_half_a_minute() -> None:
    source, now = Source(), [0.0]
    keys = KeySet(source.fetch, monotonic=lambda: now[0])
    await keys.refresh()
    now[0] = 10.0
    for _ in range(5):
        now[0] += 2
        with pytest.raises(KeyUnknown):
            await keys.learn("made-up")
    assert source.fetched == 2
    now[0] += 31
    with pytest.raises(KeyUnknown):
        await keys.learn("made-up")
    assert source.fetched == 3


async def test_many_made_up_keys_are_one_question_a_second() -> None:
    source, now = Source(), [0.0]
    keys = KeySet(source.fetch, monotonic=lambda: now[0])
    for number in range(2000):
        now[0] = number / 100
        with pytest.raises(KeyUnknown):
            await keys.learn(f"made-up-{number}")
    assert source.fetched <= 21
    assert len(keys._unknown) <= 1024


async def test_a_new_key_is_learned_although_it_was_asked_for_too_early() -> None:
    source, now = Source(), [0.0]
    keys = KeySet(source.fetch, monotonic=lambda: now[0])
    await keys.refresh()
    now[0] = 2
    with pytest.raises(KeyUnknown):
        await keys.learn("k2")
    source.issuers.append(Issuer("k2"))
    now[0] = 4
    with pytest.raises(KeyUnknown):
        await keys.learn("another")  # whoever asks brings all the keys
    assert "k2" in keys.keys
    await keys.refresh()
    assert "k2" not in keys._unknown


async def test_without_identity_known_keys_stay_and_none_is_503() -> None:
    source = Source()
    source.down = True
    keys = KeySet(source.fetch)
    with pytest.raises(IdentityUnavailable):
        await keys.learn("k1")
    source.down = False
    await keys.refresh()
    source.down = True
    with pytest.raises(IdentityUnavailable):
        await keys.refresh()
    assert set(keys.keys) == {"k1"}
    keys._asked_at = float("-inf")
    with pytest.raises(KeyUnknown):
        await keys.learn("k2")


async def test_a_retired_key_goes() -> None:
    source = Source()
    keys = KeySet(source.fetch)
    await keys.refresh()
    source.issuers = [Issuer("k2")]
    await keys.refresh()
    assert set(keys.keys) == {"k2"}


async def test_keys_of_other_kinds_are_left_out() -> None:
    source = Source()
    good = ECKey.generate_key("P-256").as_dict(private=True)
    source.extra = [
        {**RSAKey.generate_key(2048).as_dict(private=False), "kid": "rsa"},
        {**good, "kid": "private"},
        {**ISSUER.jwk, "kid": "enc", "use": "enc"},
        {**ISSUER.jwk, "kid": "alg", "alg": "ES384"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "broken"},
    ]
    keys = KeySet(source.fetch)
    with captured() as lines:
        await keys.refresh()
    assert set(keys.keys) == {"k1"}
    assert {line["kid"] for line in lines} == {"private", "broken"}
