"""Groups of results: a recipe, arrays, and a mark of being done that is written last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import Mismatch, NotFound
from gigacli.progress import Progress
from gigacli.store.chunks import read_column
from gigacli.store.layout import NOT_DONE, WRITTEN_BY
from gigacli.store.nodes import arrays, children
from gigacli.store.recipe import CREATED_BY, Recipe

if TYPE_CHECKING:
    from gigacli.store.store import Store


class Group:
    """A group of results, whether it is there or not.

    Attributes:
        kind: First part of its path; ``banks`` of ``banks/moco``.
        input_name: What the recipe of a result that is made from it calls it.
        store: The cohort store.
        name: Name the user chose; "" for the tiles, of which there is one group.
        path: Path in the store.
    """

    kind: ClassVar[str]
    input_name: ClassVar[str]
    _remembered: ClassVar[tuple[str, ...]] = ()
    """Cached properties that are true only as long as the arrays stay as they are."""

    def __init__(self, store: Store, name: str = "") -> None:
        self.store, self.name = store, name
        self.path = f"{self.kind}/{name}" if name else self.kind
        self._open: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<{self.path} of {self.store.url}>"

    @property
    def found(self) -> Recipe | None:
        """The recipe of what is there; None where nothing is."""
        node = self.store.root.get(self.path)
        giga = node.attrs.get("giga") if node is not None else None
        return Recipe(**giga["recipe"]) if giga and "recipe" in giga else None

    @property
    def recipe(self) -> Recipe:
        """The recipe of what must be there.

        Raises:
            NotFound: Nothing is.
        """
        recipe = self.found
        if recipe is None:
            verb = WRITTEN_BY[self.kind]
            raise NotFound(f"{self.store.url} holds no {self.path}", f"run: giga {verb} {self.store.url}")
        return recipe

    @property
    def config(self) -> dict[str, Any]:
        """The configuration in its recipe."""
        return self.recipe.config

    @property
    def fingerprint(self) -> str:
        """The hash of its recipe."""
        return self.recipe.fingerprint

    def check(self, recipe: Recipe, *, redo: bool) -> None:
        """Refuse to mix results: what is there must be of this recipe, or to be redone, and lie in this store.

        Raises:
            Mismatch: It was made with other parameters, or a part of it is a symbolic link.
        """
        self.store.refuse_links(self.path)
        existing = self.found
        if existing is None or existing == recipe or redo:
            return
        raise Mismatch(
            f"{self.store.url}/{self.path} was made with other parameters:\n  "
            + "\n  ".join(existing.differences(recipe)),
            "repeat the old parameters, choose another `name` where there is one, or replace it with `redo`",
        )

    def say_replacing(self, recipe: Recipe, progress: Progress) -> None:
        """Say what a recipe is about to replace, and which parameters change."""
        existing = self.found
        if existing is not None:
            changes = existing.differences(recipe) or ["with the parameters it has"]
            progress.say(f"replacing {self.path}: {'; '.join(changes)}")

    def discard(self) -> None:
        """Remove it, so that a removal cut short leaves nothing that looks whole, and can be finished.

        First what says "done", then the recipe, then chunks, then arrays, at last the group: chunks that outlive
        their array would turn up again in the next array of that name.
        """
        root = self.store.root
        node = root[self.path]
        for name in ("done", "count"):
            if name in node:
                node[name][...] = NOT_DONE
        self.store.settle()
        node.attrs["giga"] = {}
        self.store.settle()
        for path, _ in list(arrays(root, self.path)):
            del root[f"{path}/c"]  # zarr's key of the folder of chunks
        self.store.settle()
        for path in children(root, self.path):
            del root[path]
        self.store.settle()
        del root[self.path]
        self.store.settle()
        self.forget_opened()

    def _begin(self, recipe: Recipe, shapes: dict[str, tuple[int, ...]], *, redo: bool) -> None:
        """Make the group and its arrays of these shapes, by name, for a recipe; with `redo` what is there goes first.

        Raises:
            Mismatch: It was made with other parameters, and `redo` is off.
        """
        self.check(recipe, redo=redo)
        if (redo and self.found is not None) or self._half_removed():
            self.discard()
        self._make(recipe, shapes)

    def _make(self, recipe: Recipe, shapes: dict[str, tuple[int, ...]]) -> None:
        node = self.store.ensure_group(self.path)
        self.forget_opened()
        for name, shape in shapes.items():
            self._ensure(name, shape)
        giga = {"created_by": CREATED_BY, "recipe": vars(recipe)}
        if node.attrs.get("giga") != giga:
            self.store.settle()
            node.attrs["giga"] = giga

    def _half_removed(self) -> bool:
        node = self.store.root.get(self.path)
        return node is not None and node.attrs.get("giga") == {}

    def has(self, name: str) -> bool:
        """Whether it has an array of this name."""
        return f"{self.path}/{name}" in self.store.root

    def array(self, name: str) -> Any:
        """The zarr array of this name, opened once: opening one costs more than writing into it.

        Raises:
            NotFound: It is not there.
        """
        if name not in self._open:
            try:
                self._open[name] = self.store.root[f"{self.path}/{name}"]
            except KeyError:
                raise NotFound(
                    f"{self.store.url} holds no {self.path}/{name}", f"run: giga validate {self.store.url}"
                ) from None
        return self._open[name]

    def _ensure(self, name: str, shape: tuple[int, ...]) -> Any:
        """The array of this name, made or resized, and open from now on."""
        self._open[name] = self.store.ensure_array(f"{self.path}/{name}", shape)
        return self._open[name]

    def forget_opened(self) -> None:
        """Look anew, when next asked, at arrays and what is known of them: they were made, resized or removed."""
        self._open.clear()
        for name in self._remembered:
            self.__dict__.pop(name, None)


@dataclass(frozen=True, eq=False)
class Done:
    """Which slides of a group are done."""

    # (slide) int32: how much there is of a slide (tiles, augmentations, or 1), 0 where there is nothing to have for
    # want of tissue, -1 where it is not done
    values: NDArray[np.int32]

    @cached_property
    def finished(self) -> NDArray[np.bool_]:
        """(slide) whether nothing is left to do: "no tissue" is a result."""
        return self.values != NOT_DONE

    @cached_property
    def filled(self) -> NDArray[np.bool_]:
        """(slide) whether there is a result."""
        return self.values > 0

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the slides that have a result, ascending."""
        return np.flatnonzero(self.filled)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(slide) how much there is; 0 where it is not done."""
        return np.maximum(self.values, 0).astype(np.int64)


class SlideGroup(Group):
    """A group with a result per slide; row i of its arrays is slide i of the table."""

    _mark: ClassVar[str] = "done"

    def done(self) -> Done:
        """Read anew which of the registered slides are done."""
        n = self.store.registered
        if not self.has(self._mark):
            return Done(np.full(n, NOT_DONE, dtype=np.int32))
        return Done(read_column(self.array(self._mark), n))

    def todo(self, ready: NDArray[np.bool_], shard: tuple[int, int] = (0, 1)) -> list[int]:
        """Rows of one shard that are ready and not done, ascending.

        Args:
            ready: (slide) whether what it is made from is there.
            shard: Index and number of shards, from :func:`~gigacli.config.base.parse_shard`.
        """
        return shard_rows(np.flatnonzero(ready & ~self.done().finished).tolist(), shard)

    def take_back(self, rows: Sequence[int] | None = None) -> None:
        """Say that slides (all of them, without `rows`) are not done; what was written stays until it is replaced."""
        self._take_back(self._mark, rows)

    def _take_back(self, name: str, rows: Sequence[int] | None) -> None:
        if self.has(name) and (rows is None or len(rows)):
            self.array(name).oindex[slice(None) if rows is None else list(rows)] = NOT_DONE
            self.store.settle()

    def _set_done(self, row: int, value: int) -> None:
        """The last thing that is written of a slide, when all else is on the disk."""
        self.store.settle()
        self.array(self._mark)[row] = value


def shard_rows(rows: Sequence[int], shard: tuple[int, int]) -> list[int]:
    """The rows of one shard: every n-th slide of the table, whatever is done."""
    index, total = shard
    return [row for row in rows if row % total == index]
