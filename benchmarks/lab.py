"""Is the lab still in it? How well slide vectors tell the lab of a slide, beside the label, and what lowers it.

python benchmarks/lab.py --folder DIR [--csv benchmarks/lab.csv] [--cohorts NAME ...] [--seeds N ...] [--only PATTERN]
python benchmarks/lab.py --tables [--csv benchmarks/lab.csv]

The first form makes the cohorts under DIR, computes the vectors and appends one row each to the table; a row that is
there is skipped, so an interrupted run goes on. The second form puts the tables into `benchmarks/lab.md`. Cohorts:

- `drawn`: 96 slides of 48 patients from 3 labs by the generator of `giga demo`, banks with and without a jitter of
  stains. A seed is a cohort of its own, with a tile encoder, a bank and a training of its own.
- `simulated` (`simulated.py`): features only, 4 labs; a seed is a cohort of its own.
- `idc`: real tissue, `../shared/cohorts/idc.npz`. Its labs are not known: it says what each thing costs the label.

Choices were made on seed 0. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cohorts as tissue
import judge
import numpy as np
import simulated
from lab_cohort import KINDS, Cohort

import gigacli as giga
from gigacli.demo.cohort import write_cohort
from gigacli.nn.closed_forms import ViewWhitened, WhitenedMean
from gigacli.nn.join import Join
from gigacli.probing.linear import score
from gigacli.probing.retrieval import agreement, nearest
from gigacli.probing.splits import Split, make_splits, subsample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab_cohort import Rows

HERE = Path(__file__).parent
IDC = Path("../shared/cohorts/idc.npz")
BEGIN, END = "<!-- tables: python benchmarks/lab.py --tables -->", "<!-- end of tables -->"
COHORTS, STAINS = ("drawn", "simulated", "idc"), (0.0, 0.05, 0.2)
FEW, FOLDS = 32, 10
LESS = "whitened-mean, slides, less the mean of its lab"  # for comparison: it takes to know the labs
TRAINED = {  # aggregator: kinds of whitening that it is trained with, by the jitter of stains
    "transformer": {0.0: ("slides", "cut", "cut slides", "views"), 0.2: ("slides", "cut"), 0.05: ("slides",)},
    "sparse-resnet": {0.0: ("slides", "cut"), 0.2: ("slides",)},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table. Scores are means over ten splits by patient, C chosen inside each training set.

    Attributes:
        cohort: Of :data:`COHORTS`.
        seed: Of the cohort and of the training.
        stain: Strength of the jitter of stains in the bank.
        vector: What was judged.
        label: AUC of the label, all labels.
        few: The same with 32 labels; of `idc` with 50.
        across: AUC of the label in a lab that no training slide is of; mean over labs.
        lab: AUC of the lab, mean over each against the others.
        balanced: Balanced accuracy of the lab.
        between: Share of the variance of the vectors that lies between labs.
        neighbours: Share of slides whose nearest slide of another patient is of the same lab.
        chance: The same of a slide of another patient drawn at random.
        seconds: Processor time of the training.
    """

    cohort: str
    seed: int
    stain: float
    vector: str
    label: float
    few: float
    across: float = float("nan")
    lab: float = float("nan")
    balanced: float = float("nan")
    between: float = float("nan")
    neighbours: float = float("nan")
    chance: float = float("nan")
    seconds: float = float("nan")


def judged(cohort: Cohort, vector: str, rows: Rows, *, scale: bool = False, seconds: float = float("nan")) -> Row:
    """All scores of vectors (slides, p): `scale` standardises them in training, others are centred, at length 1."""
    if not scale:
        rows = Join.fit({"vector": rows}).transform({"vector": rows})
        rows = rows @ np.linalg.svd(rows, full_matrices=False)[2].T  # a rotation, so that nothing is lost
    known = {"cohort": cohort.name, "seed": cohort.seed, "stain": cohort.stain, "vector": vector, "seconds": seconds}
    labels = cohort.column("label")
    if cohort.name == "idc":
        there = np.flatnonzero(np.asarray(labels) != "")
        halves = judge.judge(rows[there], np.array([int(labels[i]) for i in there]), scale=scale).halves()
        return Row(**known, label=halves["all"], few=halves["few"])
    patients, labs = cohort.column("patient_id"), cohort.column("lab")
    splits, of_lab = (make_splits(values, patients, folds=FOLDS, seed=0)[0] for values in (labels, labs))
    few = [subsample(split, labels, n_train=FEW, seed=0) for split in splits]
    every = np.asarray(labs)
    others = [Split(train=np.flatnonzero(every != lab), test=np.flatnonzero(every == lab)) for lab in sorted({*labs})]

    def fits(values: list[str], sides: list[Split]) -> list[Any]:
        return score(rows, values, sides, C="auto", scale=scale, groups=patients)

    tasks = {"label": (labels, splits), "few": (labels, few), "across": (labels, others)}
    aucs = {name: float(np.mean([fold.auc for fold in fits(*task)])) for name, task in tasks.items()}
    lab = fits(labs, of_lab)
    centred = (rows - rows.mean(axis=0)) / (rows.std(axis=0) + 1e-6 if scale else 1)
    alike = agreement(labs, patients, nearest(centred, 1, groups=patients)[0][:, 0]) or (float("nan"), float("nan"))
    return Row(
        **known,
        **aucs,
        lab=float(np.mean([fold.auc for fold in lab])),
        balanced=float(np.mean([fold.metrics["balanced_accuracy"] for fold in lab])),
        between=float(np.square(of_labs(centred, labs)).sum() / np.square(centred).sum()),
        neighbours=alike[0],
        chance=alike[1],
    )


