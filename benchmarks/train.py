"""What a step of ``giga train`` and a slide of ``giga embed`` cost, on a simulated bank.

python benchmarks/train.py [--folder DIR] [--slides 2000] [--steps 10] [--tiles 5 100] [--epochs 3] [--threads N]
python benchmarks/train.py --slides 12000 --epochs 1000 --tiles 5      # the whole of the paper, outright: on a GPU

Writes a bank of random numbers under DIR (default: a temporary folder), 0.3 MB a slide, and times the parts of a step,
milliseconds, medians; fp32 and bf16 by turns, so that a busy machine slows both. For each number of tiles also: what
the convolutions reach of the peak of the device, and the encoder beside spconv and beside dense convolutions. Then
epochs through the stage itself, and one embedding of 50 views of 5 tiles. "epochs" of a step is what 1000 passes over
12,000 slides would take at its speed, "measured" what they take at the speed of the stage's last epoch. The bank holds
10 augmentations of 64 draws, the paper's 50 of 256 (--augmentations, --draws): 12,000 slides are 4 GB then, not 79 GB;
on a GPU the stage says whether a bank lies in the device's memory. A row of the bank costs more the first time it is
touched, when its page is mapped or read from the disk; a training does that in a thread of its own. Drop the page cache
between two runs on one --folder to see a cold bank.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from convolutions import report_achieved, report_others

import gigacli as giga
from gigacli.nn.giga import GigaSSL
from gigacli.nn.losses import nt_xent
from gigacli.nn.sampler import Sampler
from gigacli.nn.sparse import sparse_map, strided_map, submanifold_map
from gigacli.nn.tile_encoder import weights_to_bytes
from gigacli.nn.views import TilePositions
from gigacli.randomness import keyed_rng
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH, TILES_OF_A_SLIDE = 256, 900
BATCH, PAPER_SLIDES, PAPER_EPOCHS = 256, 12_000, 1000


class Say:
    """Passes on what a stage says, without its progress."""

    def start(self, what: str, total: int, *, done: int = 0) -> None:
        """Ignore."""

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Ignore."""

    def say(self, message: str) -> None:
        """Print."""
        print(f"  {message}")


def simulate(path: Path, slides: int, *, augmentations: int, draws: int) -> Store:
    """A store with tiles, features and a bank of random numbers; kept where there is one of that size."""
    store = Store.create(path)
    if len(store.slides) == slides and store.progress().get("features/none") == slides:
        return store
    rng = np.random.default_rng(0)
    rows = [SlideRow(id=f"s{i}", path=f"/s{i}", size_px=(40_000, 40_000), mpp=0.5) for i in range(slides)]
    store.write_slides(SlideTable(tuple(rows)))
    tiles, features, bank, shape = store.tiles, store.features("none"), store.bank("none"), (augmentations, draws)
    config = {"mpp": 1.0, "tile_px": 256, "overlap": 0, "min_tissue": 0.5}
    tiles.begin(Recipe("tile", config, {}), TILES_OF_A_SLIDE, redo=False)
    base, inputs = {"encoder": "none", "precision": "fp32"}, {"tiles": tiles.fingerprint, "encoder": "0" * 64}
    features.begin(Recipe("bank", base, inputs), WIDTH, redo=False)
    config = {**base, "augmentations": augmentations, "draws": draws, "seed": 0}
    bank.begin(Recipe("bank", config, inputs), WIDTH, redo=False)
    grid = np.stack(np.meshgrid(np.arange(30), np.arange(30)), axis=-1).reshape(-1, 2).astype(np.int32) * 512
    plain, every = rng.standard_normal((TILES_OF_A_SLIDE, WIDTH)).astype(np.float16), np.ones(shape, dtype=bool)
    for row in range(slides):
        tiles.write(row, grid, None)
        drawn = rng.integers(0, TILES_OF_A_SLIDE, shape, dtype=np.int32)
        vectors = rng.standard_normal((*shape, WIDTH), dtype=np.float32).astype(np.float16)
        bank.write(row, vectors, drawn, made=every)
        features.write(row, plain)  # last: a store of so many slides is kept
    return store


class Clock:
    """Milliseconds of the parts of a step."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = defaultdict(list)
        self.at = time.perf_counter()

    def lap(self, part: str) -> None:
        """A part is over."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.parts[part].append(1000 * (now - self.at))
        self.at = now


def step(
    method: GigaSSL, optimizer: torch.optim.Optimizer, sampler: Sampler, number: int, clock: Clock, *, half: bool
) -> None:
    """One step as the stage takes it, part by part; the map is built once more to time it by itself."""
    slides = keyed_rng("order", number).permutation(sampler.slides)[:BATCH]
    clock.at = time.perf_counter()
    sampler.views(slides, keyed_rng("views", number))
    clock.lap("sampling (first touch)")
    views = sampler.views(slides, keyed_rng("views", number))
    clock.lap("sampling")
    b, t, _ = views.features.shape
    owner = torch.arange(b, device=views.cells.device).repeat_interleave(t)
    sites = sparse_map(views.features.flatten(0, 1), views.cells.flatten(0, 1), owner, size=b)
    submanifold_map(strided_map(sites))
    clock.lap("map (in forward too)")
    with torch.autocast(views.cells.device.type, dtype=torch.bfloat16, enabled=half):
        projections = method.projector(method.vectors(views))
        clock.lap("forward")
        loss = nt_xent(*projections.chunk(2), temperature=0.2)
        clock.lap("loss")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    clock.lap("backward")
    optimizer.step()
    clock.lap("optimiser")


