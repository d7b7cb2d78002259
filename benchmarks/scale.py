"""What every command costs on cohorts of growing size, and how fast that grows.

python benchmarks/scale.py [--slides 1000 10000] [--folder DIR] [--only info embed ...] [--packed] [--cold]

Writes simulated stores of so many slides (8 to 20 tiles of 32 features each, a bank of 4 augmentations by 8 draws):
everything that a cohort has after `giga bank`, with the files that the store's own classes write, chunk by chunk, but
written as files, some 40,000 a second; the first slides are compared with what those classes make of them. Then runs
each command in a process of its own, on two threads, and prints its seconds, its processor's seconds, its largest
resident memory and the files of the store; and from one size to the next the exponent of growth of the seconds, less
those of 16 slides, which is what starting takes. 1 is as much again for as many slides again.

`--packed` runs `giga pack` first and measures it, too. `--cold` drops the page cache before each command (as root),
and slows everybody on the machine. Stores are kept in DIR and made once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import Process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs import Zstd

sys.path.insert(0, str(Path(__file__).parents[1]))

from gigacli.randomness import keyed_rng
from gigacli.store.identity import ALL, identity_of
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILES, WIDTH, TYPES = (8, 20), 32, 4
BANK = (4, 8)
MPP, TILE_PX, EDGE_PX = 0.5, 256, 512
NAME = "simulated"
STARTED = 16
"""Slides of the store that says what starting takes."""
AT_ONCE = 2000
"""Slides that a process writes at once."""
COMPARED = 3
"""Slides whose files are compared with those that the store's own classes write."""
THREADS = 2


