"""A diagram of the services, from the charters: which are reachable from outside, who calls whom, who consumes whose facts.

In Mermaid, because that is text: README and documentation can show it, and a change of it is a readable diff.
"""

from __future__ import annotations

from collections.abc import Mapping

from tallystick.chassis.charter import OPERATOR, Charter

#: Left out as a target: every service calls identity for the keys of tokens, so an arrow from each would say nothing.
COMMON = "identity"


def mermaid(charters: Mapping[str, Charter]) -> str:
    """A flowchart. Thick arrows are calls (time budget, and what happens without an answer), dotted ones are facts on the bus."""
    lines = ["flowchart LR", '    client(["API client"]) -->|"TLS 1.3, DPoP or certificate"| edge["Envoy, the edge"]']
    for name, charter in charters.items():
        if charter.edge.paths:
            lines.append(f'    edge -->|"{"<br>".join(path.prefix for path in charter.edge.paths)}"| {name}')
    for name, charter in charters.items():
        for target, call in charter.calls.items():
            if target != COMMON:
                lines.append(f'    {name} ==>|"{call.timeout_ms} ms, {call.when_down}"| {target}')
    lines += [f'    operator(["operator"]) ==> {name}' for name, each in charters.items() if OPERATOR in each.callers]
    for name, charter in charters.items():
        lines += [f"    {source} -.-> {name}" for source in charter.consumes]
    for name, charter in charters.items():
        outside = sorted({recipient for data in charter.data.values() for recipient in data.recipients})
        lines += [f'    {name} --> {name}_{number}(["{to}"])' for number, to in enumerate(outside)]
    return "\n".join(lines) + "\n"
