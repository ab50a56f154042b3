"""Proof of possession: every check of RFC 9449 section 4.3 broken once, and properties of the parsers."""

import base64
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from tallystick.chassis.auth import attributable, jose, statement
from tallystick.chassis.auth.dpop import ProofVerifier, normalised
from tallystick.chassis.auth.jose import (
    Jwk,
    Refused,
    attributable_key,
    decode,
    encode,
    parse,
    public_key,
    sha256,
    thumbprint,
)
from tests.support.tokens import NOW, PUBLIC_URL, Holder, PrimeKey, b64, named, sign

TOKEN = "a.b.c"
URL = PUBLIC_URL + "/v1/payments"
RSA = RSAKey.generate_key(2048)


def check(proof: str, holder: Holder, *, method: str = "POST", url: str = URL, now: float | None = None) -> None:
    found = ProofVerifier().verify(
        proof, method=method, url=url, now=now or time.time(), token_hash=sha256(TOKEN), jkt=holder.jkt
    )
    assert found.jkt == holder.jkt


@pytest.mark.parametrize(
    ("key", "alg"),
    [
        (ECKey.generate_key("P-256"), "ES256"),
        (RSA, "PS256"),
        (OKPKey.generate_key("Ed25519"), "EdDSA"),
        (OKPKey.generate_key("Ed25519"), "Ed25519"),
    ],
)
def test_good_proofs_of_each_algorithm(key: Any, alg: str) -> None:
    holder = Holder(key, alg)
    verifier = ProofVerifier()
    for _ in range(3):  # the first time with a new key, then with a remembered one
        proof = holder.proof(TOKEN, extra="members are ignored", header={"kid": "whatever"})
        found = verifier.verify(
            proof, method="POST", url=URL, now=time.time(), token_hash=sha256(TOKEN), jkt=holder.jkt
        )
        assert found.jkt == holder.jkt


def test_without_a_token_as_at_the_token_endpoint() -> None:
    holder = Holder()
    found = ProofVerifier().verify(holder.proof(None, jti="j1"), method="POST", url=URL, now=time.time())
    assert (found.jkt, found.jti) == (holder.jkt, "j1")


@pytest.mark.parametrize(
    "change",
    [
        {"header": {"typ": "JWT"}},
        {"header": {"typ": "at+jwt"}},
        {"header": {"typ": None}},
        {"header": {"jwk": None}},
        {"header": {"jwk": "a string"}},
        {"header": {"jwk": {}}},
        {"header": {"crit": ["exp"], "exp": 1}},
        {"header": {"crit": []}},
        {"header": {"alg": "ES384"}, "key": ECKey.generate_key("P-384")},
        {"method": "GET"},
        {"method": "post"},
        {"method": ""},
        {"url": PUBLIC_URL + "/v1/refunds"},
        {"url": PUBLIC_URL + "/v1/payments/"},
        {"url": PUBLIC_URL + "/V1/payments"},
        {"url": "https://elsewhere:8443/v1/payments"},
        {"url": "http://localhost:8443/v1/payments"},
        {"url": "https://localhost/v1/payments"},
        {"url": "https://user@localhost:8443/v1/payments"},
        {"url": "/v1/payments"},
        {"url": "https://localhost:99999/v1/payments"},
        {"url": "https://[::1/v1/payments"},
        {"url": ""},
        {"iat": None},
        {"iat": NOW - 3600},
        {"iat": NOW + 86400},
        {"iat": "1700000000"},
        {"iat": 10**30},
        {"iat": True},
        {"exp": 1},
        {"nbf": NOW + 86400},
        {"jti": None},
        {"jti": ""},
        {"jti": "x" * 257},
        {"jti": 5},
        {"htm": None},
        {"htu": None},
        {"ath": None},
        {"ath": ""},
        {"ath": b64(b"x" * 32)},
        {"ath": "ä"},
        {"ath": sha256(TOKEN).hex()},
        {"pad": "x" * 4096},
        {"key": ECKey.generate_key("P-256")},
    ],
    ids=named,
)
def test_bad_proofs(change: dict[str, Any]) -> None:
    holder = Holder()
    check(holder.proof(TOKEN), holder)
    with pytest.raises(Refused):
        check(holder.proof(TOKEN, **change), holder)


