"""Reading of a store for its check: whatever cannot be read is a problem, and not an error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.store.chunks import Lost
from gigacli.store.describe import Description, Problem, attributes_of, check_hierarchy, registered, written
from gigacli.store.groups import group_at
from gigacli.store.identity import ALL, PARTS, UNKNOWN
from gigacli.store.layout import NOT_DONE, is_beside, spec_of
from gigacli.store.store import Store
from gigacli.store.unpacked import chunks_of, read_column

COLUMN = "column"  # an index: the entry of every registered slide


class Reading:
    """Reads arrays and collects what is wrong: one problem per rule and array, however many slides have it."""

    def __init__(self, store: Store, description: Description) -> None:
        self.store, self.description = store, description
        self.n = registered(self.description)
        unsound = {problem.path for problem in check_hierarchy(self.description)}
        self.sound = {path for path in self.description if path not in unsound and not self._too_short(path)}
        self.found: dict[tuple[str, str], list[tuple[int | None, str]]] = {}
        self._arrays: dict[str, Any] = {}
        self._chunks: dict[str, Any] = {}
        self.ids = [str(v) for v in self.column("slides/id")]
        count = self.column("tiles/count")
        self.count = count if len(count) else np.full(self.n, NOT_DONE)  # (slide,)
        identity = self.column("tiles/identity")
        self.identity = identity if len(identity) else np.full((self.n, len(PARTS)), NOT_DONE)  # (slide, part)

    def _too_short(self, path: str) -> bool:
        spec = spec_of(path)
        by_slide = spec is not None and spec.dims[:1] == ("slide",)
        return by_slide and self.description[path].get("shape", [])[:1] < [self.n]

    def groups(self, kind: str) -> list[str]:
        """Groups of a kind that count as there and whose attributes are in order."""
        return [p for p in sorted(self.sound) if p.startswith(f"{kind}/") and self.config(p) is not None]

    def config(self, path: str) -> dict[str, Any] | None:
        """The configuration in the recipe of a group."""
        if path not in self.sound or not written(self.description, path):
            return None
        return dict(attributes_of(self.description, path)["recipe"]["config"])

    def add(self, rule: str, path: str, row: int | None, text: str) -> None:
        """Note that something is wrong with a slide, or (row None) with the whole."""
        self.found.setdefault((rule, path), []).append((row, text))

    def problems(self) -> list[Problem]:
        """One problem per rule and array."""
        listed = []
        for (rule, path), cases in sorted(self.found.items(), key=lambda item: item[0]):
            row, text = cases[0]
            if row is not None:
                name = repr(self.ids[row]) if row < len(self.ids) else "?"
                text = f"{name} (row {row}): {text}" + (f"; and {len(cases) - 1} more slides" if len(cases) > 1 else "")
            listed.append(Problem(rule, path, text))
        return listed

    def read(self, path: str, index: Any = Ellipsis, *, row: int | None = None) -> Any:
        """A part of an array, or None (and a problem) where it cannot be read."""
        if path not in self.sound:
            return None
        try:
            array = self.array(path)
            return array[index] if index is not COLUMN else read_column(array, self.n)
        except Lost as error:  # of a packed group
            self.add("ROOT-6", path, None, error.message)
            return None
        except Exception as error:  # codecs raise anything for damaged bytes; whatever it is, it is the store's problem
            self.add("ROOT-3", path, row, f"cannot be read: {type(error).__name__}: {error}")
            return None

    def stored(self, path: str, row: int) -> set[int] | None:
        """Which chunks of a slide along the second axis are stored; None (and a problem) where that cannot be read."""
        try:
            if path not in self._chunks:
                self._chunks[path] = chunks_of(self.array(path))
            return self._chunks[path].stored_of_slide(row)
        except Exception as error:  # as above
            self.add("ROOT-3", path, row, f"cannot be read: {type(error).__name__}: {error}")
            return None

    def array(self, path: str) -> Any:
        """The array at a path, opened once."""
        if path not in self._arrays:
            self._arrays[path] = self._overlaid(path)
        return self._arrays[path]

    def _overlaid(self, path: str) -> Any:
        """The array at a path, of a packed group with what lies beside its shards."""
        spec, owner, name = spec_of(path), *path.rpartition("/")[::2]
        if spec is None or spec.chunk != "slide" or is_beside(path):
            return self.store.root[path]
        return self.store.failures_array(name) if owner == "failures" else group_at(self.store, owner).array(name)

    def column(self, path: str) -> NDArray[Any]:
        """An array of one value, or (x, y), per slide; empty where it cannot be read."""
        values = self.read(path, COLUMN)
        return np.empty(0, dtype=np.int64) if values is None else values

    def done(self, path: str) -> NDArray[np.bool_]:
        """(slide) what is done of a group; slides that are others now are noted, and count as not done."""
        marks, recipe = self.column(path), attributes_of(self.description, path.rpartition("/")[0])["recipe"]
        if not len(marks):  # said already
            return np.zeros(self.n, dtype=bool)
        tiled = self.count != NOT_DONE
        if not recipe["inputs"]:
            wrong = (marks != NOT_DONE) & (marks != UNKNOWN)
        elif "tiles" not in self.description:
            wrong = np.zeros(len(marks), dtype=bool)
        else:
            wrong = (marks != NOT_DONE) & tiled & (marks != self.identity[:, ALL])
        for row in map(int, np.flatnonzero(wrong)):
            text = f"is stale: made from {marks[row]}, which is now {self.identity[row, ALL]}"
            self.add("RECIPE-5", path, row, text)
        return (marks != NOT_DONE) & ~wrong
