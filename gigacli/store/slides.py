"""The group ``slides``: the table that gives every slide its row, and how many of them count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gigacli.errors import Mismatch
from gigacli.store.chunks import read_table
from gigacli.store.layout import spec_of
from gigacli.store.nodes import arrays
from gigacli.store.recipe import CREATED_BY
from gigacli.store.table import COLUMNS, SlideTable

if TYPE_CHECKING:
    from gigacli.store.store import Store


def read(store: Store) -> SlideTable:
    """Read the slide table.

    Raises:
        Mismatch: A part of it is missing, or its ids are not those that were registered.
    """
    n = registered(store)
    if not n:
        return SlideTable(())
    ids = _ids(store, n)
    table = SlideTable.from_columns({"id": ids, **{c: _column(store, c, n) for c in COLUMNS if c != "id"}})
    if store.attributes("slides").get("ids") != table.ids_bound(n):
        raise Mismatch(
            f"{store.url}: the ids of the slide table are not those that were registered",
            f"see what else is damaged: giga validate {store.url}",
        )
    return table


def _column(store: Store, name: str, n: int) -> Any:
    try:
        array = store.root[f"slides/{name}"]
    except KeyError:
        raise Mismatch(
            f"{store.url}/slides/{name} is missing", f"see what else is: giga validate {store.url}"
        ) from None
    return read_table(array, n)


def _ids(store: Store, n: int) -> Any:
    """(slide) the ids of the registered slides: as many as are stored, before anything is made for each of them.

    Raises:
        Mismatch: Some are missing.
    """
    ids = store.root["slides/id"][:n]
    if len(ids) < n or not all(ids):
        found = sum(bool(name) for name in ids)
        raise Mismatch(
            f"{store.url}: {n} slides are registered, but {found} of them have an id",
            f"see what else is damaged: giga validate {store.url}",
        )
    return ids


def registered(store: Store) -> int:
    """Number of registered slides: written last, so a killed registration counts for nothing.

    Raises:
        Mismatch: The document that says so is lost: there are slides, or results that were made from some.
    """
    number = store.attributes("slides").get("registered")
    if number is None and (store.root.get("slides") is None or store.all_groups()):
        there = [path for path in ("slides/id", "tiles/coords") if path in store.root]
        if there or store.all_groups():
            raise Mismatch(
                f"{store.url}/slides/zarr.json, which says how many slides there are, is missing or damaged",
                "put it back: a new registration would give the rows of slides to others",
            )
    return int(number or 0)


def write(store: Store, table: SlideTable) -> None:
    """Write the slide table, what says how many there are last; every array grows with it."""
    store.ensure_group("slides")
    for path, array in arrays(store.root):
        spec = spec_of(path)
        if spec is not None and spec.dims[:1] == ("slide",) and array.shape[0] != len(table):
            array.resize((len(table), *array.shape[1:]))
    for name in COLUMNS:
        values = table.column(name)
        if values.size:
            store.ensure_array(f"slides/{name}", values.shape)[: len(values)] = values
    bound = table.ids_bound(len(table))
    store.settle()
    store.root["slides"].attrs["giga"] = {"registered": len(table), "ids": bound, "created_by": CREATED_BY}