def test_age_to_the_second() -> None:
    holder, now = Holder(), int(time.time())
    for age in (60, 0, -10):
        check(holder.proof(TOKEN, iat=now - age), holder, now=now)
    for age in (61, -11):
        with pytest.raises(Refused, match=r"old|future"):
            check(holder.proof(TOKEN, iat=now - age), holder, now=now)


def test_algorithms_that_are_not_taken() -> None:
    holder = Holder()
    jwk = holder.key.as_dict(private=False)
    claims = {"jti": "1", "htm": "POST", "htu": URL, "iat": int(time.time()), "ath": b64(sha256(TOKEN))}
    shared = OctKey.import_key(b64(json.dumps(jwk).encode()))
    with pytest.raises(Refused):
        check(sign({"typ": "dpop+jwt", "alg": "HS256", "jwk": jwk}, claims, shared), holder)
    rs = Holder(RSA, "RS256")
    with pytest.raises(Refused, match="alg"):
        check(rs.proof(TOKEN), rs)
    none = (
        b64(json.dumps({"typ": "dpop+jwt", "alg": "none", "jwk": jwk}).encode())
        + "."
        + b64(json.dumps(claims).encode())
    )
    for signature in ("", b64(b"\0" * 64)):
        with pytest.raises(Refused):
            check(f"{none}.{signature}", holder)


def test_algorithm_must_fit_the_key() -> None:
    """A header that names another algorithm than the key's own kind."""
    for holder, alg in ((Holder(RSA, "PS256"), "ES256"), (Holder(), "PS256"), (Holder(), "EdDSA")):
        head, body, signature = holder.proof(TOKEN).split(".")
        header = json.loads(base64.urlsafe_b64decode(head + "=="))
        header["alg"] = alg
        with pytest.raises(Refused):
            check(f"{b64(json.dumps(header).encode())}.{body}.{signature}", holder)


@pytest.mark.parametrize("key", [ECKey.generate_key("P-256"), RSA, OKPKey.generate_key("Ed25519")])
def test_private_key_in_the_header(key: Any) -> None:
    holder = Holder(key, {"EC": "ES256", "RSA": "PS256", "OKP": "EdDSA"}[key.key_type])
    private = holder.key.as_dict(private=True)
    for member in set(private) - set(holder.key.as_dict(private=False)):
        jwk = {**holder.key.as_dict(private=False), member: private[member]}
        with pytest.raises(Refused, match="private"):
            check(holder.proof(TOKEN, header={"jwk": jwk}), holder)
    symmetric = {**holder.key.as_dict(private=False), "k": "AAAA"}
    with pytest.raises(Refused, match="private"):
        check(holder.proof(TOKEN, header={"jwk": symmetric}), holder)


def test_private_key_in_the_header_is_refused_for_a_remembered_key_too() -> None:
    holder, verifier = Holder(), ProofVerifier()
    for jwk, good in ((holder.key.as_dict(private=False), True), (holder.key.as_dict(private=True), False)):
        proof = holder.proof(TOKEN, header={"jwk": jwk})
        try:
            verifier.verify(proof, method="POST", url=URL, now=time.time(), token_hash=sha256(TOKEN), jkt=holder.jkt)
        except Refused:
            assert not good
        else:
            assert good


def test_padded_signature() -> None:
    """A longer way to write the same two numbers."""
    holder = Holder()
    head, body, signature = holder.proof(TOKEN).split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    for longer in (raw[:32] + b"\0" + raw[32:], b"\0" + raw, raw + b"\0"):
        with pytest.raises(Refused):
            check(f"{head}.{body}.{b64(longer)}", holder)


def test_proof_by_another_key_than_the_tokens() -> None:
    holder, thief = Holder(), Holder()
    with pytest.raises(Refused, match="another key"):
        check(thief.proof(TOKEN), holder)


