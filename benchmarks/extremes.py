"""What single commands cost where one thing is very large.

python benchmarks/extremes.py slide|wide|targets|bank [--folder DIR]

slide    one slide of a million tiles (16 px of a drawn pyramid, so that drawing and encoding stay cheap) beside twenty
         of a few hundred, from `giga tile` to `giga validate`
wide     features of 4,096 values, 200 slides of 200 tiles, imported
targets  50 targets in one probe of 10,000 slides
bank     an epoch on a bank of 6.5 GB by a process that may have 1.5 GB of its own; what is mapped can be dropped

Prints seconds, the processor's seconds, resident memory and how much of that is not of mapped files.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scale import NAME, make, run, said_of

from gigacli.demo.pyramid import write_pyramid
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

if TYPE_CHECKING:
    from collections.abc import Callable

MPP, TILE_PX, LARGE, SMALL, SMALL_SLIDES = 2.0, 16, 1001, 20, 20
WIDE, WIDE_SLIDES, WIDE_TILES = 4096, 200, 200
TARGETS, TARGET_SLIDES = 50, 10_000
BANK, BANK_WIDTH, BANK_SLIDES, OWN_BYTES = (50, 256), 256, 1000, 3 * 2**29


def tissue(tiles: int, seed: int) -> np.ndarray:
    """An image of so many tiles along an edge, all tissue but for a rim of two: pink, with darker spots."""
    rng = np.random.default_rng(seed)
    edge, rim = tiles * TILE_PX, 2 * TILE_PX
    image = np.full((edge + 2 * rim, edge + 2 * rim, 3), 244, dtype=np.uint8)
    tint = rng.integers(-25, 25, (tiles, tiles, 3), dtype=np.int16)
    grain = rng.integers(-30, 30, (TILE_PX, TILE_PX, 1), dtype=np.int16)
    colour = np.array([200, 120, 170], dtype=np.int16)
    for row in range(tiles):  # a row of tiles at a time: in one piece it would take five times the memory
        strip = tint[row][None, :, None] + grain[:, None] + colour  # (px, tiles, px, 3)
        start = rim + row * TILE_PX
        image[start : start + TILE_PX, rim:-rim] = strip.reshape(TILE_PX, edge, 3).astype(np.uint8)
    return image


def slide(folder: Path) -> None:
    """A million tiles of one slide, from the file to the map."""
    slides, store, labels = folder / "slides", folder / "slide.zarr", folder / "slide.csv"
    slides.mkdir(parents=True, exist_ok=True)
    for i in range(1 + SMALL_SLIDES):
        file = slides / f"s{i:02}.tif"
        if not file.exists():
            write_pyramid(file, tissue(SMALL if i else LARGE, i), mpp=MPP)
    lines = [f"s{i:02},p{i:02},{'ab'[i % 2]}" for i in range(1 + SMALL_SLIDES)]
    labels.write_text("\n".join(["slide_id,patient_id,label", *lines]) + "\n", encoding="utf-8")
    shutil.rmtree(store, ignore_errors=True)
    url = str(store)
    for arguments in (
        ["tile", url, str(slides), "--mpp", str(MPP), "--tile-px", str(TILE_PX)],
        ["bank", url, "--encoder", "random-resnet18"],
        ["train", url, "--epochs", "2"],
        ["embed", url, "--views", "50"],
        ["tile-map", url, "s00", "--labels", str(labels), "--out", str(folder / "map"), "--views", "10"],
        ["info", url],
        ["validate", url],
        ["export", url, "tiles", "--to", str(folder / "tiles"), "--redo"],
        ["report", url, "--out", str(folder / "report.html")],
    ):
        print(said_of(arguments[0], run(arguments)), flush=True)


def wide(folder: Path) -> None:
    """Features of 4,096 values."""
    files, store, labels = folder / "wide", folder / "wide.zarr", folder / "wide.csv"
    files.mkdir(parents=True, exist_ok=True)
    import h5py

    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(10)), axis=-1).reshape(-1, 2) * 512
    for i in range(WIDE_SLIDES):
        with h5py.File(files / f"w{i:03}.h5", "w") as file:
            values = rng.standard_normal((WIDE_TILES, WIDE), dtype=np.float32) + 0.1 * (i % 2)
            file.create_dataset("features", data=values.astype(np.float16))
            coords = file.create_dataset("coords", data=grid)
            coords.attrs.update({"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 20,
                                 "target_magnification": 10})  # fmt: skip
    lines = [f"w{i:03},p{i:03},{'ab'[i % 2]}" for i in range(WIDE_SLIDES)]
    labels.write_text("\n".join(["slide_id,patient_id,label", *lines]) + "\n", encoding="utf-8")
    shutil.rmtree(store, ignore_errors=True)
    url = str(store)
    for arguments in (
        ["import", url, str(files), "--name", "wide"],
        ["train", url, "--epochs", "2"],
        ["embed", url, "--views", "50"],
        ["probe", url, "--labels", str(labels)],
        ["report", url, "--labels", str(labels), "--out", str(folder / "report.html")],
        ["validate", url],
    ):
        print(said_of(arguments[0], run(arguments)), flush=True)


def targets(folder: Path) -> None:
    """A probe of many targets."""
    store, labels = folder / f"{TARGET_SLIDES}.zarr", folder / "targets.csv"
    make(store, TARGET_SLIDES)
    rng = np.random.default_rng(0)
    hidden = np.arange(TARGET_SLIDES)[:, None] % 2
    values = np.where(rng.random((TARGET_SLIDES, TARGETS)) < np.linspace(0, 1, TARGETS), hidden, rng.random(
        (TARGET_SLIDES, TARGETS)) < 0.5)  # fmt: skip
    names = [f"t{i:02}" for i in range(TARGETS)]
    lines = [f"s{i:06d},p{i // 2:06d}," + ",".join("ab"[int(v)] for v in row) for i, row in enumerate(values)]
    labels.write_text("\n".join([",".join(["slide_id,patient_id", *names]), *lines]) + "\n", encoding="utf-8")
    if Store.open(store).embedding("giga").found is None:
        run(["train", str(store), "--bank", NAME, "--epochs", "1"])
        run(["embed", str(store), "--model", "giga"])
    wanted = [part for name in names for part in ("--target", name)]
    line = ["probe", str(store), "--labels", str(labels), "--embedding", "giga", *wanted]
    print(said_of("probe", run(line)), flush=True)


def bank(folder: Path) -> None:
    """An epoch on a bank that is larger than the memory of the process."""
    store = folder / "bank.zarr"
    shutil.rmtree(store, ignore_errors=True)
    opened = Store.create(store, sync=False)
    rows = [SlideRow(id=f"s{i}", path=f"/s{i}", size_px=(9000, 9000), mpp=0.5) for i in range(BANK_SLIDES)]
    opened.write_slides(SlideTable(tuple(rows)))
    tiles, features, made = opened.tiles, opened.features("big"), opened.bank("big")
    tiles.begin(Recipe("tile", {"mpp": 1.0, "tile_px": 256, "overlap": 0}, {}), 256, redo=False)
    inputs = {"tiles": tiles.fingerprint, "encoder": "0" * 64}
    features.begin(Recipe("bank", {"encoder": "big"}, inputs), BANK_WIDTH, redo=False)
    config = {"encoder": "big", "mode": "tiles", "augmentations": BANK[0], "draws": BANK[1]}
    made.begin(Recipe("bank", config, inputs), BANK_WIDTH, redo=False)
    rng, every = np.random.default_rng(0), np.ones(BANK, dtype=bool)
    grid = np.stack(np.meshgrid(np.arange(16), np.arange(16)), axis=-1).reshape(-1, 2).astype(np.int32) * 512
    plain = rng.standard_normal((256, BANK_WIDTH)).astype(np.float16)
    drawn = rng.integers(0, 256, BANK, dtype=np.int32)
    pool = rng.standard_normal((2**20, BANK_WIDTH), dtype=np.float32).astype(np.float16)
    for row in range(BANK_SLIDES):
        tiles.write(row, grid, None)
        features.write(row, plain)
        made.write(row, pool[rng.integers(0, len(pool), BANK)], drawn, made=every)
    for limited in (None, OWN_BYTES):
        line = ["train", str(store), "--bank", "big", "--epochs", "3", "--redo", "--no-join"]
        print(said_of("train" if limited is None else "train, limited", run(line, own_bytes=limited)), flush=True)
    size = sum(file.stat().st_size for file in (store / "banks").rglob("*") if file.is_file())
    print(f"  the bank has {size / 2**20:,.0f} MB", flush=True)


CASES: dict[str, Callable[[Path], None]] = {"slide": slide, "wide": wide, "targets": targets, "bank": bank}


def main() -> None:
    """Run the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.cases:
            print(name, flush=True)
            CASES[name](folder)


if __name__ == "__main__":
    main()
