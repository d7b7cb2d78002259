"""giga tile: from slide files to tiles."""

import shutil

import numpy as np
import pytest
from PIL import Image

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store.layout import NOT_DONE
from gigacli.wsi.grid import tile_grid
from gigacli.wsi.slide import Slide

OPTIONS = {"mpp": 1.0, "tile_px": 64}


def slide_rows(store):
    return [(i, row) for i, row in enumerate(store.slides.rows) if store.array("tiles/count")[i] > 0]


def test_every_tile_is_inside_its_slide_and_on_enough_tissue(chain):
    store = giga.open(chain("tile"))
    assert len(slide_rows(store)) == 8
    for i, row in slide_rows(store):
        count = int(store.array("tiles/count")[i])
        coords, tissue = store.array("tiles/coords")[i], store.array("tiles/tissue")[i]
        side = 64 * 1.0 / row.mpp
        assert (coords[:count] >= 0).all()
        assert (coords[:count] + side <= np.array(row.size_px) + 0.5).all()
        assert (tissue[:count] >= 0.5).all()
        assert (tissue[:count] <= 1).all()
        assert (coords[count:] == -1).all()
        assert np.isnan(tissue[count:]).all()
        grid = tile_grid(row.size_px, mpp=1.0, slide_mpp=row.mpp, tile_px=64)
        assert {tuple(c) for c in coords[:count].tolist()} <= {tuple(c) for c in grid.tolist()}


def test_known_tissue_is_found(chain, cohort):
    store = giga.open(chain("tile"))
    for i, row in slide_rows(store):
        with np.load(cohort.folder / "truth" / f"{row.id}.npz") as truth:
            mask, downsample = truth["tissue"], int(truth["downsample"])
        count, side = int(store.array("tiles/count")[i]), 64 / row.mpp
        boxes = store.array("tiles/coords")[i, :count] / downsample
        shares = [
            mask[int(y) : int(np.ceil(y + side / downsample)), int(x) : int(np.ceil(x + side / downsample))].mean()
            for x, y in boxes
        ]
        assert np.mean(np.array(shares) > 0.35) > 0.95, f"{row.id}: tiles off the drawn tissue"


def test_csv_names_slides_patients_and_resolution(chain, cohort, tmp_path):
    store = giga.open(chain("tile"))
    assert all(row.patient for row in store.slides.rows)
    assert {row.mpp_source for row in store.slides.rows} == {"openslide"}
    slide = sorted(cohort.slides.glob("*.tif"))[0]
    (tmp_path / "list.csv").write_text(f"path,slide_id,mpp,case_id\n{slide},007,0.51,P1\n")
    giga.tile(tmp_path / "a.zarr", tmp_path / "list.csv", **OPTIONS)
    (row,) = giga.open(tmp_path / "a.zarr").slides.rows
    assert (row.id, row.patient, row.mpp, row.mpp_source) == ("007", "P1", 0.51, "csv")


def test_shards_equal_one_run(chain, cohort, tmp_path, chunks):
    store = tmp_path / "shards.zarr"
    giga.tile(store, csv=cohort.cohort_csv, plan=True, **OPTIONS)
    assert (giga.open(store).array("tiles/count")[:] == NOT_DONE).all()
    for shard in ("2/3", "1/3", "3/3"):
        giga.tile(store, shard=shard, **OPTIONS)
    assert chunks(store, "tiles") == chunks(chain("tile"), "tiles")
    assert chunks(store, "slides") == chunks(chain("tile"), "slides")


def test_again_does_nothing_and_redo_does_all(store_at, chunks):
    path = store_at("tile")
    before = chunks(path)
    again = giga.tile(path, **OPTIONS)
    assert (again.done, again.skipped, again.failed) == (0, 8, 0)
    assert chunks(path) == before
    redone = giga.tile(path, redo=True, **OPTIONS)
    assert (redone.done, redone.skipped) == (8, 0)
    assert chunks(path, "tiles") == chunks(path, "tiles")
    assert chunks(path) == before


def test_other_parameters_are_refused_and_named(store_at, chunks):
    path = store_at("tile")
    before = chunks(path)
    with pytest.raises(Mismatch, match=r"mpp: 1.0 here, 0.5 asked for") as refused:
        giga.tile(path, mpp=0.5, tile_px=64)
    assert "--redo" in refused.value.hint
    assert chunks(path) == before
    giga.tile(path, mpp=0.5, tile_px=64, redo=True)
    assert giga.open(path).require("tiles").config["mpp"] == 0.5


def test_slides_can_be_added(cohort, tmp_path, chunks):
    files = sorted(cohort.slides.glob("*.tif"))
    giga.tile(tmp_path / "a.zarr", files[:3], **OPTIONS)
    first = chunks(tmp_path / "a.zarr", "tiles")
    added = giga.tile(tmp_path / "a.zarr", files, **OPTIONS)
    assert (added.done, added.skipped) == (5, 3)
    assert first.items() <= chunks(tmp_path / "a.zarr", "tiles").items()
    assert [row.id for row in giga.open(tmp_path / "a.zarr").slides.rows] == [f.stem for f in files]


