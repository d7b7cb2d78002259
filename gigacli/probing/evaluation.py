"""Evaluations of embeddings, and the rows of the table: each compared with its baseline, split by split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from gigacli.config.probe import Method, ProbeConfig, TaskKind
from gigacli.probing.heads import fit_of
from gigacli.probing.model import Fit, Transform, Vectors, score_splits
from gigacli.probing.results import ProbeRow, Seen
from gigacli.probing.robust import Robustness, robustness
from gigacli.probing.scores import Fold, difference, score_interval
from gigacli.probing.task import Candidate, Task


@dataclass(frozen=True, eq=False)
class Judged:
    """How vectors were judged, to do it again on other splits or other labels."""

    vectors: Vectors  # one per unit, (units, features)
    fit: Fit
    transform: Transform | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A candidate judged on a task with one label budget."""

    candidate: Candidate  # what was judged
    method: Method  # how
    task: Task  # what it predicted
    budget: str  # with which of the task's label budgets
    c: str  # inverse regularisation, "auto", or "alpha=0.07" of an elastic net; "" where there is none
    folds: Sequence[Fold]  # how it went, one per split of the budget
    robustness: Sequence[Robustness] = ()  # how far its vectors move under other augmentations, by their stains
    harmonised: str = ""  # how the site was taken out of its vectors, "" where it was not
    judged: Judged | None = None  # of vectors
    # where another cohort is judged, scores of draws of its patients, (draws,): the same draws for all that is judged
    drawn: NDArray[np.float64] | None = None

    @property
    def name(self) -> str:
        """What was judged and how, for a legend or a sentence."""
        usual = "10" if self.task.truth.kind == "classification" else "auto"
        how = [] if self.method == "linear" and self.c == usual else [f"C={self.c}"]
        how = [self.setting] if self.method != "linear" else how
        how += [self.harmonised] if self.harmonised else []
        return f"{self.candidate.name} ({', '.join(how)})" if how else self.candidate.name

    @property
    def setting(self) -> str:
        """The method, and the strength of an elastic net."""
        return f"{self.method}, {self.c}" if self.c else self.method

    @property
    def score(self) -> float:
        """Mean over the splits of what methods are compared by: AUC, c-index, R2 or quadratic kappa."""
        return float(np.mean([fold.score for fold in self.folds]))

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """95 % interval of the score: over splits, or over the patients of another cohort."""
        if self.drawn is None:
            return score_interval(self.folds, lowest=self.task.kind.lowest)
        from gigacli.probing.external import ends

        return ends(self.drawn)

    def above(self, base: Evaluation) -> tuple[float, float | None, float | None]:
        """How far the score is above another on the same task and budget, with its paired 95 % interval."""
        if self.drawn is None or base.drawn is None:
            return difference(self.folds, base.folds, lowest=self.task.kind.lowest)
        from gigacli.probing.external import ends

        return self.score - base.score, *ends(self.drawn - base.drawn)

    @cached_property
    def metrics(self) -> dict[str, float | None]:
        """Every metric: its mean over the splits where it is defined, or its value for all test sides together."""
        names = self.folds[0].metrics
        means: dict[str, float | None] = {name: _mean([fold.metrics[name] for fold in self.folds]) for name in names}
        pooled = self.task.kind.pooled(self.task.truth, [(fold.split.test, fold.predicted) for fold in self.folds])
        return means | {name: _mean([value]) for name, value in pooled.items()}

    @property
    def warnings(self) -> Iterator[str]:
        """Fits that stopped short, what could not be chosen, and what was not defined on some test sides."""
        stopped = sum(fold.not_converged for fold in self.folds)
        texts = [*(fold.note for fold in self.folds), f"{stopped} fits stopped before they converged" * bool(stopped)]
        if self.candidate.augmented is not None and not self.robustness:
            texts.append("no slide with a label is seen under other augmentations")
        return (f"{self.name}, {self.budget}: {text}" for text in dict.fromkeys(texts) if text)


