"""giga search: the slides of other patients that are most like one."""

import json

import numpy as np
import pytest
from PIL import Image

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store.store import Store
from tests.helpers import Recorder, run_giga


def test_the_slides_found_are_those_of_a_loop(vectors_only):
    store, labels = vectors_only([f"S{i}" for i in range(12)])
    vectors = store.embedding("giga").read()
    found = giga.search(store, "S4", labels, k=3)
    cosine = {i: float(vectors[4] @ vectors[i]) for i in range(12) if i // 2 != 2}  # two slides a patient
    best = sorted(cosine, key=lambda i: -cosine[i])
    assert [one.slide for one in found.found] == [f"S{i}" for i in best[:3]]
    np.testing.assert_allclose([one.similarity for one in found.found], [cosine[i] for i in best[:3]], atol=1e-6)
    assert (found.embedding, found.searched) == ("giga", 10)
    assert found.typical == pytest.approx(np.median(list(cosine.values())), abs=1e-6)
    first = best[0]
    assert found.found[0].labels == {"label": "ab"[first // 2 % 2], "centre": f"site {first % 3}"}
    assert (found.slide, found.patient, found.labels["centre"]) == ("S4", "p2", "site 1")
    title, columns, rows = found.table
    assert (title, columns) == (
        "slides of other patients like S4",
        ["slide", "patient", "similarity", "label", "centre"],
    )
    assert rows[0][:3] == ["S4", "p2", ""]
    assert len(rows) == 4
    assert len(giga.search(store, "S4", k=100).found) == 10
    assert giga.search(store, "S4").labels == {}


def test_patients_of_the_labels_count(vectors_only, tmp_path):
    store, _ = vectors_only([f"S{i}" for i in range(8)])
    table = tmp_path / "patients.csv"
    rows = [f"S{i},{'x' if i < 6 else 'y'},{i}" for i in range(8)]
    table.write_text("\n".join(["slide_id,patient_id,age", *rows]) + "\n")
    found = giga.search(store, "S0", table)
    assert {one.slide for one in found.found} == {"S6", "S7"}
    assert [one.labels["age"] for one in found.found] == [one.slide[1] for one in found.found]


def test_a_slide_is_found_by_its_short_name_and_others_are_named(vectors_only):
    store, labels = vectors_only(["lab/TCGA-A1.svs", "TCGA-A2", "TCGA-B3", "other"])
    assert giga.search(store, "TCGA-A1", labels).slide == "lab/TCGA-A1.svs"
    for name, hint in (
        ("tcga-b", "did you mean TCGA-B3?"),
        ("TCGA-A9", "TCGA-A2"),
        ("?", "its slides are named like lab/TCGA-A1.svs, TCGA-A2, TCGA-B3"),
    ):
        with pytest.raises(NotFound, match="holds no slide") as raised:
            giga.search(store, name)
        assert hint in raised.value.hint


def test_what_cannot_be_searched_is_refused(vectors_only, store_at, tmp_path):
    store, _ = vectors_only(["a", "b"], name="pair.zarr")
    with pytest.raises(InvalidInput, match="all 2 slides with a vector are of the patient of 'a', p0"):
        giga.search(store, "a")
    with pytest.raises(InvalidInput, match="a PNG is written") as raised:
        giga.search(store, "a", image="sheet.jpg")
    assert raised.value.hint == "name it sheet.png"
    with pytest.raises(NotFound, match="no 'x' in embeddings"):
        giga.search(store, "a", embedding="x")
    writable = Store.open(store, write=True)
    writable.root["embeddings/giga/vectors"][0] = 0
    with pytest.raises(InvalidInput, match="is zero, so no slide is more like it"):
        giga.search(store, "a")
    writable.root["embeddings/giga/done"][0] = -1
    with pytest.raises(NotFound, match="slide 'a' has no vector in 'giga'"):
        giga.search(store, "a")
    path = store_at("embed")
    giga.train(path, epochs=1, batch_size=4, join=False, redo=True)
    with pytest.raises(Mismatch, match="stale"):
        giga.search(path, Store.open(path).slides.ids[0])


def test_a_mean_of_tiles_is_standardised_first(chain):
    store = giga.open(chain("embed"))
    vectors = store.embedding("mean-random-resnet18").read().astype(np.float64)
    rows = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = giga.search(store, store.slides.ids[0], embedding="mean-random-resnet18", k=8)
    for one in found.found:
        assert one.similarity == pytest.approx(rows[0] @ rows[store.slides.index[one.slide]], abs=1e-4)


def test_the_sheet_shows_every_slide_and_is_the_same_again(chain, cohort, tmp_path):
    store, recorder = giga.open(chain("embed")), Recorder()
    slide = store.slides.ids[2]
    summary = giga.search(store, slide, cohort.labels_csv, k=4, image=tmp_path / "a.png", progress=recorder)
    assert summary.embedding == "giga"  # the only one of a slide encoder
    assert summary.files == [str(tmp_path / "a.png")]
    assert summary.notes == []
    assert recorder.started == [("drawing slides", 5, 0)]
    with Image.open(tmp_path / "a.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    assert pixels.shape[1] > 1500
    assert (np.ptp(pixels, axis=2) > 40).mean() > 0.02  # tissue has a colour
    giga.search(store, slide, cohort.labels_csv, k=4, image=tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_slides_that_are_gone_have_a_place_on_the_sheet(vectors_only, tmp_path, evil):
    store, labels = vectors_only(["$\\frac{a$", *evil, "c", "d"], labels=evil[:2])
    summary = giga.search(store, "c", labels, k=2, image=tmp_path / "sheet.png")
    assert "3 slides are not drawn, first c: " in summary.notes[0]
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_the_command(chain, cohort, tmp_path):
    store = giga.open(chain("embed"))
    slide = store.slides.ids[0]
    shown = run_giga("search", store.url, slide, "--labels", cohort.labels_csv, "--k", "3")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count(slide) == 3  # in the summary, in the title and in the first row
    assert "similarity" in shown.stdout
    done = run_giga("search", store.url, slide, "--image", "alike.png", "--json", cwd=tmp_path)
    read = json.loads(done.stdout)
    assert len(read["found"]) == 5
    assert read["files"] == ["alike.png"]
    assert (tmp_path / "alike.png").exists()
    refused = run_giga("search", store.url, "nobody")
    assert refused.returncode == 2
    assert "its slides are named like" in refused.stderr
