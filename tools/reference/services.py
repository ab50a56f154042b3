"""One page for each service: its README, its endpoints and messages, its calls."""

from __future__ import annotations

import re
from importlib import import_module

from tallystick.chassis.charter import load
from tallystick.chassis.keys.told import key_facts
from tallystick.chassis.web import Endpoint, openapi
from tallystick.kernel.deployment import HOME
from tools.reference.text import GENERATED, SRC, Schema, anchor, cell, default, kind, lists_apart, prose


def service_page(name: str) -> str:
    endpoints = tuple(import_module(f"tallystick.services.{name}.api").ENDPOINTS)
    charter = load(name)
    lines = [GENERATED, lists_apart((SRC / "services" / name / "README.md").read_text(encoding="utf-8").strip()), ""]
    edge = [row for row in endpoints if not row.mesh]
    inner = [row for row in endpoints if row.mesh]
    document = openapi(name, endpoints, shards=(HOME,) if charter.scale.shards else ())
    if edge:
        lines += ["## Endpoints at the edge", "", "| endpoint | scope | rate | key | |", "|---|---|---|---|---|"]
        for row in edge:
            scope = f"`{row.scope}`" if row.scope else "public"
            lines.append(
                f"| [`{row.where}`](#{anchor(row.where)}) | {scope} | {row.rate or ''} | {row.idempotency or ''} | {row.summary} |"
            )
        for row in edge:
            lines += ["", *endpoint_section(row, document)]
        if charter.scale.shards:
            lines += [
                "",
                "Each takes the header `Tallystick-Shard`: which shard it is for, if not for the one at home.",
            ]
        lines += ["", "## Messages", "", *messages(document["components"]["schemas"])]
    if inner:
        lines += ["## Endpoints inside the mesh", "", "Reached over mTLS by the named callers only.", ""]
        lines += ["| endpoint | callers | |", "|---|---|---|"]
        lines += [f"| `{row.where}` | {', '.join(row.mesh)} | {row.summary} |" for row in inner]
        lines.append("")
    if charter.calls:
        lines += ["## Calls", "", "| service | waits | retries | when it is down |", "|---|---|---|---|"]
        for target, call in charter.calls.items():
            lines.append(f"| {target} | {call.timeout_ms} ms | {call.retries} | {call.when_down}: {call.note} |")
        lines.append("")
    if charter.tells:
        lines += [
            "## Tells",
            "",
            "As [facts](../facts.md), with the fields that are listed there.",
            "",
            "| fact | |",
            "|---|---|",
        ]
        lines += [f"| `{type_}` | {cell(told.means)} |" for type_, told in (charter.facts | key_facts(charter)).items()]
        lines.append("")
    if charter.consumes:
        lines += ["## Hears", ""]
        lines += [f"- `{'`, `'.join(each.types)}`: {each.purpose}" for each in charter.consumes.values()]
        lines.append("")
    if charter.controls:
        lines += ["## Controls", "", "| regulation | requirement | how | proof |", "|---|---|---|---|"]
        lines += [f"| {c.regulation} | {c.requirement} | {c.how} | `{c.proof}` |" for c in charter.controls]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def endpoint_section(row: Endpoint, document: Schema) -> list[str]:
    path = re.sub(r"\{(\w+):path\}", r"{\1}", row.path)
    operation = document["paths"][path][row.method.lower()]
    lines = [f"### `{row.where}`", "", row.summary + ".", ""]
    if row.public is not None:
        lines += [f"Public: {row.public}.", ""]
    query = [p for p in operation["parameters"] if p["in"] == "query"]
    if query:
        lines += ["| query | | |", "|---|---|---|"]
        lines += [f"| `{p['name']}` | {kind(p['schema'])} | {default(p['schema'])} |" for p in query]
        lines.append("")
    if "requestBody" in operation:
        (content,) = operation["requestBody"]["content"].values()
        lines += [f"Body: {kind(content['schema'])}.", ""]
    answer = operation["responses"][str(row.status)].get("content", {})
    said = "; ".join(f"{kind(each['schema'])} (`{media}`)" for media, each in answer.items())
    lines.append(f"Answer: {row.status}{': ' + said if said else ''}.")
    for status, (meaning, other) in sorted(row.further.items()):
        same = "the same" if other is None else kind(schema_of(operation, status))
        lines.append(f"Or {same} with {status}: {meaning[0].lower()}{meaning[1:]}.")
    if row.problems:
        links = sorted({f"[{p.slug}](../../problems/index.md#{p.slug}) ({p.status})" for p in row.problems})
        lines += ["", f"Problems of its own: {', '.join(links)}."]
    return lines


def schema_of(operation: Schema, status: int) -> Schema:
    """Of the answer with this status."""
    (content,) = operation["responses"][str(status)]["content"].values()
    found: Schema = content["schema"]
    return found


def messages(schemas: Schema) -> list[str]:
    lines = []
    for name, schema in schemas.items():
        lines += [f"### {name}", ""]
        if "description" in schema:
            lines += [prose(schema["description"]), ""]
        if "properties" in schema:
            lines += ["| field | type | |", "|---|---|---|"]
            required = set(schema.get("required", ()))
            for field, of in schema["properties"].items():
                lines.append(f"| `{field}` | {kind(of)} | {'required' if field in required else default(of)} |")
            lines.append("")
        else:
            lines += [kind(schema), ""]
    return lines
