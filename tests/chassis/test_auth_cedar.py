"""Cedar decisions: deny by default, errors deny, and a remembered decision is never given to another question."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.chassis.auth import Attribute, Authorizer, InsufficientScope, Resource, Subject
from tallystick.chassis.auth.cedar import can_see_id
from tallystick.chassis.telemetry.logs import captured
from tallystick.kernel.problem import Forbidden

POLICY = """
@id("clients-pay")
permit(principal is Client, action == Action::"createPayment", resource is Payment)
when { principal.scopes.contains("payments:write") && resource.tenant == principal.tenant };

@id("risk-posts-nothing")
forbid(principal, action, resource) when { principal.caller == "risk" };
"""


def subject(tenant: str = "acme", *scopes: str, client: str = "cli_1", caller: str = "") -> Subject:
    return Subject(
        tenant=tenant,
        client_id=client,
        scopes=frozenset(scopes),
        token_id="t",
        actor=client,
        expires_at=datetime(2030, 1, 1, tzinfo=UTC),
        caller=caller,
    )


def payment(tenant: str = "acme", name: str = "pay_1", **attrs: Attribute) -> Resource:
    return Resource("Payment", name, {"tenant": tenant, **attrs})


def test_allowed_with_the_policys_id() -> None:
    decision = Authorizer(POLICY).decide(subject("acme", "payments:write"), action="createPayment", resource=payment())
    assert decision.allowed
    assert len(decision.reasons) == 1


@pytest.mark.parametrize(
    ("who", "action", "what"),
    [
        (subject("acme", "payments:read"), "createPayment", payment()),
        (subject("acme"), "createPayment", payment()),
        (subject("acme", "payments:write"), "createPayment", payment("other")),
        (subject("other", "payments:write"), "createPayment", payment()),
        (subject("acme", "payments:write"), "readPayment", payment()),
        (subject("acme", "payments:write"), "createPayment", Resource("Refund", "r", {"tenant": "acme"})),
        (subject("acme", "payments:write", caller="risk"), "createPayment", payment()),
        (subject("acme", "payments:write"), 'createPayment", resource); permit(principal, action', payment()),
    ],
)
def test_denied(who: Subject, action: str, what: Resource) -> None:
    authorizer = Authorizer(POLICY)
    authorizer.require(subject("acme", "payments:write"), action="createPayment", resource=payment())
    with pytest.raises(Forbidden):
        authorizer.require(who, action=action, resource=what)


def test_an_empty_policy_denies() -> None:
    assert not Authorizer("").decide(subject(), action="x", resource=payment()).allowed


def test_an_error_in_a_forbid_denies_and_is_an_alert() -> None:
    """Cedar alone would allow this: it skips the policy that it could not evaluate."""
    authorizer = Authorizer(
        "permit(principal, action, resource); forbid(principal, action, resource) when { context.risk > 3 };"
    )
    with captured() as lines:
        decision = authorizer.decide(subject(), action="x", resource=payment())
    assert not decision.allowed
    assert decision.errors
    assert [(line["level"], line["event"], line["action"]) for line in lines] == [
        ("error", "policy.evaluation_failed", "x")
    ]
    assert not lines[0].get("dropped")
    assert authorizer.decide(subject(), action="x", resource=payment(), context={"risk": 3}).allowed
    assert not authorizer.decide(subject(), action="x", resource=payment(), context={"risk": 4}).allowed


@pytest.mark.parametrize("value", [{"__entity": {"type": "Client", "id": "cli_admin"}}, ["a"], None, 1.5, b"x", 2**63])
def test_values_that_no_policy_may_see_deny(value: object) -> None:
    authorizer = Authorizer("permit(principal, action, resource);")
    what = Resource("Payment", "p", {"tenant": "acme", "odd": value})  # type: ignore[dict-item]
    try:
        assert not authorizer.decide(subject(), action="x", resource=what).allowed
    except TypeError:
        assert isinstance(value, (dict, list))  # not even a key


def test_a_client_asking_about_itself_can_not_lend_itself_scopes() -> None:
    authorizer = Authorizer('permit(principal, action, resource) when { principal.scopes.contains("admin") };')
    itself = Resource("Client", "cli_1", {"tenant": "acme", "scopes": frozenset({"admin"}), "name": "shop"})
    assert not authorizer.decide(subject("acme", "x"), action="x", resource=itself).allowed
    assert authorizer.decide(subject("acme", "admin"), action="x", resource=itself).allowed


def test_what_a_client_may_ask_about_itself_is_not_remembered_for_another_client() -> None:
    """A client that asks about itself is one entity with its own scopes, which another client's has not."""
    authorizer = Authorizer(
        'permit(principal, action, resource) when { resource has scopes && resource.scopes.contains("admin") };'
    )
    who = subject("acme", "admin", client="cli_1")
    for name, allowed in (("cli_1", True), ("cli_2", False), ("cli_1", True)):
        about = Resource("Client", name, {"tenant": "acme"})
        assert authorizer.decide(who, action="x", resource=about).allowed == allowed


