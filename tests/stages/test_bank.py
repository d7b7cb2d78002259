"""giga bank: augmented and un-augmented features."""

import errno
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.nn.augment import SHARED, augment, draw_augmentation, fold, output_px
from gigacli.nn.device import pick_device
from gigacli.nn.frozen import FrozenTileEncoder
from gigacli.nn.tile_encoder import random_resnet18, weights_to_bytes
from gigacli.nn.tile_features import SlideFeatures
from gigacli.progress import Silent
from gigacli.randomness import keyed_rng
from gigacli.store.groups import Bank
from gigacli.store.layout import NOT_DONE
from gigacli.weights.bank_slides import BankSlides
from gigacli.weights.resnet18 import resnet18_from_bytes
from gigacli.wsi import reader
from gigacli.wsi.slide import Slide
from tests.helpers import Recorder

OPTIONS = {"encoder": "random-resnet18", "augmentations": 3, "draws": 8, "precision": "fp32"}
NAME = "random-resnet18"


def pixels(store, row, tiles):
    slide, coords = store.slides[row], store.root["tiles/coords"][row]
    with Slide(slide.path, mpp=slide.mpp) as opened:
        images = [opened.read(*map(int, coords[t]), tile_px=64, mpp=1.0) for t in tiles]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())


def encoder_of(store):
    network = resnet18_from_bytes(store.read_bytes(f"encoders/{NAME}/weights"))
    return FrozenTileEncoder(network, device=pick_device("cpu"), precision="fp32")


def test_a_bank_holds_what_the_method_says(chain):
    """Every row recomputed from the slide: keyed draw, one parameter set per augmentation, encoder."""
    store = giga.open(chain("bank"))
    encoder, count = encoder_of(store), store.root["tiles/count"][:]
    for row in (0, 5):
        vectors = store.root[f"banks/{NAME}/vectors"][row]  # (augmentation, draw, feature)
        for a in range(3):
            tiles = keyed_rng(0, "draws", store.slides[row].id, a).integers(0, count[row], 8, dtype=np.int32)
            assert (store.root[f"banks/{NAME}/tile"][row, a] == tiles).all()
            parameters = draw_augmentation(keyed_rng(0, "augmentation", store.slides[row].id, a), 1, tile_px=64)
            folded = fold(parameters, tile_px=64, out_px=output_px(64), device=torch.device("cpu"))
            expected = encoder(augment(pixels(store, row, tiles), folded)).numpy()
            np.testing.assert_allclose(vectors[a], expected, rtol=2e-3, atol=2e-3)


def test_unaugmented_features_in_the_same_pass(chain):
    store = giga.open(chain("bank"))
    n = int(store.root["tiles/count"][2])
    vectors = store.root[f"features/{NAME}/vectors"][2]
    expected = encoder_of(store)(pixels(store, 2, range(n)).float() / 255).numpy()
    np.testing.assert_allclose(vectors[:n], expected, rtol=2e-3, atol=2e-3)
    assert np.isnan(vectors[n:]).all()
    assert store.features(NAME).done().values[2] == n
    assert store.root[f"features/{NAME}/done"][2] == store.tiles.identities()[2]


def test_tiles_of_a_view_share_parameters_and_views_do_not(chain, store_at):
    """A tile drawn twice in one augmentation has one vector; under independent parameters it has two."""
    shared = giga.open(chain("bank"))
    path = store_at("tile")
    giga.bank(path, **OPTIONS, name="own", independent=True)
    own = giga.open(path)
    pairs = 0
    for row in range(8):
        tile = shared.root[f"banks/{NAME}/tile"][row]
        same = {
            "shared": shared.root[f"banks/{NAME}/vectors"][row],
            "own": own.root["banks/own/vectors"][row],
        }
        assert (own.root["banks/own/tile"][row] == tile).all()
        for a in range(3):
            for t in np.unique(tile[a]):
                first, *others = np.flatnonzero(tile[a] == t)
                for other in others:
                    pairs += 1
                    assert (same["shared"][a, first] == same["shared"][a, other]).all()
                    assert (same["own"][a, first] != same["own"][a, other]).any()
    assert pairs > 3
    everywhere = [np.intersect1d(tile[0], tile[1]) for tile in shared.root[f"banks/{NAME}/tile"][:]]
    row, t = next((i, c[0]) for i, c in enumerate(everywhere) if len(c))
    tile, vectors = shared.root[f"banks/{NAME}/tile"][row], shared.root[f"banks/{NAME}/vectors"][row]
    views = [vectors[a, np.flatnonzero(tile[a] == t)[0]] for a in (0, 1)]
    assert (views[0] != views[1]).any()


