"""How the code looks in Markdown: schemas in a few words, anchors, cells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "tallystick"
DOCS = ROOT / "docs"
GENERATED = "<!-- Made by tools/reference from the code. Do not edit: change the code and run `make docs`. -->\n"

Schema = Mapping[str, Any]


def anchor(heading: str) -> str:
    """The id that the site's table of contents gives to a heading."""
    text = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"[-\s]+", "-", text)


def prose(text: str) -> str:
    return " ".join(text.split())


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def kind(schema: Schema) -> str:
    """A JSON Schema in a few words, links for what has a name."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{anchor(name)})"
    if "anyOf" in schema:
        return " or ".join(kind(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    what = str(schema.get("type", "any JSON"))
    if "prefixItems" in schema:
        return f"[{', '.join(map(kind, schema['prefixItems']))}]"
    if what == "array":
        return f"list of {kind(schema.get('items', {}))}{bounds(schema, 'minItems', 'maxItems')}"
    if what == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"map to {kind(schema['additionalProperties'])}{bounds(schema, 'minProperties', 'maxProperties')}"
    if what == "string":
        pattern = f", `{cell(schema['pattern'])}`" if "pattern" in schema else ""
        return f"string{bounds(schema, 'minLength', 'maxLength')}{pattern}"
    if what in {"integer", "number"}:
        return what + bounds(schema, "minimum", "maximum")
    return what


def bounds(schema: Schema, low: str, high: str) -> str:
    if low not in schema and high not in schema:
        return ""
    return f" ({schema.get(low, '')}..{schema.get(high, '')})"


def default(schema: Schema) -> str:
    if "default" not in schema:
        return ""
    value = schema["default"]
    return "" if value in (None, {}, []) else f"default `{value}`"


def lists_apart(text: str) -> str:
    """With an empty line before each list: the site's Markdown needs one, GitHub's does not."""
    return re.sub(r"(?m)^(?!- |  )(.+)\n(?=- )", r"\1\n\n", text)
