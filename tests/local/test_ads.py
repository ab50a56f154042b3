"""The control plane: the protocol by itself, and over gRPC."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from hypothesis import given
from hypothesis import strategies as st

from tallystick.fabric.envoy import message
from tallystick.fabric.envoy.wire import type_url
from tallystick.local.ads import AdsServer, Conversation, Rejection

CLUSTER, ENDPOINTS, SECRET = type_url("cluster"), type_url("endpoints"), type_url("secret")


def test_the_first_request_is_answered_also_with_nothing() -> None:
    [response] = Conversation({CLUSTER: {}}).request(CLUSTER, [], "")
    assert response.names == ()


def test_an_acknowledgement_is_not_answered() -> None:
    talk = Conversation({CLUSTER: {"a": "1"}})
    [response] = talk.request(CLUSTER, [], "")
    assert talk.request(CLUSTER, [], response.nonce) == []
    assert talk.changed() == []


def test_clusters_are_sent_whole_so_that_what_is_gone_is_removed() -> None:
    table = {CLUSTER: {"a": "1", "b": "1"}}
    talk = Conversation(table)
    talk.request(CLUSTER, [], "")
    del table[CLUSTER]["a"]
    [response] = talk.changed()
    assert response.names == ("b",)
    table[CLUSTER].clear()
    [response] = talk.changed()
    assert response.names == ()


def test_endpoints_are_sent_where_they_changed() -> None:
    table = {ENDPOINTS: {"a": "1", "b": "1"}}
    talk = Conversation(table)
    [first] = talk.request(ENDPOINTS, ["a", "b"], "")
    assert first.names == ("a", "b")
    table[ENDPOINTS]["b"] = "2"
    [second] = talk.changed()
    assert second.names == ("b",)


def test_what_nobody_asked_for_is_not_sent() -> None:
    table = {SECRET: {"identity-vault": "1", "identity-ledger": "1"}}
    talk = Conversation(table)
    [response] = talk.request(SECRET, ["identity-ledger"], "")
    assert response.names == ("identity-ledger",)


def test_a_name_asked_for_later_is_sent_when_it_comes() -> None:
    table: dict[str, dict[str, str]] = {SECRET: {}}
    talk = Conversation(table)
    assert talk.request(SECRET, ["bundle"], "") == []
    table[SECRET]["bundle"] = "1"
    [response] = talk.changed()
    assert response.names == ("bundle",)


def test_a_name_dropped_and_asked_for_again_is_sent_again() -> None:
    talk = Conversation({ENDPOINTS: {"a": "1", "b": "1"}})
    [first] = talk.request(ENDPOINTS, ["a", "b"], "")
    assert talk.request(ENDPOINTS, ["a"], first.nonce) == []
    [second] = talk.request(ENDPOINTS, ["a", "b"], first.nonce)
    assert second.names == ("b",)


def test_a_stale_request_is_ignored() -> None:
    table = {ENDPOINTS: {"a": "1"}}
    talk = Conversation(table)
    [first] = talk.request(ENDPOINTS, ["a"], "")
    table[ENDPOINTS]["a"] = "2"
    [second] = talk.changed()
    assert talk.request(ENDPOINTS, ["a", "b"], first.nonce) == []
    assert talk.request(ENDPOINTS, ["a"], second.nonce) == []


def test_a_change_before_anybody_asked_waits() -> None:
    table = {CLUSTER: {"a": "1"}, ENDPOINTS: {"a": "1"}}
    talk = Conversation(table)
    assert talk.changed() == []
    talk.request(ENDPOINTS, ["a"], "")
    table[ENDPOINTS]["a"] = "2"
    table[CLUSTER]["a"] = "2"
    assert [response.type_url for response in talk.changed()] == [ENDPOINTS]


def test_what_is_refused_is_so_until_another_version_of_it_is_taken() -> None:
    """`status` told a refusal for ever."""
    table = {CLUSTER: {"a": "1"}, ENDPOINTS: {"a": "1", "b": "1"}}
    talk = Conversation(table)
    [whole] = talk.request(CLUSTER, [], "")
    [both] = talk.request(ENDPOINTS, ["a", "b"], "")
    assert talk.heard(CLUSTER, "", whole.nonce, "no such field") == Rejection(CLUSTER, "", "no such field")
    assert talk.heard(ENDPOINTS, both.version, both.nonce, None) is None
    assert [found.text for found in talk.rejections] == ["no such field"]
    # Other names asked for, with the version before the one that was refused: that takes nothing.
    table[ENDPOINTS]["a"] = "2"
    [first] = talk.changed()
    assert talk.heard(ENDPOINTS, both.version, first.nonce, "bad a") is not None
    talk.heard(ENDPOINTS, both.version, first.nonce, None)
    table[ENDPOINTS]["b"] = "2"
    [second] = talk.changed()
    talk.heard(ENDPOINTS, second.version, second.nonce, None)
    assert [found.text for found in talk.rejections] == ["no such field", "bad a"], "b was taken, a was not"
    table[CLUSTER]["b"] = "1"
    [whole] = talk.changed()
    talk.heard(CLUSTER, whole.version, whole.nonce, None)
    assert [found.text for found in talk.rejections] == ["bad a"]
    table[ENDPOINTS]["a"] = "3"
    assert len(talk.changed()) == 1
    table[ENDPOINTS]["b"] = "3"
    [fourth] = talk.changed()
    talk.heard(ENDPOINTS, fourth.version, fourth.nonce, None)  # for both
    assert talk.rejections == []
    table[ENDPOINTS]["a"] = "4"
    [fifth] = talk.changed()
    talk.heard(ENDPOINTS, fourth.version, fifth.nonce, "bad again")
    del table[ENDPOINTS]["a"]
    assert talk.rejections == []


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "remove", "ack", "ask"]), st.sampled_from("abc"), st.integers(1, 3)),
        max_size=40,
    )
)
def test_envoy_always_ends_up_with_the_table(steps: list[tuple[str, str, int]]) -> None:
    """Whatever changes in whatever order, who applies the responses holds what the table holds."""
    table: dict[str, dict[str, str]] = {CLUSTER: {}, ENDPOINTS: {}}
    talk = Conversation(table)
    held: dict[str, dict[str, str]] = {CLUSTER: {}, ENDPOINTS: {}}
    nonces = {CLUSTER: "", ENDPOINTS: ""}

    def apply(responses: list[Any]) -> None:
        for response in responses:
            content = {name: table[response.type_url][name] for name in response.names}
            if response.type_url == CLUSTER:
                held[CLUSTER] = content
            else:
                held[ENDPOINTS].update(content)
            nonces[response.type_url] = response.nonce

    apply(talk.request(CLUSTER, [], ""))
    apply(talk.request(ENDPOINTS, ["a", "b"], ""))
    for step, name, version in steps:
        if step == "put":
            table[CLUSTER][name] = table[ENDPOINTS][name] = str(version)
        elif step == "remove":
            table[CLUSTER].pop(name, None)
        elif step == "ack":
            apply(talk.request(CLUSTER, [], nonces[CLUSTER]))
        else:
            apply(talk.request(ENDPOINTS, ["a", "b"], nonces[ENDPOINTS]))
        apply(talk.changed())
    assert held[CLUSTER] == table[CLUSTER]
    assert held[ENDPOINTS] == {name: v for name, v in table[ENDPOINTS].items() if name in {"a", "b"}}


# ---- over gRPC -----------------------------------------------------------------------------------------------------


def endpoints(name: str, socket: str) -> Any:
    hosts = [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}]
    return message("endpoints", {"cluster_name": name, "endpoints": hosts})


async def test_over_the_socket(directory: Path) -> None:
    refused: list[Rejection] = []
    server = AdsServer(directory / "ads.sock", refused.append)
    server.put("endpoints", {"replicas-ledger": endpoints("replicas-ledger", "/run/a.sock")})
    await server.start()
    assert (directory / "ads.sock").stat().st_mode & 0o777 == 0o600
    request: Any = discovery_pb2.DiscoveryRequest  # type: ignore[attr-defined]
    stub: Any = ads_pb2_grpc.AggregatedDiscoveryServiceStub
    try:
        async with grpc.aio.insecure_channel(f"unix:{directory / 'ads.sock'}") as channel:
            stream = stub(channel).StreamAggregatedResources()
            await stream.write(request(type_url=ENDPOINTS, resource_names=["replicas-ledger"]))
            first = await stream.read()
            assert b"/run/a.sock" in first.resources[0].value
            server.put("endpoints", {"replicas-ledger": endpoints("replicas-ledger", "/run/b.sock")})
            second = await stream.read()
            assert b"/run/b.sock" in second.resources[0].value
            assert second.version_info != first.version_info
            refusal = request(type_url=ENDPOINTS, resource_names=["replicas-ledger"], response_nonce=second.nonce)
            refusal.error_detail.message = "no such field"
            await stream.write(refusal)
            async with asyncio.timeout(60):
                while not server.rejections:
                    await asyncio.sleep(0.01)
            assert server.rejections == refused
            server.put("endpoints", {"replicas-ledger": endpoints("replicas-ledger", "/run/c.sock")})
            third = await stream.read()
            await stream.write(
                request(
                    type_url=ENDPOINTS,
                    resource_names=["replicas-ledger"],
                    response_nonce=third.nonce,
                    version_info=third.version_info,
                )
            )
            async with asyncio.timeout(60):
                while server.rejections:
                    await asyncio.sleep(0.01)
            await stream.done_writing()
            assert await stream.read() == grpc.aio.EOF
    finally:
        await server.stop()
    assert [rejection.text for rejection in refused] == ["no such field"]
    assert not (directory / "ads.sock").exists()


def test_a_field_that_envoy_does_not_know_is_found_before_it_is_sent() -> None:
    with pytest.raises(Exception, match="no_such_field"):
        message("cluster", {"name": "a", "no_such_field": 1})
