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
        NotFound: There is no bank of these features, it lacks slides of theirs, or its operators are not learnt yet.
    """

    def __init__(self, features: Features, number: int) -> None:
        self.store, self._features, self._number = features.store, features, number
        self._bank: Bank = self.store.bank(features.name)
        if self._bank.found is None:
            raise NotFound(
                f"{self.store.url} holds no bank of {features.path}, so no tile of theirs is seen otherwise",
                f"run: giga bank {self.store.url} --mode operators --features {features.name} --encoder NAME",
            )
        lacking = int((features.done().filled & ~self._bank.done().filled).sum())
        if lacking or (self._bank.learns and not self._bank.fitted):
            what = f"lacks {lacking} slides of {features.path}" if lacking else "has no operators yet"
            raise NotFound(
                f"{self.store.url}/{self._bank.path} {what}", f"run: {self._bank.again.removesuffix(' --redo')}"
            )

    @property
    def bank(self) -> Bank:
        """What says how tiles are seen otherwise."""
        return self._bank

    @cached_property
    def _operators(self) -> AppliedOperators | None:
        return applied(self._bank, device=torch.device("cpu")) if self._bank.learns else None

    def read(self, row: int) -> NDArray[np.float16]:
        """Vectors (n, width) of all tiles of a slide; NaN of those that a bank does not hold."""
        plain = self._features.read(row)
        if self._operators is not None:
            rng = keyed_rng("fresh", self._number, self.store.slides[row].id)
            return self._operators.whole(plain, rng)
        seen = np.full_like(plain, np.nan)
        seen[self._bank.drawn(row, self._at)] = self._bank.read(row, self._at)
        return seen

    def numbers(self, row: int) -> NDArray[np.int64]:
        """(m,) numbers of the tiles that are seen, ascending."""
        if self._operators is not None:
            return self._features.numbers(row)
        return np.unique(self._bank.drawn(row, self._at)).astype(np.int64)

    @property
    def _at(self) -> int:
        """The bank's augmentation that this is."""
        return self._bank.shape[1] - 1 - self._number % self._bank.shape[1]
