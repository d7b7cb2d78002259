"""Memory, open files and time of one ``giga tile`` and one ``giga bank`` over many tiny slides.

python benchmarks/tile_many.py FOLDER [--slides 5000] [--no-bank]

Draws a few tiny slides into FOLDER, links them under as many names as asked for, tiles them in one process, makes a
bank of two augmentations, and prints resident memory, open files and seconds after every tenth of the slides. Memory
must be flat: between the second tenth and the last one it may grow by a tenth.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

import gigacli as giga
from gigacli.demo.cohort import write_cohort


class Meter:
    """Samples the process as slides get done."""

    def __init__(self, every: int) -> None:
        self.every, self.done = every, 0
        self.started = time.monotonic()
        self.mib: list[float] = []

    def start(self, what: str, total: int, *, done: int = 0) -> None:
        """A task begins."""
        print(f"{what} ({total}) at {time.monotonic() - self.started:.1f} s")
        self.done, self.mib = 0, []

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """A slide is done."""
        self.done += steps
        if self.done % self.every == 0:
            pages, files = (
                int(Path("/proc/self/statm").read_text().split()[1]),
                len(list(Path("/proc/self/fd").iterdir())),
            )
            rss = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            self.mib.append(rss)
            print(f"{self.done:7d} slides {rss:8.1f} MiB {files:5d} files {time.monotonic() - self.started:8.1f} s")

    @property
    def flat(self) -> bool:
        """Whether memory stayed what it was once the work was under way."""
        return self.mib[-1] <= 1.1 * self.mib[min(1, len(self.mib) - 1)]

    def say(self, message: str) -> None:
        """Something worth a line."""
        print(message)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=5000)
    parser.add_argument("--no-bank", action="store_true")
    options = parser.parse_args()
    drawn = write_cohort(options.folder / "drawn", slides=8, patients=4, labs=2, size_px=(1536, 1152))
    originals = sorted(drawn.slides.glob("*.tif"))
    many = options.folder / "many"
    shutil.rmtree(many, ignore_errors=True)
    shutil.rmtree(options.folder / "many.zarr", ignore_errors=True)
    many.mkdir()
    for i in range(options.slides):
        os.link(originals[i % len(originals)], many / f"slide_{i:05d}.tif")
    store, meter = options.folder / "many.zarr", Meter(max(1, options.slides // 10))
    tiled = giga.tile(store, many, mpp=1.0, tile_px=64, progress=meter)
    print(tiled.slides, "slides,", tiled.tiles, "tiles,", f"{tiled.seconds:.1f} s; memory flat: {meter.flat}")
    if options.no_bank:
        return
    meter = Meter(max(1, options.slides // 10))
    bank = giga.bank(store, encoder="random-resnet18", augmentations=2, draws=4, progress=meter)
    print(
        bank.done, "slides in the bank,", bank.tiles, "encodings,", f"{bank.seconds:.1f} s; memory flat: {meter.flat}"
    )


if __name__ == "__main__":
    main()
