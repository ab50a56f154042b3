"""The documentation's site loads nothing from other hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.site import foreign

ROOT = Path(__file__).parents[2]
POLICY = '<meta http-equiv="Content-Security-Policy" content="default-src \'self\'">'


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ('<a href="https://a.example">x</a><link rel="canonical" href="https://b.example/">', []),
        ('<link rel="stylesheet" href="../a.css"><img src="data:image/png;base64,AA">', []),
        ('<link rel="stylesheet" href="https://fonts.example/css">', ["index.html: https://fonts.example/css"]),
        ('<link rel="preconnect" href="//fonts.example">', ["index.html: //fonts.example"]),
        (POLICY + '<script src="https://cdn.example/a.js"></script>', ["index.html: https://cdn.example/a.js"]),
        ('<img srcset="a.png 1x, https://c.example/b.png 2x">', ["index.html: https://c.example/b.png"]),
        ("<style>@import 'https://d.example/a.css';</style>", ["index.html: https://d.example/a.css"]),
        ('<p style="background: url(https://e.example/x)">', ["index.html: https://e.example/x"]),
        (POLICY + "<script>1</script>", []),
        ("<script>1</script>", ["index.html: scripts, and no policy that keeps them from loading anything"]),
    ],
)
def test_what_a_page_loads(tmp_path: Path, page: str, found: list[str]) -> None:
    (tmp_path / "index.html").write_text(page)
    assert list(foreign(tmp_path)) == found


def test_what_a_style_sheet_loads(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("a { background: url(data:x) } b { background: url('https://f.example/x') }")
    assert list(foreign(tmp_path)) == ["a.css: https://f.example/x"]


def test_the_sites_sources_ask_for_nothing_foreign() -> None:
    """A diagram's script and the fonts came from other hosts. What is built, `make docs` checks."""
    settings = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    assert "\nfont = false\n" in settings
    assert '\ncustom_dir = "tools/site/theme"\n' in settings
    assert "default-src 'self'" in (ROOT / "tools/site/theme/main.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert "```mermaid" not in page.read_text(encoding="utf-8"), f"{page}: its script comes from another host"
