"""The rules, without I/O: forms, scopes, keys of clients, assertions, tokens, the life of signing keys, failures."""

from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.contracts.identity.messages import MONEY_SCOPES, SCOPES, PublicJwk, PublicJwks
from tallystick.contracts.identity.problems import InvalidClientKey, InvalidScope
from tallystick.kernel import ids
from tallystick.services.identity.model import assertions, scopes, tokens
from tallystick.services.identity.model.clients import Client, ClientKey, client_keys
from tallystick.services.identity.model.failures import MAX_COUNTERS, FailureCounts, FailureLimit
from tallystick.services.identity.model.forms import parse_form
from tallystick.services.identity.model.refusals import AuthenticationFailed, Refusal
from tallystick.services.identity.model.revocations import LONGEST_LIFE, revoked_client, revoked_everything
from tallystick.services.identity.model.signing import Create, Key, Move, Rotation, created, plan

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
ISSUER = "https://id.example"
FORM = "application/x-www-form-urlencoded"
P256 = {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "B" * 43, "kid": "k1"}


# ---- forms


@given(
    st.dictionaries(
        st.text(string.ascii_letters + "_ é€", min_size=1, max_size=20),
        st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=50),
        max_size=10,
    )
)
def test_a_form_reads_back(form: dict[str, str]) -> None:
    assert parse_form(FORM, urlencode(form).encode()) == form


@given(st.binary(max_size=200))
def test_a_form_is_read_or_refused(body: bytes) -> None:
    try:
        form = parse_form(FORM, body)
    except Refusal as refusal:
        assert refusal.code == "invalid_request"
    else:
        assert all(name and value for name, value in form.items())


@pytest.mark.parametrize(
    "body",
    [
        b"scope=a&scope=b",
        b"scope=a&scope=",
        b"scope=a&%73cope=b",
        b"a=%zz",
        b"a=%",
        b"a=b\n",
        b"a=%0a",
        b"a=%00",
        b"a=%ff",
        b"=b",
        b"&",
        b"a=1&&b=2",
        "a=é".encode(),
        b"a=" + b"b" * (16 * 1024),
        b"&".join(b"p%d=1" % i for i in range(33)),
        b"n" * 65 + b"=1",
    ],
)
def test_an_ambiguous_form_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal, match="invalid_request"):
        parse_form(FORM, body)


@pytest.mark.parametrize(
    "media", [None, "", "application/json", "multipart/form-data", FORM + "; charset=latin-1", FORM + "x"]
)
def test_another_media_type_is_refused(media: str | None) -> None:
    with pytest.raises(Refusal, match="invalid_request"):
        parse_form(media, b"a=1")


def test_a_parameter_without_value_counts_as_left_out() -> None:
    assert parse_form(FORM + "; charset=UTF-8", b"a=&b=1&c") == {"b": "1"}


# ---- scopes


def test_what_is_not_asked_for_is_what_is_registered() -> None:
    assert scopes.granted(None, ("accounts:read", "payments:write")) == ("accounts:read", "payments:write")


@given(st.sets(st.sampled_from(sorted(SCOPES)), min_size=1), st.sets(st.sampled_from(sorted(SCOPES)), min_size=1))
def test_a_token_never_has_more_than_the_registration(asked: set[str], registered: set[str]) -> None:
    registration = scopes.registered(" ".join(registered))
    try:
        granted = scopes.granted(" ".join(asked), registration)
    except Refusal as refusal:
        assert refusal.code == "invalid_scope"
        assert not asked <= registered
    else:
        assert set(granted) == asked <= registered


@pytest.mark.parametrize("text", [" ", "accounts:read  payments:read", " accounts:read", "a\tb", 'a"b', "a\\b", ""])
def test_bad_scope_syntax(text: str) -> None:
    with pytest.raises(Refusal, match="invalid_scope"):
        scopes.granted(text, ("accounts:read",))
    with pytest.raises(InvalidScope):
        scopes.registered(text)


def test_unknown_and_doubled_scopes_are_not_registered() -> None:
    with pytest.raises(InvalidScope):
        scopes.registered("admin")
    with pytest.raises(InvalidScope):
        scopes.registered("accounts:read accounts:read")


@pytest.mark.parametrize("scope", sorted(SCOPES))
def test_money_lives_shorter(scope: str) -> None:
    expected = 120 if scope in MONEY_SCOPES else 300
    assert scopes.token_life((scope, "audit:read")) == timedelta(seconds=expected)


# ---- keys of clients


def jwk(**members: Any) -> PublicJwk:
    return msgspec.convert({**P256, **members}, PublicJwk)


