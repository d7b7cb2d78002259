"""Label budgets: all labels, a share or a number of them in proportion, or so many of every class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gigacli.config.probe import ProbeConfig
from gigacli.probing.splits import Split, subsample

DRAWS: Final = 50
"""Draws of so many labels of every class: with few, which ones they are matters more than the test side."""


def make_budgets(
    splits: Sequence[Split], strata: NDArray[np.str_], config: ProbeConfig
) -> tuple[dict[str, list[Split]], list[str], list[str]]:
    """Splits of every label budget that was asked for, of all labels where none was.

    Args:
        splits: With all labels.
        strata: The class of each unit, or what else is to be kept in proportion, text (units,).
        config: Says which budgets.

    Returns:
        Splits by the name of the budget, warnings about budgets that cannot be met, and notes about draws.
    """
    limits: dict[str, dict[str, Any]] = {f"{100 * f:g} %": {"fraction": f} for f in config.fraction}
    limits |= {str(n): {"n_train": n} for n in config.n_train}
    budgets = {
        name: [subsample(split, strata, seed=config.seed, **limit) for split in splits]
        for name, limit in limits.items()
    }
    least = min(len(split.train) for split in splits)
    short = [
        f"{n} training labels were asked for, but a split has only {least}: all are used"
        for n in config.n_train
        if n > least
    ]
    notes = []
    for shots in config.shots:
        budgets[f"{shots} per class"] = draws = list(draw_shots(splits, strata, shots, seed=config.seed))
        few = min(int(np.unique(strata[split.train], return_counts=True)[1].min()) for split in splits)
        notes.append(f"{shots} labels per class: {len(draws)} draws from the training sides of {len(splits)} splits")
        if shots > few:
            short.append(f"{shots} labels per class were asked for, but a split has only {few} of one: all are used")
    return budgets or {"all": list(splits)}, short, notes


def draw_shots(splits: Sequence[Split], strata: NDArray[np.str_], shots: int, *, seed: int) -> Iterator[Split]:
    """Draw so many units of every class from the training sides, :data:`DRAWS` times, or once each where they are more.

    The draws go round the splits, and of two numbers of shots with one seed the smaller draw is part of the larger.
    """
    for draw in range(max(DRAWS, len(splits))):
        number = draw % len(splits)
        split, rng = splits[number], np.random.default_rng((seed, draw))
        train = rng.permutation(np.sort(split.train))
        _, y = np.unique(strata[train], return_inverse=True)
        order = np.argsort(y, kind="stable")
        rank = np.empty(len(y), dtype=np.int64)  # place of a unit in the shuffle of its class
        rank[order] = np.concatenate([np.arange(n) for n in np.bincount(y)])
        yield Split(np.sort(train[rank < shots]), split.test, pool=len(train), draw_of=number)
