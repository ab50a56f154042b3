"""Decisions through the real application: each item stands alone, an id is decided once, and the answer stays what it was."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from valkey.asyncio import Valkey

from tallystick.chassis import outbox
from tallystick.chassis.outbox import Fact
from tallystick.contracts.risk.client import Question, RiskClient
from tallystick.kernel import ids
from tallystick.kernel.money import Money
from tallystick.services.risk.model import DEFAULT_RULES, Verdict
from tallystick.services.risk.service import MAX_IN_FACT
from tests.services.risk.support import CLIENT, Env, card, item, replica, slug
from tests.support.http import World


async def test_a_decision_has_reasons_and_is_told(env: Env) -> None:
    small, large = item(), item(minor=1_500_000)
    results = await env.batch([env.token()], small, large)
    assert results[0]["decision"] == {"id": small["id"], "decision": "allow", "score": 0, "reasons": []}
    refused = results[1]["decision"]
    assert (refused["decision"], refused["score"]) == ("deny", 200)
    assert refused["reasons"] == ["amount-over-10000", "amount-over-5000", "card-sum-1h"]
    (fact,) = await env.facts("risk.decisions.made")
    assert fact["tenant"] == "acme"
    assert fact["data"]["decisions"] == [
        [small["id"], small["payment"], "allow", 0, []],
        [large["id"], large["payment"], "deny", 200, refused["reasons"]],
    ]


async def test_each_item_stands_alone(env: Env) -> None:
    tokens = [
        env.token(),
        "not.a.token",
        env.token(exp=1),
        env.token(aud="elsewhere"),
        env.token(tenant="other"),
    ]
    first = item()
    results = await env.batch(
        tokens,
        first,
        item(token=1),
        item(token=2),
        item(token=3),
        item(token=4, id=first["id"]),
        item(token=5),
        item(id="dec_nonsense"),
        item(id=first["payment"]),
        item(minor=0),
        item(currency="XXQ"),
        item(payment="pay_other", id=first["id"]),
        item(token=4),
    )
    assert results[0]["decision"]["id"] == first["id"]
    assert results[-1]["decision"]["decision"] == "allow"
    assert [slug(each) for each in results[1:-1]] == [
        *["unauthenticated"] * 3, "decision-for-another-payment", "invalid-request",
        "invalid-id", "invalid-id", "invalid-amount", "unknown-currency", "decision-for-another-payment",
    ]  # fmt: skip
    assert len(await env.service.query("SELECT * FROM decision")) == 2


async def test_only_payments_may_ask(env: Env) -> None:
    for peer in ("ledger", "vault", "operator", "risk"):
        answer = await env.mesh("POST", "/internal/decisions", {"tokens": [env.token()], "items": [item()]}, peer=peer)
        assert answer.status == 403
    assert await env.service.query("SELECT * FROM decision") == []


async def test_asked_again_the_answer_stays_and_nothing_counts_twice(env: Env) -> None:
    fingerprint = card()
    one = item(card=fingerprint)
    decided = await env.decide(**one)
    for _ in range(15):
        assert await env.decide(**one) == decided
    # A burst of 15 would have passed card-count-1m, and lists made later change nothing of what was decided.
    await env.put("deny", "card", fingerprint)
    assert await env.decide(**one) == decided
    assert (await env.decide(card=fingerprint))["decision"] == "deny"
    assert len(await env.service.query("SELECT * FROM decision")) == 2


async def test_what_is_new_beside_what_was_decided_is_stored_and_told_once(env: Env) -> None:
    known, new, also = item(card=card()), item(card=card()), item(card=card())
    decided = await env.decide(**known)
    answers = await env.batch([env.token()], new, known, also, new)
    assert [each["decision"]["id"] for each in answers] == [new["id"], known["id"], also["id"], new["id"]]
    assert answers[1]["decision"] == decided
    told = [each[0] for fact in await env.facts("risk.decisions.made") for each in fact["data"]["decisions"]]
    assert sorted(told) == sorted(each["id"] for each in (known, new, also))


@pytest.mark.parametrize("changes", [{"payment": "pay_other"}, {"minor": 1251}, {"currency": "USD"}])
async def test_an_id_stands_for_one_payment(env: Env, changes: dict[str, Any]) -> None:
    one = item()
    await env.decide(**one)
    (result,) = await env.batch([env.token()], item(**({"id": one["id"], "payment": one["payment"]} | changes)))
    assert slug(result) == "decision-for-another-payment"
    (result,) = await env.batch([env.token(tenant="other")], one)
    assert slug(result) == "decision-for-another-payment"


async def test_equal_ids_at_two_replicas_are_decided_once(env: Env, around: World, valkey: Valkey) -> None:
    other = await replica(around, env.service, valkey, clock=env.clock)
    items = [item(card=card()) for _ in range(20)]
    batches = [(env, items), (other, items[::-1])] * 3
    answers = await asyncio.gather(*(each.batch([each.token()], *batch) for each, batch in batches))
    for answer, (_, batch) in zip(answers, batches, strict=True):
        assert [each["decision"]["id"] for each in answer] == [each["id"] for each in batch]
    assert len(await env.service.query("SELECT * FROM decision")) == 20
    told = [each[0] for fact in await env.facts("risk.decisions.made") for each in fact["data"]["decisions"]]
    assert sorted(told) == sorted(each["id"] for each in items)


async def test_a_broken_database_denies_nothing_later(env: Env, around: World, valkey: Valkey) -> None:
    """What was counted for a decision that could not be stored does not count again when it is asked for anew."""
    fingerprint = card()
    one = item(card=fingerprint)
    await env.service.query("ALTER TABLE decision RENAME TO away")
    for _ in range(12):
        answer = await env.mesh("POST", "/internal/decisions", {"tokens": [env.token()], "items": [one]})
        assert answer.status == 500
    await env.service.query("ALTER TABLE away RENAME TO decision")
    assert (await env.decide(**one))["reasons"] == []


async def test_the_largest_batch_with_every_reason_fits_into_facts(env: Env) -> None:
    worst = Verdict("deny", 10**6, (*(rule.name for rule in DEFAULT_RULES), "velocity-unknown"))
    id_ = ids.decisions.text(ids.decisions.new())
    row = [id_, "p" * 64, worst.decision, worst.score, list(worst.reasons)]
    fact = Fact(
        id=ids.facts.new(),
        type="risk.decisions.made",
        tenant="a" * 40,
        actor="risk",
        resource=id_,
        at=env.clock.now(),
        data={"decisions": [row] * MAX_IN_FACT},
    )
    assert len(outbox.encode(fact)) < outbox.MAX_FACT_BYTES
    results = await env.batch([env.token()], *(item(card=card()) for _ in range(MAX_IN_FACT + 5)))
    assert len(results) == MAX_IN_FACT + 5
    assert [len(fact["data"]["decisions"]) for fact in await env.facts("risk.decisions.made")] == [MAX_IN_FACT, 5]


async def test_lists_beat_rules_and_deny_beats_allow(env: Env) -> None:
    good, bad, account = card(), card(), ids.accounts.text(ids.accounts.new())
    await env.put("allow", "card", good)
    await env.put("deny", "card", bad)
    allowed = await env.decide(card=good, minor=5_000_000)
    assert (allowed["decision"], allowed["reasons"]) == ("allow", ["allow-list-card"])
    assert (await env.decide(card=bad))["reasons"] == ["deny-list-card"]
    await env.put("deny", "client", CLIENT)
    assert (await env.decide(card=good))["reasons"] == ["deny-list-client"]
    await env.put("allow", "client", CLIENT)
    assert (await env.decide(card=bad))["reasons"] == ["deny-list-card"]
    await env.put("deny", "account", account)
    book = await env.decide(card=None, account=account)
    assert book["reasons"] == ["deny-list-account"]
    other = await env.batch([env.token(tenant="other")], item(card=bad))
    assert other[0]["decision"]["decision"] == "allow", "lists are a tenant's own"


async def test_a_list_is_in_force_here_at_once_and_elsewhere_after_a_look(
    env: Env, around: World, valkey: Valkey
) -> None:
    other = await replica(around, env.service, valkey)
    fingerprint = card()
    await env.put("deny", "card", fingerprint)
    assert (await env.decide(card=fingerprint))["decision"] == "deny"
    assert (await other.decide(card=fingerprint))["decision"] == "allow"
    await other.risk.refresh_lists()
    assert (await other.decide(card=fingerprint))["decision"] == "deny"
    answer = await env.mesh("DELETE", f"/internal/lists/acme/card/{fingerprint}", peer="operator")
    assert answer.status == 204
    assert (await env.decide(card=fingerprint))["decision"] == "allow"
    await other.risk.refresh_lists()
    assert (await other.decide(card=fingerprint))["decision"] == "allow"
    changes = [fact["data"]["outcome"] for fact in await env.facts("risk.list.changed")]
    assert changes == ["deny", "removed"]


async def test_the_operator_reads_and_keeps_the_lists(env: Env) -> None:
    fingerprint = card()
    await env.put("deny", "card", fingerprint)
    await env.put("allow", "card", fingerprint)
    await env.put("deny", "card", fingerprint, tenant="other")
    answer = await env.mesh("GET", "/internal/lists?tenant=acme", peer="operator")
    entry = {"tenant": "acme", "outcome": "allow", "kind": "card", "value": fingerprint, "note": ""}
    assert answer.json == {"data": [entry]}
    for peer in ("payments", "vault"):
        assert (await env.mesh("GET", "/internal/lists?tenant=acme", peer=peer)).status == 403
        assert (await env.mesh("PUT", "/internal/lists", entry, peer=peer)).status == 403
    gone = await env.mesh("DELETE", f"/internal/lists/nobody/card/{fingerprint}", peer="operator")
    assert (gone.status, gone.json["type"].rpartition("/")[2]) == (404, "not-listed")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("card", "4242424242424242"), ("card", "fp_short"), ("card", "acc_" + "0" * 26), ("account", "fp_" + "0" * 26),
        ("client", "acc_" + "0" * 26), ("card", "fp_" + "u" * 26), ("planet", "fp_" + "0" * 26), ("card", ""),
    ],
)  # fmt: skip
async def test_lists_take_only_what_names_such_a_thing_and_never_a_number(env: Env, kind: str, value: str) -> None:
    body = {"tenant": "acme", "outcome": "deny", "kind": kind, "value": value}
    answer = await env.mesh("PUT", "/internal/lists", body, peer="operator")
    assert answer.status == 400
    assert value == "" or value.encode() not in answer.content
    assert await env.service.query("SELECT * FROM list_entry") == []
    assert await env.service.query("SELECT * FROM outbox") == []


async def test_the_role_can_neither_change_nor_take_back_a_decision(env: Env) -> None:
    await env.decide()
    found = await env.service.query(
        "SELECT privilege_type FROM information_schema.role_table_grants"
        " WHERE table_name = 'decision' AND grantee = 'risk'"
    )
    assert {row["privilege_type"] for row in found} == {"SELECT", "INSERT"}


async def test_the_client_batches_and_gives_each_question_its_own_answer(env: Env) -> None:
    class Mesh:
        calls = 0

        async def request(self, method: str, path: str, body: Any, *, answer: Any, idempotent: bool) -> Any:
            self.calls += 1
            found = await env.mesh(method, path, msgspec.to_builtins(body))
            assert found.status == 200, found.content
            return msgspec.json.decode(found.content, type=answer)

    mesh: Any = Mesh()
    client = RiskClient(mesh)
    token = env.token()
    questions = [
        Question(
            token=token,
            id=ids.decisions.text(ids.decisions.new()),
            payment=f"pay_{n}",
            amount=Money(1250 if n % 2 else 2_000_000, "EUR"),
            card=card(),
            account=None,
        )
        for n in range(40)
    ]
    decided = await asyncio.gather(*(client.decide(each) for each in questions))
    assert [each.id for each in decided] == [each.id for each in questions]
    assert [each.decision for each in decided] == ["deny", "allow"] * 20
    assert mesh.calls < 10
    env.clock.advance(timedelta(days=1))
    assert await client.decide(questions[0]) == decided[0]