def test_a_key_is_for_its_own_algorithms() -> None:
    ec, rsa, ed = client_keys(
        [
            jwk(),
            msgspec.convert({"kty": "RSA", "n": "AQ", "e": "AQAB", "kid": "k2", "use": "sig"}, PublicJwk),
            msgspec.convert({"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "kid": "k3", "alg": "EdDSA"}, PublicJwk),
        ]
    )
    assert (ec.algorithms, rsa.algorithms, ed.algorithms) == (("ES256",), ("PS256",), ("EdDSA", "Ed25519"))


@pytest.mark.parametrize(
    "members",
    [
        {"kty": "RSA", "crv": None, "x": None, "y": None},
        {"y": None},
        {"alg": "PS256"},
        {"n": "AQAB"},
        {"crv": "Ed25519"},
        {"crv": None},
    ],
)
def test_keys_that_do_not_fit_together(members: dict[str, Any]) -> None:
    with pytest.raises(InvalidClientKey):
        client_keys([jwk(**members)])


def test_two_keys_of_one_name() -> None:
    with pytest.raises(InvalidClientKey):
        client_keys([jwk(), jwk(x="C" * 43)])


@pytest.mark.parametrize("value", ["AQAB", "", [], {}])
@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_a_private_key_can_not_be_said(member: str, value: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match=rf"keys\[0\]\.{member}`"):
        msgspec.convert({"keys": [{**P256, member: value}]}, PublicJwks)


def test_other_members_are_ignored() -> None:
    """Those of an export by WebCrypto, those of certificates, and any other (RFC 7517, 4)."""
    more = {"ext": True, "key_ops": ["verify"], "x5t#S256": "A" * 43, "x5c": ["AQAB"], "iat": 1, "vendor": {"a": [1]}}
    assert client_keys([jwk(**more)]) == client_keys([jwk()])


def client(*keys: ClientKey) -> Client:
    return Client(ids.clients.new(), "acme", "shop", ("payments:write",), keys, NOW)


def test_a_signature_names_its_key() -> None:
    one, two = ClientKey("1", {}, ("ES256",)), ClientKey("2", {}, ("ES256",))
    assert client(one, two).key_for("2", "ES256") is two
    assert client(one, two).key_for(None, "ES256") is None
    assert client(one).key_for(None, "ES256") is one
    assert client(one).key_for("1", "PS256") is None
    assert client(one).key_for("3", "ES256") is None


# ---- assertions

GOOD: dict[str, Any] = {
    "iss": "cli_a",
    "sub": "cli_a",
    "aud": ISSUER,
    "jti": "j",
    "iat": NOW.timestamp(),
    "exp": NOW.timestamp() + 60,
}


def check(**claims: Any) -> assertions.Assertion:
    merged = {name: value for name, value in (GOOD | claims).items() if value is not None}
    return assertions.check_claims(merged, "cli_a", issuer=ISSUER, now=NOW)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"iat": None},
        {"nbf": NOW.timestamp()},
        {"iat": NOW.timestamp() + 10},  # FAPI 2.0: 0 to 10 s ahead are accepted
        {"nbf": NOW.timestamp() + 8},
        {"exp": NOW.timestamp() + 0.5},
        {"exp": NOW.timestamp() + 600},
        {"iat": NOW.timestamp() - 590},
        {"unknown": {"a": [1]}},
    ],
)
def test_good_assertions(claims: dict[str, Any]) -> None:
    assert check(**claims).jti == "j"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": [ISSUER]}, "audience"),
        ({"aud": [ISSUER, "https://other.example"]}, "audience"),
        ({"aud": ISSUER + "/oauth2/token"}, "audience"),
        ({"aud": ISSUER + "/"}, "audience"),
        ({"aud": "https://other.example"}, "audience"),
        ({"aud": None}, "audience"),
        ({"exp": NOW.timestamp()}, "expired"),
        ({"exp": NOW.timestamp() - 300}, "expired"),
        ({"exp": None}, "expired"),
        ({"exp": NOW.timestamp() + 3600}, "lasts-too-long"),
        ({"exp": "soon"}, "time"),
        ({"exp": True}, "time"),
        ({"exp": float("inf")}, "time"),
        ({"exp": 10**30}, "time"),
        ({"iat": -1}, "time"),
        ({"iat": NOW.timestamp() + 61}, "from-the-future"),
        ({"nbf": NOW.timestamp() + 61}, "from-the-future"),
        ({"iat": NOW.timestamp() - 700}, "too-old"),
        ({"jti": None}, "jti"),
        ({"jti": ""}, "jti"),
        ({"jti": 7}, "jti"),
        ({"jti": "j" * 257}, "jti"),
    ],
)
def test_bad_assertions(claims: dict[str, Any], reason: str) -> None:
    with pytest.raises(AuthenticationFailed) as caught:
        check(**claims)
    assert caught.value.reason == reason
    assert (caught.value.code, caught.value.status) == ("invalid_client", 401)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "RS256"},
        {"alg": "ES384"},
        {"alg": None},
        {"alg": ["ES256"]},
        {},
        {"alg": "ES256", "typ": "at+jwt"},
        {"alg": "ES256", "typ": "dpop+jwt"},
        {"alg": "ES256", "typ": 1},
        {"alg": "ES256", "kid": 5},
        {"alg": "ES256", "kid": ""},
        {"alg": "ES256", "crit": ["exp"]},
        {"alg": "ES256", "b64": False},
    ],
)
def test_bad_headers(header: dict[str, Any]) -> None:
    with pytest.raises(AuthenticationFailed):
        assertions.check_header(header)


