"""giga bank: augmented and un-augmented features."""

import numpy as np
import pytest
import torch

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.nn.augment import augment, draw_augmentation, output_px
from gigacli.nn.device import pick_device
from gigacli.nn.frozen import FrozenTileEncoder
from gigacli.nn.tile_encoder import random_resnet18, resnet18_from_bytes, weights_to_bytes
from gigacli.randomness import keyed_rng
from gigacli.stages import bank as bank_stage
from gigacli.store.layout import NOT_DONE
from gigacli.wsi.slide import Slide

OPTIONS = {"encoder": "random-resnet18", "augmentations": 3, "draws": 8, "precision": "fp32"}
NAME = "random-resnet18"


def pixels(store, row, tiles):
    slide, coords = store.slides[row], store.array("tiles/coords")[row]
    with Slide(slide.path, mpp=slide.mpp) as opened:
        images = [opened.read(*map(int, coords[t]), tile_px=64, mpp=1.0) for t in tiles]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())


def encoder_of(store):
    network = resnet18_from_bytes(store.read_bytes(f"encoders/{NAME}/weights"))
    return FrozenTileEncoder(network, device=pick_device("cpu"), precision="fp32")


def test_a_bank_holds_what_the_method_says(chain):
    """Every row recomputed from the slide: keyed draw, one parameter set per augmentation, encoder."""
    store = giga.open(chain("bank"))
    encoder, count = encoder_of(store), store.array("tiles/count")[:]
    for row in (0, 5):
        vectors = store.array(f"banks/{NAME}/vectors")[row]  # (augmentation, draw, feature)
        for a in range(3):
            rng = keyed_rng(0, "bank", store.slides[row].id, a)
            tiles = rng.integers(0, count[row], 8, dtype=np.int32)
            assert (store.array(f"banks/{NAME}/tile")[row, a] == tiles).all()
            parameters = draw_augmentation(rng, 1, tile_px=64)
            expected = encoder(augment(pixels(store, row, tiles), parameters, out_px=output_px(64))).numpy()
            np.testing.assert_allclose(vectors[a], expected, rtol=2e-3, atol=2e-3)


def test_unaugmented_features_in_the_same_pass(chain):
    store = giga.open(chain("bank"))
    n = int(store.array("tiles/count")[2])
    vectors = store.array(f"features/{NAME}/vectors")[2]
    expected = encoder_of(store)(pixels(store, 2, range(n)).float() / 255).numpy()
    np.testing.assert_allclose(vectors[:n], expected, rtol=2e-3, atol=2e-3)
    assert np.isnan(vectors[n:]).all()
    assert store.array(f"features/{NAME}/done")[2] == n


def test_tiles_of_a_view_share_parameters_and_views_do_not(chain, store_at):
    """A tile drawn twice in one augmentation has one vector; under independent parameters it has two."""
    shared = giga.open(chain("bank"))
    path = store_at("tile")
    giga.bank(path, **OPTIONS, name="own", independent=True)
    own = giga.open(path)
    pairs = 0
    for row in range(8):
        tile = shared.array(f"banks/{NAME}/tile")[row]
        same = {
            "shared": shared.array(f"banks/{NAME}/vectors")[row],
            "own": own.array("banks/own/vectors")[row],
        }
        assert (own.array("banks/own/tile")[row] == tile).all()
        for a in range(3):
            for t in np.unique(tile[a]):
                first, *others = np.flatnonzero(tile[a] == t)
                for other in others:
                    pairs += 1
                    assert (same["shared"][a, first] == same["shared"][a, other]).all()
                    assert (same["own"][a, first] != same["own"][a, other]).any()
    assert pairs > 3
    everywhere = [np.intersect1d(tile[0], tile[1]) for tile in shared.array(f"banks/{NAME}/tile")[:]]
    row, t = next((i, c[0]) for i, c in enumerate(everywhere) if len(c))
    tile, vectors = shared.array(f"banks/{NAME}/tile")[row], shared.array(f"banks/{NAME}/vectors")[row]
    views = [vectors[a, np.flatnonzero(tile[a] == t)[0]] for a in (0, 1)]
    assert (views[0] != views[1]).any()


