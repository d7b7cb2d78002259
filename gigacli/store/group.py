"""Groups of results: a recipe, arrays, and a mark of being done that is written last."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gigacli.errors import Mismatch, NotFound
from gigacli.progress import Progress
from gigacli.store.chunks import missing_blocks
from gigacli.store.layout import NOT_DONE, UNPACKED, WRITTEN_BY, spec_of
from gigacli.store.lineage import replaced
from gigacli.store.nodes import arrays, children
from gigacli.store.recipe import CREATED_BY, Recipe
from gigacli.store.shards import remove_chunks
from gigacli.store.unpacked import Unpacked

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

    def _repr_html_(self) -> str:
        from gigacli.store.tree import group_tree

        return group_tree(self, unfolded=True)

    @property
    def attributes(self) -> dict[str, Any]:
        """The attribute ``giga`` of what is there; empty where nothing is."""
        return self.store.attributes(self.path)

    @property
    def found(self) -> Recipe | None:
        """The recipe of what is there; None where nothing is."""
        recipe = self.attributes.get("recipe")
        return Recipe(**recipe) if recipe is not None else None

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

    @property
    def replaced(self) -> list[str]:
        """Which groups it was made from were replaced since, in words; what was removed is not held against it."""
        found = self.found
        return [] if found is None else list(replaced(found, self.store.attributes))

    @property
    def stale(self) -> list[str]:
        """What it was made from and is not there any more, in words."""
        return self.replaced

    @property
    def again(self) -> str:
        """The command that makes it anew."""
        return f"{self.command(self.store.url)} --redo"

    def command(self, url: str) -> str:
        """The command that makes it in the store at a path or URL, without the options that its recipe has."""
        return f"giga {WRITTEN_BY[self.kind]} {shlex.quote(url)}{self._flags()}"

    def refuse_stale(self, reasons: Sequence[str] | None = None, *, unless: str = "") -> None:
        """Refuse to go on with what was made from something that has been replaced.

        Args:
            reasons: What :attr:`stale` says, where it is known already.
            unless: How to go on all the same.

        Raises:
            Mismatch: It was.
        """
        reasons = self.stale if reasons is None else reasons
        if reasons:
            raise Mismatch(f"{self.path} is stale: {'; '.join(reasons)}", f"make it again: {self.again}{unless}")

    def _flags(self) -> str:
        """The flags with which its verb makes it, and no other of its kind."""
        return f" --name {shlex.quote(self.name)}" if self.name else ""

    def _check_ids(self) -> None:
        """Refuse rows that belong to other slides than those of the table.

        Raises:
            Mismatch: The table holds other ids than when the group was made.
        """
        bound, slides = self.attributes.get("ids"), self.store.slides
        if not isinstance(bound, dict):
            return
        if bound["slides"] > len(slides):  # another process has registered more meanwhile
            slides = self.store.read_slides()
        if bound != slides.ids_bound(bound["slides"]):
            raise Mismatch(
                f"{self.store.url}/{self.path} was made for {bound.get('slides')} slides, which are not those that the "
                "slide table holds now: its rows would be taken for those of other slides",
                "put back the slides folder of the store that it was made in",
            )

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
                self.store.opened(f"{self.path}/{name}")[...] = NOT_DONE  # a chunk that is lost says something else
            if (beside := Unpacked.of(root, self.path, name)) is not None:
                rows = np.flatnonzero(beside.lie(np.arange(beside.marks.shape[0])))
                for row in rows.tolist():
                    beside.marks[row] = NOT_DONE
        self.store.settle()
        node.attrs["giga"] = {}
        self.store.settle()
        for _, array in list(arrays(root, self.path)):
            remove_chunks(array)
        self.store.settle()
        for path in sorted(children(root, self.path), key=lambda path: not path.endswith(f"/{UNPACKED}")):
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
            self._store_whole(self._ensure(name, shape))
        slides, known = self.store.slides, node.attrs.get("giga", {})
        bound = slides.ids_bound(len(slides))
        if known.get("ids", bound)["slides"] > bound["slides"]:  # another process has registered more meanwhile
            bound = known["ids"]
        giga = {"created_by": CREATED_BY, "recipe": vars(recipe), "ids": bound}
        giga |= {name: known[name] for name in ("sha256", "operators") if name in known}
        if known != giga:
            self.store.settle()
            node.attrs["giga"] = giga

    def _store_whole(self, array: Any) -> None:
        """Store the chunks of a table that hold only fill values, so that one that is missing later is known to be."""
        spec = spec_of(array.path)
        if spec is None or not spec.whole or spec.dims[:1] != ("slide",):
            return
        values, step = np.asarray(array[: self.store.registered]), array.chunks[0]
        for block in missing_blocks(array, values):
            rows = slice(block * step, min((block + 1) * step, array.shape[0]))
            array[rows] = array.fill_value

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
                self._open[name] = self.store.opened(f"{self.path}/{name}")
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
