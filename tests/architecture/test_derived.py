"""What derives from the charters is not written twice, so it can go stale: then this fails and says what to run."""

from __future__ import annotations

import pytest

from tallystick.fabric import render
from tests.architecture.tree import ROOT

RENDERED = ROOT / "deploy" / "rendered"


@pytest.mark.parametrize("target", list(render.TARGETS))
def test_the_rendered_examples_are_current(target: str) -> None:
    made = render.files(target)
    folder = RENDERED / target
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} if folder.exists() else {}
    stale = sorted(name for name in made.keys() | found.keys() if made.get(name) != found.get(name))
    assert not stale, (
        f"deploy/rendered/{target}: {', '.join(stale)} no longer say what the charters and migrations say. "
        f"Run: tallystick render {target} --out deploy/rendered/{target}"
    )


def test_no_example_is_left_of_a_target_that_is_gone() -> None:
    assert {path.name for path in RENDERED.iterdir()} == set(render.TARGETS)


def test_the_command_says_which_targets_there_are() -> None:
    section = (
        (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8").partition("\n## tallystick render\n")[2]
    )
    told = " ".join(section.partition("\n## ")[0].replace("│", " ").split())
    assert f"{', '.join(list(render.TARGETS)[:-1])} or {list(render.TARGETS)[-1]}" in told


def test_an_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(
        render.UnknownTarget, match=r"no target \"kubernets\": use one of alerts, dashboards, data-map, diagram"
    ):
        render.files("kubernets")
