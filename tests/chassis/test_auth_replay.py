"""Each proof once, in a real Valkey, and what holds when it is away."""

import asyncio
import time

import pytest
from valkey.asyncio import Valkey

from tallystick.chassis.auth import Proof, ProofStore, Refused, ReplayCheckUnavailable, replay
from tallystick.chassis.auth.replay import REMEMBERED, LocalMemory
from tallystick.chassis.telemetry.logs import captured


def proof(jti: str = "j", jkt: str = "k") -> Proof:
    return Proof(jkt, jti, time.time())


async def outcomes(store: ProofStore, proofs: list[Proof], *, strict: bool = True) -> list[bool]:
    """Whether each was let in."""

    async def one(each: Proof) -> bool:
        try:
            await store.claim(each, strict=strict)
        except Refused:
            return False
        return True

    return await asyncio.gather(*(one(each) for each in proofs))


async def test_once(valkey: Valkey) -> None:
    store = ProofStore(valkey, "payments")
    assert await outcomes(store, [proof()]) == [True]
    assert await outcomes(store, [proof()]) == [False]


@pytest.mark.parametrize("gone", [False, True])
async def test_a_request_that_the_edge_gives_to_another_replica_is_one_use(valkey: Valkey, gone: bool) -> None:
    """Also in the memory of one process, while the store is away."""
    used = Valkey(unix_socket_path="/tmp/there-is-no-valkey.sock") if gone else valkey
    store = ProofStore(used, "payments")
    with captured():
        for _ in range(2):
            await store.claim(proof(), strict=False, request=b"r1")
        for other in (b"r2", b""):
            with pytest.raises(Refused):
                await store.claim(proof(), strict=False, request=other)
        # Without a name no request is the same as another one.
        await store.claim(proof("j2"), strict=False)
        with pytest.raises(Refused):
            await store.claim(proof("j2"), strict=False)
    if gone:
        await used.aclose()


async def test_of_200_at_once_one_is_let_in(valkey: Valkey) -> None:
    """On two replicas that share the store."""
    stores = [ProofStore(valkey, "payments") for _ in range(2)]
    found = await asyncio.gather(*(outcomes(store, [proof()] * 100) for store in stores))
    assert sum(sum(each) for each in found) == 1


async def test_different_proofs_at_once_are_all_let_in(valkey: Valkey) -> None:
    assert all(await outcomes(ProofStore(valkey, "p"), [proof(f"j{number}") for number in range(600)]))


async def test_nobody_uses_up_anothers_proofs(valkey: Valkey) -> None:
    """Same `jti` of another key, another service's prefix, and names that would run together."""
    store = ProofStore(valkey, "payments")
    assert await outcomes(store, [proof("j", "k"), proof("j", "other"), proof("k", "j"), proof("", "jk")]) == [True] * 4
    assert await outcomes(ProofStore(valkey, "ledger"), [proof("j", "k")]) == [True]


async def test_keys_are_small_named_for_the_service_and_expire(valkey: Valkey) -> None:
    await ProofStore(valkey, "payments").claim(proof("x" * 256), strict=True)
    [key] = await valkey.keys("*")
    assert key.startswith(b"payments:{payments-dpop}:")
    assert len(key) == len(b"payments:{payments-dpop}:") + 16
    assert REMEMBERED - 60 <= await valkey.ttl(key) <= REMEMBERED
    assert REMEMBERED > 70  # a proof is good for 60 s after an `iat` that may be 10 s ahead


async def test_without_the_store_writes_stop_and_reads_go_on_once() -> None:
    gone = Valkey(unix_socket_path="/tmp/there-is-no-valkey.sock")
    store = ProofStore(gone, "payments")
    with captured() as lines:
        for _ in range(3):
            with pytest.raises(ReplayCheckUnavailable):
                await store.claim(proof(), strict=True)
        assert await outcomes(store, [proof()] * 50, strict=False) == [True] + [False] * 49
    assert (ReplayCheckUnavailable.status, ReplayCheckUnavailable.retryable) == (503, True)
    assert [line["event"] for line in lines] == ["auth.replay_store_failed"]
    await gone.aclose()


async def test_what_was_used_while_the_store_was_away_stays_used_when_it_is_back(valkey: Valkey) -> None:
    now = [0.0]
    store = ProofStore(valkey, "p", monotonic=lambda: now[0])
    gone = Valkey(unix_socket_path="/tmp/there-is-no-valkey.sock")
    with captured():
        store._script.registered_client = gone
        await store.claim(proof("j1"), strict=False, request=b"r1")
        await store.claim(proof("j2"), strict=False, request=b"r2")
        store._script.registered_client = valkey
        assert await outcomes(store, [proof("j1"), proof("j1")], strict=False) == [False, False]
        await store.claim(proof("j2"), strict=False, request=b"r2")  # the edge gives the same request once more
        now[0] = REMEMBERED
        assert await outcomes(store, [proof("j1", "k2")]) == [True]
        await valkey.flushall()
        assert await outcomes(store, [proof("j1")]) == [True]  # too old by now for whoever checks proofs
    await gone.aclose()


async def test_a_store_that_never_answers_is_the_same(directory: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "TIMEOUT", 0.05)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(-1)
        finally:
            writer.close()

    path = f"{directory}/v.sock"
    server = await asyncio.start_unix_server(silent, path)
    valkey = Valkey(unix_socket_path=path)
    with captured(), pytest.raises(ReplayCheckUnavailable):
        await ProofStore(valkey, "p").claim(proof(), strict=True)
    await valkey.aclose()
    server.close()


async def test_a_store_that_refuses_is_the_same_and_its_return_is_noticed(valkey: Valkey) -> None:
    store = ProofStore(valkey, "p")
    with captured() as lines:
        await valkey.config_set("maxmemory", "1")
        await valkey.config_set("maxmemory-policy", "noeviction")
        try:
            with pytest.raises(ReplayCheckUnavailable):
                await store.claim(proof(), strict=True)
        finally:
            await valkey.config_set("maxmemory", "0")
        await store.claim(proof(), strict=True)
    assert [line["event"] for line in lines] == ["auth.replay_store_failed", "auth.replay_store_back"]


def test_the_memory_forgets_in_time_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    memory = LocalMemory(lambda: now[0])
    monkeypatch.setattr(LocalMemory, "LIMIT", 2)
    assert memory.claim(b"a")
    now[0] = 30
    assert memory.claim(b"b")
    with pytest.raises(ReplayCheckUnavailable):
        memory.claim(b"c")
    now[0] = REMEMBERED - 0.1
    assert not memory.claim(b"a")
    now[0] = REMEMBERED
    assert memory.claim(b"c")
    assert not memory.claim(b"b")
