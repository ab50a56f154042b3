"""What a subject may do, in Cedar (https://docs.cedarpolicy.com), decided in this process.

Principal `Client::"cli_..."` {tenant, scopes, caller}, action `Action::"createPayment"`, resource `Payment::"pay_..."` {tenant, ...}.

Two things are added to Cedar. *An evaluation error denies, and is logged as an error*: Cedar skips a policy that fails to
evaluate, so a `forbid` with an error in it would silently stop forbidding. And *decisions are cached*: a decision is a pure
function of what the policy can see, and one evaluation costs 45-110 us.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import cedarpy
import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.auth.subject import Attribute, Resource, Subject
from tallystick.kernel.problem import Forbidden

_NOTHING: Mapping[str, Attribute] = {}
_CLIENT = "Client"


class Decision(msgspec.Struct, frozen=True):
    """`reasons` are the ids of the policies that decided. `errors` is what failed to evaluate; with any, `allowed` is false."""

    allowed: bool
    reasons: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class Authorizer:
    """One policy set. Raises ValueError for a policy that doesn't parse or has template slots, which nothing here would fill."""

    def __init__(self, policy: str, schema: str | None = None, *, remembered: int = 8192) -> None:
        parsed = json.loads(cedarpy.policies_to_json_str(policy))
        if parsed["templates"]:
            msg = "policy templates are not supported: write the policy out"
            raise ValueError(msg)
        self._policies = cedarpy.PolicySet.from_str(policy)
        self._schema = cedarpy.Schema.from_str(schema) if schema is not None else None
        if schema is not None and not (checked := cedarpy.validate_policies(policy, schema)).validation_passed:
            msg = f"the policy doesn't fit its schema: {[str(error) for error in checked.errors]}"
            raise ValueError(msg)
        # An id is part of a decision's key only if the policy can tell two ids apart. Otherwise each new payment would be evaluated.
        self._sees_client = can_see_id(parsed, "principal")
        self._sees_resource = can_see_id(parsed, "resource")
        self._remembered = remembered
        self._decisions: OrderedDict[tuple[object, ...], Decision] = OrderedDict()

    @classmethod
    def load(cls, package: str) -> "Authorizer":
        """The `policy.cedar` (and `policy.cedarschema`, if there is one) of a service's package."""
        folder = resources.files(package)
        schema = folder / "policy.cedarschema"
        return cls((folder / "policy.cedar").read_text(), schema.read_text() if schema.is_file() else None)

    def require(
        self, subject: Subject, *, action: str, resource: Resource, context: Mapping[str, Attribute] | None = None
    ) -> None:
        """Return if the policy allows it, otherwise raise `Forbidden` (403).

        An object of another tenant is answered 404, but not by this check: queries are scoped by tenant, so the service does not
        find the object.
        """
        decision = self.decide(subject, action=action, resource=resource, context=context)
        if not decision.allowed:
            raise Forbidden(
                f"The policy doesn't let this client {action} here.",
                context={"client": subject.client_id, "action": action, "policies": list(decision.reasons)},
            )

    def decide(
        self, subject: Subject, *, action: str, resource: Resource, context: Mapping[str, Attribute] | None = None
    ) -> Decision:
        context = context or _NOTHING
        key = (
            subject.client_id if self._sees_client else None,
            subject.tenant,
            subject.scopes,
            subject.caller,
            action,
            resource.type,
            resource.id if self._sees_resource else None,
            _is_itself(subject, resource),
            _hashable(resource.attrs),
            _hashable(context),
        )
        if (decision := self._decisions.get(key)) is not None:
            self._decisions.move_to_end(key)
            return decision
        decision = self._evaluate(subject, action, resource, context)
        self._decisions[key] = decision
        if len(self._decisions) > self._remembered:
            self._decisions.popitem(last=False)
        return decision

    def _evaluate(
        self, subject: Subject, action: str, resource: Resource, context: Mapping[str, Attribute]
    ) -> Decision:
        # Ids are passed as {type, id} and never as Cedar text, so there is no quoting to get wrong.
        client, target = {"type": _CLIENT, "id": subject.client_id}, {"type": resource.type, "id": resource.id}
        facts: dict[str, Attribute] = {"tenant": subject.tenant, "scopes": subject.scopes, "caller": subject.caller}
        try:
            if _is_itself(subject, resource):
                # Principal and resource are one entity. What authentication knows overrides what the service says.
                entities = [{"uid": client, "attrs": _cedar({**resource.attrs, **facts}), "parents": []}]
            else:
                entities = [
                    {"uid": client, "attrs": _cedar(facts), "parents": []},
                    {"uid": target, "attrs": _cedar(resource.attrs), "parents": []},
                ]
            request = {
                "principal": client,
                "action": {"type": "Action", "id": action},
                "resource": target,
                "context": _cedar(context),
            }
            result = cedarpy.is_authorized(request, self._policies, json.dumps(entities), self._schema)
            errors = tuple(result.diagnostics.errors)
            allowed, reasons = result.allowed, tuple(result.diagnostics.reasons)
        except (ValueError, TypeError) as error:  # entities that Cedar can't read or that don't fit the schema
            allowed, reasons, errors = False, (), (str(error),)
        if errors:
            telemetry.log.error("policy.evaluation_failed", action=action, client=subject.client_id, reason=errors[0])
            return Decision(allowed=False, reasons=reasons, errors=errors)
        return Decision(allowed=allowed, reasons=reasons)