@pytest.mark.parametrize("text", ["permit(", "permit(principal == ?principal, action, resource);", "allow all"])
def test_policies_that_are_not_taken(text: str) -> None:
    with pytest.raises(ValueError):
        Authorizer(text)


def test_policy_must_fit_its_schema() -> None:
    schema = """
    entity Client = { tenant: String, scopes: Set<String>, caller: String };
    entity Payment = { tenant: String };
    action createPayment appliesTo { principal: Client, resource: Payment, context: {} };
    """
    authorizer = Authorizer(POLICY, schema)
    assert authorizer.decide(subject("acme", "payments:write"), action="createPayment", resource=payment()).allowed
    other = payment(amount=5)
    assert not authorizer.decide(subject("acme", "payments:write"), action="createPayment", resource=other).allowed
    with pytest.raises(ValueError, match="schema"):
        Authorizer(
            'permit(principal, action == Action::"createPayment", resource) when { resource.tenat == "x" };', schema
        )


def test_load_reads_the_packages_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "one_service"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "policy.cedar").write_text("permit(principal, action, resource);")
    monkeypatch.syspath_prepend(tmp_path)
    assert Authorizer.load("one_service").decide(subject(), action="x", resource=payment()).allowed


def test_scope() -> None:
    subject("acme", "payments:write").require_scope("payments:write")
    with pytest.raises(InsufficientScope) as caught:
        subject("acme", "payments:write").require_scope("refunds:write")
    assert caught.value.status == 403
    assert 'error="insufficient_scope", scope="refunds:write"' in caught.value.headers["WWW-Authenticate"]


# ---- remembering -----------------------------------------------------------------------------------------------------


def test_decisions_are_remembered_within_bounds_whatever_the_ids() -> None:
    authorizer = Authorizer(POLICY, remembered=3)
    for number in range(10):
        who = subject("acme", "payments:write", client=f"cli_{number}")
        authorizer.require(who, action="createPayment", resource=payment(name=f"pay_{number}"))
    assert len(authorizer._decisions) == 1
    for number in range(10):
        authorizer.decide(subject(f"t{number}"), action="createPayment", resource=payment())
    assert len(authorizer._decisions) == 3


@pytest.mark.parametrize(
    ("policy", "yes", "no"),
    [
        ('permit(principal, action, resource == Payment::"pay_1");', {}, {"name": "pay_2"}),
        ('permit(principal == Client::"cli_1", action, resource);', {}, {"client": "cli_2"}),
        ("permit(principal, action, resource) when { resource.a == 1 };", {"a": 1}, {"a": True}),
        ("permit(principal, action, resource) when { context.n == true };", {"n": True}, {"n": 1}),
        ("permit(principal, action, resource) when { context.n == true };", {"n": True}, {"n": 0}),
        ('permit(principal, action, resource is Payment) when { resource.a == "1" };', {"a": "1"}, {"a": 1}),
    ],
)
def test_near_questions_are_different_questions(policy: str, yes: dict[str, Any], no: dict[str, Any]) -> None:
    for order in ((True, False), (False, True)):
        authorizer = Authorizer(policy)
        for expected in order:
            given = yes if expected else no
            what = payment(name=given.get("name", "pay_1"), **{key: given[key] for key in given if key == "a"})
            context = {key: given[key] for key in given if key == "n"}
            who = subject(client=given.get("client", "cli_1"))
            assert authorizer.decide(who, action="x", resource=what, context=context).allowed == expected


