"""What is judged: slides, or patients with all their slides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    beside: dict[str, NDArray[np.str_]] = field(default_factory=dict)  # other columns of the table, text (units,)

    def vectors(self, of_slides: NDArray[np.float32], *, unit_length: bool, some: bool = False) -> NDArray[np.float32]:
        """One vector per unit, (units, features); a patient's is the mean of the slides'.

        Args:
            of_slides: (slides of the store, features).
            unit_length: Whether a patient's mean is scaled to length 1, as the slides' vectors are.
            some: Whether vectors of some slides are NaN, which then do not count.
        """
        if self.level == "slide":
            return of_slides[np.concatenate(self.slides)]
        there = np.flatnonzero(np.isfinite(of_slides).all(axis=1)) if some else np.zeros(0, dtype=np.int64)
        known = [np.intersect1d(rows, there) for rows in self.slides]
        each = [mine if len(mine) else rows for mine, rows in zip(known, self.slides, strict=True)]
        means = np.stack([of_slides[rows].mean(axis=0, dtype=np.float64) for rows in each])  # (units, features)
        if unit_length:
            means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        return means.astype(np.float32)

    def followed_by(self, other: Units, *, slides: int) -> Units:
        """These units, and those of another store, whose slides come after the `slides` of this one."""
        patient = None
        if self.patient is not None or other.patient is not None:
            patient = (*(self.patient or self.ids), *(other.patient or other.ids))
        beside = {
            name: np.concatenate([texts, other.beside[name]])
            for name, texts in self.beside.items()
            if name in other.beside
        }
        return Units(
            self.level,
            (*self.ids, *other.ids),
            np.concatenate([self.label, other.label]),
            patient,
            (*self.slides, *(rows + slides for rows in other.slides)),
            beside,
        )

    def per_class(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        """Slides and, where they are known, patients of every class, of the class of each unit (units,)."""
        slides: Counter[str] = Counter()
        for name, rows in zip(names, self.slides, strict=True):
            slides[name] += len(rows)
        counts = {"classes": dict(sorted(slides.items()))}
        if self.patient is not None:
            pairs = set(zip(names, self.patient, strict=True))
            counts["patients"] = dict(sorted(Counter(name for name, _ in pairs).items()))
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
        mine_of = None if known is None else tuple(known)
        return Units(level, tuple(mine), joined.label, mine_of, rows, joined.beside)
    if known is None:
        raise InvalidInput(
            "`level='patient'`: it is not known which slides belong to one patient",
            "Add a column patient_id to the labels, or to the slides: giga tile STORE --csv TABLE.",
        )
    places: dict[str, list[int]] = {}  # of the slides among those that were joined, in the order of the patients
    for place, patient in enumerate(known):
        places.setdefault(patient, []).append(place)
    names, first = tuple(places), [mine[0] for mine in places.values()]
    for what, texts in (("class", joined.label), *joined.beside.items()):
        _check_one(places, texts, what)
    slides = tuple(joined.index[np.array(places[name])] for name in names)
    beside = {what: texts[first] for what, texts in joined.beside.items()}
    return Units(level, names, joined.label[first], names, slides, beside)


def _check_one(places: dict[str, list[int]], texts: NDArray[np.str_], what: str) -> None:
    """Refuse patients whose slides do not agree on a column."""
    found = {patient: sorted(set(texts[mine].tolist())) for patient, mine in places.items()}
    ambiguous = [patient for patient, values in found.items() if len(values) > 1]
    if ambiguous:
        raise InvalidInput(
            f"{len(ambiguous)} patients have slides of more than one {what}: {', '.join(ambiguous[:_SHOWN])} "
            f"(the first: {' and '.join(found[ambiguous[0]])})",
            "Give all slides of a patient one label, or judge slides: `level='slide'`.",
        )