def of_labs(vectors: Rows, labs: list[str]) -> Rows:
    """For every slide the mean of the vectors of its lab, (slides, p)."""
    _, of = np.unique(labs, return_inverse=True)
    means = np.stack([vectors[of == lab].mean(axis=0) for lab in range(of.max() + 1)])
    return means[of]


@dataclass(frozen=True)
class Job:
    """Vectors that are made together, by their names, and the function that makes and judges them."""

    names: tuple[str, ...]
    make: Callable[[], list[Row]]


def untrained(cohort: Cohort) -> Iterator[Job]:
    """What needs no training."""

    def mean() -> list[Row]:
        features = cohort.store.features(cohort.bank)
        rows = np.stack([features.read(row).mean(axis=0, dtype=np.float64) for row in cohort.slides])
        return [judged(cohort, "mean of tiles", rows, scale=True)]

    def less() -> list[Row]:
        rows = cohort.closed("slides")[WhitenedMean.name]
        return [judged(cohort, LESS, rows - of_labs(rows, cohort.column("lab")))]

    if not cohort.stain:
        yield Job(("mean of tiles",), mean)
    if not cohort.stain and cohort.name != "idc":
        yield Job((LESS,), less)
    for kind in KINDS:
        names = {form.name: f"{form.name}, {kind}" for form in (WhitenedMean, ViewWhitened)}

        def both(kind: str = kind, names: dict[str, str] = names) -> list[Row]:
            return [judged(cohort, names[form], rows) for form, rows in cohort.closed(kind).items()]

        yield Job(tuple(names.values()), both)


def trained(cohort: Cohort, aggregator: str) -> Iterator[Job]:
    """Encoders alone, and joined with the closed form as giga joins them."""
    for kind in TRAINED[aggregator].get(cohort.stain, ()):
        names = (f"{aggregator}, {kind}", f"{aggregator}, {kind}, joined")

        def both(kind: str = kind, names: tuple[str, str] = names) -> list[Row]:
            alone, seconds = cohort.trained(aggregator, kind)
            blocks = {"encoder": alone, ViewWhitened.name: cohort.closed("augmentations")[ViewWhitened.name]}
            joined = Join.fit(blocks).transform(blocks)
            return [judged(cohort, names[0], alone, seconds=seconds), judged(cohort, names[1], joined)]

        yield Job(names, both)


def cohort_of(name: str, folder: Path, seed: int, stain: float) -> Cohort | None:
    """The cohort of a seed with a bank of a strength, made where it is missing; None where there are no pixels."""
    if name != "drawn" and stain:
        return None
    if name == "idc":
        with np.load(IDC) as file:
            arrays = {key: file[key] for key in ("patient", "tiles", "xy", "plain", "augmented", "label")}
        tissue.write_idc(folder / "idc.zarr", arrays)
        labels = {f"p{p}": "" if y < 0 else str(y) for p, y in zip(arrays["patient"], arrays["label"], strict=True)}
        table = {slide: {"label": label} for slide, label in labels.items()}
        return Cohort(name, seed, folder / "idc.zarr", table, tissue.NAME)
    if name == "simulated":
        path, file, _ = simulated.write(folder / f"simulated{seed}", seed=seed)
        table = {slide: row | {"label": row["mixture"]} for slide, row in read(file).items()}
        return Cohort(name, seed, path, table, "simulated")
    drawn = write_cohort(folder / f"drawn{seed}", slides=96, patients=48, labs=3, seed=seed, size_px=(3072, 2304))
    path, bank = drawn.folder / "cohort.zarr", f"stain{stain:g}"
    giga.tile(path, csv=drawn.cohort_csv, mpp=1.0, tile_px=128)
    moco = {"epochs": 2, "max_tiles": 1024, "batch_size": 64, "queue": 1024}  # as `giga demo`
    giga.pretrain_tiles(path, name="moco", precision="bf16", seed=seed, **moco)
    small = {"augmentations": 12, "draws": 16, "precision": "bf16", "compile": "no"}
    giga.bank(path, encoder="moco", name=bank, stain=stain, **small)
    return Cohort(name, seed, path, read(drawn.labels_csv), bank, stain)