def _is_itself(subject: Subject, resource: Resource) -> bool:
    """Whether the client asks about itself. A policy then sees other attributes of the resource than of another client's."""
    return resource.id == subject.client_id and resource.type == _CLIENT


def can_see_id(parsed: Mapping[str, Any], variable: str) -> bool:
    """Whether any policy (in Cedar's JSON form) can tell apart two entities of the same type with equal attributes.

    `variable.attr`, `variable has attr` and `variable is Type` depend on attributes and type only. Any other mention of the
    variable, of an operator known here or not, counts as seeing the id.
    """
    return any(
        "entity" in (scope := policy[variable]) or "in" in scope or "slot" in scope or scope["op"] not in {"All", "is"}
        for policy in parsed["staticPolicies"].values()
    ) or any(
        _mentions_bare(condition["body"], variable)
        for policy in parsed["staticPolicies"].values()
        for condition in policy.get("conditions", ())
    )


def _mentions_bare(node: object, variable: str) -> bool:
    if isinstance(node, dict):
        if node.get("Var") == variable:
            return True
        return any(_mentions_bare(child, variable) for child in _looked_at(node, variable))
    return isinstance(node, list) and any(_mentions_bare(child, variable) for child in node)


def _looked_at(node: dict[str, Any], variable: str) -> Iterator[object]:
    """The children of a node, leaving out the variable where only its attributes or its type matter."""
    for operator, operands in node.items():
        harmless = operator in {".", "has"} or (
            operator == "is" and isinstance(operands, dict) and "in" not in operands
        )
        if harmless and isinstance(operands, dict) and operands.get("left") == {"Var": variable}:
            yield from (child for name, child in operands.items() if name != "left")
        else:
            yield operands


def _hashable(attrs: Mapping[str, Attribute]) -> tuple[object, ...]:
    # With the type of each value: 1, 1.0 and True are equal in Python, but not in Cedar.
    return tuple((name, value.__class__, value) for name, value in attrs.items())


def _cedar(attrs: Mapping[str, object]) -> dict[str, Any]:
    """Attributes as Cedar's JSON. Raises TypeError for a value that isn't an `Attribute`: an object could smuggle an entity in."""
    out: dict[str, Any] = {}
    for name, value in attrs.items():
        if not isinstance(value, (str, int, frozenset)):
            msg = f"{name} is a {type(value).__name__}, which a policy can't look at"
            raise TypeError(msg)
        out[name] = sorted(value) if isinstance(value, frozenset) else value
    return out
