"""A cohort store: open, register slides, hand out groups, which keep to the write protocol of ``spec/store-0.2.md``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.sync import sync

from gigacli.errors import InvalidInput, Mismatch, NotFound
from gigacli.store import slides as slide_table
from gigacli.store.address import address_of, create_root, is_empty, is_remote, open_root, settle
from gigacli.store.chunks import write_only_chunk
from gigacli.store.folder import is_a_link, links
from gigacli.store.groups import (
    NAMED,
    Bank,
    Embedding,
    Encoder,
    Features,
    Group,
    Model,
    SlideGroup,
    Tiles,
    TrainedGroup,
)
from gigacli.store.layout import FORMAT, FORMAT_VERSION, WRITTEN_BY, as_stored, spec_of
from gigacli.store.lock import share
from gigacli.store.nodes import children
from gigacli.store.recipe import CREATED_BY
from gigacli.store.table import SlideTable
from gigacli.store.unpacked import PackedArray, Unpacked, read_column

G = TypeVar("G", bound=Group)


class Store:
    """A cohort store. Use :meth:`open` or :meth:`create`."""

    def __init__(self, root: zarr.Group, url: str) -> None:
        self.root: Any = root  # zarr types every node as a union of everything
        self.url = url
        self._slides: SlideTable | None = None
        self._groups: dict[tuple[str, str], Group] = {}

    @classmethod
    def open(cls, path: str | Path | Store, *, write: bool = False, sync: bool = True) -> Store:
        """Open an existing store. One that is open is opened anew and refreshed: both see what is there now.

        Without `sync`, what is written to a folder is left to the system to bring to the disk.

        Raises:
            NotFound: There is nothing at `path`.
            Mismatch: What is there is not a cohort store, or of a version this giga does not read; or it is to be
                written to, and another process is packing it.
        """
        if isinstance(path, Store):
            path.refresh()  # what is about to be written through the new one shows in it
            url = path.url
        else:
            url = address_of(path)
        store = cls(open_root(url, write=write, waits=sync), url)
        store._check_version()
        if not is_remote(url):
            share(store, url, write=write)
        return store

    @classmethod
    def create(cls, path: str | Path, *, sync: bool = True) -> Store:
        """Open the store at `path`, made first if there is nothing; files of another kind are left alone."""
        url = address_of(path)
        if not is_remote(url) and Path(url).is_file():
            raise InvalidInput(f"{url} is a file, not a store", "name a new folder, for example cohort.zarr")
        if not cls.exists(url):
            create_root(
                url, {"giga": {"format": FORMAT, "version": FORMAT_VERSION, "created_by": CREATED_BY}}, waits=sync
            )
        return cls.open(url, write=True, sync=sync)

    @classmethod
    def open_or_stand_in(cls, path: str | Path | Store, *, sync: bool = True) -> Store:
        """The store at `path`, to be written to; where there is none yet, an empty one in memory that stands for it.

        So one plan is made for both, before anything is written: :meth:`create` makes what it stands for.
        """
        if isinstance(path, Store) or cls.exists(path):
            return cls.open(path, write=True, sync=sync)
        return cls(zarr.create_group({}, zarr_format=3), address_of(path))

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
                "make it anew, or from what the giga that wrote it exports: CHANGELOG.md, Upgrading",
            )

    def attributes(self, path: str) -> dict[str, Any]:
        """The attribute ``giga`` of a group; empty where there is no such group."""
        node = self.root.get(path)
        giga = node.attrs.get("giga") if node is not None else None
        return giga if isinstance(giga, dict) else {}

    def opened(self, path: str) -> Any:
        """The array at a path, which stores chunks of fill values too where the format asks for them.

        Raises:
            KeyError: It is not there.
        """
        return as_stored(self.root[path])

    def read_slides(self) -> SlideTable:
        """The slide table as it is now; :attr:`slides` stays as it was read."""
        return slide_table.read(self)

    def settle(self) -> None:
        """Wait until all that was written so far is on the disk, before something is written that relies on it."""
        settle(self.root)

    def refresh(self) -> None:
        """Read anew, when next asked, what was read before: others may have written to the store since."""
        self._slides = None
        for group in self._groups.values():
            group.forget_opened()

    def __repr__(self) -> str:
        parts = [f"{len(self.slides)} slides"]
        parts += [f"{path}: {done} done" for path, done in self.progress().items()]
        return f"<giga store {self.url}: {', '.join(parts)}>"

    def _repr_html_(self) -> str:
        from gigacli.store.tree import tree

        return tree(self)

    @property
    def registered(self) -> int:
        """Number of slides in :attr:`slides`."""
        return len(self.slides)

    @property
    def slides(self) -> SlideTable:
        """The slide table, read once, or once more after :meth:`refresh`."""
        if self._slides is None:
            self._slides = self.read_slides()
        return self._slides

    def write_slides(self, table: SlideTable) -> None:
        """Replace the slide table by one that begins with the same slides; every array grows with it."""
        self.refresh()
        before = self.slides.ids
        if table.ids[: len(before)] != before:
            raise Mismatch(f"{self.url}: slides may be added to a store, not removed or reordered")
        self.refuse_links()
        slide_table.write(self, table)
        self.refresh()
        self._slides = table

    @property
    def tiles(self) -> Tiles:
        """The tiles of all slides."""
        return self.group(Tiles, "")

    def encoder(self, name: str) -> Encoder:
        """The tile encoder of this name, whether it is there or not."""
        return self.group(Encoder, name)

    def features(self, name: str) -> Features:
        """The un-augmented features of this name, whether they are there or not."""
        return self.group(Features, name)

    def bank(self, name: str) -> Bank:
        """The bank of this name, whether it is there or not."""
        return self.group(Bank, name)

    def model(self, name: str) -> Model:
        """The slide encoder of this name, whether it is there or not."""
        return self.group(Model, name)

    def embedding(self, name: str) -> Embedding:
        """The embedding of this name, whether it is there or not."""
        return self.group(Embedding, name)

    def group(self, kind: type[G], name: str) -> G:
        """The group of a kind and name, always the same object, whether it is there or not."""
        group = self._groups.setdefault((kind.kind, name), kind(self, name))
        return cast("G", group)

    def groups(self, kind: type[G]) -> list[G]:
        """All groups of a kind that are there, by name; one without a recipe is not there yet."""
        paths = children(self.root, kind.kind) if kind.kind in self.root else []
        every = (self.group(kind, path.rpartition("/")[2]) for path in paths)
        return [group for group in every if group.found is not None]

    def all_groups(self) -> list[Group]:
        """All groups of results that are there, in the order of the format."""
        tiles = [self.tiles] if self.tiles.found is not None else []
        return [*tiles, *(group for kind in NAMED for group in self.groups(kind))]

    def names(self, kind: type[G]) -> list[str]:
        """Names of the groups of a kind that are there, in alphabetical order."""
        return [group.name for group in self.groups(kind)]

    def pick(self, kind: type[G], name: str | None) -> G:
        """The group asked for, or the only one of its kind.

        Raises:
            NotFound: There is none, or none of that name.
            InvalidInput: There are several and none was named.
        """
        names, what, verb = self.names(kind), kind.kind, WRITTEN_BY[kind.kind]
        if not names:
            raise NotFound(f"{self.url} holds no {what}", f"run: giga {verb} {self.url}")
        if name is None and len(names) > 1:
            raise InvalidInput(f"{self.url} holds several {what}: {', '.join(names)}", "name the one to use")
        if name is not None and name not in names:
            raise NotFound(f"{self.url} holds no {name!r} in {what}; there is {', '.join(names)}")
        return self.group(kind, name or names[0])

    def ensure_group(self, path: str) -> Any:
        """The group at `path`; zarr would make its parents after it, and a kill between would hide it.

        What lies in a group outlives nothing that says what it is: each is on the disk before the next is made.
        """
        if (group := self.root.get(path)) is not None:
            return group
        for end in (i for i, c in enumerate(f"{path}/") if c == "/"):
            with suppress(zarr.errors.ContainsGroupError):  # another process made it in this moment
                self.root.require_group(path[:end])
            self.settle()
        return self.root[path]

    def refuse_links(self, path: str = "") -> None:
        """Refuse to write into a group, or the store, of which a part is a symbolic link, before anything is changed.

        Raises:
            Mismatch: There is one.
        """
        for link in links(self.root, path):
            raise is_a_link(f"{self.url}/{link}")

    def ensure_array(self, path: str, shape: tuple[int, ...]) -> Any:
        """The zarr array at `path`, made as the format says if it is not there, resized if it has another shape.

        It may come out with more slides than asked for: another process may have registered some meanwhile.
        """
        spec, array = spec_of(path), self.root.get(path)
        if spec is None:
            raise InvalidInput(f"{path} is not an array of format {FORMAT_VERSION}")
        if spec.dims[:1] == ("slide",):
            there = slide_table.registered(self) if array is None else array.shape[0]
            shape = (max(shape[0], there), *shape[1:])
        if array is not None:
            if array.shape != shape:
                array.resize(shape)
            return as_stored(array)
        self.ensure_group(path.rpartition("/")[0])
        try:
            array = self.root.create_array(
                path,
                shape=shape,
                dtype=str if spec.dtype == "string" else spec.dtype,
                chunks=spec.chunks(shape),
                fill_value=spec.fill,
                dimension_names=spec.dims,
                compressors=[*((ZstdCodec(),) if spec.compressed else ()), Crc32cCodec()],
            )
        except zarr.errors.ContainsArrayError:  # another process made it in this moment
            array = self.root[path]
        self.settle()
        return as_stored(array)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Store a file (weights, a checkpoint) byte for byte, in one chunk: it is replaced as a whole or not at all."""
        array = self.root.get(path)
        if array is not None and array.chunks != (len(data),):
            self.delete_bytes(path)
        write_only_chunk(self.ensure_array(path, (len(data),)), data)

    def delete_bytes(self, path: str) -> None:
        """Delete an array of one chunk, such as a file stored by :meth:`write_bytes`."""
        del self.root[f"{path}/c"]  # first, so that a kill leaves no chunk without its array
        self.settle()
        del self.root[path]

    def has_bytes(self, path: str) -> bool:
        """Whether the bytes of a file are there, and not its array alone: a kill may come between the two."""
        return sync((self.root[path].store_path / "c/0").exists())

    def read_bytes(self, path: str) -> bytes:
        """A file stored by :meth:`write_bytes`; empty where a kill came between its array and its bytes."""
        if not self.has_bytes(path):
            return b""
        data = self.root[path][:]
        return bytes(data.tobytes()) if data.any() else b""

    def fail(self, stage: str, reasons: dict[int, str]) -> None:
        """Record why slides failed in a stage; an empty reason takes an earlier failure back."""
        if not reasons:
            return
        self.ensure_array(f"failures/{stage}", (self.registered,))
        array = self.failures_array(stage)
        known = read_column(array) if len(reasons) > 1 else {row: array[row] for row in reasons}
        for row, reason in reasons.items():
            if known[row] != reason:
                array[row] = reason

    def failures(self, stage: str) -> list[str]:
        """Reason of failure per slide in a stage, "" where there is none."""
        array = self.failures_array(stage)
        if array is None:
            return [""] * self.registered
        return [str(reason) for reason in read_column(array, self.registered)]

    def failures_array(self, stage: str) -> Any:
        """The array of why slides failed in a stage, packed or not; None where it is not there."""
        array = self.root.get(f"failures/{stage}")
        unpacked = None if array is None else Unpacked.of(self.root, "failures", stage)
        return array if unpacked is None else PackedArray(array, unpacked.marks, unpacked)

    def progress(self) -> dict[str, int]:
        """Return how many slides are done, by path of the group; for an encoder or a model 1 when it is finished."""
        done = {}
        with self.tiles.read_once():
            for group in self.all_groups():
                if isinstance(group, SlideGroup):
                    done[group.path] = int(group.done().finished.sum())
                elif isinstance(group, TrainedGroup):
                    done[group.path] = int(group.complete)
        return done


def open_store(path: str | Path, *, write: bool = False) -> Store:
    """Open a cohort store: ``giga.open("cohort.zarr")``."""
    return Store.open(path, write=write)
