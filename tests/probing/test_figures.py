"""Figures of a probe: what can be read from them."""

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from gigacli.probing.figures import learning_curve
from gigacli.probing.results import ProbeRow

ROW = ProbeRow(
    embedding="giga",
    target="label",
    method="linear",
    c="10",
    scaled=False,
    budget="all",
    n_train=900,
    n_test=100,
    splits=10,
    auc_mean=0.9,
    auc_std=0.02,
    auc_low=0.88,
    auc_high=0.92,
    accuracy=0.8,
    balanced_accuracy=0.8,
    baseline="",
    difference=None,
    difference_low=None,
    difference_high=None,
    classes={"a": 500, "b": 500},
    patients=None,
    aucs=(0.9,) * 10,
    task="classification",
    slides=1000,
    metric="auc",
    chance=0.5,
    score_mean=0.9,
    score_std=0.02,
    score_low=0.88,
    score_high=0.92,
    scores=(0.9,) * 10,
    metrics={"auc": 0.9},
)
GAP = {"baseline": "mean", "difference": 0.05, "difference_low": 0.02, "difference_high": 0.08}


def curve(rows, **options):
    axes = learning_curve(rows, Figure().add_subplot(), **options)
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    return axes, dict(zip(names, axes.containers, strict=True))


def test_a_line_keeps_its_colour_where_the_baseline_has_none():
    ours = [dataclasses.replace(ROW, n_train=n, **GAP) for n in (900, 50)]
    rows = [dataclasses.replace(ROW, embedding="mean", n_train=n) for n in (900, 50)] + ours
    (_, both), (_, above) = curve(rows), curve(rows, difference=True)
    assert list(both) == ["mean, C=10", "giga, C=10"]
    assert list(above) == ["giga, C=10"]
    assert both["giga, C=10"][0].get_color() == above["giga, C=10"][0].get_color()
    [line, _, _] = above["giga, C=10"]
    assert np.all(np.diff(line.get_xdata()) > 0)
    np.testing.assert_allclose(line.get_ydata(), 0.05)
    left, right = (np.array(both[name][0].get_xdata(), dtype=float) for name in both)
    assert np.all(left < right)  # side by side, not one upon the other


def test_numbers_under_the_axis_do_not_overlap():
    axes, _ = curve([dataclasses.replace(ROW, n_train=n) for n in (50, 100, 236, 250, 900)])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["50", "100", "236", "900"]


def test_the_axis_names_one_baseline_with_a_short_name():
    def label(*names):
        rows = [dataclasses.replace(ROW, n_train=50 + i, **{**GAP, "baseline": name}) for i, name in enumerate(names)]
        return curve(rows, difference=True)[0].get_ylabel()

    assert label("mean", "mean") == "AUC above\nmean"
    assert label("mean", "whitened-mean") == label("m" * 40) == "AUC above\nthe baseline"
