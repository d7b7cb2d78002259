"""A slide that vanishes, is cut short or replaced in the middle of a run: it fails, the others go on."""

import shutil

import pytest

import gigacli as giga
from gigacli.wsi import reader
from tests.helpers import Recorder

TILE = {"mpp": 1.0, "tile_px": 64, "workers": 1}
BANK = {"encoder": "random-resnet18", "augmentations": 2, "draws": 4, "precision": "fp32", "workers": 1}


def after(slides, act):
    """Progress that does something to the world once some slides are tiled or banked."""
    done = []

    def count(recorder):
        what, (steps, _) = recorder.started[-1][0], recorder.advanced[-1]
        if what in ("tiling", "bank") and steps:
            done.append(steps)
            if len(done) == slides:
                act()

    return Recorder(count)


@pytest.fixture
def slides(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "AHEAD_BYTES", 1)  # or all of these small slides would be read before the first is done
    return shutil.copytree(cohort.slides, tmp_path / "slides")


def vanish(path):
    path.rename(path.with_suffix(".away"))


def cut(path):
    shutil.copy(path, path.with_suffix(".away"))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def replace(path):
    vanish(path)
    others = [p for p in sorted(path.parent.glob("*.tif")) if p != path]
    shutil.copy(others[0], path)


@pytest.fixture(scope="module")
def undisturbed(cohort, tmp_path_factory):
    """A store of the same slides to which nothing happens."""
    path = tmp_path_factory.mktemp("undisturbed") / "a.zarr"
    giga.tile(path, cohort.slides, **TILE)
    giga.bank(path, **BANK)
    return path


@pytest.mark.parametrize("happens", [vanish, cut, replace])
def test_in_the_middle_of_a_bank(happens, slides, undisturbed, tmp_path, chunks):
    store = tmp_path / "b.zarr"
    giga.tile(store, slides, **TILE)
    last = sorted(slides.glob("*.tif"))[-1]
    summary = giga.bank(store, **BANK, progress=after(2, lambda: happens(last)))
    assert (summary.done, list(summary.failures)) == (7, [last.stem])
    assert giga.validate(store).problems == []
    last.with_suffix(".away").replace(last)
    again = giga.bank(store, **BANK)
    assert (again.done, again.failed) == (1, 0)
    for group in ("banks", "features"):
        assert chunks(store, group) == chunks(undisturbed, group)


@pytest.mark.parametrize("happens", [vanish, cut])
def test_in_the_middle_of_tiling(happens, slides, undisturbed, tmp_path, chunks):
    store = tmp_path / "b.zarr"
    last = sorted(slides.glob("*.tif"))[-1]
    summary = giga.tile(store, slides, **TILE, progress=after(2, lambda: happens(last)))
    assert (summary.done, list(summary.failures)) == (7, [last.stem])
    assert giga.validate(store).problems == []
    last.with_suffix(".away").replace(last)
    again = giga.tile(store, **TILE)
    assert (again.done, again.failed) == (1, 0)
    assert chunks(store, "tiles") == chunks(undisturbed, "tiles")


@pytest.mark.parametrize("happens", [vanish, cut])
def test_before_tiles_are_drawn_for_training(happens, slides, tmp_path):
    store = tmp_path / "c.zarr"
    giga.tile(store, slides, **TILE)
    last = sorted(slides.glob("*.tif"))[-1]
    happens(last)
    options = {"epochs": 1, "max_tiles": 64, "batch_size": 16, "queue": 32, "precision": "fp32", "workers": 1}
    summary = giga.pretrain_tiles(store, **options)
    assert (summary.done, summary.slides, list(summary.failures)) == (1, 7, [last.stem])
    assert giga.validate(store).problems == []