def evaluate_vectors(candidate: Candidate, task: Task, budget: str, config: ProbeConfig) -> Iterator[Evaluation]:
    """Judge an embedding by every method that was asked for, and by each of its strengths.

    Beside the vectors as they are stand those that are harmonised, fitted on every training side anew.
    """
    assert candidate.vectors is not None
    vectors = task.units.vectors(candidate.vectors, unit_length=not candidate.scaled)  # (units, features)
    augmented, moved = None, []
    if candidate.augmented is not None:
        each = candidate.augmented.swapaxes(0, 1)  # (augmentations, slides, features)
        seen = [task.units.vectors(one, unit_length=not candidate.scaled, some=True) for one in each]
        augmented = np.stack(seen, axis=1)  # (units, augmentations, features)
        if not np.isfinite(augmented).all(axis=2).any():  # none of the slides that are seen so has a label
            augmented = augmented[:, :0]
        strength = np.array(candidate.stains)[: augmented.shape[1]]
        of_strength = (augmented[:, strength == stain] for stain in np.unique(strength))
        moved = [robustness(vectors, some, scale=candidate.scaled) for some in of_strength]
    for method, c, fit in fits_of(candidate, task.truth.kind, config):
        if task.test:
            yield _evaluate_external(candidate, method, c, task, fit, vectors, seed=config.seed)
            continue
        for harmonised, transform in _transforms(task, config):
            folds = score_splits(
                vectors,
                task.truth,
                task.budgets[budget],
                fit,
                groups=task.groups,
                augmented=augmented,
                transform=transform,
            )
            judged = Judged(vectors, fit, transform)
            yield Evaluation(candidate, method, task, budget, c, folds, moved, harmonised, judged)


def _transforms(task: Task, config: ProbeConfig) -> Iterator[tuple[str, Transform | None]]:
    """What is done to vectors: nothing, then each harmonisation that was asked for."""
    yield "", None
    if config.harmonise:
        from gigacli.probing.harmonise import harmonising

        assert task.sites is not None
        for name in config.harmonise:
            yield name, harmonising(name, task.sites)


def _evaluate_external(
    candidate: Candidate,
    method: Method,
    c: str,
    task: Task,
    fit: Fit,
    vectors: NDArray[np.float32],
    *,
    seed: int,
) -> Evaluation:
    """Fit on all units (units, features) of one cohort, and judge on those of the other, which come last."""
    from gigacli.probing.external import Cohort, score_external

    sides = (slice(task.first_judged), slice(task.first_judged, None))
    places, names = np.arange(len(task.truth)), None if task.groups is None else np.array(task.groups)
    train, test = (
        Cohort(vectors[side], task.truth.take(places[side]), None if names is None else names[side]) for side in sides
    )
    found = score_external(train, test, fit, seed=seed)
    return Evaluation(candidate, method, task, "all", c, [found.fold], drawn=found.drawn)


def fits_of(candidate: Candidate, kind: TaskKind, config: ProbeConfig) -> Iterator[tuple[Method, str, Fit]]:
    """The methods that judge an embedding, each with its strength in words, of which there may be several."""
    fitted = partial(fit_of, kind, scale=candidate.scaled, seed=config.seed, converged=config.converged)
    for method in candidate.methods(config.method):
        if method == "retrieval":  # nothing is fitted: see `retrieval`
            continue
        if method == "linear":
            for c in candidate.strengths(kind, config.strength(kind)):
                yield method, c if c == "auto" else f"{c:g}", fitted(method, C=c)
        elif method == "coxnet":
            from gigacli.probing.survival import ALPHAS

            for alpha in ALPHAS:
                yield method, f"alpha={alpha:g}", fitted(method, alpha=alpha)
        else:
            yield method, "", fitted(method)


def compare(evaluations: Sequence[Evaluation], baseline: str | None) -> list[ProbeRow]:
    """Rows of the table, each compared with the baseline on the same task and budget.

    Args:
        evaluations: Those of one task and budget on the same splits; harmonised ones are compared among themselves.
        baseline: An embedding, or a method. Default: the better of the mean and the whitened mean of tiles, those of
            the same features where there are several, at their best C; without any, the first embedding.
    """
    alike: dict[tuple[int, str, str], list[Evaluation]] = {}
    for one in evaluations:
        alike.setdefault(_comparable(one), []).append(one)
    return [_row(one, _baseline(one, alike[_comparable(one)], baseline)) for one in evaluations]


