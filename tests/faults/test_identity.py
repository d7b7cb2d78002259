"""What a number was made from is known: content, not options, says what is done.

Each test is a way in which numbers came out wrong without a word.
"""

import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gigacli as giga
from gigacli.cohort.content import BLOCK_BYTES, INNER_BLOCKS, hash_of_mask, hash_of_slide
from gigacli.errors import GigaError, Mismatch
from gigacli.store.identity import FILE, MASK
from gigacli.store.info import info
from gigacli.store.validate import validate
from gigacli.wsi.slide import Slide
from tests.conftest import BANK, EMBED, TILE, TRAIN
from tests.helpers import run_giga

NAME = "random-resnet18"


class Heard(list):
    """What is said."""

    def start(self, *_, **__):
        pass

    def advance(self, *_, **__):
        pass

    def say(self, text):
        self.append(text)


def rules(path):
    return {problem.rule for problem in validate(path).problems}


def write_mask(slide, path, *, share=1.0):
    """A mask that takes the left of a slide for tissue."""
    with Slide(slide) as opened:
        width, height = (size // 16 for size in opened.size_px)
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, : round(width * share)] = 255
    Image.fromarray(mask).save(path)


@pytest.fixture
def masked(cohort, tmp_path):
    """A store of four slides with masks that say that all of each is tissue, made up to the embedding."""
    for name in ("slides", "masks"):
        (tmp_path / name).mkdir()
    files = [Path(shutil.copy(file, tmp_path / "slides")) for file in sorted(cohort.slides.glob("*.tif"))[:4]]
    for file in files:
        write_mask(file, tmp_path / "masks" / f"{file.stem}.png")
    table = tmp_path / "slides.csv"
    table.write_text("path,mask\n" + "".join(f"{f},masks/{f.stem}.png\n" for f in files))
    store = tmp_path / "cohort.zarr"
    giga.tile(store, csv=table, **TILE)
    giga.bank(store, **BANK)
    giga.train(store, **TRAIN)
    giga.embed(store, **EMBED)
    return store, files


def test_a_mask_that_was_edited_in_its_place(masked):
    store, files = masked
    write_mask(files[1], store.parent / "masks" / f"{files[1].stem}.png", share=0.5)
    noticed = giga.tile(store)
    assert list(noticed.failures) == [files[1].stem]
    assert "has changed since it was tiled; giga tile STORE --redo --slide" in noticed.failures[files[1].stem]
    before = giga.open(store).tiles.done().counts
    assert giga.tile(store, redo=True).done == 4
    after = giga.open(store).tiles.done().counts
    assert (after < before).tolist() == [False, True, False, False]
    groups = {group.path: group for group in info(store).groups}
    assert {path: group.done for path, group in groups.items() if path != f"encoders/{NAME}"} == {
        "tiles": 4, f"features/{NAME}": 3, f"banks/{NAME}": 3, "models/giga": 1, "embeddings/giga": 3,
        f"embeddings/mean-{NAME}": 3, f"embeddings/whitened-mean-{NAME}": 3,
    }  # fmt: skip
    stale = [path for path, group in groups.items() if group.stale]
    rivals = [f"embeddings/{kind}-{NAME}" for kind in ("mean", "whitened-mean")]
    assert stale == [f"features/{NAME}", f"banks/{NAME}", "models/giga", "embeddings/giga", *rivals]
    assert "RECIPE-5" in rules(store)
    assert "embeddings/giga is stale" in run_giga("info", store, check=True).stdout
    bank, train, embed = (f"giga {verb} {shlex.quote(str(store))}" for verb in ("bank", "train", "embed"))
    assert info(store).next == f"{bank} --encoder {NAME} --name {NAME}"  # of that slide: nothing else is replaced
    made = giga.bank(store, **BANK)
    assert (made.done, made.skipped) == (1, 3)
    assert info(store).next == f"{train} --bank {NAME} --name giga --redo"
    with pytest.raises(Mismatch, match="trained on 1 slides that have other tiles"):
        giga.train(store, **TRAIN)
    with pytest.raises(Mismatch, match="trained on 1 slides that have other tiles"):
        giga.embed(store, **EMBED)
    giga.train(store, **TRAIN, redo=True)
    assert info(store).next == f"{embed} --model giga --aggregator model --name giga --redo"
    giga.embed(store, **EMBED, redo=True)
    assert validate(store).problems == []
    assert not any(group.stale for group in info(store).groups)
    assert info(store).next == f"giga probe {shlex.quote(str(store))} --labels labels.csv"


