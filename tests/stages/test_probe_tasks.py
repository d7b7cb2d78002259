"""giga probe: tasks other than classes, methods other than the linear one, few labels per class, and the table."""

import csv

import numpy as np
import pytest

import gigacli as giga
from gigacli.errors import InvalidInput
from tests.helpers import run_giga
from tests.stages.test_probe import made_up_store

N = 80
SIGNAL = np.random.default_rng(0).normal(size=N)


@pytest.fixture
def store(tmp_path):
    """80 slides of 40 patients, whose vectors know a number; the mean of tiles knows nothing."""
    rng = np.random.default_rng(1)
    good = rng.normal(size=(N, 12)).astype(np.float32)
    good[:, 0] += 3 * SIGNAL
    noise = rng.normal(size=(N, 6)).astype(np.float32)
    embeddings = {
        "giga-resnet18-joined": (
            {"aggregator": "model", "model": "giga"},
            good / np.linalg.norm(good, axis=1)[:, None],
        ),
        "whitened-mean-random-resnet18": (
            {"aggregator": "whitened-mean"},
            noise / np.linalg.norm(noise, axis=1)[:, None],
        ),
        "mean-random-resnet18": ({"aggregator": "mean"}, noise),
    }
    return made_up_store(tmp_path / "cohort.zarr", embeddings, patients=[f"p{i // 2}" for i in range(N)])


@pytest.fixture
def table(tmp_path):
    """Write columns by slide: ``table(age=...)``."""

    def write(**columns):
        path = tmp_path / "labels.csv"
        lines = [f"s{i:03d}," + ",".join(str(values[i]) for values in columns.values()) for i in range(N)]
        path.write_text("\n".join([",".join(["slide_id", *columns]), *lines]))
        return path

    return write


def times():
    rng = np.random.default_rng(2)
    time, end = rng.exponential(np.exp(-3 * SIGNAL)), rng.exponential(2, N)
    return {"time": np.minimum(time, end).round(4), "event": (time <= end).astype(int)}


def test_numbers(store, table, tmp_path):
    result = giga.probe(store, table(age=(50 + 10 * SIGNAL).round(2)), target="age", folds=4, out=tmp_path / "out")
    rows = {row.embedding: row for row in result.scores}
    assert [row.c for row in result.scores] == ["auto"] * 3
    ours, mean = rows["giga-resnet18-joined"], rows["mean-random-resnet18"]
    assert (ours.task, ours.metric, ours.chance, ours.slides) == ("regression", "r2", 0.0, N)
    assert ours.score_mean > 0.5 > 0.2 > mean.score_mean
    assert ours.score_mean == pytest.approx(np.mean(ours.scores)) == ours.metrics["r2"]
    assert (ours.auc_mean, ours.aucs, ours.accuracy, ours.classes) == (None, (), None, {})
    assert ours.difference == pytest.approx(
        ours.score_mean - max(mean.score_mean, rows[result.scores[1].embedding].score_mean)
    )
    assert any(note.startswith("age: a task of regression, as the labels are") for note in result.notes)
    files = {f.name for f in (tmp_path / "out").iterdir()}
    tables = {"scores.csv", "scores.md", "scores.tex", "scores.html", "predictions.csv"}
    assert files == tables | {"learning-curve.png", "predicted.png"}
    with (tmp_path / "out" / "predictions.csv").open() as file:
        predictions = [row for row in csv.DictReader(file) if row["embedding"] == "giga-resnet18-joined"]
    fold = [(float(row["truth"]), float(row["predicted"])) for row in predictions if row["split"] == "0"]
    truth, predicted = np.array(fold).T
    assert 1 - ((truth - predicted) ** 2).sum() / ((truth - truth.mean()) ** 2).sum() == pytest.approx(ours.scores[0])


def test_levels(store, table, tmp_path):
    grades = np.digitize(SIGNAL, [-0.6, 0.6])
    result = giga.probe(store, table(grade=grades), target="grade", task="ordinal", folds=4, out=tmp_path / "out")
    ours = result.scores[0]
    assert (ours.task, ours.metric, ours.classes) == (
        "ordinal",
        "quadratic_kappa",
        {str(g): int((grades == g).sum()) for g in range(3)},
    )
    assert ours.score_mean > 0.5
    assert (tmp_path / "out" / "predicted.png").exists()
    classes = giga.probe(store, table(grade=grades), target="grade", folds=4).scores[0]
    assert (classes.task, classes.metric) == ("classification", "auc")


