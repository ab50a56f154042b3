"""The log's mathematics: what is proved is so, and whatever is bent is refused."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.chassis.audit import merkle, note, receipt
from tallystick.chassis.audit.merkle import Frontier, ProofError, leaf_hash, node_hash
from tallystick.chassis.audit.note import Checkpoint, NoteError, VerifierKey

KEY = Ed25519PrivateKey.generate()
NAME = "tallystick.test/log"
VERIFIER = VerifierKey(NAME, KEY.public_key())


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return merkle.EMPTY_ROOT
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(naive_root(leaves[:k]), naive_root(leaves[k:]))


class Tree:
    """Tiles in memory, as the audit service keeps them in its database."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.frontier = Frontier()
        counts: dict[int, int] = {}
        for each in leaves:
            for level, node in self.frontier.append(leaf_hash(each)):
                place = counts.get(level, 0)
                counts[level] = place + 1
                key = (level, place // 256)
                self.tiles[key] = self.tiles.get(key, b"") + node

    def read(self, level: int, index: int) -> bytes:
        return self.tiles[level, index]


def entries(count: int) -> list[bytes]:
    return [b"entry %d" % i for i in range(count)]


BIG = Tree(entries(70_000))


def test_rfc_6962_tree_heads() -> None:
    """Certificate Transparency's well-known reference tree of eight inputs."""
    inputs = [
        bytes.fromhex(x)
        for x in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
    ]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    for size, root in roots.items():
        assert Tree(inputs[:size]).frontier.root().hex() == root


@given(st.integers(0, 600))
@settings(max_examples=60)
def test_the_growing_root_is_the_tree_head(size: int) -> None:
    tree = Tree(entries(size))
    assert tree.frontier.root() == naive_root(entries(size))
    again = Frontier(size, tree.frontier.packed())
    assert again.root() == tree.frontier.root()
    if size:
        assert merkle.subtree(tree.read, 0, size) == tree.frontier.root()


@given(st.data())
@settings(max_examples=150)
def test_inclusion_is_proved_and_anything_else_is_not(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 70_000))
    index = data.draw(st.integers(0, size - 1))
    root = merkle.subtree(BIG.read, 0, size)
    proof = merkle.prove_inclusion(BIG.read, index, size)
    leaf = leaf_hash(b"entry %d" % index)
    merkle.check_inclusion(index, size, leaf, proof, root)
    bent = data.draw(st.sampled_from(["leaf", "index", "short", "long", "node", "root"]))
    wrong = {
        "leaf": (index, size, leaf_hash(b"other"), proof, root),
        "index": ((index + 1) % size, size, leaf, proof, root),
        "short": (index, size, leaf, proof[:-1], root),
        "long": (index, size, leaf, [*proof, root], root),
        "node": (index, size, leaf, [*proof[:-1], leaf_hash(b"x")], root),
        "root": (index, size, leaf, proof, leaf_hash(b"y")),
    }[bent]
    if size == 1 and bent in ("index", "short", "node"):
        return
    with pytest.raises(ProofError):
        merkle.check_inclusion(*wrong)


@given(st.data())
@settings(max_examples=150)
def test_consistency_is_proved_and_a_rewritten_past_is_not(data: st.DataObject) -> None:
    new = data.draw(st.integers(1, 70_000))
    old = data.draw(st.integers(0, new))
    roots = [merkle.subtree(BIG.read, 0, n) if n else merkle.EMPTY_ROOT for n in (old, new)]
    proof = merkle.prove_consistency(BIG.read, old, new)
    merkle.check_consistency(old, new, roots[0], roots[1], proof)
    with pytest.raises(ProofError):
        merkle.check_consistency(old, new, leaf_hash(b"rewritten"), roots[1], proof)
    with pytest.raises(ProofError):
        merkle.check_consistency(old, new, roots[0], roots[1], [*proof, roots[0]])
    if proof:
        with pytest.raises(ProofError):
            merkle.check_consistency(old, new, roots[0], roots[1], proof[:-1])


@pytest.mark.parametrize(
    ("args", "path"),
    [
        ((0, 0), "tile/0/000"),
        ((0, 1234067), "tile/0/x001/x234/067"),
        ((1, 1, 17), "tile/1/001.p/17"),
        (("entries", 273, 112), "tile/entries/273.p/112"),
    ],
)
def test_tile_paths(args: tuple[int, int], path: str) -> None:
    assert merkle.tile_path(*args) == path


def test_a_checkpoint_is_verified_by_the_log_key_only() -> None:
    checkpoint = Checkpoint(NAME, 7, leaf_hash(b"root"))
    signed = note.sign(checkpoint.text(), NAME, KEY)
    assert note.verify_checkpoint(signed, VERIFIER) == checkpoint
    stranger = VerifierKey(NAME, Ed25519PrivateKey.generate().public_key())
    for text, key in [
        (signed, stranger),
        (signed.replace("\n7\n", "\n8\n"), VERIFIER),
        (signed.replace(NAME, "elsewhere/log"), VERIFIER),
        (signed[:-1], VERIFIER),
        (signed.replace("\u2014", "-"), VERIFIER),
        ("", VERIFIER),
        (signed.replace("\n7\n", "\n07\n"), VERIFIER),
    ]:
        with pytest.raises(NoteError):
            note.verify_checkpoint(text, key)


