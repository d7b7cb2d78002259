"""giga probe beyond one cohort: heads that are kept, another cohort, retrieval, tables to paste."""

import csv
import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch
from gigacli.probing.head import Head
from gigacli.probing.retrieval import retrieve
from gigacli.probing.standardise import moments, standardise
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

MODEL = {"aggregator": "model", "model": "giga"}


def cohort(path, n, *, seed, embeddings=("giga", "mean-x"), weights="w", patients=None):
    """A store of n slides, two a patient, whose vectors know the class, and a table of labels of every kind."""
    store, rng = Store.create(path), np.random.default_rng(seed)
    names = patients or [f"{seed}-p{i // 2}" for i in range(n)]
    rows = [SlideRow(id=f"{seed}-{i}", path="-", patient=names[i]) for i in range(n)]
    store.write_slides(SlideTable(tuple(rows)))
    signal = np.repeat(rng.normal(size=n // 2), 2).astype(np.float32)
    for name in embeddings:
        vectors = rng.normal(size=(n, 8)).astype(np.float32)
        vectors[:, 0] += (2.0 if name == "giga" else 0.5) * signal
        if name == "giga":
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        recipe = Recipe("embed", MODEL if name == "giga" else {"aggregator": "mean"}, {"model": weights})
        recipe = recipe if name == "giga" else Recipe("embed", recipe.config, {})
        store.embedding(name).begin(recipe, 8, redo=False)
        store.embedding(name).write(np.arange(n), vectors)
    table = path.with_suffix(".csv")
    lines = [
        f"{seed}-{i},{'ab'[int(s > 0)]},G{int(s > -0.5) + int(s > 0.5)},{50 + 10 * s:.2f},{np.exp(-s):.4f},{i % 3 % 2}"
        for i, s in enumerate(signal)
    ]
    table.write_text("\n".join(["slide_id,label,grade,age,months,died", *lines]))
    return store, table


TASKS = {
    "classification": {},
    "ordinal": {"target": "grade", "task": "ordinal"},
    "regression": {"target": "age"},
    "survival": {"time": "months", "event": "died"},
}


@pytest.fixture
def first(tmp_path):
    return cohort(tmp_path / "a.zarr", 60, seed=0)


@pytest.fixture
def second(tmp_path):
    return cohort(tmp_path / "b.zarr", 40, seed=1)


# --------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("task", TASKS)
def test_a_kept_head_says_what_it_learnt_on_all_slides(first, second, tmp_path, task):
    store, labels = first
    file = tmp_path / "head.safetensors"
    result = giga.probe(store, labels, embedding="giga", save=file, folds=3, **TASKS[task])
    assert str(file) in result.files
    card = Head.load(file).card
    row = result.scores[0]
    assert (card.task, card.embedding, card.slides, card.patients) == (task, "giga", 60, 30)
    assert (card.score.mean, card.score.splits) == (row.score_mean, 3)
    said = giga.predict(second[0], file)
    assert said.predicted == 40
    if task == "classification":
        y = [line.split(",")[1] for line in labels.read_text().splitlines()[1:]]
        model = LogisticRegression(C=10, class_weight="balanced", max_iter=1000).fit(store.embedding("giga").read(), y)
        expected = model.predict_proba(second[0].embedding("giga").read())[:, 1]
        np.testing.assert_allclose([row["p_b"] for row in said.predictions], expected, atol=1e-3)


def test_a_head_of_patients_and_one_of_the_mean(first, second, tmp_path):
    file = tmp_path / "head.safetensors"
    store = cohort(tmp_path / "c.zarr", 60, seed=2)[0]
    table = tmp_path / "patients.csv"
    table.write_text("patient_id,label\n" + "".join(f"2-p{i},{'ab'[i % 2]}\n" for i in range(30)))
    giga.probe(store, table, embedding="mean-x", level="patient", c="auto", save=file, folds=3)
    card = Head.load(file).card
    assert (card.level, card.unit_length, card.slides, card.patients) == ("patient", False, 60, 30)
    assert card.c not in (None, 10.0)
    assert giga.predict(second[0], file).predicted == 20


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "one embedding; found giga, mean-x"),
        ({"embedding": "giga", "target": ("label", "age")}, "one target; found label, age"),
        ({"method": ("knn", "linear")}, "`method` linear has learnt"),
        ({"save": "head.pt"}, "name it head.safetensors"),
    ],
)
def test_one_head_is_kept(first, options, says):
    with pytest.raises(InvalidInput) as error:
        giga.probe(*first, **{"save": "head.safetensors", "folds": 3, **options})
    assert says in f"{error.value} {error.value.hint}"


