"""Seconds that `giga tile` takes per slide, split into its parts, beside the bare decoding of the same pixels.

    OMP_NUM_THREADS=1 python benchmarks/tile.py CACHE_FOLDER [SLIDE ...]

Makes a slide of 100,000 x 70,000 px at 0.25 microns in three pyramids (levels down to 16, to 8, and from 16 straight
to 4 microns) in the cache folder, once: a few distinct JPEG tiles that all directories share, so each file has 1 to 2
MB and costs as much to decode as a real one. Times are medians of processor time of one thread, which other programs on
the machine disturb less than the clock. "decode" reads the same region of the same level with OpenSlide alone. With
--hs2p PYTHON, hs2p tiles the same slides (`pip install "hs2p[openslide]"`, best in an environment of its own).
"""

from __future__ import annotations

import argparse
import io
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import openslide
from PIL import Image

from gigacli.cohort.discovery import find_slides
from gigacli.demo.draw import LABS, draw_slide
from gigacli.errors import GigaError
from gigacli.store.store import Store
from gigacli.wsi.grid import tile_grid, tissue_fraction
from gigacli.wsi.resolution import resolve_mpp
from gigacli.wsi.slide import Slide
from gigacli.wsi.tissue import MASK_MPP, tissue_mask

SIZE_PX, MPP, TILE_PX = (100_000, 70_000), 0.25, 256
PYRAMIDS = {"to-16um": (1, 2, 4, 8, 16, 32, 64), "to-8um": (1, 4, 16, 32), "16-and-4um": (1, 4, 16, 64)}
PARTS = ("open", "thumbnail", "mask", "grid", "write")

HS2P = """
import os, sys, time
os.environ['OPENCV_FOR_THREADS_NUM'] = '1'
started = time.perf_counter()
from hs2p import SegmentationConfig, SlideSpec, TilingConfig, tile_slide
from pathlib import Path
import cv2
cv2.setNumThreads(1)
startup = time.perf_counter() - started
def run():
    started = time.process_time()
    tile = {"requested_tile_size_px": 256, "tolerance": 0.07, "overlap": 0.0}
    config = TilingConfig(backend="openslide", requested_spacing_um=1.0, **tile)
    slide = SlideSpec(sample_id="s", image_path=Path(sys.argv[1]), spacing_at_level_0=float(sys.argv[2]))
    result = tile_slide(slide, tiling=config, segmentation=SegmentationConfig(method="hsv", downsample=64))
    return time.process_time() - started, len(result.x)
runs = [run() for _ in range(5)]
print(startup, sorted(r[0] for r in runs)[2], runs[0][1])
"""


