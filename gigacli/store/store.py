"""A cohort store: open, register slides, begin a group, mark done.

The write protocol (``spec/store-0.1.md``): a group is created with its recipe, arrays are filled slide by
slide, and the slide's entry in the array of what is done is written last. Nothing is inferred from which
files exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from gigacli.config.base import fingerprint
from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store.address import address_of, create_root, is_empty, is_remote, open_root
from gigacli.store.chunks import read_column
from gigacli.store.layout import (
    FORMAT,
    FORMAT_VERSION,
    NAMED_GROUPS,
    NOT_DONE,
    SLIDE_GROUPS,
    WRITTEN_BY,
    ArraySpec,
    spec_of,
)
from gigacli.store.nodes import arrays, children
from gigacli.store.table import COLUMNS, SlideTable
from gigacli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

CREATED_BY = f"giga {__version__}"


@dataclass(frozen=True)
class Recipe:
    """How a group was made: which verb, with which configuration, from which inputs (their fingerprints)."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """A hash of all of it; inputs are fingerprints themselves, so recipes chain up."""
        return fingerprint({"stage": self.stage, "config": self.config, "inputs": self.inputs})

    def differences(self, other: Recipe) -> list[str]:
        """What differs from `other`, one line each: "mpp: 1.0 here, 0.5 asked for"."""
        lines = [] if self.stage == other.stage else [f"made by: giga {self.stage} here, giga {other.stage} asked for"]
        for mine, theirs in ((self.config, other.config), (self.inputs, other.inputs)):
            for key in sorted(mine.keys() | theirs.keys()):
                if mine.get(key) != theirs.get(key):
                    lines.append(f"{key}: {mine.get(key)} here, {theirs.get(key)} asked for")
        return lines


class Store:
    """A cohort store. Use :meth:`open` or :meth:`create`."""

    def __init__(self, root: zarr.Group, url: str) -> None:
        self.root: Any = root  # zarr types every node as a union of everything
        self.url = url

    # ------------------------------------------------------------------ open and create

    @classmethod
    def open(cls, path: str | Path | Store, *, write: bool = False) -> Store:
        """Open an existing store.

        Raises:
            NotFound: There is nothing at `path`.
            Mismatch: What is there is not a cohort store, or of a version this giga does not read.
        """
        if isinstance(path, Store):
            return path
        url = address_of(path)
        store = cls(open_root(url, write=write), url)
        store._check_version()
        return store

    @classmethod
    def create(cls, path: str | Path) -> Store:
        """Open the store at `path`, made first if there is nothing; files of another kind are left alone."""
        url = address_of(path)
        if not is_remote(url) and Path(url).is_file():
            raise InvalidInput(f"{url} is a file, not a store", "name a new folder, for example cohort.zarr")
        if not cls.exists(url):
            create_root(url, {"giga": {"format": FORMAT, "version": FORMAT_VERSION, "created_by": CREATED_BY}})
        return cls.open(url, write=True)

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether there is anything at `path`, a store or not; an empty folder is nothing."""
        return not is_empty(address_of(path))

    def _check_version(self) -> None:
        giga = self.root.attrs.get("giga")
        if not isinstance(giga, dict) or giga.get("format") != FORMAT:
            raise Mismatch(
                f"{self.url} is a zarr group but not a cohort store: attribute giga.format is not {FORMAT!r}",
                f"make a store: giga tile {self.url} SLIDES",
            )
        if giga.get("version") != FORMAT_VERSION:
            raise Mismatch(
                f"{self.url} has format version {giga.get('version')}; this giga reads {FORMAT_VERSION}",
                "install the giga that wrote it, or make the store anew",
            )

    def __repr__(self) -> str:
        parts = [f"{len(self.slides)} slides"]
        parts += [f"{path}: {done} done" for path, done in self.progress().items()]
        return f"<giga store {self.url}: {', '.join(parts)}>"

    # ------------------------------------------------------------------ slides

    @property
    def registered(self) -> int:
        """Number of registered slides: written last, so a killed registration counts for nothing."""
        return _registered(self.root.get("slides"))

    @property
    def slides(self) -> SlideTable:
        """The slide table."""
        group = self.root.get("slides")
        n = _registered(group)
        return SlideTable.from_columns({name: group[name][:n] for name in COLUMNS}) if n else SlideTable(())

    def write_slides(self, table: SlideTable) -> None:
        """Replace the slide table by one that begins with the same slides; every array grows with it."""
        before = self.slides.ids
        if table.ids[: len(before)] != before:
            raise Mismatch(f"{self.url}: slides may be added to a store, not removed or reordered")
        self._require_group("slides")
        for path, array in arrays(self.root):
            spec = spec_of(path)
            if spec is not None and spec.dims[:1] == ("slide",) and array.shape[0] != len(table):
                array.resize((len(table), *array.shape[1:]))
        for name in COLUMNS:
            values = table.column(name)
            if values.size:
                self.ensure_array(f"slides/{name}", values.shape)[:] = values
        self.root["slides"].attrs["giga"] = {"registered": len(table), "created_by": CREATED_BY}

    # ------------------------------------------------------------------ groups and recipes

    def names(self, kind: str) -> list[str]:
        """Names in a group such as "banks", in alphabetical order; a group without a recipe is not there yet."""
        paths = children(self.root, kind) if kind in self.root else []
        return [path.rpartition("/")[2] for path in paths if self.recipe(path) is not None]

    def pick(self, kind: str, name: str | None) -> str:
        """The name asked for, or the only one there is.

        Raises:
            NotFound: There is none, or none of that name.
            InvalidInput: There are several and none was named.
        """
        names, verb = self.names(kind), WRITTEN_BY[kind]
        if not names:
            raise NotFound(f"{self.url} holds no {kind}", f"run: giga {verb} {self.url}")
        if name is None and len(names) > 1:
            raise InvalidInput(f"{self.url} holds several {kind}: {', '.join(names)}", "name the one to use")
        if name is not None and name not in names:
            raise NotFound(f"{self.url} holds no {name!r} in {kind}; there is {', '.join(names)}")
        return name or names[0]

    def recipe(self, path: str) -> Recipe | None:
        """The recipe of the group at `path`, ``None`` where there is no such group."""
        group = self.root.get(path)
        giga = group.attrs.get("giga") if group is not None else None
        return Recipe(**giga["recipe"]) if giga and "recipe" in giga else None

    def require(self, path: str) -> Recipe:
        """The recipe of a group that must be there."""
        recipe = self.recipe(path)
        if recipe is None:
            verb = WRITTEN_BY[path.split("/", maxsplit=1)[0]]
            raise NotFound(f"{self.url} holds no {path}", f"run: giga {verb} {self.url}")
        return recipe

    def check(self, path: str, recipe: Recipe, *, redo: bool) -> None:
        """Refuse to mix results: the group at `path` must be absent, of this recipe, or to be redone."""
        existing = self.recipe(path)
        if existing is None or existing == recipe or redo:
            return
        raise Mismatch(
            f"{self.url}/{path} was made with other parameters:\n  " + "\n  ".join(existing.differences(recipe)),
            "repeat the old parameters, choose another --name where there is one, or replace it with --redo",
        )

    def begin(
        self, path: str, recipe: Recipe, shapes: dict[str, tuple[int, ...]], *, redo: bool = False, grow: bool = False
    ) -> Any:
        """The zarr group at `path`, ready to be written by `recipe`; with `redo` what was made otherwise is discarded.

        Args:
            path: Path of the group.
            recipe: How it is being made.
            shapes: Shape of every array, by its path in the group.
            redo: Replace a group made with another recipe.
            grow: Keep what a group made with another recipe holds: the new one begins with the same. Nothing of it
                is done then; `kept` says how much of a slide is there.
        """
        if grow:
            self._keep(path)
        else:
            self.check(path, recipe, redo=redo)
        if (self.recipe(path) not in (None, recipe) and not grow) or self._half_removed(path):
            self.discard(path)
        group = self._require_group(path)
        for name, shape in shapes.items():
            self.ensure_array(f"{path}/{name}", shape)
        giga = {"created_by": CREATED_BY, "recipe": vars(recipe)}
        if group.attrs.get("giga") != giga:
            group.attrs["giga"] = giga
        return group

    def _keep(self, path: str) -> None:
        """Note what is done in `kept`, then take it back: wherever this stops, no slide looks more than it is."""
        done = self.array(f"{path}/done")[:]
        kept = self.ensure_array(f"{path}/kept", done.shape)
        kept[:] = np.where(done > 0, done, kept[:])
        self.array(f"{path}/done")[...] = NOT_DONE

    def discard(self, path: str) -> None:
        """Remove a group, so that a removal cut short leaves nothing that looks whole, and can be finished.

        First what says "done", then the recipe, then chunks, then arrays, at last the group: chunks that outlive
        their array would turn up again in the next array of that name.
        """
        group = self.root[path]
        for name in ("done", "count"):
            if name in group:
                group[name][...] = NOT_DONE
        group.attrs["giga"] = {}
        for name, _ in list(arrays(self.root, path)):
            del self.root[f"{name}/c"]  # zarr's key of the folder of chunks
        for name in children(self.root, path):
            del self.root[name]
        del self.root[path]

    def _half_removed(self, path: str) -> bool:
        group = self.root.get(path)
        return group is not None and group.attrs.get("giga") == {}

    def _require_group(self, path: str) -> Any:
        """The group at `path`; zarr would make its parents after it, and a kill between would hide it."""
        if (group := self.root.get(path)) is not None:
            return group
        for end in (i for i, c in enumerate(f"{path}/") if c == "/"):
            try:
                self.root.require_group(path[:end])
            except zarr.errors.ContainsGroupError:  # another process made it in this moment
                continue
        return self.root[path]

    def ensure_array(self, path: str, shape: tuple[int, ...]) -> Any:
        """The zarr array at `path`, made as the format says if it is not there, resized if it has another shape."""
        spec = _known(path)
        if (array := self.root.get(path)) is not None:
            if array.shape != shape:
                array.resize(shape)
            return array
        self._require_group(path.rpartition("/")[0])
        try:
            return self.root.create_array(
                path,
                shape=shape,
                dtype=str if spec.dtype == "string" else spec.dtype,
                chunks=spec.chunks(shape),
                fill_value=spec.fill,
                dimension_names=spec.dims,
                compressors=[*((ZstdCodec(),) if spec.compressed else ()), Crc32cCodec()],
            )
        except zarr.errors.ContainsArrayError:  # another process made it in this moment
            return self.root[path]

    def array(self, path: str) -> Any:
        """The zarr array at `path`, which must be there."""
        try:
            return self.root[path]
        except KeyError:
            raise NotFound(f"{self.url} holds no {path}", f"run: giga validate {self.url}") from None

    # ------------------------------------------------------------------ bytes, failures, progress

    def write_bytes(self, path: str, data: bytes) -> None:
        """Store a file (weights, a checkpoint) byte for byte, in one chunk: it is replaced as a whole or not at all."""
        array = self.root.get(path)
        if array is not None and array.chunks != (len(data),):
            del self.root[path]
        self.ensure_array(path, (len(data),))[:] = np.frombuffer(data, dtype=np.uint8)

    def read_bytes(self, path: str) -> bytes:
        """A file stored by :meth:`write_bytes`; empty where a kill came between its array and its bytes."""
        data = self.array(path)[:]
        return bytes(data.tobytes()) if data.any() else b""

    def fail(self, stage: str, reasons: dict[int, str]) -> None:
        """Record why slides failed in a stage; an empty reason takes an earlier failure back."""
        if not reasons:
            return
        array = self.ensure_array(f"failures/{stage}", (self.registered,))
        known = read_column(array) if len(reasons) > 1 else {row: array[row] for row in reasons}
        for row, reason in reasons.items():
            if known[row] != reason:
                array[row] = reason

    def forget(self, rows: Sequence[int]) -> None:
        """Take back everything that was made from some slides, which are not what they were."""
        names = [f"{kind}/{name}" for kind in SLIDE_GROUPS for name in self.names(kind)]
        for path in ["tiles/count", *(f"{name}/{array}" for name in names for array in ("kept", "done"))]:
            if rows and path in self.root:
                self.root[path].oindex[list(rows)] = NOT_DONE

    def failures(self, stage: str) -> list[str]:
        """Reason of failure per slide in a stage, "" where there is none."""
        path = f"failures/{stage}"
        if path not in self.root:
            return [""] * self.registered
        return [str(reason) for reason in read_column(self.root[path])]

    def progress(self) -> dict[str, int]:
        """How many slides are done, per group; for an encoder or a model 1 when it is finished."""
        done = {"tiles": "tiles/count"} if "tiles" in self.root else {}
        done |= {f"{kind}/{name}": f"{kind}/{name}/done" for kind in NAMED_GROUPS for name in self.names(kind)}
        return {
            k: int(np.count_nonzero(read_column(self.array(v)) != NOT_DONE)) for k, v in done.items() if v in self.root
        }


def _registered(slides: Any) -> int:
    return int(slides.attrs.get("giga", {}).get("registered", 0)) if slides is not None else 0


def _known(path: str) -> ArraySpec:
    spec = spec_of(path)
    if spec is None:
        raise InvalidInput(f"{path} is not an array of format {FORMAT_VERSION}")
    return spec


def shard_rows(rows: Sequence[int], shard: tuple[int, int]) -> list[int]:
    """The rows of one shard: every n-th slide of the table, whatever is done."""
    index, total = shard
    return [row for row in rows if row % total == index]


def open_store(path: str | Path, *, write: bool = False) -> Store:
    """Open a cohort store: ``giga.open("cohort.zarr")``."""
    return Store.open(path, write=write)
