"""Validation: every rule about values has a store that breaks it; damage of any kind gives problems, never an error."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from safetensors.numpy import save

from gigacli.errors import GigaError, Mismatch, NotFound
from gigacli.store.describe import describe
from gigacli.store.layout import ARRAYS, spec_of
from gigacli.store.store import Recipe, Store
from gigacli.store.table import SlideRow, SlideTable
from gigacli.store.validate import Problem, check_values, validate
from gigacli.store.values import _Check

INFINITE = np.float16(np.inf)


def change(path, index, value):
    def mutate(root):
        root[path][index] = value

    return mutate


def weights(path, data):
    def mutate(root):
        Store(root, "").write_bytes(path, data)

    return mutate


def length_two(root):
    root["embeddings/giga/vectors"][0] *= 2


def bfloat16():
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


# name: (mutation, rule, path, words of the message)
DEFECTS = {
    "two slides of one id": (change("slides/id", 1, "slide-a"), "SLIDES-3", "slides/id", "stands for 2 slides"),
    "empty id": (change("slides/id", 2, ""), "SLIDES-3", "slides/id", "empty"),
    "size of zero": (change("slides/size_px", 3, [0, 600]), "SLIDES-4", "slides/size_px", "slide-d"),
    "half a size": (change("slides/size_px", 3, [-1, 600]), "SLIDES-4", "slides/size_px", "[-1, 600]"),
    "negative resolution": (change("slides/mpp", 3, -0.5), "SLIDES-4", "slides/mpp", "-0.5"),
    "infinite resolution": (change("slides/mpp", 3, np.inf), "SLIDES-4", "slides/mpp", "inf"),
    "unknown source": (change("slides/mpp_source", 0, "guess"), "SLIDES-4", "slides/mpp_source", "'guess'"),
    "count too large": (change("tiles/count", 0, 7), "TILES-2", "tiles/count", "room for 6"),
    "count negative": (change("tiles/count", 0, -2), "TILES-2", "tiles/count", "-2"),
    "tiles of unknown size": (change("slides/mpp", 0, np.nan), "TILES-2", "tiles/count", "unknown"),
    "corner outside": (change("tiles/coords", (0, 0), [10**8, -5]), "TILES-3", "tiles/coords", "[100000000, -5]"),
    "corner negative": (change("tiles/coords", (1, 1), [-2, 0]), "TILES-3", "tiles/coords", "'slide-b' (row 1)"),
    "far edge outside": (change("tiles/coords", (0, 1), [1490, 0]), "TILES-3", "tiles/coords", "512 px"),
    "lower edge outside": (change("tiles/coords", (0, 1), [0, 990]), "TILES-3", "tiles/coords", "2000 x 1500"),
    "tissue above 1": (change("tiles/tissue", (0, 2), 1.5), "TILES-4", "tiles/tissue", "1.5"),
    "tissue missing": (change("tiles/tissue", (0, 2), np.nan), "TILES-4", "tiles/tissue", "nan"),
    "coordinates beyond": (change("tiles/coords", (1, 5), [0, 0]), "TILES-5", "tiles/coords", "beyond its 2 tiles"),
    "tissue beyond": (change("tiles/tissue", (2, 0), 0.5), "TILES-5", "tiles/tissue", "beyond its 0 tiles"),
    "features of other tiles": (change("features/moco/done", 0, 3), "FEATURES-2", "features/moco/done", "done is 3"),
    "features negative": (change("features/moco/done", 3, -7), "FEATURES-2", "features/moco/done", "-7"),
    "feature infinite": (
        change("features/moco/vectors", (0, 1, 2), INFINITE), "FEATURES-3", "features/moco/vectors", "1 of 32"),
    "features missing": (
        change("features/moco/vectors", 1, np.nan), "FEATURES-3", "features/moco/vectors", "16 of 16"),
    "features beyond": (change("features/moco/vectors", (1, 2), 0), "FEATURES-4", "features/moco/vectors", "beyond"),
    "half a bank": (change("banks/moco/done", 0, 1), "BANKS-4", "banks/moco/done", "expected -1, 0, 2"),
    "bank without tiles": (change("banks/moco/done", 2, 2), "BANKS-4", "banks/moco/done", "with 0 tiles"),
    "bank left out a slide": (change("banks/moco/done", 1, 0), "BANKS-4", "banks/moco/done", "with 2 tiles"),
    "bank not finite": (change("banks/moco/vectors", (0, 1, 2), np.nan), "BANKS-5", "banks/moco/vectors", "8 of 48"),
    "tile number too large": (change("banks/moco/tile", (1, 0, 0), 2), "BANKS-6", "banks/moco/tile", "number is 2"),
    "tile number missing": (change("banks/moco/tile", (1, 0, 0), -1), "BANKS-6", "banks/moco/tile", "number is -1"),
    "encoder half done": (change("encoders/moco/done", ..., 0), "ENCODERS-2", "encoders/moco/done", "done is 0"),
    "model half done": (change("models/giga/done", ..., 5), "MODELS-2", "models/giga/done", "done is 5"),
    "weights of zeros": (
        change("models/giga/weights", ..., 0), "MODELS-2", "models/giga/weights", "not a safetensors file"),
    "weights cut": (
        weights("models/giga/weights", save({"a": np.ones(9)})[:-1]), "MODELS-2", "models/giga/weights", "safetensors"),
    "weights of another encoder": (
        weights("encoders/moco/weights", save({"a": np.ones(9)})), "RECIPE-3", "banks/moco", "encoders/moco now has"),
    "vector not finite": (
        change("embeddings/giga/vectors", (0, 0), np.inf), "EMBEDDINGS-3", "embeddings/giga/vectors", "not finite"),
    "vector without tiles": (
        change("embeddings/giga/vectors", 2, 0.5), "EMBEDDINGS-3", "embeddings/giga/vectors", "has no tiles"),
    "embedding twice done": (
        change("embeddings/mean-moco/done", 0, 2), "EMBEDDINGS-2", "embeddings/mean-moco/done", "done is 2"),
    "vector too long": (length_two, "EMBEDDINGS-4", "embeddings/giga/vectors", "length 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found_by_its_rule(tiny, name):
    mutate, rule, path, words = DEFECTS[name]
    mutate(zarr.open_group(tiny, mode="r+"))
    problems = check_values(Store.open(tiny))
    assert {problem.rule for problem in problems} == {rule}
    [problem] = [p for p in problems if p.path == path]
    assert words in problem.message


def without(path):
    def mutate(root):
        del root[path]

    return mutate


SOUND = {
    "as it was written": lambda root: None,
    "one pixel over the border": change("tiles/coords", (0, 1), [1489, 0]),
    "a slide is tiled again": change("tiles/count", 0, -1),
    "a mean of any length": change("embeddings/mean-moco/vectors", 0, 7),
    "rubbish where nothing is done": change("tiles/coords", 3, 12345),
    "a feature is the largest number": change("features/moco/vectors", (0, 0), 65504),
    "a feature is tiny": change("features/moco/vectors", (0, 0), 6e-8),
    "the bank was removed": without("banks/moco"),
    "the model was removed": without("models/giga"),
    "brain floats": weights("models/giga/weights", bfloat16()),
    "no failures": without("failures"),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_store_has_no_problems(tiny, name):
    SOUND[name](zarr.open_group(tiny, mode="r+"))
    assert validate(tiny).problems == []


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
    tiles = maker.write_tiles(store)
    assert validate(store).problems == []
    inputs = {"tiles": tiles.fingerprint, "encoder": "a" * 64}
    recipe = Recipe("bank", {"encoder": "x", "augmentations": 2, "draws": 3}, inputs)
    store.begin("banks/x", recipe, {"vectors": (4, 2, 3, 8), "tile": (4, 2, 3), "done": (4,)})
    assert validate(store).problems == []
    store.array("banks/x/vectors")[0] = 1  # killed before it was done
    store.begin("models/m", Recipe("train", {"bank": "x", "tiles": 5}, {"bank": recipe.fingerprint}), {"done": ()})
    assert validate(store).problems == []


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
def test_a_cut_chunk_of_something_done_is_found(tiny, path):
    file = chunks_of(tiny)[path]
    file.write_bytes(file.read_bytes()[:-3])
    assert ("ROOT-3", path) in {(p.rule, p.path) for p in validate(tiny).problems}


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
                shutil.copy(
                    rng.choice([p for p in files_of(tiny) if p.name == file.name or file.name != "zarr.json"]), file
                )
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
    assert Store.open(tiny).names("banks") == ["moco"]
