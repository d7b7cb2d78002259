"""What `-C auto` of ``giga probe`` costs or gains beside C = 10, on the embeddings of a store of real tissue.

OMP_NUM_THREADS=1 python benchmarks/choice_of_c.py STORE [--idc ../shared/cohorts/idc.npz]

STORE is one that `study.py` has made of idc. Every embedding is judged over the ten splits of `judge.py`, with all
labels and with 50 (five draws a split), at C = 10, and at the C that ``giga probe`` chooses among half decades, and
among steps of ten, as it once did. About ten seconds an embedding.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
from judge import DRAWS, FEW, FOLDS, TEST
from sklearn.model_selection import StratifiedShuffleSplit

import gigacli as giga
from gigacli.probing import linear
from gigacli.probing.splits import Split
from gigacli.store.groups import Embedding

if TYPE_CHECKING:
    from numpy.typing import NDArray

TENS = linear.GRID[::2]
WORSE = 0.001


def splits(labels: NDArray[np.int64]) -> dict[str, list[Split]]:
    """Splits with all labels, and with few, by the name of the budget."""
    found: dict[str, list[Split]] = {"all": [], "few": []}
    rows = np.zeros((len(labels), 1))
    for number, (train, test) in enumerate(
        StratifiedShuffleSplit(FOLDS, test_size=TEST, random_state=0).split(rows, labels)
    ):
        found["all"].append(Split(train=np.sort(train), test=test))
        drawn = StratifiedShuffleSplit(DRAWS, train_size=FEW, random_state=number)
        parts = [part for part, _ in drawn.split(train[:, None], labels[train])]
        found["few"] += [Split(train=np.sort(train[part]), test=test) for part in parts]
    return found


def gains(vectors: NDArray[np.float32], labels: NDArray[np.int64], *, scale: bool) -> dict[str, tuple[float, float]]:
    """AUC at the chosen C less that at C = 10, by budget: among half decades, and among steps of ten."""
    names, result = np.array(["no", "yes"])[labels], {}
    for budget, listed in splits(labels).items():
        aucs = []
        for c, grid in ((10.0, linear.GRID), ("auto", linear.GRID), ("auto", TENS)):
            with patch.object(linear, "GRID", grid):
                folds = linear.score(vectors, names, listed, C=c, scale=scale)
            aucs.append(np.mean([fold.auc for fold in folds]))
        result[budget] = (aucs[1] - aucs[0], aucs[2] - aucs[0])
    return result


def main() -> None:
    """Print a row an embedding, then the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--idc", type=Path, default=Path(__file__).parents[2] / "shared" / "cohorts" / "idc.npz")
    options = parser.parse_args()
    with np.load(options.idc) as file:
        labels = file["label"].astype(np.int64)
    found: dict[str, list[tuple[float, float]]] = {"all": [], "few": []}
    print("| embedding | half decades: all / 50 labels | steps of ten |\n|---|---|---|")
    for embedding in giga.open(options.store).groups(Embedding):
        vectors, scale = embedding.read()[labels >= 0], embedding.aggregator == "mean"
        one = gains(vectors, labels[labels >= 0], scale=scale)
        cells = [" / ".join(f"{one[budget][i]:+.4f}" for budget in found) for i in range(2)]
        print(f"| {embedding.name} | {cells[0]} | {cells[1]} |", flush=True)
        for budget, values in found.items():
            values.append(one[budget])
    for budget, values in found.items():
        for i, name in enumerate(("half decades", "steps of ten")):
            mine = np.array(values)[:, i]
            worse = f"{(mine < -WORSE).sum()} of {len(mine)} below C = 10 by more than {WORSE}"
            print(f"{budget}, {name}: mean {mine.mean():+.4f}, worst {mine.min():+.4f}, {worse}")


if __name__ == "__main__":
    main()
