"""The study behind the defaults of ``giga train``: one thing varied at a time, on a simulated and on a drawn cohort.

python benchmarks/study.py --folder DIR [--csv benchmarks/study.csv] [--cohorts NAME ...] [--only PATTERN] [--seeds 3]
python benchmarks/study.py --tables [--csv benchmarks/study.csv]

The first form makes the cohorts under DIR, then trains, embeds and probes every variant and appends one row a run to
the table; a run that is there is skipped, so an interrupted study goes on. Variants come in the order of their
importance, every seed of one tier before the next. A seed is a simulated cohort of its own; of the drawn cohort there
is one. The second form puts the tables into `benchmarks/study.md`. About 70 minutes on one quiet core; set
OMP_NUM_THREADS=1. Where there are two, a second study may run beside it with --cohorts, --folder and --csv of its own.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import itertools
import math
import statistics
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import simulated

import gigacli as giga
from gigacli.demo.cohort import write_cohort
from gigacli.nn.whitening import slide_covariance, whitening_matrix
from gigacli.probing.linear import PAPER_C, score
from gigacli.probing.splits import make_splits, subsample
from gigacli.randomness import keyed_rng
from gigacli.store.groups import Bank, Features

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


HERE = Path(__file__).parent
BEGIN, END = "<!-- tables: python benchmarks/study.py --tables -->", "<!-- end of tables -->"
STRENGTHS = {"simulated": simulated.STRONG, "weak": simulated.WEAK}
COHORTS, TIERS = (*STRENGTHS, "drawn"), (1, 2, 3, 4, 5)
FEW, VIEWS, FOLDS = 32, 50, 10
DEFAULT: dict[str, Any] = {
    "lr": 1e-3,
    "temperature": 0.2,
    "tiles": 5,
    "batch_size": 32,
    "precision": "bf16",
    "whiten": True,
}
SHORT, LONG, LONGER = 200, 1200, 2400
"""Steps."""


@dataclass(frozen=True)
class Variant:
    """What is trained.

    Attributes:
        name: In the table: aggregator, steps, and what differs from the default.
        steps: Of the training.
        options: Of ``giga train``, beside :data:`DEFAULT`.
        tier: 1 is run first.
        cohorts: Where.
    """

    name: str
    steps: int
    options: dict[str, Any]
    tier: int
    cohorts: tuple[str, ...] = ("simulated", "drawn")


def variants() -> list[Variant]:
    """All that is compared: the sparse CNN in short trainings, attention and MLP, which cost a tenth, in long."""
    sparse, attention, mlp = {}, {"aggregator": "attention"}, {"aggregator": "mlp"}
    long = [
        Variant(f"{name}, {LONG}{text}", LONG, {**options, **change}, 1, COHORTS)
        for name, options in (("attention", attention), ("mlp", mlp))
        for text, change in (("", {}), (", not whitened", {"whiten": False}))
    ]
    short = [
        Variant(f"sparse-resnet, {SHORT}", SHORT, sparse, 1),
        Variant(f"attention, {SHORT}", SHORT, attention, 1),
        Variant(f"mlp, {SHORT}", SHORT, mlp, 1),
        Variant(f"sparse-resnet, {SHORT}, not whitened", SHORT, {**sparse, "whiten": False}, 1),
        Variant(f"sparse-resnet, {SHORT}, stride 1", SHORT, {**sparse, "stride": 1}, 1),
    ]
    changes: dict[str, dict[str, Any]] = {
        "lr 3e-4": {"lr": 3e-4},
        "lr 3e-3": {"lr": 3e-3},
        "temperature 0.05": {"temperature": 0.05},
        "temperature 0.5": {"temperature": 0.5},
        "T 3": {"tiles": 3},
        "T 10": {"tiles": 10},
        "T 25": {"tiles": 25},
        "fp32": {"precision": "fp32"},
        "batch 16": {"batch_size": 16},
        "batch 64": {"batch_size": 64},
        "paper's lr, temperature, warm-up": {"lr": 0.03, "temperature": 0.05, "warmup": 0.01},
    }
    swept = [Variant(f"attention, {LONG}, {name}", LONG, {**attention, **c}, 2) for name, c in changes.items()]
    costly = ("T 25", "batch 64", "batch 16")
    spatial = {"no slide augmentation": {"slide_aug": False}, **{k: v for k, v in changes.items() if k not in costly}}
    spatial |= {"stride 1, T 25": {"stride": 1, "tiles": 25}, "blocks 3": {"blocks": 3}}
    lasting = ("T 10", "T 25", "lr 3e-3")  # what attention gained from, in long trainings of the sparse CNN
    only = ("simulated",)
    return [
        *long,
        *short,
        *swept,
        Variant(f"attention, {LONGER}", LONGER, attention, 2),
        *(Variant(f"sparse-resnet, {SHORT}, {name}", SHORT, {**sparse, **c}, 3, only) for name, c in spatial.items()),
        Variant(f"sparse-resnet, {LONG}", LONG, sparse, 4),
        Variant(f"sparse-resnet, {LONG}, stride 1", LONG, {**sparse, "stride": 1}, 4, only),
        *(Variant(f"sparse-resnet, {LONG}, {name}", LONG, {**sparse, **changes[name]}, 5) for name in lasting),
        Variant(f"sparse-resnet, {LONG}, fp32", LONG, {**sparse, **changes["fp32"]}, 5, ("drawn",)),
        Variant(f"mlp, {LONG}, T 25", LONG, {**mlp, **changes["T 25"]}, 5),
    ]


BORN = Variant("random-init", 1, {}, 1)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A row of the table. AUCs are means over ten splits by patient; "few" is with 32 labels.

    Attributes:
        cohort: simulated or drawn.
        variant: Of :func:`variants`, or a baseline or control.
        seed: Of the cohort and of the training.
        auc: Of `mixture` or of the drawn label, C chosen inside each training set, all labels.
        few: The same with few labels.
        auc_c10: All labels, C = 10.
        few_c10: Few labels, C = 10.
        arrangement: Of the label of that name, all labels, C chosen; simulated alone.
        lab: Of the lab, all labels, C chosen: a nuisance.
        loss: Of the last epoch.
        chance: Loss where nothing is learnt.
        rank: Effective rank of the last batch.
        seconds: Processor time of the training.
    """

    cohort: str
    variant: str
    seed: int
    auc: float
    few: float
    auc_c10: float
    few_c10: float
    arrangement: float = float("nan")
    lab: float = float("nan")
    loss: float = float("nan")
    chance: float = float("nan")
    rank: float = float("nan")
    seconds: float = float("nan")


