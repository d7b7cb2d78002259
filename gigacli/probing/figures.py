"""Figures of a probe: learning curves, ROC curves and :mod:`panels`, drawn into matplotlib axes or written to files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MatplotlibFigure
from numpy.typing import NDArray
from PIL import Image

from gigacli.config.probe import TaskKind
from gigacli.files import new_file
from gigacli.probing import panels
from gigacli.probing.evaluation import Evaluation
from gigacli.probing.kinds import KINDS
from gigacli.probing.metrics import roc
from gigacli.probing.results import ProbeRow

DPI, NOTEBOOK_DPI = 200, 90
QUALITY = 80  # of pictures of slides in a notebook
_GRID = np.linspace(0, 1, 201)
_OFFSET = 1.015  # factor between neighbouring lines of a learning curve along the number of labels
_LEAST_GAP = 1.15  # least factor between two numbers under its axis
_COLUMNS = 3  # panels side by side
_LONGEST_NAME = 30  # characters of a baseline that stand beside an axis


class Figure(MatplotlibFigure):
    """A figure that a notebook shows by itself, and small, as it stays in there; pyplot's are shown by pyplot."""

    def _repr_png_(self) -> bytes | None:
        return None if self._holds_pictures() else self._shown("PNG", optimize=True)

    def _repr_jpeg_(self) -> bytes | None:
        return self._shown("JPEG", quality=QUALITY) if self._holds_pictures() else None

    def _holds_pictures(self) -> bool:
        return any(axes.images for axes in self.axes)

    def _shown(self, kind: str, **options: Any) -> bytes:
        FigureCanvasAgg(self)
        drawn, small = BytesIO(), BytesIO()
        self.savefig(drawn, format="png", dpi=NOTEBOOK_DPI)
        picture = Image.open(drawn).convert("RGB")
        if kind == "PNG":
            picture = picture.quantize(256, dither=Image.Dither.NONE)
        picture.save(small, kind, **options)
        return small.getvalue()


def learning_curve(rows: Sequence[ProbeRow], axes: Axes, *, difference: bool = False) -> Axes:
    """The score over the number of training labels, a line per embedding and method (paper, figure 2).

    Args:
        rows: Of one target.
        axes: To draw into.
        difference: Draw how far the score is above the baseline instead, with its paired 95 % interval; else the bars
            are standard deviations over the splits.
    """
    title = KINDS[rows[0].task].title
    lines: dict[str, list[ProbeRow]] = {}
    for row in rows:
        lines.setdefault(f"{row.embedding}, {row.setting}", []).append(row)
    for i, (name, line) in enumerate(lines.items()):
        points = sorted((r for r in line if not difference or r.difference is not None), key=lambda row: row.n_train)
        if not points:  # the baseline itself: it keeps its colour for the other panel
            continue
        offset = _OFFSET ** (i - (len(lines) - 1) / 2)  # so that bars of one budget stand side by side
        x = [row.n_train * offset for row in points]
        if difference:
            y = np.array([row.difference for row in points], dtype=float)
            ends = np.array([(row.difference_low, row.difference_high) for row in points], dtype=float).T  # (2, points)
            reach = np.abs(ends - y)
        else:
            y = np.array([row.score_mean for row in points])
            reach = np.array([[row.score_std or 0.0 for row in points]] * 2)
        style: dict[str, Any] = {"color": f"C{i}", "marker": "o", "markersize": 3, "linewidth": 1}
        axes.errorbar(x, y, yerr=np.nan_to_num(reach), label=name, capsize=2, elinewidth=0.7, **style)
    if difference:
        baseline, *others = dict.fromkeys(row.baseline for row in rows if row.baseline)
        fits = not others and len(baseline) <= _LONGEST_NAME
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_ylabel(f"{title} above\n{baseline if fits else 'the baseline'}")
        axes.set_xlabel("training labels (bars: 95 % interval)")
    else:
        axes.set_ylabel(title)
        axes.set_xlabel("training labels (bars: standard deviation over splits)")
    ticks: list[int] = []
    for n in sorted({round(row.n_train) for row in rows}):
        ticks += [n] if not ticks or n >= _LEAST_GAP * ticks[-1] else []  # labels that would overlap are left out
    axes.set_xscale("log")
    axes.set_xticks(ticks, labels=[str(n) for n in ticks])
    axes.minorticks_off()
    if axes.containers:
        axes.legend(fontsize=6)
    return axes


