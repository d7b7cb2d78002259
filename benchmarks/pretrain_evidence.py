"""Is MoCo on a cohort's own tiles worth it? A linear probe of what the generator of the demo knows about every tile.

    python benchmarks/pretrain_evidence.py FOLDER [--seeds 0 1 2] [--epochs 6] [--slides 48] [--only-train]

Draws a cohort under FOLDER, tiles it, trains one encoder per seed, and compares its features (what `giga bank` keeps)
with those of the same network as it was born. Every part is kept and continued, so it can be run in pieces. So few
steps ask for a smaller queue and a faster key encoder than the defaults of the command; the temperature is its own
(0.2 leaves the vectors nearly all alike after as many steps). On two free cores a seed takes minutes. The probe
is a logistic regression on standardised features, its C chosen inside the training patients, scored by balanced
accuracy:

- tile type (stroma, glandular, solid) of patients that were held out, with all tiles and with 100,
- the same of a laboratory that was held out,
- the laboratory, of patients that were held out: lower is better, as nobody wants features that tell who stained; by
  the same probe ("lab") and by the nearest of the laboratories' mean features ("stain": what stands out, where the
  probe finds whatever is left).
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, GroupKFold, LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import gigacli as giga
from gigacli.cli.console import ConsoleProgress
from gigacli.demo.anatomy import BACKGROUND, TILE_TYPES
from gigacli.demo.cohort import write_cohort
from gigacli.nn.tile_encoder import random_resnet18, weights_to_bytes
from gigacli.randomness import keyed_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gigacli.demo.cohort import DemoCohort
    from gigacli.store.store import Store

PURE = 0.6
"""Least share of a tile that its type must have."""

COMMON = 100
"""Least number of tiles of a type that is asked for: of fewer, the score says nothing."""

FEW = 100


def truth_of(store: Store, cohort: DemoCohort) -> dict[str, np.ndarray]:
    """Per tile, over all slides: row of the slide, number of the tile, type, patient, lab; mixed tiles are left out."""
    found = []
    for row, slide in enumerate(store.slides.rows):
        truth = np.load(cohort.truth / f"{slide.id}.npz")
        cell, (corners, side) = int(truth["downsample"]), store.tiles.grid(row)
        for tile, corner in enumerate(corners):
            (x0, y0), (x1, y1) = (np.rint(v / cell).astype(int) for v in (corner, corner + side))
            types = np.bincount(truth["tile_type"][y0:y1, x0:x1].ravel(), minlength=len(TILE_TYPES))
            if types.argmax() != BACKGROUND and types.max() >= PURE * types.sum():
                found.append((row, tile, int(types.argmax()), slide.patient, slide.id.split("_")[0]))
    names = ("row", "tile", "type", "patient", "lab")
    truth = {name: np.array(values) for name, values in zip(names, zip(*found, strict=True), strict=True)}
    common = np.bincount(truth["type"])[truth["type"]] >= COMMON
    return {name: values[common] for name, values in truth.items()}


def fitted(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> GridSearchCV:
    """A logistic regression whose C was chosen on other patients of the training set."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, class_weight="balanced"))
    inner = list(GroupKFold(3).split(x, y, groups))
    grid = {"logisticregression__C": [1e-3, 1e-2, 1e-1]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GridSearchCV(probe, grid, cv=inner, scoring="balanced_accuracy").fit(x, y)


def scores(x: np.ndarray, truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Balanced accuracies, means over the folds."""
    patients, kind, lab = truth["patient"], truth["type"], truth["lab"]

    def mean(folds: Iterator[tuple[np.ndarray, np.ndarray]], y: np.ndarray, few: int | None = None) -> float:
        said = []
        for i, (train, test) in enumerate(folds):
            chosen = np.random.default_rng(i).permutation(train)[:few]
            model = fitted(x[chosen], y[chosen], patients[chosen])
            said.append(balanced_accuracy_score(y[test], model.predict(x[test])))
        return float(np.mean(said))

    by_patient = list(GroupKFold(4, shuffle=True, random_state=0).split(x, kind, patients))
    by_lab = list(LeaveOneGroupOut().split(x, kind, lab))
    return {
        "type": mean(by_patient, kind),
        f"type, {FEW} tiles": mean(by_patient, kind, FEW),
        "type, new lab": mean(by_lab, kind),
        "lab": mean(by_patient, lab),
        "stain": float(np.mean([balanced_accuracy_score(lab[b], _centroids(x, lab, a, b)) for a, b in by_patient])),
    }


def _centroids(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Class of the nearest centroid of standardised features."""
    scaler = StandardScaler().fit(x[train])
    z, w = scaler.transform(x[train]), scaler.transform(x[test])
    classes = np.unique(y)
    centres = np.stack([z[y[train] == k].mean(0) for k in classes])
    return classes[((w[:, None] - centres) ** 2).sum(2).argmin(1)]


def features(store: Store, folder: Path, name: str, encoder: str, truth: dict[str, np.ndarray]) -> np.ndarray:
    giga.bank(store, encoder=encoder, name=name, augmentations=1, draws=1)
    rows = {row: store.features(name).read(row) for row in np.unique(truth["row"]).tolist()}
    pairs = zip(truth["row"].tolist(), truth["tile"].tolist(), strict=True)
    return np.stack([rows[row][tile] for row, tile in pairs]).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--slides", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.12)
    parser.add_argument("--queue", type=int, default=1024)
    parser.add_argument("--momentum", type=float, default=0.99)
    parser.add_argument("--temperature", type=float, default=0.07)
    parser.add_argument("--mpp", type=float, default=2.0)
    parser.add_argument("--tile-px", type=int, default=64)
    parser.add_argument("--name", default="moco")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only-train", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cohort = write_cohort(options.folder, slides=options.slides, patients=24, labs=4)
    path = options.folder / "cohort.zarr"
    giga.tile(path, csv=cohort.cohort_csv, mpp=options.mpp, tile_px=options.tile_px, qc=None)
    store = giga.open(path, write=True)
    table: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        name = f"{options.name}-{seed}"
        with ConsoleProgress() as progress:
            trained = giga.pretrain_tiles(
                store, name=name, seed=seed, epochs=options.epochs, batch_size=options.batch_size, lr=options.lr,
                queue=options.queue, momentum=options.momentum, temperature=options.temperature, progress=progress,
            )  # fmt: skip
        print(
            f"{name}: {trained.tiles} tiles x {trained.epochs} epochs, {trained.steps} steps, {trained.seconds:.0f} s, "
            f"loss {trained.loss:.2f} of {trained.chance:.2f}, queue accuracy {trained.queue_accuracy:.2f}, "
            f"rank {trained.rank:.0f} {trained.warning}",
            flush=True,
        )
        if options.only_train:
            continue
        truth = truth_of(store, cohort)
        born = options.folder / f"born-{seed}.safetensors"
        born.write_bytes(weights_to_bytes(random_resnet18(keyed_seed(seed, "moco"))))
        for kind, label, encoder in (("MoCo", name, name), ("random", f"born-{seed}", str(born))):
            x = features(store, options.folder, label, encoder, truth)
            table.setdefault(kind, []).append(scores(x, truth))
            print(kind, seed, {k: round(v, 3) for k, v in table[kind][-1].items()}, flush=True)
    if table:
        kinds = {TILE_TYPES[k]: int(n) for k, n in zip(*np.unique(truth["type"], return_counts=True), strict=True)}
        print(f"{len(truth['type'])} tiles of one type: {kinds}; balanced accuracy, mean +- sd over seeds")
        for kind, runs in table.items():
            cells = [f"{k} {np.mean([r[k] for r in runs]):.3f} +- {np.std([r[k] for r in runs]):.3f}" for k in runs[0]]
            print(f"{kind:8s}", " | ".join(cells))


if __name__ == "__main__":
    main()