def test_stains_are_jittered_alike_in_all_tiles_of_an_augmentation(chain, store_at):
    """Every row recomputed; draws and features are those of the bank without jitter."""
    plain, path = giga.open(chain("bank")), store_at("tile")
    giga.bank(path, **OPTIONS, stain=0.2)
    store = giga.open(path)
    encoder, strengths = encoder_of(store), replace(SHARED, stain=0.2)
    for row in (0, 5):
        vectors, tile = (store.root[f"banks/{NAME}/{name}"][row] for name in ("vectors", "tile"))
        assert (tile == plain.root[f"banks/{NAME}/tile"][row]).all()
        for a in range(3):
            rng = keyed_rng(0, "augmentation", store.slides[row].id, a)
            parameters = draw_augmentation(rng, 1, tile_px=64, strengths=strengths)
            folded = fold(parameters, tile_px=64, out_px=output_px(64), device=torch.device("cpu"))
            expected = encoder(augment(pixels(store, row, tile[a]), folded)).numpy()
            np.testing.assert_allclose(vectors[a], expected, rtol=2e-3, atol=2e-3)
            assert (vectors[a] != plain.root[f"banks/{NAME}/vectors"][row, a]).any()
    features = f"features/{NAME}/vectors"
    np.testing.assert_array_equal(store.root[features][:], plain.root[features][:])


def test_a_jitter_of_stains_is_in_the_recipe_and_none_is_not(chain, store_at):
    """A bank without it is continued by a version that has the option, and one with it is followed."""
    assert "stain" not in giga.open(chain("bank")).bank(NAME).config
    path = store_at("tile")
    giga.bank(path, **OPTIONS, stain=0.1)
    assert giga.open(path).bank(NAME).config["stain"] == 0.1
    assert giga.bank(path, **OPTIONS).done == 0  # what is left out is as it was
    with pytest.raises(Mismatch, match=r"stain: 0\.1 here, 0\.2 asked for"):
        giga.bank(path, **OPTIONS, stain=0.2)


def test_shards_and_order_give_the_same_bytes(chain, store_at, chunks):
    path = store_at("tile")
    for shard in ("2/2", "1/2"):
        giga.bank(path, **OPTIONS, shard=shard)
    for group in ("banks", "features", "encoders"):
        assert chunks(path, group) == chunks(chain("bank"), group)


def test_small_blocks_of_tiles_change_nothing_but_rounding(chain, store_at, monkeypatch):
    monkeypatch.setattr(reader, "BLOCK_BYTES", 5 * 3 * 64 * 64)
    path = store_at("tile")
    giga.bank(path, **OPTIONS)
    for array in (f"banks/{NAME}/vectors", f"features/{NAME}/vectors"):
        ours, theirs = giga.open(path).root[array][:], giga.open(chain("bank")).root[array][:]
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-3)


