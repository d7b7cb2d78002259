"""A linear probe of one class against all others that has not seen a slide's patient: what a tile map explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput
from gigacli.probing.labels import Labels, join
from gigacli.probing.linear import PAPER_C, score
from gigacli.probing.logistic import fit
from gigacli.probing.patients import patients_of
from gigacli.probing.scores import score_interval
from gigacli.probing.splits import make_splits
from gigacli.probing.standardise import moments, standardise


@dataclass(frozen=True, eq=False)
class ClassProbe:
    """A logistic regression of a class against all others, C = 10 and balanced as in the paper."""

    target: str  # the column of labels
    positive: str  # the class
    label: str  # the slide's own label, "" where it has none
    weights: NDArray[np.float64]  # (features,), of vectors divided by `deviation`
    deviation: NDArray[np.float64]  # (features,), 1 where vectors are probed as they are
    logit: float  # score of the slide's vector: log odds of the class
    trained_on: int  # slides it was fitted on
    left_out: int  # labelled slides of the slide's patient, which it has not seen
    # how well it tells the class from the others: mean over splits that keep patients together, and its 95 %
    # interval; all None where there are too few slides to say
    auc: tuple[float | None, float | None, float | None]
    notes: tuple[str, ...]  # where patients come from, and why the probe may be of no use


def fit_class_probe(
    labels: Labels,
    slide_ids: Sequence[str],
    patients: Sequence[str],
    vectors: NDArray[np.float32],
    has_vector: NDArray[np.bool_],
    *,
    row: int,
    positive: str | None,
    scale: bool,
) -> ClassProbe:
    """Fit on every labelled slide but those of one slide's patient.

    Labels, vectors (slides, features) and patients (slides,) are joined as by :func:`join`; `row` is the slide, and the
    default class its own label.

    Raises:
        InvalidInput: No such class, or without the patient there are not two classes left.
    """
    joined = join(labels, slide_ids, has_vector)
    label_of = dict(zip(joined.index.tolist(), joined.label.tolist(), strict=True))
    chosen = _choose_class(label_of, row, positive, f"slide {slide_ids[row]!r}", labels.target)
    known = patients_of(slide_ids, from_store=patients, from_labels=joined.patients)
    patient = np.array(known.names or slide_ids)
    is_class, unseen = joined.label == chosen, patient[joined.index] != patient[row]
    if len(set(is_class[unseen].tolist())) < 2:
        raise InvalidInput(
            f"without the patient of {slide_ids[row]!r} there are not two classes left of {labels.target!r}",
            "label slides of other patients, too",
        )
    train = vectors[joined.index][unseen]
    mean, deviation = moments(train) if scale else (np.zeros(train.shape[1]), np.ones(train.shape[1]))
    scaled = standardise(train.astype(np.float64), mean, deviation).astype(np.float32)
    model = fit(scaled, is_class[unseen].astype(np.int64), C=PAPER_C)
    weights, bias = model.weights[0, :-1].astype(np.float64), float(model.weights[0, -1])
    auc, note = _evaluate(vectors[joined.index], is_class, patient[joined.index], name=chosen, scale=scale)
    return ClassProbe(
        target=labels.target,
        positive=chosen,
        label=label_of.get(row, ""),
        weights=weights,
        deviation=deviation,
        logit=float((vectors[row] - mean) / deviation @ weights + bias),
        trained_on=int(unseen.sum()),
        left_out=int((~unseen).sum()),
        auc=auc,
        notes=(f"patients: {known.source}", *known.warnings, *([note] if note else [])),
    )


def _choose_class(label_of: dict[int, str], row: int, positive: str | None, slide: str, target: str) -> str:
    """Choose the class that was named, or the slide's own."""
    chosen, classes = positive if positive is not None else label_of.get(row, ""), sorted(set(label_of.values()))
    if chosen not in classes:
        missing = f"there is no class {chosen!r}" if chosen else f"{slide} has no label"
        raise InvalidInput(f"{missing} in {target!r}", f"name one as `positive`: {', '.join(classes)}")
    return chosen


def _evaluate(
    vectors: NDArray[np.float32], is_class: NDArray[np.bool_], patient: NDArray[np.str_], *, name: str, scale: bool
) -> tuple[tuple[float | None, float | None, float | None], str]:
    """Mean AUC and its interval over splits, and a note where the probe may be of no use."""
    names = np.where(is_class, "1", "0")
    try:
        folds = score(vectors, names, make_splits(names, patient)[0], scale=scale)
    except InvalidInput as error:
        return (None, None, None), f"how well the probe tells the class apart is not known: {error.message}"
    mean, (low, high) = float(np.mean([fold.auc for fold in folds])), score_interval(folds)
    note = (
        f"the probe does not tell {name!r} from the others for sure (AUC {mean:.3f}, 95 % "
        f"interval {low:.3f} to {high:.3f}): its map need not mean anything"
    )
    return (mean, low, high), note if (low or 0.0) <= 0.5 else ""
