"""The study behind the defaults of giga: slide vectors of six cohorts, all made by `giga.train` and `giga.embed`.

python benchmarks/study.py --folder DIR [--csv benchmarks/study.csv] [--cohorts NAME ...] [--only PATTERN] [--tier 9]
python benchmarks/study_tables.py

The first form makes the cohorts (`cohorts.py`) under DIR, makes and judges (`judge.py`) every vector, and appends one
row a vector to the table; what is there is skipped, so an interrupted study goes on. Vectors come in the order of their
importance: by tier, then by seed, then by cohort. Two may run side by side with different --cohorts. The
second form puts the tables into `benchmarks/study.md`. Set OMP_NUM_THREADS=1; hours of one core.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import itertools
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import simulated
from cohorts import COHORTS, ENCODERS, SIZES, Cohort, cohort_of

import gigacli as giga
from gigacli.nn.device import pick_device, pick_precision
from gigacli.nn.join import Join

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent
SEEDS = 3
SCORES = ("all", "few", "all_first", "few_first", "all_second", "few_second")
SCORES += ("auto_all", "auto_few", "c10_all", "c10_few", "arrangement", "seconds")
FIELDS = ("cohort", "vector", "join", "seed", *SCORES, "date", "commit", "device")
FORMS = ("whitened-mean", "mean-std", "view-whitened", "gmm", "arrangement")
ALONE, JOINED, SPATIAL = "alone", "joined", "joined, arrangement"
"""The vector of an encoder; beside the closed form that its model keeps, as by default; and with a block more."""


@dataclass(frozen=True)
class Encoder:
    """A slide encoder that is trained.

    Attributes:
        name: In the table: the aggregator, and what differs from its defaults.
        options: Of `giga.train`.
        tier: 1 is trained first.
        cohorts: Where.
        seeds: How many.
    """

    name: str
    options: dict[str, Any]
    tier: int
    cohorts: tuple[str, ...] = COHORTS
    seeds: int = SEEDS


def encoders() -> list[Encoder]:
    """All that are compared: the sparse CNN, whose step costs ten of the transformer, is varied least."""
    light, sparse = {"aggregator": "transformer"}, {"aggregator": "sparse-resnet"}
    drawn, simulations = tuple(ENCODERS), tuple(SIZES)
    changes: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
        "T 16": (COHORTS, {"tiles": 16}),
        "T 25": (COHORTS, {"tiles": 25}),
        "whitened by augmentations": (COHORTS, {"whitening": "augmentations"}),
        "not whitened": (COHORTS, {"whiten": False}),
        "not standardised": (COHORTS, {"standardise": False}),
        "1200 steps": (COHORTS, {"steps": 1200}),
        "batch 32, 600 steps": (drawn, {"steps": 600, "batch_size": 32}),
        "batch 32, 1800 steps": (drawn, {"steps": 1800, "batch_size": 32}),
        "T 16, 1200 steps": ((*drawn, "idc"), {"steps": 1200, "tiles": 16}),
    }
    small = {**sparse, "steps": 1200, "batch_size": 32}  # as `giga demo` trains
    return [
        Encoder("transformer", light, 1),
        Encoder("sparse-resnet", sparse, 2, ("idc",)),  # whose bars are of the default
        Encoder("sparse-resnet", sparse, 2, (*simulations, *drawn), 1),
        Encoder("sparse-resnet, batch 128, 1200 steps", {**sparse, "steps": 1200, "batch_size": 128}, 2, ("idc",)),
        *(Encoder(f"transformer, {name}", {**light, **more}, 3, at) for name, (at, more) in changes.items()),
        *(Encoder(name, {"aggregator": name}, 4) for name in ("mlp", "attention")),
        Encoder("sparse-resnet", sparse, 5, (*simulations, *drawn)),
        Encoder("sparse-resnet, batch 32, 1200 steps", small, 5, drawn[:1]),
        *(Encoder(f"sparse-resnet, T {t}", {**sparse, "tiles": t}, 6, ("large", "idc"), 1) for t in (16, 25)),
    ]


class Study:
    """The vectors of one cohort, and the table. What a store holds is not made again."""

    def __init__(self, cohort: Cohort, table: Path) -> None:
        self.cohort, self.table = cohort, table
        self.known = known(table)

    def embedded(self, name: str, **options: Any) -> tuple[NDArray[np.float32], float]:
        """Vectors by `giga.embed`, and the processor seconds that they took."""
        began = time.process_time()
        made = giga.embed(self.cohort.store, name=self.named(name), seed=self.cohort.seed, sync=False, **options)
        spent = time.process_time() - began
        return giga.open(self.cohort.store).embedding(made.embedding).read(), spent if made.done else float("nan")

    def form(self, aggregator: str) -> tuple[NDArray[np.float32], float]:
        """Vectors that need no training."""
        return self.embedded(aggregator, aggregator=aggregator, features=self.cohort.features)

    def trained(self, name: str, options: dict[str, Any]) -> float:
        """Train a model, and return the processor seconds; not those of a part of it."""
        began = time.process_time()
        made = giga.train(
            self.cohort.store,
            bank=self.cohort.features,
            name=self.named(name),
            seed=self.cohort.seed,
            sync=False,
            **options,
        )
        return time.process_time() - began if made.done and not made.resumed_at else float("nan")

    def named(self, name: str) -> str:
        """What a vector or model is called in the store."""
        return f"{name.replace(',', '').replace(' ', '-')}-{self.cohort.features}-{self.cohort.seed}"

    def add(self, vector: str, join: str, vectors: NDArray[np.floating], seconds: float = float("nan")) -> None:
        """Judge vectors, unless that is done: the mean of tiles and controls standardised, all others as they are."""
        key = (self.cohort.name, vector, join, str(self.cohort.seed))
        if key in self.known:
            return
        plain = vector == "mean" or vector.startswith("truth")
        scores = {**self.cohort.judged(vectors, scale=plain), "seconds": seconds}
        numbers = {name: f"{scores[name]:.4f}" for name in SCORES if name in scores}
        row = dict(zip(FIELDS, key, strict=False)) | numbers | where()
        with self.table.open("a", newline="") as file:
            csv.DictWriter(file, FIELDS, lineterminator="\n").writerow(row)
        self.known.add(key)
        print(*key, f"{scores['all']:.3f} {scores['few']:.3f}, {seconds:.0f} s", flush=True)

    def forms(self) -> None:
        """Closed forms, the join of two of them, untrained encoders, and what the truth of a simulated cohort says."""
        for name in ("mean", *FORMS):
            self.add(name, "", *self.form(name))
        self.join("view-whitened", SPATIAL, {})
        for name in ("transformer", "sparse-resnet"):
            born = f"{name}, untrained"
            self.trained(born, {"aggregator": name, "steps": 1, "join": False})
            self.add(born, ALONE, self.embedded(born, model=self.named(born), aggregator="random-init")[0])
        for name, vectors in truths(self.cohort.truth):
            self.add(f"truth: {name}", "", vectors)

    def encoder(self, encoder: Encoder) -> None:
        """All vectors of a training; of the default of the sparse CNN those that join it with the transformer, too."""
        seconds, name = self.trained(encoder.name, encoder.options), self.named(encoder.name)
        blocks = {"model": self.embedded(f"{encoder.name}, alone", model=name, closed_form=False)[0]}
        self.add(encoder.name, ALONE, blocks["model"], seconds)
        self.add(encoder.name, JOINED, self.embedded(encoder.name, model=name)[0], seconds)
        self.join(encoder.name, SPATIAL, blocks)
        if encoder.name == "sparse-resnet":
            other = self.named("transformer")
            blocks["other"] = self.embedded("transformer, alone", model=other, closed_form=False)[0]
            for join in (JOINED, SPATIAL):
                self.join("both encoders", join, blocks)

    def join(self, vector: str, join: str, blocks: dict[str, NDArray[np.float32]]) -> None:
        """Blocks beside the view-whitened form, and beside the arrangement where it is asked for."""
        whole = {**blocks, "view-whitened": self.form("view-whitened")[0]}
        if join == SPATIAL:
            whole["arrangement"] = self.form("arrangement")[0]
        self.add(vector, join, Join.fit(whole).transform(whole))


def truths(slides: list[simulated.Slide]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Controls: the two labels differ in what they are about and in nothing else."""
    if slides:
        yield "number of tiles", np.array([[len(s.kind)] for s in slides], dtype=np.float64)
        yield "composition", np.stack([simulated.composition(s) for s in slides])
        yield "neighbours alike", np.array([[simulated.neighbours_alike(s)] for s in slides])
        yield "Moran's I of features", np.stack([simulated.moran(s) for s in slides])


