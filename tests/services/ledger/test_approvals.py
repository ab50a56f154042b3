"""Maker-checker: what a rule concerns is posted only with the signed approvals of those whom the rule names, once, and in time."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.chassis.db import DatabaseUnavailable
from tallystick.kernel import ids
from tallystick.kernel.ids import TransactionId
from tallystick.services.ledger.model import ApprovalRule, Header, Movement, Signed, missing, needed
from tallystick.services.ledger.service import Poster
from tallystick.services.ledger.service.approvals import Plan, kept, planned
from tests.services.ledger.env import SCOPE, Env, post, problem
from tests.services.ledger.support import START, hold, tid
from tests.support.http import Answer, ask
from tests.support.tokens import PUBLIC_URL, Holder, PrimeKey, sign

ALL = SCOPE + " approvals:write approvals:sign"


def client() -> str:
    return ids.clients.text(ids.clients.new())


class People:
    """A maker and three checkers, each with a key of their own."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.maker = Holder(client=client())
        self.checkers = [Holder(client=client()) for _ in range(3)]

    async def call(self, holder: Holder, method: str, path: str, body: Any = None, *, key: str | None = None, scope: str = ALL, tenant: str = "acme") -> Answer:  # fmt: skip
        token = self.env.world.issuer.access(holder, scope=scope, tenant=tenant)
        headers = holder.headers(token, method=method, url=PUBLIC_URL + path.partition("?")[0])
        if key is not None:
            headers.append((b"idempotency-key", key.encode()))
        return await ask(self.env.app, method, path, None if body is None else json.dumps(body).encode(), headers)

    def signed(self, holder: Holder, proposal: dict[str, Any], decision: str = "approve", **changes: Any) -> dict[str, str]:  # fmt: skip
        header = {"typ": "tallystick-approval+jwt", "alg": "ES256", "jwk": holder.key.as_dict(private=False)}
        said = {
            "proposal": proposal["id"],
            "digest": proposal["digest"],
            "decision": decision,
            "iat": int(self.env.clock.now().timestamp()),
        }
        header |= changes.pop("header", {})
        return {"signature": sign(header, said | changes, holder.key)}

    async def decide(self, holder: Holder, proposal: dict[str, Any], decision: str = "approve", **changes: Any) -> Answer:  # fmt: skip
        path = f"/v1/proposals/{proposal['id']}/{decision}"
        return await self.call(holder, "POST", path, self.signed(holder, proposal, decision, **changes))

    async def propose(self, *transfers: dict[str, Any], key: str = "k", **more: Any) -> Answer:
        return await self.call(self.maker, "POST", "/v1/transactions", {"transfers": list(transfers), **more}, key=key)


async def ready(env: Env, *, approvals: int = 2, **rule: Any) -> People:
    """Anna has 10,000; more than 1,000 EUR in one transaction need two of three checkers."""
    people = People(env)
    await env.account("debit", path="bank")
    await env.account(path="anna", floor="0")
    await env.account(path="shop")
    await env.transfers(post("bank", "anna", 10_000))
    approvers = [each.client for each in people.checkers]
    given_rule = {"currency": "EUR", "above": "1000", "approvals": approvals, "approvers": approvers, **rule}
    answer = await people.call(people.maker, "PUT", "/v1/books/main/approvals", {"rules": [given_rule]})
    assert answer.status == 200, answer.content
    return people


async def test_two_of_three_approve_and_it_is_posted(env: Env) -> None:
    people = await ready(env)
    made = await people.propose(post("anna", "shop", 5000), reference="order 7")
    assert made.status == 202, made.content
    proposal = made.json
    assert (proposal["status"], proposal["missing"], proposal["proposer"]) == ("pending", 2, people.maker.client)
    assert proposal["transaction"]["reference"] == "order 7"
    assert await env.balance("shop") == ("0", "0", "0")
    first = await people.decide(people.checkers[0], proposal)
    assert (first.status, first.json["status"], first.json["missing"]) == (200, "pending", 1), first.content
    again = await people.decide(people.checkers[0], proposal)
    assert (again.status, again.json["missing"]) == (200, 1), "the same decision again is harmless, and counts once"
    last = await people.decide(people.checkers[2], proposal)
    assert (last.status, last.json["status"]) == (200, "posted"), last.content
    assert await env.balance("shop") == ("5000", "0", "5000")
    assert [one["approver"] for one in last.json["decisions"]] == [people.checkers[0].client, people.checkers[2].client]
    late = await people.decide(people.checkers[1], proposal)
    assert problem(late) == (409, "proposal-closed")
    assert await env.balance("shop") == ("5000", "0", "5000")
    # The first request again is answered as it was, whatever became of it since.
    replayed = await people.propose(post("anna", "shop", 5000), reference="order 7")
    assert (replayed.status, replayed.header("idempotent-replayed"), replayed.json) == (202, "true", proposal)


