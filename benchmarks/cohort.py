"""What vectors of a cohort of real tissue are worth, that is there as features: closed forms, encoders, their joins.

python benchmarks/cohort.py FOLDER --out DIR [--only PATTERN ...] [--seeds 3]

FOLDER holds `idc.npz`: `patient` (s), `tiles` (s), tiles packed one slide after the other as `xy` (n, 2) in whole
tiles, `plain` (n, c) and `augmented` (n, a, c) features, `label` (s) 0, 1 or -1 for none. Under DIR a store is made of
it, and scores.csv, where every vector is judged by `benchmarks/judge.py`; what is there is not done again. Set
OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from judge import judge

import gigacli as giga
from gigacli.config.training import REGIMES
from gigacli.nn.arrangement import Arrangement
from gigacli.nn.closed_forms import MeanStd, SlideTiles, ViewWhitened, WhitenedMean
from gigacli.nn.join import Join
from gigacli.nn.prototypes import Mixture
from gigacli.nn.views import TilePositions
from gigacli.nn.whitening import (
    FeatureSpace,
    augmentation_covariance,
    slide_covariance,
    spread_of,
    whitening_matrix,
)
from gigacli.randomness import keyed_rng
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME, TILE_PX, MPP, DRAWS = "plain", 50, 1.0, 48
SEEDS, TILES, BATCH = 3, (5, 16), 128
CHANGES: dict[str, dict[str, Any]] = {
    " whitened by augmentations": {"whitening": "augmentations"},
    " not standardised": {"standardise": False},
    " not whitened": {"whiten": False},
}
KINDS = ("slides", "augmentations")  # of whitening
FIELDS = ("vector", "seed", "all", "few", "all_first", "few_first", "all_second", "few_second", "seconds")


def write_store(path: Path, arrays: Any) -> Store:
    """A store with tiles, features and a bank of 12 augmentations of 48 draws; kept where there is one."""
    store = Store.create(path)
    counts, first = arrays["tiles"], np.concatenate([[0], np.cumsum(arrays["tiles"])])
    if store.progress().get(f"features/{NAME}") == len(counts):
        return store
    edge = int(arrays["xy"].max() + 1) * TILE_PX
    rows = [
        SlideRow(id=f"p{p}", path=f"/{p}", size_px=(edge, edge), mpp=MPP, patient=str(p)) for p in arrays["patient"]
    ]
    store.write_slides(SlideTable(tuple(rows)))
    plain, augmented, width = arrays["plain"], arrays["augmented"], arrays["plain"].shape[1]
    shape = (augmented.shape[1], DRAWS)
    tiles, features, bank = store.tiles, store.features(NAME), store.bank(NAME)
    config = {"mpp": MPP, "tile_px": TILE_PX, "overlap": 0, "min_tissue": 0.5}
    tiles.begin(Recipe("tile", config, {}), int(counts.max()), redo=False)
    base, inputs = {"encoder": "none", "precision": "fp32"}, {"tiles": tiles.fingerprint, "encoder": "0" * 64}
    features.begin(Recipe("bank", base, inputs), width, redo=False)
    config = {**base, "augmentations": shape[0], "draws": shape[1], "seed": 0}
    bank.begin(Recipe("bank", config, inputs), width, redo=False)
    for row, slide in enumerate(rows):
        mine = slice(first[row], first[row + 1])
        tiles.write(row, (arrays["xy"][mine] * TILE_PX).astype(np.int32), None)
        # Every tile once per augmentation, then some again.
        orders = [keyed_rng(0, "draws", slide.id, a).permutation(counts[row]) for a in range(shape[0])]
        drawn = np.stack([np.resize(order, DRAWS) for order in orders]).astype(np.int32)
        vectors = augmented[mine][drawn, np.arange(shape[0])[:, None]]
        bank.write(row, vectors, drawn, made=np.ones(shape, dtype=bool))
        features.write(row, plain[mine])  # last: a store of all slides is kept
    return store


@dataclass(frozen=True, eq=False)
class Cohort:
    """A store up to its bank, and a label per slide."""

    store: Store
    labels: NDArray[np.int64]  # -1: none
    out: Path

    @cached_property
    def slides(self) -> list[SlideTiles]:
        """All slides: this cohort fits into memory."""
        bank, features = self.store.bank(NAME).mapped(), self.store.features(NAME)
        places = TilePositions(bank.grids())
        return [
            SlideTiles(
                self.store.slides[row].id,
                features.read(row),
                places(np.array([i]), np.arange(places.counts[i])[None])[0],
                augmented,
            )
            for i, (row, augmented) in enumerate(zip(bank.rows.tolist(), bank.slides(), strict=True))
        ]

    def space(self, kind: str | None) -> FeatureSpace:
        """Standardised features, whitened one way or not."""
        bank, spread = self.store.bank(NAME).mapped(), spread_of(s.plain for s in self.slides)
        if kind is None:
            return FeatureSpace(spread.standard, None)
        if kind == "slides":
            noise = slide_covariance(bank.slides(), spread.standard)
        else:
            noise = augmentation_covariance(zip(bank.slides(), bank.tile, strict=True), spread.standard)
        return FeatureSpace(spread.standard, whitening_matrix(noise, spread))

    def kept(self, name: str, seed: int, make: Callable[[], NDArray[np.float32]]) -> tuple[NDArray[np.float32], float]:
        """The vectors of a name, made where they are missing, and the processor seconds that took."""
        file = self.out / f"{name.replace(' ', '_').replace(',', '')}-{seed}.npy"
        if file.exists():
            return np.load(file), float("nan")
        began = time.process_time()
        vectors = make()
        np.save(file, vectors)
        return vectors, time.process_time() - began


def closed_forms(cohort: Cohort) -> Iterator[tuple[str, int, Callable[[], NDArray[np.float32]]]]:
    """Name, seed and maker of everything that needs no training."""
    yield "mean", 0, lambda: np.stack([s.plain.mean(axis=0, dtype=np.float32) for s in cohort.slides])

    def of(form: Any) -> NDArray[np.float32]:
        return np.stack([form.transform(slide) for slide in cohort.slides])

    yield "mean-std standardised", 0, lambda: of(MeanStd(cohort.space(None)))
    for kind in KINDS:
        at = f"whitened by {kind}"
        yield f"mean {at}", 0, lambda kind=kind: of(WhitenedMean(cohort.space(kind)))
        yield f"mean-std {at}", 0, lambda kind=kind: of(MeanStd(cohort.space(kind)))
        for seed in range(SEEDS):
            for form in (ViewWhitened, Mixture, Arrangement):
                yield (
                    f"{form.name} {at}",
                    seed,
                    lambda form=form, kind=kind, seed=seed: of(form.fit(cohort.slides, cohort.space(kind), seed=seed)),
                )


def encoders(cohort: Cohort) -> Iterator[tuple[str, int, Callable[[], NDArray[np.float32]]]]:
    """Name, seed and maker of the vectors of slide encoders, those of the defaults first."""
    small, large = TILES
    cheap = [("transformer", 600, small), ("transformer", 600, large)]
    dear = [("sparse-resnet", 1200, small), ("transformer", 1200, small), ("sparse-resnet", 600, small)]
    dearest = [("transformer", 1200, large), ("sparse-resnet", 600, large), ("sparse-resnet", 1200, large)]
    for (aggregator, steps, tiles), seed in itertools.product([*cheap, *dear, *dearest], range(SEEDS)):
        options = {"aggregator": aggregator, "tiles": tiles, "seed": seed}
        changes: dict[str, dict[str, Any]] = {"": {}}
        if (steps, tiles) == (REGIMES[aggregator].least_steps, small):
            born = {**options, "steps": 1}
            yield f"{aggregator} untrained T {tiles}", seed, lambda born=born: embedded(cohort, born, trained=False)
        if (aggregator, steps, tiles) == cheap[0]:
            changes |= CHANGES
        for change, more in changes.items():
            chosen = {**options, **more, "steps": steps}
            yield f"{aggregator} {steps} steps T {tiles}{change}", seed, lambda chosen=chosen: embedded(cohort, chosen)


def embedded(cohort: Cohort, options: dict[str, Any], *, trained: bool = True) -> NDArray[np.float32]:
    """Vectors of a slide encoder, trained or as it is born."""
    plain = {"standardise": True, "whiten": True, "whitening": "slides", "batch_size": BATCH}  # not as the last one was
    whole = {**plain, **options}
    if not whole["whiten"]:
        del whole["whitening"]
    giga.train(cohort.store, name="study", redo=True, **whole)
    kind, seed = "model" if trained else "random-init", options["seed"]
    giga.embed(cohort.store, model="study", name="study", seed=seed, aggregator=kind, redo=True)
    return cohort.store.embedding("study").read()


def joins(names: dict[tuple[str, int], NDArray[np.float32]]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Name, seed and blocks of the joins of what there is."""
    views, arrangement = (f"{form} whitened by augmentations" for form in ("view-whitened", "arrangement"))
    for seed in range(SEEDS):
        if (views, seed) not in names or (arrangement, seed) not in names:
            continue
        vms, block = {"view-whitened": names[views, seed]}, {"arrangement": names[arrangement, seed]}
        yield "vms + arrangement", seed, {**vms, **block}
        mine = {name: v for (name, s), v in names.items() if s == seed and " steps T " in name}
        for name, vectors in mine.items():
            yield f"{name} + vms", seed, {"model": vectors, **vms}
            yield f"{name} + vms + arrangement", seed, {"model": vectors, **vms, **block}
        for tiles in TILES:
            both = [f"transformer 600 steps T {tiles}", f"sparse-resnet 1200 steps T {tiles}"]
            if all(one in mine for one in both):
                peers = {one: mine[one] for one in both}
                yield f"both encoders T {tiles} + vms", seed, {**peers, **vms}
                yield f"both encoders T {tiles} + vms + arrangement", seed, {**peers, **vms, **block}