@dataclass(frozen=True, eq=False)
class Cohort:
    """A store up to its bank, and its labels."""

    name: str
    seed: int
    store: Path
    labels: Path
    target: str
    truth: list[simulated.Slide] = field(default_factory=list)

    @cached_property
    def table(self) -> list[dict[str, str]]:
        """Rows of the table of labels, in the order of the store."""
        with self.labels.open() as file:
            rows = {row["slide_id"]: row for row in csv.DictReader(file)}
        return [rows[name] for name in giga.open(self.store).slides.ids]

    def judge(
        self,
        vectors: NDArray[np.floating],
        target: str,
        *,
        c: float | Literal["auto"] = "auto",
        few: bool = False,
        scale: bool,
    ) -> float:
        """Mean AUC over the splits of ``giga probe``, as it fits: ten by patient, C chosen in each training set."""
        labels, patients = ([row[c] for row in self.table] for c in (target, "patient_id"))
        splits, _ = make_splits(labels, patients, folds=FOLDS, seed=0)
        if few:
            splits = [subsample(split, labels, n_train=FEW, seed=0) for split in splits]
        folds = score(vectors, labels, splits, C=c, scale=scale, groups=patients)
        return float(np.mean([fold.auc for fold in folds]))

    def row(self, variant: str, vectors: NDArray[np.floating], *, scale: bool = True, **more: float) -> Run:
        """All scores of some vectors; those that are no embedding of views are scaled, like a mean of tiles."""
        return Run(
            cohort=self.name,
            variant=variant,
            seed=self.seed,
            auc=self.judge(vectors, self.target, scale=scale),
            few=self.judge(vectors, self.target, few=True, scale=scale),
            auc_c10=self.judge(vectors, self.target, c=PAPER_C, scale=scale),
            few_c10=self.judge(vectors, self.target, c=PAPER_C, few=True, scale=scale),
            arrangement=self.judge(vectors, "arrangement", scale=scale) if self.truth else float("nan"),
            lab=self.judge(vectors, "lab", scale=scale),
            **more,
        )


