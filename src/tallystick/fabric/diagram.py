"""A picture of the services, out of the charters: who is reached from outside, who calls whom, who hears whose facts.

Mermaid, because it is text: it shows in the README and in the documentation, and a change of it is a readable difference.
"""

from __future__ import annotations

from collections.abc import Mapping

from tallystick.chassis.charter import OPERATOR, Charter

#: Every service checks tokens with identity's keys: the same arrow from everybody says nothing in a picture.
COMMON = "identity"


def mermaid(charters: Mapping[str, Charter]) -> str:
    """A flowchart: thick arrows are calls (time budget, what happens without an answer), dotted ones are facts on the bus."""
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