class Scores:
    """The table, one row a vector."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort, self.file = cohort, cohort.out / "scores.csv"
        self.known: set[tuple[str, int]] = set()
        if self.file.exists():
            with self.file.open() as file:
                self.known = {(row["vector"], int(row["seed"])) for row in csv.DictReader(file)}

    def add(self, name: str, seed: int, vectors: NDArray[np.floating], seconds: float) -> None:
        """Judge vectors: those of the mean of tiles standardised, all others at unit length."""
        if (name, seed) in self.known:
            return
        labelled, scale = self.cohort.labels >= 0, name == "mean"
        made = vectors if scale else Join.fit({"model": vectors}).transform({"model": vectors})
        scores = judge(made[labelled], self.cohort.labels[labelled], scale=scale).halves()
        new = not self.file.exists()
        with self.file.open("a", newline="") as file:
            table = csv.DictWriter(file, FIELDS, lineterminator="\n")
            if new:
                table.writeheader()
            numbers = {k: f"{v:.4f}" for k, v in {**scores, "seconds": seconds}.items()}
            table.writerow({"vector": name, "seed": seed, **numbers})
        self.known.add((name, seed))
        print(f"{name} ({seed}): {scores['all']:.3f} {scores['few']:.3f}, {seconds:.0f} s", flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="*", help="pattern of the vectors to make")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with np.load(options.folder / "idc.npz") as file:
        arrays = {name: file[name] for name in ("patient", "tiles", "xy", "plain", "augmented", "label")}
    cohort = Cohort(write_store(options.out / "cohort.zarr", arrays), arrays["label"].astype(np.int64), options.out)
    scores, made = Scores(cohort), {}
    for source in (closed_forms, encoders):
        for name, seed, make in source(cohort):
            if fnmatch.fnmatch(name, options.only):
                made[name, seed], seconds = cohort.kept(name, seed, make)
                scores.add(name, seed, made[name, seed], seconds)
                for joined, at, blocks in joins(made):
                    if (joined, at) not in scores.known:
                        scores.add(joined, at, Join.fit(blocks).transform(blocks), float("nan"))


if __name__ == "__main__":
    main()
