"""The record of processing activities (GDPR Art. 30), from the charters, and the columns that hold each class of data.

The charters say why data is held, for how long, and how it is protected; the tag of each column (`COMMENT ON COLUMN t.c
IS 'class: personal'`) says where. A class that occurs in a service's tables but not in its charter is a gap, which a test reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tallystick.chassis import migrate
from tallystick.chassis.charter import ABOUT_PEOPLE, DATA_CLASSES, Charter, services_dir
from tallystick.kernel.deployment import service_of

_COMMENT = re.compile(
    r"^\s*COMMENT\s+ON\s+COLUMN\s+(?:public\.)?\"?(\w+)\"?\.\"?(\w+)\"?\s+IS\s+'((?:[^']|'')*)'\s*;",
    re.IGNORECASE | re.MULTILINE,
)
_TAG = re.compile(r"^class: ([a-z-]+)\b")
_DROPPED = re.compile(r"^\s*DROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?\"?(\w+)\"?", re.IGNORECASE | re.MULTILINE)


class Column(msgspec.Struct, frozen=True, order=True):
    table: str
    column: str
    data_class: str


class Map(msgspec.Struct, frozen=True):
    """Charters and columns by service. `chassis` are the columns of the chassis's own tables, which each database has as well."""

    charters: Mapping[str, Charter]
    columns: Mapping[str, tuple[Column, ...]]
    chassis: tuple[Column, ...]


def class_of(comment: str | None) -> str | None:
    """The data class that a column's comment names; None for a comment without a tag or with an unknown one."""
    found = _TAG.match(comment or "")
    return found[1] if found and found[1] in DATA_CLASSES else None


def columns_in(scripts: Iterable[str]) -> tuple[Column, ...]:
    """The tagged columns in migrations, which are given in their order: a later tag replaces an earlier one."""
    tags: dict[tuple[str, str], str] = {}
    for script in scripts:
        for table in _DROPPED.findall(script):
            tags = {key: tag for key, tag in tags.items() if key[0] != table}
        for table, column, comment in _COMMENT.findall(script):
            if (tag := class_of(comment)) is not None:
                tags[table, column] = tag
    return tuple(Column(table, column, tag) for (table, column), tag in sorted(tags.items()))


def load(charters: Mapping[str, Charter]) -> Map:
    """The map of these charters, with the column tags of the chassis's migrations and each service's own."""
    columns = {}
    for name in charters:
        # A service that is declared and not built yet has no package.
        service = service_of(name)
        built = (services_dir() / service / "__init__.py").exists()
        own = migrate.migrations(f"tallystick.services.{service}") if built else []
        columns[name] = columns_in(migration.sql for migration in own)
    chassis = columns_in(migration.sql for migration in migrate.migrations(migrate.CHASSIS))
    return Map(charters, columns, chassis)


def undeclared(found: Map) -> list[str]:
    """The gaps: columns with data about people, or secrets, of a class that the service's charter does not declare."""
    gaps = []
    for name, columns in found.columns.items():
        declared = {data.data_class for data in found.charters[name].data.values()}
        for tag in (*ABOUT_PEOPLE, "secret"):
            held = [f"{column.table}.{column.column}" for column in columns if column.data_class == tag]
            if held and tag not in declared:
                gaps.append(f"{name}: {', '.join(held)} tagged {tag}, but [data.*] declares no {tag} data")
    return gaps


def document(found: Map) -> dict[str, Any]:
    """The record as data."""
    return {
        "record": "Records of processing activities, GDPR Art. 30",
        "services": [_service(name, charter, found) for name, charter in found.charters.items()],
    }


def _service(name: str, charter: Charter, found: Map) -> dict[str, Any]:
    by_class: dict[str, list[str]] = {}
    for column in (*found.columns[name], *(found.chassis if found.columns[name] else ())):
        by_class.setdefault(column.data_class, []).append(f"{column.table}.{column.column}")
    return {
        "service": name,
        "purpose": charter.service.purpose,
        "owner": charter.service.owner,
        "data": [{"category": category, **msgspec.to_builtins(data)} for category, data in charter.data.items()],
        "keys": msgspec.to_builtins(charter.keys),
        "columns": {tag: by_class[tag] for tag in DATA_CLASSES if tag in by_class},
        "tells": [
            {"service": other, "facts": list(theirs.consumes[name].types), "purpose": theirs.consumes[name].purpose}
            for other, theirs in found.charters.items()
            if name in theirs.consumes
        ],
        "controls": [msgspec.to_builtins(control) for control in charter.controls],
    }


def markdown(found: Map) -> str:
    """The record as a Markdown page."""
    lines = [
        "# Data map",
        "",
        "Record of processing activities (GDPR Art. 30), made from the charters and the tags of the tables' columns.",
        "Do not edit: `tallystick render data-map` writes it.",
        "",
        "| service | data | class | of whom | purpose | lawful basis | kept | protected by | given to |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, charter in found.charters.items():
        for category, data in charter.data.items():
            cells = (
                name,
                category,
                data.data_class,
                data.subject,
                data.purpose,
                data.basis,
                data.retention,
                data.protection,
                ", ".join(data.recipients) or "nobody",
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    for entry in document(found)["services"]:
        lines += ["", f"## {entry['service']}", "", entry["purpose"], ""]
        if entry["keys"]:
            keys = entry["keys"]
            life, data_life = keys["rotation_days"], keys["data_rotation_days"]
            lines += [
                f"Encrypts with {keys['suite']}; its own key is rotated every {life} days, those that seal data every {data_life}.",
                "",
            ]
        for told in entry["tells"]:
            lines.append(f"- tells {told['service']}: `{'`, `'.join(told['facts'])}` ({told['purpose']})")
        for tag, held in entry["columns"].items():
            if tag not in {"internal", "public"}:
                lines.append(f"- {tag}: {', '.join(f'`{column}`' for column in held)}")
        for control in entry["controls"]:
            lines.append(
                f"- {control['regulation']}, {control['requirement']}: {control['how']} (proof: `{control['proof']}`)"
            )
    return "\n".join(lines) + "\n"
