"""What `giga bank` waits for the disk: seconds with and without, in turn, fsyncs of a slide, and the time in them.

    python benchmarks/sync.py FOLDER [--slides 3] [--augmentations 50] [--draws 256] [--repeats 3] [--instant]

Draws slides in FOLDER, once, and tiles them: take a folder on the disk that is asked about, not one in memory. Then
banks of random-resnet18, with --sync and with --no-sync by turns, each on a copy of the store. --instant takes an
encoder that answers at once: what is left is reading, augmenting and writing, of which the wait is the largest share it
can ever be.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path
from statistics import median
from threading import Lock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as giga sets it: waiting threads must not look busy

import torch

import gigacli as giga
from gigacli.demo.cohort import write_cohort
from gigacli.nn.frozen import FrozenTileEncoder
from gigacli.store import durable

LIMIT = 0.02
"""Of the seconds of a bank."""


class Meter:
    """Counts waits, and the seconds in which a thread, or several, waited."""

    def __init__(self) -> None:
        self.waits, self.seconds, self._wait = 0, 0.0, durable.to_disk
        self._waiting, self._since, self._lock = 0, 0.0, Lock()

    def __call__(self, descriptor: int) -> None:
        """Wait for a file or folder."""
        self._count(1)
        try:
            self._wait(descriptor)
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        with self._lock:
            now = time.perf_counter()
            if self._waiting:
                self.seconds += now - self._since
            self._waiting, self._since = self._waiting + more, now
            self.waits += more > 0


def cohort(folder: Path, slides: int) -> Path:
    """A store of large drawn slides with tiles."""
    drawn = write_cohort(folder, slides=max(8, slides), patients=8, labs=2, seed=1, size_px=(16384, 12288))
    store = folder / "cohort.zarr"
    giga.tile(store, sorted(drawn.slides.glob("*.tif"))[:slides], mpp=1.0, tile_px=256)
    return store


def instant(_: FrozenTileEncoder, images: torch.Tensor) -> torch.Tensor:
    """Vectors (tile, 256) of images, at once."""
    return images[:, :1, 0, 0].float().repeat(1, 256)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=3)
    parser.add_argument("--augmentations", type=int, default=50)
    parser.add_argument("--draws", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--instant", action="store_true")
    options = parser.parse_args()
    if options.instant:
        FrozenTileEncoder.__call__ = instant  # type: ignore[method-assign]
    store, copy = cohort(options.folder, options.slides), options.folder / "copy.zarr"
    seconds: dict[bool, list[float]] = {True: [], False: []}
    meters = []
    for repeat in range(options.repeats):
        for sync in (True, False) if repeat % 2 else (False, True):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(store, copy)
            os.sync()  # what was written before is not waited for here
            durable.to_disk = meter = Meter()  # type: ignore[assignment]
            done = giga.bank(
                copy,
                encoder="random-resnet18",
                augmentations=options.augmentations,
                draws=options.draws,
                compile="no",
                device=options.device,
                sync=sync,
            )
            durable.to_disk = meter._wait
            seconds[sync].append(done.seconds)
            said = f"{done.seconds:8.2f} s, {meter.seconds:.3f} s in {meter.waits} waits"
            print(f"{'--sync' if sync else '--no-sync':9} {said}", flush=True)
            if sync:
                meters.append(meter)
    shutil.rmtree(copy)
    whole, without = median(seconds[True]), median(seconds[False])
    waited = median(meter.seconds for meter in meters)
    print(f"{meters[0].waits / options.slides:.1f} waits a slide, {1000 * waited / options.slides:.1f} ms in them")
    print(f"ratio {whole / without:.4f}; in waits {100 * waited / whole:.2f} % of the time (limit {100 * LIMIT:g} %)")


if __name__ == "__main__":
    main()