def test_interrupted_and_continued_equals_uninterrupted(chain, store_at, chunks, monkeypatch):
    path = store_at("tile")
    encoding, seen = BankSlides.encoding, []

    def stop_at_third(*arguments, **named):
        seen.append(arguments)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return encoding(*arguments, **named)

    monkeypatch.setattr(BankSlides, "encoding", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        giga.bank(path, **OPTIONS)
    assert (giga.open(path).root[f"banks/{NAME}/done"][:] != NOT_DONE).sum() == 2
    monkeypatch.undo()
    summary = giga.bank(path, **OPTIONS)
    assert (summary.done, summary.skipped) == (6, 2)
    assert chunks(path, "banks") == chunks(chain("bank"), "banks")


@pytest.mark.parametrize("independent", [False, True])
def test_more_augmentations_and_draws_keep_what_is_there(store_at, chunks, independent, monkeypatch):
    """Raised in two steps, interrupted in the second, equals made at once; nothing is encoded twice."""
    path, whole = store_at("tile"), store_at("tile", "whole.zarr")
    options = {**OPTIONS, "independent": independent}
    small = giga.bank(path, **{**options, "augmentations": 2, "draws": 5})
    more = giga.bank(path, **{**options, "augmentations": 2, "draws": 8})
    encoding, seen = BankSlides.encoding, []

    def stop_at_third(*arguments, **named):
        seen.append(arguments)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return encoding(*arguments, **named)

    monkeypatch.setattr(BankSlides, "encoding", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        giga.bank(path, **options)
    monkeypatch.undo()
    giga.bank(path, shard="1/2")  # what is left out follows the recipe: it is not lowered again
    giga.bank(path, shard="2/2")
    once = giga.bank(whole, **options)
    ours, theirs = giga.open(path), giga.open(whole)
    assert (ours.root[f"banks/{NAME}/tile"][:] == theirs.root[f"banks/{NAME}/tile"][:]).all()
    both = (store.root[f"banks/{NAME}/vectors"][:].astype(np.float32) for store in (ours, theirs))
    np.testing.assert_allclose(*both, rtol=2e-3, atol=2e-3)  # other batches round otherwise
    assert (ours.root[f"banks/{NAME}/done"][:] == theirs.root[f"banks/{NAME}/done"][:]).all()
    tiles = int(ours.root["tiles/count"][:].sum())
    assert small.tiles > tiles
    assert more.tiles < once.tiles - tiles  # un-augmented features were there, and most of the rest
    assert not giga.validate(path).problems
    assert more.tiles + small.tiles <= once.tiles + tiles


def test_a_slide_changed_since_is_not_kept(store_at, tmp_path, cohort):
    path, copy = tmp_path / "changed.zarr", tmp_path / "slide.tif"
    first, second = sorted(cohort.slides.glob("*.tif"))[:2]
    copy.write_bytes(first.read_bytes())
    giga.tile(path, [copy], mpp=1.0, tile_px=64)
    giga.bank(path, **{**OPTIONS, "augmentations": 2})
    giga.bank(path, **OPTIONS)
    before = giga.open(path).root[f"banks/{NAME}/vectors"][0]
    copy.write_bytes(second.read_bytes())
    giga.tile(path, [copy], mpp=1.0, tile_px=64, redo=True)
    giga.bank(path)
    assert (giga.open(path).root[f"banks/{NAME}/vectors"][0, :2] != before[:2]).any(axis=-1).all()


def test_a_reader_that_hangs_fails_its_slide_alone(store_at, monkeypatch):
    path = store_at("tile")
    stuck = giga.open(path).slides[2]
    read, wake = Slide.read, threading.Event()

    def hang(self, x, y, **options):
        if str(self.path) == stuck.path:
            wake.wait(60)
        return read(self, x, y, **options)

    monkeypatch.setattr(Slide, "read", hang)
    summary = giga.bank(path, **OPTIONS, workers=2, read_timeout=1)
    wake.set()
    assert (summary.done, summary.failed) == (7, 1)
    assert "has not come back for 1 seconds, at level-0 pixels [" in summary.failures[stuck.id]
    monkeypatch.undo()
    assert giga.bank(path, **OPTIONS).done == 1


def test_out_of_device_memory_halves_the_batch_and_goes_on(store_at, chain, monkeypatch):
    path, said = store_at("tile"), []
    encode = FrozenTileEncoder.__call__

    def small_device(self, images):
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, images)

    monkeypatch.setattr(FrozenTileEncoder, "__call__", small_device)
    monkeypatch.setattr(Silent, "say", lambda self, message: said.append(message))
    giga.bank(path, **OPTIONS, batch_size=16)
    assert said == [
        f"the device is out of memory: from here on {n} tiles per batch instead of {2 * n}" for n in (8, 4, 2)
    ]
    for array in (f"banks/{NAME}/vectors", f"features/{NAME}/vectors"):
        ours, theirs = giga.open(path).root[array][:], giga.open(chain("bank")).root[array][:]
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)
    monkeypatch.setattr(
        FrozenTileEncoder, "__call__", lambda self, images: small_device(self, images.repeat(4, 1, 1, 1))
    )
    with pytest.raises(torch.OutOfMemoryError):
        giga.bank(path, **OPTIONS, name="none")


def test_a_full_disk_loses_nothing(store_at, chain, chunks, monkeypatch):
    path = store_at("tile")
    write, left = BankSlides.write, [3]

    def full(self, *arguments):
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        write(self, *arguments)

    monkeypatch.setattr(BankSlides, "write", full)
    with pytest.raises(OSError, match="No space left"):
        giga.bank(path, **OPTIONS)
    monkeypatch.undo()
    assert giga.bank(path, **OPTIONS).skipped == 3
    assert chunks(path, "banks") == chunks(chain("bank"), "banks")


