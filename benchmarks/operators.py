"""Operators in the place of a bank: how well they foresee augmentations, and what is trained from them.

python benchmarks/operators.py r2 --folder DIR --idc idc.npz [--cohorts idc drawn-moco drawn-random]
python benchmarks/operators.py train --folder DIR --idc idc.npz [--cohorts ...] [--aggregators ...] [--variants ...]
python benchmarks/operators.py tables --folder DIR

Cohorts are those of `benchmarks/feature_cohorts.py`; encoding a drawn one takes some ten minutes on one core, once.

`r2` prints what operators foresee on slides left out; `train` trains slide encoders from operators, from real banks
and from un-augmented tiles, and appends a row a run to the table DIR/operators.csv; what is there is not run again, and
what a cohort has not is left out. `tables` sums it up. What drawing a step's views costs: `operators_draw.py`.

Judged: ten splits by patient (`benchmarks/judge.py`). *clean* AUC with all labels and with 50 (32 where drawn);
*shift*: the same classifiers on test slides seen under a fresh augmentation; *found*: share of slides whose vector
under a fresh augmentation is nearest to their own clean one; *moved*: mean distance between these two, over that
between slides.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import time
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from feature_cohorts import BANK, CPU, FULL_RANK, Augmented, Cohort, Plain, drawn, idc, one_of, some_tiles
from judge import auc
from simulated_features import simulated
from sklearn.model_selection import StratifiedShuffleSplit

from gigacli.config.training import REGIMES
from gigacli.nn import loop
from gigacli.nn.closed_forms import SlideTiles, ViewWhitened
from gigacli.nn.device import pick_precision
from gigacli.nn.giga import GigaSSL, embed_views
from gigacli.nn.operators import AppliedOperators, Operators
from gigacli.nn.operators_fit import fit_operators, operator_space
from gigacli.nn.sampler import Sampler, steps_per_epoch
from gigacli.nn.views import draw_rows, make_views
from gigacli.nn.whitening import FeatureSpace
from gigacli.progress import SILENT
from gigacli.randomness import keyed_rng, keyed_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Embed = Callable[[Plain | Augmented, int], NDArray[np.float32]]

VIEWS, TILES, FOLDS, DRAWS, TEST = 50, 5, 10, 5, 0.25
VARIANTS: dict[str, dict[str, int]] = {
    "nothing": {},
    "bank": {},
    "bank of 4": {"augmentations": 4},
    "bank of 50": {"augmentations": 50},
    "operators": {},
    "family": {},
    "operators, 16 sets": {"sets": 16},
    "operators, 400 tiles": {"tiles": 400},
    "operators, rank 64": {"rank": 64},
    "operators, rank 32": {"rank": 32},
    "operators, as made": {"rank": 64, "held_out": 8},
}
"""What views are drawn from. Where sets are not shared by slides there are no numbers of them, nor ranks."""
R2_SPLITS, FORM, OF_FORM = 5, ViewWhitened.name, ("bank", "operators", "family")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A row of the table."""

    cohort: str
    aggregator: str
    variant: str
    seed: int
    clean: float
    few: float
    shift: float
    shift_few: float
    found: float
    moved: float
    seconds: float


def learnt_for(cohort: Cohort, variant: str) -> Operators | None:
    """The operators of a variant; none of a bank and of nothing."""
    if variant == "family":
        return cohort.family()
    return cohort.operators(**VARIANTS[variant]) if variant.startswith("operators") else None


def source_of(cohort: Cohort, variant: str) -> Plain | Augmented:
    """What views are drawn from: rows of a bank, or un-augmented tiles."""
    if not variant.startswith("bank"):
        return cohort.plain
    return cohort.bank_of(VARIANTS[variant].get("augmentations", cohort.bank.augmentations))


def has(cohort: Cohort, aggregator: str, variant: str) -> bool:
    """Whether a cohort can show it."""
    if aggregator == FORM and variant not in OF_FORM:
        return False
    if "augmentations" in VARIANTS[variant]:
        return VARIANTS[variant]["augmentations"] <= cohort.largest.augmentations
    return len(cohort.calibrations) == 1 or not VARIANTS[variant]


