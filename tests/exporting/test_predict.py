"""giga predict: a head that was fitted on one store says of the slides of another what the probe would."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.probing.head import Head, LinearMap
from gigacli.probing.head_card import HeadScore
from gigacli.probing.heads import fit_of
from gigacli.probing.standardise import moments
from gigacli.probing.truth import classes_of
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from gigacli.weights.heads import head_of, refuse_other_kind
from tests.helpers import run_giga

WIDTH = 6
RECIPE = Recipe("import", {"aggregator": "import", "encoder": "titan", "tool": "trident"}, {})


def make(path, n, *, seed=0, name="titan", recipe=RECIPE, patients=True, missing=()):
    """A store of vectors of another tool, two slides a patient."""
    store, rng = Store.create(path), np.random.default_rng(seed)
    rows = [SlideRow(id=f"{seed}-{i}", path="", patient=f"{seed}-p{i // 2}" * patients) for i in range(n)]
    store.write_slides(SlideTable(tuple(rows)))
    vectors = rng.normal(size=(n, WIDTH)).astype(np.float32)
    vectors[:, 0] += 2 * (np.arange(n) // 2 % 2)
    kept = np.array([i for i in range(n) if i not in missing])
    store.embedding(name).begin(recipe, WIDTH, redo=False)
    store.embedding(name).write(kept, vectors[kept])
    return store


def fitted(store, **changes):
    """A head of classes a and b, and its map."""
    vectors = store.embedding("titan").read()
    labels = np.array(list("ab"))[np.arange(len(vectors)) // 2 % 2]
    learnt = LinearMap.of(
        fit_of("classification", "linear", C=10.0)(vectors, classes_of(labels), None), "classification"
    )
    options = {
        "task": "classification",
        "target": "grade",
        "classes": ("a", "b"),
        "method": "logistic regression",
        "c": 10.0,
        "level": "slide",
        "unit_length": True,
        "slides": len(vectors),
        "patients": len(vectors) // 2,
        "sites": 2,
        "score": HeadScore(metric="AUC", mean=0.9, low=0.8, high=0.95, splits=10),
    }
    return head_of(store.embedding("titan"), learnt, **{**options, **changes})


@pytest.fixture
def head(tmp_path):
    file = tmp_path / "head.safetensors"
    fitted(make(tmp_path / "a.zarr", 40)).save(file)
    return file


def test_every_slide_gets_what_the_head_says(head, tmp_path):
    other = make(tmp_path / "b.zarr", 10, seed=1, missing=(3,))
    found = giga.predict(other, head, out=tmp_path / "out" / "said.csv")
    expected = Head.load(head).map.predict(other.embedding("titan").read()[[i for i in range(10) if i != 3]])
    assert [row["slide_id"] for row in found.predictions] == [f"1-{i}" for i in range(10) if i != 3]
    assert [row["patient_id"] for row in found.predictions][:4] == ["1-p0", "1-p0", "1-p1", "1-p2"]
    np.testing.assert_array_equal([(row["p_a"], row["p_b"]) for row in found.predictions], expected)
    with (tmp_path / "out" / "said.csv").open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [{k: float(v) if k.startswith("p_") else v for k, v in row.items()} for row in read] == found.predictions
    assert (found.predicted, found.without_vector, found.embedding) == (9, 1, "titan")
    assert (found.task, found.target) == ("classification", "grade")
    assert found.notes[0].startswith(
        "logistic regression for 'grade', fitted on 40 slides of 20 patients from 2 sites by giga "
    )
    assert "AUC 0.900 (95 % interval 0.800 to 0.950) in its cross-validation" in found.notes[0]
    assert found.notes[1:] == ["1 slides have no vector, and no prediction: 1-3"]


def test_its_own_slides_are_no_test(head, tmp_path):
    found = giga.predict(tmp_path / "a.zarr", head)
    assert any("what it says is no test of it" in note for note in found.notes)
    assert found.files == []
    assert found.table[0] == "grade, the first 20 of 40"
    assert len(found.table[2]) == 20


def test_a_head_of_patients_predicts_patients(tmp_path):
    file = tmp_path / "head.safetensors"
    fitted(make(tmp_path / "a.zarr", 40), level="patient", score=None, sites=None).save(file)
    other = make(tmp_path / "b.zarr", 9, seed=1)
    found = giga.predict(other, file)
    vectors = other.embedding("titan").read()
    means = np.stack([vectors[i : i + 2].mean(axis=0) for i in range(0, 9, 2)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert [row["slides"] for row in found.predictions] == [2, 2, 2, 2, 1]
    assert [row["patient_id"] for row in found.predictions] == [f"1-p{i}" for i in range(5)]
    said = [(row["p_a"], row["p_b"]) for row in found.predictions]
    np.testing.assert_allclose(said, Head.load(file).map.predict(means.astype(np.float32)), atol=1e-6)
    assert "cross-validation" not in found.notes[0]
    with pytest.raises(InvalidInput, match="which slides are of one patient is not known"):
        giga.predict(make(tmp_path / "c.zarr", 4, seed=2, patients=False), file)


def test_a_head_of_risks(tmp_path):
    store = make(tmp_path / "a.zarr", 12)
    vectors = store.embedding("titan").read()
    mean, deviation = moments(vectors)
    learnt = LinearMap(mean, deviation, np.ones((1, WIDTH)), np.zeros(1), "identity")
    file = tmp_path / "head.safetensors"
    replaced = replace(fitted(store, task="survival", target="os", classes=(), c=None).card, link="identity")
    Head(replaced, learnt).save(file)
    found = giga.predict(store, file)
    np.testing.assert_allclose(
        [row["risk"] for row in found.predictions], ((vectors - mean) / deviation).sum(axis=1), rtol=1e-5, atol=1e-5
    )


def test_the_embedding_that_fits_is_taken(head, tmp_path):
    other = make(tmp_path / "b.zarr", 6, seed=1, name="first")
    prism = Recipe("import", {"aggregator": "import", "encoder": "prism", "tool": "trident"}, {})
    for name, recipe in (("prism", prism), ("titan", prism)):
        other.embedding(name).begin(recipe, WIDTH, redo=False)
    assert giga.predict(other, head).embedding == "first"  # others are of another kind, whatever they are called
    other.embedding("second").begin(RECIPE, WIDTH, redo=False)
    with pytest.raises(InvalidInput, match=r"several embeddings that head .* goes with: first, second"):
        giga.predict(other, head)
    assert giga.predict(other, head, embedding="first").embedding == "first"
    with pytest.raises(Mismatch, match=r"embeddings/prism does not go with head .*: tile encoder: found 'prism'"):
        giga.predict(other, head, embedding="prism")
    with pytest.raises(NotFound, match="no 'x' in embeddings"):
        giga.predict(other, head, embedding="x")
    other.embedding("titan").begin(RECIPE, WIDTH, redo=True)
    assert giga.predict(other, head).embedding == "titan"  # called as where the head was fitted


def test_a_store_without_vectors_of_its_kind_is_refused_with_what_to_do(head, tmp_path):
    prism = Recipe("import", {"aggregator": "import", "encoder": "prism", "tool": "trident"}, {})
    with pytest.raises(Mismatch, match=r"found 'prism'.*expected 'titan'") as raised:
        giga.predict(make(tmp_path / "b.zarr", 4, seed=1, recipe=prism), head)
    assert "with the tile encoder that is expected" in raised.value.hint
    with pytest.raises(NotFound, match="holds no embeddings"):
        giga.predict(Store.create(tmp_path / "c.zarr"), head)
    (tmp_path / "said.csv").write_text("mine")
    for out, error, says in (
        (tmp_path / "said.txt", InvalidInput, "a table is written as CSV"),
        (tmp_path / "said.csv", InvalidInput, "is there already"),
    ):
        with pytest.raises(error, match=says):
            giga.predict(tmp_path / "a.zarr", head, out=out)
    assert (tmp_path / "said.csv").read_text() == "mine"
    assert giga.predict(tmp_path / "a.zarr", head, out=tmp_path / "said.csv", redo=True).predicted == 40
    with pytest.raises(NotFound, match="no such file"):
        giga.predict(tmp_path / "a.zarr", tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"mpp": 0.5, "tile_px": 224}, "giga tile NEW.zarr SLIDES --mpp 0.5 --tile-px 224"),
        ({"encoder_sha256": "f" * 64}, "giga bank .* --encoder NAME-OR-FILE"),
        ({"learnt": "f" * 64}, "giga export STORE models/giga --to giga.safetensors; then here: giga embed"),
        ({"blocks": {"encoder": (0, 512)}}, "giga embed .* --model giga.safetensors --redo"),
        ({"aggregator": "mean", "model": "", "learnt": ""}, "giga embed .* --aggregator mean"),
        ({"aggregator": "gmm", "model": "", "learnt": "f" * 64}, "each cohort has its own closed forms"),
    ],
)
def test_the_remedy_begins_where_vectors_begin_to_differ(chain, changes, hint):
    ours = giga.open(chain("embed")).embedding("giga")
    learnt = LinearMap(np.zeros(512), np.ones(512), np.zeros((1, 512)), np.zeros(1), "logistic")
    card = head_of(ours, learnt, **{**CLASSES, "level": "slide"}).card
    assert refuse_other_kind(ours, card, wanted="it") is None
    assert refuse_other_kind(ours, ours, wanted="it") is None
    with pytest.raises(Mismatch, match="embeddings/giga does not go with it: ") as raised:
        refuse_other_kind(ours, replace(card, vectors=replace(card.vectors, **changes)), wanted="it")
    assert re.search(hint, raised.value.hint)


CLASSES = {
    "task": "classification",
    "target": "label",
    "classes": ("a", "b"),
    "method": "logistic regression",
    "c": 10.0,
    "unit_length": True,
    "slides": 8,
    "patients": None,
    "sites": None,
    "score": None,
}


def test_the_command(head, tmp_path):
    make(tmp_path / "b.zarr", 6, seed=1)
    shown = run_giga("predict", "b.zarr", "--head", head, "--out", "said.csv", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "p_a" in shown.stdout
    assert "wrote said.csv" in shown.stdout
    read = json.loads(run_giga("predict", "b.zarr", "--head", head, "--json", cwd=tmp_path).stdout)
    assert len(read["predictions"]) == read["predicted"] == 6
    refused = run_giga("predict", "b.zarr", "--head", tmp_path / "said.csv", cwd=tmp_path)
    assert refused.returncode == 2
    assert "not a safetensors file" in refused.stderr
    assert "Traceback" not in refused.stderr