def test_reading_is_once_and_ahead(store_at, monkeypatch):
    """Every distinct tile is read once; tiles of the next slide are read while one is encoded."""
    path, reads, encoded = store_at("tile"), [], []
    read, add = Slide.read, SlideFeatures.add
    monkeypatch.setattr(
        Slide, "read", lambda self, x, y, **o: (reads.append((str(self.path), x, y)), read(self, x, y, **o))[1]
    )

    def slow(self, tiles, start):
        made = add(self, tiles, start)
        time.sleep(0.2)
        encoded.append(len({path for path, _, _ in reads}))
        return made

    monkeypatch.setattr(SlideFeatures, "add", slow)
    summary = giga.bank(path, **OPTIONS)
    assert len(reads) == len(set(reads)) == summary.read == giga.open(path).root["tiles/count"][:].sum()
    assert encoded[0] > 1
    assert summary.waited < 0.5


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
    assert store.names(Bank) == ["mine"]
    assert store.read_bytes("encoders/mine/weights") == weights.read_bytes()
    assert store.bank("mine").recipe.inputs["encoder"] == store.features("mine").recipe.inputs["encoder"]


def test_refusals(chain, store_at, tmp_path, chunks):
    with pytest.raises(NotFound, match="no store"):
        giga.bank(tmp_path / "none.zarr", **OPTIONS)
    path = store_at("bank")
    before = chunks(path)
    with pytest.raises(Mismatch, match="augmentations: 3 here, 2 asked for"):
        giga.bank(path, **{**OPTIONS, "augmentations": 2})
    with pytest.raises(Mismatch, match="seed: 0 here, 1 asked for"):
        giga.bank(path, **{**OPTIONS, "augmentations": 4, "seed": 1})
    with pytest.raises(NotFound, match="no-such-encoder"):
        giga.bank(path, encoder="no-such-encoder")
    with pytest.raises(InvalidInput, match="`augmentations` is 0"):
        giga.bank(path, augmentations=0)
    assert chunks(path) == before
    with pytest.raises(NotFound, match="no encoder") as raised:
        giga.bank(store_at("tile", "b.zarr"))
    assert "pretrain-tiles" in raised.value.hint
    empty = giga.Store.create(tmp_path / "empty.zarr")
    with pytest.raises(NotFound, match="no tiles"):
        giga.bank(empty.url, **OPTIONS)


def test_the_bar_shows_tiles_of_all_slides_from_the_first_block_on(store_at, monkeypatch):
    """Blocks of five tiles; a slide that fails in its middle counts as if it were done."""
    monkeypatch.setattr(reader, "BLOCK_BYTES", 5 * 3 * 64 * 64)
    store = giga.open(store_at("tile"), write=True)
    counts, coords = store.root["tiles/count"][:], store.root["tiles/coords"]
    broken, recorder, read = int(np.argmax(counts)), Recorder(), Slide.read

    def fail(self, x, y, **options):
        if self.path.stem == store.slides[broken].id and [x, y] == coords[broken, 7].tolist():
            raise OSError("gone")
        return read(self, x, y, **options)

    monkeypatch.setattr(Slide, "read", fail)
    options = OPTIONS | {"augmentations": 1, "draws": 1}
    assert set(giga.bank(store, progress=recorder, **options).failures) == {store.slides[broken].id}
    assert recorder.started == [("bank", counts.sum(), 0)]
    assert sum(step for step, _ in recorder.advanced) == counts.sum()
    assert recorder.advanced[0][0] == 5
    assert "encodings/s" in recorder.advanced[0][1]
    monkeypatch.setattr(Slide, "read", read)
    again = Recorder()
    giga.bank(store, progress=again, **options)
    assert again.started == [("bank", counts.sum(), counts.sum() - counts[broken])]
    assert sum(step for step, _ in again.advanced) == counts[broken]


def test_an_interrupt_in_the_middle_of_a_slide_says_what_it_costs(store_at, monkeypatch):
    monkeypatch.setattr(reader, "BLOCK_BYTES", 5 * 3 * 64 * 64)
    store = giga.open(store_at("tile"), write=True)
    first, second = store.root["tiles/count"][:2].tolist()

    def interrupt(recorder):
        if sum(step for step, _ in recorder.advanced) > first:
            raise KeyboardInterrupt

    recorder = Recorder(interrupt)
    with pytest.raises(KeyboardInterrupt):
        giga.bank(store, progress=recorder, **OPTIONS | {"augmentations": 1, "draws": 1})
    said = f"{store.slides[1].id} was interrupted after 5 of {second} tiles, which the next run encodes anew; "
    assert recorder.said[-1] == f"{said}all slides before it are kept"
    assert store.bank(NAME).done().finished.sum() == 1
