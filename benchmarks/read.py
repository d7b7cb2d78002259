"""Tiles per second and core: OpenSlide, giga, and the bare decoder over the same compressed tiles.

    OMP_NUM_THREADS=1 python benchmarks/read.py CACHE_FOLDER [SLIDE ...]

Reads tiles of 256 px of a synthetic 40x pyramid, made once in the cache folder, and of real slides, at each of their
levels and at 1 micron, on the grid of `giga tile` and on one moved by 100 pixels of the level, which cuts every tile of
the file four times. "bare" decodes each compressed tile under them once, from memory to one buffer; "differs" is the
largest and the mean difference between OpenSlide's pixels and giga's, in grey levels. Then `giga bank` with an encoder
that does nothing. Times are the best of several runs in processor time of one thread, which other programs on the
machine disturb less than the clock; those of `giga bank` are processor time of all its threads, and of the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor

import gigacli as giga
from benchmarks.tile import MPP, make_slide
from gigacli.errors import GigaError
from gigacli.stages import bank as bank_stage
from gigacli.wsi import slide as slide_module
from gigacli.wsi.grid import tile_grid
from gigacli.wsi.resolution import resolve_mpp
from gigacli.wsi.slide import Slide
from gigacli.wsi.tiff import JpegImage, jpeg_images

TILE_PX, MOST_TILES = 256, 300
BEFORE = 1500  # tiles read first where there are as many: reading is slower until memory has been used once
DOWNSAMPLES = (1, 4, 16, 32)  # of the synthetic slide, as an Aperio scanner makes them
HEAD = (
    f"{'slide':30} {'mpp':>6} {'grid':8} {'OpenSlide':>9} {'giga':>7} {'bare':>7} {'of bare':>8} {'times':>6}  differs"
)


class Constant:
    """Stands for a tile encoder of no cost."""

    device, dtype, features, input_px, fixed_batch = torch.device("cpu"), torch.float32, 8, None, False

    def __call__(self, images: Tensor) -> Tensor:
        """Nothing at all of each image."""
        return torch.zeros(len(images), self.features)


def best(work: Callable[[], float], *, runs: int) -> float:
    """The least of what several runs give."""
    return min(work() for _ in range(runs))


def read_all(path: Path, slide_mpp: float, coords: NDArray[np.int32], mpp: float, out: NDArray[np.uint8]) -> float:
    """Seconds of reading the last tiles into `out`, (n, 256, 256, 3); those before them fill what keeps tiles."""
    with Slide(path, mpp=slide_mpp) as slide:
        slide.decodes(mpp)  # which is decided once per slide
        for x, y in coords[: -len(out)].tolist():
            slide.read(x, y, tile_px=TILE_PX, mpp=mpp, out=out[0])
        coords = coords[-len(out) :]
        started = time.thread_time()
        for (x, y), tile in zip(coords.tolist(), out, strict=True):
            slide.read(x, y, tile_px=TILE_PX, mpp=mpp, out=tile)
        return time.thread_time() - started


def decode_all(parts: list[bytes], image: JpegImage) -> float:
    """Seconds of decoding JPEGs into one buffer."""
    out = np.empty((*image.tile_px[::-1], 3), np.uint8)
    started = time.thread_time()
    for part in parts:
        simplejpeg.decode_jpeg(part, buffer=out)
    return time.thread_time() - started


def under(image: JpegImage, coords: NDArray[np.int32], downsample: float, side: float) -> set[int]:
    """Numbers of the compressed tiles under tiles, whose `side` is given in pixels of the image."""
    across, numbers = -(-image.size_px[0] // image.tile_px[0]), set[int]()
    for x, y in coords / downsample:
        columns, rows = (
            range(int(c) // t, -(-int(np.ceil(min(c + side, whole) - 1e-6)) // t))
            for c, t, whole in zip((x, y), image.tile_px, image.size_px, strict=True)
        )
        numbers.update(row * across + column for row in rows for column in columns)
    return numbers


def compressed(path: Path, image: JpegImage, numbers: set[int]) -> list[bytes]:
    """Whole JPEGs of tiles by number."""
    content = path.read_bytes()
    parts = [content[image.offsets[i] : image.offsets[i] + image.counts[i]] for i in sorted(numbers)]
    return [b"\xff\xd8" + image.tables[2:-2] + part[2:] for part in parts]


def measure(path: Path, slide_mpp: float) -> None:
    """Print the lines of one slide."""
    with Slide(path, mpp=slide_mpp) as slide:
        levels, size_px = [(size, slide._downsamples(i)[0]) for i, (size, _) in enumerate(slide._levels)], slide.size_px
    images = jpeg_images(path)
    wanted = [slide_mpp * downsample for size, downsample in levels if min(size) > 2 * TILE_PX][:3]
    for mpp in [*wanted, *([1.0] if not np.isclose(wanted, 1.0, rtol=1e-6).any() and slide_mpp < 1 else [])]:
        with Slide(path, mpp=slide_mpp) as slide:
            size, downsample = levels[slide._level(mpp)]
            direct = slide.decodes(mpp)
        for grid, moved in (("on tiles", 0), ("moved", round(100 * downsample))):
            bounds = (moved, moved, size_px[0] - moved, size_px[1] - moved)
            coords = tile_grid(size_px, mpp=mpp, slide_mpp=slide_mpp, tile_px=TILE_PX, bounds_px=bounds)
            end = max(MOST_TILES, len(coords) // 2)
            before, coords = coords[max(0, end - BEFORE - MOST_TILES) : end], coords[max(0, end - MOST_TILES) : end]
            theirs, ours = (np.zeros((len(coords), TILE_PX, TILE_PX, 3), np.uint8) for _ in range(2))
            with patch.object(slide_module, "_DIRECT", ()):
                slow = best(partial(read_all, path, slide_mpp, before, mpp, theirs), runs=2)
            fast = best(partial(read_all, path, slide_mpp, before, mpp, ours), runs=5)
            differs = np.abs(ours.astype(np.int16) - theirs)
            line = f"{path.name[:30]:30} {mpp:6.3f} {grid:8} {len(coords) / slow:9.0f} {len(coords) / fast:7.0f}"
            if direct:
                (image,) = [image for image in images if image.size_px == size]
                side = TILE_PX * mpp / slide_mpp / downsample
                # those that were decoded for the tiles before are at hand
                new = under(image, coords, downsample, side) - under(image, before[: -len(coords)], downsample, side)
                parts = compressed(path, image, new)
                bare = best(partial(decode_all, parts, image), runs=5)
                line += f" {len(coords) / bare:7.0f} {bare / fast:8.2f}"
            else:
                line += f" {'-':>7} {'-':>8}"
            print(f"{line} {slow / fast:6.1f}  {differs.max()}, {differs.mean():.3f}", flush=True)


def feed(path: Path, folder: str, workers: int) -> None:
    """Print how many tiles a second `giga bank` gets where the encoder costs nothing."""
    seconds, work = [], bank_stage.work

    def constant(choice: Any, config: Any, *_: Any, **__: Any) -> tuple[Constant, Any]:
        return Constant(), config.but(precision="fp32", compile="no")

    def timed(*arguments: Any) -> Any:
        started = time.process_time()
        outcome = work(*arguments)
        seconds.append(time.process_time() - started)
        return outcome

    options: dict[str, Any] = {"encoder": "random-resnet18", "mode": "tiles", "augmentations": 1, "draws": 1}
    for name, formats in (("OpenSlide", ()), ("giga", slide_module._DIRECT)):
        store = Path(folder) / f"{name}-{workers}.zarr"
        giga.tile(store, path, mpp=1.0)
        with (
            patch.object(slide_module, "_DIRECT", formats),
            patch.multiple(bank_stage, make_encoder=constant, work=timed),
        ):
            made = giga.bank(store, workers=workers, **options)
        rates = f"{made.read / seconds[-1]:.0f} tiles/s and core, {made.rate:.0f} tiles/s"
        print(f"giga bank, {workers} reading threads, {name}: {rates}, waited {made.waited:.0%}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="folder for the synthetic slide; made if missing")
    parser.add_argument("slides", type=Path, nargs="*", help="real slides; ../shared/slides by default")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    synthetic = args.cache / "synthetic-40x.tif"
    if not synthetic.exists():
        make_slide(synthetic, DOWNSAMPLES)
    print(HEAD)
    measure(synthetic, MPP)
    beside = Path(__file__).parents[1].parent / "shared" / "slides"
    for path in args.slides or sorted(p for p in beside.glob("*") if p.is_file()):
        try:
            with Slide(path) as slide:
                mpp = resolve_mpp(slide.properties).mpp
            measure(path, mpp)
        except GigaError as error:
            print(f"{path.name[:30]:30} {error.message}")
    with tempfile.TemporaryDirectory(dir=args.cache) as folder:
        for workers in (1, 2):
            feed(synthetic, folder, workers)


if __name__ == "__main__":
    main()