def trained(cohort: Cohort, aggregator: str, variant: str, seed: int) -> GigaSSL:
    """Train as the stage does; variants differ in nothing but what views are drawn from."""
    regime, source = REGIMES[aggregator], source_of(cohort, variant)
    precision, slides = pick_precision("auto", CPU), len(cohort.labels)
    of_epoch = steps_per_epoch(slides, regime.batch_size)
    epochs = -(-regime.steps(slides) // of_epoch)
    method = GigaSSL(
        source.vectors.shape[-1],
        temperature=0.2,
        seed=keyed_seed(seed, "train"),
        standardise=True,
        whiten=True,
        aggregator=aggregator,
    )
    method.enter(cohort.space)
    learnt = learnt_for(cohort, variant)
    applied = AppliedOperators(learnt, device=CPU, precision=precision) if learnt else None
    sampler = Sampler(
        source,
        cohort.positions,
        operators=applied,
        tiles=TILES,
        slide_aug=True,
        log_scale=regime.log_scale,
        seed=seed,
        batch_size=regime.batch_size,
        device=CPU,
    )
    total = of_epoch * epochs
    loop.run(
        loop.Training(
            module=method,
            optimizer=torch.optim.Adam(method.parameters(), lr=1e-3, weight_decay=regime.weight_decay, fused=True),
            schedule=loop.Schedule(1e-3, max(1, int(0.05 * total)), total),
            epochs=epochs,
            batches=lambda epoch, start: ((batch,) for batch in sampler(epoch, start)),  # of one seed
            step=method,
            precision=precision,
            save=lambda checkpoint, history: None,
        ),
        SILENT,
        checkpoint=None,
    )
    return method.eval()


def embedded(method: GigaSSL, cohort: Cohort, source: Plain | Augmented, augmentation: int) -> NDArray[np.float32]:
    """(s, width): the mean of 50 views of 5 tiles, un-augmented ones or those of one augmentation."""
    slides = len(cohort.labels)
    rows = np.concatenate(
        [draw_rows(keyed_rng("embed", i), np.full(VIEWS, n), TILES) for i, n in enumerate(source.counts.tolist())]
    )  # (s * R, t)
    slide, a = np.arange(slides).repeat(VIEWS)[:, None], np.full((1, 1), augmentation)
    features = source.vectors[source.at(slide, a, rows)]
    positions = cohort.positions(slide[:, 0], source.tiles(slide, a, rows))
    views = make_views(features, positions, augmentation=None, device=CPU)
    return embed_views(method.vectors, views, [VIEWS] * slides).numpy()


def closed(cohort: Cohort, variant: str, seed: int) -> Embed:
    """The closed form of "two views agree", its augmentations from the real bank or from operators."""
    plain, learnt = cohort.plain.slides(), learnt_for(cohort, variant)
    augmented = list(zip(cohort.bank.vectors, cohort.bank.tile, strict=True))
    if learnt:
        applied, size = AppliedOperators(learnt, device=CPU), dict(zip(("augmentations", "draws"), BANK, strict=True))
        augmented = [applied.bank(one, keyed_rng(seed, "bank", i), **size) for i, one in enumerate(plain)]
    slides = [SlideTiles(str(i), one, None, *rows) for i, (one, rows) in enumerate(zip(plain, augmented, strict=True))]
    form = ViewWhitened.fit(slides, cohort.space, seed=seed)
    centre = np.mean([form.transform(one) for one in slides], axis=0)

    def embed(source: Plain | Augmented, augmentation: int) -> NDArray[np.float32]:
        tiles = source.slides() if isinstance(source, Plain) else source.vectors[:, augmentation]
        made = np.stack([form.transform(SlideTiles("", one)) for one in tiles]) - centre
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    return embed


def splits(cohort: Cohort) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], list[NDArray[np.int64]]]]:
    """Training and test slides of each split, both by patient, and draws of few of the training side."""
    labelled = np.flatnonzero(cohort.labels >= 0)
    patients, first, of = np.unique(cohort.patients[labelled], return_index=True, return_inverse=True)
    labels = cohort.labels[labelled[first]]
    few = round(cohort.few * len(patients) / len(labelled))
    halves = StratifiedShuffleSplit(FOLDS, test_size=TEST, random_state=0)
    for number, (inside, outside) in enumerate(halves.split(patients, labels)):
        some = StratifiedShuffleSplit(DRAWS, train_size=few, random_state=number)
        parts = [inside[part] for part, _ in some.split(inside, labels[inside])]
        train, test, *several = (labelled[np.isin(of, who)] for who in (inside, outside, *parts))
        yield train, test, several


