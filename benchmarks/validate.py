"""How long validation and info take on a large cohort: ``python benchmarks/validate.py --slides 12000``.

The store has everything a cohort has after ``giga embed``, written as files rather than through zarr, which would take
as long as a real run. Slides are small (a few tiles, a bank of 2 x 4 draws): the first three levels and info
look at no data beside "done", and the time that values take is that of as many chunks, plus reading real ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save

sys.path.insert(0, str(Path(__file__).parents[1]))

from gigacli.store.info import info
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from gigacli.store.validate import LEVELS, validate

TILES, WIDTH, SHAPE, VECTOR = 6, 256, (2, 4), 512
BY_SLIDE = ("tiles", "features", "banks", "failures")
WITHOUT_TISSUE, FAILED = 50, 100
"""Every so many-th slide has no tissue, or failed."""


def build(path: Path, slides: int) -> Store:
    """A cohort store of so many slides, done up to the embeddings."""
    store = Store.create(path)
    row = SlideRow(
        id="", path="", vendor="aperio", size_px=(1536, 1024), mpp=0.5, mpp_source="openslide", file_bytes=10**9
    )
    store.write_slides(
        SlideTable(
            tuple(
                replace(row, id=f"s{i:05d}", path=f"/slides/s{i:05d}.svs", patient=f"p{i // 2}") for i in range(slides)
            )
        )
    )
    store.tiles.begin(Recipe("tile", {"mpp": 1.0, "tile_px": 256, "overlap": 0}, {}), TILES, redo=False)
    weights = save({"layer": np.ones(4, dtype=np.float32)})
    encoder, features, bank = store.encoder("moco"), store.features("moco"), store.bank("moco")
    inputs = {"tiles": store.tiles.fingerprint, "encoder": hashlib.sha256(weights).hexdigest()}
    features.begin(Recipe("bank", {"encoder": "moco"}, inputs), WIDTH, redo=False)
    config = {"encoder": "moco", "augmentations": SHAPE[0], "draws": SHAPE[1]}
    bank.begin(Recipe("bank", config, inputs), WIDTH, redo=False)
    store.fail("tile", {0: "x"})
    store.fail("tile", {0: ""})
    state = np.arange(slides)
    done = np.where(state % FAILED == 1, -1, np.where(state % WITHOUT_TISSUE == 2, 0, 1))
    copy_slides(store, path, done)
    full, empty = np.flatnonzero(done == 1), np.flatnonzero(done == 0)
    encoder.begin(Recipe("pretrain-tiles", {}, {"tiles": store.tiles.fingerprint}), full, redo=False)
    encoder.finish(weights, {"loss": [1.0]})
    model, embedding = store.model("giga"), store.embedding("giga")
    model.begin(Recipe("train", {"bank": "moco", "tiles": 5}, {"bank": bank.fingerprint}), full, redo=False)
    model.finish(weights, {"loss": [1.0]})
    config = {"aggregator": "model", "model": "giga", "tiles": 5, "views": 50}
    inputs = {"features": features.fingerprint, "model": model.sha256()}
    embedding.begin(Recipe("embed", config, inputs), VECTOR, redo=False)
    embedding.write(full, np.full((len(full), VECTOR), VECTOR**-0.5, dtype=np.float32), empty=empty)
    return store


def copy_slides(store: Store, path: Path, done: np.ndarray) -> None:
    """Have zarr write one slide with tiles, one without and one that failed; give the others the same files."""
    full, empty, failed = (int(np.flatnonzero(done == state)[0]) for state in (1, 0, -1))
    grid = np.array([[x, y] for y in (0, 512) for x in (0, 512, 1024)], dtype=np.int32)
    rng = np.random.default_rng(0)
    tiles, features, bank = store.tiles, store.features("moco"), store.bank("moco")
    tiles.write(full, grid, np.full(TILES, 0.75, dtype=np.float32))
    features.write(full, rng.normal(size=(TILES, WIDTH)).astype(np.float16))
    vectors, drawn = rng.normal(size=(*SHAPE, WIDTH)).astype(np.float16), rng.integers(0, TILES, SHAPE, dtype=np.int32)
    bank.write(full, vectors, drawn, made=np.ones(SHAPE, dtype=bool))
    tiles.write(empty, grid[:0], None)
    features.write(empty, None)
    bank.write_empty(empty)
    store.fail("tile", {failed: "there is no resolution in the slide"})
    written = {file: file.read_bytes() for file in sorted(path.rglob("*")) if "c" in file.parts and file.is_file()}
    for example in (full, empty, failed):
        key = f"/c/{example}"
        mine = {
            str(f): b for f, b in written.items() if f"{key}/" in f"{f}/" and f.relative_to(path).parts[0] in BY_SLIDE
        }
        for row in map(int, np.flatnonzero(done == done[example])):
            for file, content in mine.items():
                other = Path(file.replace(key, f"/c/{row}", 1))
                other.parent.mkdir(parents=True, exist_ok=True)
                other.write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=12_000)
    parser.add_argument("--keep", type=Path, help="make the store in this new folder, and leave it there")
    parser.add_argument("--skip-values", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = arguments.keep or Path(scratch, "cohort.zarr")
        started = time.perf_counter()
        build(path, arguments.slides)
        seconds = {"build": time.perf_counter() - started}
        for level in LEVELS[: 3 if arguments.skip_values else 4]:
            started = time.perf_counter()
            report = validate(path, level=level)
            seconds[f"validate --level {level}"] = time.perf_counter() - started
            assert report.problems == [], report.problems[:5]
        for name, look in (("info", info), ("repr", lambda p: repr(Store.open(p)))):
            started = time.perf_counter()
            look(path)
            seconds[name] = time.perf_counter() - started
    print(json.dumps({"slides": arguments.slides, "seconds": {k: round(v, 3) for k, v in seconds.items()}}, indent=2))


if __name__ == "__main__":
    main()
