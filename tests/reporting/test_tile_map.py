"""giga tile-map: the tiles that pull a vector towards a class, where the answer is known."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gigacli as giga
from gigacli.config.tools import TileMapConfig
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.reporting import attribution
from gigacli.reporting.tile_map import tiles_of
from gigacli.store.store import Store
from tests.helpers import run_giga

PLANTED = np.arange(6)
"""Tiles of every slide of class `b` that are given other features than all tiles else."""


@pytest.fixture(scope="module")
def planted(chain, tmp_path_factory):
    """A store whose tiles of one class hold planted features, embedded by a real slide encoder; and its labels."""
    import shutil

    path = Path(shutil.copytree(chain("train"), tmp_path_factory.mktemp("planted") / "cohort.zarr"))
    store = Store.open(path, write=True)
    vectors, counts = store.root["features/random-resnet18/vectors"], store.tiles.done().counts
    rng = np.random.default_rng(1)
    usual, other = rng.random(vectors.shape[2]), rng.random(vectors.shape[2])
    rows = []
    for row, slide in enumerate(store.slides.rows):
        tiles = np.abs(usual + 0.05 * rng.normal(size=(counts[row], len(usual))))
        label = "ab"[row // 2 % 2]
        if label == "b":
            tiles[PLANTED] = np.abs(3 * other + 0.05 * rng.normal(size=(len(PLANTED), len(usual))))
        vectors[row, : counts[row]] = tiles.astype(np.float16)
        rows.append(f"{slide.id},{label}")
    labels = path.parent / "labels.csv"
    labels.write_text("\n".join(["slide_id,label", *rows]) + "\n")
    giga.embed(path, views=50)
    return store, labels


def explain(store, slide, labels, **options):
    return attribution.explain(store, slide, labels, TileMapConfig(**options))


def one_of(store, labels, label):
    names = [line.split(",")[0] for line in labels.read_text().splitlines() if line.endswith(f",{label}")]
    return sorted(names)[0]


@pytest.mark.parametrize("embedding", ["giga", "mean-random-resnet18"])
def test_planted_tiles_pull_towards_their_class(planted, embedding):
    store, labels = planted
    found = explain(store, one_of(store, labels, "b"), labels, embedding=embedding)
    assert (found.probe.positive, found.probe.label, found.probe.target) == ("b", "b", "label")
    assert found.attribution.significant[PLANTED].all()
    others = np.delete(found.attribution.value, PLANTED)
    assert found.attribution.value[PLANTED].min() > max(0, others.max())
    assert found.similarity > 0.98
    assert (found.probe.trained_on, found.probe.left_out) == (6, 2)
    against = explain(store, found.slide.id, labels, embedding=embedding, positive="a", views=20)
    assert (against.attribution.value[PLANTED] < 0).all()
    assert against.probe.logit == pytest.approx(-found.probe.logit, rel=1e-3)


@pytest.mark.parametrize("aggregator", ["whitened-mean", "mean-std", "view-whitened", "gmm"])
def test_planted_tiles_pull_a_closed_form(planted, aggregator):
    store, labels = planted
    giga.embed(store, aggregator=aggregator)
    embedding = f"{aggregator}-random-resnet18"
    found = explain(store, one_of(store, labels, "b"), labels, embedding=embedding)
    assert found.views == 0
    assert found.similarity > 0.999
    assert found.attribution.value[PLANTED].min() > max(0, np.delete(found.attribution.value, PLANTED).max())


def test_the_tiles_of_an_arrangement_pull_apart(planted, tmp_path):
    store, labels = planted
    giga.embed(store, aggregator="arrangement")
    embedding, slide = "arrangement-random-resnet18", one_of(store, labels, "b")
    found = explain(store, slide, labels, embedding=embedding)
    assert found.similarity > 0.999
    # the mean over tiles is the slide's score, so what every tile exceeds it by adds up to nothing
    assert found.attribution.value.sum() == pytest.approx(0, abs=1e-6 * np.abs(found.attribution.value).sum())
    assert np.abs(found.attribution.value[PLANTED]).mean() > np.abs(np.delete(found.attribution.value, PLANTED)).mean()


def test_a_vector_of_zeros_is_refused(planted, monkeypatch):
    store, labels = planted
    monkeypatch.setattr("gigacli.store.groups.Embedding.read", lambda self: np.zeros((8, 257), dtype=np.float32))
    with pytest.raises(InvalidInput, match="zero, so no tile pulls"):
        explain(store, one_of(store, labels, "b"), labels, embedding="giga")


def test_a_slide_without_planted_tiles_speaks_against_the_class(planted):
    store, labels = planted
    without = explain(store, one_of(store, labels, "a"), labels, positive="b", views=20)
    planted_one = explain(store, one_of(store, labels, "b"), labels, views=20)
    assert without.probe.logit < planted_one.probe.logit
    assert np.abs(without.attribution.value).max() < planted_one.attribution.value[0]


def test_the_pull_on_a_mean_of_tiles_is_the_change_of_the_logit(planted):
    store, labels = planted
    found = explain(store, one_of(store, labels, "b"), labels, embedding="mean-random-resnet18")
    n = len(found.coords)
    tiles = store.features("random-resnet18").read(store.slides.index[found.slide.id]).astype(np.float64)
    # the logit is linear in the mean: leaving a tile out moves it along the weights, which the pulls must know
    weights = np.linalg.lstsq(tiles - tiles.mean(axis=0), found.attribution.value * (n - 1) / n, rcond=None)[0]
    for i in (0, 3, n - 1):
        without = np.delete(tiles, i, axis=0).mean(axis=0)
        change = (tiles.mean(axis=0) - without) @ weights
        assert n * change == pytest.approx(found.attribution.value[i], rel=1e-6, abs=1e-6)


def test_sampled_pulls_are_those_of_all_views_there_are(store_at, cohort):
    """Two tiles a view: few enough to see all of them."""
    import torch

    from gigacli.config.verbs import EmbedConfig
    from gigacli.nn.views import TilePositions, make_views
    from gigacli.weights.slide_encoders import choose_model

    path = store_at("bank")
    giga.train(path, tiles=2, epochs=1, batch_size=4)
    giga.embed(path, views=50)
    store, cpu = Store.open(path), torch.device("cpu")
    found = explain(store, store.slides.ids[0], cohort.labels_csv, views=60)
    n = len(found.coords)
    loaded = choose_model(store, EmbedConfig(model="giga"), cpu)
    pairs = np.array(list(itertools.combinations(range(n), 2)))
    positions = TilePositions(store.tiles.grids(np.array([0])))(np.zeros(len(pairs), dtype=np.int64), pairs)
    features = store.features("random-resnet18").read(0)
    with torch.inference_mode():
        batch = make_views(features[pairs], positions, augmentation=None, device=cpu)
        vectors = loaded.encode(batch).double().numpy()
    # the weights of the probe, from what it says of the stored vectors, are not needed: pulls are linear in the scores
    held = (pairs[:, :, None] == np.arange(n)).any(axis=1)  # (pairs, tiles)
    share = held / held.sum(axis=0) - ~held / (~held).sum(axis=0)
    exact = 2 * share.T @ vectors / np.linalg.norm(vectors.mean(axis=0))  # (tiles, width), before the weights
    weights = np.linalg.lstsq(exact, found.attribution.value, rcond=None)[0]
    z = (exact @ weights - found.attribution.value) / found.attribution.error
    assert np.corrcoef(exact @ weights, found.attribution.value)[0, 1] > 0.9
    assert np.abs(z).max() < 5


def test_files_for_people_and_for_qupath(planted, tmp_path):
    store, labels = planted
    slide = one_of(store, labels, "b")
    summary = giga.tile_map(store, slide, labels, out=tmp_path / "maps", views=20)
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == [f"{slide}.b.geojson", f"{slide}.b.png"]
    with Image.open(tmp_path / "maps" / f"{slide}.b.png") as picture:
        assert min(picture.size) > 300
    read = json.loads((tmp_path / "maps" / f"{slide}.b.geojson").read_text())
    found = explain(store, slide, labels, views=20)
    assert read["features"] == json.loads(json.dumps(list(tiles_of(found))))
    assert read["type"] == "FeatureCollection"
    assert len(read["features"]) == summary.tiles == len(found.coords)
    first = read["features"][0]
    x, y = found.coords[0].tolist()
    edge = 64 * 1.0 / found.slide.mpp
    ring = first["geometry"]["coordinates"][0]
    assert ring == [[x, y], [x + edge, y], [x + edge, y + edge], [x, y + edge], [x, y]]
    assert first["properties"]["objectType"] == "tile"
    assert first["properties"]["classification"]["name"] == "towards b"
    assert first["properties"]["measurements"]["pull"] > 0
    named = [f for f in read["features"] if "classification" in f["properties"]]
    assert len(named) == summary.towards + summary.away < summary.tiles
    assert "the probe may rest on stain" in read["giga"]["limits"]
    again = giga.tile_map(store, slide, labels, out=tmp_path / "again", views=20)
    assert again.views == summary.views
    for file in ("png", "geojson"):
        name = f"{slide}.b.{file}"
        assert (tmp_path / "maps" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_slide_that_is_gone_has_a_map_of_its_tiles(planted, tmp_path, monkeypatch):
    store, labels = planted
    monkeypatch.setattr("gigacli.reporting.tile_map.slide_problem", lambda *_: "it is not there")
    summary = giga.tile_map(store, one_of(store, labels, "b"), labels, out=tmp_path, embedding="mean-random-resnet18")
    assert any("drawn without the slide" in note for note in summary.notes)
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_a_weak_probe_is_said_to_be_one(planted, tmp_path):
    store, labels = planted
    lines = labels.read_text().splitlines()
    shuffled = tmp_path / "shuffled.csv"
    rows = [line.split(",")[0] + "," + "ab"[i // 4] for i, line in enumerate(lines[1:])]  # half of each real class
    shuffled.write_text("\n".join([lines[0], *rows]) + "\n")
    found = explain(store, one_of(store, labels, "b"), shuffled, embedding="mean-random-resnet18")
    assert any("need not mean anything" in note or "is not known" in note for note in found.notes)


def test_refusals(planted, store_at, tmp_path):
    store, labels = planted
    slide = one_of(store, labels, "b")
    lonely = tmp_path / "lonely.csv"
    lonely.write_text("\n".join(line for line in labels.read_text().splitlines() if not line.startswith(slide)) + "\n")
    for arguments, options, error, says in (
        (("nobody", labels), {}, NotFound, "no slide 'nobody'"),
        ((slide, labels), {"positive": "c"}, InvalidInput, "no class 'c' in 'label'"),
        ((slide, lonely), {}, InvalidInput, "has no label in 'label'"),
        ((slide, labels), {"views": 3}, InvalidInput, "`views` is 3"),
        ((slide, labels), {"embedding": "x"}, NotFound, "no 'x' in embeddings"),
        ((slide, tmp_path / "gone.csv"), {}, NotFound, "no such file"),
    ):
        with pytest.raises(error, match=says):
            explain(store, *arguments, **options)
    path = store_at("embed")
    giga.bank(path, encoder="random-resnet18", augmentations=2, draws=8, precision="fp32", redo=True)
    with pytest.raises(Mismatch, match="another"):
        explain(Store.open(path), Store.open(path).slides.ids[0], labels)


def test_the_command(planted, tmp_path):
    store, labels = planted
    slide = one_of(store, labels, "b")
    options = ["--labels", labels, "--views", "20", "--json"]
    done = run_giga("tile-map", store.url, slide, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["towards"] >= len(PLANTED)
    assert all((tmp_path / file).exists() for file in summary["files"])
    refused = run_giga("tile-map", store.url, "nobody", *options, cwd=tmp_path)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
