"""The notebooks of examples/ run, what is committed of them is of their code; and what giga shows in a notebook."""

import json
import re
from dataclasses import asdict, dataclass, field
from html.parser import HTMLParser

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gigacli as giga
from docs import notebooks
from gigacli import shown
from gigacli.cli import notebook as in_notebook
from gigacli.cli.notebook import NotebookProgress, show_progress
from gigacli.errors import InvalidInput
from gigacli.progress import audible, listen, unheard
from tests.helpers import warm_server

SMALL = {
    r"^SLIDES, PATIENTS = .*": "SLIDES, PATIENTS = 12, 6",
    r"^SIZE_PX = .*": "SIZE_PX = 1536, 1152",
    r"^EPOCHS, STEPS = .*": "EPOCHS, STEPS = 1, 6",
    "max_tiles=1024, batch_size=64": "max_tiles=32, batch_size=16",
    'encoder="moco"': 'encoder="moco", sets=8, calibration_tiles=100',
    "augmented=4": "augmented=1",
    'c="auto"': "folds=2",
}
"""What is written in the notebooks, and what the test runs in its place."""

MOST_BYTES = 300_000
MACHINE = re.compile(r"/(?:home|root|work|tmp|Users|dev/shm)/|\bsite-packages\b")


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shortened(notebook):
    for cell in code_cells(notebook):
        for long, short in SMALL.items():
            cell.source = re.sub(long, short, cell.source, flags=re.MULTILINE)
    return notebook


@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_shows_is_of_its_code(path):
    """Run by docs/notebooks.py from top to bottom, without an error, and nothing in it is of the machine it ran on."""
    found = read(path)
    nbformat.validate(found)
    assert found.metadata["giga"]["code"] == notebooks.code_hash(found), "run: make notebooks"
    assert [cell.execution_count for cell in code_cells(found)] == list(range(1, 1 + len(code_cells(found))))
    outputs = [output for cell in code_cells(found) for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"display_data", "execute_result"}
    assert path.stat().st_size < MOST_BYTES
    text = re.sub(r'"image/(png|jpeg)": "[^"]*"', "", json.dumps(outputs))
    assert MACHINE.findall(text) == []


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A kernel that need not import torch: its name, in an environment that has it."""
    folder = tmp_path_factory.mktemp("jupyter")
    place = folder / "kernels" / "warm"
    place.mkdir(parents=True)
    argv = [str(warm_server() / "warm-python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (place / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "warm", "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        yield "warm"


@pytest.mark.scripts
def test_the_notebooks_run(kernel, tmp_path):
    """One after the other in one folder, as a reader runs them, on a few tiny slides."""
    for path in notebooks.NOTEBOOKS:
        made = shortened(read(path))
        made = notebooks.run(made, tmp_path, kernel_name=kernel)
        kinds = [set(output.get("data", {})) for cell in code_cells(made) for output in cell.outputs]
        assert sum(bool(one & {"image/png", "image/jpeg"}) for one in kinds) >= 3
        pages = [
            output.data["text/html"] for c in code_cells(made) for output in c.outputs if "text/html" in output.data
        ]
        assert sum("AUC" in page for page in pages) >= 1
        assert any("tiling: 12/12" in page for page in pages) == (path.stem == "quickstart")


# ---------------------------------------------------------------------- what giga shows


class Page(HTMLParser):
    """Reads a piece of HTML: its elements and its text.

    Attributes:
        open: Elements that are not closed.
        tags: All elements.
        text: The text.
    """

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)
        assert not re.search("color:(?!inherit)|#[0-9a-f]{3}|rgb", dict(attrs).get("style", "")), (
            "colours are the notebook's"
        )

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@dataclass(frozen=True)
class Found(shown.Drawn):
    slides: int
    rate: float
    name: str
    empty: str = ""
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


@settings(max_examples=30)
@given(st.text(), st.text())
def test_everything_in_a_result_is_escaped(name, reason):
    result = Found(1234, 5.0, name, failures={f"{name}.svs": reason}, notes=[reason, f"warning: {reason}"])
    page = Page(result._repr_html_())
    assert set(page.tags) <= {"div", "table", "caption", "b", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    for text in ("1,234", "5 encodings/s", name.replace("\r", "\n"), reason.replace("\r", "\n")):
        assert "".join(text.split()) in "".join(page.text.split())


def test_a_table_of_many_rows_is_cut_in_a_notebook_alone():
    rows = {f"s{i}": "gone" for i in range(1000)}
    result = Found(1, 1.0, "x", failures=rows)
    assert result._repr_html_().count("<tr>") == 3 + 1 + shown.MOST_ROWS + 1
    assert "and 900 more" in result._repr_html_()
    assert shown.html(result.blocks()).count("<tr>") == 3 + 1 + len(rows)


def test_a_result_without_figures_says_so():
    result = Found(1, 1.0, "x")
    assert result.figures == []
    with pytest.raises(InvalidInput, match="no figures"):
        result.figure()
    assert result.drawn_by(lambda: {"curve": lambda: "drawn"}) is result
    assert (result.figures, result.figure(), result.figure("curve")) == (["curve"], "drawn", "drawn")
    with pytest.raises(InvalidInput, match=r"'roc'.*\n.*curve"):
        result.figure("roc")
    assert list(asdict(result)) == ["slides", "rate", "name", "empty", "failures", "notes", "files"]


def test_results_of_the_tools_are_shown(chain, cohort, tmp_path):
    store = giga.open(chain("embed"))
    found = giga.info(store)
    page = Page(found._repr_html_())
    assert f"next: giga probe {store.url}" in page.text
    assert "embeddings/giga" in page.text
    alike = giga.search(store, store.slides.ids[0], cohort.labels_csv, embedding="giga", k=2)
    assert "slides of other patients" in Page(alike._repr_html_()).text
    assert alike.figure("slides")._repr_jpeg_().startswith(b"\xff\xd8")
    assert alike.figure("slides")._repr_png_() is None
    probed = giga.probe(store, cohort.labels_csv, target="label", folds=2)
    assert probed.figures == ["learning-curve", "roc", "reliability"]
    assert probed.figure("roc")._repr_png_().startswith(b"\x89PNG")
    assert probed.figure("roc")._repr_jpeg_() is None
    assert "joined 8 labels with 8 vectors" in Page(probed._repr_html_()).text
    assert "h-optimus-0" in Page(giga.encoders()._repr_html_()).text
    assert "0 problems" in Page(giga.validate(store, level="hierarchy")._repr_html_()).text


def test_a_store_shows_its_tree(store_at):
    store = giga.open(store_at("embed"), write=True)
    page = Page(store._repr_html_())
    assert page.tags.count("details") == 2 + len(store.all_groups())  # the store, its slides
    assert f"8 slide × {store.embedding('giga').width} feature" in page.text
    assert "mpp=1, tile_px=64" in page.text
    assert "stale" not in page.text
    store.tiles.take_back([0])
    assert "tiles 7 of 8 slides done" in Page(store._repr_html_()).text
    assert Page(store.embedding("giga")._repr_html_()).text.startswith("embeddings/giga")
    assert Page(store.embedding("other")._repr_html_()).text == "embeddings/other is not there"
    assert "not finished" not in page.text


def test_a_store_that_has_nothing_shows_that(tmp_path):
    assert "0 slides" in Page(giga.Store.create(tmp_path / "<b>.zarr")._repr_html_()).text


# ---------------------------------------------------------------------- progress


class Display:
    """Stands for IPython's: remembers what it was given."""

    def __init__(self, monkeypatch):
        self.shown = []
        monkeypatch.setattr(in_notebook, "import_module", lambda _: self)

    def display(self, data, *, raw, display_id):
        assert raw
        assert display_id
        self.shown.append(data)
        return self

    def update(self, data, *, raw):
        self.display(data, raw=raw, display_id=True)