def cohort_of(name: str, folder: Path, seed: int) -> Cohort:
    """Made where it is missing: a simulated one per seed, one drawn one for all."""
    if name in STRENGTHS:
        path, labels, drawn = simulated.write(folder / f"{name}{seed}", seed=seed, strength=STRENGTHS[name])
        return Cohort(name, seed, path, labels, "mixture", drawn)
    made = write_cohort(folder / "drawn", slides=96, patients=48, labs=3, seed=0, size_px=(3072, 2304), workers=1)
    store = made.folder / "cohort.zarr"
    giga.tile(store, csv=made.cohort_csv, mpp=1.0, tile_px=128, workers=1)
    moco = {"epochs": 2, "max_tiles": 1024, "batch_size": 64, "queue": 1024}  # as `giga demo`
    giga.pretrain_tiles(store, name="moco", precision="bf16", workers=1, **moco)
    giga.bank(store, encoder="moco", augmentations=12, draws=32, precision="bf16", compile="no", workers=1)
    return Cohort(name, seed, store, made.labels_csv, "label")


def controls(cohort: Cohort) -> Iterator[Run]:
    """The baselines, and what the truth of a simulated cohort says: classes differ in what they should and no more."""
    opened = giga.open(cohort.store)
    bank = opened.groups(Bank)[0].mapped()
    giga.embed(cohort.store, aggregator="mean", name="mean")
    mean = giga.open(cohort.store).embedding("mean").read()
    yield cohort.row("mean of tiles", mean)
    yield cohort.row("mean of tiles, whitened", mean @ whitening_matrix(slide_covariance(bank.slides())))
    yield cohort.row(f"mean of the tiles of {VIEWS} views of 5", drawn_means(cohort))
    yield cohort.row("number of tiles", opened.tiles.done().counts.astype(np.float64)[:, None])
    if not cohort.truth:
        return
    rngs = [keyed_rng(cohort.seed, "control", i) for i in range(len(cohort.truth))]
    pairs = [simulated.near_alike(s, r, tiles=5, views=VIEWS) for s, r in zip(cohort.truth, rngs, strict=True)]
    yield cohort.row("truth: composition", np.stack([simulated.composition(s) for s in cohort.truth]))
    yield cohort.row("truth: neighbours alike", np.array([[simulated.neighbours_alike(s)] for s in cohort.truth]))
    yield cohort.row(f"truth: near pairs alike in {VIEWS} views of 5", np.stack(pairs))
    yield cohort.row("Moran's I of features", np.stack([simulated.moran(s) for s in cohort.truth]))


def drawn_means(cohort: Cohort) -> NDArray[np.float64]:
    """What drawing tiles costs: the mean of as many as an embedding sees, (slides, features)."""
    features = giga.open(cohort.store).groups(Features)[0]
    means = []
    for i, count in enumerate(features.done().counts.tolist()):
        tiles = keyed_rng(cohort.seed, "drawn", i).integers(0, count, 5 * VIEWS)
        means.append(features.read(i)[tiles].mean(axis=0, dtype=np.float64))
    return np.stack(means)


def trained(cohort: Cohort, variant: Variant, *, aggregator: str = "model") -> Run:
    """Train a variant, embed with it, probe it."""
    options = {**DEFAULT, **variant.options}
    slides = len(cohort.table)
    per_epoch = -(-slides // options["batch_size"])
    began = time.process_time()
    made = giga.train(
        cohort.store,
        name="study",
        epochs=max(1, round(variant.steps / per_epoch)),
        seed=cohort.seed,
        redo=True,
        **options,
    )
    seconds = time.process_time() - began
    giga.embed(
        cohort.store, model="study", name="study", views=VIEWS, seed=cohort.seed, redo=True, aggregator=aggregator
    )
    vectors = giga.open(cohort.store).array("embeddings/study/vectors")[:]
    return cohort.row(
        variant.name, vectors, scale=False, loss=made.loss, chance=made.chance, rank=made.rank, seconds=seconds
    )


def known(path: Path) -> list[Run]:
    """The rows that are there."""
    if not path.exists():
        return []
    kinds = {f.name: {"str": str, "int": int, "float": float}[str(f.type)] for f in fields(Run)}
    with path.open() as file:
        return [Run(**{k: kinds[k](v) for k, v in row.items()}) for row in csv.DictReader(file)]


def append(path: Path, run: Run) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        table = csv.DictWriter(file, [f.name for f in fields(Run)], lineterminator="\n")
        if new:
            table.writeheader()
        table.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in asdict(run).items()})
    print(f"{run.cohort} {run.seed} {run.variant}: {run.auc:.3f} {run.few:.3f} ({run.seconds:.0f} s)", flush=True)


