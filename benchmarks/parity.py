"""Does ``giga probe`` equal the paper's call of scikit-learn, and what is that call's early stop worth?

python benchmarks/parity.py FOLDER [--features 512] [--tables brca ...]

FOLDER holds tables/TASK.csv and splits/TASK/BUDGET/split_*.csv, as the authors publish them. For each table one vector
per slide is drawn, with a little signal; of unit length, as Giga-SSL's, and of any length, standardised on the training
side, as the mean of tiles. Every split of every budget is then fitted three times: by giga, by scikit-learn
(LogisticRegression(C=10, class_weight="balanced", max_iter=1000)), and by giga to the optimum (--converged). Prints per
table and budget how many fits were compared, the largest difference of an AUC to scikit-learn's, and the largest
difference that the early stop makes to the AUC of a split and to the mean over the splits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from gigacli.probing.labels import read_labels
from gigacli.probing.linear import score
from gigacli.probing.splits import Split, read_splits


def plain(vectors: np.ndarray, labels: np.ndarray, split: Split, *, scale: bool) -> float:
    """AUC as anyone would compute it."""
    train, test = vectors[split.train], vectors[split.test]
    if scale:
        scaler = StandardScaler().fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
    model = LogisticRegression(C=10, class_weight="balanced", max_iter=1000).fit(train, labels[split.train])
    found = model.predict_proba(test)
    found = found[:, 1] if found.shape[1] == 2 else found
    return float(roc_auc_score(labels[split.test], found, multi_class="ovr"))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--tables", nargs="+", help="only these; default: all of the folder")
    options = parser.parse_args()
    tables = options.tables or sorted(path.stem for path in (options.folder / "tables").glob("*.csv"))
    worst, compared = np.zeros(3), 0
    print("table   budget  vectors       AUC   fits  to scikit-learn  early stop: a split  the mean")
    for name in tables:
        table = read_labels(options.folder / "tables" / f"{name}.csv")
        labels = np.array(table.label)
        y = np.unique(labels, return_inverse=True)[1]
        rng = np.random.default_rng(len(labels))
        signal = 0.1 * rng.standard_normal((y.max() + 1, options.features))
        vectors = (rng.standard_normal((len(y), options.features)) + signal[y]).astype(np.float32)
        for budget in sorted(path for path in (options.folder / "splits" / name).iterdir() if path.is_dir()):
            splits, _ = read_splits(budget, table.slide_id)
            for scale in (False, True):
                given = vectors if scale else vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
                ours, best = (score(given, labels, splits, scale=scale, converged=c) for c in (False, True))
                with threadpool_limits(1):
                    theirs = np.array([plain(given, labels, split, scale=scale) for split in splits])
                aucs, optima = (np.array([fold.auc for fold in folds]) for folds in (ours, best))
                gaps = np.abs(aucs - theirs).max(), np.abs(aucs - optima).max(), abs(aucs.mean() - optima.mean())
                worst, compared = np.maximum(worst, gaps), compared + len(splits)
                kind = "standardised" if scale else "unit length"
                print(
                    f"{name:7s} {budget.name:6s}  {kind:12s} {aucs.mean():.3f} {len(splits):5d}"
                    f"  {gaps[0]:15.1e}  {gaps[1]:19.1e}  {gaps[2]:8.1e}",
                    flush=True,
                )
    print(f"{compared} fits compared; at most {worst[0]:.1e}, {worst[1]:.1e}, {worst[2]:.1e}")


if __name__ == "__main__":
    main()
