"""Several vectors of a slide side by side, as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput
from gigacli.nn.arrangement import Arrangement
from gigacli.nn.closed_forms import State
from gigacli.nn.whitening import settled

Blocks = Mapping[str, NDArray[np.floating]]


@dataclass(frozen=True, eq=False)
class Join:
    """Blocks centred over the slides fitted on, rows at length 1, side by side; centred again, rows at length 1.

    The arrangement is neither centred nor scaled by itself, for its length says how much there is of it: it is
    multiplied by sqrt(number of other blocks).

    Attributes:
        means: By block, in the order of the vector, (p,) what is subtracted; 0 of the arrangement.
        centre: (sum of p,) what is subtracted of the whole.
    """

    means: dict[str, NDArray[np.float32]]
    centre: NDArray[np.float32]

    @classmethod
    def fit(cls, *parts: Blocks) -> Self:
        """Learn the means from the vectors (slide, p) of every block, by its name.

        Slides may come in several parts, so that those of a large cohort are never put together: what is worked out
        takes several times the memory of the vectors, of one part at a time.

        Raises:
            InvalidInput: There is no block but an arrangement, or blocks differ in their number of slides.
        """
        for blocks in parts:
            if not set(blocks) - {Arrangement.name}:
                raise InvalidInput("a join needs a block that says what a slide is made of")
            if len({len(rows) for rows in blocks.values()}) != 1:
                sizes = ", ".join(f"{name} of {len(rows)}" for name, rows in blocks.items())
                raise InvalidInput(f"blocks are of different slides: {sizes}")
        zero = {name: np.zeros(rows.shape[1], dtype=np.float32) for name, rows in parts[0].items()}
        means = {
            name: nothing if name == Arrangement.name else _mean(blocks[name] for blocks in parts)
            for name, nothing in zero.items()
        }
        whole = cls(means, np.zeros(sum(map(len, zero.values())), dtype=np.float32))
        return cls(means, _mean(whole._side_by_side(blocks) for blocks in parts))

    def transform(self, blocks: Blocks) -> NDArray[np.float32]:
        """The joined vectors (slide, sum of p) of blocks (slide, p), at unit length.

        Raises:
            InvalidInput: Blocks are missing, or are others.
        """
        if set(blocks) != set(self.means):
            raise InvalidInput(f"blocks are {', '.join(blocks)}; this join is of {', '.join(self.means)}")
        return _unit(self._side_by_side(blocks) - self.centre).astype(np.float32)

    def gradient(self, blocks: Blocks, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """By block what its vector (p,) of one slide is to be multiplied by, for its part of the joined score.

        Lengths are taken as they are: the parts, less a constant, add up to the joined vector times weights.
        """
        rows = {name: np.asarray(block)[None] for name, block in blocks.items()}
        whole = float(np.linalg.norm(self._side_by_side(rows) - self.centre))
        lengths = {name: float(np.linalg.norm(blocks[name] - mean)) for name, mean in self.means.items()}
        others = len(self.means) - (Arrangement.name in self.means)
        return {
            name: weights[start:stop] / whole * (np.sqrt(others) if name == Arrangement.name else 1 / lengths[name])
            for name, (start, stop) in self.columns().items()
        }

    def columns(self) -> dict[str, tuple[int, int]]:
        """First column of every block, and the one after its last."""
        ends = np.cumsum([len(mean) for mean in self.means.values()]).tolist()
        return dict(zip(self.means, zip([0, *ends], ends, strict=False), strict=True))

    def _side_by_side(self, blocks: Blocks) -> NDArray[np.float64]:
        others = len(self.means) - (Arrangement.name in self.means)
        return np.concatenate(
            [
                np.sqrt(others) * blocks[name] if name == Arrangement.name else _unit(blocks[name] - mean)
                for name, mean in self.means.items()
            ],
            axis=1,
        )

    def state(self) -> State:
        """What is kept; a block's number in the name of its mean is its place in the vector."""
        means = {f"block.{i}.{name}": mean for i, (name, mean) in enumerate(self.means.items())}
        return {**means, "centre": self.centre}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """The join that was kept."""
        parts = [name.split(".", 2) for name in state if name.startswith("block.")]
        ordered = sorted(parts, key=lambda part: int(part[1]))
        return cls({name: state[f"block.{i}.{name}"] for _, i, name in ordered}, state["centre"])


def _mean(parts: Iterable[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Mean of the rows (slide, p) of all parts, whatever their order."""
    count, total, squares = 0, np.zeros(1), np.zeros(1)  # of any width
    for rows in parts:
        values = rows.astype(np.float64)
        count, total = count + len(values), total + values.sum(axis=0)
        squares = squares + np.square(values).sum(axis=0)
    scale = np.sqrt(squares / count) + float(np.finfo(np.float32).tiny)
    return settled(total / count, scale=scale).astype(np.float32)


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows at length 1; one of zeros stays as it is."""
    values = rows.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(lengths > 0, lengths, 1))
