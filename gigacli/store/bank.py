"""The groups ``banks/<name>``: features of tiles under augmentations that a whole view shares."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store.features import Features
from gigacli.store.layout import NOT_DONE
from gigacli.store.mapped import MappedBank, MappedFeatures
from gigacli.store.nodes import arrays
from gigacli.store.recipe import Recipe
from gigacli.store.slide_group import SlideGroup

if TYPE_CHECKING:
    from gigacli.store.store import Store


class Bank(SlideGroup):
    """A bank; a slide that is done has all augmentations, or none where it has no tiles."""

    kind, input_name = "banks", "bank"
    _remembered: ClassVar[tuple[str, ...]] = (*SlideGroup._remembered, "_kept")

    @property
    def learns(self) -> bool:
        """Whether it holds operators, learnt from some of the tiles, in place of augmented features of all slides."""
        found = self.found
        return found is not None and found.config.get("mode") == "operators"

    @property
    def held_out(self) -> int:
        """How many of its augmentations or sets, the last, no training draws."""
        return int(self.config.get("held_out", 0))

    @property
    def calibrates(self) -> NDArray[np.bool_]:
        """(slide) whether operators are learnt from tiles of a slide; slides that came later are not asked."""
        column = np.zeros(self.store.registered, dtype=bool)
        if self.has("calibrates"):
            known = self.array("calibrates")[: len(column)]
            column[: len(known)] = known == 1
        return column

    def choose_calibration(self, rows: NDArray[np.int64]) -> None:
        """Write down which slides operators are learnt from, where that has not been decided."""
        if self.has("calibrates") and (self.array("calibrates")[:] != NOT_DONE).any():
            return
        chosen = np.zeros(self.store.registered, dtype=np.int32)
        chosen[rows] = 1
        self._ensure("calibrates", chosen.shape)[:] = chosen
        self.store.settle()

    @property
    def fitted(self) -> dict[str, Any]:
        """What is said of the operators: how well they foresee, and what they were learnt from; empty before that."""
        known = self.attributes.get("operators", {})
        return dict(known) if isinstance(known, dict) else {}

    def operators(self) -> dict[str, NDArray[Any]]:
        """The arrays of the operators, by name.

        Raises:
            NotFound: They have not been learnt yet.
        """
        if not self.fitted:
            raise NotFound(
                f"{self.store.url}/{self.path} has no operators yet", f"run: giga bank {self.store.url}{self._flags()}"
            )
        names = [path.rpartition("/")[2] for path, _ in arrays(self.store.root, f"{self.path}/operators")]
        return {name: np.asarray(self.array(f"operators/{name}")[:]) for name in names}

    def keep_operators(self, found: Mapping[str, NDArray[Any]], said: Mapping[str, Any]) -> None:
        """Replace the operators; what is said of them is written last, and says that they are there.

        Arrays that stay as large are written over and not removed: another process may be writing the same.
        """
        node = self.store.root[self.path]
        node.attrs["giga"] = {name: value for name, value in self.attributes.items() if name != "operators"}
        self.store.settle()
        there = f"{self.path}/operators" in self.store.root
        for path, array in list(arrays(self.store.root, f"{self.path}/operators")) if there else ():
            values = found.get(path.rpartition("/")[2])
            if values is None or values.shape != array.shape:
                self.store.delete_bytes(path)
        self.forget_opened()
        for name, values in found.items():
            self._ensure(f"operators/{name}", values.shape)[...] = values
        self.store.settle()
        node = self.store.root[self.path]
        node.attrs["giga"] = {**self.attributes, "operators": dict(said)}
        self.store.settle()

    def begin(self, recipe: Recipe, width: int, *, redo: bool) -> None:
        """Make room for the augmentations and draws of the recipe, `width` features a tile, or for more than are there.

        A bank that only lacks some of the augmentations or draws asked for is kept: the new one begins with the same.
        Nothing of it is done then; :meth:`missing` says what a slide lacks. With `redo` what is there goes first.

        Raises:
            Mismatch: There is a bank of this name made otherwise, and `redo` is off.
        """
        n, a, d = self.store.registered, recipe.config["augmentations"], recipe.config["draws"]
        shapes: dict[str, tuple[int, ...]] = {"vectors": (n, a, d, width), "tile": (n, a, d), "done": (n,)}
        if not redo and self.extends_to(recipe):
            if self.unpacked is not None:
                raise Mismatch(
                    f"{self.store.url}/{self.path} is packed: it cannot be given more augmentations or draws",
                    "make it anew with `redo`, or a bank of another `name`",
                )
            self._keep()
            self._make(recipe, shapes)
        else:
            self._begin(recipe, shapes, redo=redo)

    def check(self, recipe: Recipe, *, redo: bool) -> None:
        """Refuse to mix results; more augmentations or draws of the same bank are no other parameters."""
        if not self.extends_to(recipe):
            super().check(recipe, redo=redo)

    def extends_to(self, wanted: Recipe) -> bool:
        """Whether the bank that is there only lacks some of the augmentations or draws asked for."""
        there = self.found
        if there is None or there == wanted:
            return False
        sizes = ("augmentations", "draws")
        same = {**_but_held_out(there), **{s: wanted.config[s] for s in sizes}} == _but_held_out(wanted)
        return same and there.inputs == wanted.inputs and all(there.config[s] <= wanted.config[s] for s in sizes)

    def _keep(self) -> None:
        """Note what is done in `kept`, then take it back: wherever this stops, no slide looks more than it is."""
        done = self.array("done")[:]
        kept = self._ensure("kept", done.shape)
        kept[:] = np.where(done != NOT_DONE, done, kept[:])
        self.store.settle()
        super().take_back()

    def take_back(self, rows: Sequence[int] | None = None) -> None:
        """Say that slides are not done, and that nothing was kept of them."""
        self._take_back("kept", rows)
        self.__dict__.pop("_kept", None)
        super().take_back(rows)

    def missing(self, row: int) -> NDArray[np.bool_]:
        """(augmentation, draw) which vectors of a slide are not there; of one that was kept some are."""
        if self._kept is None or self._kept[row] != self._origin(row):
            return np.ones(self.array("tile").shape[1:], dtype=bool)
        return np.isnan(self.array("vectors")[row, :, :, 0])

    def _amounts(self, counts: NDArray[np.int32] | None) -> NDArray[np.integer]:
        if counts is None:
            return np.full(self.store.registered, NOT_DONE)
        return np.where(counts > 0, self.shape[1], 0)

    def _flags(self) -> str:
        named = f" --features {shlex.quote(self.name)}" if self.config.get("features") else super()._flags()
        return f" --encoder {shlex.quote(self.config['encoder'])}{named}"

    @property
    def remark(self) -> str:
        """What is known of its operators, in words; "" for a bank of tiles."""
        if not self.learns:
            return ""
        if not (said := self.fitted):
            return "its operators are not learnt yet"
        r2 = said["r2"]
        return f"operators foresee {r2['tile']:.2f} of how augmentation moves tiles, {r2['slide']:.2f} of slides" + (
            ", the rest is added as residuals" if said["residuals"] else ""
        )

    @cached_property
    def _kept(self) -> NDArray[np.int64] | None:
        return self.array("kept")[:] if self.has("kept") else None

    def write(
        self, row: int, vectors: NDArray[np.float16], tiles: NDArray[np.int32], *, made: NDArray[np.bool_]
    ) -> None:
        """Write a slide, then mark it done.

        Args:
            row: Of the slide.
            vectors: (augmentation, draw, feature).
            tiles: (augmentation, draw) which tile of the slide each is of.
            made: (augmentation, draw) which vectors were made now; the others stay as they are.
        """
        if not made.all():
            vectors = np.where(made[..., None], vectors, self.array("vectors")[row])
        self._reopen(np.array([row]))
        self.array("vectors")[row] = vectors
        self.array("tile")[row] = tiles
        self._set_done(row)

    def read(self, row: int, augmentation: int) -> NDArray[np.float16]:
        """Vectors (draw, width) of a slide under one of its augmentations."""
        vectors: NDArray[np.float16] = self.array("vectors")[row, augmentation]
        return vectors

    def drawn(self, row: int, augmentation: int) -> NDArray[np.int32]:
        """Numbers (draw,) of the tiles that these are of."""
        tile: NDArray[np.int32] = self.array("tile")[row, augmentation]
        return tile

    def read_calibration(self, row: int) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
        """Vectors (tile, augmentation, width) of the calibration tiles of a slide, and their numbers (tile,)."""
        tile = self.array("tile")[row, 0]  # (draw,), the same under every augmentation
        there = tile >= 0
        return self.array("vectors")[row][:, there].swapaxes(0, 1), tile[there]

    def write_empty(self, row: int) -> None:
        """Mark a slide done that has no vectors of its own: one without tiles, or one that operators stand in for."""
        if len(self._reopen(np.array([row]))):
            self.array("vectors")[row], self.array("tile")[row] = np.nan, -1
        self._set_done(row)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Slides, augmentations, draws, features of a tile."""
        return cast(tuple[int, int, int, int], self.array("vectors").shape)

    @property
    def width(self) -> int:
        """Features of a tile."""
        return self.shape[3]

    def mapped(self, *, leave_out: NDArray[np.bool_] | None = None) -> MappedBank | MappedFeatures:
        """Map the slides that are done and have tiles into memory, to draw views from; none of `leave_out` (slide,).

        Of operators these are the features that they augment.

        Raises:
            Mismatch: A chunk is missing or damaged, or chunks are not stored as they must be (rule BANKS-2).
        """
        if self.learns:
            undone = ~self.done().filled
            return self.store.features(self.name).mapped(leave_out=undone if leave_out is None else undone | leave_out)
        return MappedBank(self, leave_out=leave_out)


def _but_held_out(recipe: Recipe) -> dict[str, Any]:
    """A recipe's options without how many augmentations are held out, which no vector depends on."""
    return {name: value for name, value in recipe.config.items() if name != "held_out"}


def pick_bank(store: Store, name: str | None) -> Bank | Features:
    """Return the bank, or the imported features, to train on: the one named, or the only one there is.

    Raises:
        NotFound: There is none, or none of that name.
        InvalidInput: There are several and none was named.
    """
    banks = store.names(Bank)
    imported = [f.name for f in store.groups(Features) if f.name not in banks and f.imported]
    names = sorted([*banks, *imported])
    if not imported or (name is None and not names):
        return store.pick(Bank, name)
    if name is None and len(names) > 1:
        raise InvalidInput(f"{store.url} holds several to train on: {', '.join(names)}", "name one: `bank`")
    chosen = name or names[0]
    if chosen not in names:
        raise NotFound(f"{store.url} holds no {chosen!r} to train on; there is {', '.join(names)}")
    return store.bank(chosen) if chosen in banks else store.features(chosen)
