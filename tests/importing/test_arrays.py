"""The authors' layout; pickled ids are rebuilt, and nothing else that a pickle asks for."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import gigacli as giga
from gigacli.errors import InvalidInput, NotFound
from gigacli.store.validate import validate

IDS = [f"TCGA-AA-{1000 + i // 2}-01Z-00-DX{i % 2 + 1}" for i in range(24)]


@pytest.fixture
def published(tmp_path):
    """``TCGA_encoded_t5e1000/{embeddings,ids}.npy``: 24 slides of 12 patients."""
    folder = tmp_path / "TCGA_encoded_t5e1000"
    folder.mkdir()
    vectors = np.random.default_rng(0).standard_normal((24, 8)).astype(np.float32)
    vectors[:, 0] += np.arange(24) // 2 % 2
    np.save(folder / "embeddings.npy", vectors)
    np.save(folder / "ids.npy", np.array(IDS))
    return folder, vectors


@pytest.mark.parametrize("pickled", [False, True])
def test_a_store_ready_to_be_probed(tmp_path, published, pickled):
    folder, vectors = published
    if pickled:
        np.save(folder / "ids.npy", np.array([f"{name}.svs" for name in IDS], dtype=object))
    made = giga.import_features(tmp_path / "a.zarr", [folder / "embeddings.npy", folder / "ids.npy"])
    assert (made.kind, made.name, made.done) == ("embeddings", "TCGA_encoded_t5e1000", 24)
    store = giga.open(tmp_path / "a.zarr")
    assert store.slides.ids == sorted(IDS)
    np.testing.assert_array_equal(store.embedding("TCGA_encoded_t5e1000").read(), vectors[np.argsort(IDS)])
    assert validate(tmp_path / "a.zarr").problems == []
    labels = tmp_path / "labels.csv"
    labels.write_text("slide_id,label\n" + "".join(f"{name},{'ab'[i // 2 % 2]}\n" for i, name in enumerate(IDS)))
    result = giga.probe(tmp_path / "a.zarr", labels, folds=3)
    assert [row.embedding for row in result.scores] == ["TCGA_encoded_t5e1000"]
    assert result.joins["label"]["matched"] == 24


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_asks_for_more_is_refused_and_not_run(tmp_path, published):
    folder, _ = published
    np.save(folder / "ids.npy", np.array([Harm(tmp_path / "harm")] * 24, dtype=object))
    with pytest.raises(InvalidInput, match="it asks for"):
        giga.import_features(tmp_path / "a.zarr", folder)
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "a.zarr").exists()


BAD = {
    "too few ids": (np.array(IDS[:-1]), "24 vectors, but .* has 23 ids"),
    "an id twice": (np.array([*IDS[:-1], IDS[0]]), "more than once"),
    "numbers": (np.arange(24), "expected vectors, floats"),
    "objects": (np.array([1, *IDS[1:]], dtype=object), "not text"),
}


@pytest.mark.parametrize("name", BAD)
def test_arrays_that_do_not_belong_together(tmp_path, published, name):
    folder, _ = published
    ids, says = BAD[name]
    np.save(folder / "ids.npy", ids)
    with pytest.raises(InvalidInput, match=says):
        giga.import_features(tmp_path / "a.zarr", folder)
    assert not (tmp_path / "a.zarr").exists()


def test_files_that_are_no_arrays(tmp_path, published):
    folder, _ = published
    with pytest.raises(InvalidInput, match="expected two"):
        giga.import_features(tmp_path / "a.zarr", folder / "embeddings.npy")
    (folder / "ids.npy").write_bytes(pickle.dumps(IDS))
    with pytest.raises(InvalidInput, match="is not a numpy file"):
        giga.import_features(tmp_path / "a.zarr", folder)
    (folder / "ids.npy").unlink()
    (folder / "embeddings.npy").unlink()
    with pytest.raises(NotFound, match="no feature file"):
        giga.import_features(tmp_path / "a.zarr", folder)


def test_a_vector_that_is_not_a_number_fails_its_slide(tmp_path, published):
    folder, vectors = published
    vectors[3, 2] = np.nan
    np.save(folder / "embeddings.npy", vectors)
    made = giga.import_features(tmp_path / "a.zarr", folder)
    assert list(made.failures) == [IDS[3]]
    assert (made.done, made.skipped) == (23, 0)
    assert validate(tmp_path / "a.zarr").problems == []
