"""Write the golden store of this format version: ``python spec/golden/make_golden.py``.

Four slides: two with tiles, one without tissue, one that could not be used. Every kind of group once, through
:class:`gigacli.store.store.Store` as the verbs use it; the weights are a few numbers, no network is run.
A golden store is written once, when a format version is released, and never again.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save

from gigacli.progress import SILENT
from gigacli.store.layout import FORMAT_VERSION, OPERATORS
from gigacli.store.pack import pack_groups, remove_what_is_packed
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

if TYPE_CHECKING:
    from gigacli.store.groups import TrainedGroup

TILES = {0: 4, 1: 2, 2: 0}
"""Tiles of the slides that are done, by row; the fourth slide failed."""

CAPACITY, WIDTH, VECTOR = 6, 8, 6
AUGMENTATIONS, DRAWS, EPOCHS = 2, 3, 4


def build(path: Path) -> Store:
    """Write the golden store into an empty or absent folder."""
    store = Store.create(path)
    fill(store)
    return store


def fill(store: Store) -> None:
    """Write everything, or once more what is there."""
    rng = np.random.default_rng(0)
    write_tiles(store)
    tiles = {"tiles": store.tiles.fingerprint}
    recipe = Recipe("pretrain-tiles", {"epochs": EPOCHS, "seed": 0}, tiles)
    weights = finish(store.encoder("moco"), recipe, rng)
    write_bank(store, {**tiles, "encoder": hashlib.sha256(weights).hexdigest()}, rng)
    inputs = {"bank": store.bank("moco").fingerprint}
    finish(store.model("giga"), Recipe("train", {"bank": "moco", "tiles": 5, "seed": 0}, inputs), rng)
    write_embeddings(store, rng)


def write_tiles(store: Store) -> None:
    """Register four slides, tile three of them."""
    rows = [
        SlideRow(
            id=f"slide-{name}",
            path=f"/slides/slide-{name}.svs",
            patient=patient,
            vendor="aperio",
            size_px=(2000, 1500),
            mpp=0.5,
            mpp_source="openslide",
        )
        for name, patient in (("a", "p1"), ("b", "p1"), ("c", "p2"))
    ]
    unusable = SlideRow(id="slide-d", path="/slides/slide-d.tif", vendor="generic-tiff", size_px=(800, 600))
    store.write_slides(SlideTable((*rows, unusable)))
    config = {"mpp": 1.0, "mag": None, "tile_px": 256, "overlap": 0, "min_tissue": 0.5}  # a tile: 512 px of level 0
    store.tiles.begin(Recipe("tile", config, {}), CAPACITY, redo=False)
    grid = np.array([[x, y] for y in (0, 512) for x in (0, 512, 1024)], dtype=np.int32)  # (6, 2)
    for row, n in TILES.items():
        store.tiles.write(row, grid[:n], np.linspace(1.0, 0.5, n, dtype=np.float32))
    store.fail("tile", {3: "there is no resolution in the slide"})


def finish(trained: TrainedGroup, recipe: Recipe, rng: np.random.Generator) -> bytes:
    """Write a finished encoder or model; its weights."""
    weights = save({"layer.weight": rng.normal(size=(3, 4)).astype(np.float32)})
    trained.begin(recipe, np.flatnonzero([n > 0 for n in TILES.values()]), redo=False)
    history = {"loss": np.linspace(2, 1, EPOCHS).tolist(), "lr": [0.001] * EPOCHS}
    trained.save(save({"epoch": np.array(EPOCHS)}), history, epochs=EPOCHS)
    trained.finish(weights, history)
    return weights


def write_bank(store: Store, inputs: dict[str, str], rng: np.random.Generator) -> None:
    """Write the features and the bank of the three slides that are tiled."""
    base, shape = {"encoder": "moco", "precision": "fp32"}, (AUGMENTATIONS, DRAWS)
    features, bank = store.features("moco"), store.bank("moco")
    features.begin(Recipe("bank", base, inputs), WIDTH, redo=False)
    config = {**base, "augmentations": AUGMENTATIONS, "draws": DRAWS, "seed": 0}
    bank.begin(Recipe("bank", config, inputs), WIDTH, redo=False)
    for row, n in TILES.items():
        if n:
            features.write(row, rng.normal(size=(n, WIDTH)).astype(np.float16))
            vectors = rng.normal(size=(*shape, WIDTH)).astype(np.float16)
            bank.write(row, vectors, rng.integers(0, n, shape, dtype=np.int32), made=np.ones(shape, dtype=bool))
        else:
            features.write(row, None)
            bank.write_empty(row)


def write_embeddings(store: Store, rng: np.random.Generator) -> None:
    """Write a model's embedding and the mean of tiles."""
    features = store.features("moco").fingerprint
    inputs = {"features": features, "model": store.model("giga").sha256}
    ours = {"model": "giga", "tiles": 5, "views": 50, "aggregator": "model", "seed": 0}
    mean = {"aggregator": "mean", "features_name": "moco"}
    full, empty = (np.array([row for row, n in TILES.items() if (n > 0) == some]) for some in (True, False))
    for name, recipe, width in (
        ("giga", Recipe("embed", ours, inputs), VECTOR),
        ("mean-moco", Recipe("embed", mean, {"features": features}), WIDTH),
    ):
        embedding = store.embedding(name)
        embedding.begin(recipe, width, redo=False)
        vectors = [rng.normal(size=width) for _ in full]
        unit = np.array([vector / np.linalg.norm(vector) for vector in vectors], dtype=np.float32)
        embedding.write(full, unit, empty=empty)


