"""Hooks of mkdocs: pages that lie outside of ``docs/``, links to files that are no pages, notebooks.

Pages stay where they are in the repository, and their links are those of the repository, so that they work on a code
host, too. Here they become pages of the site, and links are made anew for their places in it. A file that a page links
and that is no page, such as a script, becomes a page that shows it.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "[!R]*.md",
    "spec/*.md",
    "spec/decisions/*.md",
    "benchmarks/*.md",
    "examples/paper/*.md",
)
NOTEBOOKS = "examples/*.ipynb"
DECISIONS = "spec/decisions"
STANDS_FOR = {"README.md": "index.md", DECISIONS: f"{DECISIONS}/index.md", "spec": "spec/README.md"}
"""Paths of the repository that have no page of their own, and the pages that stand for them."""
EXECUTE = "GIGA_SITE_EXECUTE"
"""Environment variable: run the notebooks while the site is built, which takes minutes."""
FENCED = re.compile(r"^(`{3,}).*?^\1`*\s*$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"^!\[([^\]]*)\]\(((?:\.\./)*figures/\w+\.svg)\)$", re.MULTILINE)
BOOST = {"concepts/": 4, "howto/": 4, "commands/": 2}
"""Pages that a search shows before others."""
STYLE = re.compile(r"<style>.*?</style>\n?")
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages in the place of the patterns of the navigation."""
    config.nav = _expanded(config.nav)
    return config


def _expanded(entries: list[Any]) -> list[Any]:
    found: list[Any] = []
    for entry in entries:
        if isinstance(entry, dict):
            found += [{title: _expanded(part) if isinstance(part, list) else part} for title, part in entry.items()]
        elif "*" in entry:
            home = ROOT if entry in OUTSIDE or entry.endswith(".ipynb") else ROOT / "docs"
            found += map(_page_of, sorted(home.glob(entry)))
        else:
            found.append(entry)
    return found


@event_priority(100)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside of ``docs/``."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for name, content in _notebooks().items():
        files.append(File.generated(config, name, content=content))
    files.append(File.generated(config, f"{DECISIONS}/index.md", content=_decisions()))
    for path in sorted(_linked(files)):
        files.append(File.generated(config, _source_page(path), content=_source(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links of the repository links of the site, and put drawings into the page, whose colours they take."""
    boost = max((by for folder, by in BOOST.items() if page.file.src_uri.startswith(folder)), default=None)
    if boost:
        page.meta["search"] = {"boost": boost}
    known = _places(files)
    here = PurePosixPath(page.file.src_uri).parent

    def link(found: re.Match[str]) -> str:
        target = _target(page.file, found[2])
        place = target and (known.get(target) or known.get(STANDS_FOR.get(target, "")) or _source_page(target))
        if not place or files.get_file_from_path(place) is None:
            return found[0]  # mkdocs says what is wrong with it
        return f"{found[1]}{os.path.relpath(place, here)}{found[3]}"

    def figure(found: re.Match[str]) -> str:
        drawing = ROOT / _target(page.file, found[2])
        if not drawing.is_file():
            return found[0]
        body = STYLE.sub("", drawing.read_text(encoding="utf-8")).removeprefix("<svg")
        return f'<div class="figure">\n<svg role="img" aria-label="{found[1]}"{body}</div>'

    return _outside_of_code(markdown, lambda text: LINK.sub(link, FIGURE.sub(figure, text)))


def _home(file: File) -> str:
    """The path of a page in the repository; of a page that is generated the one it would have there."""
    if file.abs_src_path is None:
        return file.src_uri
    return Path(file.abs_src_path).resolve().relative_to(ROOT).as_posix()


def _places(files: Files) -> dict[str, str]:
    """Where the files of the repository are in the site."""
    ours = {_home(file): file.src_uri for file in files if file.abs_src_path is None or _is_ours(file)}
    notebooks = {path.relative_to(ROOT).as_posix(): _page_of(path) for path in ROOT.glob(NOTEBOOKS)}
    return {**ours, **notebooks, **{page: page for page in STANDS_FOR.values()}}


def _is_ours(file: File) -> bool:
    return file.abs_src_path is not None and Path(file.abs_src_path).resolve().is_relative_to(ROOT)


def _target(file: File, link: str) -> str:
    """The path in the repository that a link of a page means; empty for addresses and for what is outside."""
    if "://" in link or link.startswith("mailto:"):
        return ""
    path = Path(os.path.normpath((ROOT / _home(file)).parent / link))
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""


def _linked(files: Files) -> set[str]:
    """Files of the repository that pages link, and that are no pages."""
    links = ((file, link) for file in files.documentation_pages() for link in _links(file))
    found = {target for file, link in links if (target := _target(file, link))}
    known = {*_places(files), *STANDS_FOR}
    return {path for path in found - known if (ROOT / path).is_file()}


def _links(file: File) -> list[str]:
    return [link for _, link, _ in LINK.findall(FENCED.sub("", file.content_string))]


def _outside_of_code(markdown: str, change: Any) -> str:
    parts, last = [], 0
    for block in FENCED.finditer(markdown):
        parts += [change(markdown[last : block.start()]), block[0]]
        last = block.end()
    return "".join([*parts, change(markdown[last:])])


def _decisions() -> str:
    """The list of decisions, from their headings."""
    rows = []
    for path in sorted((ROOT / DECISIONS).glob("*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").strip()
        rows.append(f"| [{path.stem[:4]}]({path.name}) | {re.sub('^[0-9]+[.:]? *', '', title)} |")
    head = "# Decisions\n\nWhy giga is as it is: what was found, what was decided, what follows. A page for each.\n"
    return "\n".join([head, "| | |", "|---|---|", *rows]) + "\n"


def _source_page(path: str) -> str:
    return f"source/{path}.md"


def _source(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    language = {".py": "python", ".sh": "bash", ".json": "json", ".cff": "yaml"}.get(Path(path).suffix, "")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n~~~~{language}\n{text}~~~~\n"


def _page_of(path: Path) -> str:
    """Where a file of the repository is in the site: pages of ``docs/`` below it, notebooks as Markdown."""
    home = ROOT / "docs" if path.is_relative_to(ROOT / "docs") else ROOT
    name = path.relative_to(home)
    return (name.with_suffix(".md") if name.suffix == ".ipynb" else name).as_posix()


def _notebooks() -> dict[str, str | bytes]:
    """Notebooks as pages, and the pictures on them; run in a folder of their own where the environment asks for it."""
    import nbformat
    from nbconvert import MarkdownExporter
    from nbconvert.preprocessors import ExecutePreprocessor
    from traitlets.config import Config

    found: dict[str, str | bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        # By files of that folder, not by a port that others could talk to.
        local = Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"})
        for path in sorted(ROOT.glob(NOTEBOOKS), reverse=True):  # "explain" goes on where "quickstart" ends
            notebook = nbformat.read(path, as_version=4)
            if os.environ.get(EXECUTE) == "1":
                ExecutePreprocessor(timeout=1200, config=local).preprocess(notebook, {"metadata": {"path": folder}})
            pictures = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
            text, resources = MarkdownExporter().from_notebook_node(notebook, resources=pictures)
            outputs = resources["outputs"].items()
            found |= {_page_of(path): text, **{f"examples/{name}": content for name, content in outputs}}
    return found
