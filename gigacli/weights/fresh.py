"""Tiles of slides as they would be seen under another augmentation: what vectors must withstand."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from gigacli.errors import InvalidInput, NotFound
from gigacli.nn.operators import AppliedOperators, alone
from gigacli.randomness import keyed_rng
from gigacli.store.groups import Bank, Features
from gigacli.weights.operators import applied, held_out_stains


class FreshFeatures:
    """Features of tiles under one augmentation, shared by all tiles of a slide; read like :class:`Features`.

    It is one that no training draws: of operators one of those held out, of a bank of tiles one of its own, counted
    from the last. Those beyond what was held out have been seen by an encoder that was trained on the bank.

    Args:
        features: The features as they are.
        number: Which of several, counted from 0.
        stain: How strongly it jitters the stains, too.

    Raises:
        NotFound: There is no bank of these features, it lacks slides of theirs, or its operators are not learnt yet.
        InvalidInput: Its operators hold out none of this strength, or not so many.
    """

    def __init__(self, features: Features, number: int, *, stain: float = 0.0) -> None:
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
        self._among = self._held_out(stain)  # sets of operators, of which a slide is seen under one

    def _held_out(self, stain: float) -> list[int]:
        config = self._bank.config
        if not self._bank.learns:
            return []
        stains = held_out_stains(config)
        strength = stain or config.get("stain", 0.0)
        among = [config["sets"] - len(stains) + i for i, one in enumerate(stains) if one == strength]
        if self._number >= len(among):
            raise InvalidInput(
                f"the operators of {self.store.url}/{self._bank.path} hold out {len(among)} augmentations of stains "
                f"jittered by {strength:g}; {self._number + 1} are asked for",
                f"ask for fewer, or run: {self._bank.again} --held-out {4 * (self._number + 1)}",
            )
        return among

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
            order = keyed_rng("fresh", self.store.slides[row].id).permutation(self._among)
            moved = self._operators(plain[None], alone(int(order[self._number])))
            return moved[0].cpu().numpy().astype(np.float16)
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
