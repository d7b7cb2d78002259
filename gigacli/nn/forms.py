"""The closed forms by name: slide vectors that need no training, and what they are fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from gigacli.errors import InvalidInput
from gigacli.nn.arrangement import Arrangement
from gigacli.nn.closed_forms import MeanStd, SlideTiles, ViewWhitened, WhitenedMean
from gigacli.nn.join import Join
from gigacli.nn.prototypes import PROTOTYPES, Mixture
from gigacli.nn.whitening import (
    SCALE_TILES,
    Features,
    FeatureSpace,
    augmentation_covariance,
    slide_covariance,
    spread_of,
    spread_rows,
    whitening_matrix,
)

Form = WhitenedMean | MeanStd | ViewWhitened | Mixture | Arrangement
"""All can `transform` a slide, tell by `scores` what its tiles add to that, and give the `state` that is kept."""

Slides = Callable[[], Iterator[SlideTiles]]
"""Function that begins the stream of slides anew: each form is fitted in a few passes, none of which keeps a slide."""

SLIDES_OF_A_PART = 1024
"""Slides whose vectors are centred together."""

FORMS: dict[str, type[Form]] = {form.name: form for form in (WhitenedMean, MeanStd, ViewWhitened, Mixture, Arrangement)}


def fit_form(name: str, slides: Slides, *, seed: int) -> Form:
    """Fit the closed form `name` of :data:`FORMS`.

    Features are standardised by all un-augmented tiles, then whitened: by the covariance of the augmentations of one
    tile where there are several, else by that of the tiles of a slide.

    Raises:
        InvalidInput: There are no slides, or their features do not differ.
    """
    kind, space = FORMS[name], fit_space(slides)
    if issubclass(kind, WhitenedMean):  # of the space alone
        return kind(space)
    return kind.fit(slides(), space, seed=seed)


def fit_space(slides: Slides) -> FeatureSpace:
    """The space that tiles are brought into first: standardised, whitened, at unit scale.

    Raises:
        InvalidInput: There are no slides, or their features do not differ.
    """
    first = next(slides(), None)
    if first is None:
        raise InvalidInput("there is no slide with tiles to fit on")
    spread = spread_of(slide.plain for slide in slides())
    if first.drawn is not None and len(first.drawn) > 1:
        noise = augmentation_covariance(_drawn(slides()), spread.standard)
    else:
        plain = (slide.plain[spread_rows(len(slide.plain), SCALE_TILES)][:, None] for slide in slides())
        noise = slide_covariance(plain, spread.standard)
    return FeatureSpace(spread.standard, whitening_matrix(noise, spread))


def _drawn(slides: Iterator[SlideTiles]) -> Iterator[tuple[Features, NDArray[np.int32]]]:
    """Augmented features and the tiles they are of; of a cohort in which one slide has them, all do."""
    for slide in slides:
        if slide.augmented is None or slide.drawn is None:
            raise InvalidInput(f"slide {slide.id!r} has no augmented tiles, as others have")
        yield slide.augmented, slide.drawn


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of slides by a closed form: centred over the slides fitted on, and at length 1; arrangement as it is."""

    form: Form
    join: Join | None

    def transform(self, slides: Iterable[SlideTiles]) -> NDArray[np.float32]:
        """Vectors (n, p) of n slides."""
        made = np.stack([self.form.transform(slide) for slide in slides])
        return made if self.join is None else self.join.transform({self.form.name: made})

    def scores(self, slide: SlideTiles, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each tile (n,) adds to the product of the slide's vector and weights (p,), less a constant.

        The length that the vector was brought to is held fixed (:meth:`Join.gradient`).
        """
        if self.join is not None:
            blocks = {self.form.name: self.form.transform(slide)}
            weights = self.join.gradient(blocks, weights)[self.form.name]
        return self.form.scores(slide, weights)

    def to_bytes(self) -> bytes:
        """A safetensors file of what was learnt."""
        state = {f"form.{name}": value for name, value in self.form.state().items()}
        return save(state | {f"join.{name}": v for name, v in (self.join.state() if self.join else {}).items()})

    @classmethod
    def from_bytes(cls, name: str, data: bytes) -> Self:
        """Those of the form `name`, as :meth:`to_bytes` kept them."""
        form, join = (
            {key.removeprefix(prefix): value for key, value in load(data).items() if key.startswith(prefix)}
            for prefix in ("form.", "join.")
        )
        return cls(FORMS[name].from_state(form), Join.from_state(join) if join else None)


def fit_vectors(name: str, slides: Slides, *, seed: int) -> Vectors:
    """Fit the closed form `name`, and what its vectors are centred by.

    Raises:
        InvalidInput: As :func:`fit_form`.
    """
    form = fit_form(name, slides, seed=seed)
    if name == Arrangement.name:
        return Vectors(form, None)
    made = map(form.transform, slides())
    parts = iter(lambda: list(islice(made, SLIDES_OF_A_PART)), [])
    return Vectors(form, Join.fit(*({name: np.stack(part)} for part in parts)))


def width_of(name: str, features: int) -> int:
    """Values of a vector of a form, of so many features a tile."""
    widths = {
        WhitenedMean.name: features,
        MeanStd.name: 2 * features,
        ViewWhitened.name: 2 * features,
        Mixture.name: PROTOTYPES * (1 + 2 * features),
        Arrangement.name: features + 1,
    }
    return widths[name]