def test_what_cannot_be_read_is_named_and_the_others_go_on(cohort, tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    good = sorted(cohort.slides.glob("*.tif"))[0]
    shutil.copy(good, folder / "good.tif")
    (folder / "empty.tif").write_bytes(b"")
    (folder / "truncated.tif").write_bytes(good.read_bytes()[:2000])
    Image.new("RGB", (600, 600), "white").save(folder / "plain.tif")
    summary = giga.tile(tmp_path / "a.zarr", folder, **OPTIONS)
    assert summary.done == 1
    assert set(summary.failures) == {"empty", "truncated", "plain"}
    store = giga.open(tmp_path / "a.zarr")
    reasons = dict(zip(store.slides.ids, store.failures("tile"), strict=True))
    assert reasons["good"] == ""
    assert all(reasons[name] for name in summary.failures)


def test_a_slide_without_resolution_is_named_with_the_fix(tmp_path, shared):
    path = tmp_path / "a.zarr"
    slides = shared / "slides"
    summary = giga.tile(path, [slides / "TCGA-CR-7395-01A-01-TS1.svs", slides / "CMU-1-Small-Region.svs"], mpp=1.0)
    assert summary.done == 1
    reason = summary.failures["TCGA-CR-7395-01A-01-TS1"]
    assert "--slide-mpp" in reason
    assert "--csv" in reason
    fixed = giga.tile(path, slide_mpp=0.5, mpp=1.0)
    assert (fixed.done, fixed.skipped, fixed.failed) == (1, 1, 0)
    row = giga.open(path).slides[0]
    assert (row.mpp, row.mpp_source, row.patient) == (0.5, "option", "TCGA-CR-7395")


def test_a_slide_with_a_wrong_resolution_is_refused_with_the_numbers(tmp_path, shared):
    summary = giga.tile(tmp_path / "a.zarr", shared / "slides" / "CMU-1-Small-Region.wrong-mpp.tiff", mpp=1.0)
    (reason,) = summary.failures.values()
    assert "0.00499" in reason
    assert "0.08 to 5" in reason


@pytest.mark.parametrize("mpp", [1.0, 0.5])
def test_real_slides_of_every_format(tmp_path, shared, mpp):
    summary = giga.tile(tmp_path / "a.zarr", shared / "slides", mpp=mpp, tile_px=128)
    assert set(summary.failures) == {"CMU-1-Small-Region.wrong-mpp", "TCGA-CR-7395-01A-01-TS1"}
    store = giga.open(tmp_path / "a.zarr")
    counts = dict(zip(store.slides.ids, store.array("tiles/count")[:].tolist(), strict=True))
    vendors = {row.vendor for row in store.slides.rows}
    assert {"aperio", "hamamatsu", "dicom", "generic-tiff"} <= vendors
    assert all(n > 0 for name, n in counts.items() if name not in summary.failures)
    fluorescence = next(row for row in store.slides.rows if row.vendor == "hamamatsu")
    wall_to_wall = len(tile_grid(fluorescence.size_px, mpp=mpp, slide_mpp=fluorescence.mpp, tile_px=128))
    assert counts[fluorescence.id] < 0.8 * wall_to_wall
    (dicom,) = [row for row in store.slides.rows if row.vendor == "dicom"]
    assert counts[dicom.id] > 10


def test_pixels_of_a_stored_tile_are_those_of_the_slide(chain, cohort):
    store = giga.open(chain("tile"))
    row, (x, y) = store.slides[0], store.array("tiles/coords")[0, 0]
    with Slide(row.path, mpp=row.mpp) as slide:
        tile = slide.read(int(x), int(y), tile_px=64, mpp=1.0)
        native = slide.read(int(x), int(y), tile_px=128, mpp=row.mpp)
    averaged = native.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(tile - averaged).mean() < 3  # JPEG of two levels


@pytest.mark.parametrize(
    ("slides", "options", "error", "says"),
    [
        ("nowhere", {}, NotFound, "nowhere"),
        ("", {}, NotFound, "no slides were named"),
        ("", {"shard": "1/2"}, NotFound, "--plan"),
        (".", {"mpp": -1}, InvalidInput, "--mpp is -1"),
        (".", {"overlap": 256}, InvalidInput, "--overlap is 256"),
        (".", {"min_tissue": 7}, InvalidInput, "--min-tissue is 7"),
        (".", {"shard": "4/3"}, InvalidInput, "4/3"),
        (".", {"colour": 1}, InvalidInput, "colour"),
    ],
)
def test_bad_input_changes_nothing(tmp_path, slides, options, error, says):
    with pytest.raises(error, match=says) as raised:
        giga.tile(tmp_path / "a.zarr", [tmp_path / slides] if slides else (), **options)
    assert says in str(raised.value)
    assert not (tmp_path / "a.zarr").exists()


def test_two_files_of_one_name_are_refused_with_the_fix(cohort, tmp_path):
    slide = sorted(cohort.slides.glob("*.tif"))[0]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(slide, tmp_path / name / "same.tif")
    with pytest.raises(InvalidInput, match="same") as raised:
        giga.tile(tmp_path / "s.zarr", tmp_path, **OPTIONS)
    assert "slide_id" in raised.value.hint


def test_a_plan_prices_the_run(cohort, tmp_path):
    plan = giga.tile(tmp_path / "a.zarr", csv=cohort.cohort_csv, plan=True, **OPTIONS)
    full = giga.tile(tmp_path / "a.zarr", **OPTIONS)
    assert plan.slides == 8
    assert 0.5 * full.tiles < plan.estimated_tiles < 2 * full.tiles <= 2 * plan.positions
    assert plan.estimated_tile_seconds > 0
