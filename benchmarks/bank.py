"""Tiles per second of `giga bank` over those of its encoder on random tensors, in one run; and what else it costs.

    python benchmarks/bank.py CACHE_FOLDER [--device auto] [--slides 4] [--augmentations 8] [--draws 256]

Draws a cohort of slides in the cache folder, once, and tiles it. Then, in this order: the bare encoder, the whole
command as a user starts it (a process of its own, start-up, compiling and all), the bare encoder again. "Steady"
leaves out the start-up and the compiling, which a cohort pays once. The plain loop is what the bank replaces: every
drawn tile read from the slide where it is needed, kornia, float32, no folding, in a process that does nothing else.
--memory runs the command on one slide of 100,000 overlapping tiles with an encoder that answers at once, and reports
its peak memory: everything but the encoder's own activations.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as giga sets it: waiting threads must not look busy

import numpy as np
import torch

import gigacli as giga
from gigacli.demo.cohort import write_cohort
from gigacli.nn.augment import SHARED, augment, draw_augmentation, fold, output_px
from gigacli.nn.device import pick_device, pick_precision
from gigacli.nn.frozen import FrozenTileEncoder, can_compile
from gigacli.nn.tile_encoder import random_resnet18
from gigacli.stages.bank import BATCH_SIZE
from gigacli.wsi.slide import Slide

TILE_PX = 256
PAPER = {"slides": 11_754, "augmentations": 50, "draws": 256, "tiles": 1_000}

IN_A_PROCESS = """
import atexit, re, sys
from gigacli.nn.frozen import FrozenTileEncoder
def peak():  # not getrusage's, which begins with that of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**20
atexit.register(lambda: print(peak(), file=open(sys.argv[2], "w")))
if sys.argv[1] == "instant":
    FrozenTileEncoder.__call__ = lambda self, images: images[:, :1, 0, 0].float().repeat(1, self.features)
import gigacli.cli.verbs
from gigacli.cli.command import run_command
sys.exit(run_command(sys.argv[3:]))
"""


def cohort(folder: Path, slides: int) -> Path:
    drawn = write_cohort(folder, slides=max(8, slides), patients=8, labs=2, seed=1, size_px=(16384, 12288))
    store = folder / "cohort.zarr"
    giga.tile(store, sorted(drawn.slides.glob("*.tif"))[:slides], mpp=1.0, tile_px=TILE_PX)
    return store


def bare(encoder: FrozenTileEncoder, size: int, seconds: float, px: int) -> tuple[float, float]:
    """Tiles per second of the encoder on random tensors of the type it computes in, and processor seconds per tile."""
    images = torch.rand(size, 3, px, px).to(encoder.device, encoder.dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    for _ in range(2):
        encoder(images)
    times, stop, busy = [], time.monotonic() + seconds, time.process_time()
    while time.monotonic() < stop:
        started = time.perf_counter()
        encoder(images)
        if encoder.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return size / median(times), (time.process_time() - busy) / (size * len(times))


def augmentation(device: torch.device, size: int, dtype: torch.dtype, *, stain: float = 0.0) -> float:
    """Tiles per second of the augmentation alone, a view of 256 tiles at a time."""
    strengths = replace(SHARED, stain=stain)
    tiles = torch.randint(0, 256, (256, 3, TILE_PX, TILE_PX), dtype=torch.uint8).to(device)
    px = output_px(TILE_PX)
    out = torch.empty((size, 3, px, px), dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
    rng, times = np.random.default_rng(0), []
    for _ in range(12):
        started = time.perf_counter()
        drawn = draw_augmentation(rng, 1, tile_px=TILE_PX, strengths=strengths)
        sets = fold(drawn, tile_px=TILE_PX, out_px=px, device=device)
        for first in range(0, 256, size):
            augment(tiles[first : first + size], sets, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 256 / median(times)


def command(store: Path, encoder: str, *arguments: str) -> tuple[dict[str, float], float, float]:
    """Summary of `giga bank` in a process of its own, the process's seconds and its peak memory in GiB."""
    started = time.perf_counter()
    peak = store.parent / "peak.txt"
    call = [
        sys.executable,
        "-c",
        IN_A_PROCESS,
        encoder,
        str(peak),
        "bank",
        str(store),
        "--encoder",
        "random-resnet18",
        "--json",
    ]
    done = subprocess.run([*call, *arguments], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout), time.perf_counter() - started, float(peak.read_text())


