"""giga report: what is on the page, and that it is safe, whole, repeatable and of a bounded size."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import gigacli as giga
from gigacli.errors import InvalidInput, NotFound
from gigacli.reporting import vectors
from gigacli.reporting.page import as_json
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from tests.helpers import run_giga

OPEN = {"meta", "link", "br", "img", "input", "path", "use", "rect"}


class Outline(HTMLParser):
    """Elements by name, attributes by element, and tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.found, self.text, self.wrong = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in OPEN:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in OPEN and (not self.stack or self.stack.pop() != tag):
            self.wrong.append((tag, self.getpos()))

    def handle_data(self, data):
        self.text.append(data)

    def every(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page.read_text(encoding="utf-8"))


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_is_well_formed_and_has_every_part(outline):
    assert not outline.wrong
    assert not outline.stack
    assert [a["id"] for a in outline.every("section")] == [
        "cohort", "slides", "training", "vectors", "probe", "recipes"
    ]  # fmt: skip
    text = " ".join(outline.text)
    for said in ("banks/random-resnet18", "Median", "generic-tiff", "models/giga", "AUC ± sd", "9 of", "--thumbnails"):
        assert (said in text) == (said not in ("9 of", "--thumbnails")), said
    ids = [a["id"] for _, a in outline.found if "id" in a]
    assert len(ids) == len(set(ids))


def test_it_loads_nothing(page, outline):
    text = page.read_text(encoding="utf-8")
    assert all(a["src"].startswith("data:image/jpeg;base64,") for a in outline.every("img"))
    assert [a.get("href") for a in outline.every("link")] == ["data:,"]
    assert len(outline.every("img")) == 8
    assert not [a for a in outline.every("script") if "src" in a]
    assert not re.search(r"@import|url\((?!#)", text)
    assert all(a["href"].startswith("#") for a in outline.every("a"))


def test_every_figure_is_there_in_the_page_s_own_colours(outline):
    labels = [a["aria-label"] for a in outline.every("svg")]
    assert labels == [
        "Histogram of tiles per slide",
        "Loss of models/giga over epochs, beside chance",
        "AUC of label over the number of training labels",
        "AUC of label above the baseline over the number of training labels",
    ]
    styles = " ".join(a.get("style", "") for _, a in outline.found)
    assert "var(--c0)" in styles
    assert "var(--muted)" in styles
    assert not re.search(r"#0[1-4]0[1-4]0", styles)


def test_the_map_holds_every_slide_and_its_true_neighbours(page, chain, cohort):
    data, store = data_of(page.read_text(encoding="utf-8")), giga.open(chain("embed"))
    assert data["ids"] == store.slides.ids
    assert [m["embedding"] for m in data["maps"]] == ["giga", "whitened-mean-random-resnet18", "mean-random-resnet18"]
    assert [g["name"] for g in data["groups"]] == ["label", "lab", "event", "patient"]
    first = data["maps"][0]
    vectors = store.embedding("giga").read()
    cosine = vectors @ vectors.T - 3 * np.eye(8)
    assert [row[0] for row in first["near"]] == cosine.argmax(axis=1).tolist()
    assert len(first["pca"]) == len(first["tsne"]) == 16
    assert min(first["pca"]) >= 0
    assert max(first["pca"]) <= 4095
    labels = dict(line.split(",")[:2] for line in cohort.labels_csv.read_text().splitlines()[1:])
    group = data["groups"][0]
    assert [group["names"][c] for c in group["codes"]] == [labels[s] for s in data["ids"]]
    assert data["tiles"] == store.tiles.done().values.tolist()


def test_the_same_store_makes_the_same_page_and_is_not_touched(page, chain, cohort, chunks, tmp_path):
    before = chunks(chain("embed"))
    again = giga.report(chain("embed"), cohort.labels_csv, out=tmp_path / "again.html", workers=1)
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
    assert again.bytes == page.stat().st_size
    assert chunks(chain("embed")) == before
    assert [p.name for p in tmp_path.iterdir()] == ["again.html"]


