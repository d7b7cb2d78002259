"""HDF5 files from strangers: nothing outside of the file is opened, and no dataset is larger than its bytes allow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gigacli.errors import SlideError
from gigacli.importing.feature_set import check_stored
from gigacli.store.bounds import MOST_UNPACKED_BYTES

ATTRIBUTE_BYTES, ATTRIBUTE_VALUES = 2**16, 2**10
"""Of an attribute that is looked at; no tool writes longer ones."""


@contextmanager
def open_h5(path: Path) -> Iterator[Any]:
    """Open a file whose links and datasets stay inside of it.

    Raises:
        OSError: It cannot be read.
        SlideError: It has links to other files, or datasets whose values are in other files or more than it can hold.
    """
    import h5py

    def outside(name: bytes, link: Any) -> str | None:
        return name.decode("utf-8", "replace") if link.type == h5py.h5l.TYPE_EXTERNAL else None

    def look(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            _check(name, node)

    with h5py.File(path) as file:
        if (name := file.id.links.visit(outside, info=True)) is not None:
            raise SlideError(f"{name} is a link to another file", "copy what it leads to into this file")
        file.visititems(look)
        yield file


def _check(name: str, data: Any) -> None:
    """Refuse a dataset that is elsewhere, or is larger than its bytes allow."""
    if data.is_virtual or data.external:
        raise SlideError(f"the values of {name} are in another file", "copy them into this file")
    if data.dtype.kind not in "fiu":
        return  # no features and no coordinates, and so not read
    if data.chunks and math.prod(data.chunks) * data.dtype.itemsize > MOST_UNPACKED_BYTES:
        raise SlideError(f"a chunk of {name} is {data.chunks}; at most {MOST_UNPACKED_BYTES >> 20} MiB are read")
    check_stored(name, data.size * data.dtype.itemsize, data.id.get_storage_size())


def attributes_of(node: Any) -> dict[str, Any]:
    """The attributes of a file or dataset, but for those longer than any tool writes."""
    ids = {name: node.attrs.get_id(name) for name in node.attrs}
    short = (
        n
        for n, a in ids.items()
        if math.prod(a.shape or ()) <= ATTRIBUTE_VALUES and a.dtype.itemsize <= ATTRIBUTE_BYTES
    )
    return {name: node.attrs[name] for name in short}


def numbers(file: Any, name: str) -> Any:
    """A dataset of numbers.

    Raises:
        SlideError: It holds something else.
    """
    data = file[name]
    if data.dtype.kind not in "fiu":
        raise SlideError(f"{name} holds {data.dtype}; expected numbers")
    return data
