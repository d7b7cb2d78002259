"""Tiles of slides as they would be seen under another augmentation: what vectors must withstand."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from gigacli.errors import NotFound
from gigacli.nn.operators import AppliedOperators
from gigacli.randomness import keyed_rng
from gigacli.store.groups import Bank, Features
from gigacli.weights.operators import applied


class FreshFeatures:
    """Features of tiles under one augmentation, shared by all tiles of a slide; read like :class:`Features`.

    Of operators it is drawn for this purpose alone. Of a bank of tiles it is one of the bank's own, counted from the
    last: an encoder that was trained on the bank has seen it.

    Args:
        features: The features as they are.
        number: Which of several, counted from 0.

    Raises:
        NotFound: There is no bank of these features.
    """

    def __init__(self, features: Features, number: int) -> None:
        self.store, self.name, self.width, self._features, self._number = (
            features.store,
            features.name,
            features.width,
            features,
            number,
        )
        self._bank: Bank = features.store.bank(features.name)
        if self._bank.found is None:
            raise NotFound(
                f"{features.store.url} holds no bank of {features.path}, so no tile of theirs is seen otherwise",
                f"run: giga bank {features.store.url} --mode operators --features {features.name} --encoder NAME",
            )

    @cached_property
    def _operators(self) -> AppliedOperators | None:
        return applied(self._bank, device=torch.device("cpu")) if self._bank.learns else None

    def read(self, row: int) -> NDArray[np.float16]:
        """Vectors (n, width) of all tiles of a slide; NaN of those that a bank does not hold."""
        plain = self._features.read(row)
        if self._operators is not None:
            rng = keyed_rng("fresh", self._number, self.store.slides[row].id)
            moved = self._operators(plain[None], self._operators.draw(rng, 1, len(plain)))
            return moved[0].cpu().numpy().astype(np.float16)
        seen = np.full_like(plain, np.nan)
        vectors, tile = self._bank.read(row, self._at)
        seen[tile] = vectors
        return seen

    def numbers(self, row: int) -> NDArray[np.int64]:
        """(m,) numbers of the tiles that are seen, ascending."""
        if self._operators is not None:
            return self._features.numbers(row)
        return np.unique(self._bank.read(row, self._at)[1]).astype(np.int64)

    @property
    def _at(self) -> int:
        """The bank's augmentation that this is."""
        return self._bank.shape[1] - 1 - self._number % self._bank.shape[1]