def build_operators(path: Path) -> Store:
    """Write the golden store of operators: of slides like those of :func:`build`, the first of which calibrates."""
    store, rng = Store.create(path), np.random.default_rng(1)
    write_tiles(store)
    inputs = {"tiles": store.tiles.fingerprint, "encoder": "0" * 64}
    base, sets, rank = {"encoder": "moco", "precision": "fp32"}, AUGMENTATIONS, 4
    features, bank = store.features("moco"), store.bank("moco")
    features.begin(Recipe("bank", base, inputs), WIDTH, redo=False)
    size = {"augmentations": sets, "draws": 5, "sets": sets, "calibration_tiles": 5, "rank": rank}
    bank.begin(
        Recipe("bank", {**base, **size, "mode": "operators", "residuals": "yes", "seed": 0}, inputs), WIDTH, redo=False
    )
    bank.choose_calibration(np.array([0]))
    for row, n in TILES.items():
        features.write(row, rng.normal(size=(n, WIDTH)).astype(np.float16) if n else None)
        bank.write_empty(row)
    n = TILES[0]
    tile = np.tile(np.array([*range(n), -1], dtype=np.int32), (sets, 1))  # one tile less than draws
    vectors = np.where(tile[..., None] >= 0, rng.normal(size=(sets, 5, WIDTH)), np.nan).astype(np.float16)
    bank.write(0, vectors, tile, made=tile >= 0)
    sizes = {"feature": WIDTH, "value": WIDTH, "augmentation": sets, "rank": rank, "rank_out": rank, "score": 3}
    learnt = {
        name: rng.normal(size=[sizes[dim] for dim in dims]).astype(np.float32) for name, dims in OPERATORS.items()
    }
    left = {"residuals": rng.normal(size=(n, sets, WIDTH)).astype(np.float16), "residuals_first": np.array([0, n])}
    r2 = {"tile": 0.35, "slide": 0.8, "slide_by_shift": 0.5}
    said = {
        "learnt_from": "0" * 32,
        "slides": 1,
        "tiles": n,
        "r2": r2,
        "penalty": 1.0,
        "rank_kept": 0.9,
        "residuals": True,
    }
    bank.keep_operators({**learnt, **left}, said)
    return store


def build_packed(path: Path) -> Store:
    """Write the golden store of packed groups: that of :func:`build`, packed, then the second slide done anew."""
    store = build(path)
    pack_groups(store, SILENT)
    remove_what_is_packed(store)
    rng, n, shape = np.random.default_rng(2), TILES[1], (AUGMENTATIONS, DRAWS)
    coords, tissue = store.tiles.coords(1), store.tiles.tissue(1)
    store.tiles.write(1, coords, tissue)
    store.features("moco").write(1, rng.normal(size=(n, WIDTH)).astype(np.float16))
    vectors = rng.normal(size=(*shape, WIDTH)).astype(np.float16)
    store.bank("moco").write(1, vectors, rng.integers(0, n, shape, dtype=np.int32), made=np.ones(shape, dtype=bool))
    return store


BUILT = {"tiny": build, "operators": build_operators, "packed": build_packed}


def pack(folder: Path, archive: Path) -> None:
    """Zip a store, the same bytes every time."""
    with zipfile.ZipFile(archive, "w") as target:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            target.writestr(
                zipfile.ZipInfo(file.relative_to(folder).as_posix()), file.read_bytes(), zipfile.ZIP_DEFLATED
            )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(__file__).parent / FORMAT_VERSION
        home.mkdir(exist_ok=True)
        for name, make in BUILT.items():
            make(Path(scratch, f"{name}.zarr"))
            pack(Path(scratch, f"{name}.zarr"), home / f"{name}.zarr.zip")
