"""Slide vectors in one table: what ``giga export`` writes as CSV, Parquet and h5ad, and the like of other tools.

A column says the slide, one may say its patient, and columns called by one word and a number (v0, v1, ...) hold the
vectors. An h5ad is a file of AnnData: `X` holds the vectors, the index of `obs` the slides. In Parquet and h5ad giga
says which embedding it was.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput
from gigacli.importing.arrays import SlideVectors
from gigacli.importing.hdf5 import open_h5
from gigacli.store.bounds import MOST
from gigacli.tables import bare_id, find_column, read_columns

NUMBERED = re.compile(r"(.*?)(\d+)")
"""Name of a column of vectors."""

INDEX = "_index"  # attribute of a data frame in h5ad: the name of its index


def holds_vectors(path: Path) -> bool:
    """Whether a Parquet file is a table of slide vectors rather than of tiles: its numbers stand in columns."""
    try:
        from pyarrow import parquet

        return len(_numbered(parquet.read_schema(path).names)) > 1
    except (ImportError, OSError, ValueError):
        return False


def read_table(path: Path) -> SlideVectors:
    """Read a table of slide vectors.

    Raises:
        InvalidInput: It is none, or a slide stands in it twice.
        NotFound: A package that reads it is not installed.
    """
    if path.suffix.lower() == ".h5ad":
        return _read_h5ad(path)
    columns = read_columns(path)
    slide, names = find_column(columns, "slide_id", path=path), _numbered(columns)
    if slide is None or not names:
        shown = ", ".join(list(columns)[:8])
        raise InvalidInput(
            f"{path} has no column slide_id, or no columns of vectors such as v0, v1; found {shown}",
            "a table of slide vectors has a row per slide and a column per value",
        )
    try:
        values = np.array([columns[name] for name in names], dtype=np.float32).T  # (slides, width)
    except ValueError as error:
        raise InvalidInput(f"{path}: a column from {names[0]} to {names[-1]} holds no number: {error}") from None
    patient = find_column(columns, "patient_id", path=path)
    return _vectors(path, columns[slide], values, columns[patient] if patient else None, note=_note_of(path))


def _read_h5ad(path: Path) -> SlideVectors:
    """Read with h5py what AnnData keeps in HDF5; a pickle or a link to another file cannot be in it."""
    with open_h5(path) as file:
        x, obs = file.get("X"), file.get("obs")
        if obs is None or not hasattr(x, "ndim") or x.ndim != 2 or x.dtype.kind != "f":
            raise InvalidInput(f"{path} has no dense matrix X of vectors, or no obs", "write it as X, a row per slide")
        if x.shape[0] > MOST["slide"] or x.shape[1] > MOST["value"]:
            raise InvalidInput(f"{path} has {x.shape[0]} vectors of {x.shape[1]} values; that is beyond a store")
        ids = _texts(path, obs, str(obs.attrs.get(INDEX, INDEX)), len(x))
        patient = find_column(list(obs), "patient_id", path=path)
        patients = _texts(path, obs, patient, len(x)) if patient else None
        note = file["uns/giga"][()] if "uns/giga" in file else b"{}"
        return _vectors(path, ids, np.asarray(x[...], dtype=np.float32), patients, note=note)


def _texts(path: Path, frame: Any, name: str, count: int) -> list[str]:
    """A column of `count` texts of a data frame in h5ad, which may be kept as codes of categories."""
    column = frame.get(name)
    coded = column is not None and hasattr(column, "keys") and {"codes", "categories"} <= set(column)
    if any(len(one) > count for one in (column.values() if coded else [column] if column is not None else [])):
        raise InvalidInput(f"{path}: {name} of obs is longer than X, which has {count} rows")
    if coded:
        categories = column["categories"].asstr()[...]
        return [str(categories[code]) if code >= 0 else "" for code in column["codes"][...].tolist()]
    if column is None or hasattr(column, "keys") or column.dtype.kind not in "OS":
        raise InvalidInput(f"{path}: {name} of obs is no column of texts", "let the index of obs be the slides' ids")
    return [str(text) for text in column.asstr()[...]]


def _vectors(
    path: Path, texts: list[str], values: NDArray[np.float32], patients: list[str] | None, *, note: str | bytes
) -> SlideVectors:
    ids = [bare_id(text) for text in texts]
    if len(ids) != len(values):
        raise InvalidInput(f"{path} has {len(values)} vectors, but {len(ids)} ids")
    twice = [name for name, n in Counter(ids).items() if n > 1]
    if twice or "" in ids:
        raise InvalidInput(
            f"{path} names {len(twice)} slides more than once: {', '.join(twice[:5]) or 'one without an id'}",
            "keep one row per slide",
        )
    try:
        said = json.loads(note)
    except ValueError:
        said = {}
    group = said.get("group") if isinstance(said, dict) else None
    tool = "giga" if isinstance(group, str) else "table"
    name = group.rpartition("/")[2] if isinstance(group, str) else path.stem
    read = SlideVectors(path, dict(zip(ids, values, strict=True)), values.shape[1], tool, name=name)
    read.patients.update({slide: text for slide, text in zip(ids, patients or [], strict=False) if text})
    return read


def _numbered(names: Iterable[str]) -> list[str]:
    """The largest set of columns called by one word and the numbers from 0 or 1 on, in the order of the numbers."""
    by_word: dict[str, dict[int, str]] = defaultdict(dict)
    for name in names:
        if found := NUMBERED.fullmatch(name):
            by_word[found[1]][int(found[2])] = name
    runs = [run for run in by_word.values() if sorted(run) in (list(range(len(run))), list(range(1, len(run) + 1)))]
    run = max(runs, key=len, default={})
    return [run[number] for number in sorted(run)]


def _note_of(path: Path) -> str | bytes:
    """What giga wrote beside a table of its own: in the schema of a Parquet file."""
    if path.suffix.lower() != ".parquet":
        return "{}"
    from pyarrow import parquet

    note: bytes = (parquet.read_schema(path).metadata or {}).get(b"giga", b"{}")
    return note