# ----------------------------------------------------------------------------------------------- another cohort


def test_the_other_cohort_is_judged_by_what_the_first_taught(first, second, tmp_path):
    options = {"test": second[0].url, "test_labels": second[1]}
    result = giga.probe(*first, **options, out=tmp_path / "out", seed=3)
    ours, _, at_best = result.scores
    assert [(row.embedding, row.c) for row in result.scores] == [("giga", "10"), ("mean-x", "10"), ("mean-x", "auto")]
    assert (ours.n_train, ours.n_test, ours.splits, ours.slides) == (60, 40, 1, 40)
    y = [[line.split(",")[1] for line in table.read_text().splitlines()[1:]] for _, table in (first, second)]
    model = LogisticRegression(C=10, class_weight="balanced", max_iter=1000).fit(
        first[0].embedding("giga").read(), y[0]
    )
    auc = roc_auc_score(y[1], model.predict_proba(second[0].embedding("giga").read())[:, 1])
    assert ours.score_mean == pytest.approx(auc, abs=1e-3)
    assert ours.score_low < ours.score_mean < ours.score_high
    assert ours.baseline.startswith("mean-x")
    assert ours.difference == pytest.approx(ours.score_mean - at_best.score_mean)
    assert ours.difference_low < ours.difference < ours.difference_high
    assert sum(ours.classes.values()) == 40
    assert {name: one["matched"] for name, one in result.joins.items()} == {
        "label, fitted on": 60,
        "label, judged on": 40,
    }
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert {row["slide"] for row in csv.DictReader(file)} == {f"1-{i}" for i in range(40)}
    again = giga.probe(*first, **options, seed=3)
    assert again.scores == result.scores


@pytest.mark.parametrize("task", ["ordinal", "regression", "survival"])
def test_every_task_on_another_cohort(first, second, task):
    result = giga.probe(*first, test=second[0].url, test_labels=second[1], **TASKS[task])
    ours = result.scores[0]
    assert (ours.task, ours.splits, ours.n_test) == (task, 1, 40)
    assert ours.score_mean > ours.chance + 0.2
    assert ours.score_low < ours.score_mean < ours.score_high


def test_patients_and_other_methods(first, second):
    options = {"test": second[0].url, "test_labels": second[1], "level": "patient"}
    result = giga.probe(*first, **options, method=("knn", "simpleshot", "mlp"))
    assert {row.method for row in result.scores} == {"knn", "simpleshot", "mlp"}
    assert {(row.n_train, row.n_test, row.slides) for row in result.scores} == {(30, 20, 40)}
    assert all(row.score_mean > 0.5 for row in result.scores if row.embedding == "giga")


def test_a_head_may_be_judged_and_kept(first, second, tmp_path):
    file = tmp_path / "head.safetensors"
    giga.probe(*first, test=second[0].url, test_labels=second[1], embedding="giga", save=file)
    card = Head.load(file).card
    assert (card.slides, card.score) == (60, None)  # what it did elsewhere is no cross-validation


def test_vectors_made_otherwise_are_refused(first, tmp_path):
    other, labels = cohort(tmp_path / "b.zarr", 40, seed=1, weights="others")
    with pytest.raises(Mismatch, match=r"does not go with 'giga' of .*a\.zarr: vectors: found model 'giga'"):
        giga.probe(*first, test=other.url, test_labels=labels)


def test_what_the_other_cohort_lacks_is_said(first, tmp_path):
    other, labels = cohort(tmp_path / "b.zarr", 40, seed=1, embeddings=("mean-x",))
    result = giga.probe(*first, test=other.url, test_labels=labels)
    assert {row.embedding for row in result.scores} == {"mean-x"}
    assert any(text.startswith("giga is left out: ") for text in result.warnings)
    with pytest.raises(InvalidInput, match="holds no vectors made as 'giga'"):
        giga.probe(*first, test=other.url, test_labels=labels, embedding="giga")