def plain_loop(store: Path, draws: int, views: int) -> float:
    """Tiles per second of one random read, kornia and float32 per tile."""
    import kornia.augmentation as K

    chain = K.AugmentationSequential(
        K.RandomResizedCrop((224, 224), scale=(0.5, 1.0)),
        K.RandomHorizontalFlip(),
        K.RandomVerticalFlip(),
        K.ColorJitter(0.4, 0.4, 0.4, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((5, 5), (0.1, 1.0), p=0.5),
        same_on_batch=True,
    )
    opened = giga.open(store)
    network, row = random_resnet18(0).eval(), opened.slides[0]
    coords = opened.array("tiles/coords")[0, : int(opened.array("tiles/count")[0])]
    rng, started = np.random.default_rng(0), time.perf_counter()
    with Slide(row.path, mpp=row.mpp) as slide, torch.inference_mode():
        for _ in range(views):
            chosen = coords[rng.integers(0, len(coords), draws)]
            tiles = np.stack([slide.read(int(x), int(y), tile_px=TILE_PX, mpp=1.0) for x, y in chosen])
            network.tile_features(chain(torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255))
    return views * draws / (time.perf_counter() - started)


def memory(folder: Path) -> None:
    store = folder / "large.zarr"
    slide = sorted((folder / "slides").glob("*.tif"))[0]
    shutil.rmtree(store, ignore_errors=True)
    tiled = giga.tile(store, [slide], mpp=1.0, tile_px=TILE_PX, overlap=TILE_PX - 11, min_tissue=0.3)
    summary, seconds, peak = command(store, "instant", "--augmentations", "50", "--draws", "256", "--compile", "no")
    print(f"{tiled.tiles} tiles of one slide: {seconds:.0f} s, {summary['tiles']} encodings, peak {peak:.2f} GiB")


def report(arguments: argparse.Namespace) -> None:
    store = cohort(arguments.cache, arguments.slides)
    device = pick_device(arguments.device)
    precision = pick_precision("auto", device)
    size = BATCH_SIZE[device.type]
    compiled = can_compile(device)
    encoder = FrozenTileEncoder(random_resnet18(0), device=device, precision=precision, compiled=compiled)
    eager = FrozenTileEncoder(random_resnet18(0), device=device, precision=precision)
    print(f"{device}, {torch.get_num_threads()} threads, {precision}, compiled {compiled}, batches of {size}")
    augmented, plain = output_px(TILE_PX), TILE_PX  # un-augmented tiles are encoded whole: larger images
    before = [bare(encoder, size, arguments.seconds, px) for px in (augmented, plain)]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary, seconds, peak = command(
        store, "resnet18", "--augmentations", str(arguments.augmentations), "--draws", str(arguments.draws),
        "--name", f"bench-{time.time_ns()}", "--compile", "yes" if compiled else "no", "--device", str(device),
    )  # fmt: skip
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    after = [bare(encoder, size, arguments.seconds, px) for px in (augmented, plain)]
    made, read = summary["tiles"], summary["read"]
    rates = [(x[0] + y[0]) / 2 for x, y in zip(before, after, strict=True)]
    each = [(x[1] + y[1]) / 2 for x, y in zip(before, after, strict=True)]
    bare_busy = (made - read) * each[0] + read * each[1]
    rate = made / ((made - read) / rates[0] + read / rates[1])  # of the same images
    alone, stained = (augmentation(device, size, encoder.dtype, stain=s) for s in (0.0, 0.1))
    print(f"bare encoder {before[0][0]:.0f} and {after[0][0]:.0f} tiles/s at {augmented} px, {before[1][0]:.0f} and "
          f"{after[1][0]:.0f} at {plain} px; not compiled {bare(eager, size, arguments.seconds, augmented)[0]:.0f} at "
          f"{augmented} px")  # fmt: skip
    print(f"giga bank {made} encodings in {seconds:.1f} s as a process: {made / seconds:.0f} tiles/s, "
          f"{made / seconds / rate:.3f} of the bare encoder")  # fmt: skip
    print(f"steady {summary['rate']:.0f} tiles/s, {summary['rate'] / rate:.3f} of the bare encoder; "
          f"waited for tiles {summary['waited']:.1%} of the time")  # fmt: skip
    if device.type == "cpu":
        print(f"processor seconds: {busy:.0f}, the bare encoder's for as many images {bare_busy:.0f}: "
              f"{bare_busy / busy:.3f}, start-up and compiling included")  # fmt: skip
    for name, speed in (("alone", alone), ("with a jitter of stains", stained)):
        print(f"augmentation {name} {speed:.0f} tiles/s: {rates[0] / speed:.3f} of the encoder's time")
    print(f"distinct tiles read {read}, {read / made:.3f} of the encodings; peak memory {peak:.2f} GiB")
    loop = plain_loop(store, 64, 3)
    print(f"plain loop {loop:.1f} tiles/s: the bank is {summary['rate'] / loop:.1f} times as fast")
    distinct = PAPER["tiles"] * (1 - (1 - 1 / PAPER["tiles"]) ** PAPER["draws"])  # of a view: the others are copies
    work = PAPER["slides"] * (PAPER["augmentations"] * distinct + PAPER["tiles"])
    hours = work / summary["rate"] / 3600
    print(f"11,754 slides of 1,000 tiles, 50 x 256 draws: {work / 1e6:.0f} million encodings, {hours:.0f} hours here")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--slides", type=int, default=4)
    parser.add_argument("--augmentations", type=int, default=8)
    parser.add_argument("--draws", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--memory", action="store_true")
    chosen = parser.parse_args()
    if chosen.memory:
        cohort(chosen.cache, chosen.slides)
        memory(chosen.cache)
    else:
        report(chosen)