def test_a_strangers_signature_beside_the_logs_is_ignored() -> None:
    checkpoint = Checkpoint(NAME, 7, leaf_hash(b"root"))
    witness = note.sign(checkpoint.text(), "witness.example", Ed25519PrivateKey.generate())
    signed = note.sign(checkpoint.text(), NAME, KEY) + witness.rpartition("\n\n")[2]
    assert note.verify_checkpoint(signed, VERIFIER) == checkpoint


def test_sixteen_large_signatures_beside_the_logs_are_ignored() -> None:
    """signed-note: a verifier takes at least 16 signatures of nearly 5 kB (ML-DSA-87 has 4,627 bytes)."""
    checkpoint = Checkpoint(NAME, 7, leaf_hash(b"root"))
    head, _, own = note.sign(checkpoint.text(), NAME, KEY).rpartition("\n\n")
    large = base64.b64encode(b"key!" + b"s" * 4990).decode()
    signed = f"{head}\n\n" + "".join(f"\u2014 witness{n}.example {large}\n" for n in range(15)) + own
    assert note.verify_checkpoint(signed, VERIFIER) == checkpoint
    assert receipt.MAX_RECEIPT > note.MAX_NOTE
    with pytest.raises(NoteError, match="256 KiB"):
        note.verify_checkpoint(signed * 4, VERIFIER)


@pytest.mark.parametrize("bad", ["\u20ac", "AAA", "A=A=", "\u00e9" * 44])
def test_what_is_not_base64_is_named_whatever_it_is(bad: str) -> None:
    signed = note.sign(Checkpoint(NAME, 7, leaf_hash(b"root")).text(), NAME, KEY)
    name, id_, _ = str(VERIFIER).split("+", 2)
    with pytest.raises(NoteError, match="base64"):
        VerifierKey.parse(f"{name}+{id_}+{bad}")
    with pytest.raises(NoteError, match="base64"):
        note.verify_checkpoint(signed.rpartition(" ")[0] + f" {bad}\n", VERIFIER)
    with pytest.raises(NoteError, match="base64"):
        Checkpoint.parse(f"{NAME}\n7\n{bad}\n")


def test_verifier_keys_round_trip_and_are_checked() -> None:
    assert VerifierKey.parse(str(VERIFIER)).id == VERIFIER.id
    name, _, key = str(VERIFIER).split("+", 2)
    for bad in [f"{name}+00000000+{key}", name, f"{name}+{VERIFIER.id.hex()}+AAAA", "a b+1+x"]:
        with pytest.raises(NoteError):
            VerifierKey.parse(bad)


def a_fact(i: int) -> bytes:
    return b'{"id":"fct_%d","type":"ledger.thing.happened"}' % i


def a_receipt(count: int = 300, index: int = 77, *, service: str = "ledger") -> str:
    tree = Tree([receipt.leaf(service, i + 1, sha256(a_fact(i)).digest()) for i in range(count)])
    signed = note.sign(Checkpoint(NAME, count, tree.frontier.root()).text(), NAME, KEY)
    proof = merkle.prove_inclusion(tree.read, index, count)
    return receipt.write(index, proof, signed, service=service, seq=index + 1, fact=a_fact(index))


def test_a_receipt_is_verified_offline() -> None:
    found = receipt.verify_receipt(a_receipt(), VERIFIER, fact="fct_77")
    assert (found.index, found.service, found.seq) == (77, "ledger", 78)
    assert found.fact == {"id": "fct_77", "type": "ledger.thing.happened"}


def test_a_receipt_of_what_is_anothers_to_tell_is_refused() -> None:
    """It is in the log, with a proof that is right: who took over risk has told it."""
    assert receipt.verify_receipt(a_receipt(service="ledger-eu"), VERIFIER).service == "ledger-eu"
    for service in ("risk", "risk-ledger", "ledgers"):
        with pytest.raises(receipt.ReceiptError, match=r"not .* to tell: ledger\.thing\.happened"):
            receipt.verify_receipt(a_receipt(service=service), VERIFIER)


def test_a_bent_receipt_is_refused_whatever_is_bent() -> None:
    text = a_receipt()
    lines = text.split("\n")
    extra = base64.b64decode(lines[1].removeprefix("extra "))

    def with_extra(other: bytes) -> str:
        return text.replace(lines[1], "extra " + base64.b64encode(other).decode())

    for bad in [
        with_extra(extra.replace(b"fct_77", b"fct_78")),
        with_extra(extra.replace(b"ledger", b"vault")),
        with_extra(extra.replace(b'"seq":78', b'"seq":79')),
        with_extra(extra.replace(b"ledger", b'x\\",')),
        with_extra(b"{}"),
        with_extra(b'{"service":"ledger","seq":78,"fact":' + b"[" * 1000 + b"]" * 1000 + b"}"),
        text.replace(lines[1], lines[1] + "\u00e9"),
        text.replace("index 77", "index 78"),
        "\n".join([*lines[:3], *lines[4:]]),
        text.replace("tlog-proof@v1", "tlog-proof@v2"),
        text.replace("\n300\n", "\n301\n"),
        text.partition("\n\n")[0],
        "",
    ]:
        with pytest.raises(receipt.ReceiptError):
            receipt.verify_receipt(bad, VERIFIER)
    with pytest.raises(receipt.ReceiptError, match="not of"):
        receipt.verify_receipt(text, VERIFIER, fact="fct_1")