def test_names_are_text_whatever_they_are(vectors_only, tmp_path, evil):
    ids = [f"{evil[i % 3]} {i}" for i in range(24)]
    store, labels = vectors_only(ids, labels=(evil[0], evil[1]))
    giga.report(store, labels, out=tmp_path / "evil.html")
    text = (tmp_path / "evil.html").read_text(encoding="utf-8")
    outline = Outline(text)
    assert not outline.wrong
    assert len(outline.every("script")) == 2
    assert not outline.every("img")
    assert not [a for _, a in outline.found if any(name.startswith("on") for name in a)]
    assert data_of(text)["ids"] == ids
    assert data_of(text)["groups"][0]["names"] == sorted(evil[:2])


@pytest.mark.parametrize("text", ["</script>", "<!--", "]]>", "&lt;", "\"'`\\", "\u2028", "é"])
def test_json_in_a_page_says_what_it_said_and_ends_no_tag(text):
    written = as_json({text: [text]})
    assert json.loads(written) == {text: [text]}
    assert not set(written) & set("<>&")


def test_slides_that_are_gone_are_said_and_pictures_have_a_limit(vectors_only, tmp_path):
    store, _ = vectors_only([f"slide{i:03d}" for i in range(60)])
    summary = giga.report(store, out=tmp_path / "r.html", thumbnails=5)
    assert (summary.pictures, summary.unreadable) == (0, 5)
    assert "slide000: /gone/0.svs is not there" in summary.notes[0]
    text = " ".join(Outline((tmp_path / "r.html").read_text(encoding="utf-8")).text)
    assert "5 of 60 slides were chosen" in text
    assert "5 of the chosen slides have no picture" in text
    assert "No labels were given" in text


def test_a_store_without_vectors_has_a_page_too(store_at, cohort, tmp_path):
    store = store_at("tile")
    Store.open(store, write=True).fail("bank", {2: "/a/b.tif cannot be read"})
    summary = giga.report(store, cohort.labels_csv, out=tmp_path / "r.html", thumbnails=1)
    assert (summary.pictures, summary.embeddings) == (1, 0)
    text = " ".join(Outline((tmp_path / "r.html").read_text(encoding="utf-8")).text)
    assert "No slide has a vector yet" in text
    assert "/a/b.tif cannot be read" in text
    assert "Nothing was trained" in text
    assert "no vectors yet" in text


def test_scores_within_sites(vectors_only, tmp_path):
    store, labels = vectors_only([f"s{i:02d}" for i in range(48)])
    giga.report(store, labels, out=tmp_path / "r.html", fraction=(0.5, 1.0), site="centre")
    text = (tmp_path / "r.html").read_text()
    assert "label within sites: AUC of the site alone" in text
    assert "label at each site: giga, C=10" in text
    assert "the site does not explain the label" in text


def test_the_page_stays_small_with_many_slides(vectors_only, tmp_path, monkeypatch):
    monkeypatch.setattr("gigacli.reporting.vectors.neighbour_map", lambda vectors, seed: vectors[:, :2] * 1.0)
    store, labels = vectors_only([f"TCGA-{i % 40:02d}-{i // 2:04d}-01Z-00-DX1" for i in range(2000)])
    summary = giga.report(store, labels, out=tmp_path / "r.html", fraction=(1.0,), thumbnails=10)
    assert summary.bytes < 2000 * 250 + 200_000
    names = [g["name"] for g in data_of((tmp_path / "r.html").read_text(encoding="utf-8"))["groups"]]
    assert names == ["label", "centre", "tissue source site", "patient"]


