"""What operators cost: learning them, and `giga bank` of a demo cohort beside the bare encoder and the paper's bank.

python benchmarks/operators_price.py learn             # 64 operators of 1,536 features from 2,000 tiles: a minute
python benchmarks/operators_price.py bank DEMO_FOLDER  # a folder of `giga demo`; two minutes, writes in copies of it

`bank` runs, one after the other: the bare encoder, not compiled, on images of the two sizes that a bank encodes; the
whole command; the bare encoder again; and a sixteenth of the paper's bank, compiled and not. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bank import bare

from gigacli.config.bank_sizes import PAPER_AUGMENTATIONS, PAPER_DRAWS, encodings_of_tiles
from gigacli.nn.augment import output_px
from gigacli.nn.frozen import FrozenTileEncoder
from gigacli.nn.operators_fit import Calibration, fit_operators, operator_space
from gigacli.nn.tile_encoder import random_resnet18
from gigacli.nn.whitening import spread_of
from gigacli.store.store import Store

TILES, SETS, WIDTH, SLIDES, RANK = 2000, 64, 1536, 100, 64
PART = 16


def learn() -> None:
    """Time the learning of operators from made-up features of some rank."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((RANK, WIDTH)).astype(np.float32)
    plain = rng.standard_normal((TILES, RANK)).astype(np.float32) @ basis + rng.standard_normal((TILES, WIDTH))
    augmented = np.empty((TILES, SETS, WIDTH), np.float16)
    for k in range(SETS):
        augmented[:, k] = plain + 0.3 * rng.standard_normal(WIDTH) + 0.3 * rng.standard_normal((TILES, WIDTH))
    calibration = Calibration(plain.astype(np.float16), augmented, np.repeat(np.arange(SLIDES), TILES // SLIDES))
    wall, busy = time.perf_counter(), time.process_time()
    space = operator_space(calibration, spread_of(np.split(calibration.plain, SLIDES)))
    half = time.perf_counter() - wall
    fit_operators(calibration, space, rank=RANK)
    print(f"{SETS} operators of {WIDTH} features from {TILES} tiles: {time.perf_counter() - wall:.0f} s, {half:.0f} of "
          f"them for the space; {time.process_time() - busy:.0f} s of processor time")  # fmt: skip


def bank(folder: Path) -> None:
    """Time `giga bank` in copies of a demo's store, which keep its tiles and its encoder alone."""
    store = Store.open(folder / "cohort.zarr")
    px, counts = store.tiles.tile_px, store.tiles.done().counts
    encoder = FrozenTileEncoder(random_resnet18(0), device=torch.device("cpu"), precision="bf16")
    sizes = (output_px(px), px)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        before = [bare(encoder, 64, 4.0, size)[0] for size in sizes]
        ours = command(folder, Path(made) / "operators.zarr")
        after = [bare(encoder, 64, 4.0, size)[0] for size in sizes]
        paper = {
            how: command(
                folder, Path(made) / f"{how}.zarr", "--recipe", "paper", "--shard", f"1/{PART}", "--compile", how
            )
            for how in ("yes", "no")
        }
    augmented, plain = ((x + y) / 2 for x, y in zip(before, after, strict=True))
    alone = ours["tiles"] / ((ours["tiles"] - ours["read"]) / augmented + ours["read"] / plain)
    whole = encodings_of_tiles(counts, augmentations=PAPER_AUGMENTATIONS, draws=PAPER_DRAWS) + int(counts.sum())
    print(f"operators: {ours['tiles']} encodings in {ours['seconds']:.0f} s, {ours['rate']:.0f} a second, "
          f"{ours['rate'] / alone:.2f} of the bare encoder")  # fmt: skip
    for how, part in paper.items():
        seconds = part["seconds"] + (whole - part["tiles"]) / part["rate"]
        print(f"the paper's bank, --compile {how}: {whole} encodings in {seconds:.0f} s by a {PART}th of its slides, "
              f"{seconds / ours['seconds']:.1f} times as long")  # fmt: skip


def command(folder: Path, store: Path, *options: str) -> dict[str, Any]:
    """The summary of `giga bank` in a process of its own."""
    left_out = shutil.ignore_patterns("banks", "features", "models", "embeddings")
    shutil.copytree(folder / "cohort.zarr", store, ignore=left_out)
    call = [sys.executable, "-m", "gigacli", "bank", str(store), "--encoder", "moco", "--json", *options]
    done: dict[str, Any] = json.loads(subprocess.run(call, stdout=subprocess.PIPE, check=True).stdout)
    return done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("learn", "bank"))
    parser.add_argument("folder", type=Path, nargs="?")
    options = parser.parse_args()
    learn() if options.what == "learn" else bank(options.folder)
