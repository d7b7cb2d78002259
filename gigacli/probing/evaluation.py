"""Evaluations of embeddings, and the rows of the table: each compared with its baseline, split by split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gigacli.config.verbs import ProbeConfig
from gigacli.probing.linear import score
from gigacli.probing.results import ProbeRow
from gigacli.probing.robust import Robustness, robustness
from gigacli.probing.scores import Fold, auc_interval, difference
from gigacli.probing.task import Candidate, Task


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A candidate judged on a task with one label budget."""

    candidate: Candidate  # what was judged
    task: Task  # what it predicted
    budget: str  # with which of the task's label budgets
    c: str  # inverse regularisation, or "auto"; "" where there is none
    folds: Sequence[Fold]  # how it went, one per split of the budget
    robustness: Robustness | None = None  # how far its vectors move under other augmentations, where that is known

    @property
    def name(self) -> str:
        """What was judged and how, for a legend or a sentence."""
        if self.candidate.method == "linear" and self.c == "10":
            return self.candidate.name
        return f"{self.candidate.name} ({f'C={self.c}' if self.c else self.candidate.method})"

    @property
    def auc(self) -> float:
        """Mean AUC over the splits."""
        return float(np.mean([fold.auc for fold in self.folds]))

    @property
    def warnings(self) -> Iterator[str]:
        """Fits that stopped short, and what could not be chosen."""
        stopped = sum(fold.not_converged for fold in self.folds)
        texts = [*(fold.note for fold in self.folds), f"{stopped} fits stopped before they converged" * bool(stopped)]
        return (f"{self.name}, {self.budget}: {text}" for text in dict.fromkeys(texts) if text)


def evaluate_linear(candidate: Candidate, task: Task, budget: str, config: ProbeConfig) -> Iterator[Evaluation]:
    """Judge an embedding by logistic regression, at every C of :meth:`Candidate.strengths`."""
    assert candidate.vectors is not None
    vectors = task.units.vectors(candidate.vectors, unit_length=not candidate.scaled)  # (units, features)
    augmented, moved = None, None
    if candidate.augmented is not None:
        each = candidate.augmented.swapaxes(0, 1)  # (augmentations, slides, features)
        seen = [task.units.vectors(one, unit_length=not candidate.scaled) for one in each]
        augmented = np.stack(seen, axis=1)  # (units, augmentations, features)
        moved = robustness(vectors, augmented, scale=candidate.scaled)
    for c in candidate.strengths(config.c_value):
        folds = score(
            vectors,
            task.units.label,
            task.budgets[budget],
            C=c,
            scale=candidate.scaled,
            seed=config.seed,
            groups=task.groups,
            converged=config.converged,
            augmented=augmented,
        )
        yield Evaluation(candidate, task, budget, c if c == "auto" else f"{c:g}", folds, moved)


def compare(evaluations: Sequence[Evaluation], baseline: str | None) -> list[ProbeRow]:
    """Rows of the table, each compared with the baseline on the same task and budget.

    Args:
        evaluations: Those of one task and budget on the same splits.
        baseline: An embedding, or a method. Default: the better of the mean and the whitened mean of tiles, those of
            the same features where there are several, at their best C; without any, the first embedding.
    """
    return [
        _row(one, _baseline(one, [o for o in evaluations if (o.task, o.budget) == (one.task, one.budget)], baseline))
        for one in evaluations
    ]


def _row(one: Evaluation, base: Evaluation | None) -> ProbeRow:
    aucs = np.array([fold.auc for fold in one.folds])  # (splits,)
    low, high = auc_interval(one.folds)
    compared = base is not None and base is not one
    gap = difference(one.folds, base.folds) if base is not None and compared else (None, None, None)
    per_class = one.task.units.per_class()
    return ProbeRow(
        embedding=one.candidate.name,
        target=one.task.target,
        method=one.candidate.method,
        c=one.c,
        scaled=one.candidate.scaled,
        budget=one.budget,
        n_train=float(np.mean([len(fold.split.train) for fold in one.folds])),
        n_test=float(np.mean([len(fold.split.test) for fold in one.folds])),
        splits=len(one.folds),
        auc_mean=one.auc,
        auc_std=float(aucs.std(ddof=1)) if len(aucs) > 1 else None,
        auc_low=low,
        auc_high=high,
        accuracy=float(np.mean([fold.accuracy for fold in one.folds])),
        balanced_accuracy=float(np.mean([fold.balanced_accuracy for fold in one.folds])),
        baseline=base.name if base is not None and compared else "",
        difference=gap[0],
        difference_low=gap[1],
        difference_high=gap[2],
        classes=per_class["classes"],
        patients=per_class.get("patients"),
        aucs=tuple(fold.auc for fold in one.folds),
        augmented_auc=_mean([fold.augmented_auc for fold in one.folds if fold.augmented_auc is not None]),
        found=one.robustness.found if one.robustness is not None else None,
        moved=one.robustness.moved if one.robustness is not None else None,
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _baseline(one: Evaluation, peers: Sequence[Evaluation], named: str | None) -> Evaluation | None:
    """The baseline of an evaluation among those on the same task and budget, if there is one."""
    if named is not None:
        known = [e for e in peers if named in (e.candidate.name, e.candidate.method)]
        abmil = [e for e in known if e.candidate.method == named == "abmil"]
        known = abmil or [e for e in known if e.candidate.method == "linear"] or known
    else:
        known = [e for e in peers if e.candidate.rival]
    best = [e for e in known if e.c == "auto"] or known
    mine = [e for e in best if e.candidate.features and e.candidate.features == one.candidate.features]
    if mine or best:
        return max(mine or best, key=lambda e: e.auc)
    return peers[0] if len(peers) > 1 and named is None else None