def _comparable(one: Evaluation) -> tuple[int, str, str]:
    return id(one.task), one.budget, one.harmonised


def _row(one: Evaluation, base: Evaluation | None) -> ProbeRow:
    scores = np.array([fold.score for fold in one.folds])  # (splits,)
    kind, counts = one.task.kind, one.task.joined
    of_classes = one.task.truth.kind == "classification"
    low, high = one.interval
    std = float(scores.std(ddof=1)) if len(scores) > 1 else None
    compared = base is not None and base is not one
    gap: tuple[float | None, float | None, float | None] = (None, None, None)
    if base is not None and compared:
        gap = one.above(base)
    return ProbeRow(
        embedding=one.candidate.name,
        target=one.task.target,
        method=one.method,
        c=one.c,
        scaled=one.candidate.scaled,
        budget=one.budget,
        n_train=float(np.mean([len(fold.split.train) for fold in one.folds])),
        n_test=float(np.mean([len(fold.split.test) for fold in one.folds])),
        splits=len(one.folds),
        auc_mean=one.score if of_classes else None,
        auc_std=std if of_classes else None,
        auc_low=low if of_classes else None,
        auc_high=high if of_classes else None,
        accuracy=one.metrics.get("accuracy"),
        balanced_accuracy=one.metrics.get("balanced_accuracy"),
        baseline=base.name if base is not None and compared else "",
        difference=gap[0],
        difference_low=gap[1],
        difference_high=gap[2],
        classes=counts["classes"],
        patients=counts.get("patients"),
        aucs=tuple(fold.score for fold in one.folds) if of_classes else (),
        task=one.task.truth.kind,
        slides=sum(len(rows) for rows in one.task.units.slides[one.task.first_judged :]),
        test=one.task.test,
        metric=kind.metric,
        chance=kind.chance,
        score_mean=one.score,
        score_std=std,
        score_low=low,
        score_high=high,
        scores=tuple(fold.score for fold in one.folds),
        metrics=one.metrics,
        robust=tuple(_seen(one)),
        harmonised=one.harmonised,
    )


def _seen(one: Evaluation) -> Iterator[Seen]:
    """How it withstands other augmentations, the least jittered stains first."""
    strength = np.array(one.candidate.stains)
    for stain, moved in zip(np.unique(strength).tolist(), one.robustness, strict=bool(one.robustness)):
        scores = np.array([fold.augmented for fold in one.folds])[:, strength == stain]  # (splits, augmentations, 2)
        clean, seen = (_mean(side.ravel().tolist()) for side in np.moveaxis(scores, -1, 0))
        yield Seen(stain=stain, slides=moved.slides, clean=clean, score=seen, found=moved.found, moved=moved.moved)


def _mean(values: Sequence[float]) -> float | None:
    """Mean of the values that are defined; None where none is."""
    found: NDArray[np.float64] = np.array(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    return float(found.mean()) if len(found) else None


def _baseline(one: Evaluation, peers: Sequence[Evaluation], named: str | None) -> Evaluation | None:
    """The baseline of an evaluation among those on the same task and budget, if there is one.

    Where several methods judge it, that is the linear one, unless another was named.
    """
    if named is not None:
        known = [e for e in peers if named in (e.candidate.name, e.method)]
        of_method = [e for e in known if e.method == named]
        known = of_method or [e for e in known if e.method == "linear"] or known
    else:
        known = [e for e in peers if e.candidate.rival]
    best = [e for e in known if e.c == "auto"] or known
    mine = [e for e in best if e.candidate.features and e.candidate.features == one.candidate.features]
    if mine or best:
        return max(mine or best, key=lambda e: e.score)
    return peers[0] if len(peers) > 1 and named is None else None
