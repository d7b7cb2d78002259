"""Panels by the kind of task: reliability of probabilities, predictions over truth, survival of two halves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from gigacli.probing.evaluation import Evaluation
from gigacli.probing.metrics import reliability


def reliability_curves(evaluations: Sequence[Evaluation], axes: Axes) -> Axes:
    """How often the predicted class is right, over how sure the prediction was, of all test sides together.

    A line per embedding and method, of one target and budget; below the diagonal predictions are too sure.
    """
    for one in evaluations:
        places = np.concatenate([fold.split.test for fold in one.folds])
        predicted = np.concatenate([fold.predicted for fold in one.folds])
        counts, sure, right = reliability(one.task.truth.y[places], predicted)
        error = one.metrics["calibration_error"]
        axes.plot(sure, right, linewidth=1, label=f"{one.name}: {error:.3f}", zorder=2)
        axes.scatter(sure, right, s=40 * counts / counts.max(), zorder=3)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.6, linestyle=":")
    axes.set_aspect("equal")
    axes.set_xlabel("probability of the predicted class")
    axes.set_ylabel("share that is right")
    legend = axes.legend(fontsize=6, title="calibration error", title_fontsize=6, loc="upper center")
    legend.set_bbox_to_anchor((0.5, -0.22))  # below: inside it would hide points
    return axes


def predicted_over_truth(one: Evaluation, axes: Axes) -> Axes:
    """Numbers, or the numbers behind levels, as predicted on test sides over what they are."""
    column = 1 if one.task.truth.kind == "ordinal" else 0
    truth = np.concatenate([one.task.truth.y[fold.split.test] for fold in one.folds])
    predicted = np.concatenate([fold.predicted[:, column] for fold in one.folds])
    axes.scatter(truth, predicted, s=4, linewidths=0, alpha=0.5)
    axes.axline((float(truth.mean()), float(truth.mean())), slope=1, color="grey", linewidth=0.6, linestyle=":")
    if one.task.truth.kind == "ordinal":
        axes.set_xticks(range(len(one.task.truth.classes)), labels=one.task.truth.classes)
    axes.set_title(f"{one.name}: {one.score:.3f}", fontsize=7)
    axes.set_xlabel(one.task.target)
    axes.set_ylabel("predicted")
    return axes


def survival_of_halves(one: Evaluation, axes: Axes) -> Axes:
    """Kaplan-Meier curves of the units with a risk above and below the median of their test side."""
    from gigacli.probing.survival import halves, kaplan_meier

    known, high = halves(one.task.truth, [(fold.split.test, fold.predicted) for fold in one.folds])
    for name, part in (("low risk", ~high), ("high risk", high)):
        if part.any():
            times, share = kaplan_meier(known.take(np.flatnonzero(part)))
            axes.step(times, share, where="post", linewidth=1, label=f"{name}: {int(part.sum())}")
    p = one.metrics["log_rank_p"]
    axes.set_title(f"{one.name}: {one.score:.3f}" + ("" if p is None else f", p = {p:.2g}"), fontsize=7)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(one.task.target)
    axes.set_ylabel("without event")
    axes.legend(fontsize=6)
    return axes