async def test_the_digest_is_over_what_the_proposal_says(env: Env) -> None:
    """As the contract words it, with other code than the ledger's; and the plan is all that would be posted."""
    people = await ready(env)
    made = await people.propose(post("anna", "shop", 5000), reference='[é] "7"', metadata={"b": "1", "a": "2"})
    proposal = made.json
    said = {
        "book": "main",
        "plan": proposal["plan"],
        "proposal": proposal["id"],
        "transaction": proposal["transaction"],
    }
    text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    assert proposal["digest"] == hashlib.sha256(text.encode()).hexdigest()
    plan = json.loads(proposal["plan"])
    [command] = plan["commands"]
    assert (plan["header"]["reference"], command["kind"], command["debit"], command["credit"]) == (
        '[é] "7"',
        "post",
        "anna",
        "shop",
    )
    assert (command["amount"], command["currency"]) == (5000, "EUR")


async def test_below_the_amount_nobody_is_asked(env: Env) -> None:
    people = await ready(env)
    assert (await people.propose(post("anna", "shop", 1000))).status == 201
    assert (await people.propose(post("anna", "shop", 600), post("anna", "shop", 401), key="k2")).status == 202
    assert await env.balance("shop") == ("1000", "0", "1000")


async def test_no_other_way_around_the_rule(env: Env) -> None:
    """Plain transfers, holds, chains and reversals of more than the amount are refused, and not for good."""
    people = await ready(env)
    own = ids.transfers.text(ids.transfers.new())
    for transfers in (
        [post("anna", "shop", 1001, id=own)],
        [{**post("anna", "shop", 1001), "kind": "hold"}],
        [post("anna", "shop", 600, linked=True), post("anna", "shop", 600)],
    ):
        answer = await env.transfers(*transfers)
        assert {one["reason"] for one in answer.json["data"]} == {"approval_required"}, answer.content
    answer = await env.transfers(post("anna", "shop", 600), post("anna", "shop", 600))
    assert [one["status"] for one in answer.json["data"]] == ["posted", "posted"], "each stands for itself"
    await people.call(people.maker, "PUT", "/v1/books/main/approvals", {"rules": []})
    answer = await env.transfers(post("anna", "shop", 1001, id=own))
    assert answer.json["data"][0]["status"] == "posted"


async def test_who_may_not_approve(env: Env) -> None:
    people = await ready(env, approvals=1)
    proposal = (await people.propose(post("anna", "shop", 5000))).json
    stranger = Holder(client=client())
    assert problem(await people.decide(stranger, proposal)) == (403, "not-an-approver")
    assert problem(await people.decide(people.maker, proposal)) == (403, "not-an-approver")
    path = f"/v1/proposals/{proposal['id']}/approve"
    body = people.signed(people.checkers[0], proposal)
    assert (await people.call(people.checkers[0], "POST", path, body, scope=SCOPE)).status == 403
    foreign = await people.call(people.checkers[0], "POST", path, body, tenant="globex")
    assert problem(foreign) == (404, "proposal-not-found")
    assert problem(await people.call(people.checkers[0], "GET", f"/v1/proposals/{proposal['id']}", tenant="globex")) == (404, "proposal-not-found")  # fmt: skip
    assert await env.balance("shop") == ("0", "0", "0")


async def test_who_proposes_does_not_approve_though_the_rule_names_them(env: Env) -> None:
    people = await ready(env, approvals=1)
    people.maker = people.checkers[0]
    proposal = (await people.propose(post("anna", "shop", 5000))).json
    assert problem(await people.decide(people.maker, proposal)) == (403, "not-an-approver")
    assert (await people.decide(people.checkers[1], proposal)).json["status"] == "posted"