@dataclass(frozen=True)
class Simulated:
    """A slide and what is made of it."""

    coords: NDArray[np.int32]  # (n, 2)
    tissue: NDArray[np.float32]  # (n,)
    features: NDArray[np.float16]  # (n, WIDTH)
    bank: NDArray[np.float16]  # (*BANK, WIDTH)
    drawn: NDArray[np.int32]  # BANK, tile of each row of the bank

    @classmethod
    def of(cls, row: int) -> Simulated:
        """The slide in a row of the table. Odd rows hold more tiles of the first types: labels to probe."""
        rng, world = keyed_rng("scale", row), keyed_rng("scale")
        n = int(rng.integers(*TILES, endpoint=True))
        cells = rng.permutation(64)[:n]
        prototypes, stains = world.standard_normal((TYPES, WIDTH)), world.standard_normal((2, WIDTH))
        kind = np.minimum(rng.integers(0, TYPES, n), rng.integers(0, TYPES + 2 * (row % 2 == 0), n))
        plain = prototypes[kind] + rng.standard_normal((n, WIDTH)) + 0.5 * rng.standard_normal(2) @ stains
        drawn = rng.integers(0, n, BANK)
        bank = plain[drawn] + rng.standard_normal((BANK[0], 1, 2)) @ stains + 0.2 * rng.standard_normal((*BANK, WIDTH))
        return cls(
            (np.stack([cells % 8, cells // 8], axis=1) * EDGE_PX).astype(np.int32),
            rng.uniform(0.5, 1, n).astype(np.float32),
            plain.astype(np.float16),
            bank.astype(np.float16),
            drawn.astype(np.int32),
        )


def make(path: Path, slides: int) -> None:
    """Make the store of so many slides, where it is not there as a whole."""
    if Store.exists(path):
        store = Store.open(path)
        if store.registered == slides and store.progress().get(f"banks/{NAME}") == slides:
            return
        shutil.rmtree(path)
    store = Store.create(path, sync=False)
    rows = [
        SlideRow(
            id=f"s{i:06d}",
            path=f"/slides/s{i:06d}.svs",
            patient=f"p{i // 2:06d}",
            vendor=("aperio", "hamamatsu")[i % 3 == 0],
            size_px=(8 * EDGE_PX, 8 * EDGE_PX),
            mpp=MPP,
            mpp_source="openslide",
            file_bytes=10**9,
        )
        for i in range(slides)
    ]
    store.write_slides(SlideTable(tuple(rows)))
    _begin(store)
    blocks = [range(i, min(i + AT_ONCE, slides)) for i in range(0, slides, AT_ONCE)]
    writer = partial(_write, path, chunk_shapes(store))
    with ProcessPoolExecutor(THREADS) as pool:
        list(pool.map(writer, blocks))
    _check(store, path)


def _begin(store: Store) -> None:
    """Make the groups and their arrays."""
    config = {"mpp": MPP * EDGE_PX / TILE_PX, "tile_px": TILE_PX, "overlap": 0, "min_tissue": 0.5}
    store.tiles.begin(Recipe("tile", config, {}), TILES[1], redo=False)
    base = {"encoder": NAME, "precision": "fp32"}
    inputs = {"tiles": store.tiles.fingerprint, "encoder": "0" * 64}
    store.features(NAME).begin(Recipe("bank", base, inputs), WIDTH, redo=False)
    made = {**base, "mode": "tiles", "augmentations": BANK[0], "draws": BANK[1], "seed": 0}
    store.bank(NAME).begin(Recipe("bank", made, inputs), WIDTH, redo=False)


def chunk_shapes(store: Store) -> dict[str, tuple[int, ...]]:
    """The shape of a chunk of every array that has one a slide."""
    tiles, features, bank = store.tiles, store.features(NAME), store.bank(NAME)
    arrays = {f"{group.path}/{name}": group.array(name) for group, names in (
        (tiles, ("coords", "tissue", "identity", "count")), (features, ("vectors", "done")),
        (bank, ("vectors", "tile", "done")),
    ) for name in names}  # fmt: skip
    return {path: array.chunks for path, array in arrays.items()}


def _write(path: Path, shapes: dict[str, tuple[int, ...]], rows: range) -> None:
    """Write the chunks of some slides."""
    for row in rows:
        slide = Simulated.of(row)
        whole = identity_of(slide.coords, slide.tissue, mask=0, file=0)
        own, features, bank = int(whole[ALL]), f"features/{NAME}", f"banks/{NAME}"
        values: dict[str, tuple[Any, Any, bool]] = {  # values, what fills the chunk, whether it is compressed
            "tiles/coords": (slide.coords, np.int32(-1), True),
            "tiles/tissue": (slide.tissue, np.float32("nan"), True),
            "tiles/identity": (whole, np.int64(-1), False),
            "tiles/count": (np.array(len(slide.coords)), np.int32(-1), False),
            f"{features}/vectors": (slide.features, np.float16("nan"), False),
            f"{features}/done": (np.array(own), np.int64(-1), False),
            f"{bank}/vectors": (slide.bank, np.float16("nan"), False),
            f"{bank}/tile": (slide.drawn, np.int32(-1), True),
            f"{bank}/done": (np.array(own), np.int64(-1), False),
        }
        for array, (content, fill, packed) in values.items():
            shape = shapes[array]
            chunk = np.full(shape[1:], fill, dtype=fill.dtype)
            chunk[tuple(slice(0, n) for n in content.shape)] = content
            data = Zstd().encode(chunk.tobytes()) if packed else chunk.tobytes()
            file = path.joinpath(array, "c", str(row), *("0" for _ in shape[1:]))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data + google_crc32c.value(data).to_bytes(4, "little"))


def _check(store: Store, path: Path) -> None:
    """Hold the first slides against what the store's own classes write of them."""
    shapes = chunk_shapes(store)
    with tempfile.TemporaryDirectory() as folder:
        other = Store.create(Path(folder, "other.zarr"), sync=False)
        other.write_slides(SlideTable(store.slides.rows[:COMPARED]))
        _begin(other)
        every = np.ones(BANK, dtype=bool)
        for row in range(COMPARED):
            slide = Simulated.of(row)
            other.tiles.write(row, slide.coords, slide.tissue)
            other.features(NAME).write(row, slide.features)
            other.bank(NAME).write(row, slide.bank, slide.drawn, made=every)
            for array in shapes:
                name = Path(array, "c", str(row), *("0" for _ in shapes[array][1:]))
                assert (path / name).read_bytes() == Path(other.url, name).read_bytes(), name


def write_labels(path: Path, slides: int) -> None:
    """A table of one target that features tell, one that nothing tells, and a site."""
    rng = np.random.default_rng(0)
    chance = rng.integers(0, 2, slides).tolist()
    lines = ["slide_id,patient_id,mixture,nothing,lab"]
    lines += [f"s{i:06d},p{i // 2:06d},{'ab'[i % 2]},{'xy'[chance[i]]},lab{i // 2 % 7}" for i in range(slides)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def commands(store: Path, labels: Path, out: Path, *, packed: bool) -> dict[str, list[str]]:
    """Every command that is measured, in order."""
    url = str(store)
    train = ["train", url, "--bank", NAME, "--epochs", "1", "--redo", "--no-sync"]
    return {
        **({"pack": ["pack", url]} if packed else {}),
        "info": ["info", url],
        **{
            f"validate {level}": ["validate", url, "--level", level]
            for level in ("attributes", "hierarchy", "consistency", "values")
        },
        "train, an epoch": [*train, "--no-join", "--name", "alone"],
        "train, and the join": [*train, "--name", "giga"],
        "embed": ["embed", url, "--model", "giga", "--views", "50", "--redo"],
        "probe": ["probe", url, "--labels", str(labels), "--target", "mixture", "--embedding", "giga"],
        "report": ["report", url, "--labels", str(labels), "--target", "mixture", "--out", str(out / "report.html")],
        "export vectors": ["export", url, "embeddings/giga", "--to", str(out / "vectors.csv"), "--redo"],
        "export tiles": ["export", url, "tiles", "--to", str(out / "tiles"), "--redo"],
        "export features": ["export", url, f"features/{NAME}", "--to", str(out / "features"), "--redo"],
    }


def run(
    arguments: list[str], *, limit_s: float = 3600, cold: bool = False, own_bytes: int | None = None
) -> dict[str, Any]:
    """Run a command of giga in a process of its own: what it took.

    Args:
        arguments: Of the command line.
        limit_s: Seconds after which it is stopped.
        cold: Whether to drop the page cache first.
        own_bytes: The most memory it may have of its own, mapped files not counted.
    """
    if cold:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **threads}
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        line = [sys.executable, "-m", "gigacli", *arguments, "--json"]
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=said, env=environment)
        if own_bytes is not None:
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (own_bytes, own_bytes))
        status, most, own = None, 0.0, 0.0
        while status is None and time.perf_counter() - began < limit_s:
            most, own = (max(pair) for pair in zip((most, own), _megabytes(process.pid), strict=True))
            pid, code, used = os.wait4(process.pid, os.WNOHANG)
            status = code if pid else None
            time.sleep(0.02)
        if status is None:
            process.kill()
            _, _, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = status or 0
        said.seek(0)
        error = said.read().decode()[-500:] if status else ""
    return {
        "seconds": seconds,
        "cpu": used.ru_utime + used.ru_stime,
        "MB": most,
        "own": own,
        "stopped": status is None,
        "error": error,
    }


