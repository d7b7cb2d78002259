"""Augmentations learnt in feature space: affine operators that do to features what augmented tiles would.

Beyond the paper, in place of its bank. Operator k, learnt from some tiles of the cohort under one set of parameters by
:mod:`gigacli.nn.operators_fit`, moves x, a tile's features in the operators' space, to x + mu_k + (x - c) D_k. New
augmentations are drawn from all of them: h = mean_k f_k + 3^(-1/2) sum_j z_j (f_kj - mean_k f_k), with three operators
k_j and three normal numbers z_j, which all tiles of a view share. Over draws, h has the mean and the covariance of the
learnt ones, and never ends.

Features come in and go out as the encoder made them: the change of space is multiplied into the operators. So whoever
trains on such views standardises and whitens them as those of a bank, and embeds un-augmented features with the same
network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gigacli.nn.whitening import Features, FeatureSpace

DRAWN = 3
"""Operators that are mixed in an augmentation."""

FORESEEN, HARDLY_FORESEEN, BEYOND_SHIFT, ALL_FORESEEN = 0.4, 0.3, 0.1, 0.9
"""Of the gate, from two encoders: a hypothesis."""


@dataclass(frozen=True)
class Gate:
    """Whether operators may stand in for augmented tiles, by the slides that they were not learnt from.

    An R2 is 1 - sum |displacement - foreseen|^2 / sum |displacement|^2, over sets and tiles or slides; 0 is no better
    than leaving features as they are.
    """

    tile: float  # R2 of the displacement of single tiles
    slide: float  # R2 of the displacement of the mean of a slide's tiles
    shift: float  # the same where every set only adds mu_k

    @property
    def outcome(self) -> Literal["operators", "residuals", "refused"]:
        """Use operators as they are; add what they cannot foresee; or do not use them.

        They are refused where they foresee of what mu_k leaves of slides less than a tenth, unless little is left.
        """
        if self.slide < min(self.shift + BEYOND_SHIFT * (1 - self.shift), ALL_FORESEEN):
            return "refused"
        return "operators" if self.tile >= FORESEEN else "residuals"

    def words(self, *, residuals: bool) -> str:
        """What the figures mean, of operators with or without the residuals of their calibration tiles."""
        found = (
            f"on slides left out, operators foresee {self.tile:.2f} of how augmentation moves tiles and "
            f"{self.slide:.2f} of how it moves slides"
        )
        if self.outcome == "refused":
            return (
                f"{found}, where adding one vector a set foresees {self.shift:.2f}: they say too little about tissue "
                "to stand in for augmented tiles"
            )
        rest = ": what they cannot foresee is added from the calibration tiles" if residuals else ""
        if self.outcome == "residuals" and not residuals:
            rest = ": what they cannot foresee is left out, though it is much"
        return found + rest + ("; a bank of tiles is safer" if self.tile < HARDLY_FORESEEN else "")


@dataclass(frozen=True, eq=False)
class Residuals:
    """What operators could not foresee of their calibration tiles, when their slides were left out."""

    values: NDArray[np.float16]  # (n, k, d), of features as the encoder makes them
    first: NDArray[np.int64]  # (slides + 1,) the first tile of each slide, and the end


@dataclass(frozen=True)
class Drawn:
    """The augmentations of b views, each shared by its t tiles."""

    which: NDArray[np.int64]  # (b, DRAWN) operators
    weight: NDArray[np.float64]  # (b, DRAWN) of each
    tile: NDArray[np.int64] | None  # (b, t) the calibration tiles whose residuals are added

    def part(self, views: NDArray[np.int64]) -> Drawn:
        """Those of some of the views."""
        return Drawn(self.which[views], self.weight[views], None if self.tile is None else self.tile[views])


@dataclass(frozen=True, eq=False)
class Operators:
    """K operators: x becomes x + mu_k + (x - c) D_k with D_k = left core_k right, of rank r."""

    space: FeatureSpace  # features f become x, of d values
    centre: NDArray[np.float32]  # (d,) c
    shift: NDArray[np.float32]  # (k, d) mu_k
    left: NDArray[np.float32]  # (d, r) shared, as right is
    core: NDArray[np.float32]  # (k, r, r)
    right: NDArray[np.float32]  # (r, d)
    gate: Gate  # over the sets that are drawn
    r2: NDArray[np.float32]  # (k, 3) the same of each set: tile, slide, shift
    penalty: float  # the lambda chosen
    kept: float  # share of the squared displacement due to (x - c) D_k that rank r leaves
    residuals: Residuals | None = None
    held_out: int = 0  # of the sets, the last, that no augmentation is drawn from: vectors are judged by them

    @property
    def sets(self) -> int:
        """K."""
        return len(self.shift)

    @property
    def drawn(self) -> int:
        """Sets that augmentations are drawn from, the first."""
        return self.sets - self.held_out

    def draw(self, rng: np.random.Generator, views: int, tiles: int) -> Drawn:
        """New augmentations for so many views of so many tiles."""
        which = rng.integers(0, self.drawn, (views, DRAWN))
        weight = rng.standard_normal((views, DRAWN)) / np.sqrt(DRAWN)
        if self.residuals is None:
            return Drawn(which, weight, None)
        slide = rng.integers(0, len(self.residuals.first) - 1, views)
        first, end = self.residuals.first[slide], self.residuals.first[slide + 1]
        return Drawn(which, weight, rng.integers(first[:, None], end[:, None], (views, tiles)))

    def state(self) -> dict[str, NDArray[Any]]:
        """What is kept."""
        kept = {**self.space.state(), **{name: getattr(self, name) for name in _ARRAYS}}
        if self.residuals is None:
            return kept
        return {**kept, "residuals": self.residuals.values, "residuals_first": self.residuals.first}

    @classmethod
    def from_state(
        cls, state: Mapping[str, NDArray[Any]], *, gate: Gate, penalty: float, kept: float, held_out: int
    ) -> Self:
        """The operators that were kept, and what is said of them beside their arrays."""
        learnt, there = {name: state[name] for name in _ARRAYS}, "residuals" in state
        return cls(
            space=FeatureSpace.from_state(state),
            **learnt,
            gate=gate,
            penalty=penalty,
            kept=kept,
            residuals=Residuals(state["residuals"], state["residuals_first"]) if there else None,
            held_out=held_out,
        )


_ARRAYS = ("centre", "shift", "left", "core", "right", "r2")


class AppliedOperators:
    """Operators ready to move features, on a device.

    f becomes f + mu_k B + (f - c B - m) A D_k B, with x = (f - m) A the way into the operators' space and B the inverse
    of A: A left and right B are multiplied out once, so that nothing is paid for the space.

    Args:
        operators: What was learnt.
        device: Where features are moved.
        precision: Of the products, "fp32" or "bf16"; sums with the features themselves are float32.
    """

    def __init__(self, operators: Operators, *, device: torch.device, precision: str = "fp32") -> None:
        self._residuals, self.draw = operators.residuals, operators.draw
        self.device, self._dtype = device, torch.bfloat16 if precision == "bf16" else torch.float32
        into, back = ways(operators.space, len(operators.centre))
        standard = operators.space.standard
        origin = 0.0 if standard is None else standard.mean.astype(np.float64)
        shift, core, drawn = operators.shift.astype(np.float64), operators.core, slice(operators.drawn)
        self._centre = self._tensor(origin + operators.centre @ back)  # (d,)
        self._mean_shift, self._shift = (
            self._tensor(v @ back) for v in (shift[drawn].mean(0), shift - shift[drawn].mean(0))
        )
        self._left = self._tensor(into @ operators.left).to(self._dtype)  # (d, r)
        self._right = self._tensor(operators.right @ back).to(self._dtype)  # (r, d)
        mean_core = core[drawn].mean(axis=0, dtype=np.float64).astype(np.float32)
        self._mean_core = self._tensor(mean_core).to(self._dtype)  # (r, r)
        self._core = self._tensor(core - mean_core).to(self._dtype)  # (k, r, r)

    def _tensor(self, values: NDArray[np.float64] | NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32, copy=False)).to(self.device)

    @torch.no_grad()
    def __call__(self, features: Features | Tensor, drawn: Drawn) -> Tensor:
        """Features (b, t, d) of the tiles of b views, moved by the augmentation of each: (b, t, d) float32."""
        given = features if isinstance(features, Tensor) else torch.from_numpy(np.ascontiguousarray(features))
        result = given.to(self.device, torch.float32, copy=True)  # (b, t, d)
        weight = torch.from_numpy(drawn.weight).to(self.device, torch.float32)  # (b, j)
        centred = torch.sub(result, self._centre, out=torch.empty_like(result, dtype=self._dtype))
        inner = centred @ self._left  # (b, t, r)
        moved = (inner @ self._mean_core + self._mixed(inner, drawn.which, weight)) @ self._right  # (b, t, d)
        shift = (self._shift[torch.from_numpy(drawn.which).to(self.device)] * weight[..., None]).sum(dim=1)  # (b, d)
        result.add_(moved).add_((self._mean_shift + shift)[:, None])
        if self._residuals is not None and drawn.tile is not None:
            left_out = self._residuals.values[drawn.tile, drawn.which[:, :1]]  # (b, t, d)
            result += torch.from_numpy(left_out).to(self.device)
        return result

    def _mixed(self, inner: Tensor, which: NDArray[np.int64], weight: Tensor) -> Tensor:
        """Sum over j of weight_j inner core_(which_j), about the mean core: (b, t, r).

        Pairs of a view and an operator lie in a table, a row of equal length for each operator: one batched product.
        Of one view, which may be a slide of a million tiles, the cores are added up first.
        """
        b, j = which.shape
        _, t, r = inner.shape
        if b == 1:
            core = (self._core[torch.from_numpy(which[0]).to(self.device)] * weight[0, :, None, None]).sum(dim=0)
            return inner @ core.to(self._dtype)
        flat = which.ravel()
        counts = np.bincount(flat, minlength=len(self._core))  # (k,) pairs of each operator
        place, order = np.empty_like(flat), np.argsort(flat, kind="stable")
        place[order] = np.arange(b * j) - np.repeat(np.cumsum(counts) - counts, counts)  # in the row of its operator
        longest = int(counts.max())
        cell = torch.from_numpy(flat * longest + place).to(self.device)  # (b * j,)
        table = inner.new_zeros(len(self._core) * longest, t, r)
        table[cell] = (inner[:, None] * weight.to(self._dtype)[..., None, None]).view(b * j, t, r)
        products = torch.bmm(table.view(len(self._core), longest * t, r), self._core)
        return products.view(-1, t, r)[cell].view(b, j, t, r).sum(dim=1)

    def under(self, features: Features, k: int) -> NDArray[np.float32]:
        """Features (n, d) of tiles as they would be under parameter set k of the calibration."""
        alone = Drawn(np.full((1, 1), k), np.ones((1, 1)), None)
        moved: NDArray[np.float32] = self(features[None], alone)[0].cpu().numpy()
        return moved

    def bank(
        self, plain: Features, rng: np.random.Generator, *, augmentations: int, draws: int
    ) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
        """What a bank would hold of a slide with features (n, d): new augmentations, each of the same tiles.

        Returns:
            (augmentations, m, d) and which tile each is of (augmentations, m), m the lesser of n and `draws`.
        """
        tile = np.sort(rng.permutation(len(plain))[:draws]).astype(np.int32)
        tiles = np.broadcast_to(tile, (augmentations, len(tile)))
        moved = self(plain[tiles], self.draw(rng, augmentations, len(tile)))
        return moved.cpu().numpy().astype(np.float16), tiles


def ways(space: FeatureSpace, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrices (d, d) into a space and back, of features less their mean."""
    sd = np.ones(width) if space.standard is None else space.standard.sd.astype(np.float64)
    matrix = np.eye(width) if space.matrix is None else space.matrix.astype(np.float64)
    return matrix / sd[:, None], np.linalg.inv(matrix) * sd