def test_one_key_has_one_written_form() -> None:
    """Else a key would have several thumbprints, and a remembered key several names."""
    jwk = Holder().key.as_dict(private=False)
    x = str(jwk["x"])
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    padded = x[:-1] + last[last.index(x[-1]) ^ 1]
    assert base64.urlsafe_b64decode(padded + "=") == base64.urlsafe_b64decode(x + "=")
    for other in (padded, x + "=", x + "\n", "!" + x, b64(b"\0" + base64.urlsafe_b64decode(x + "="))):
        with pytest.raises(Refused):
            public_key(Jwk(kty="EC", crv="P-256", x=other, y=str(jwk["y"])))


@pytest.mark.parametrize(
    "jwk",
    [
        Jwk(kty="EC", crv="P-256", x=b64(b"\1" * 32), y=b64(b"\1" * 32)),  # not on the curve
        Jwk(kty="EC", crv="P-256", x=b64(b"\0" * 32), y=b64(b"\0" * 32)),
        Jwk(kty="EC", crv="P-384", x=b64(b"\1" * 48), y=b64(b"\1" * 48)),
        Jwk(kty="EC", crv="secp256k1", x=b64(b"\1" * 32), y=b64(b"\1" * 32)),
        Jwk(kty="OKP", crv="X25519", x=b64(b"\1" * 32)),
        Jwk(kty="OKP", crv="Ed25519", x=b64(b"\1" * 31)),
        Jwk(kty="oct"),
        Jwk(kty="RSA", n=b64(b"\xff" * 128), e="AQAB"),  # 1024 bits
        Jwk(kty="RSA", n=b64(b"\xff" * 1024), e="AQAB"),  # 8192 bits
        Jwk(kty="RSA", n=b64(b"\xff" * 256), e="Aw"),
        Jwk(kty="RSA", n=b64(b"\xff" * 256), e="AQ"),
        Jwk(kty="RSA", n=b64(b"\0" + b"\xff" * 256), e="AQAB"),
        Jwk(kty="RSA", n=b64(b"\xff" * 255 + b"\xfe"), e="AQAB"),  # even
        Jwk(kty="RSA", n="ä", e="AQAB"),
    ],
)
def test_keys_that_are_not_taken(jwk: Jwk) -> None:
    with pytest.raises(Refused):
        public_key(jwk)


P25519 = 2**255 - 19
SMALL_ORDER = [0, 1, P25519 - 1, int("7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7", 16)]
SMALL_ORDER.append(P25519 - SMALL_ORDER[-1])


def ed25519(y: int, sign: int = 0) -> Jwk:
    return Jwk(kty="OKP", crv="Ed25519", x=b64((y | sign << 255).to_bytes(32, "little")))


