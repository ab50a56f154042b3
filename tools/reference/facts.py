"""The catalogue of facts, from the charters' [tells] and the messages that they name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import msgspec

from tallystick.chassis.charter import Charter, Told, heard
from tallystick.chassis.keys.told import KeysFact, key_facts
from tallystick.contracts.notify.messages import Webhook
from tallystick.services.notify import model
from tools.reference.structs import field_notes, struct_in
from tools.reference.text import GENERATED, anchor, cell, kind, prose


def facts_page(charters: Mapping[str, Charter]) -> str:
    sent = heard("notify")
    others = {
        type_: told for charter in charters.values() for type_, told in charter.facts.items() if type_ not in sent
    }
    of_keys = {type_: told for charter in charters.values() for type_, told in key_facts(charter).items()}
    lines = [
        GENERATED,
        "# Facts and webhook events",
        "",
        "A fact is something that happened: the service where it did tells it once, in the transaction that made it so. Other services hear",
        "it, the [log](../explanation/audit-log.md) keeps its commitment, and those of some services go out as [webhooks](../how-to/receive-webhooks.md).",
        "Each service's charter says what it tells; a test finds what is told and not said, or said and not told.",
        "",
        "## Webhook events",
        "",
        "An endpoint names events: one, such as `payment.settled`; all of a kind, such as `payment.*`; or `*` for all. An event is the fact without",
        f"the name of its service. What is sent is a [Webhook](#{anchor('Webhook')}), with `data` as said here. Fields may be added to it: ignore those that you",
        "don't know. A payment is told of when it is taken and whenever it comes to rest; none rests `captured`, so no event is called that.",
        "",
        "| event | means | `data` | told by |",
        "|---|---|---|---|",
    ]
    for type_ in sent:
        told = sent[type_]
        service = type_.partition(".")[0]
        lines.append(
            f"| `{model.event_type(type_)}` | {cell(told.means)} | {_link(told)} | [{service}](services/{service}.md) |"
        )
    lines += [
        "",
        "## All other facts",
        "",
        "For those inside of the platform: no webhook is sent of them.",
        "",
        "| fact | means | `data` |",
        "|---|---|---|",
    ]
    lines += [f"| `{type_}` | {cell(told.means)} | {_link(told)} |" for type_, told in (others | of_keys).items()]
    lines += ["", "## Messages"]
    structs = [Webhook, *_messages({**sent, **others}), KeysFact]
    _, schemas = msgspec.json.schema_components(structs)
    for struct in _with_those_inside(structs):
        lines += ["", *_section(struct, schemas[struct.__name__])]
    return "\n".join(lines) + "\n"


def _link(told: Told) -> str:
    return f"[{told.message}](#{anchor(told.message)})" if told.message else "none"


def _messages(facts: Mapping[str, Told]) -> list[type]:
    """What the facts carry, each message once."""
    found: dict[type, None] = {}
    for type_, told in facts.items():
        if told.message:
            module = import_module(f"tallystick.contracts.{type_.partition('.')[0]}.messages")
            found[getattr(module, told.message)] = None
    return list(found)


def _with_those_inside(structs: list[type]) -> list[type]:
    """With the structs that their fields are made of, each after the first that has it. Raises SystemExit for two of one name."""

    def walk(struct: type) -> Iterator[type]:
        yield struct
        for field in msgspec.structs.fields(struct):
            inner = struct_in(field.type)
            if inner is not None and inner is not str:
                yield from walk(inner)

    named: dict[str, type] = {}
    for struct in structs:
        for each in walk(struct):
            if named.setdefault(each.__name__, each) is not each:
                raise SystemExit(f"two messages of facts are called {each.__name__}: a link leads to one of them only")
    return list(named.values())


def _section(struct: Any, schema: Mapping[str, Any]) -> list[str]:
    lines = [f"### {struct.__name__}", ""]
    if struct.__doc__ and not struct.__doc__.startswith(f"{struct.__name__}("):
        lines += [prose(inspect.getdoc(struct) or ""), ""]
    notes = field_notes(struct)
    lines += ["| field | type | | |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(struct):
        absent = "may be left out" if struct.__struct_config__.omit_defaults and not field.required else ""
        said = kind(schema["properties"][field.encode_name])
        lines.append(f"| `{field.encode_name}` | {said} | {absent} | {cell(notes.get(field.name, ''))} |")
    return lines
