"""A fitted head as a file: a linear map of slide vectors, and a card that says what it goes with.

Every head of a probe that is kept is linear: vectors are standardised, multiplied with weights, and linked to what is
predicted. The file is safetensors, with the card in its metadata: loading it runs no code, and everything in it is
checked.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gigacli.config.probe import TaskKind
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.files import new_file
from gigacli.probing.head_card import HINT, HeadCard, Link
from gigacli.probing.logistic import Logistic
from gigacli.probing.model import Model
from gigacli.probing.standardise import standardise

ENDING: Final = ".safetensors"
LINKS: Final[dict[TaskKind, tuple[Link, ...]]] = {
    "classification": ("logistic", "softmax"),
    "survival": ("identity",),
    "regression": ("identity",),
    "ordinal": ("levels",),
}


@dataclass(frozen=True, eq=False)
class LinearMap:
    """What turns vectors into predictions.

    Attributes:
        mean: Subtracted from vectors first, float64 (features,); 0 where they are taken as they are.
        deviation: What they are then divided by, float64 (features,), positive; 1 likewise.
        weights: float32 or float64, (scores, features).
        bias: Of the same precision, (scores,).
        link: From scores to predictions.
        cuts: Where one level ends and the next begins, ascending, float64 (levels - 1,); None but for levels.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    weights: NDArray[np.floating]
    bias: NDArray[np.floating]
    link: Link
    cuts: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, model: Model, task: TaskKind) -> LinearMap:
        """What a linear method of the probe has learnt.

        Raises:
            InvalidInput: The method is not linear.
        """
        weights = model.weights
        if weights is None:
            raise InvalidInput("only linear heads are kept, and this method is not linear", "use `method` linear")
        features, link = weights.shape[1] - 1, LINKS[task][-1 if len(weights) > 1 else 0]
        mean = np.zeros(features) if model.mean is None else model.mean
        deviation = np.ones(features) if model.deviation is None else model.deviation
        return cls(mean, deviation, weights[:, :-1], weights[:, -1], link, model.cuts)

    def predict(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Predictions of vectors (n, features): probabilities (n, classes), risks or values (n, 1), float64.

        Of levels the place of each and the number behind it, (n, 2).
        """
        rows = standardise(vectors, self.mean, self.deviation)
        if self.link in ("logistic", "softmax"):
            return Logistic(np.column_stack([self.weights, self.bias]), converged=True, steps=0).probabilities(rows)
        scores = (rows.astype(self.weights.dtype) @ self.weights.T + self.bias).astype(np.float64)
        if self.cuts is None:
            return scores
        return np.column_stack([np.searchsorted(self.cuts, scores[:, 0], side="right"), scores])


@dataclass(frozen=True, eq=False)
class Head:
    """A fitted head: its card and its map."""

    card: HeadCard
    map: LinearMap

    def table(self, vectors: NDArray[np.floating]) -> list[dict[str, str | float]]:
        """What is predicted of each of vectors (n, features), by name.

        ``p_CLASS`` for every class; ``risk`` of survival; ``value`` of regression; ``level`` and ``value`` of levels.
        """
        said = self.map.predict(vectors).tolist()
        if self.map.link == "levels":
            return [{"level": self.card.classes[int(place)], "value": value} for place, value in said]
        numbers = ("risk" if self.card.task == "survival" else "value",)
        names = tuple(f"p_{name}" for name in self.card.classes) or numbers
        return [dict(zip(names, values, strict=True)) for values in said]

    def save(self, path: str | Path) -> str:
        """Write it to a file, which appears as a whole or not at all; the same head gives the same bytes.

        Returns:
            The SHA-256 of the file.

        Raises:
            InvalidInput: The file is not called ``.safetensors``, or the head is not sound.
        """
        from safetensors.numpy import save

        path = Path(path)
        if path.suffix != ENDING:
            raise InvalidInput(f"a head is a file {ENDING}; found {path.name!r}", f"name it {path.stem}{ENDING}")
        if problem := _problem(self.card, self.map):
            raise InvalidInput(f"this head cannot be kept: {problem}")
        tensors = {name: np.ascontiguousarray(getattr(self.map, name)) for name in _tensors(self.map.link)}
        data = save(tensors, metadata=self.card.to_metadata())
        with new_file(path) as partial:
            partial.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    @classmethod
    def load(cls, path: str | Path) -> Head:
        """Read a head from its file. Nothing in the file is run, and all of it is checked.

        Raises:
            NotFound: There is no such file.
            Mismatch: It is no head, of a version this giga does not read, or damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise NotFound(f"{path}: no such file", HINT)
        try:
            with safe_open(path, framework="np") as opened:
                card = HeadCard.from_metadata(opened.metadata(), origin=str(path))
                wanted = _tensors(card.link)
                if (found := sorted(opened.keys())) != sorted(wanted):
                    raise Mismatch(f"{path} holds {', '.join(found)[:200]}; a head holds {', '.join(wanted)}", HINT)
                tensors = {name: opened.get_tensor(name) for name in wanted}
        except SafetensorError as error:
            raise Mismatch(f"{path} is not a safetensors file: {error}", HINT) from error
        except (TypeError, AttributeError, KeyError) as error:  # a kind of numbers that numpy has not got
            raise Mismatch(f"{path} is damaged: its numbers are of a kind that no head has: {error}", HINT) from error
        head = cls(card, LinearMap(link=card.link, **tensors))
        if problem := _problem(card, head.map):
            raise Mismatch(f"{path} is damaged: {problem}", HINT)
        return head


def _tensors(link: Link) -> tuple[str, ...]:
    """Names of what the file of a head holds."""
    return ("mean", "deviation", "weights", "bias", *(("cuts",) if link == "levels" else ()))


def _problem(card: HeadCard, learnt: LinearMap) -> str:
    """What is wrong with a head, "" if nothing is."""
    scores = len(card.classes) if card.link == "softmax" else 1
    features, weights = card.vectors.width, learnt.weights
    shapes = {"mean": (features,), "deviation": (features,), "weights": (scores, features), "bias": (scores,)}
    if card.link not in LINKS[card.task] or card.link != learnt.link:
        return f"{card.task} is linked by {card.link}; it must be {' or '.join(LINKS[card.task])}"
    classes, fits = len(set(card.classes)), {"logistic": 2, "identity": 0}.get(card.link, len(card.classes))
    if not len(card.classes) == classes == fits or (card.link == "softmax" and classes < 3):
        return f"its classes are {', '.join(card.classes)[:200] or 'none'}, which do not go with {card.link}"
    if card.link == "levels":
        shapes["cuts"] = (classes - 1,)
    for name, shape in shapes.items():
        found = getattr(learnt, name)
        dtypes = ("float32", "float64") if name in ("weights", "bias") else ("float64",)
        if found is None or found.shape != shape or found.dtype not in dtypes:
            is_ = "none" if found is None else f"{found.dtype} {found.shape}"
            return f"{name} is {is_}; it must be {' or '.join(dtypes)} {shape}"
        if not np.isfinite(found).all():
            return f"{name} holds values that are not numbers"
    if not (learnt.deviation > 0).all():
        return "deviation holds values that are not positive"
    if learnt.cuts is not None and (np.diff(learnt.cuts) < 0).any():
        return "cuts do not ascend"
    if weights.dtype != learnt.bias.dtype:
        return f"weights are {weights.dtype}, bias is {learnt.bias.dtype}"
    return ""