SEES_IDS = [
    ('permit(principal, action, resource == Payment::"pay_1");', "resource"),
    ('permit(principal, action, resource in Payment::"pay_1");', "resource"),
    ('permit(principal, action, resource is Payment in Payment::"pay_1");', "resource"),
    ('permit(principal == Client::"cli_1", action, resource);', "principal"),
    ('permit(principal, action, resource) when { resource == Payment::"pay_1" };', "resource"),
    ('permit(principal, action, resource) when { [Client::"cli_1"].contains(principal) };', "principal"),
    ('permit(principal, action, resource) when { !(resource is Payment in Payment::"pay_1") };', "resource"),
    ("permit(principal, action, resource) when { if true then resource == resource else false };", "resource"),
    ("permit(principal, action, resource) unless { principal == resource };", "principal"),
    ("permit(principal, action, resource) unless { principal == resource };", "resource"),
    ('permit(principal, action, resource) when { {"a": resource}.a == Payment::"pay_1" };', "resource"),
    ('permit(principal, action, resource) when { resource in [Payment::"pay_1"] };', "resource"),
]


@pytest.mark.parametrize(("policy", "variable"), SEES_IDS)
def test_policies_that_can_see_ids(policy: str, variable: str) -> None:
    import json

    import cedarpy

    assert can_see_id(json.loads(cedarpy.policies_to_json_str(policy)), variable)


@pytest.mark.parametrize(
    "policy",
    [
        POLICY,
        'permit(principal, action, resource) when { resource has tenant && resource.tenant like "a*" };',
        "permit(principal, action, resource) when { resource is Payment && context.n > 3 };",
    ],
)
def test_policies_that_can_not(policy: str) -> None:
    import json

    import cedarpy

    parsed = json.loads(cedarpy.policies_to_json_str(policy))
    assert not can_see_id(parsed, "resource")
    assert not can_see_id(parsed, "principal")


_names = st.sampled_from(["acme", "other"])
_questions = st.builds(
    lambda tenant, scopes, client, caller, action, what, context: (
        subject(tenant, *scopes, client=client, caller=caller),
        action,
        what,
        context,
    ),
    _names,
    st.lists(st.sampled_from(["payments:write", "payments:read"]), max_size=2),
    st.sampled_from(["cli_1", "cli_2"]),
    st.sampled_from(["", "risk", "payments"]),
    st.sampled_from(["createPayment", "readPayment"]),
    st.builds(
        lambda kind, name, tenant, more: Resource(kind, name, {"tenant": tenant, **more}),
        st.sampled_from(["Payment", "Refund"]),
        st.sampled_from(["pay_1", "pay_2"]),
        _names,
        st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([1, True, "1", frozenset({"1"})]), max_size=2),
    ),
    st.dictionaries(st.sampled_from(["n"]), st.sampled_from([0, 1, True, "1"]), max_size=1),
)
_policies = st.lists(
    st.sampled_from(
        [
            POLICY,
            'permit(principal == Client::"cli_1", action, resource);',
            'forbid(principal, action, resource == Payment::"pay_2");',
            "permit(principal, action, resource) when { context has n && context.n == 1 };",
            "permit(principal, action, resource) when { resource has a && resource.a == true };",
            'forbid(principal, action, resource) when { resource has b && resource.b == "1" };',
        ]
    ),
    min_size=1,
    max_size=3,
    unique=True,
)


@settings(max_examples=60)
@given(_policies, st.lists(_questions, max_size=25))
def test_a_remembered_decision_is_the_one_that_would_be_made(
    policies: list[str], questions: list[tuple[Subject, str, Resource, dict[str, Attribute]]]
) -> None:
    with captured():
        text = "\n".join(policies)
        remembering, fresh = Authorizer(text), Authorizer(text, remembered=0)
        for who, action, what, context in questions:
            asked = {"action": action, "resource": what, "context": context}
            assert remembering.decide(who, **asked).allowed == fresh.decide(who, **asked).allowed  # type: ignore[arg-type]