async def test_signatures_that_are_not_good(env: Env) -> None:
    people = await ready(env, approvals=1)
    proposal = (await people.propose(post("anna", "shop", 5000))).json
    checker, other = people.checkers[0], people.checkers[1]
    path = f"/v1/proposals/{proposal['id']}/approve"
    bad: list[dict[str, str]] = [
        {"signature": "nothing"},
        people.signed(other, proposal),  # by another's key, with the checker's token
        people.signed(checker, proposal, digest="0" * 64),
        people.signed(checker, {**proposal, "id": ids.proposals.text(ids.proposals.new())}),
        people.signed(checker, proposal, "reject"),
        people.signed(checker, proposal, iat=0),
        people.signed(checker, proposal, header={"typ": "dpop+jwt"}),
        {"signature": "e30.e30.e30"},
        people.signed(checker, proposal, header={"jwk": other.key.as_dict(private=False)}),
    ]
    for body in bad:
        answer = await people.call(checker, "POST", path, body)
        assert answer.status in (400, 422), answer.content
    assert (await people.call(checker, "GET", f"/v1/proposals/{proposal['id']}")).json["decisions"] == []
    assert (await people.decide(checker, proposal)).json["status"] == "posted"


async def test_nobody_approves_with_a_key_that_everybody_can_sign_for(env: Env) -> None:
    people = await ready(env, approvals=1)
    proposal = (await people.propose(post("anna", "shop", 5000))).json
    checker = Holder(PrimeKey(), "PS256", client=people.checkers[0].client)
    answer = await people.decide(checker, proposal, header={"alg": "PS256"})
    assert problem(answer) == (422, "invalid-decision")
    assert "everybody can sign" in answer.json["detail"]
    assert (await people.decide(people.checkers[0], proposal)).json["status"] == "posted"


async def test_a_decision_was_signed_about_now_by_any_integer(env: Env) -> None:
    people = await ready(env)
    proposal = (await people.propose(post("anna", "shop", 5000))).json
    for iat in (10**400, -(10**400), 10**30, 2**63, 1.5, "1", None):
        answer = await people.decide(people.checkers[0], proposal, iat=iat)
        assert problem(answer) == (422, "invalid-decision"), iat
    now = int(env.clock.now().timestamp())
    for iat, status in ((now + 601, 422), (now - 601, 422), (now + 600, 200)):
        assert (await people.decide(people.checkers[0], proposal, iat=iat)).status == status, iat


async def test_rejected_is_rejected_for_good(env: Env) -> None:
    people = await ready(env)
    proposal = (await people.propose(post("anna", "shop", 5000))).json
    assert (await people.decide(people.checkers[0], proposal)).status == 200
    assert (await people.decide(people.checkers[1], proposal, "reject")).json["status"] == "rejected"
    assert problem(await people.decide(people.checkers[2], proposal)) == (409, "proposal-closed")
    assert await env.balance("shop") == ("0", "0", "0")


async def test_approvals_come_in_time_or_not_at_all(env: Env) -> None:
    people = await ready(env, approvals=1, expires_in=60)
    proposal = (await people.propose(post("anna", "shop", 5000))).json
    env.clock.advance(timedelta(seconds=61))
    assert (await people.call(people.maker, "GET", f"/v1/proposals/{proposal['id']}")).json["status"] == "expired"
    listed = await people.call(people.maker, "GET", "/v1/proposals?status=expired")
    assert [one["id"] for one in listed.json["data"]] == [proposal["id"]]
    assert problem(await people.decide(people.checkers[0], proposal)) == (409, "proposal-closed")
    await env.ledger.approvals.resume()
    await env.ledger.approvals.resume()
    assert await env.balance("shop") == ("0", "0", "0")


async def test_what_can_not_be_posted_any_more_is_refused_and_says_why(env: Env) -> None:
    people = await ready(env, approvals=1)
    proposal = (await people.propose(post("anna", "shop", 9500))).json
    await env.transfers(post("anna", "shop", 900))
    done = (await people.decide(people.checkers[0], proposal)).json
    assert (done["status"], done["reason"]) == ("refused", "insufficient_funds")
    assert await env.balance("shop") == ("900", "0", "900")


