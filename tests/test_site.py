"""The site: built with warnings as errors, whole, and nothing in it comes from elsewhere."""

import os
import re
import subprocess
import sys
from urllib.parse import unquote

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from docs import hooks
from docs.figures import draw
from tests.test_docs import ROOT

pytestmark = pytest.mark.scripts
CONFIG = ROOT / "mkdocs.yml"
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|track)\b[^>]*?\bsrc=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|<link\b(?![^>]*rel=["']?(?:canonical|next|prev))[^>]*?\bhref=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|(?:url\(|@import)\s*["']?(?:https?:)?//[^\s"')]+""",
    re.IGNORECASE,
)
"""What a browser would fetch from elsewhere as it shows a page."""
FIGURE = re.compile(r"(?<![\w.])\.\d{3}(?!\d)")


@pytest.fixture(scope="module")
def site(shared_folder):
    """The site, without its notebooks being run; built once for all test processes."""
    with shared_folder("site") as folder:
        if not (folder / "done").exists():
            command = [
                sys.executable,
                "-m",
                "mkdocs",
                "build",
                "--strict",
                "--quiet",
                "-f",
                str(CONFIG),
                "-d",
                str(folder / "site"),
            ]
            variables = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "GIGA_SITE_EXECUTE": "0"}
            result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=variables)
            assert result.returncode == 0, result.stdout + result.stderr
            (folder / "done").touch()
        return folder / "site"


def test_every_page_is_built(site):
    pages = [*(ROOT / "docs").rglob("*.md"), *(page for pattern in hooks.OUTSIDE for page in ROOT.glob(pattern))]
    assert len(pages) > 100
    for page in pages:
        name = page.relative_to(ROOT / "docs" if page.is_relative_to(ROOT / "docs") else ROOT).with_suffix(".html")
        assert (site / name.with_name(name.name.replace("README", "index"))).is_file(), name
    assert "Whitening" in (site / "search" / "search_index.json").read_text(encoding="utf-8")


def test_nothing_is_fetched_from_elsewhere(site):
    for fetched in (
        '<script src="https://a.b/c.js">',
        '<link rel="stylesheet" href="//a.b/c.css">',
        "@import 'http://a.b'",
    ):
        assert LOADED.search(fetched)
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert LOADED.findall(file.read_text(encoding="utf-8")) == [], file


def test_links_of_the_site_lead_somewhere(site):
    """Those in HTML that mkdocs does not look at, too."""
    for page in site.rglob("*.html"):
        for target in re.findall(r'(?:href|src)="([^"#?:]+)(?:[#?][^"]*)?"', page.read_text(encoding="utf-8")):
            if page.name != "404.html":
                assert (page.parent / unquote(target)).exists(), f"{page.relative_to(site)}: {target}"


@pytest.mark.parametrize(
    "text",
    ["[x](nowhere.md)", "[x](#nowhere)", "[x](/absolute.md)", "![x](nowhere.png)", "", pytest.param("# x", id="good")],
)
def test_a_broken_link_or_a_lost_page_ends_the_build(tmp_path, text, monkeypatch):
    """By the settings of the site itself."""
    pages = tmp_path / "docs"
    pages.mkdir()
    (pages / "index.md").write_text(text or "# x")
    if not text:
        (pages / "lost.md").write_text("# in no list")
    other = {
        "docs_dir": str(pages),
        "site_dir": str(tmp_path / "site"),
        "nav": ["index.md"],
        "hooks": [],
        "theme": "mkdocs",
    }
    config = load_config(str(CONFIG), strict=True, **other, extra_css=[])
    if text == "# x":
        build(config)
        return
    with pytest.raises(Abort):
        build(config)


def test_figures_are_those_that_the_script_draws():
    there = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "figures").glob("*.svg")}
    assert there == {name: make() for name, make in draw.FIGURES.items()}, "run: python docs/figures/draw.py"


def test_figures_of_the_evidence_are_those_of_its_pages():
    measured = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "benchmarks").glob("*.md")))
    said = set(FIGURE.findall((ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")))
    assert len(said) > 10
    assert said <= set(FIGURE.findall(measured))


def test_python_of_the_pages_compiles():
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "howto").glob("*.md"), *ROOT.glob("spec/*.md")]:
        for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            compile(code, str(page), "exec")
