"""giga probe: what the vectors are worth."""

import csv
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import gigacli as giga
from gigacli.errors import InvalidInput, NotFound
from gigacli.probing import shown, task
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from tests.helpers import run_giga


def made_up_store(path, embeddings, *, patients=None):
    """A store of vectors alone: {name: (recipe config, vectors)}."""
    n = len(next(iter(embeddings.values()))[1])
    store = Store.create(path)
    rows = [SlideRow(id=f"s{i:03d}", path="-", patient=patients[i] if patients else "") for i in range(n)]
    store.write_slides(SlideTable(tuple(rows)))
    for name, (config, vectors) in embeddings.items():
        embedding, there = store.embedding(name), np.isfinite(vectors).all(axis=1)
        embedding.begin(Recipe("embed", config, {"features": "f"}), vectors.shape[1], redo=False)
        embedding.write(np.flatnonzero(there), vectors[there], empty=np.flatnonzero(~there))
    return store


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def vectors():
    """120 slides, two classes, and vectors that know the class a little."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    good = rng.normal(size=(120, 16)).astype(np.float32)
    good[:, 0] += 2 * y
    return y, good / np.linalg.norm(good, axis=1, keepdims=True), rng.normal(size=(120, 8)).astype(np.float32)


@pytest.fixture
def store(tmp_path, vectors):
    _, good, noise = vectors
    embeddings = {"giga": ({"aggregator": "model", "model": "giga"}, good), "mean-x": ({"aggregator": "mean"}, noise)}
    return made_up_store(tmp_path / "cohort.zarr", embeddings, patients=[f"p{i // 4}{i % 2}" for i in range(120)])


@pytest.fixture
def labels(tmp_path, vectors):
    path = tmp_path / "labels.csv"
    path.write_text("ID,label\n" + "".join(f"s{i:03d},{'ab'[v]}\n" for i, v in enumerate(vectors[0])))
    return path


def test_scores_with_baselines(store, labels):
    result = giga.probe(store, labels)
    rows = {(row.embedding, row.c): row for row in result.scores}
    assert list(rows) == [("giga", "10"), ("mean-x", "10"), ("mean-x", "auto")]
    assert rows["giga", "10"].auc_mean > 0.8
    assert rows["mean-x", "10"].auc_mean < 0.7
    assert rows["mean-x", "10"].scaled
    assert not rows["giga", "10"].scaled
    assert rows["giga", "10"].splits == 10
    assert rows["giga", "10"].auc_low <= rows["giga", "10"].auc_mean <= rows["giga", "10"].auc_high
    assert result.joins["label"]["matched"] == 120
    assert rows["giga", "10"].classes == result.joins["label"]["classes"] == {"a": 60, "b": 60}
    assert rows["giga", "10"].patients == result.joins["label"]["patients"] == {"a": 30, "b": 30}
    assert any("patient" in note for note in result.notes)


@pytest.mark.parametrize("case", ["gaps", "capitals", "contradictions"])
def test_a_table_of_labels_does_not_divide_the_patients_of_the_store(tmp_path, case):
    """96 slides of 48 patients, whose vectors know the patient better than the class."""
    rng = np.random.default_rng(0)
    owner, y = np.arange(96) // 2, np.arange(48) % 2
    vectors = rng.normal(size=(48, 64))[owner] + 0.5 * rng.normal(size=(96, 64))
    vectors[:, 0] += 1.5 * y[owner]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    patients = [f"P{i:02d}" for i in owner]
    store = made_up_store(tmp_path / "c.zarr", {"giga": ({"aggregator": "model"}, vectors)}, patients=patients)
    said = {
        "gaps": [name if i < 8 else "" for i, name in enumerate(patients)],
        "capitals": [name.lower() if i % 2 else name for i, name in enumerate(patients)],
        "contradictions": [f"X{i}" for i in range(96)],
    }
    table = tmp_path / "labels.csv"
    rows = [f"s{i:03d},{'ab'[y[owner[i]]]},{name}" for i, name in enumerate(said[case])]
    table.write_text("\n".join(["slide_id,label,patient_id", *rows]))
    result = giga.probe(store, table, out=tmp_path / "out")
    assert result.scores[0].auc_mean < 0.85  # with patients on both sides: 0.95 and more
    folds = {}
    for row in read(tmp_path / "out" / "predictions.csv"):
        folds.setdefault(row["split"], set()).add(owner[int(row["slide"][1:])])
    assert sum(map(len, folds.values())) == 48  # every patient was tested in one split, with all its slides
    assert len(result.warnings) == (case != "gaps")
    assert all("divide 48 of the store's patients" in warning for warning in result.warnings)


def test_shuffled_labels_score_at_chance(store, tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "shuffled.csv"
    shuffled = rng.permutation(np.arange(120) % 2)
    path.write_text("slide_id,label\n" + "".join(f"s{i:03d},{v}\n" for i, v in enumerate(shuffled)))
    assert abs(giga.probe(store, path).scores[0].auc_mean - 0.5) < 0.15


def test_patients_stay_on_one_side_unless_told_otherwise(tmp_path):
    """Vectors that know the patient but not the class: grouped they score at chance, one by one they shine."""
    rng = np.random.default_rng(2)
    patient = np.repeat(np.arange(30), 4)
    y = patient % 2
    identity = np.eye(30, dtype=np.float32)[patient] + 0.01 * rng.normal(size=(120, 30)).astype(np.float32)
    config = {"aggregator": "model", "model": "giga"}
    store = made_up_store(tmp_path / "c.zarr", {"giga": (config, identity)}, patients=[f"p{p}" for p in patient])
    labels = tmp_path / "labels.csv"
    labels.write_text("slide_id,label\n" + "".join(f"s{i:03d},{v}\n" for i, v in enumerate(y)))
    assert giga.probe(store, labels).scores[0].auc_mean < 0.75
    loose = giga.probe(store, labels, group="none")
    assert loose.scores[0].auc_mean > 0.95
    assert any("`group='none'`" in w for w in loose.warnings)


def test_budgets_share_their_test_sets(store, labels):
    result = giga.probe(store, labels, fraction=(0.25, 0.5), n_train=(20,), embedding=("giga",))
    rows = [row for row in result.scores if row.embedding == "giga" and row.c == "10"]
    assert [row.budget for row in rows] == ["25 %", "50 %", "20"]
    assert [round(row.n_train) for row in rows] == [27, 54, 20]
    assert len({row.n_test for row in rows}) == 1


def test_given_splits_are_used_as_they_are_and_leaks_are_said(store, labels, tmp_path):
    folder = tmp_path / "splits"
    folder.mkdir()
    for k in range(2):
        test = [f"s{i:03d}" for i in range(k * 20 + 1, k * 20 + 21)]  # begins in the middle of a patient
        train = [f"s{i:03d}" for i in range(120) if f"s{i:03d}" not in test]
        lines = [f"{a},{test[i] if i < len(test) else ''}" for i, a in enumerate(train)]
        (folder / f"split_{k}.csv").write_text("train,test\n" + "\n".join(lines))
    result = giga.probe(store, labels, splits=folder)
    assert result.scores[0].splits == 2
    assert result.scores[0].n_test == 20
    assert any("10.0 %" in warning for warning in result.warnings)


def test_splits_that_name_other_slides_are_refused(store, labels, tmp_path):
    folder = tmp_path / "splits"
    folder.mkdir()
    names = [f"s{i:03d}" for i in range(120)]
    rows = [*zip(names[:100], names[100:], strict=False), ("S000", "gone")]
    (folder / "split_0.csv").write_text("\n".join(["train,test", *(f"{a},{b}" for a, b in rows)]))
    with pytest.raises(NotFound, match=r"2 of the 42 names .* 'S000', 'gone'; 1 differ in capitals only: 'S000' is"):
        giga.probe(store, labels, splits=folder)
    result = giga.probe(store, labels, splits=folder, allow_missing=True)
    assert any(note.startswith("2 of the 42 names") for note in result.notes)


def test_every_embedding_that_is_named_must_be_there(store, labels):
    with pytest.raises(NotFound, match="nowhere"):
        giga.probe(store, labels, embedding=("giga", "nowhere"))
    with pytest.raises(InvalidInput, match="no column 'nowhere'"):
        giga.probe(store, labels, target=("label", "nowhere"))


def test_one_embedding_named_keeps_its_baseline(store, labels):
    names = [row.embedding for row in giga.probe(store, labels, embedding=("giga",)).scores]
    assert names == ["giga", "mean-x", "mean-x"]


def test_more_than_two_classes(tmp_path):
    rng = np.random.default_rng(3)
    y = np.arange(90) % 3
    found = rng.normal(size=(90, 6)).astype(np.float32)
    found[np.arange(90), y] += 2
    store = made_up_store(tmp_path / "c.zarr", {"giga": ({"aggregator": "model", "model": "giga"}, found)})
    labels = tmp_path / "labels.csv"
    labels.write_text("slide_id,subtype\n" + "".join(f"s{i:03d},{'xyz'[v]}\n" for i, v in enumerate(y)))
    result = giga.probe(store, labels, target="subtype", folds=3)
    assert result.scores[0].auc_mean > 0.85
    assert result.joins["subtype"]["classes"] == {"x": 30, "y": 30, "z": 30}


def test_the_store_is_found_where_it_lies(store, labels, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert giga.probe(None, labels).joins["label"]["matched"] == 120
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InvalidInput, match="no store was named"):
        giga.probe(None, labels)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("a,b\n1,2\n", "slide_id"),
        ("slide_id,label\ns000,x\ns001,x\n", "same"),
        ("slide_id,label\nq,x\nr,y\n", "q"),
    ],
)
def test_tables_that_cannot_be_used(store, tmp_path, text, says):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        giga.probe(store, path)


def test_refusals(store, labels, tmp_path):
    with pytest.raises(NotFound, match="gone"):
        giga.probe(store, tmp_path / "gone.csv")
    with pytest.raises(NotFound, match="nobody"):
        giga.probe(store, labels, embedding=("nobody",))
    with pytest.raises(InvalidInput, match="`fraction`"):
        giga.probe(store, labels, fraction=(1.5,))
    with pytest.raises(NotFound, match="giga embed"):
        giga.probe(Store.create(tmp_path / "e.zarr"), labels)


def test_auto_is_for_all(store, labels):
    rows = [(row.embedding, row.c) for row in giga.probe(store, labels, c="auto", folds=2).scores]
    assert rows == [("giga", "auto"), ("mean-x", "10"), ("mean-x", "auto")]


def test_differences_are_to_the_mean_at_its_best(store, labels):
    result = giga.probe(store, labels)
    ours, mean, best = result.scores
    assert ours.difference == pytest.approx(ours.auc_mean - best.auc_mean)
    assert ours.difference == pytest.approx(np.mean(np.subtract(ours.aucs, best.aucs)))
    assert ours.difference_low < ours.difference < ours.difference_high
    assert (best.difference, best.baseline) == (None, "")
    assert mean.difference == pytest.approx(mean.auc_mean - best.auc_mean)
    assert ours.baseline == "mean-x (C=auto)"
    turned = giga.probe(store, labels, baseline="giga").scores
    assert turned[2].difference == pytest.approx(-ours.difference)
    assert turned[0].difference is None
    with pytest.raises(InvalidInput, match="`baseline` is 'nobody'"):
        giga.probe(store, labels, baseline="nobody")


def test_without_a_mean_of_tiles_the_first_embedding_is_the_baseline(tmp_path, vectors, labels):
    _, good, noise = vectors
    config = {"aggregator": "model", "model": "m"}
    first, second = giga.probe(
        made_up_store(tmp_path / "c.zarr", {"a": (config, noise), "b": (config, good)}), labels
    ).scores
    assert (first.difference, second.baseline) == (None, "a")
    assert second.difference == pytest.approx(second.auc_mean - first.auc_mean)
    [alone] = giga.probe(made_up_store(tmp_path / "d.zarr", {"a": (config, good)}), labels).scores
    assert alone.difference is None


def test_converged_is_another_fit(store, labels, tmp_path):
    outs = {True: tmp_path / "converged", False: tmp_path / "plain"}
    converged, plain = (giga.probe(store, labels, converged=c, out=out).scores[0] for c, out in outs.items())
    texts = [(out / "predictions.csv").read_text() for out in outs.values()]
    assert texts[0] != texts[1]
    assert plain.auc_mean == pytest.approx(converged.auc_mean, abs=0.01)


def test_several_targets_are_one_table(store, tmp_path):
    path = tmp_path / "two.csv"
    lines = [f"s{i:03d},{i % 2},{'xyz'[i % 3] if i % 5 else ''}" for i in range(120)]
    path.write_text("slide_id,grade,stage\n" + "\n".join(lines))
    result = giga.probe(store, path, target=("grade", "stage"), embedding=("giga",), out=tmp_path / "out")
    assert [row.target for row in result.scores] == ["grade"] * 3 + ["stage"] * 3
    assert (result.joins["grade"]["matched"], result.joins["stage"]["matched"]) == (120, 96)
    assert result.joins["stage"]["missing"] == 24
    figures = {
        f"{kind}-{target}.png" for kind in ("roc", "reliability", "learning-curve") for target in ("grade", "stage")
    }
    tables = {"scores.csv", "scores.md", "scores.tex", "scores.html", "predictions.csv"}
    assert {f.name for f in (tmp_path / "out").iterdir()} == figures | tables
    rows = read(tmp_path / "out" / "predictions.csv")
    assert {"p_0", "p_1", "p_x", "p_y", "p_z"} <= rows[0].keys()
    assert all(row["p_x"] == "" for row in rows if row["target"] == "grade")


def test_patients_are_judged_by_one_vector_each(store, tmp_path):
    path = tmp_path / "patients.csv"
    patients = sorted({f"p{i // 4}{i % 2}" for i in range(120)})
    path.write_text("patient_id,label\n" + "".join(f"{p},{'ab'[int(p[-1])]}\n" for p in patients))
    result = giga.probe(store, path, level="patient", folds=5)
    assert result.joins["label"]["labels"] == 60
    assert result.scores[0].n_train + result.scores[0].n_test == 60
    assert result.scores[0].auc_mean > 0.9  # two slides tell more than one
    assert not any("leak" in warning for warning in result.warnings)


@pytest.mark.slow
def test_predictions_lead_back_to_the_scores(store, labels, tmp_path):
    out = tmp_path / "out"
    result = giga.probe(store, labels, out=out, fraction=(0.25, 1.0), folds=4)
    assert sorted(result.files) == sorted(str(f) for f in out.iterdir())
    written = read(out / "scores.csv")
    assert [float(row["auc_mean"]) for row in written] == [row.auc_mean for row in result.scores]
    assert written[0]["classes"] == "a 60; b 60"
    predictions = read(out / "predictions.csv")
    assert len(predictions) == 120 * len(result.scores)  # every slide is tested once
    for row in result.scores:
        key = {"embedding": row.embedding, "c": row.c, "budget": row.budget}
        mine = [p for p in predictions if all(p[k] == v for k, v in key.items())]
        for split, auc in enumerate(row.aucs):
            fold = [p for p in mine if p["split"] == str(split)]
            assert roc_auc_score([p["truth"] for p in fold], [float(p["p_b"]) for p in fold]) == pytest.approx(auc)
    before = {f.name: f.read_bytes() for f in out.iterdir()}
    giga.probe(store, labels, out=out, fraction=(0.25, 1.0), folds=4)
    assert {f.name: f.read_bytes() for f in out.iterdir()} == before


def test_a_warning_of_several_rows_is_one():
    said = ["giga (C=auto), all: too few: 2", "leaks", "mean (C=10), all: too few: 2", "10 splits: 2 patients"]
    assert list(shown._together(said)) == [
        "giga (C=auto), all; mean (C=10), all: too few: 2",
        "leaks",
        "10 splits: 2 patients",
    ]


def test_an_encoder_is_named_once_with_all_its_vectors():
    moco = ("tile encoder 'moco'", np.array([True, True, False]))
    named = [("giga", [("slide encoder 'giga'", None), moco]), ("mean-moco", [moco]), ("mean-moco", [moco])]
    candidates = [SimpleNamespace(name=name, encoders=encoders) for name, encoders in named]
    units = SimpleNamespace(slides=[np.array([0]), np.array([1, 2])])
    splits = [SimpleNamespace(test=np.array([i])) for i in (0, 1)]
    assert list(task._seen_in_training(units, splits, candidates)) == [
        "giga: the store does not say which slides slide encoder 'giga' was trained on",
        "giga, mean-moco: tile encoder 'moco' was trained, without labels, on 2 of the 3 test slides",
    ]


def test_slides_seen_in_training_are_counted(store, labels, tmp_path):
    store.model("giga").begin(Recipe("train", {"bank": "x"}, {}), np.arange(30), redo=False)
    features = Recipe("bank", {"encoder": "moco"}, {})
    store.features("x").begin(features, 4, redo=False)
    for name in ("giga", "mean-x"):
        embedding = store.embedding(name)
        recipe = Recipe("embed", embedding.config, {"features": features.fingerprint})
        store.root[embedding.path].attrs["giga"] = {**embedding.attributes, "recipe": vars(recipe)}
    store.encoder("moco").begin(Recipe("pretrain-tiles", {}, {}), np.array([7]), redo=False)
    result = giga.probe(store, labels, folds=2)
    assert "giga: slide encoder 'giga' was trained, without labels, on 30 of the 120 test slides" in result.notes
    assert "giga: tile encoder 'moco' was trained, without labels, on 1 of the 120 test slides" in result.notes
    assert not [text for text in result.warnings if "trained" in text]
    header, *rows = labels.read_text().splitlines()
    unseen = tmp_path / "unseen.csv"
    unseen.write_text("\n".join([header, *rows[30:]]))
    quiet = giga.probe(store, unseen, folds=2)
    assert not any("encoder" in warning for warning in quiet.warnings)
    assert any("on 0 of the 90" in note for note in quiet.notes)


def test_more_labels_than_there_are_is_said(store, labels):
    result = giga.probe(store, labels, n_train=(20, 5000))
    assert [round(row.n_train) for row in result.scores[::3]] == [20, 108]
    assert any("5000 training labels" in warning for warning in result.warnings)


@pytest.mark.slow
def test_the_command_shows_the_table(store, labels, tmp_path):
    command = ["probe", store.url, "--labels", labels, "--folds", "2"]
    shown = run_giga(*command, check=True)
    assert "120 slides (a 60 of 30 patients, b 60 of 30 patients), 2 splits" in shown.stdout
    assert "above baseline" in shown.stdout
    assert "joined 120 labels with 120 vectors: 120 slides matched" in shown.stderr
    found = json.loads(run_giga(*command, "--json", check=True).stdout)
    assert found["scores"][0]["method"] == "linear"
    assert found["joins"]["unmatched_first"] == []


def test_nothing_slow_is_imported(store, labels):
    code = (
        "import sys, gigacli; gigacli.probe(sys.argv[1], sys.argv[2], folds=2);"
        "print([m for m in ('sklearn', 'pandas', 'torch', 'matplotlib') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, store.url, str(labels)], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"


def test_a_real_chain_can_be_probed(chain, cohort):
    result = giga.probe(chain("embed"), cohort.labels_csv, folds=2)
    assert {row.embedding for row in result.scores} == {"giga", "mean-random-resnet18", "whitened-mean-random-resnet18"}
    assert result.joins["label"]["matched"] == 8


def test_attention_mil_stands_beside_the_vectors(chain, cohort, tmp_path, monkeypatch):
    from gigacli.nn import abmil

    monkeypatch.setattr(abmil, "LEAST_STEPS", 3)
    monkeypatch.setattr(abmil, "EPOCHS", 1)
    options = {"folds": 2, "method": ("linear", "abmil"), "baseline": "abmil", "out": tmp_path / "out", "device": "cpu"}
    result = giga.probe(chain("embed"), cohort.labels_csv, **options)
    rows = {(row.embedding, row.method): row for row in result.scores}
    deep = rows["random-resnet18", "abmil"]
    assert (deep.difference, deep.c) == (None, "")
    assert rows["giga", "linear"].baseline == "random-resnet18 (abmil)"
    again = giga.probe(chain("embed"), cohort.labels_csv, **options)
    assert [row.aucs for row in again.scores] == [row.aucs for row in result.scores]
    alone = giga.probe(chain("embed"), cohort.labels_csv, folds=2, method="abmil", level="patient")
    assert {(row.embedding, row.method) for row in alone.scores} == {
        ("mean-random-resnet18", "linear"),
        ("whitened-mean-random-resnet18", "linear"),
        ("random-resnet18", "abmil"),
    }


def test_attention_mil_needs_tiles(store, labels):
    with pytest.raises(NotFound, match="giga bank"):
        giga.probe(store, labels, method="abmil")
