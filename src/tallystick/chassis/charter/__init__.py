"""The charter: what one service declares about itself, in `services/<name>/charter.toml`.

Everything that has to agree with it (proxy routes and access rules, database roles, bus permissions, manifests, the
data map) is derived from it by `tallystick.fabric`; a running service reads its own budgets from it. Its `schema`
is the whole vocabulary. `load` and `load_all` raise `CharterError`, which names the file, the key and the remedy.

Both sides declare the call graph, the caller by `[calls.X]` and the callee by `[callers]`, and `load_all` refuses a difference. So
nobody gets access to a service by editing only their own charter.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path

import msgspec

from tallystick.chassis.charter.agreement import contradictions, disagreements
from tallystick.chassis.charter.faults import CharterError, explained
from tallystick.chassis.charter.schema import (
    ABOUT_PEOPLE,
    DATA_CLASSES,
    DURATION_BOUNDS_MS,
    FILE,
    OPERATOR,
    OPERATOR_TIMEOUT_MS,
    Charter,
    Data,
    Keys,
    Rate,
    Slo,
    Told,
)
from tallystick.kernel.patterns import matches

__all__ = [
    "ABOUT_PEOPLE",
    "DATA_CLASSES",
    "DURATION_BOUNDS_MS",
    "FILE",
    "OPERATOR",
    "OPERATOR_TIMEOUT_MS",
    "Charter",
    "CharterError",
    "Data",
    "Keys",
    "Rate",
    "Slo",
    "Told",
    "disagreements",
    "heard",
    "load",
    "load_all",
    "pairs",
    "parse",
    "read",
    "services_dir",
    "timeout_ms",
    "workloads",
]


def services_dir() -> Path:
    """The folder `tallystick/services` of the installed package."""
    with resources.as_file(resources.files("tallystick")) as package:
        return package / "services"


def parse(text: str, file: Path | str) -> Charter:
    """A charter from its TOML text, checked as far as a single charter can be; `file` is for error messages."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CharterError(file, "(syntax)", f"not valid TOML: {error}", "Correct the line that it names.") from error
    try:
        charter = msgspec.convert(raw, Charter, strict=True)
    except msgspec.ValidationError as error:
        raise explained(file, str(error), Charter) from error
    for key, what, remedy in contradictions(charter):
        raise CharterError(file, key, what, remedy)
    return charter


def read(file: Path) -> Charter:
    """The charter in `file`, whose folder must have the service's name."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        known = ", ".join(sorted(path.parent.name for path in file.parent.parent.glob(f"*/{FILE}"))) or "none"
        raise CharterError(
            file, "(file)", "there is no charter here", f"Known services: {known}. Write one, or correct the name."
        ) from error
    charter = parse(text, file)
    if charter.name != file.parent.name:
        raise CharterError(
            file,
            "service.name",
            f'"{charter.name}" is not the name of its folder',
            f'Write name = "{file.parent.name}".',
        )
    return charter


@cache
def load(service: str) -> Charter:
    """The charter of a service of this installation, checked by itself only; `load_all` also checks it against the others."""
    return read(services_dir() / service / FILE)


def load_all(root: Path | None = None) -> dict[str, Charter]:
    """The charters of all services by name, in the order of names, checked against each other. `root` defaults to `services_dir()`."""
    folder = root or services_dir()
    charters = {charter.name: charter for charter in map(read, sorted(folder.glob(f"*/{FILE}")))}
    for service, key, what, remedy in disagreements(charters):
        raise CharterError(folder / service / FILE, key, what, remedy)
    return charters


def heard(service: str) -> dict[str, Told]:
    """The facts that reach a service by its [consumes], by type, as declared by the services that tell them."""
    return {
        type_: told
        for source, consumption in load(service).consumes.items()
        for type_, told in load(source).facts.items()
        if matches(consumption.types, type_)
    }


def pairs(charters: Mapping[str, Charter]) -> Iterator[tuple[str, str]]:
    """(caller, target) for every edge of the call graph, including the operator's."""
    for name, charter in charters.items():
        for target in charter.calls:
            yield name, target
        if OPERATOR in charter.callers:
            yield OPERATOR, name


def workloads(charters: Mapping[str, Charter]) -> list[str]:
    """Everyone who has an identity in the mesh: the services, and the operator if a service lets it call."""
    return [*charters, *([OPERATOR] if any(OPERATOR in charter.callers for charter in charters.values()) else ())]


def timeout_ms(charters: Mapping[str, Charter], caller: str, target: str) -> int:
    """How long `caller` waits for `target`, in milliseconds."""
    return OPERATOR_TIMEOUT_MS if caller == OPERATOR else charters[caller].calls[target].timeout_ms