def test_shards_and_order_give_the_same_bytes(chain, store_at, chunks):
    path = store_at("tile")
    for shard in ("2/2", "1/2"):
        giga.bank(path, **OPTIONS, shard=shard)
    for group in ("banks", "features", "encoders"):
        assert chunks(path, group) == chunks(chain("bank"), group)


def test_small_blocks_of_tiles_change_nothing_but_rounding(chain, store_at, monkeypatch):
    monkeypatch.setattr(bank_stage, "BLOCK", 5)
    path = store_at("tile")
    giga.bank(path, **OPTIONS)
    for array in (f"banks/{NAME}/vectors", f"features/{NAME}/vectors"):
        ours, theirs = giga.open(path).array(array)[:], giga.open(chain("bank")).array(array)[:]
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-3)


def test_interrupted_and_continued_equals_uninterrupted(chain, store_at, chunks, monkeypatch):
    path = store_at("tile")
    run_slide, seen = bank_stage._Job.run_slide, []

    def stop_at_third(self, row, *rest):
        seen.append(row)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return run_slide(self, row, *rest)

    monkeypatch.setattr(bank_stage._Job, "run_slide", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        giga.bank(path, **OPTIONS)
    assert (giga.open(path).array(f"banks/{NAME}/done")[:] != NOT_DONE).sum() == 2
    monkeypatch.undo()
    summary = giga.bank(path, **OPTIONS)
    assert (summary.done, summary.skipped) == (6, 2)
    assert chunks(path, "banks") == chunks(chain("bank"), "banks")


def test_a_slide_that_vanished_fails_alone(store_at, tmp_path, cohort):
    path = tmp_path / "moved.zarr"
    slides = sorted(cohort.slides.glob("*.tif"))[:3]
    copies = [tmp_path / s.name for s in slides]
    for source, copy in zip(slides, copies, strict=True):
        copy.write_bytes(source.read_bytes())
    giga.tile(path, copies, mpp=1.0, tile_px=64)
    copies[1].rename(tmp_path / "elsewhere")
    summary = giga.bank(path, **OPTIONS)
    assert (summary.done, summary.failed) == (2, 1)
    assert list(summary.failures) == [slides[1].stem]
    (tmp_path / "elsewhere").rename(copies[1])
    again = giga.bank(path, **OPTIONS)
    assert (again.done, again.failed) == (1, 0)
    assert giga.open(path).failures("bank") == ["", "", ""]


def test_weights_from_a_file(store_at, tmp_path):
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(weights_to_bytes(random_resnet18(7)))
    path = store_at("tile")
    giga.bank(path, encoder=str(weights), augmentations=1, draws=2)
    store = giga.open(path)
    assert store.names("banks") == ["mine"]
    assert store.read_bytes("encoders/mine/weights") == weights.read_bytes()
    assert store.require("banks/mine").inputs["encoder"] == store.require("features/mine").inputs["encoder"]


def test_refusals(chain, store_at, tmp_path, chunks):
    with pytest.raises(NotFound, match="no store"):
        giga.bank(tmp_path / "none.zarr", **OPTIONS)
    path = store_at("bank")
    before = chunks(path)
    with pytest.raises(Mismatch, match="augmentations: 3 here, 4 asked for"):
        giga.bank(path, **{**OPTIONS, "augmentations": 4})
    with pytest.raises(NotFound, match="no-such-encoder"):
        giga.bank(path, encoder="no-such-encoder")
    with pytest.raises(InvalidInput, match="--augmentations is 0"):
        giga.bank(path, augmentations=0)
    assert chunks(path) == before
    with pytest.raises(NotFound, match="no encoder") as raised:
        giga.bank(store_at("tile", "b.zarr"))
    assert "pretrain-tiles" in raised.value.hint
    empty = giga.Store.create(tmp_path / "empty.zarr")
    with pytest.raises(NotFound, match="no tiles"):
        giga.bank(empty.url, **OPTIONS)