def judged(cohort: Cohort, clean: NDArray[np.float32], shifted: list[NDArray[np.float32]]) -> dict[str, float]:
    """All scores of clean vectors (s, p), and of those under fresh augmentations."""
    n, scores = len(clean), {"clean": [], "few": [], "shift": [], "shift_few": []}
    labels = np.tile(cohort.labels, 1 + len(shifted))
    every = np.concatenate([clean, *shifted])  # test slides under augmentation a are n (1 + a) rows on
    for train, test, several in splits(cohort):
        moved = np.concatenate([test + n * (1 + a) for a in range(len(shifted))])
        scores["clean"].append(auc(every, labels, train, test, scale=False))
        scores["shift"].append(auc(every, labels, train, moved, scale=False))
        scores["few"] += [auc(every, labels, part, test, scale=False) for part in several]
        scores["shift_few"] += [auc(every, labels, part, moved, scale=False) for part in several]
    found = [((one @ clean.T).argmax(axis=1) == np.arange(n)).mean() for one in shifted]
    between = np.linalg.norm(clean[:, None] - clean, axis=-1).sum() / (n * (n - 1))
    moved_by = [np.linalg.norm(one - clean, axis=1).mean() / between for one in shifted]
    return {k: float(np.mean(v)) for k, v in {**scores, "found": found, "moved": moved_by}.items()}


def train(cohort: Cohort, aggregators: list[str], variants: list[str], seeds: int, table: Path) -> None:
    """Run what is not in the table."""
    done = {(run.aggregator, run.variant, run.seed) for run in known(table) if run.cohort == cohort.name}
    for seed, aggregator, variant in itertools.product(range(seeds), aggregators, variants):
        if (aggregator, variant, seed) in done or not has(cohort, aggregator, variant):
            continue
        began = time.process_time()
        if aggregator == FORM:
            embed = closed(cohort, variant, seed)
        else:
            embed = partial(embedded, trained(cohort, aggregator, variant, seed), cohort)
        seconds = time.process_time() - began
        clean = embed(cohort.plain, 0)
        fresh = [embed(cohort.fresh, a) for a in range(cohort.fresh.augmentations)]
        run = Run(
            cohort=cohort.name,
            aggregator=aggregator,
            variant=variant,
            seed=seed,
            seconds=seconds,
            **judged(cohort, clean, fresh),
        )
        new = not table.exists()
        with table.open("a", newline="") as file:
            rows = csv.DictWriter(file, [f.name for f in fields(Run)], lineterminator="\n")
            if new:
                rows.writeheader()
            rows.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in asdict(run).items()})
        print(run, flush=True)