def test_progress_in_a_notebook_is_a_bar_and_then_a_line(monkeypatch):
    seen, clock = Display(monkeypatch), [0.0]
    monkeypatch.setattr(in_notebook.time, "monotonic", lambda: clock[0])
    with NotebookProgress() as progress:
        progress.start("tiling", 10, done=2)
        clock[0] += 4
        progress.advance(4, note="slides, <b>")
        assert Page(seen.shown[-1]["text/html"].replace("</progress>", "</progress>")).tags == ["div", "progress"]
        assert 'value="6" max="10"' in seen.shown[-1]["text/html"]
        assert Page(seen.shown[-1]["text/html"]).text.strip() == "tiling: 6/10 slides, <b>, 0:00:04 left"
        before = len(seen.shown)
        progress.advance()  # at once after the last picture: nothing to see
        assert len(seen.shown) == before
        progress.say("a failed")
    assert seen.shown[-1]["text/plain"].splitlines() == ["a failed", "tiling: 7/10 slides, <b>, 0:00:04"]
    assert Page(seen.shown[-1]["text/html"]).tags == ["div", "div"]


def test_of_many_messages_the_last_stay_in_sight(monkeypatch):
    seen = Display(monkeypatch)
    with NotebookProgress() as progress:
        for i in range(30):
            progress.say(str(i))
    assert seen.shown[-1]["text/plain"].splitlines() == ["... 10 lines before these", *map(str, range(10, 30))]


def test_a_call_that_finds_nothing_to_do_leaves_nothing(monkeypatch):
    seen = Display(monkeypatch)
    with NotebookProgress() as progress:
        progress.start("tiling", 10, done=10)
    assert seen.shown == []


def test_whoever_listens_hears_of_calls_without_progress(capsys):
    @audible
    def work(*, progress=None):
        progress.say("at work")
        return 3

    try:
        show_progress()
        assert work() == 3
        assert capsys.readouterr().err == "at work\n"
        show_progress(quiet=True)
        assert work() == 3
    finally:
        listen(unheard)
    assert capsys.readouterr().err == ""


def test_an_error_in_a_notebook_is_its_message():
    assert InvalidInput("`x` is 1", "give 2")._render_traceback_() == ["InvalidInput: `x` is 1\ngive 2"]
