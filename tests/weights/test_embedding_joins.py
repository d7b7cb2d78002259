"""Embeddings joined by slide id."""

import numpy as np
import pytest

import gigacli as giga
import gigacli.cli.verbs
from gigacli.cli.command import run_command
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from gigacli.weights.embedding_joins import join_blocks, parts_of
from tests.conftest import copy_store

LABELS = "slide_id,label\n"


def store_of(path, ids, embeddings):
    """A store of slides that have vectors alone."""
    store = Store.create(path)
    store.write_slides(SlideTable(tuple(SlideRow(id=name, path=f"/{name}.svs", patient=name) for name in ids)))
    for name, vectors in embeddings.items():
        group = store.embedding(name)
        group.begin(
            Recipe("import", {"aggregator": "import", "encoder": "none", "tool": "none"}, {}),
            vectors.shape[1],
            redo=False,
        )
        group.write(np.arange(len(ids)), vectors.astype(np.float32))
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two stores, the second with other slides too and in another order, and a label that either half tells in part."""
    folder = tmp_path_factory.mktemp("joins")
    rng = np.random.default_rng(0)
    label = np.arange(60) % 2
    parts = rng.integers(0, 2, (60, 2))
    parts[:, 1] = label ^ parts[:, 0]  # each alone tells nothing; the product does
    a = np.concatenate([rng.standard_normal((60, 5)), label[:, None] + 0.9 * rng.standard_normal((60, 1))], axis=1)
    b = 100 + np.concatenate(
        [rng.standard_normal((60, 3)), label[:, None] + 0.9 * rng.standard_normal((60, 1))], axis=1
    )
    ids = [f"s{i:02}" for i in range(60)]
    first = store_of(folder / "a.zarr", ids, {"one": a, "two": b})
    order = rng.permutation(60)
    others = [*(ids[i] for i in order), "more"]
    second = store_of(folder / "b.zarr", others, {"two": np.concatenate([b[order], b[:1]])})
    (folder / "labels.csv").write_text(
        LABELS + "".join(f"{name},{'xy'[y]}\n" for name, y in zip(ids, label, strict=True))
    )
    return first, second, folder / "labels.csv", a, b


def test_a_join_is_of_centred_parts_of_unit_length(two):
    *_, a, b = two
    made = join_blocks([a, b])
    by_hand = []
    for part in (a, b):
        centred = part - part.mean(axis=0)
        by_hand.append(centred / np.linalg.norm(centred, axis=1, keepdims=True))
    np.testing.assert_allclose(made, np.concatenate(by_hand, axis=1) / np.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-5)
    gap = a.copy()
    gap[3] = np.nan
    some = join_blocks([gap, b])
    assert np.isnan(some[3]).all()
    np.testing.assert_allclose(np.delete(some, 3, 0), join_blocks([np.delete(a, 3, 0), np.delete(b, 3, 0)]), rtol=1e-5)


def test_the_parts_stand_beside_a_join_within_a_store_and_across_stores(two):
    first, second, labels, *_ = two
    here = giga.probe(first, labels, embedding="one+two", folds=3)
    across = giga.probe(first, labels, embedding=f"one+{second}::two", folds=3)
    assert [row.embedding for row in here.scores] == ["one+two", "one", "two"]
    assert {row.embedding for row in across.scores} == {f"one+{second}::two", "one", f"{second}::two"}
    of = {row.embedding.replace(f"{second}::", ""): row.auc_mean for row in across.scores}
    assert {row.embedding: row.auc_mean for row in here.scores} == pytest.approx(of, abs=1e-9)
    assert of["one+two"] > max(of["one"], of["two"])


def test_what_cannot_be_joined(two, tmp_path):
    first, _, labels, a, _ = two
    with pytest.raises(InvalidInput, match="a join is of different parts"):
        parts_of("one+one")
    with pytest.raises(NotFound, match="'three'"):
        giga.probe(first, labels, embedding="one+three")
    strangers = store_of(tmp_path / "c.zarr", [f"t{i}" for i in range(60)], {"one": a})
    with pytest.raises(InvalidInput, match=r"no slide of .* is in .*'s00' is none of its 60 ids"):
        giga.probe(first, labels, embedding=f"one+{strangers}::one")
    with pytest.raises(InvalidInput, match="is made for one table"):
        giga.probe(first, labels, embedding="one+two", save=tmp_path / "head.safetensors")


def test_a_join_is_an_embedding_of_its_own(two, tmp_path):
    first, second, _, a, b = two
    path = copy_store(first, tmp_path / "a.zarr")
    command = ["embed", str(path), "--join", "one", f"{second}::two", "--name", "both", "--json"]
    assert run_command(command) == 0
    store = giga.open(path)
    made = store.embedding("both")
    np.testing.assert_allclose(made.read(), join_blocks([a, b]), rtol=1e-4, atol=1e-5)
    assert made.config["parts"] == ["one", f"{second}::two"]
    assert made.recipe.inputs == {"embeddings/one": store.embedding("one").fingerprint}
    assert giga.validate(path).problems == []
    again = giga.embed(path, join=["one", f"{second}::two"], name="both")
    assert (again.done, again.skipped) == (0, 60)
    with pytest.raises(Mismatch, match="both"):
        giga.embed(path, join=["one", "two"], name="both")
    writable = Store.open(path, write=True)
    group = writable.embedding("one")
    group.begin(Recipe("import", {"aggregator": "import", "encoder": "none", "tool": "another"}, {}), 6, redo=True)
    group.write(np.arange(60), a.astype(np.float32))
    assert any("made from embeddings/one" in why for why in giga.open(path).embedding("both").stale)
    with pytest.raises(InvalidInput, match="names one alone"):
        giga.embed(path, join="one", name="x")
    with pytest.raises(InvalidInput, match="no name of its own"):
        giga.embed(path, join=["one", "two"])


def test_slides_that_come_later_are_joined_alike(two, tmp_path):
    *_, a, b = two
    ids = [f"s{i:02}" for i in range(60)]
    path = store_of(tmp_path / "a.zarr", ids, {"one": a, "two": b})
    store = Store.open(path, write=True)
    store.embedding("two").take_back([5])
    giga.embed(path, join=["one", "two"], name="both")
    before = giga.open(path).embedding("both").read()
    assert np.isnan(before[5]).all()
    Store.open(path, write=True).embedding("two").write(np.array([5]), b[5:6].astype(np.float32))
    assert giga.embed(path, join=["one", "two"], name="both").done == 1
    after = giga.open(path).embedding("both").read()
    assert np.isfinite(after).all()
    np.testing.assert_array_equal(np.delete(after, 5, 0), np.delete(before, 5, 0))
