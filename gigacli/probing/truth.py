"""What is known of the units that are judged, and is to be predicted: classes, numbers, levels or times to an event."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gigacli.config.probe import TaskKind
from gigacli.errors import InvalidInput

EVENT, CENSORED = "event", "censored"
HAPPENED: Final = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),
    **dict.fromkeys(("0", "0.0", "false", "no"), False),
}
"""What a column of events may say, in lower case."""

FEW_NUMBERS: Final = 20
"""Different whole numbers that are still taken for names of classes."""
FEW_FRACTIONS: Final = 10
"""The same where one of them is no whole number."""

_SHOWN: Final = 5


@dataclass(frozen=True, eq=False)
class Truth:
    """The truth about n units."""

    kind: TaskKind
    # (n,): places in `classes`, int64, of classes and levels; else float64: numbers, or times until an event or the
    # end of being watched
    y: NDArray[Any]
    strata: NDArray[np.str_]  # what splits and budgets keep in proportion, text (n,)
    classes: tuple[str, ...] = ()  # the classes in sorted order, or the levels from low to high
    event: NDArray[np.bool_] | None = None  # whether the event was seen, (n,), of times

    def __len__(self) -> int:
        return len(self.y)

    def take(self, places: NDArray[np.int64]) -> Truth:
        """The truth about some of the units, or about all of them in another order; the strata go with it."""
        event = None if self.event is None else self.event[places]
        return replace(self, y=self.y[places], strata=self.strata[places], event=event)


def guess_kind(labels: Sequence[str]) -> tuple[TaskKind, str]:
    """The kind of task that labels look like, classes or numbers, and why, in words."""
    numbers = [_number(label) for label in labels]
    found = {number for number in numbers if number is not None}
    if None in numbers or not found:
        return "classification", "the labels are names"
    whole = all(number.is_integer() for number in found)
    if len(found) <= (FEW_NUMBERS if whole else FEW_FRACTIONS):
        return "classification", f"the labels are {len(found)} numbers, taken for names of classes"
    return "regression", f"the labels are {len(found)} different numbers"


def classes_of(labels: ArrayLike) -> Truth:
    """Classes, by the distinct labels (n,) in sorted order."""
    names = np.asarray(labels)
    classes, y = np.unique(names, return_inverse=True)
    return Truth("classification", y, names, tuple(classes.tolist()))


def levels_of(labels: Sequence[str], *, column: str) -> Truth:
    """Levels of an order, by the number in each label: 1, 2, 3 or G1, G2, G3.

    Raises:
        InvalidInput: A label without a number or with several, or two labels with the same number.
    """
    number = {label: re.findall(r"\d+(?:\.\d+)?", label) for label in set(labels)}
    unclear = sorted(label for label, found in number.items() if len(found) != 1)
    if unclear:
        raise InvalidInput(
            f"the order of the labels of {column!r} is not known, as each needs one number: found {_listed(unclear)}",
            "Write levels as numbers, 0, 1, 2, from low to high.",
        )
    classes = sorted(number, key=lambda label: (float(number[label][0]), label))
    if len({float(number[label][0]) for label in classes}) < len(classes):
        raise InvalidInput(
            f"two levels of {column!r} have the same number: {_listed(classes)}",
            "Give every level a number of its own.",
        )
    place = {label: i for i, label in enumerate(classes)}
    y = np.array([place[label] for label in labels], dtype=np.int64)
    return Truth("ordinal", y, np.asarray(labels), tuple(classes))


def numbers_of(labels: Sequence[str], *, column: str, parts: int = 4) -> Truth:
    """Numbers; splits keep their `parts` of equal size, from low to high, in proportion.

    Raises:
        InvalidInput: A label that is no number, or all the same.
    """
    y = _numbers(labels, column)
    if len(np.unique(y)) < 2:
        raise InvalidInput(f"all {len(y)} labels of {column!r} are {y[0]:g}", "Choose another `target`.")
    return Truth("regression", y, _parts(y, parts))


def times_of(times: Sequence[str], events: Sequence[str], *, time: str, event: str, parts: int = 4) -> Truth:
    """Times until an event, where it was seen, or until somebody was last watched.

    Splits keep the share of events; where nobody, or fewer than `parts` times 2, are censored, early and late instead.

    Args:
        times: (n,), not negative.
        events: (n,), of :data:`HAPPENED`.
        time: Name of the column of times.
        event: Name of the column of events.
        parts: So many censored units are needed to share them out.

    Raises:
        InvalidInput: A time that is no number or negative, an event that is neither, or no event at all.
    """
    y = _numbers(times, time)
    if (y < 0).any():
        raise InvalidInput(
            f"{int((y < 0).sum())} times of {time!r} are negative, the least {y.min():g}", "Correct them."
        )
    unclear = sorted({text for text in events if text.casefold() not in HAPPENED})
    if unclear:
        raise InvalidInput(
            f"the column {event!r} holds {_listed(unclear)}",
            "Write 1 where the event was seen at that time, and 0 where somebody was last watched then without it.",
        )
    seen = np.array([HAPPENED[text.casefold()] for text in events])
    if not seen.any():
        raise InvalidInput(
            f"none of {len(y)} units has an event in the column {event!r}: all times are censored",
            "1 stands for the event, 0 for censored; choose another `event`, or wait for more follow-up.",
        )
    strata = np.where(seen, EVENT, CENSORED) if (~seen).sum() >= 2 * parts else _parts(y, 2)
    return Truth("survival", y, strata, event=seen)


def _parts(y: NDArray[np.float64], parts: int) -> NDArray[np.str_]:
    """Name of the part, of so many of equal size, that each number is in; equal numbers are in one part."""
    order = np.sort(y)
    edges = np.unique(order[(np.arange(1, parts) * len(y)) // parts])
    edges = edges[edges > order[0]]  # so that no part is empty
    if not len(edges):
        edges = order[order > order[0]][:1]
    return np.array([f"part {i + 1} of {len(edges) + 1}" for i in np.searchsorted(edges, y, side="right")])


def _numbers(texts: Sequence[str], column: str) -> NDArray[np.float64]:
    numbers = [_number(text) for text in texts]
    wrong = sorted({text for text, number in zip(texts, numbers, strict=True) if number is None})
    if wrong:
        raise InvalidInput(
            f"{len(wrong)} different labels of {column!r} are no numbers: {_listed(wrong)}",
            "Correct them, leave the cells empty, or name another `task`.",
        )
    return np.array(numbers, dtype=np.float64)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + " ..." * (len(names) > _SHOWN)
