"""What is judged: slides, or patients with all their slides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput
from gigacli.probing.labels import Join
from gigacli.probing.patients import Patients

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Units:
    """Slides or patients with a label and a vector."""

    level: Literal["slide", "patient"]  # what a unit is
    ids: tuple[str, ...]  # their names, (units,)
    label: NDArray[np.str_]  # their labels, text (units,)
    patient: tuple[str, ...] | None  # their patients, (units,), or None when nothing is known of any
    slides: tuple[NDArray[np.int64], ...]  # rows of the slides of each in the store, int64, one or several

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct labels in sorted order: the columns of predicted probabilities."""
        return tuple(np.unique(self.label).tolist())

    def vectors(self, of_slides: NDArray[np.float32], *, unit_length: bool) -> NDArray[np.float32]:
        """One vector per unit, (units, features); a patient's is the mean of the slides'.

        Args:
            of_slides: (slides of the store, features).
            unit_length: Whether a patient's mean is scaled to length 1, as the slides' vectors are.
        """
        if self.level == "slide":
            return of_slides[np.concatenate(self.slides)]
        means = np.stack([of_slides[rows].mean(axis=0, dtype=np.float64) for rows in self.slides])  # (units, features)
        if unit_length:
            means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        return means.astype(np.float32)

    def per_class(self) -> dict[str, dict[str, int]]:
        """Slides and, where they are known, patients of every class."""
        slides: Counter[str] = Counter()
        for label, rows in zip(self.label.tolist(), self.slides, strict=True):
            slides[label] += len(rows)
        counts = {"classes": dict(sorted(slides.items()))}
        if self.patient is not None:
            pairs = set(zip(self.label.tolist(), self.patient, strict=True))
            counts["patients"] = dict(sorted(Counter(label for label, _ in pairs).items()))
        return counts


def units_of(
    joined: Join, slide_ids: Sequence[str], *, patients: Patients, level: Literal["slide", "patient"]
) -> Units:
    """The units to judge, one label each; `patients` are those of the slides of the store.

    Raises:
        InvalidInput: Patients are to be judged, but they are not known, or one has slides of two classes.
    """
    mine = [slide_ids[i] for i in joined.index]
    known = None if patients.names is None else [patients.names[i] for i in joined.index]
    if level == "slide":
        rows = tuple(joined.index[:, None])
        return Units(level, tuple(mine), joined.label, None if known is None else tuple(known), rows)
    if known is None:
        raise InvalidInput(
            "`level='patient'`: it is not known which slides belong to one patient",
            "Add a column patient_id to the labels, or to the slides: giga tile STORE --csv TABLE.",
        )
    slides: dict[str, list[int]] = {}  # in the order in which the patients come
    labels: dict[str, set[str]] = {}
    for patient, label, row in zip(known, joined.label.tolist(), joined.index.tolist(), strict=True):
        slides.setdefault(patient, []).append(row)
        labels.setdefault(patient, set()).add(label)
    ambiguous = [patient for patient, values in labels.items() if len(values) > 1]
    if ambiguous:
        raise InvalidInput(
            f"{len(ambiguous)} patients have slides of more than one class: {', '.join(ambiguous[:_SHOWN])} "
            f"(the first: {' and '.join(sorted(labels[ambiguous[0]]))})",
            "Give all slides of a patient one label, or judge slides: `level='slide'`.",
        )
    names = tuple(slides)
    label = np.array([next(iter(labels[name])) for name in names])
    return Units(level, names, label, names, tuple(np.array(slides[n], dtype=np.int64) for n in names))
