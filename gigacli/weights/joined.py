"""A slide encoder joined with a closed form: what is learnt beside its weights, and kept in their file.

The vector of a slide is that of the encoder beside its view-whitened mean and deviation of tiles, each centred and at
length 1, then the whole. Measured on real tissue, a trained encoder so joined is never clearly behind what needs no
training, and ahead where labels are few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from gigacli.nn.closed_forms import SlideTiles, ViewWhitened
from gigacli.nn.forms import fit_form
from gigacli.nn.join import Join
from gigacli.store.groups import Bank, Features
from gigacli.weights.slide_tiles import tiles_of_slides
from gigacli.weights.slide_vectors import Encode, encode_slides

PREFIX, FORM, JOIN = "joined.", "joined.form.", "joined.join."
BLOCK = 128  # slides that are encoded together
VIEWS = 50  # R of the vectors that the encoder's mean is taken from (paper: 50)


@dataclass(frozen=True, eq=False)
class Joined:
    """What joins the vectors of an encoder with a closed form."""

    encoder: ClassVar[str] = "encoder"  # name of the first block
    form: ViewWhitened
    join: Join

    def transform(self, encoded: NDArray[np.float32], slides: Iterable[SlideTiles]) -> NDArray[np.float32]:
        """Joined vectors (n, width) of n slides, from those of the encoder (n, w) and from their tiles."""
        return self.join.transform(
            {self.encoder: encoded, self.form.name: np.stack([self.form.transform(slide) for slide in slides])}
        )

    @property
    def width(self) -> int:
        """Values of a joined vector."""
        return len(self.join.centre)

    def state(self) -> dict[str, NDArray[Any]]:
        """What is kept, under names that no weights have."""
        form = {f"{FORM}{name}": value for name, value in self.form.state().items()}
        return form | {f"{JOIN}{name}": value for name, value in self.join.state().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """What was kept among others."""
        form, join = (
            {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            for prefix in (FORM, JOIN)
        )
        return cls(ViewWhitened.from_state(form), Join.from_state(join))


def split_weights(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Joined | None]:
    """The weights in a model's file, and what joins their vectors with a closed form, None where it has nothing."""
    weights = {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}
    beside = {name: value.numpy() for name, value in tensors.items() if name.startswith(PREFIX)}
    return weights, Joined.from_state(beside) if beside else None


def fit_joined(
    encode: Encode,
    features: Features,
    bank: Bank | None,
    rows: NDArray[np.int64],
    *,
    tiles: int,
    seed: int,
    device: torch.device,
    precision: str,
) -> Joined:
    """Fit the closed form on slides, and the join on its vectors and those of the encoder.

    Args:
        encode: Function from views to vectors (b, width), in eval mode.
        features: Of all tiles, without augmentation.
        bank: Of the same tiles; None where features were imported.
        rows: (n,) of the slides that were trained on.
        tiles: T, tiles of a view.
        seed: Of the views.
        device: Where `encode` works.
        precision: fp32 or bf16, what it computes in.

    Raises:
        InvalidInput: Features or views do not differ, so that there is nothing to even out.
    """

    def slides() -> Iterator[SlideTiles]:
        return tiles_of_slides(features, rows, bank=bank, placed=False)

    form = fit_form(ViewWhitened.name, slides, seed=seed)
    assert isinstance(form, ViewWhitened)
    blocks = (rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK))
    views: dict[str, Any] = {"views": VIEWS, "tiles": tiles, "seed": seed, "device": device, "precision": precision}
    parts = []
    with features.store.tiles.read_once():
        for block in blocks:
            plain = tiles_of_slides(features, block, augmented=False, placed=False)
            pooled = np.stack([form.transform(slide) for slide in plain])
            parts.append({Joined.encoder: encode_slides(encode, features, block, **views), form.name: pooled})
    return Joined(form, Join.fit(*parts))
