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

import numpy as np
from safetensors.numpy import save

from gigacli.store.layout import FORMAT_VERSION
from gigacli.store.store import Recipe, Store
from gigacli.store.table import SlideRow, SlideTable
from gigacli.store.trained import Trained

TILES = {0: 4, 1: 2, 2: 0}
"""Tiles of the slides that are done, by row; the fourth slide failed."""

WIDTH, VECTOR = 8, 6
AUGMENTATIONS, DRAWS, EPOCHS = 2, 3, 4


def build(path: Path) -> Store:
    """Write the golden store into an empty or absent folder."""
    store = Store.create(path)
    fill(store)
    return store


def fill(store: Store) -> None:
    """Write everything, or once more what is there."""
    rng = np.random.default_rng(0)
    tiles = write_tiles(store)
    encoder = Trained(store, "encoders/moco")
    recipe = Recipe("pretrain-tiles", {"epochs": EPOCHS, "seed": 0}, {"tiles": tiles.fingerprint})
    weights = finish(encoder, recipe, rng)
    write_bank(store, tiles, hashlib.sha256(weights).hexdigest(), rng)
    bank = store.require("banks/moco").fingerprint
    finish(Trained(store, "models/giga"), Recipe("train", {"bank": "moco", "tiles": 5, "seed": 0}, {"bank": bank}), rng)
    write_embeddings(store, rng)


def write_tiles(store: Store) -> Recipe:
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
    recipe = Recipe(
        "tile", {"mpp": 1.0, "mag": None, "tile_px": 256, "overlap": 0, "min_tissue": 0.5}, {}
    )  # a tile is 512 px of level 0
    store.begin("tiles", recipe, {"coords": (4, 6, 2), "tissue": (4, 6), "count": (4,)})
    grid = np.array([[x, y] for y in (0, 512) for x in (0, 512, 1024)], dtype=np.int32)  # (6, 2)
    for row, n in TILES.items():
        store.array("tiles/coords")[row, :n] = grid[:n]
        store.array("tiles/tissue")[row, :n] = np.linspace(1.0, 0.5, n, dtype=np.float32)
        store.array("tiles/count")[row] = n
    store.fail("tile", {3: "there is no resolution in the slide"})
    return recipe


def finish(trained: Trained, recipe: Recipe, rng: np.random.Generator) -> bytes:
    """Write a finished encoder or model; its weights."""
    weights = save({"layer.weight": rng.normal(size=(3, 4)).astype(np.float32)})
    trained.begin(recipe, np.flatnonzero([n > 0 for n in TILES.values()]), redo=False)
    history = {"loss": np.linspace(2, 1, EPOCHS).tolist(), "lr": [0.001] * EPOCHS}
    trained.save(save({"epoch": np.array(EPOCHS)}), history, epochs=EPOCHS)
    trained.finish(weights, history)
    return weights


def write_bank(store: Store, tiles: Recipe, weights_sha256: str, rng: np.random.Generator) -> None:
    """Write the features and the bank of the three slides that are tiled."""
    base, inputs = {"encoder": "moco", "precision": "fp32"}, {"tiles": tiles.fingerprint, "encoder": weights_sha256}
    bank = Recipe("bank", {**base, "augmentations": AUGMENTATIONS, "draws": DRAWS, "seed": 0}, inputs)
    store.begin("features/moco", Recipe("bank", base, inputs), {"vectors": (4, 6, WIDTH), "done": (4,)})
    shape = (AUGMENTATIONS, DRAWS)
    store.begin("banks/moco", bank, {"vectors": (4, *shape, WIDTH), "tile": (4, *shape), "done": (4,)})
    for row, n in TILES.items():
        if n:
            store.array("features/moco/vectors")[row, :n] = rng.normal(size=(n, WIDTH)).astype(np.float16)
            store.array("banks/moco/vectors")[row] = rng.normal(size=(*shape, WIDTH)).astype(np.float16)
            store.array("banks/moco/tile")[row] = rng.integers(0, n, shape, dtype=np.int32)
        store.array("features/moco/done")[row] = n
        store.array("banks/moco/done")[row] = AUGMENTATIONS if n else 0


def write_embeddings(store: Store, rng: np.random.Generator) -> None:
    """Write a model's embedding and the mean of tiles."""
    features = store.require("features/moco").fingerprint
    inputs = {"features": features, "model": store.require("models/giga").fingerprint}
    ours = {"model": "giga", "tiles": 5, "views": 50, "aggregator": "model", "seed": 0}
    mean = {"aggregator": "mean", "features_name": "moco"}
    for name, recipe, width in (
        ("giga", Recipe("embed", ours, inputs), VECTOR),
        ("mean-moco", Recipe("embed", mean, {"features": features}), WIDTH),
    ):
        store.begin(f"embeddings/{name}", recipe, {"vectors": (4, width), "done": (4,)})
        for row, n in TILES.items():
            if n:
                vector = rng.normal(size=width)
                store.array(f"embeddings/{name}/vectors")[row] = (vector / np.linalg.norm(vector)).astype(np.float32)
            store.array(f"embeddings/{name}/done")[row] = int(n > 0)


def pack(folder: Path, archive: Path) -> None:
    """Zip a store, the same bytes every time."""
    with zipfile.ZipFile(archive, "w") as target:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            target.writestr(
                zipfile.ZipInfo(file.relative_to(folder).as_posix()), file.read_bytes(), zipfile.ZIP_DEFLATED
            )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        build(Path(scratch, "tiny.zarr"))
        home = Path(__file__).parent / FORMAT_VERSION
        home.mkdir(exist_ok=True)
        pack(Path(scratch, "tiny.zarr"), home / "tiny.zarr.zip")