def known(table: Path) -> set[tuple[str, str, str, str]]:
    """Cohort, vector, join and seed of the rows that are there; a table that is not is begun."""
    if not table.exists():
        table.write_text(",".join(FIELDS) + "\n")
    with table.open() as file:
        return {(row["cohort"], row["vector"], row["join"], row["seed"]) for row in csv.DictReader(file)}


def where() -> dict[str, str]:
    """When, with which giga, and on what."""
    git = ["git", "-C", str(HERE), "log", "-1", "--format=%h", "--", "../gigacli"]
    device = pick_device("auto")
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip(),
        "device": f"{device.type} {pick_precision('auto', device)}",
    }


def study(options: argparse.Namespace) -> None:
    """Make and judge what is not there, until the time is over."""
    began, cohorts = time.monotonic(), {}
    wanted = [e for e in encoders() if fnmatch.fnmatch(e.name, options.only)]
    for tier, seed, name in itertools.product(range(options.tier + 1), range(options.seeds), options.cohorts):
        mine = [e for e in wanted if e.tier == tier and name in e.cohorts and seed < e.seeds]
        forms = tier == 0 and fnmatch.fnmatch("forms", options.only)
        if not mine and not forms:
            continue
        if (name, seed) not in cohorts:
            cohorts[name, seed] = Study(cohort_of(name, options.folder, seed), options.csv)
        if forms:
            cohorts[name, seed].forms()
        for encoder in mine:
            if time.monotonic() - began > options.seconds:
                return
            cohorts[name, seed].encoder(encoder)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the cohorts are made")
    parser.add_argument("--csv", type=Path, default=HERE / "study.csv")
    parser.add_argument("--only", default="*", help="pattern of the encoders to train; forms: none")
    parser.add_argument("--cohorts", nargs="+", choices=COHORTS, default=COHORTS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--tier", type=int, default=max(e.tier for e in encoders()), help="the last to do")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no training after that")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    study(options)


if __name__ == "__main__":
    main()