def study(options: argparse.Namespace) -> None:
    """Run what is not there, until the time is over."""
    began, done = time.monotonic(), {(r.cohort, r.variant, r.seed) for r in known(options.csv)}
    for tier, name, seed in itertools.product(TIERS, options.cohorts, range(options.seeds)):
        mine = [v for v in variants() if v.tier == tier and name in v.cohorts and fnmatch.fnmatch(v.name, options.only)]
        todo = [v for v in mine if (name, v.name, seed) not in done]
        controlled = tier != 1 or (name, BORN.name, seed) in done
        if not todo and controlled:
            continue
        cohort = cohort_of(name, options.folder, seed)
        if not controlled:
            for run in [*controls(cohort), trained(cohort, BORN, aggregator="random-init")]:
                append(options.csv, run)
        for variant in todo:
            if time.monotonic() - began > options.seconds:
                return
            append(options.csv, trained(cohort, variant))


def tables(runs: list[Run]) -> str:
    """The tables of `benchmarks/study.md`: means over seeds, and what a change does, seed by seed."""
    lines = []
    for cohort in COHORTS:
        by_variant: dict[str, dict[int, Run]] = defaultdict(dict)
        for run in (r for r in runs if r.cohort == cohort):
            by_variant[run.variant][run.seed] = run
        if not by_variant:
            continue
        columns = ["", "seeds", "all labels", f"{FEW} labels", "all, C = 10", "arrangement", "lab"]
        columns += ["change, all", f"change, {FEW}", "rank", "s"]
        if cohort not in STRENGTHS:
            columns.remove("arrangement")
        lines += [f"### {cohort}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for variant, found in by_variant.items():
            base = by_variant.get(", ".join(variant.split(", ")[:2]), {})
            cells = [variant, str(len(found)), *(_cell(found, name) for name in ("auc", "few", "auc_c10"))]
            cells += [_cell(found, "arrangement")] if cohort in STRENGTHS else []
            cells += [_cell(found, "lab"), _change(found, base, "auc"), _change(found, base, "few")]
            rank, spent = (statistics.mean(getattr(r, k) for r in found.values()) for k in ("rank", "seconds"))
            cells += [f"{rank:.0f}", f"{spent:.0f}"] if math.isfinite(spent) else ["", ""]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(found: dict[int, Run], name: str) -> str:
    values = [getattr(run, name) for run in found.values()]
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}".replace("0.", ".")


def _change(found: dict[int, Run], base: dict[int, Run], name: str) -> str:
    """Mean and standard deviation of the difference to the same aggregator and steps, seed by seed."""
    pairs = [getattr(found[s], name) - getattr(base[s], name) for s in found.keys() & base.keys()]
    if not pairs or found is base or all(found[s] is base[s] for s in found.keys() & base.keys()):
        return ""
    spread = f" ± {statistics.stdev(pairs):.3f}" if len(pairs) > 1 else ""
    return f"{statistics.mean(pairs):+.3f}{spread}".replace("0.", ".")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the cohorts are made")
    parser.add_argument("--csv", type=Path, default=HERE / "study.csv")
    parser.add_argument("--only", default="*", help="pattern of the variants to run")
    parser.add_argument("--cohorts", nargs="+", choices=COHORTS, default=COHORTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no run after that")
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args()
    if options.tables:
        page = HERE / "study.md"
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{tables(known(options.csv))}{END}{rest.partition(END)[2]}")
    elif options.folder is None:
        parser.error("--folder is missing")
    else:
        study(options)


if __name__ == "__main__":
    main()
