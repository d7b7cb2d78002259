"""giga tile: from slide files to tiles."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gigacli as giga
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store.layout import NOT_DONE
from gigacli.wsi.grid import tile_grid
from gigacli.wsi.slide import Slide
from tests.conftest import BANK
from tests.helpers import Recorder

OPTIONS = {"mpp": 1.0, "tile_px": 64}


def slide_rows(store):
    return [(i, row) for i, row in enumerate(store.slides.rows) if store.root["tiles/count"][i] > 0]


def test_every_tile_is_inside_its_slide_and_on_enough_tissue(chain):
    store = giga.open(chain("tile"))
    assert len(slide_rows(store)) == 8
    for i, row in slide_rows(store):
        count = int(store.root["tiles/count"][i])
        coords, tissue = store.root["tiles/coords"][i], store.root["tiles/tissue"][i]
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
        count, side = int(store.root["tiles/count"][i]), 64 / row.mpp
        boxes = store.root["tiles/coords"][i, :count] / downsample
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
    assert (giga.open(store).root["tiles/count"][:] == NOT_DONE).all()
    for shard in ("2/3", "1/3", "3/3"):
        giga.tile(store, shard=shard, **OPTIONS)
    assert chunks(store, "tiles") == chunks(chain("tile"), "tiles")
    assert chunks(store, "slides") == chunks(chain("tile"), "slides")


def modified(group):
    """When each chunk of a group was written, nanoseconds: file -> time."""
    return {p: p.stat().st_mtime_ns for p in group.rglob("*") if p.is_file() and p.name != "zarr.json"}


def test_again_does_nothing_and_redo_does_all(store_at, chunks):
    path = store_at("tile")
    before = chunks(path)
    written = modified(path / "tiles")
    again = giga.tile(path, **OPTIONS)
    assert (again.done, again.skipped, again.failed) == (0, 8, 0)
    assert chunks(path) == before
    assert modified(path / "tiles") == written
    redone = giga.tile(path, redo=True, **OPTIONS)
    assert (redone.done, redone.skipped) == (8, 0)
    assert chunks(path) == before
    assert not modified(path / "tiles").items() & written.items()


def test_other_parameters_are_refused_and_named(store_at, chunks):
    path = store_at("tile")
    before = chunks(path)
    with pytest.raises(Mismatch, match=r"mpp: 1.0 here, 0.5 asked for") as refused:
        giga.tile(path, mpp=0.5, tile_px=64)
    assert "`redo`" in refused.value.hint
    assert chunks(path) == before
    giga.tile(path, mpp=0.5, tile_px=64, redo=True)
    assert giga.open(path).tiles.recipe.config["mpp"] == 0.5


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
    counts = dict(zip(store.slides.ids, store.root["tiles/count"][:].tolist(), strict=True))
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
    row, (x, y) = store.slides[0], store.root["tiles/coords"][0, 0]
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
        (".", {"mpp": -1}, InvalidInput, "`mpp` is -1"),
        (".", {"overlap": 256}, InvalidInput, "`overlap` is 256"),
        (".", {"min_tissue": 7}, InvalidInput, "`min_tissue` is 7"),
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


# ---------------------------------------------------------------------- identity


def copies(cohort, folder, n=3):
    folder.mkdir()
    return [Path(shutil.copy(slide, folder)) for slide in sorted(cohort.slides.glob("*.tif"))[:n]]


def test_slides_that_moved_are_found_again(cohort, tmp_path):
    files = copies(cohort, tmp_path / "here")
    giga.tile(tmp_path / "a.zarr", files[0].parent, **OPTIONS)
    (tmp_path / "archive").mkdir()
    (tmp_path / "here").rename(tmp_path / "archive" / "there")
    progress = Recorder()
    giga.tile(tmp_path / "a.zarr", progress=progress)
    assert any("3 registered slides are not where they were" in line for line in progress.said)
    failed = giga.bank(tmp_path / "a.zarr", encoder="random-resnet18", augmentations=1, draws=2)
    assert failed.failed == 3
    assert all("--slide-root" in reason for reason in failed.failures.values())
    giga.tile(tmp_path / "a.zarr", slide_root=tmp_path / "archive", progress=progress)
    assert any("3 slides were found again" in line for line in progress.said)
    store = giga.open(tmp_path / "a.zarr")
    assert all(Path(row.path).exists() for row in store.slides.rows)
    assert giga.bank(tmp_path / "a.zarr").failed == 0


def test_a_changed_file_is_noticed_and_its_results_are_taken_back_on_request(cohort, tmp_path):
    path = tmp_path / "a.zarr"
    files = copies(cohort, tmp_path / "here")
    giga.tile(path, files, **OPTIONS)
    giga.bank(path, encoder="random-resnet18", augmentations=1, draws=2)
    shutil.copy(sorted(cohort.slides.glob("*.tif"))[4], files[1])
    noticed = giga.tile(path)
    assert list(noticed.failures) == [files[1].stem]
    assert "has changed since it was registered" in noticed.failures[files[1].stem]
    assert "--redo" in noticed.failures[files[1].stem]
    assert giga.tile(path, redo=True).failed == 0
    assert giga.open(path).bank("random-resnet18").done().finished.tolist() == [True, False, True]
    assert giga.open(path).failures("tile") == ["", "", ""]


def test_a_touched_file_is_the_same_file(cohort, tmp_path):
    files = copies(cohort, tmp_path / "here")
    giga.tile(tmp_path / "a.zarr", files, **OPTIONS)
    os.utime(files[0], (0, 0))
    assert giga.tile(tmp_path / "a.zarr").failed == 0


def test_another_resolution_for_a_tiled_slide_needs_redo(cohort, tmp_path):
    path, files = tmp_path / "a.zarr", copies(cohort, tmp_path / "here", 1)
    giga.tile(path, files, **OPTIONS)
    (tmp_path / "new.csv").write_text(f"slide_id,mpp\n{files[0].stem},0.6\n")
    with pytest.raises(InvalidInput, match=r"0\.5 microns per pixel"):
        giga.tile(path, csv=tmp_path / "new.csv")
    giga.tile(path, csv=tmp_path / "new.csv", redo=True, **OPTIONS)
    assert giga.open(path).slides[0].mpp == 0.6
    giga.tile(path, redo=True, **OPTIONS)  # what a table said stays said
    assert (giga.open(path).slides[0].mpp, giga.open(path).slides[0].mpp_source) == (0.6, "csv")


# ---------------------------------------------------------------------- masks, pictures, summary


def test_external_masks(cohort, tmp_path):
    files = copies(cohort, tmp_path / "here", 2)
    with Slide(files[0]) as slide:
        width, height = slide.size_px
    with Slide(files[1]) as slide:
        wide, high = slide.size_px
    left = np.zeros((height // 16, width // 16), dtype=np.uint8)
    left[:, : left.shape[1] // 2] = 255
    Image.fromarray(left).save(tmp_path / "left.png")
    ring = [[0, 0], [wide, 0], [wide, high // 2], [0, high // 2], [0, 0]]
    (tmp_path / "top.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    table = tmp_path / "list.csv"
    table.write_text(f"path,mask\n{files[0]},left.png\n{files[1]},top.geojson\n")
    giga.tile(tmp_path / "a.zarr", csv=table, **OPTIONS)
    store = giga.open(tmp_path / "a.zarr")
    for i, axis in ((0, 0), (1, 1)):
        row, n = store.slides[i], int(store.root["tiles/count"][i])
        coords = store.root["tiles/coords"][i, :n]
        grid = tile_grid(row.size_px, mpp=1.0, slide_mpp=row.mpp, tile_px=64)
        middle = (
            grid[:, axis] + 64
        )  # of tiles of 128 level-0 px; within a mask pixel of the edge they may go either way
        sure, possible = ({tuple(c) for c in grid[middle <= row.size_px[axis] / 2 + d].tolist()} for d in (-32, 32))
        assert sure <= {tuple(c) for c in coords.tolist()} <= possible
        assert len(sure) > 20
    table.write_text(f"path,mask\n{files[0]},gone.png\n")
    with pytest.raises(NotFound, match=r"gone\.png"):
        giga.tile(tmp_path / "b.zarr", csv=table, **OPTIONS)


def test_pictures_of_every_slide_and_a_contact_sheet(cohort, tmp_path, chunks):
    files = copies(cohort, tmp_path / "here")
    (tmp_path / "here" / "broken.tif").write_bytes(b"no slide")
    path, qc = tmp_path / "a.zarr", tmp_path / "qc"
    giga.tile(path, tmp_path / "here", **OPTIONS)
    before = chunks(path)
    giga.tile(path, tmp_path / "here", qc=qc)  # pictures may be asked for later
    names = {f"{f.stem}.png" for f in files} | {"contact-sheet-01.png"}
    assert {p.name for p in qc.iterdir()} == names
    assert chunks(path) == before
    for name in names:
        with Image.open(qc / name) as picture:
            assert min(picture.size) > 100
            assert len(picture.convert("RGB").resize((64, 64)).getcolors(4096)) > 20
    stamps = {p.name: p.stat().st_mtime_ns for p in qc.iterdir() if not p.name.startswith("contact")}
    giga.tile(path, tmp_path / "here", qc=qc)
    assert {name: (qc / name).stat().st_mtime_ns for name in stamps} == stamps


def test_the_summary_counts_tiles_and_reasons(cohort, tmp_path):
    copies(cohort, tmp_path / "here")
    for name in ("x", "y"):
        (tmp_path / "here" / f"{name}.tif").write_bytes(b"no slide")
    summary = giga.tile(tmp_path / "a.zarr", tmp_path / "here", **OPTIONS)
    counts = [n for _, n in summary.lowest]
    assert counts == sorted(counts)
    assert len(counts) == 3
    assert (summary.least, summary.most) == (counts[0], counts[-1])
    assert list(summary.reasons.values()) == [2]


def test_slides_without_resolution_are_listed_in_a_table_to_complete(tmp_path, shared):
    path, slides = tmp_path / "a.zarr", shared / "slides"
    bad = ["TCGA-CR-7395-01A-01-TS1.svs", "CMU-1-Small-Region.wrong-mpp.tiff"]
    giga.tile(path, [slides / name for name in bad], mpp=1.0)
    table = tmp_path / "a.missing-mpp.csv"
    lines = table.read_text().splitlines()
    assert lines[0] == "path,slide_id,mpp"
    assert len(lines) == 3
    table.write_text("\n".join([lines[0], *(f"{line}0.5" for line in lines[1:])]))
    assert giga.tile(path, csv=table).done == 2
    assert {row.mpp_source for row in giga.open(path).slides.rows} == {"csv"}


def test_every_zero_has_a_reason(cohort, tmp_path):
    from gigacli.demo.pyramid import write_pyramid

    (tmp_path / "here").mkdir()
    blank = np.full((600, 800, 3), 245, dtype=np.uint8)
    write_pyramid(tmp_path / "here" / "blank.tif", blank, mpp=0.5)
    write_pyramid(tmp_path / "here" / "small.tif", blank[:100, :100], mpp=0.5)
    shutil.copy(sorted(cohort.slides.glob("*.tif"))[0], tmp_path / "here" / "strict.tif")
    summary = giga.tile(tmp_path / "a.zarr", tmp_path / "here", mpp=1.0, tile_px=256, min_tissue=1.0)
    assert (summary.failed, summary.empty) == (0, 3)
    assert summary.why_empty["blank"] == "no tissue was found"
    assert "smaller than a tile" in summary.why_empty["small"]
    assert "no tile is 100 % tissue; the best is" in summary.why_empty["strict"]
    assert giga.open(tmp_path / "a.zarr").root["tiles/count"][:].tolist() == [0, 0, 0]


def test_strict_stops_at_the_first_failure(cohort, tmp_path):
    copies(cohort, tmp_path / "here")
    (tmp_path / "here" / "broken.tif").write_bytes(b"no slide")
    summary = giga.tile(tmp_path / "a.zarr", tmp_path / "here", strict=True, **OPTIONS)
    assert (summary.failed, summary.done) == (1, 0)


def test_slides_scanned_too_coarsely_are_refused_unless_asked_for(cohort, tmp_path):
    files = copies(cohort, tmp_path / "here", 1)
    refused = giga.tile(tmp_path / "a.zarr", files, mpp=0.25, tile_px=128)
    assert "--upsample" in refused.failures[files[0].stem]
    taken = giga.tile(tmp_path / "a.zarr", files, mpp=0.25, tile_px=128, upsample=True, redo=True)
    assert taken.done == 1
    assert taken.tiles > 4
    banked = giga.bank(tmp_path / "a.zarr", encoder="random-resnet18", augmentations=1, draws=2)
    assert (banked.done, banked.failed) == (1, 0)


def test_redo_keeps_what_was_said_and_names_what_changes(store_at):
    path, heard = store_at("tile"), Recorder()
    giga.tile(path, redo=True, progress=heard)
    assert giga.open(path).tiles.config["tile_px"] == 64
    assert "replacing tiles: with the parameters it has" in heard.said
    giga.tile(path, redo=True, tile_px=128, progress=heard)
    assert "replacing tiles: tile_px: 64 here, 128 asked for" in heard.said
    assert giga.open(path).tiles.config["tile_px"] == 128


def test_redo_of_one_slide_touches_no_other(store_at, chunks):
    path = store_at("bank")
    before, slide = chunks(path), giga.open(path).slides.ids[2]
    summary = giga.tile(path, redo=True, slide=slide)
    assert (summary.slides, summary.done) == (1, 1)
    assert chunks(path) == before  # it is what it was, and so is all that was made from it
    assert giga.bank(path, **BANK).done == 0
    with pytest.raises(InvalidInput, match="has no slide 'nobody'"):
        giga.tile(path, redo=True, slide="nobody")
    with pytest.raises(Mismatch, match="tile_px"):
        giga.tile(path, redo=True, slide=slide, tile_px=128)


def test_the_advice_for_a_changed_slide_is_about_that_slide_alone(cohort, tmp_path):
    """A store of other options than the defaults: what the message says, run as it stands, changes none of them."""
    files = [Path(shutil.copy(path, tmp_path)) for path in sorted(cohort.slides.iterdir())[:2]]
    store = tmp_path / "cohort.zarr"
    giga.tile(store, files, **{**OPTIONS, "slide_mpp": 0.5})
    files[1].write_bytes(files[1].read_bytes() + b"\0")
    [reason] = giga.tile(store).failures.values()
    assert f"giga tile STORE --redo --slide {files[1].stem} takes it as it is" in reason
    redone = giga.tile(store, redo=True, slide=files[1].stem)
    assert (redone.slides, redone.done, redone.failed) == (1, 1, 0)
    assert giga.open(store).tiles.config["tile_px"] == 64
    assert giga.tile(store).failed == 0


# The table of slides without a resolution.


@pytest.fixture
def without_mpp(tmp_path):
    """A store of two slides that state no resolution, and the table to complete."""
    from gigacli.demo.pyramid import write_pyramid

    (tmp_path / "here").mkdir()
    for name in ("a", "b"):
        write_pyramid(tmp_path / "here" / f"{name}.tif", np.full((600, 800, 3), 200, dtype=np.uint8), mpp=100)
    giga.tile(tmp_path / "c.zarr", tmp_path / "here", **OPTIONS)
    return tmp_path / "c.zarr", tmp_path / "c.missing-mpp.csv"


def test_a_table_that_was_filled_in_is_kept_and_pointed_at(without_mpp):
    store, table = without_mpp
    lines = table.read_text().splitlines()
    filled = "\n".join([lines[0], f"{lines[1]}0.5", lines[2]])
    table.write_text(filled)
    heard = Recorder()
    giga.tile(store, **OPTIONS, progress=heard)
    assert table.read_text() == filled
    assert (
        f"{table} is filled in for 1 slides without a resolution; take it: giga tile {store} --csv {table}"
        in heard.said
    )
    heard = Recorder()
    giga.tile(store, csv=table, **OPTIONS, progress=heard)
    assert giga.open(store).slides[0].mpp == 0.5
    assert table.read_text() == filled
    assert f"{table} was read and is left as it is; 1 of its slides still lack a resolution" in heard.said
    assert not table.with_name("c.missing-mpp-2.csv").exists()


@pytest.mark.parametrize("text", ["", "my own notes\n", "path,slide_id,mpp\nz,z,\n", "slide_id,mpp\nx,0.5\n"])
def test_a_file_that_giga_did_not_write_is_not_replaced(without_mpp, text):
    store, table = without_mpp
    blank = table.read_bytes()
    table.write_text(text)
    for _ in range(2):
        heard = Recorder()
        giga.tile(store, **OPTIONS, progress=heard)
        assert table.read_text() == text
        other = table.with_name("c.missing-mpp-2.csv")
        assert other.read_bytes() == blank
        assert any(line.startswith(f"{other} lists the others; fill in") for line in heard.said)
        assert not table.with_name("c.missing-mpp-3.csv").exists()


def test_a_table_that_is_still_blank_is_written_anew(without_mpp, tmp_path):
    store, table = without_mpp
    shutil.copy(tmp_path / "here" / "b.tif", tmp_path / "here" / "d.tif")
    giga.tile(store, tmp_path / "here" / "d.tif", **OPTIONS)
    assert [line.split(",")[1] for line in table.read_text().splitlines()[1:]] == ["a", "b", "d"]


def test_a_slide_that_is_all_tissue_gets_a_remark_and_the_bar_shows_all_tiles(tmp_path):
    from gigacli.demo.pyramid import write_pyramid

    (tmp_path / "here").mkdir()
    stained = np.random.default_rng(0).normal((190, 130, 180), 8, (600, 800, 3)).clip(0, 255).astype(np.uint8)
    for name in ("a", "b"):
        write_pyramid(tmp_path / "here" / f"{name}.tif", stained, mpp=0.5)
    recorder = Recorder()
    summary = giga.tile(tmp_path / "a.zarr", tmp_path / "here", mpp=1.0, tile_px=64, progress=recorder)
    assert summary.tiles == 48
    assert set(summary.remarks) == {"a", "b"}
    assert "100 % of it is tissue" in summary.remarks["a"]
    assert [note for _, note in recorder.advanced][-2:] == ["slides, 24 tiles", "slides, 48 tiles"]