def test_times(store, table, tmp_path):
    result = giga.probe(store, table(**times()), method=("linear", "coxnet"), folds=3, out=tmp_path / "out")
    rows = {(row.embedding, row.c): row for row in result.scores}
    ours = rows["giga-resnet18-joined", "auto"]
    assert (ours.task, ours.metric, ours.chance) == ("survival", "c_index", 0.5)
    assert ours.score_mean > 0.65
    assert set(ours.metrics) == {"c_index", "c_index_uno", "auc_over_time", "log_rank_p"}
    assert ours.metrics["log_rank_p"] < 0.01
    assert sum(ours.classes.values()) == N
    assert set(ours.classes) == {"censored", "event"}
    assert {c for _, c in rows} == {"auto", "alpha=0.01", "alpha=0.02", "alpha=0.07"}
    assert any("80 slides of 40 patients are judged one by one" in warning for warning in result.warnings)
    assert (tmp_path / "out" / "survival.png").exists()
    predictions = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert predictions[0].endswith("truth,event,risk")


def test_a_table_of_patients_may_hold_times(store, tmp_path):
    columns = times()
    lines = [f"p{i},{columns['time'][2 * i]},{columns['event'][2 * i]}" for i in range(N // 2)]
    path = tmp_path / "patients.csv"
    path.write_text("\n".join(["patient_id,months,died", *lines]))
    result = giga.probe(store, path, level="patient", time="months", event="died", folds=3)
    assert result.scores[0].n_train + result.scores[0].n_test == N // 2
    assert result.scores[0].target == "months"
    with pytest.raises(InvalidInput, match="no column 'event': found 'patient_id', 'months', 'died'"):
        giga.probe(store, path, level="patient", time="months", folds=3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "simpleshot"}, "`method` simpleshot is nothing for a task of regression"),
        ({"method": ("abmil", "linear")}, "`method` abmil"),
        ({"shots": 2}, "`shots` are labels per class"),
        ({"task": "survival"}, "no `target`"),
        ({"task": "regression", "target": "name"}, "are no numbers"),
        ({"time": "age"}, "no `target`"),
    ],
)
def test_refusals(store, table, options, says):
    path = table(age=SIGNAL.round(3), name=["ab"[i % 2] for i in range(N)])
    with pytest.raises(InvalidInput, match=says):
        giga.probe(store, path, **{"target": "age", **options})


def test_methods_stand_side_by_side(store, table):
    path = table(label=np.where(SIGNAL > 0, "high", "low"))
    result = giga.probe(store, path, method=("linear", "mlp", "knn", "simpleshot"), folds=2)
    rows = {(row.embedding, row.method, row.c): row for row in result.scores}
    assert len(rows) == 4 * 3 + 1
    for method in ("mlp", "knn", "simpleshot"):
        row = rows["giga-resnet18-joined", method, ""]
        assert row.score_mean > 0.8
        assert row.score_mean == row.auc_mean
        assert row.baseline in ("mean-random-resnet18 (C=auto)", "whitened-mean-random-resnet18 (C=auto)")
    named = giga.probe(store, path, method=("linear", "knn"), baseline="knn", folds=2)
    assert {row.baseline for row in named.scores if row.baseline} <= {"giga-resnet18-joined (knn)"}


def test_shots_are_labels_per_class(store, table):
    path = table(label=np.where(SIGNAL > 0, "high", "low"))
    result = giga.probe(store, path, shots=(1, 8), fraction=0.5, embedding="giga-resnet18-joined", folds=4)
    ours = [row for row in result.scores if row.embedding == "giga-resnet18-joined"]
    assert [(row.budget, row.n_train, row.splits) for row in ours[1:]] == [
        ("1 per class", 2, 50),
        ("8 per class", 16, 50),
    ]
    assert ours[1].score_mean < ours[2].score_mean
    assert "8 labels per class: 50 draws from the training sides of 4 splits" in result.notes


def test_classes_have_more_metrics(store, table):
    result = giga.probe(store, table(label=np.where(SIGNAL > 0, "high", "low")), folds=4)
    metrics = result.scores[0].metrics
    assert list(metrics) == [
        *("auc", "accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "average_precision", "kappa", "brier"),
        "calibration_error",
    ]
    assert all(0 <= value <= 1 for value in metrics.values())
    frame = result.to_frame()
    assert frame["brier"].tolist() == [row.metrics["brier"] for row in result.scores]
    assert frame["auc_mean"].tolist() == [row.auc_mean for row in result.scores]
    page = result._repr_html_()
    assert page.count("<tr>") == 1 + len(result.scores)
    assert "giga-resnet18-joined" in page


@pytest.mark.slow
def test_the_table_fits_80_columns_and_names_stay_whole(store, table):
    path = table(label=np.where(SIGNAL > 0, "high", "low"))
    command = ["probe", store.url, "--labels", path, "--folds", "2", "--shots", "10", "--method", "simpleshot"]
    command += ["--method", "linear"]
    narrow = run_giga(*command, check=True).stdout
    assert max(map(len, narrow.splitlines())) <= 80
    first = [line.split()[0].strip("-") for line in narrow.splitlines()[3:]]
    parts = {"giga", "resnet18", "joined", "whitened", "mean", "random"}
    assert all(set(text.split("-")) <= parts for text in first)
    wide = run_giga(*command, "--wide", check=True).stdout
    assert "Brier" in wide
    assert "Brier" not in narrow