def test_patients_of_both_cohorts_are_a_warning(first, tmp_path):
    names = [f"{'0-p3' if i < 2 else f'1-p{i // 2}'}" for i in range(40)]
    other, labels = cohort(tmp_path / "b.zarr", 40, seed=1, patients=names)
    result = giga.probe(*first, test=other.url, test_labels=labels)
    assert "1 patients of the test cohort have the name of one of the other: '0-p3'" in result.warnings


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"test_labels": None}, "go together"),
        ({"fraction": 0.5, "shots": 3}, "leaves nothing for fraction, shots"),
        ({"method": ("linear", "retrieval")}, "leaves nothing for method retrieval"),
    ],
)
def test_what_makes_no_sense_with_another_cohort(first, second, options, says):
    with pytest.raises(InvalidInput, match=says):
        giga.probe(*first, **{"test": second[0].url, "test_labels": second[1], **options})


@pytest.mark.slow
def test_closed_forms_of_the_other_cohort_are_those_of_the_first(chain, cohort, tmp_path):
    """Judged on itself, the vectors made in memory are those of the store."""
    from gigacli.config.probe import ProbeConfig
    from gigacli.weights.candidates import read_candidates
    from gigacli.weights.other_cohort import other_cohort

    store = Store.open(chain("embed"))
    config = ProbeConfig.of({"test": store.url, "test_labels": str(cohort.labels_csv)})
    candidates = read_candidates(store, config)
    other = other_cohort(store, candidates, config)
    assert set(other.theirs) == {one.name for one in candidates}
    for one in candidates:
        np.testing.assert_allclose(other.theirs[one.name].vectors, one.vectors, atol=1e-6)
    assert [note.split(":")[0] for note in other.notes] == ["whitened-mean-random-resnet18"]


# ------------------------------------------------------------------------------------------- retrieval and tables


def test_retrieval_stands_beside_a_probe(first, tmp_path):
    store, labels = first
    result = giga.probe(store, labels, method=("linear", "retrieval"), folds=3, out=tmp_path / "out")
    assert {row.method for row in result.scores} == {"linear"}
    rows = {(row.embedding, row.k): row for row in result.retrieval}
    assert set(rows) == {(name, k) for name in ("giga", "mean-x") for k in (1, 3, 5)}
    y = np.array([line.split(",")[1] for line in labels.read_text().splitlines()[1:]])
    patients = [f"0-p{i // 2}" for i in range(60)]
    mean = store.embedding("mean-x").read().astype(np.float64)
    for name, vectors in (("giga", store.embedding("giga").read()), ("mean-x", standardise(mean, *moments(mean)))):
        for expected in retrieve(vectors, y, groups=patients):
            found = rows[name, expected.k]
            assert (found.accuracy, found.majority, found.precision, found.chance) == (
                expected.accuracy,
                expected.majority_accuracy,
                expected.mean_average_precision,
                expected.chance_accuracy,
            )
    assert rows["giga", 1].accuracy > rows["giga", 1].chance + 0.2
    with (tmp_path / "out" / "retrieval.csv").open() as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [row.accuracy for row in result.retrieval]
    assert json.loads(json.dumps(result.to_json()))["retrieval"][0]["k"] == 1


def test_retrieval_alone_needs_no_splits(first, tmp_path):
    """Even of a class that one patient has."""
    lines = first[1].read_text().splitlines()
    for i in (1, 2):
        lines[i] = lines[i].replace(",a,", ",rare,").replace(",b,", ",rare,")
    first[1].write_text("\n".join(lines))
    result = giga.probe(*first, method="retrieval", out=tmp_path / "out")
    assert result.scores == []
    assert len(result.retrieval) == 6
    assert result.retrieval[0].alone == 2
    assert "acc@k" in (tmp_path / "out" / "scores.md").read_text()


def test_tables_to_paste(first, tmp_path):
    path = first[1]
    path.write_text(path.read_text().replace("label", "la_b&l|"))
    result = giga.probe(first[0], path, target="la_b&l|", folds=3, out=tmp_path / "out")
    text = {kind: (tmp_path / "out" / f"scores.{kind}").read_text() for kind in ("md", "tex", "html")}
    markdown = [line for line in text["md"].splitlines() if line.startswith("|")]
    assert len(markdown) == 2 + len(result.scores)
    assert len({line.replace("\\|", "").count("|") for line in markdown}) == 1
    body = text["tex"].split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(result.scores)
    assert all(line.endswith(r"\\") for line in body)
    assert len({line.count(" & ") for line in body}) == 1
    assert r"$\pm$" in body[0]
    assert text["html"].count("<tr>") == 1 + len(result.scores)
