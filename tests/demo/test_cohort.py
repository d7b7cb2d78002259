"""The cohort: balanced, repeatable, resumable, and no name gives a class away."""

from __future__ import annotations

import csv
import json
import threading
from collections import Counter

import numpy as np
import openslide
import pytest

from gigacli.demo import cohort as module
from gigacli.demo.anatomy import CLASSES, TILE_TYPES
from gigacli.demo.cohort import write_cohort
from gigacli.errors import InvalidInput, Mismatch
from tests.helpers import Recorder

SMALL = {"size_px": (320, 280), "mpp": 2.0}


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), slides=12, patients=6, labs=3, seed=4, **SMALL)


def test_every_row_is_a_slide(whole):
    rows = table(whole.cohort_csv)
    assert whole.count == len(rows) == len(list(whole.slides.iterdir())) == len(list(whole.truth.iterdir())) == 12
    assert [row["slide_id"] for row in rows] == [row["slide_id"] for row in table(whole.labels_csv)]
    outlines = set()
    for row in rows:
        with openslide.OpenSlide(whole.cohort_csv.parent / row["path"]) as slide:
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(2.0)
            with np.load(whole.truth / f"{row['slide_id']}.npz") as truth:
                height, width = truth["tissue"].shape
                assert slide.dimensions == (width * truth["downsample"], height * truth["downsample"])
                assert truth["tile_type"].shape == truth["pen"].shape == (height, width)
                assert truth["tissue"].any()
                outlines.add(truth["tissue"].tobytes())
    assert len(outlines) == 12  # no two slides alike


def tables_only(monkeypatch):
    monkeypatch.setattr(module, "_write_slide", lambda *_: None)
    monkeypatch.setattr(module, "_glandular_share", lambda _, slide: 0.75 if slide.label == CLASSES[0] else 0.25)


@pytest.mark.parametrize(("slides", "patients", "labs"), [(24, 12, 3), (32, 16, 3), (8, 8, 4), (6, 2, 1), (40, 20, 2)])
def test_balance(tmp_path, monkeypatch, slides, patients, labs):
    tables_only(monkeypatch)
    rows = table(write_cohort(tmp_path, slides=slides, patients=patients, labs=labs).labels_csv)
    assert len({row["slide_id"] for row in rows}) == slides
    assert set(Counter(row["patient_id"] for row in rows).values()) == {slides // patients}
    people = {(row["patient_id"], row["label"], row["lab"]) for row in rows}
    assert len(people) == patients  # one class and one lab each
    count = Counter((lab, label) for _, label, lab in people)
    assert set(count) == {(f"lab{lab + 1}", label) for lab in range(labs) for label in CLASSES}
    for lab in range(labs):
        assert len({count[f"lab{lab + 1}", label] for label in CLASSES}) == 1
    assert max(count.values()) - min(count.values()) <= 1


def test_names_do_not_give_the_class_away(tmp_path, monkeypatch):
    """Over many seeds, a patient of a given number is of either class equally often."""
    tables_only(monkeypatch)
    first = []
    for seed in range(60):
        rows = table(write_cohort(tmp_path / str(seed), slides=12, seed=seed).labels_csv)
        first.append([row["label"] == CLASSES[0] for row in rows])
        assert not any(label in row["slide_id"] for row in rows for label in CLASSES)
    assert np.abs(np.mean(first, axis=0) - 0.5).max() < 0.25


def test_columns_are_added_at_the_end(tmp_path):
    """Whoever has a demo keeps it: the first columns of its labels do not change."""
    cohort = write_cohort(tmp_path, slides=2, patients=2, labs=1, seed=3, **SMALL)
    with cohort.labels_csv.open() as file:
        assert next(file) == "slide_id,label,patient_id,lab,time,event,glandular_percent\n"
        assert [line.split(",")[:4] for line in file] == [
            ["lab1_patient01_a", "glandular", "patient01", "lab1"],
            ["lab1_patient02_a", "solid", "patient02", "lab1"],
        ]


def test_labels_are_measured_on_the_tissue(whole):
    for row in table(whole.labels_csv):
        with np.load(whole.truth / f"{row['slide_id']}.npz") as truth:
            counts = np.bincount(truth["tile_type"].ravel(), minlength=len(TILE_TYPES))
        glandular, solid = (counts[TILE_TYPES.index(name)] for name in ("glandular", "solid"))
        assert float(row["glandular_percent"]) == pytest.approx(100 * glandular / (glandular + solid), abs=0.051)


def test_a_patient_has_one_fate_and_solid_tissue_a_worse_one(tmp_path, monkeypatch):
    """The hazards of the two classes by hand: events over months. And a good part are censored."""
    tables_only(monkeypatch)
    rows = [
        r for s in range(20) for r in table(write_cohort(tmp_path / str(s), slides=96, patients=48, seed=s).labels_csv)
    ]
    for a, b in zip(rows[::2], rows[1::2], strict=True):
        assert (a["patient_id"], a["time"], a["event"]) == (b["patient_id"], b["time"], b["event"])
    hazard = {
        label: sum(int(r["event"]) for r in rows if r["label"] == label)
        / sum(float(r["time"]) for r in rows if r["label"] == label)
        for label in CLASSES
    }
    assert hazard["solid"] / hazard["glandular"] == pytest.approx(np.exp(2), rel=0.3)
    assert 0.2 < np.mean([r["event"] == "0" for r in rows]) < 0.6
    assert all(0 < float(r["time"]) <= 72 for r in rows)


@pytest.mark.parametrize(("site_effect", "glandular"), [(0.5, (12, 4, 8)), (1.0, (16, 0, 8)), (0.0, (8, 8, 8))])
def test_a_site_effect_gives_labs_a_class(tmp_path, monkeypatch, site_effect, glandular):
    tables_only(monkeypatch)
    rows = table(write_cohort(tmp_path, slides=48, patients=48, labs=3, site_effect=site_effect).labels_csv)
    counts = Counter(row["lab"] for row in rows if row["label"] == "glandular")
    assert tuple(counts[f"lab{i}"] for i in (1, 2, 3)) == glandular
    with pytest.raises(Mismatch, match=f"site_effect = {site_effect}, now 0.25"):
        write_cohort(tmp_path, slides=48, patients=48, labs=3, site_effect=0.25)


def test_a_folder_of_an_earlier_version_is_taken(tmp_path):
    arguments = {"slides": 2, "patients": 2, "labs": 1, **SMALL}
    cohort = write_cohort(tmp_path, **arguments)
    recipe = json.loads((tmp_path / "demo.json").read_text())
    del recipe["site_effect"]
    (tmp_path / "demo.json").write_text(json.dumps(recipe))
    labels = cohort.labels_csv.read_text()
    cohort.labels_csv.write_text("slide_id,label,patient_id,lab\n")
    assert write_cohort(tmp_path, **arguments).labels_csv.read_text() == labels


def test_same_seed_same_bytes_for_any_number_of_workers(whole, tmp_path):
    write_cohort(tmp_path, slides=12, patients=6, labs=3, seed=4, workers=1, **SMALL)
    assert contents(tmp_path) == contents(whole.folder)


def test_another_seed_other_slides(whole, tmp_path):
    other = write_cohort(tmp_path, slides=6, patients=6, labs=3, seed=5, **SMALL)
    for path in other.slides.iterdir():
        assert path.read_bytes() != (whole.slides / path.name).read_bytes()


def test_interrupted_call_is_completed_by_the_next(whole, tmp_path, monkeypatch):
    draw, drawn = module.draw_slide, []

    def interrupted(*args, **kwargs):
        if len(drawn) == 5:
            raise KeyboardInterrupt
        drawn.append(threading.get_ident())
        return draw(*args, **kwargs)

    arguments = {"slides": 12, "patients": 6, "labs": 3, "seed": 4, **SMALL}
    monkeypatch.setattr(module, "draw_slide", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path, workers=1, **arguments)
    (tmp_path / "slides" / ".half.tif.partial").touch()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "slides").glob("*.tif")}
    assert len(finished) == 5

    monkeypatch.setattr(module, "draw_slide", draw)
    progress = Recorder()
    write_cohort(tmp_path, progress=progress, **arguments)
    assert progress.started == [("drawing slides", 12, 5)]
    assert sum(steps for steps, _ in progress.advanced) == 7
    assert progress.said == []
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    (tmp_path / "slides" / ".half.tif.partial").unlink()
    assert contents(tmp_path) == contents(whole.folder)