def read(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a table by slide."""
    with path.open() as file:
        return {row["slide_id"]: row for row in csv.DictReader(file)}


def known(path: Path) -> list[Row]:
    """The rows that are there."""
    if not path.exists():
        return []
    kinds = {f.name: {"str": str, "int": int, "float": float}[str(f.type)] for f in fields(Row)}
    with path.open() as file:
        return [Row(**{k: kinds[k](v) for k, v in row.items()}) for row in csv.DictReader(file)]


def append(path: Path, rows: list[Row]) -> None:
    """Add rows to the table, and say so."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        table = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        if new:
            table.writeheader()
        for row in rows:
            table.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in asdict(row).items()})
            print(f"{row.cohort} {row.seed} {row.stain:g} {row.vector}: {row.label:.3f} {row.few:.3f}", flush=True)


Found = dict[tuple[str, float], dict[int, Row]]
"""Rows by vector and stain, then by seed."""


def tables(rows: list[Row]) -> str:
    """Two tables per cohort: scores, and what a change of whitening or bank does, seed by seed."""
    forms = [f"{form.name}, {kind}" for form in (WhitenedMean, ViewWhitened) for kind in KINDS]
    encoders = [f"{a}, {kind}{end}" for a in TRAINED for kind in TRAINED[a][0.0] for end in ("", ", joined")]
    order, lines = ["mean of tiles", LESS, *forms, *encoders], []
    for name in COHORTS:
        found: Found = defaultdict(dict)
        for row in sorted(rows, key=lambda row: (order.index(row.vector), row.stain, row.seed)):
            if row.cohort == name:
                found[row.vector, row.stain][row.seed] = row
        known = slice(2 if name == "idc" else None)
        scores = ["label", "few", "across", "lab", "balanced", "neighbours", "between"][known]
        lines += [f"### {name}", "", *table(scores, {key: list(each.values()) for key, each in found.items()})]
        lines += ["", f"What changes ({name}):", "", *changes(["label", "few", "across", "between"][known], found), ""]
    return "\n".join(lines)


def table(scores: list[str], found: dict[tuple[str, float], list[Row]]) -> Iterator[str]:
    """Lines: mean and deviation over seeds."""
    yield f"| vector | stain | seeds | {' | '.join(scores)} |"
    yield "|---" * (3 + len(scores)) + "|"
    for (vector, stain), each in found.items():
        cells = [vector, f"{stain:g}", str(len(each)), *(cell([getattr(row, s) for row in each]) for s in scores)]
        yield f"| {' | '.join(cells)} |"


def changes(scores: list[str], found: Found) -> Iterator[str]:
    """Lines: the difference to the same vector without jitter, or without it to giga's whitening, on the same seeds."""
    yield f"| vector | stain | against | seeds | {' | '.join(scores)} |"
    yield "|---" * (4 + len(scores)) + "|"
    for (vector, stain), each in found.items():
        maker, *rest = vector.split(", ")
        usual = "augmentations" if maker in (WhitenedMean.name, ViewWhitened.name) else "slides"
        base = vector if stain else ", ".join([maker, usual, *rest[1:]])
        seeds = sorted(each.keys() & found.get((base, 0.0), {}).keys())
        if (base, 0.0) != (vector, stain) and seeds and vector not in (LESS, "mean of tiles"):
            against = found[base, 0.0]
            gaps = [cell([getattr(each[i], s) - getattr(against[i], s) for i in seeds], sign="+") for s in scores]
            yield f"| {vector} | {stain:g} | {'no jitter' if stain else base} | {len(seeds)} | {' | '.join(gaps)} |"


def cell(values: list[float], *, sign: str = "") -> str:
    """Mean and standard deviation."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.3f}{spread}".replace("0.", ".")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the cohorts are made")
    parser.add_argument("--csv", type=Path, default=HERE / "lab.csv")
    parser.add_argument("--only", default="*", help="pattern of the vectors to make")
    parser.add_argument("--cohorts", nargs="+", choices=COHORTS, default=COHORTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--stains", nargs="+", type=float, default=STAINS)
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args()
    if options.tables:
        page = HERE / "lab.md"
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{tables(known(options.csv))}{END}{rest.partition(END)[2]}")
        return
    if options.folder is None:
        parser.error("--folder is missing")
    for name in options.cohorts:
        for seed in options.seeds:
            for stain in options.stains:
                made = cohort_of(name, options.folder, seed, stain)
                if made is None:
                    continue
                jobs = [job for aggregator in TRAINED for job in trained(made, aggregator)]
                if name != "idc" or not seed:  # of it there is one, whatever the seed
                    jobs = [*untrained(made), *jobs]
                done = {(r.cohort, r.seed, r.stain, r.vector) for r in known(options.csv)}
                for job in jobs:
                    lacking = [n for n in job.names if (name, seed, stain, n) not in done]
                    if lacking and any(fnmatch.fnmatch(n, options.only) for n in job.names):
                        append(options.csv, job.make())


if __name__ == "__main__":
    main()