def table(name: str, clock: Clock) -> None:
    """Print the medians, the whole step without the map that was built twice, and what follows from it."""
    medians = {part: statistics.median(times[1:]) for part, times in clock.parts.items()}
    whole = sum(ms for part, ms in medians.items() if "(" not in part)
    parts = " ".join(f"{part} {ms:.1f}" for part, ms in medians.items())
    hours = whole / 1000 * -(-PAPER_SLIDES // BATCH) * PAPER_EPOCHS / 3600
    share = 100 * medians["sampling"] / whole
    print(f"{name:12s} {parts} | step {whole:.1f} ms, sampling {share:.1f} %, epochs {hours:.1f} h")


def train_steps(store: Store, tiles: int, options: argparse.Namespace, device: torch.device) -> None:
    """The parts of a step, then its convolutions."""
    began = time.perf_counter()
    reader = store.bank("none").mapped()
    opened = time.perf_counter()
    sampler = Sampler(
        reader, TilePositions(reader.grids()), tiles=tiles, slide_aug=True, seed=0, batch_size=BATCH, device=device
    )
    print(f"T = {tiles}: bank opened in {opened - began:.2f} s, sampler in {time.perf_counter() - opened:.2f} s")
    method = GigaSSL(WIDTH, temperature=0.2, seed=0, whiten=True).to(device)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3, fused=True)
    clocks = {"fp32": Clock(), "bf16": Clock()}
    for number in range(options.steps + 1):
        for name, clock in clocks.items():
            step(method, optimizer, sampler, number, clock, half=name == "bf16")
    for name, clock in clocks.items():
        table(f"  {name}", clock)
    views = sampler.views(np.arange(min(BATCH, sampler.slides)), keyed_rng("convolutions"))
    report_achieved(method.encoder, views, repeats=options.repeats, largest=options.largest)
    report_others(WIDTH, views, repeats=options.repeats)
    memory()


def memory() -> None:
    """The most that was taken so far."""
    gibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    text = f"  most memory so far {gibibytes:.2f} GiB (mapped pages of the bank included)"
    if torch.cuda.is_available():
        text += f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the device"
    print(text)


def epochs(path: Path, options: argparse.Namespace) -> None:
    """Epochs through the stage, as a user runs it: checkpoints, history and all."""
    for precision in ("bf16", "fp32")[: 1 if options.epochs > 100 else 2]:
        made = giga.train(path, name="measured", epochs=options.epochs, precision=precision, redo=True, progress=Say())
        model = giga.open(path).model("measured")
        rate, waiting = (model.history(k)[-1] for k in ("per_second", "waiting"))
        hours = PAPER_SLIDES * PAPER_EPOCHS / rate / 3600
        print(
            f"giga train, {precision}: {made.slides} slides x {made.epochs} epochs in {made.seconds:.1f} s; last epoch "
            f"{rate:,.0f} slides/s, {100 * waiting:.1f} % of it waiting for data; measured: {PAPER_SLIDES:,} slides x "
            f"{PAPER_EPOCHS} epochs in {hours:.2f} h = {60 * hours:.1f} min"
        )
    memory()


def embedding(store: Store, path: Path, slides: int) -> None:
    """``giga embed`` with a model that was never trained, over all slides."""
    model, method = store.model("born"), GigaSSL(WIDTH, temperature=0.2, seed=0)
    recipe = Recipe("train", {"bank": "none", "tiles": 5, "seed": 0}, {"bank": store.bank("none").fingerprint})
    model.begin(recipe, np.arange(slides), redo=True)
    model.finish(weights_to_bytes(method), {"loss": [0.0]})
    giga.embed(path, aggregator="mean", redo=True)
    for _ in range(2):
        began = time.perf_counter()
        giga.embed(path, model="born", views=50, redo=True)
        seconds = time.perf_counter() - began
        print(
            f"embed, 50 views of 5 tiles: {1000 * seconds / slides:.1f} ms a slide with its mean, "
            f"{PAPER_SLIDES} slides in {seconds / slides * PAPER_SLIDES / 60:.1f} min"
        )


def folder_of(options: argparse.Namespace) -> Iterator[Path]:
    """The folder asked for, or one that goes away."""
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        yield options.folder
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--slides", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tiles", type=int, nargs="+", default=[5, 100])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--augmentations", type=int, default=10)
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="of a convolution, after one that warms up")
    parser.add_argument("--largest", type=int, default=16384, help="matrix edge among those that say what the peak is")
    parser.add_argument("--embed-slides", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device}, {torch.get_num_threads()} threads, batches of {BATCH} slides x 2 views x T tiles")
    for folder in folder_of(options):
        began = time.perf_counter()
        shape = {"augmentations": options.augmentations, "draws": options.draws}
        store = simulate(folder / "train.zarr", options.slides, **shape)
        print(
            f"{options.slides} slides x {' x '.join(map(str, shape.values()))} in {time.perf_counter() - began:.1f} s"
        )
        for tiles in options.tiles:
            train_steps(store, tiles, options, device)
        epochs(folder / "train.zarr", options)
        few = simulate(folder / "embed.zarr", options.embed_slides, **shape)
        embedding(few, folder / "embed.zarr", options.embed_slides)


if __name__ == "__main__":
    main()