def test_a_mask_that_is_put_back(masked, chunks):
    """Nothing is made again that is still what it was."""
    store, files = masked
    before, mask = chunks(store), store.parent / "masks" / f"{files[1].stem}.png"
    for share in (0.5, 1.0):
        write_mask(files[1], mask, share=share)
        giga.tile(store, redo=True, slide=files[1].stem)
    assert giga.bank(store, **BANK).done == 0
    assert chunks(store) == before
    assert validate(store).problems == []


def test_two_slides_of_one_size_that_were_swapped(cohort, tmp_path):
    (tmp_path / "slides").mkdir()
    files = [Path(shutil.copy(file, tmp_path / "slides")) for file in sorted(cohort.slides.glob("*.tif"))[:3]]
    size = max(file.stat().st_size for file in files) + 8
    for file in files:
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
        os.utime(file, ns=(10**18, 10**18))
    store = tmp_path / "cohort.zarr"
    giga.tile(store, files, **TILE)
    aside = files[0].rename(tmp_path / "aside")
    files[1].rename(files[0])
    aside.rename(files[1])
    made = giga.bank(store, **BANK)
    assert (made.done, made.failed) == (1, 2)
    assert sorted(made.failures) == sorted(file.stem for file in files[:2])
    assert all("holds other bytes than when it was tiled" in why for why in made.failures.values())
    os.utime(files[0], ns=(10**18, 10**18 + 1))
    assert list(giga.tile(store).failures) == [files[0].stem]  # the time alone would say nothing of the other
    giga.tile(store, redo=True)
    assert giga.bank(store, **BANK).done == 2