def rsa(modulus: int) -> Jwk:
    return Jwk(kty="RSA", n=b64(modulus.to_bytes((modulus.bit_length() + 7) // 8)), e="AQAB")


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", [*SMALL_ORDER, *(y + P25519 for y in SMALL_ORDER if y < 19), P25519 + 2, P25519 + 18])
def test_points_that_everybody_can_sign_for(y: int, sign: int) -> None:
    """The points of small order, and what is no point in its one spelling (RFC 8032 section 5.1.3)."""
    with pytest.raises(Refused, match="everybody can sign"):
        public_key(ed25519(y, sign))


def test_one_signature_would_fit_every_message() -> None:
    """What the refusal is for: with the neutral element as the key S = 0 and R = [0]B are a signature of anything, and OpenSSL agrees."""
    neutral = (1).to_bytes(32, "little")
    key = Ed25519PublicKey.from_public_bytes(neutral)
    key.verify(neutral + bytes(32), b"one message")
    key.verify(neutral + bytes(32), b"another")


M2203 = 2**2203 - 1
"""A Mersenne prime."""


@pytest.mark.parametrize("modulus", [3**1300, 751 * M2203, M2203, (2**1279 - 1) ** 2], ids=["3^k", "751p", "p", "pp"])
def test_moduli_that_everybody_can_factor(modulus: int) -> None:
    with pytest.raises(Refused, match="everybody can sign"):
        attributable_key(rsa(modulus))


@pytest.mark.parametrize("modulus", [3**1300, 751 * M2203], ids=["3^k", "751p"])
def test_moduli_of_proofs_that_everybody_can_factor_at_a_look(modulus: int) -> None:
    with pytest.raises(Refused, match="everybody can sign"):
        public_key(rsa(modulus))


def test_new_keys_for_proofs_are_no_lever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new key of RSA costs a client nothing, and a test for primes us 150 ms: seven proofs a second would stop identity, and all with it.
    A statement is shown to others, so it is asked more of its key.
    """
    asked: list[int] = []

    def is_power_of_a_prime(modulus: int) -> bool:
        asked.append(modulus)
        return True

    monkeypatch.setattr(jose, "_power_of_a_prime", is_power_of_a_prime)
    holder = Holder(RSA, "PS256")
    check(holder.proof(TOKEN), holder)
    text = sign({"typ": "told+jwt", "alg": "PS256", "jwk": RSA.as_dict(private=False)}, b"this", RSA)
    assert statement(text, typ="told+jwt", jkt=holder.jkt) == b"this"
    assert asked == []
    with pytest.raises(Refused, match="everybody can sign"):
        attributable(text)
    assert len(asked) == 1


def test_a_statement_by_a_prime() -> None:
    """Its signature is good, and anybody's."""
    key = PrimeKey()
    text = sign({"typ": "told+jwt", "alg": "PS256", "jwk": key.as_dict()}, b"this", key)
    assert statement(text, typ="told+jwt", jkt=key.thumbprint()) == b"this"
    with pytest.raises(Refused, match="everybody can sign"):
        attributable(text)


def test_a_proof_by_a_key_that_everybody_can_sign_for() -> None:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": ed25519(1).x}
    claims = {"jti": "1", "htm": "POST", "htu": URL, "iat": int(time.time())}
    parts = [json.dumps({"typ": "dpop+jwt", "alg": "Ed25519", "jwk": jwk}).encode(), json.dumps(claims).encode()]
    proof = ".".join(map(b64, [*parts, (1).to_bytes(32, "little") + bytes(32)]))
    with pytest.raises(Refused, match="everybody can sign"):
        ProofVerifier().verify(proof, method="POST", url=URL, now=time.time())


@pytest.mark.parametrize("key", [ECKey.generate_key("P-256"), RSA, OKPKey.generate_key("Ed25519")])
def test_thumbprint_is_rfc_7638(key: Any) -> None:
    jwk = {name: value for name, value in key.as_dict(private=False).items() if name in Jwk.__struct_fields__}
    assert thumbprint(Jwk(**jwk)) == key.thumbprint()


def test_malleated_signature_changes_nothing() -> None:
    """(r, n - s) is as valid as (r, s): the proof is the same one, by its `jti`, so a replay store sees it."""
    holder = Holder()
    proof = holder.proof(TOKEN, jti="same")
    head, body, signature = proof.split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    other = raw[:32] + (order - int.from_bytes(raw[32:])).to_bytes(32)
    verifier = ProofVerifier()
    found = [
        verifier.verify(each, method="POST", url=URL, now=time.time(), token_hash=sha256(TOKEN), jkt=holder.jkt)
        for each in (proof, f"{head}.{body}.{b64(other)}")
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "signature", [b"", b"\0" * 64, b"\xff" * 64, b"\1" * 63, b"\1" * 65, b"\x30\x06\x02\x01\x01\x02\x01\x01"]
)
def test_signatures_that_are_none(signature: bytes) -> None:
    holder = Holder()
    head, body, _ = holder.proof(TOKEN).split(".")
    with pytest.raises(Refused):
        check(f"{head}.{body}.{b64(signature)}", holder)


def test_remembered_keys_are_bounded_and_only_those_of_good_proofs() -> None:
    verifier = ProofVerifier(remembered=3)
    for _ in range(5):
        holder = Holder()
        good = holder.proof(TOKEN)
        with pytest.raises(Refused):
            verifier.verify(good[:-8] + "AAAAAAAA", method="POST", url=URL, now=time.time(), token_hash=sha256(TOKEN))
        verifier.verify(good, method="POST", url=URL, now=time.time(), token_hash=sha256(TOKEN), jkt=holder.jkt)
    assert len(verifier._keys) == 3


# ---- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://Localhost:8443/v1/payments", URL),
        ("HTTPS://localhost:8443/v1/payments", URL),
        (URL + "?a=b", URL),
        (URL + "#there", URL),
        ("https://api.example/", "https://api.example"),
        ("https://api.example:443/x", "https://api.example/x"),
        ("https://api.example/%7Ex/%2f", "https://api.example/~x/%2F"),
        ("https://api.example/a/./b/../c", "https://api.example/a/c"),
        ("https://api.example/a%3Ab%3ac", "https://api.example/a:b:c"),
        ("https://[::1]:8443/x", "https://[::1]:8443/x"),
    ],
)
def test_same_address(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://api.example/a%2Fb", "https://api.example/a/b"),
        ("https://api.example/a", "https://api.example/a/"),
        ("https://api.example/a", "https://api.example:8443/a"),
        ("https://api.example/a//b", "https://api.example/a/b"),
        ("https://api.example/A", "https://api.example/a"),
        ("https://api.example/..", "https://api.example/x"),
    ],
)
def test_other_address(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


@pytest.mark.parametrize(
    "url",
    [
        "https://localhost:8443/v1/pay\tments",
        "https://localhost:8443/v1/payments\n",
        "htt\rps://localhost:8443/v1/payments",
        "https://local\nhost:8443/v1/payments",
        " https://localhost:8443/v1/payments",
        "\0https://localhost:8443/v1/payments",
        "https://localhost:8443/v1/payments\x7f",
        "https://localhost:8443/v1/pay ments",
        "https://localhost:8443/v1/p\u00e4yments",
        "",
    ],
)
def test_what_is_no_address_does_not_become_one(url: str) -> None:
    with pytest.raises(Refused, match="not an HTTP address"):
        normalised(url)


@given(st.text(max_size=200))
def test_any_text_as_address(text: str) -> None:
    for url in (text, "https://" + text, "https://localhost:8443/" + text):
        try:
            once = normalised(url)
        except Refused:
            continue
        assert normalised(once) == once


# ---- the parser ------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_base64url_round_trip(raw: bytes) -> None:
    assert decode(encode(raw)) == raw


@given(st.text(max_size=300))
def test_any_text_as_jws(text: str) -> None:
    try:
        parse(text, 200)
    except Refused:
        return
    assert len(text) <= 200
    assert text.count(".") == 2


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
HOLDER = Holder()


@settings(max_examples=200)
@given(
    member=st.sampled_from(["typ", "alg", "jwk", "crit", "jti", "htm", "htu", "iat", "ath", "exp", "nbf"]), value=_json
)
def test_any_value_for_any_member(member: str, value: object) -> None:
    """Well signed nonsense is refused or harmless, never an error of another kind."""
    head: dict[str, Any] = {"typ": "dpop+jwt", "alg": "ES256", "jwk": HOLDER.key.as_dict(private=False)}
    body: dict[str, Any] = {"jti": "1", "htm": "POST", "htu": URL, "iat": int(time.time()), "ath": b64(sha256(TOKEN))}
    (head if member in {"typ", "alg", "jwk", "crit"} else body)[member] = value
    good = member == "jti" and isinstance(value, str) and bool(value)
    harmless = (member in {"exp", "nbf"} and value is None) or (
        member in {"nbf", "iat"} and isinstance(value, (int, float)) and not isinstance(value, bool) and value < 1e18
    )
    try:
        check(sign(head, body, HOLDER.key, "ES256"), HOLDER)
    except Refused:
        assert not good
    else:
        assert good or harmless or (member == "exp" and isinstance(value, (int, float)))