def r2(cohort: Cohort) -> None:
    """Print R2 of displacements on slides that operators were not learnt from, by what they were learnt from."""
    if len(cohort.calibrations) > 1:
        gates = [(one.gate.tile, one.gate.shift) for one in cohort.of_slides()]
        tile, shift = np.mean(gates, axis=0)
        print(f"{cohort.name}: each set from one slide, on tiles of it left out: {tile:.3f}, shift alone {shift:.3f}")
        return
    every = cohort.calibrations[0]
    order = keyed_rng("r2").permutation(np.unique(every.slide))
    print(f"\n### {cohort.name}\n\n| space | tiles | sets | rank | tile | slide | shift alone | kept | lambda |")
    print("|---" * 9 + "|")
    cells = [(True, tiles, sets, FULL_RANK) for tiles in (400, 1000, 2000) for sets in (16, 64)]
    cells += [(True, 2000, 64, rank) for rank in (128, 64, 32)]
    cells += [(False, tiles, 64, FULL_RANK) for tiles in (400, 1000, 2000)]
    for whitened, tiles, sets, rank in cells:
        found = []
        for part in np.array_split(order, R2_SPLITS):
            outside = np.isin(every.slide, part)
            inside = one_of(every, some_tiles(every, tiles) & ~outside, sets)
            space = operator_space(inside, cohort.spread) if whitened else FeatureSpace(cohort.spread.standard, None)
            learnt = fit_operators(inside, space, rank=rank)
            found.append([*foreseen(learnt, every.plain[outside], every.augmented[outside], every.slide[outside])])
            found[-1].append(learnt.kept)
        numbers = " | ".join(f"{value:.3f}" for value in np.mean(found, axis=0))
        name, of_rank = "whitened" if whitened else "standardised", "full" if rank == FULL_RANK else rank
        print(f"| {name} | {tiles} | {sets} | {of_rank} | {numbers} | {learnt.penalty:g} |", flush=True)


def foreseen(
    operators: Operators, plain: NDArray[np.float16], augmented: NDArray[np.float16], slide: NDArray[Any]
) -> list[float]:
    """R2 of the displacement of tiles (n, d), of slides, and of slides where a set only adds its shift."""
    applied, space, errors = AppliedOperators(operators, device=CPU), operators.space, np.zeros((3, 2))
    of = slide[:, None] == np.unique(slide)
    means = (of / of.sum(axis=0)).T  # (slides, n)
    for k in range(operators.sets):
        truth = space(augmented[:, k]) - space(plain)
        left, shifted = truth - (space(applied.under(plain, k)) - space(plain)), truth - operators.shift[k]
        pairs = [(left, truth), (means @ left, means @ truth), (means @ shifted, means @ truth)]
        errors += [[np.square(one).sum(), np.square(other).sum()] for one, other in pairs]
    return (1 - errors[:, 0] / errors[:, 1]).tolist()


def known(table: Path) -> list[Run]:
    """The rows that are there."""
    if not table.exists():
        return []
    kinds = {f.name: {"str": str, "int": int, "float": float}[str(f.type)] for f in fields(Run)}
    with table.open() as file:
        return [Run(**{k: kinds[k](v) for k, v in row.items()}) for row in csv.DictReader(file)]


def tables(runs: list[Run]) -> None:
    """Print means and standard deviations over seeds."""
    scores = ("clean", "few", "shift", "shift_few", "found", "moved", "seconds")
    print(f"| cohort | encoder | from | seeds | {' | '.join(scores)} |\n" + "|---" * (4 + len(scores)) + "|")
    for key in dict.fromkeys((run.cohort, run.aggregator, run.variant) for run in runs):
        mine = [run for run in runs if (run.cohort, run.aggregator, run.variant) == key]
        cells = []
        for name in scores:
            values = [getattr(run, name) for run in mine]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 and name != "seconds" else ""
            mean = statistics.mean(values)
            cells.append(f"{mean:.0f}" if name == "seconds" else f"{mean:.3f}{spread}")
        print(f"| {' | '.join([*key, str(len(mine)), *cells])} |")


def cohort_of(name: str, folder: Path, idc_file: Path) -> Cohort:
    """A cohort by its name."""
    if name == "simulated":
        return simulated()
    return idc(idc_file) if name == "idc" else drawn(folder, name.removeprefix("drawn-"))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("r2", "train", "tables"))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--idc", type=Path)
    parser.add_argument(
        "--cohorts", nargs="+", default=["simulated", "idc", "drawn-moco", "drawn-moco8", "drawn-random"]
    )
    parser.add_argument("--aggregators", nargs="+", default=[FORM, "transformer"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.what == "tables":
        tables(known(options.folder / "operators.csv"))
        return
    for name in options.cohorts:
        cohort = cohort_of(name, options.folder, options.idc)
        if options.what == "r2":
            r2(cohort)
        else:
            train(cohort, options.aggregators, options.variants, options.seeds, options.folder / "operators.csv")


if __name__ == "__main__":
    main()