def make_slide(path: Path, downsamples: tuple[int, ...]) -> None:
    """A pyramid of SIZE_PX whose levels show drawn tissue and glass, a third of it tissue."""
    rng = np.random.default_rng(0)
    image = draw_slide(rng, label="solid", lab=LABS[0], size_px=(4096, 3072), mpp=2.0).image
    with path.open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, 0))
        tiles = []
        for y in range(0, image.shape[0] - TILE_PX + 1, TILE_PX):
            for x in range(0, image.shape[1] - TILE_PX + 1, TILE_PX):
                buffer = io.BytesIO()
                Image.fromarray(image[y : y + TILE_PX, x : x + TILE_PX]).save(buffer, "JPEG", quality=85)
                tiles.append((file.tell(), file.write(buffer.getvalue())))
        columns, rows = image.shape[1] // TILE_PX, image.shape[0] // TILE_PX
        pointer = 4
        for level, downsample in enumerate(downsamples):
            width, height = (side // downsample for side in SIZE_PX)
            across, down = -(-width // TILE_PX), -(-height // TILE_PX)
            placed = [tiles[y % rows * columns + x % columns] for y in range(down) for x in range(across)]
            pointer = write_level(file, pointer, (width, height), placed, reduced=level > 0)


def write_level(
    file: io.BufferedWriter, pointer: int, size: tuple[int, int], tiles: list[tuple[int, int]], *, reduced: bool
) -> int:
    """Append a TIFF directory of JPEG tiles that stand in the file already; return where the next one is linked."""
    file.write(b"\0" * (file.tell() % 2))
    arrays = file.tell()
    file.write(struct.pack(f"<{len(tiles)}I", *(t[0] for t in tiles)))
    file.write(struct.pack(f"<{len(tiles)}I", *(t[1] for t in tiles)))
    bits = file.tell()
    file.write(struct.pack("<3HHII", 8, 8, 8, 0, int(10_000 / MPP), 1))
    start, short, long = file.tell(), 3, 4
    two = struct.unpack("<I", struct.pack("<2H", 2, 2))[0]  # chrominance at half the resolution
    entries = [(254, long, 1, int(reduced)), (256, long, 1, size[0]), (257, long, 1, size[1]), (258, short, 3, bits)]
    entries += [
        (259, short, 1, 7),
        (262, short, 1, 6),
        (277, short, 1, 3),
        (282, 5, 1, bits + 8),
        (283, 5, 1, bits + 8),
    ]
    entries += [(284, short, 1, 1), (296, short, 1, 3), (322, long, 1, TILE_PX), (323, long, 1, TILE_PX)]
    entries += [(324, long, len(tiles), arrays), (325, long, len(tiles), arrays + 4 * len(tiles)), (530, short, 2, two)]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    file.write(struct.pack("<H", len(entries)) + packed + struct.pack("<I", 0))
    file.seek(pointer)
    file.write(struct.pack("<I", start))
    file.seek(0, io.SEEK_END)
    return start + 2 + len(packed)


def tile_once(path: Path, mpp: float, store: Store) -> tuple[dict[str, float], float, int]:
    """Seconds of each part, seconds of decoding alone, and tiles found."""
    clock = [time.thread_time()]

    def lap() -> float:
        clock.append(time.thread_time())
        return clock[-1] - clock[-2]

    spent = {}
    grid = {"mpp": 1.0, "tile_px": 256, "slide_mpp": mpp}
    with Slide(path, mpp=mpp) as slide:
        spent["open"] = lap()
        thumbnail = slide.thumbnail(MASK_MPP)
        spent["thumbnail"] = lap()
        mask = tissue_mask(thumbnail)
        spent["mask"] = lap()
        coords = tile_grid(slide.size_px, bounds_px=slide.bounds_px, **grid)
        share = tissue_fraction(mask, coords, mask_mpp=MASK_MPP, origin_px=slide.bounds_px[:2], **grid)
        keep = share >= 0.5
        spent["grid"] = lap()
        store.root["coords"][0, : keep.sum()] = coords[keep]
        store.root["tissue"][0, : keep.sum()] = share[keep]
        spent["write"] = lap()
        level = slide._level(MASK_MPP)  # the library shows its levels to nobody else
        bounds = slide.bounds_px
    with openslide.OpenSlide(path) as handle:
        downsample = handle.level_downsamples[level]
        size = [min(round(b / downsample), s) for b, s in zip(bounds[2:], handle.level_dimensions[level], strict=True)]
        lap()
        handle.read_region(bounds[:2], level, (size[0], size[1]))
        return spent, lap(), int(keep.sum())


def measure(name: str, path: Path, mpp: float, args: argparse.Namespace) -> None:
    """Print one line of the table."""
    runs = []
    for _ in range(args.runs):
        with tempfile.TemporaryDirectory(dir=args.cache) as folder:
            store = Store.create(str(Path(folder) / "store.zarr"))
            store.root.create_array("coords", shape=(1, 400_000, 2), dtype="int32", fill_value=-1)
            store.root.create_array("tissue", shape=(1, 400_000), dtype="float32", fill_value=0)
            runs.append(tile_once(path, mpp, store))
    parts = {part: median(run[0][part] for run in runs) for part in PARTS}
    decode, total = median(run[1] for run in runs), sum(parts.values())
    cells = " ".join(f"{parts[part]:9.3f}" for part in PARTS)
    print(f"{name[:34]:34} {cells} {total:9.3f} {decode:9.3f} {decode / total:8.0%} {runs[0][2]:8}", flush=True)
    if args.hs2p:
        command = [args.hs2p, "-W", "ignore", "-c", HS2P, str(path), str(mpp)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = (found.stdout if found.returncode == 0 else found.stderr).strip().splitlines()
        print(f"{'  hs2p: start-up, slide, tiles':34} {lines[-1] if lines else 'nothing'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds that giga tile takes per slide.")
    parser.add_argument("cache", type=Path, help="folder for the synthetic slides; made if missing")
    parser.add_argument("slides", type=Path, nargs="*", help="real slides or folders; ../shared/slides by default")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--hs2p", metavar="PYTHON", help="a Python that can import hs2p")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    print(f"{'seconds':34} " + " ".join(f"{p:>9}" for p in (*PARTS, "total", "decode")) + "    share    tiles")
    for name, downsamples in PYRAMIDS.items():
        path = args.cache / f"synthetic-{name}.tif"
        if not path.exists():
            make_slide(path, downsamples)
        measure(path.name, path, MPP, args)
    beside = Path(__file__).parents[1].parent / "shared" / "slides"
    for path in find_slides(args.slides or ([beside] if beside.is_dir() else [])):
        try:
            with Slide(path) as slide:
                mpp = resolve_mpp(slide.properties).mpp
            measure(path.name, path, mpp, args)
        except GigaError as error:
            print(f"{path.name[:34]:34} {error.message}")


if __name__ == "__main__":
    main()
