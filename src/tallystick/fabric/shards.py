"""Several shards of a service from its one charter. Each shard is a deployment with everything of its own.

A charter says by `scale.shards` that its service may have shards. This module makes a charter for each deployment, by its name. From
these all renderers derive databases and roles, logins at bus and store, identities, proxy routes and access rules, as for any service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from tallystick.chassis.charter import OPERATOR, Charter
from tallystick.kernel.deployment import HOME, deployment


def with_shards(charters: Mapping[str, Charter], shards: Iterable[str]) -> dict[str, Charter]:
    """The charters of all deployments: each service's own, and one for each of `shards` of the services that can have some.

    If a charter lets its service call itself, that becomes calls between its shards; no shard calls itself. In everything else that
    it calls or consumes, a shard is like the one at home. Other services call the shard at home only, and consume the facts of all.
    """
    shards = list(dict.fromkeys(shards))
    if not shards:
        return dict(charters)
    named = {
        name: [deployment(name, shard) for shard in (HOME, *(shards if charter.scale.shards else ()))]
        for name, charter in charters.items()
    }
    return {one: _of(one, charter, named) for name, charter in charters.items() for one in named[name]}


def _of(one: str, charter: Charter, named: Mapping[str, list[str]]) -> Charter:
    """The charter of the deployment `one`; `named` are the deployments of each service."""
    service = charter.name
    siblings = [other for other in named[service] if other != one]
    return msgspec.structs.replace(
        charter,
        service=msgspec.structs.replace(charter.service, name=one),
        calls={
            to: call for target, call in charter.calls.items() for to in (siblings if target == service else [target])
        },
        callers={
            by: actions
            for caller, actions in charter.callers.items()
            for by in _callers(one, service, caller, siblings, named)
        },
        consumes={
            source: consumption for told, consumption in charter.consumes.items() for source in named.get(told, [told])
        },
    )


def _callers(one: str, service: str, caller: str, siblings: list[str], named: Mapping[str, list[str]]) -> list[str]:
    if caller == OPERATOR:
        return [OPERATOR]
    if caller == service:
        return siblings
    return named[caller] if one == service else []