def _megabytes(pid: int) -> tuple[float, float]:
    """Memory of a process: the most that was resident so far, and what is now and is not of mapped files.

    What the system says when it ends counts the process that it was forked from.
    """
    with suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return tuple(int(text.split(f"{name}:")[1].split()[0]) / 1024 for name in ("VmHWM", "RssAnon"))
    return 0.0, 0.0


def said_of(name: str, took: dict[str, Any]) -> str:
    """A line of the table."""
    text = "STOPPED" if took["stopped"] else took["error"].strip().replace("\n", " ")
    sizes = f"{took['MB']:7.0f} MB, {took['own']:6.0f} its own"
    return f"  {name:22} {took['seconds']:8.1f} s {took['cpu']:8.1f} s CPU {sizes} {text}"


def files_of(folder: Path) -> int:
    """Files below a folder."""
    return sum(len(files) for _, _, files in os.walk(folder))


def measure(folder: Path, slides: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every command on a store of so many slides."""
    out, store, labels = folder / f"out-{slides}", folder / f"{slides}.zarr", folder / f"{slides}.csv"
    began = time.perf_counter()
    made = Process(target=make, args=(store, slides))  # which has it open no longer once it has ended
    made.start()
    made.join()
    if made.exitcode:
        raise SystemExit(f"{store} could not be made")
    write_labels(labels, slides)
    print(f"{slides} slides: made in {time.perf_counter() - began:.0f} s, {files_of(store):,} files", flush=True)
    found = {}
    for name, arguments in commands(store, labels, out, packed=options.packed).items():
        if options.only and name.split()[0].rstrip(",") not in options.only:
            continue
        out.mkdir(exist_ok=True)
        found[name] = took = run(arguments, limit_s=options.limit, cold=options.cold)
        print(said_of(name, took), flush=True)
    print(f"  {files_of(store):,} files now", flush=True)
    shutil.rmtree(out, ignore_errors=True)
    return found


def exponent(small: dict[str, Any], large: dict[str, Any], start: dict[str, Any], times: float, key: str) -> float:
    """Of growth from a cohort to one that is so many times as large, less what starting takes."""
    before, after = (max(one[key] - start[key], 0.05) for one in (small, large))
    return math.log(after / before) / math.log(times)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--slides", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--only", nargs="+", help="first words of commands")
    parser.add_argument("--packed", action="store_true")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--limit", type=float, default=3600, help="seconds after which a command is stopped")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = {n: measure(folder, n, options) for n in (STARTED, *options.slides)}
    for small, large in zip(options.slides, options.slides[1:], strict=False):
        print(f"exponents from {small} to {large} slides: seconds, CPU")
        for name in found[large]:
            of = found[small][name], found[large][name], found[STARTED][name], large / small
            print(f"  {name:22} {exponent(*of, 'seconds'):5.2f} {exponent(*of, 'cpu'):5.2f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