@pytest.mark.parametrize("typ", [None, "JWT", "client-authentication+jwt", "application/client-authentication+jwt"])
@pytest.mark.parametrize("alg", ["ES256", "PS256", "EdDSA", "Ed25519"])
def test_good_headers(typ: str | None, alg: str) -> None:
    assert assertions.check_header({"alg": alg, "typ": typ, "kid": "1"} if typ else {"alg": alg, "kid": "1"}) == (
        alg,
        "1",
    )


@pytest.mark.parametrize(
    ("claims", "client_id"),
    [
        ({"iss": "a", "sub": "b"}, None),
        ({"sub": "a"}, None),
        ({"iss": "a"}, None),
        ({"iss": "a", "sub": "a"}, "b"),
        ({"iss": 1, "sub": 1}, None),
    ],
)
def test_contradictions_about_who_asks(claims: dict[str, Any], client_id: str | None) -> None:
    with pytest.raises(AuthenticationFailed):
        assertions.claimed_client(claims, client_id)


# ---- tokens


BOUND = tokens.Binding("jkt", "T" * 43)


def access(life: int = 120, jti: str = "t1") -> tokens.AccessToken:
    claims = tokens.access_claims(
        client(), ("payments:write",), issuer=ISSUER, audience=ISSUER, jti=jti, bound_to=BOUND, now=NOW
    )
    assert claims["exp"] - claims["iat"] == 120
    read = tokens.read_access_claims(
        claims | {"exp": claims["iat"] + life}, "k", issuer=ISSUER, audience=ISSUER, now=NOW
    )
    assert read is not None
    return read


@given(st.integers(1, 300))
def test_a_transaction_token_never_outlives_its_access_token(life: int) -> None:
    token = access(life)
    claims = tokens.transaction_claims(token, "ledger", issuer=ISSUER, trust_domain="td", jti="x", now=NOW)
    assert claims["exp"] <= token.expires_at.timestamp()
    assert claims["exp"] - claims["iat"] <= 120
    assert claims["txn"] == token.jti
    assert claims["scope"] == "payments:write"
    assert claims["aud"] == "td"


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://other.example"},
        {"aud": "https://other.example"},
        {"aud": [ISSUER]},
        {"exp": int(NOW.timestamp())},
        {"exp": None},
        {"iat": True},
        {"tenant": None},
        {"jti": 5},
        {"scope": None},
    ],
)
def test_claims_that_are_no_access_token(change: dict[str, Any]) -> None:
    claims = dict(access().claims) | change
    assert tokens.read_access_claims(claims, "k", issuer=ISSUER, audience=ISSUER, now=NOW) is None


# ---- signing keys

ROTATION = Rotation(life=timedelta(days=7), publish_ahead=timedelta(minutes=20), keep=timedelta(minutes=15))


def carry_out(keys: list[Key], now: datetime) -> list[Key]:
    """What the service does with a plan, on a list."""
    by_kid = {key.kid: key for key in keys}
    for step in plan(keys, now, ROTATION):
        if isinstance(step, Create):
            kid = f"{step.purpose}-{len(by_kid)}-{now.timestamp()}"
            by_kid[kid] = created(kid, step, {}, now)
        else:
            old = by_kid[step.kid]
            at = {"active": "activated_at", "retiring": "retiring_at", "retired": "retired_at"}[step.to]
            changed: dict[str, Any] = {name: getattr(old, name) for name in Key.__dataclass_fields__}
            by_kid[step.kid] = Key(**(changed | {"state": step.to, at: now}))
        actives = [key for key in by_kid.values() if key.state == "active"]
        assert len({key.purpose for key in actives}) == len(actives), "two active keys, even for a moment"
    return list(by_kid.values())


