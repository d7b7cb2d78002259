"""giga probe: what the vectors are worth."""

import numpy as np
import pytest

import gigacli as giga
from gigacli.errors import InvalidInput, NotFound
from gigacli.store.store import Recipe, Store
from gigacli.store.table import SlideRow, SlideTable


def made_up_store(path, embeddings, *, patients=None):
    """A store of vectors alone: {name: (recipe config, vectors)}."""
    n = len(next(iter(embeddings.values()))[1])
    store = Store.create(path)
    rows = [SlideRow(id=f"s{i:03d}", path="-", patient=patients[i] if patients else "") for i in range(n)]
    store.write_slides(SlideTable(tuple(rows)))
    for name, (config, vectors) in embeddings.items():
        group = f"embeddings/{name}"
        store.begin(group, Recipe("embed", config, {"features": "f"}), {"vectors": vectors.shape, "done": (n,)})
        store.array(f"{group}/vectors")[:] = vectors
        store.array(f"{group}/done")[:] = np.isfinite(vectors).all(axis=1).astype(np.int32)
    return store


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
    assert set(rows) == {(name, c) for name in ("giga", "mean-x") for c in ("10", "auto")}
    assert rows["giga", "10"].auc_mean > 0.8
    assert rows["mean-x", "10"].auc_mean < 0.7
    assert rows["mean-x", "10"].scaled
    assert not rows["giga", "10"].scaled
    assert rows["giga", "10"].splits == 10
    assert rows["giga", "10"].auc_low <= rows["giga", "10"].auc_mean <= rows["giga", "10"].auc_high
    assert result.joins["matched"] == 120
    assert any("patient" in note for note in result.notes)


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
    assert any("--group none" in w for w in loose.warnings)


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


def test_one_embedding_named_keeps_its_baseline(store, labels):
    names = [row.embedding for row in giga.probe(store, labels, embedding=("giga",)).scores]
    assert names == ["giga", "giga", "mean-x", "mean-x"]


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
    assert result.joins["classes"] == {"x": 30, "y": 30, "z": 30}


def test_the_store_is_found_where_it_lies(store, labels, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert giga.probe(None, labels).joins["matched"] == 120
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
    with pytest.raises(InvalidInput, match="--fraction"):
        giga.probe(store, labels, fraction=(1.5,))
    with pytest.raises(NotFound, match="giga embed"):
        giga.probe(Store.create(tmp_path / "e.zarr"), labels)


def test_a_real_chain_can_be_probed(chain, cohort):
    result = giga.probe(chain("embed"), cohort.labels_csv, folds=2)
    assert {row.embedding for row in result.scores} == {"giga", "mean-random-resnet18"}
    assert result.joins["matched"] == 8
