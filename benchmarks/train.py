"""What a step of ``giga train``, the fit of its join and a slide of ``giga embed`` cost, on a simulated bank.

python benchmarks/train.py [--folder DIR] [--slides 2000] [--steps 10] [--tiles 5 16 25] [--epochs 3] [--threads N]
python benchmarks/train.py --slides 12000 --epochs 1000 --tiles 5      # the whole of the paper, outright: on a GPU

Writes a bank of random numbers under DIR (default: a temporary folder), 0.3 MB a slide, and times the parts of a step,
milliseconds, medians, of the sparse CNN and of the transformer, each in batches of its own size; both encoders, fp32
and bf16, by turns, so that a busy machine slows all; and the processor's time of a step, least of all, which a busy
machine hardly changes (with one thread; several spin while they wait). For each number of tiles also: what the
encoders, forward and backward, and the convolutions by themselves reach of the peak of the device, and the sparse CNN
beside spconv and beside dense convolutions. Then epochs through the stage itself, the fit of what vectors are joined
with, on a bank of the paper's shape, and one embedding of 50 views of 5 tiles. "default" is the price of a default
training of 12,000 slides: the steps that its regime gives them, at the speed of the stage's fastest epoch (a machine
shared with others is never faster than it is), and the fit of the join. The bank holds 10 augmentations of 64 draws,
the paper's 50 of 256 (--augmentations, --draws): 12,000 slides are 4 GB then, not 79 GB; on a GPU the stage says
whether a bank lies in the device's memory. A row of the bank costs more the first time it is touched, when its page is
mapped or read from the disk; a training does that in a thread of its own. Drop the page cache between two runs on one
--folder to see a cold bank.
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
from convolutions import report_achieved, report_others, report_whole

import gigacli as giga
from gigacli.config.training import REGIMES
from gigacli.nn.device import pick_precision
from gigacli.nn.giga import GigaSSL
from gigacli.nn.losses import nt_xent
from gigacli.nn.sampler import Sampler
from gigacli.nn.slide_encoder import SlideEncoder
from gigacli.nn.sparse import sparse_map, strided_map, submanifold_map
from gigacli.nn.tile_encoder import weights_to_bytes
from gigacli.nn.views import TilePositions, ViewBatch
from gigacli.randomness import keyed_rng
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from gigacli.weights.joined import fit_joined

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH, TILES_OF_A_SLIDE = 256, 900
PAPER_SLIDES, PAPER_BANK = 12_000, {"augmentations": 50, "draws": 256}
ENCODERS = ("sparse-resnet", "transformer")
PRECISIONS = ("fp32", "bf16")


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


class Trained:
    """One encoder with all that a step of its default training takes."""

    def __init__(self, aggregator: str, store: Store, tiles: int, device: torch.device) -> None:
        self.aggregator, self.regime = aggregator, REGIMES[aggregator]
        began = time.perf_counter()
        reader = store.bank("none").mapped()
        opened = time.perf_counter()
        self.sampler = Sampler(
            reader,
            TilePositions(reader.grids()),
            tiles=tiles,
            slide_aug=True,
            log_scale=self.regime.log_scale,
            seed=0,
            batch_size=self.regime.batch_size,
            device=device,
        )
        self.opening = f"bank opened in {opened - began:.2f} s, sampler in {time.perf_counter() - opened:.2f} s"
        self.method = untrained(aggregator).to(device)
        self.optimizer = torch.optim.Adam(
            self.method.parameters(), lr=1e-3, weight_decay=self.regime.weight_decay, fused=True
        )

    def views(self, number: int) -> ViewBatch:
        """Views of one batch."""
        slides = keyed_rng("order", number).permutation(self.sampler.slides)[: self.regime.batch_size]
        return self.sampler.views(slides, keyed_rng("views", number))

    def step(self, number: int, clock: Clock, *, half: bool) -> None:
        """One step as the stage takes it, part by part; a sparse map is built once more to time it by itself."""
        clock.at = time.perf_counter()
        views = self.views(number)
        clock.lap("sampling (first touch)")
        if self.aggregator == "sparse-resnet":
            b, t, _ = views.features.shape
            owner = torch.arange(b, device=views.cells.device).repeat_interleave(t)
            sites = sparse_map(views.features.flatten(0, 1), views.cells.flatten(0, 1), owner, size=b)
            submanifold_map(strided_map(sites))
            clock.lap("map (in forward too)")
        began = time.process_time()
        views = self.views(number)
        clock.lap("sampling")
        with torch.autocast(views.cells.device.type, dtype=torch.bfloat16, enabled=half):
            projections = self.method.projector(self.method.vectors(views))
            clock.lap("forward")
            loss = nt_xent(*projections.chunk(2), temperature=0.2)
            clock.lap("loss")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clock.lap("backward")
        self.optimizer.step()
        clock.lap("optimiser")
        clock.parts["CPU (all threads)"].append(1000 * (time.process_time() - began))


def untrained(aggregator: str) -> GigaSSL:
    """The method before its first step, with all that a default training has."""
    return GigaSSL(WIDTH, temperature=0.2, seed=0, standardise=True, whiten=True, aggregator=aggregator)


def table(name: str, clock: Clock, slides: int) -> None:
    """Print the medians of the parts of a step of so many slides, and the whole without a map that was built twice."""
    medians = {part: statistics.median(times[1:]) for part, times in clock.parts.items()}
    cpu = min(clock.parts["CPU (all threads)"][1:])
    whole = sum(ms for part, ms in medians.items() if "(" not in part)
    parts = " ".join(f"{part} {ms:.1f}" for part, ms in medians.items())
    share = 100 * medians["sampling"] / whole
    print(
        f"  {name:18s} {parts} | step of {slides} slides {whole:.1f} ms, sampling {share:.1f} %; "
        f"at least {cpu:.0f} ms of CPU"
    )


def train_steps(store: Store, tiles: int, options: argparse.Namespace, device: torch.device) -> None:
    """The parts of a step of both encoders, then what they reach."""
    encoders = [Trained(aggregator, store, tiles, device) for aggregator in ENCODERS]
    print(f"T = {tiles}: {encoders[0].opening}")
    clocks = {(one.aggregator, precision): Clock() for one in encoders for precision in PRECISIONS}
    for number in range(options.steps + 1):
        for one in encoders:
            for precision in PRECISIONS:
                one.step(number, clocks[one.aggregator, precision], half=precision == "bf16")
    for one in encoders:
        for precision in PRECISIONS:
            table(f"{one.aggregator} {precision}", clocks[one.aggregator, precision], one.regime.batch_size)
    for one in encoders:
        report_whole(one.aggregator, one.method, one.views(0), repeats=options.repeats, largest=options.largest)
    sparse, views = encoders[0].method.encoder, encoders[0].views(0)
    assert isinstance(sparse, SlideEncoder)
    report_achieved(sparse, views, repeats=options.repeats, largest=options.largest)
    report_others(WIDTH, views, repeats=options.repeats)
    memory()


def memory() -> None:
    """The most that was taken so far."""
    gibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    text = f"  most memory so far {gibibytes:.2f} GiB (mapped pages of the bank included)"
    if torch.cuda.is_available():
        text += f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the device"
    print(text)


def epochs(path: Path, options: argparse.Namespace) -> dict[tuple[str, str], float]:
    """Epochs through the stage, as a user runs it: checkpoints, history and all; slides a second of each training."""
    rates = {}
    for aggregator in ENCODERS:
        for precision in PRECISIONS[::-1][: 1 if options.epochs > 100 else 2]:
            settings = {"name": "measured", "aggregator": aggregator, "precision": precision, "join": False}
            made = giga.train(path, epochs=options.epochs, redo=True, progress=Say(), **settings)
            model = giga.open(path).model("measured")
            speeds = model.history("per_second")
            rate, waiting = speeds.max(), model.history("waiting")[speeds.argmax()]
            rates[aggregator, precision] = float(rate)
            print(
                f"giga train, {aggregator} {precision}: {made.slides} slides x {made.epochs} epochs in "
                f"{made.seconds:.1f} s; fastest epoch {rate:,.0f} slides/s, "
                f"{1000 * REGIMES[aggregator].batch_size / rate:.0f} ms a step, "
                f"{100 * waiting:.1f} % of it waiting for data"
            )
    memory()
    return rates


def joining(store: Store, slides: int, device: torch.device) -> dict[str, float]:
    """Seconds a slide of the fit of what vectors are joined with, by encoder, of one that was never trained."""
    rows, each = np.arange(slides), {}
    for aggregator in ENCODERS:
        encode = untrained(aggregator).to(device).eval().vectors
        views = {"tiles": 5, "seed": 0, "precision": pick_precision("auto", device)}
        began = time.perf_counter()
        fit_joined(encode, store.features("none"), store.bank("none"), rows, **views, device=device)
        each[aggregator] = (time.perf_counter() - began) / slides
        print(f"fit of the join, {aggregator}: {1000 * each[aggregator]:.1f} ms a slide, of {slides}")
    return each


def price(rates: dict[tuple[str, str], float], joins: dict[str, float]) -> None:
    """What a default training of the paper's slides takes."""
    for (aggregator, precision), rate in rates.items():
        regime = REGIMES[aggregator]
        steps = regime.steps(PAPER_SLIDES)
        training, join = steps * regime.batch_size / rate / 3600, joins[aggregator] * PAPER_SLIDES / 3600
        print(
            f"default, {aggregator} {precision}: {PAPER_SLIDES:,} slides, {steps:,} steps of {regime.batch_size} in "
            f"{training:.2f} h, join {60 * join:.1f} min: {training + join:.2f} h"
        )


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
    parser.add_argument("--tiles", type=int, nargs="+", default=[5, 16, 25])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--augmentations", type=int, default=10)
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="of a convolution, after one that warms up")
    parser.add_argument("--largest", type=int, default=16384, help="matrix edge among those that say what the peak is")
    parser.add_argument("--join-slides", type=int, default=128)
    parser.add_argument("--embed-slides", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device}, {torch.get_num_threads()} threads, batches of so many slides x 2 views x T tiles")
    for folder in folder_of(options):
        began = time.perf_counter()
        shape = {"augmentations": options.augmentations, "draws": options.draws}
        store = simulate(folder / "train.zarr", options.slides, **shape)
        print(
            f"{options.slides} slides x {' x '.join(map(str, shape.values()))} in {time.perf_counter() - began:.1f} s"
        )
        for tiles in options.tiles:
            train_steps(store, tiles, options, device)
        rates = epochs(folder / "train.zarr", options)
        whole = simulate(folder / "join.zarr", options.join_slides, **PAPER_BANK)
        price(rates, joining(whole, options.join_slides, device))
        few = simulate(folder / "embed.zarr", options.embed_slides, **shape)
        embedding(few, folder / "embed.zarr", options.embed_slides)


if __name__ == "__main__":
    main()