async def test_who_is_cut_off_after_the_last_approval_leaves_it_to_the_schedule(
    env: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = await ready(env, approvals=1)
    proposal = (await people.propose(post("anna", "shop", 5000))).json
    plain = Poster.post

    async def down(*_: Any) -> Any:
        raise DatabaseUnavailable("planted")

    monkeypatch.setattr(Poster, "post", down)
    assert (await people.decide(people.checkers[0], proposal)).status == 503
    assert (await people.call(people.maker, "GET", f"/v1/proposals/{proposal['id']}")).json["status"] == "approved"
    monkeypatch.setattr(Poster, "post", plain)
    await asyncio.gather(env.ledger.approvals.resume(), env.ledger.approvals.resume())
    await env.ledger.approvals.resume()
    assert (await people.call(people.maker, "GET", f"/v1/proposals/{proposal['id']}")).json["status"] == "posted"
    assert await env.balance("shop") == ("5000", "0", "5000")


async def test_who_can_not_be_posted_for_now_keeps_nobody_waiting(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick.services.ledger.service.approvals.PAGE", 2)
    people = await ready(env, approvals=1, expires_in=60)
    await env.call("POST", "/v1/books", {"name": "two"})
    await env.account("debit", book="two", path="m")
    await env.account(book="two", path="a")
    rule = {"currency": "EUR", "above": "0", "approvals": 1, "approvers": [people.checkers[0].client]}
    await people.call(people.maker, "PUT", "/v1/books/two/approvals", {"rules": [rule]})
    stuck = [(await people.propose(post("anna", "shop", 5000), key=f"k{n}")).json for n in range(3)]
    other = (await people.propose(post("m", "a", 5), key="other", book="two")).json
    await env.ledger.quarantine._shut(await env.ledger.poster.book("acme", "main"), ["for a test"])
    for proposal in stuck:
        assert problem(await people.decide(people.checkers[0], proposal)) == (409, "book-quarantined")
    env.clock.advance(timedelta(days=2))

    async def states() -> list[str]:
        rows = await env.service.query("SELECT status FROM proposal ORDER BY id")
        return [row["status"] for row in rows]

    await env.ledger.approvals.resume()
    assert await states() == ["approved"] * 3 + ["expired"], other
    await env.ledger.quarantine.release(await env.ledger.poster.book("acme", "main"), None, checked=True)
    await env.ledger.approvals.resume()
    assert sorted(await states()) == ["expired", "posted", "posted", "refused"]


async def test_a_refusal_names_what_could_not_be_posted_and_a_report_the_past_days(env: Env) -> None:
    people = await ready(env, approvals=1)
    await env.account(path="ben", floor="0")
    env.clock.advance(timedelta(days=3))
    await env.transfers(post("bank", "ben", 100))
    made = await people.propose(post("bank", "shop", 2000), post("ben", "shop", 101), post("bank", "shop", 1), key="a")
    done = (await people.decide(people.checkers[0], made.json)).json
    assert (done["status"], done["reason"], done["breached_on"]) == ("refused", "insufficient_funds", [])
    assert done["account"] == (await env.call("GET", "/v1/accounts/ben")).json["id"]
    made = await people.propose(post("bank", "shop", 2000), post("bank", "nobody", 1), key="b")
    done = (await people.decide(people.checkers[0], made.json)).json
    assert (done["status"], done["reason"], done["account"]) == ("refused", "account_not_found", "nobody")
    assert (await people.call(people.maker, "GET", f"/v1/proposals/{done['id']}")).json == done
    days = ["2026-01-02", "2026-01-03"]
    for backdating, status in (("strict", "refused"), ("report", "posted")):
        await env.call("PATCH", "/v1/books/main", {"backdating": backdating})
        made = await people.propose(
            post("bank", "shop", 2000), post("ben", "shop", 50), key=backdating, effective_at="2026-01-02T12:00:00Z"
        )
        done = (await people.decide(people.checkers[0], made.json)).json
        assert (done["status"], done["breached_on"]) == (status, days)
        assert (await people.call(people.maker, "GET", f"/v1/proposals/{done['id']}")).json == done
        rows = await env.service.query("SELECT fact FROM outbox ORDER BY position DESC LIMIT 1")
        told = json.loads(rows[0]["fact"])
        assert (told["type"], told["data"]["breached_on"]) == (f"ledger.proposal.{status}", days)


async def test_what_is_dated_ahead_is_refused_before_anybody_is_asked(env: Env) -> None:
    """Approved before its time it would be refused, and approved after it posted."""
    people = await ready(env)
    made = await people.propose(post("anna", "shop", 5000), effective_at="2026-01-02T00:00:00Z")
    assert (problem(made), made.json["reason"]) == ((422, "transfer-refused"), "effective_in_future")
    assert (await people.call(people.maker, "GET", "/v1/proposals")).json["data"] == []


async def test_the_last_approvals_at_once_post_once(env: Env) -> None:
    people = await ready(env)
    proposal = (await people.propose(post("anna", "shop", 4000))).json
    answers = await asyncio.gather(*(people.decide(each, proposal) for each in people.checkers))
    assert sorted(answer.status for answer in answers) == [200, 200, 409]
    assert await env.balance("shop") == ("4000", "0", "4000")


async def test_rules_that_can_not_be_met(env: Env) -> None:
    people = People(env)
    rule = {"currency": "EUR", "above": "1", "approvals": 1, "approvers": [people.checkers[0].client]}
    changes: tuple[dict[str, Any], ...] = (
        {"approvals": 2},
        {"approvals": 0},
        {"approvers": []},
        {"approvers": ["anna"]},
        {"above": "-1"},
        {"above": "1.5"},
        {"currency": "XXY"},
        {"expires_in": 1},
        {"pattern": "a::b"},
    )
    for change in changes:
        answer = await people.call(people.maker, "PUT", "/v1/books/main/approvals", {"rules": [{**rule, **change}]})
        assert answer.status in (400, 422), (change, answer.content)
    assert (await people.call(people.maker, "GET", "/v1/books/main/approvals")).json == {"book": "main", "rules": []}
    assert problem(await people.call(people.maker, "GET", "/v1/books/none/approvals")) == (404, "book-not-found")


async def test_a_rule_for_some_accounts_is_for_those(env: Env) -> None:
    people = await ready(env, approvals=1, pattern="anna")
    await env.account(path="bert")
    await env.transfers(post("bank", "bert", 5000))
    assert (await people.propose(post("bert", "shop", 5000))).status == 201
    assert (await people.propose(post("anna", "shop", 5000), key="k2")).status == 202


RULE = ApprovalRule("EUR", 100, 1, ("cli_a",), 60)


def test_a_plan_that_was_kept_before_a_command_could_say_more_is_still_read() -> None:
    plan = Plan(Header(id=TransactionId(tid(9))), (hold(1, 1, 2, 50, expires_in=10),))
    assert planned(kept(plan)) == plan
    document = json.loads(kept(plan))
    assert document["commands"][0].pop("expires_at") is None
    assert planned(json.dumps(document)) == plan


@given(st.lists(st.integers(1, 200), max_size=6))
def test_amounts_count_together(amounts: list[int]) -> None:
    moves = [Movement("a", "b", amount, "EUR") for amount in amounts] + [Movement("a", "b", 10**9, "USD")]
    assert bool(needed([RULE], moves)) == (sum(amounts) > 100)


@given(st.lists(st.sampled_from(["cli_a", "cli_b", "cli_c"])), st.lists(st.sampled_from(["cli_a", "cli_b"])))
def test_each_rule_is_met_by_its_own_approvers(approved: list[str], rejected: list[str]) -> None:
    rules = [ApprovalRule("EUR", 0, 1, ("cli_a",), 60), ApprovalRule("EUR", 0, 2, ("cli_a", "cli_b"), 60)]
    decisions = [Signed(each, "approve", START, "") for each in approved]
    decisions += [Signed(each, "reject", START, "") for each in rejected]
    met = {"cli_a", "cli_b"} <= set(approved)
    assert (missing(rules, decisions) <= 0) == met