def roc_curves(evaluations: Sequence[Evaluation], axes: Axes) -> Axes:
    """Mean ROC curve over splits, and over many classes, of one target and budget: a line per embedding and method."""
    for one in evaluations:
        y = one.task.truth.y  # (units,)
        curves = [curve for fold in one.folds for curve in _curves(y[fold.split.test], fold.predicted)]
        mean = np.mean(curves, axis=0)  # (points,)
        axes.plot(_GRID, mean, linewidth=1, label=f"{one.name}: {one.score:.3f}")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.6, linestyle=":")
    axes.set_aspect("equal")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.legend(fontsize=6, title="mean AUC", title_fontsize=6, loc="lower right")
    return axes


def _curves(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Iterable[NDArray[np.float64]]:
    classes = probabilities.shape[1]
    for c in [1] if classes == 2 else range(classes):
        false, true = roc(truth == c, probabilities[:, c])
        yield np.where(_GRID > 0, np.interp(_GRID, false, true), 0.0)


def figures_of(rows: Sequence[ProbeRow], evaluations: Sequence[Evaluation]) -> dict[str, Callable[[], Figure]]:
    """What draws each figure, by its name: the learning curve of every target, and the figures of its kind.

    Of classes roc and reliability, of numbers and levels predicted, of times survival. With several targets, their
    names end in the target's.
    """
    targets = list(dict.fromkeys(row.target for row in rows))
    figures: dict[str, Callable[[], Figure]] = {}
    for target in targets:
        mine = [row for row in rows if row.target == target]
        judged = [one for one in evaluations if one.task.target == target]
        ending = f"-{''.join(c if c.isalnum() else '_' for c in target)}" if len(targets) > 1 else ""
        figures[f"learning-curve{ending}"] = partial(_learning_curves, mine)
        budgets = list(dict.fromkeys(row.budget for row in sorted(mine, key=lambda row: row.n_train)))
        for name, draw in _FIGURES[mine[0].task].items():
            shared = name in _SHARED
            drawn = (
                partial(_by_budget, judged, budgets, draw)
                if shared
                else partial(_by_evaluation, judged, budgets[-1], draw)
            )
            figures[f"{name}{ending}"] = drawn
    return figures


def _learning_curves(rows: Sequence[ProbeRow]) -> Figure:
    compared = any(row.difference is not None for row in rows)
    figure = Figure(figsize=(4.5 * (1 + compared), 3.5), layout="constrained")
    for i in range(1 + compared):
        learning_curve(rows, figure.add_subplot(1, 1 + compared, i + 1, title=rows[0].target), difference=i == 1)
    return figure


_FIGURES: dict[TaskKind, dict[str, Callable[[Any, Axes], Axes]]] = {
    "classification": {"roc": roc_curves, "reliability": panels.reliability_curves},
    "regression": {"predicted": panels.predicted_over_truth},
    "ordinal": {"predicted": panels.predicted_over_truth},
    "survival": {"survival": panels.survival_of_halves},
}
_SHARED = ("roc", "reliability")
"""Figures with a panel per budget, in which embeddings and methods are lines; others have a panel for each of these."""


def _by_budget(
    evaluations: Sequence[Evaluation], budgets: Sequence[str], draw: Callable[[Sequence[Evaluation], Axes], Axes]
) -> Figure:
    across, down = min(len(budgets), _COLUMNS), -(-len(budgets) // _COLUMNS)
    figure = Figure(figsize=(3.7 * across, 4.0 * down), layout="constrained")
    for i, budget in enumerate(budgets):
        title = f"{evaluations[0].task.target}, {_labels(budget)}"
        draw([one for one in evaluations if one.budget == budget], figure.add_subplot(down, across, i + 1, title=title))
    return figure


def _by_evaluation(evaluations: Sequence[Evaluation], budget: str, draw: Callable[[Evaluation, Axes], Axes]) -> Figure:
    shown = [one for one in evaluations if one.budget == budget]
    across, down = min(len(shown), _COLUMNS), -(-len(shown) // _COLUMNS)
    figure = Figure(figsize=(3.2 * across, 2.8 * down), layout="constrained")
    for i, one in enumerate(shown):
        draw(one, figure.add_subplot(down, across, i + 1))
    return figure


def save(figure: MatplotlibFigure, path: Path) -> str:
    """Write a figure as PNG; its path."""
    FigureCanvasAgg(figure)
    with new_file(path) as partial:
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})
    return str(path)


def _labels(budget: str) -> str:
    """A budget in words: "all labels", "25 % of the labels", "50 labels", "10 labels per class"."""
    return (
        budget.replace(" per", " labels per")
        if "per" in budget
        else f"{budget} of the labels"
        if budget.endswith("%")
        else f"{budget} labels"
    )
