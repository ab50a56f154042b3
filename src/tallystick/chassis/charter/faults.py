"""What is wrong with a charter, in words that name the file, the key and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec


class CharterError(Exception):
    """A charter that can't be used. `file`, `key` and `remedy` say where and what to do."""

    def __init__(self, file: Path | str, key: str, what: str, remedy: str) -> None:
        self.file, self.key, self.what, self.remedy = str(file), key, what, remedy
        super().__init__(f"{file}: {key}: {what}. {remedy}")


def nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    options = list(known)
    near = difflib.get_close_matches(word, options, n=1)
    return f'Did you mean "{near[0]}"?' if near else f"{otherwise} use one of: {', '.join(options) or '(none)'}."


_AT = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$?(?P<path>[^`]*)`)?$")
_FIELD = re.compile(r"(unknown|missing required) field `([^`]+)`")


def explained(file: Path | str, message: str, schema: type[msgspec.Struct]) -> CharterError:
    """The message of msgspec, with the key in TOML's words and what to do."""
    match = _AT.match(message)
    what, path = (match["what"], match["path"] or "") if match else (message, "")
    key = path.removeprefix(".")
    field = _FIELD.search(what)
    if field and field[1] == "unknown":
        full = f"{key}.{field[2]}".removeprefix(".")
        return CharterError(file, full, "unknown key", nearest(field[2], _keys_at(key, schema), "Remove it, or"))
    if field:
        return CharterError(file, f"{key}.{field[2]}".removeprefix("."), "is missing", "Add it.")
    remedy = "Correct the value."
    if "matching regex" in what:
        remedy = f"Expected {_MEANING.get(key.rsplit('.', 1)[-1].split('[')[0], 'text of that form')}."
    elif "Invalid enum value" in what:
        remedy = "Take one of the words that the schema in tallystick/chassis/charter/schema.py lists."
    return CharterError(file, key or "(top)", what[:1].lower() + what[1:], remedy)


_MEANING = {
    "actions": 'a method and a path below /internal, like "POST /internal/transfers"',
    "callers": 'a method and a path below /internal, like "POST /internal/transfers"',
    "retention": '"90 days", "10 years", "until erased" or "for ever"',
    "data": 'a name like "card-numbers"',
    "keyed": 'a path of the endpoint table, like "/v1/payments/{id}/capture"',
    "prefix": 'a path without a slash at its end, like "/v1/payments"',
    "tells": 'what happened without the name of the service, like "payment.settled"',
    "message": 'the name of a struct, like "PaymentFact"',
    "types": 'a fact type or a pattern, like "payments.payment.*"',
    "proof": 'a test, like "tests/fabric/test_conformance.py::test_callers"',
    "name": "lower case letters and digits, like the folder",
}


def _keys_at(key: str, schema: type[msgspec.Struct]) -> list[str]:
    """The keys that the schema knows at a place like `limits`, `data[...]` or `edge.paths[0]`."""
    here: object = schema
    for part in filter(None, re.split(r"\.|\[[^\]]*\]", key)):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(here)}  # type: ignore[arg-type]
        here = _struct_in(fields.get(part))
        if here is None:
            return []
    return [field.encode_name for field in msgspec.structs.fields(here)]  # type: ignore[arg-type]


def _struct_in(kind: object) -> type[msgspec.Struct] | None:
    """The struct inside of `dict[str, S]`, `tuple[S, ...]`, `S | None`."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    for part in getattr(kind, "__args__", ()):
        found = _struct_in(part)
        if found is not None:
            return found
    return _struct_in(getattr(kind, "__origin__", None)) if hasattr(kind, "__metadata__") else None