def test_a_slide_without_its_truth_is_drawn_again(whole, tmp_path):
    arguments = {"slides": 2, "patients": 2, "labs": 1, **SMALL}
    cohort = write_cohort(tmp_path, **arguments)
    before = contents(tmp_path)
    next(cohort.truth.iterdir()).unlink()
    write_cohort(tmp_path, **arguments)
    assert contents(tmp_path) == before


def test_half_a_slide_never_has_its_name(tmp_path, monkeypatch):
    def fails_midway(path, *_args, **_kwargs):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(module, "write_pyramid", fails_midway)
    with pytest.raises(OSError, match="disk full"):
        write_cohort(tmp_path, slides=2, patients=2, labs=1, **SMALL)
    assert not list((tmp_path / "slides").glob("*.tif"))


def test_another_recipe_is_refused(tmp_path):
    write_cohort(tmp_path, slides=2, patients=2, labs=1, **SMALL)
    before = contents(tmp_path)
    with pytest.raises(Mismatch, match="seed = 0, now 1"):
        write_cohort(tmp_path, slides=2, patients=2, labs=1, seed=1, **SMALL)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"slides": 25}, "slides = 25 for 12 patients"),
        ({"slides": 0}, "slides = 0"),
        ({"slides": 27 * 12}, "slides = 324"),
        ({"patients": 9, "slides": 9}, "patients = 9 for 3 labs"),
        ({"patients": 4, "slides": 4}, "patients = 4 for 3 labs, expected an even number of at least 6"),
        ({"labs": 0}, "labs = 0"),
        ({"labs": 5, "patients": 20, "slides": 20}, "labs = 5, expected 1 to 4"),
        ({"seed": -1}, "seed = -1"),
        ({"site_effect": 1.5}, "site_effect = 1.5, expected 0 to 1"),
        ({"workers": 0}, "workers = 0"),
        ({"size_px": (100, 100)}, "92 x 92 px"),
        ({"mpp": -1.0}, "mpp = -1.0"),
    ],
)
def test_refuses_and_leaves_nothing(tmp_path, options, found):
    with pytest.raises(InvalidInput, match=found):
        write_cohort(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