def test_bad_input_is_refused_before_anything_is_written(chain, cohort, vectors_only, tmp_path):
    path, file = chain("embed"), tmp_path / "r.html"
    other = tmp_path / "notes.html"
    other.write_text("<p>mine</p>")
    wrong = tmp_path / "labels.csv"
    wrong.write_text("slide_id,label\nx,1\n")
    Store.create(tmp_path / "empty.zarr")
    for arguments, error, says in (
        ((path, None, {"out": other}), InvalidInput, "no giga report"),
        ((path, None, {"out": tmp_path}), InvalidInput, "folder"),
        ((path, None, {"out": tmp_path / "no" / "r.html"}), InvalidInput, "no folder"),
        ((path, None, {"out": file, "thumbnails": -1}), InvalidInput, "`thumbnails` is -1"),
        ((path, None, {"out": file, "embedding": ["x"]}), NotFound, "no 'x' in embeddings"),
        ((path, cohort.labels_csv, {"out": file, "fraction": [2.0]}), InvalidInput, "`fraction` is 2"),
        ((path, cohort.labels_csv, {"out": file, "target": ["x"]}), InvalidInput, "no column 'x'"),
        ((path, wrong, {"out": file}), InvalidInput, "none of 1 slides is in the store"),
        ((path, tmp_path / "gone.csv", {"out": file}), NotFound, "no such file"),
        ((tmp_path / "empty.zarr", None, {"out": file}), InvalidInput, "no slides yet"),
        ((tmp_path / "gone.zarr", None, {"out": file}), NotFound, "no store"),
    ):
        with pytest.raises(error, match=re.escape(says)):
            giga.report(arguments[0], arguments[1], **arguments[2])
    assert other.read_text() == "<p>mine</p>"
    assert not file.exists()


def test_a_report_replaces_a_report(page, chain, tmp_path):
    file = tmp_path / "r.html"
    file.write_bytes(page.read_bytes())
    giga.report(chain("tile"), out=file, thumbnails=0)
    assert 0 < file.stat().st_size < page.stat().st_size


def test_a_damaged_slide_does_not_take_the_report_with_it(store_at, tmp_path):
    path = store_at("tile")
    store = Store.open(path, write=True)
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0" + b"\0" * 100)
    rows = list(store.slides.rows)
    paths = [str(broken), *(row.path for row in rows[1:])]
    store.root["slides/path"][: len(rows)] = np.array(paths, dtype=object)
    store.root["slides/file_bytes"][0] = broken.stat().st_size
    summary = giga.report(path, out=tmp_path / "r.html", thumbnails=2)
    assert (summary.pictures, summary.unreadable) == (1, 1)


def test_the_command(chain, tmp_path):
    line = ["report", chain("tile"), "--thumbnails", "1", "--json"]
    done = run_giga(*line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["report"] == "cohort-report.html"
    assert summary["bytes"] == (tmp_path / "cohort-report.html").stat().st_size
    (tmp_path / "cohort-report.html").write_text("mine")
    refused = run_giga(*line, cwd=tmp_path)
    assert refused.returncode == 2
    assert "no giga report" in refused.stderr
    assert (tmp_path / "cohort-report.html").read_text() == "mine"


def test_an_unfinished_training_is_said(store_at, tmp_path):
    path = store_at("bank")
    store = Store.open(path, write=True)
    recipe = Recipe("train", {"bank": "random-resnet18", "tiles": 5}, {"bank": "x"})
    store.model("half").begin(recipe, np.arange(8), redo=False)
    store.model("half").save(b"checkpoint", {"loss": [2.0, 1.5]}, epochs=4)
    giga.report(path, out=tmp_path / "r.html", thumbnails=0)
    text = " ".join(Outline((tmp_path / "r.html").read_text(encoding="utf-8")).text)
    assert "Not finished." in text
    assert "Loss 1.500." in text


def test_a_large_cohort_is_mapped_by_slides_spread_over_it(vectors_only, tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "MOST_MAPPED", 12)
    store, table = vectors_only([f"slide {i}" for i in range(40)])
    giga.report(store, table, out=tmp_path / "report.html", thumbnails=3)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    data = data_of(text)
    assert "13 of 40 slides" in text  # the middle one has a picture
    rows = [int(name.removeprefix("slide ")) for name in data["ids"]]
    assert {0, 20, 39} < set(rows)
    assert max(np.diff(rows)) <= 4
    one = data["maps"][0]
    assert one["rows"] == list(range(13))
    assert len(one["pca"]) == 2 * len(one["near"]) == 26
    assert max(map(max, one["near"])) < 13
    read = store.embedding("giga").read()[rows]
    cosines = read @ read.T - 2 * np.eye(13)
    assert [near[0] for near in one["near"]] == cosines.argmax(axis=1).tolist()
    assert [len(data[key]) for key in ("patients", "tiles")] == [13, 13]
    assert {len(group["codes"]) for group in data["groups"]} == {13}