@given(st.lists(st.integers(1, 60 * 24 * 9), max_size=40))
def test_whenever_it_is_run_the_keys_stay_in_order(minutes: list[int]) -> None:
    now, keys = NOW, carry_out([], NOW)
    for step in minutes:
        now += timedelta(minutes=step)
        keys = carry_out(keys, now)
        assert plan(keys, now, ROTATION) == [], "doing it again does nothing"
        for purpose in ("access", "transaction"):
            mine = [key for key in keys if key.purpose == purpose]
            assert [key.state for key in mine].count("active") == 1
            assert [key.state for key in mine].count("pending") <= 1
            for key in mine:
                if key.activated_at and key.activated_at != key.created_at:
                    assert key.activated_at - key.created_at >= ROTATION.publish_ahead
                if key.retired_at:
                    assert key.retiring_at is not None
                    assert key.retired_at - key.retiring_at >= ROTATION.keep


def test_a_life_of_a_key() -> None:
    keys = carry_out([], NOW)
    first = next(key for key in keys if key.purpose == "access")
    assert first.state == "active"
    assert plan(keys, NOW + timedelta(days=6, hours=23, minutes=39), ROTATION) == []
    due = NOW + timedelta(days=6, hours=23, minutes=40)
    assert Create("access", "pending") in plan(keys, due, ROTATION)
    keys = carry_out(keys, due)
    assert plan(keys, due + timedelta(minutes=19), ROTATION) == []
    turn = due + timedelta(minutes=20)
    assert Move(first.kid, "access", "retiring") in plan(keys, turn, ROTATION)
    keys = carry_out(keys, turn)
    assert next(key for key in keys if key.kid == first.kid).published
    keys = carry_out(keys, turn + timedelta(minutes=15))
    assert next(key for key in keys if key.kid == first.kid).state == "retired"


def test_keys_are_kept_as_long_as_their_tokens_live() -> None:
    assert Rotation().keep >= LONGEST_LIFE - timedelta(seconds=60)


# ---- revocations, failures


def test_a_revocation_is_remembered_as_long_as_a_token_can_live() -> None:
    assert revoked_client("cli_a", NOW).until - NOW >= timedelta(seconds=300 + 120)
    everything = revoked_everything(NOW)
    assert int(everything.id) > NOW.timestamp()


def test_failures_are_counted_by_minute_client_and_reason() -> None:
    counts = FailureCounts()
    counts.add("cli_a", "signature", NOW)
    counts.add("cli_a", "signature", NOW + timedelta(seconds=59))
    counts.add("cli_a", "expired", NOW)
    counts.add(None, "unknown", NOW)
    counts.add("cli_a", "signature", NOW + timedelta(seconds=60))
    finished = counts.take(NOW + timedelta(seconds=61))
    assert {(each.client, each.minute): each.reasons for each in finished} == {
        ("cli_a", NOW): {"signature": 2, "expired": 1},
        (None, NOW): {"unknown": 1},
    }
    assert counts.take(NOW + timedelta(seconds=61)) == []
    counts.put_back(finished)
    assert sum(sum(each.reasons.values()) for each in counts.take()) == 5


def test_failure_counts_are_bounded() -> None:
    counts = FailureCounts()
    for number in range(3 * MAX_COUNTERS):
        counts.add(f"cli_{number}", "signature", NOW)
    taken = counts.take()
    assert len(taken) <= MAX_COUNTERS + 1
    assert sum(sum(each.reasons.values()) for each in taken) == 3 * MAX_COUNTERS


def test_who_fails_too_often_waits_and_nobody_else() -> None:
    limit = FailureLimit(burst=3, per_second=0.5)
    for _ in range(3):
        assert limit.wait("192.0.2.1", NOW) == 0
        limit.failed("192.0.2.1", NOW)
    assert limit.wait("192.0.2.1", NOW) == 2.0
    assert limit.wait("192.0.2.2", NOW) == 0
    assert limit.wait("192.0.2.1", NOW + timedelta(seconds=2)) == 0
    for _ in range(1000):  # an attacker that goes on does not have to be waited out for longer
        limit.failed("192.0.2.1", NOW)
    assert limit.wait("192.0.2.1", NOW) <= 2.0


def test_a_clock_that_is_set_back_locks_nobody_out() -> None:
    """One failure, and the address waited for as long as the clock had been set back by."""
    limit = FailureLimit(burst=3, per_second=0.5)
    limit.failed("192.0.2.1", NOW)
    for _ in range(3):
        limit.failed("192.0.2.2", NOW)
    before = NOW - timedelta(hours=1)
    assert limit.wait("192.0.2.1", before) == 0
    assert limit.wait("192.0.2.2", before) == 2.0
    assert limit.wait("192.0.2.2", before + timedelta(seconds=2)) == 0


def test_the_limit_forgets_the_oldest_address() -> None:
    limit = FailureLimit(burst=1, kept=2)
    for source in ("a", "b", "c"):
        limit.failed(source, NOW)
    assert limit.wait("a", NOW) == 0
    assert limit.wait("c", NOW) > 0
