"""What the types of the schema can't express: contradictions within a charter and between charters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tallystick.chassis.charter.faults import nearest
from tallystick.chassis.charter.schema import ABOUT_PEOPLE, DURATION_BOUNDS_MS, FILE, OPERATOR, Charter
from tallystick.kernel.patterns import matches


def disagreements(charters: Mapping[str, Charter]) -> Iterator[tuple[str, str, str, str]]:
    """The contradictions between charters: (service, key, what, remedy)."""
    owners: dict[str, str] = {}
    for name, charter in charters.items():
        for target, call in charter.calls.items():
            key = f"calls.{target}"
            if target not in charters:
                yield name, key, "no such service", nearest(target, charters, "Remove the section, or")
                continue
            allowed = charters[target].callers.get(name, ())
            for action in sorted(set(call.actions) - set(allowed)):
                yield (
                    name,
                    f"{key}.actions",
                    f'"{action}" is not allowed by {target}',
                    f"Remove it here, or let {target}'s owner add it to [callers] {name} in {target}/{FILE}.",
                )
        for caller, actions in charter.callers.items():
            key = f"callers.{caller}"
            if caller == OPERATOR:
                continue
            if caller not in charters:
                yield name, key, "no such service", nearest(caller, charters, "Remove the line, or")
                continue
            call_back = charters[caller].calls.get(name)
            unused = set(actions) - set(call_back.actions if call_back else ())
            if unused:
                yield (
                    name,
                    key,
                    f"allows {', '.join(sorted(unused))}, which {caller} does not call",
                    f"Remove it (least privilege), or add it to [calls.{name}] in {caller}/{FILE}.",
                )
        for source, consumption in charter.consumes.items():
            if source not in charters:
                yield name, f"consumes.{source}", "no such service", nearest(source, charters, "Remove it, or")
                continue
            facts = charters[source].facts
            for pattern in consumption.types:
                if not any(matches((pattern,), type_) for type_ in facts):
                    remedy = nearest(pattern, facts, f"Let {source}'s owner add it to [tells] in {source}/{FILE}, or")
                    yield name, f"consumes.{source}.types", f'{source} tells nothing like "{pattern}"', remedy
        for path in charter.edge.paths:
            for other_prefix, other in owners.items():
                if other != name and _covers(path.prefix, other_prefix):
                    yield (
                        name,
                        "edge.paths",
                        f"{path.prefix} and {other_prefix} of {other} overlap",
                        "Give one of them another prefix.",
                    )
            owners[path.prefix] = name


def contradictions(charter: Charter) -> Iterator[tuple[str, str, str]]:
    """Faults that types can't express: (key, what, remedy)."""
    name = charter.name
    if name == OPERATOR:
        yield "service.name", f'"{OPERATOR}" is the name of those who run the platform', "Choose another name."
    for section, names in (("calls", charter.calls), ("callers", charter.callers), ("consumes", charter.consumes)):
        if section != "consumes" and name in names and not charter.scale.shards:
            yield (
                f"{section}.{name}",
                "a service does not call itself",
                "Remove it; call the function. (One in shards calls the others: scale.shards.)",
            )
    for caller, actions in charter.callers.items():
        if not actions or len(set(actions)) != len(actions):
            yield f"callers.{caller}", "the list is empty or names an action twice", "List each allowed action once."
    for target, call in charter.calls.items():
        if len(set(call.actions)) != len(call.actions):
            yield f"calls.{target}.actions", "an action is named twice", "List each action once."
        if call.degrade_up_to_euro and call.when_down != "degrade":
            yield (
                f"calls.{target}.degrade_up_to_euro",
                f'nothing goes on without an answer where when_down is "{call.when_down}"',
                'Remove it, or write when_down = "degrade".',
            )
    for source, consumption in charter.consumes.items():
        for fact in consumption.types:
            if fact.split(".", 1)[0] != source:
                yield (
                    f"consumes.{source}.types",
                    f'"{fact}" is not a fact of {source}',
                    f"A service's facts begin with its name: {source}.*",
                )
    for index, path in enumerate(charter.edge.paths):
        if path.rate not in charter.limits.rates:
            yield (
                f"edge.paths[{index}].rate",
                f'"{path.rate}" is not a class of [limits.rates]',
                nearest(path.rate, charter.limits.rates, f"Add [limits.rates.{path.rate}], or"),
            )
        for keyed in path.keyed:
            if not _covers(path.prefix, keyed):
                yield (
                    f"edge.paths[{index}].keyed",
                    f"{keyed} is not below {path.prefix}",
                    "Write it at the path that it is below.",
                )
        if path.prefix.startswith(("/internal", "/health", "/metrics", "/openapi")):
            yield (
                f"edge.paths[{index}].prefix",
                f"{path.prefix} is never reachable from outside by a charter",
                "Take another prefix; /internal is the mesh's, the others are the chassis' own.",
            )
    for category, data in charter.data.items():
        if data.data_class in ABOUT_PEOPLE and data.basis == "none needed":
            yield (
                f"data.{category}.basis",
                f"{data.data_class} data needs a lawful basis (GDPR Art. 6)",
                "Name contract, legal obligation, legitimate interests or consent.",
            )
        if data.data_class in ("cardholder", "sensitive-authentication") and charter.keys is None:
            yield "keys", f"{data.data_class} data ({category}) needs a key ring", "Add a [keys] section."
    limits = charter.limits
    if not limits.lock_timeout_ms <= limits.statement_timeout_ms <= limits.transaction_timeout_ms:
        yield (
            "limits",
            "the database's timeouts are out of order",
            "Keep lock_timeout_ms <= statement_timeout_ms <= transaction_timeout_ms.",
        )
    if charter.slo.p99_ms not in DURATION_BOUNDS_MS:
        bounds = ", ".join(f"{bound:g}" for bound in DURATION_BOUNDS_MS if isinstance(bound, int))
        yield (
            "slo.p99_ms",
            f"{charter.slo.p99_ms} is not a bound by which durations are counted",
            f"Use one of {bounds}.",
        )
    if charter.scale.min_replicas > charter.scale.max_replicas:
        yield "scale", "min_replicas is above max_replicas", "Swap them."


def _covers(one: str, other: str) -> bool:
    """Whether one of two path prefixes is equal to or below the other, by whole segments."""
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")
