"""Images per second of `giga pretrain-tiles` over those of its two encoders on random tensors, in one run.

    python benchmarks/pretrain.py FOLDER [--device auto] [--tile-px 256] [--steps 12] [--batch-size 64] [--epochs 3]

Draws a cohort in FOLDER, once, and tiles it. Then, by turns, so that a busy machine slows both: the bare encoders
(forward and backward of the query encoder, forward of the key encoder, in the precision and layout of the command, no
optimiser) and the whole command as a user calls it, epoch by epoch. The first epoch is preceded by reading the slides;
the later ones decode tiles from the cache. What it would take for the paper's 6 million tiles x 200 epochs follows from
both, for this machine and, from --gpu-images-per-second (measured where CUDA is there), for one GPU and for eight.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as giga sets it: waiting threads must not look busy

import numpy as np
import torch

import gigacli as giga
from gigacli.demo.cohort import write_cohort
from gigacli.nn.augment import MOCO, augment, draw_augmentation, fold, output_px
from gigacli.nn.device import pick_device, pick_precision
from gigacli.nn.tile_encoder import random_resnet18
from gigacli.wsi.tile_cache import decode, encode

PAPER_TILES, PAPER_EPOCHS = 6_000_000, 200
EIGHT_GPUS = 0.85
"""Assumed share of eight times one GPU."""


def cohort(folder: Path, tile_px: int, size_px: tuple[int, int]) -> Path:
    drawn = write_cohort(folder, slides=8, patients=8, labs=2, seed=1, size_px=size_px)
    store = folder / f"cohort-{tile_px}.zarr"
    giga.tile(store, sorted(drawn.slides.glob("*.tif")), mpp=1.0, tile_px=tile_px)
    return store


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def bare(device: torch.device, precision: str, batch: int, px: int, steps: int) -> float:
    """Images per second of the two encoders on random tensors."""
    query, key = (random_resnet18(s).to(device).to(memory_format=torch.channels_last).train() for s in (0, 1))
    half = precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    views = [torch.rand(batch, 3, px, px, device=device, dtype=dtype) for _ in range(2)]
    views = [view.contiguous(memory_format=torch.channels_last) for view in views]
    times = []
    for _ in range(steps + 2):
        synchronise(device)
        started = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            loss = query(views[0]).float().square().mean()
            with torch.no_grad():
                key(views[1])
        query.zero_grad(set_to_none=True)
        loss.backward()
        synchronise(device)
        times.append(time.perf_counter() - started)
    return batch / median(times[2:])


def parts(device: torch.device, tile_px: int, batch: int) -> None:
    """What a batch costs beside the encoders."""
    rng, px = np.random.default_rng(0), output_px(tile_px)
    smooth = torch.rand(batch, 3, 8, 8)
    tiles = (torch.nn.functional.interpolate(smooth, size=(tile_px, tile_px), mode="bilinear") * 255).byte()
    kept = [encode(tile.permute(1, 2, 0).numpy()) for tile in tiles]
    images = tiles.to(device)
    out = torch.empty((batch, 3, px, px), dtype=torch.bfloat16, device=device).contiguous(
        memory_format=torch.channels_last
    )
    took: dict[str, list[float]] = {"decoding": [], "matrices": [], "augmenting": []}
    for _ in range(5):
        at = [time.perf_counter()]
        for data in kept:
            decode(data)
        at.append(time.perf_counter())
        for _view in range(2):
            sets = draw_augmentation(rng, batch, tile_px=tile_px, strengths=MOCO)
            folded = fold(sets, tile_px=tile_px, out_px=px, device=device)
        synchronise(device)
        at.append(time.perf_counter())
        for _view in range(2):
            augment(images, folded, out=out)
        synchronise(device)
        at.append(time.perf_counter())
        for name, seconds in zip(took, np.diff(at), strict=True):
            took[name].append(seconds)
    each = " ".join(f"{name} {1000 * median(seconds) / batch:.2f}" for name, seconds in took.items())
    print(f"milliseconds an image beside the encoders, one after the other: {each}")


def training(
    folder: Path, store: Path, options: argparse.Namespace, device: torch.device, precision: str
) -> dict[str, float]:
    """The command, with its cache empty at first; images per second of every epoch."""
    cache = folder / "tiles"
    shutil.rmtree(cache, ignore_errors=True)
    name = f"bench-{time.time_ns()}"
    settings = {
        "max_tiles": options.steps * options.batch_size,
        "batch_size": options.batch_size,
        "cache": cache,
        "device": str(device),
        "precision": precision,
    }
    started = time.perf_counter()
    summary = giga.pretrain_tiles(store, name=name, epochs=options.epochs, **settings)
    whole = time.perf_counter() - started
    speed = giga.open(store).array(f"encoders/{name}/history/per_second")[:]
    waiting = giga.open(store).array(f"encoders/{name}/history/waiting")[:]
    epochs = summary.tiles / speed
    kept = sum(p.stat().st_size for p in cache.iterdir())
    read = max(1e-9, whole - float(epochs.sum()))
    print(f"{summary.tiles} tiles of {summary.slides} slides: reading and starting {read:.1f} s; epochs of "
          f"{', '.join(f'{s:.1f}' for s in epochs)} s; waited {', '.join(f'{100 * w:.0f} %' for w in waiting)}; "
          f"cache {kept / summary.tiles / 1024:.1f} KiB a tile")  # fmt: skip
    return {"speed": float(median(speed[1:])), "read": summary.tiles / read, "kept": kept / summary.tiles}


def extrapolate(found: dict[str, float], gpu: float | None, device: torch.device) -> None:
    """The paper's training."""
    disk, work = PAPER_TILES * found["kept"] / 1e9, PAPER_TILES * PAPER_EPOCHS
    cores = len(os.sched_getaffinity(0))
    print(f"6 million tiles x 200 epochs: {disk:.0f} GB of cache, read once in "
          f"{PAPER_TILES / found['read'] / 3600:.1f} h with {cores} cores")  # fmt: skip
    rows = [(f"{cores} cores", found["speed"])] if device.type == "cpu" else []
    gpu = found["speed"] if device.type == "cuda" else gpu
    if gpu:
        rows += [("1 GPU", gpu), (f"8 GPUs (at {EIGHT_GPUS:.0%} of eight times one)", 8 * EIGHT_GPUS * gpu)]
    for name, speed in rows:
        print(f"  {name}: {work / speed / 86400:.1f} days at {speed:.0f} images/s; "
              f"decoding {speed * 0.5e-3:.1f} cores")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tile-px", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size-px", type=int, nargs=2, default=(8192, 6144), help="of the slides that are drawn")
    parser.add_argument("--gpu-images-per-second", type=float)
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs must be 2 or more: the first is compared with the later ones")
    device = pick_device(options.device)
    precision = pick_precision("auto", device)
    print(f"{device}, {torch.get_num_threads()} threads, {precision}, batches of {options.batch_size}")
    store, px = cohort(options.folder, options.tile_px, tuple(options.size_px)), output_px(options.tile_px)
    parts(device, options.tile_px, options.batch_size)
    steps = max(2, options.steps // 2)
    before = bare(device, precision, options.batch_size, px, steps)
    found = training(options.folder, store, options, device, precision)
    after = bare(device, precision, options.batch_size, px, steps)
    rate = (before + after) / 2
    print(f"bare encoders {before:.1f} and {after:.1f} images/s at {px} px; giga pretrain-tiles "
          f"{found['speed']:.1f} images/s: {found['speed'] / rate:.3f} of them")  # fmt: skip
    extrapolate(found, options.gpu_images_per_second, device)


if __name__ == "__main__":
    main()