@pytest.mark.parametrize("whole", [False, True])
def test_the_hash_of_a_slide(tmp_path, whole):
    file, size = tmp_path / "a.svs", 40 * BLOCK_BYTES + 17
    data = bytearray(np.random.default_rng(0).bytes(size))
    file.write_bytes(data)
    known = hash_of_slide(file, whole=whole)
    assert 0 < known < 2**63
    last = size - BLOCK_BYTES
    blocks = [last * i // (INNER_BLOCKS + 1) for i in range(INNER_BLOCKS + 2)]
    for at in (0, size - 1, blocks[7], blocks[7] + BLOCK_BYTES - 1):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert hash_of_slide(file, whole=whole) != known
    between = blocks[7] + BLOCK_BYTES
    assert between < blocks[8]
    file.write_bytes(data[:between] + bytes([data[between] ^ 1]) + data[between + 1 :])
    assert (hash_of_slide(file, whole=whole) != known) == whole
    file.write_bytes(data + b"\0")
    assert hash_of_slide(file, whole=whole) != known
    copy = Path(shutil.copy(file, tmp_path / "b.svs"))
    os.utime(copy, (0, 0))
    assert hash_of_slide(copy, whole=whole) == hash_of_slide(file, whole=whole)


def test_the_hash_of_a_slide_of_several_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a.mrxs").write_bytes(b"index")
    for name in ("Data0.dat", "Slidedat.ini"):
        (tmp_path / "a" / name).write_bytes(name.encode())
    known = hash_of_slide(tmp_path / "a.mrxs", whole=False)
    (tmp_path / "a" / "Data0.dat").write_bytes(b"Data1.dat")
    assert hash_of_slide(tmp_path / "a.mrxs", whole=False) != known


def test_what_identity_is_made_of(masked):
    store, files = masked
    tiles = giga.open(store).tiles
    assert not tiles.config["hash"]
    for row, file in enumerate(files):
        assert tiles.identity(row)[FILE] == hash_of_slide(file, whole=False)
        assert tiles.identity(row)[MASK] == hash_of_mask(giga.open(store).slides[row].mask)
    giga.tile(store, hash=True, redo=True)
    assert giga.open(store).tiles.identity(0)[FILE] == hash_of_slide(files[0], whole=True)


def test_a_slide_table_without_its_document(store_at, cohort):
    path = store_at("embed")
    (path / "slides/zarr.json").unlink()
    assert ("ROOT-3", "slides") in {(p.rule, p.path) for p in validate(path).problems}
    for verb in (info, lambda store: giga.tile(store, cohort.slides, **TILE), lambda store: giga.bank(store)):
        with pytest.raises(Mismatch, match=r"slides/zarr\.json, which says how many slides there are, is missing"):
            verb(path)


def test_ids_that_are_not_those_the_rows_were_made_for(store_at):
    path = store_at("embed")
    other = giga.open(store_at("tile", "other.zarr"), write=True)
    shutil.rmtree(path / "slides")
    rows = giga.open(other).slides.rows
    new = giga.Store.create(path.parent / "new.zarr")
    new.write_slides(type(other.slides)(rows[::-1]))
    shutil.copytree(path.parent / "new.zarr" / "slides", path / "slides")
    assert {p.path for p in validate(path).problems if p.rule == "RECIPE-4"} >= {"tiles", "embeddings/giga"}
    for ask in (info, lambda store: giga.embed(store, **EMBED)):
        with pytest.raises(Mismatch, match="its rows would be taken for those of other slides"):
            ask(path)


@pytest.mark.parametrize("lost", ["trained_on", "trained_on/c/0"])
def test_which_slides_a_model_has_seen_is_lost(store_at, cohort, lost):
    path = store_at("embed")
    at = path / "models/giga" / lost
    shutil.rmtree(at) if at.is_dir() else at.unlink()
    with pytest.raises(Mismatch, match="trained_on"):
        giga.probe(path, cohort.labels_csv, target="label", folds=2)
    assert {"MODELS-2", "ROOT-6"} & rules(path)


def test_a_model_of_half_a_bank(store_at):
    path, heard = store_at("tile"), Heard()
    giga.bank(path, **BANK, shard="1/2")
    giga.train(path, **TRAIN, progress=heard)
    assert "4 slides with tiles are not in banks/random-resnet18 yet, and are not trained on" in heard
    giga.bank(path, **BANK, shard="2/2")
    again = giga.train(path, **TRAIN)
    assert (again.slides, again.skipped) == (4, 1)
    assert "4 slides came into banks/random-resnet18 after it was trained" in again.warning
    [model] = [group for group in info(path).groups if group.path == "models/giga"]
    assert model.remark == "trained on 4 slides; banks/random-resnet18 holds 4 others"
    assert giga.train(path, **TRAIN, redo=True).slides == 8


def test_embeddings_of_a_model_that_was_replaced(store_at, cohort, tmp_path):
    path = store_at("embed")
    giga.train(path, **TRAIN, seed=1, redo=True)
    probe = {"target": "label", "folds": 2, "embedding": "giga"}
    with pytest.raises(Mismatch, match="embeddings/giga is stale: made from models/giga") as refused:
        giga.probe(path, cohort.labels_csv, **probe)
    assert "`stale`" in refused.value.hint
    found = giga.probe(path, cohort.labels_csv, **probe, stale=True)
    assert any(text.startswith("giga is stale: made from models/giga") for text in found.warnings)
    assert "embeddings/giga is stale" in giga.export(path, "embeddings/giga", to=tmp_path / "v.csv").warning
    giga.report(path, out=tmp_path / "report.html")
    assert "embeddings/giga is stale" in (tmp_path / "report.html").read_text()
    with pytest.raises(Mismatch, match="is stale"):
        giga.tile_map(path, giga.open(path).slides.ids[0], cohort.labels_csv, target="label", embedding="giga")
    giga.embed(path, **EMBED, redo=True)
    assert giga.probe(path, cohort.labels_csv, **probe).warnings != found.warnings


ALLOWED = ("banks/moco/done/c/2", "features/moco/done/c/2", "tiles/count/c/2", "failures/tile/c/3")
"""Losses that change no number: marks of a slide without tissue, which is done anew; a reason."""


def test_every_file_that_is_lost_is_named(tmp_path):
    """By ``validate``, one by one: as a problem or, where it is a mark, as something that is not done."""
    from spec.golden import make_golden

    whole = tmp_path / "whole.zarr"
    make_golden.build(whole)
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    unnamed = []
    for file in files:
        store = shutil.copytree(whole, tmp_path / "lost.zarr", copy_function=os.link)
        (store / file).unlink()
        try:
            report = validate(store)
        except GigaError as error:
            named = "zarr" in str(error)
        else:
            said = {problem.path for problem in report.problems} - {""}
            said |= {line.partition(":")[0].split()[0] for line in report.unfinished}
            named = any(file.is_relative_to(path) or path == str(file.parent) for path in said)
        if not named:
            unnamed.append(str(file))
        shutil.rmtree(store)
    assert len(files) == 98
    assert sorted(unnamed) == sorted(ALLOWED)
