"""Validation: levels, messages; damage of any kind gives problems, never an error."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from gigacli.errors import GigaError, InvalidInput, Mismatch, NotFound
from gigacli.store.describe import describe
from gigacli.store.groups import Bank
from gigacli.store.layout import ARRAYS, spec_of
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from gigacli.store.validate import LEVELS, Problem, check_values, validate
from gigacli.store.values import _Check


def change(path, index, value):
    def mutate(root):
        root[path][index] = value

    return mutate


def bfloat16():
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


# What a person is told; that every defect is caught by its rule is tested with the specification.
MESSAGES = {
    "two slides of one id": (change("slides/id", 1, "slide-a"), "slides/id", "stands for 2 slides"),
    "half a size": (change("slides/size_px", 3, [-1, 600]), "slides/size_px", "'slide-d' (row 3): size is [-1, 600]"),
    "count too large": (change("tiles/count", 0, 7), "tiles/count", "count is 7; there is room for 6 tiles"),
    "far edge outside": (change("tiles/coords", (0, 1), [1490, 0]), "tiles/coords", "1 tiles of 512 px lie outside"),
    "tissue above 1": (change("tiles/tissue", (0, 2), 1.5), "tiles/tissue", "1.5; expected 0 to 1"),
    "feature infinite": (change("features/moco/vectors", (0, 1, 2), np.inf), "features/moco/vectors", "1 of 32 values"),
    "bank of other tiles": (change("banks/moco/done", 0, 1), "banks/moco/done", "is stale: made from 1, which is now"),
    "tile too large": (
        change("banks/moco/tile", (1, 0, 0), 2),
        "banks/moco/tile",
        "number is 2; the slide has 2 tiles",
    ),
    "weights of zeros": (change("models/giga/weights", ..., 0), "models/giga/weights", "not a safetensors file"),
    "vector too long": (change("embeddings/giga/vectors", 0, 2), "embeddings/giga/vectors", "expected 1"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_says_what_was_found_and_where(tiny, name):
    mutate, path, words = MESSAGES[name]
    mutate(zarr.open_group(tiny, mode="r+"))
    [problem] = [p for p in check_values(Store.open(tiny)) if p.path == path]
    assert words in problem.message


def test_weights_in_brain_floats_are_sound(tiny):
    Store.open(tiny, write=True).model("giga").finish(bfloat16(), {"loss": [1.0, 1.0, 1.0, 1.0]})
    assert {(p.rule, p.path) for p in validate(tiny).problems} == {("RECIPE-3", "embeddings/giga")}  # of other weights


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_checked_with_those_before_it(tiny, level):
    document = tiny / "slides/zarr.json"
    good = document.read_text()
    report = validate(tiny, level=level)
    assert (report.problems, len(report.checked)) == ([], LEVELS.index(level) + 1)
    document.write_text(good.replace('"registered": 4', '"registered": "4"'))
    assert "SLIDES-2" in {p.rule for p in validate(tiny, level=level).problems}
    document.write_text(good.replace('"registered": 4', '"registered": 5'))
    found = {p.rule for p in validate(tiny, level=level).problems}
    assert ("AXES-1" in found) == (level in ("consistency", "values"))


def test_only_the_last_level_reads_data(tiny, monkeypatch):
    monkeypatch.setattr(zarr.Array, "__getitem__", lambda *_: pytest.fail("data were read"))
    assert validate(tiny, level="consistency").problems == []


def test_an_unknown_level_is_refused(tiny):
    with pytest.raises(InvalidInput, match="`level` is 'all'; it must be one of attributes, hierarchy"):
        validate(tiny, level="all")


def test_a_finished_model_without_weights(tiny):
    shutil.rmtree(tiny / "models/giga/weights")
    assert [(p.rule, p.path) for p in validate(tiny).problems] == [("MODELS-2", "models/giga/weights")]


def test_many_slides_with_one_defect_are_one_problem(tiny):
    root = zarr.open_group(tiny, mode="r+")
    root["tiles/coords"][:, 0] = np.full((4, 2), -1)
    [problem] = [p for p in validate(tiny).problems if p.rule == "TILES-3"]
    assert problem.message.startswith("'slide-a' (row 0): 1 tiles of 512 px lie outside 2000 x 1500 px, first [-1, -1]")
    assert problem.message.endswith("; and 1 more slides")


def test_a_report(tiny):
    report = validate(str(tiny))
    assert report.store == str(tiny)
    assert report.checked == ["attributes", "hierarchy", "consistency", "values of 4 slides"]
    assert 0 < report.seconds < 60


def test_an_unfinished_store_is_valid(tmp_path, maker):
    store = Store.create(tmp_path / "c.zarr")
    assert validate(store).problems == []
    maker.write_tiles(store)
    assert validate(store).problems == []
    inputs, bank = {"tiles": store.tiles.fingerprint, "encoder": "a" * 64}, store.bank("x")
    bank.begin(Recipe("bank", {"encoder": "x", "augmentations": 2, "draws": 3}, inputs), 8, redo=False)
    assert validate(store).problems == []
    bank.array("vectors")[0] = 1  # killed before it was done
    recipe = Recipe("train", {"bank": "x", "tiles": 5}, {"bank": bank.fingerprint})
    store.model("m").begin(recipe, np.array([0]), redo=False)
    assert validate(store).problems == []


def test_a_checkpoint_killed_before_its_bytes_is_no_problem(tiny):
    store = Store.open(tiny, write=True)
    del store.root["encoders/moco/checkpoint"]
    store.ensure_array("encoders/moco/checkpoint", (2**30,))
    assert not store.has_bytes("encoders/moco/checkpoint")
    assert validate(tiny).problems == []


@pytest.mark.parametrize("name", ["none.zarr", "empty.zarr"])
def test_what_is_no_store_raises(tmp_path, name):
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(NotFound if name == "none.zarr" else Mismatch):
        validate(tmp_path / name)


def test_no_slide_is_read_that_is_not_done(tiny, monkeypatch):
    store, rows, read = Store.open(tiny, write=True), [], _Check.read
    monkeypatch.setattr(_Check, "read", lambda self, *args, row=None: (rows.append(row), read(self, *args, row=row))[1])
    check_values(store)
    few = sorted({row for row in rows if row is not None})
    store.write_slides(SlideTable((*store.slides.rows, *(SlideRow(id=f"s{i}", path=f"/s{i}") for i in range(50)))))
    rows.clear()
    assert check_values(store) == []
    assert sorted({row for row in rows if row is not None}) == few == [0, 1, 2]


# ---------------------------------------------------------------------- damage


def files_of(store):
    return [p for p in sorted(store.rglob("*")) if p.is_file()]


def chunks_of(store):
    """{path of an array: its first chunk}."""
    first = {}
    for file in files_of(store):
        if file.name != "zarr.json":
            first.setdefault(str(file.relative_to(store)).split("/c/")[0].removesuffix("/c"), file)
    return first


def test_every_chunk_that_is_cut_is_found(tiny):
    small = {path: file for path, file in chunks_of(tiny).items() if len(spec_of(path).dims) < 2}
    assert len(small) > 20
    for file in small.values():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    problems = [p for p in validate(tiny).problems if p.rule == "ROOT-3"]
    assert {p.path for p in problems} >= small.keys()
    assert all("cannot be read" in p.message for p in problems)


LARGE = [spec.path.replace("*", "moco") for spec in ARRAYS if len(spec.dims) > 1]


@pytest.mark.parametrize("path", [path for path in LARGE if "embeddings" not in path] + ["embeddings/giga/vectors"])
def test_a_cut_chunk_of_something_done_is_found(tiny, maker, tmp_path, path):
    store = tiny
    if "/operators/" in path:
        store = tmp_path / "operators.zarr"
        maker.build_operators(store)
    file = chunks_of(store)[path]
    file.write_bytes(file.read_bytes()[:-3])
    assert ("ROOT-3", path) in {(p.rule, p.path) for p in validate(store).problems}


@pytest.mark.parametrize("path", ["tiles", "tiles/coords", "slides", "banks"])
@pytest.mark.parametrize("text", ["", "[1]", '{"zarr_format": 2}'])
def test_damaged_metadata_is_found(tiny, path, text):
    (tiny / path / "zarr.json").write_text(text)
    problems = validate(tiny).problems
    assert ("ROOT-3", path) in {(p.rule, p.path) for p in problems}


def test_metadata_of_the_wrong_shape_is_found(tiny):
    document = tiny / "tiles/coords/zarr.json"
    good = json.loads(document.read_text())
    for key, value in {
        "shape": [4, 6], "chunk_grid": 7, "codecs": None, "dimension_names": ["slide"], "attributes": [],
        "fill_value": None, "data_type": {"name": "int32"},
    }.items():  # fmt: skip
        document.write_text(json.dumps({**good, key: value}))
        assert "tiles/coords" in {p.path for p in validate(tiny).problems}, key


def test_an_unknown_codec_is_found(tiny):
    document = tiny / "tiles/coords/zarr.json"
    good = json.loads(document.read_text())
    document.write_text(json.dumps({**good, "codecs": [{"name": "no-such-codec", "configuration": {}}]}))
    assert ("ROOT-3", "tiles/coords") in {(p.rule, p.path) for p in validate(tiny).problems}


@pytest.mark.parametrize("seed", range(15))
def test_no_damage_makes_it_raise(tiny, seed):
    rng = random.Random(seed)
    for file in rng.sample(files_of(tiny), 4):
        data = file.read_bytes()
        match rng.choice(["remove", "cut", "flip", "junk", "empty", "swap"]):
            case "remove":
                file.unlink()
            case "cut":
                file.write_bytes(data[: rng.randrange(len(data) + 1)])
            case "flip":
                at = rng.randrange(max(1, len(data)))
                file.write_bytes(data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :])
            case "junk":
                file.write_bytes(rng.randbytes(rng.randrange(200)))
            case "empty":
                file.write_bytes(b"")
            case "swap":
                others = [p for p in files_of(tiny) if p != file and (p.name == file.name or file.name != "zarr.json")]
                shutil.copy(rng.choice(others), file)
    try:
        Store.open(tiny)
    except GigaError:  # the root itself was damaged
        with pytest.raises(GigaError):
            validate(tiny)
        return
    problems = validate(tiny).problems
    assert all(isinstance(p, Problem) and p.rule and p.message for p in problems)


def test_files_that_are_no_part_of_the_hierarchy_are_ignored(tiny):
    for name in ("notes.txt", "tiles/zarr.0af3.partial", "tiles/coords/c/0/0/0.17ab.partial", ".DS_Store"):
        Path(tiny, name).write_text("text")
    (tiny / "banks/folder").mkdir()
    report = validate(tiny)
    assert report.problems == []
    assert "banks/folder" not in describe(Store.open(tiny))
    assert Store.open(tiny).names(Bank) == ["moco"]
