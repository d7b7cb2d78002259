"""Features of tiles in Parquet: files that hold many slides, a row for a tile or for a chunk of tiles of one slide.

A column says the slide, one holds the vectors and one or two the corners in level-0 pixels; columns called as TRIDENT's
attributes say how large the tiles are. Where no column does, the encoder and the nominal magnification are taken from
the folders: ``<encoder>/<magnification>x/part-0.parquet``. A slide may go on in the next file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput, SlideError, from_clone, reason_of
from gigacli.importing.feature_set import Content, FeatureSet, NoFeatures, check_stored
from gigacli.importing.h5 import of_tiles
from gigacli.store.bounds import MOST
from gigacli.tables import bare_id, find_column

VECTORS = ("features", "feats", "embeddings", "embedding", "vectors", "vector")
CORNERS = ("coords", "coordinates")
ENCODERS = ("encoder", "encoder_name", "model")
VALUE_BYTES = 4  # of most values: vectors are float32 or less

MAGNIFICATION = re.compile(r"(\d+(?:\.\d+)?)x")
"""How a folder of one magnification is called."""


@dataclass(frozen=True)
class _Rows:
    """Rows of one slide in one file."""

    path: Path
    vectors: str  # column
    corners: tuple[str, ...]  # one column, or two: x and y
    rows: NDArray[np.int64]
    tiles: int  # in all of them


@dataclass
class _Slide:
    """A slide as one file after the other tells of it."""

    encoder: str
    width: int
    stated: dict[str, Any]  # fields of `FeatureSet`
    parts: list[_Rows]


def look_into(paths: Sequence[Path], insisted: Collection[Path]) -> tuple[list[FeatureSet], list[str]]:
    """All slides of all files, and why files hold none.

    Args:
        paths: The files, in the order in which a slide goes on from one to the next.
        insisted: Those that must hold features, as the user named them.

    Raises:
        InvalidInput: One of these holds none, or one cannot be read: nobody knows which slides are in it.
    """
    found, ignored, slides = list[FeatureSet](), list[str](), dict[tuple[str, str], _Slide]()
    for path in paths:
        try:
            for name, slide in _slides_of(path):
                first = slides.setdefault((name, slide.encoder), slide)
                if first is not slide:
                    first.parts += slide.parts
        except NoFeatures as error:
            if path in insisted:
                raise InvalidInput(f"{path} holds no features: {error}", "see: giga import --help") from None
            ignored.append(f"{path}: {error}")
        except Exception as error:  # a damaged file raises anything
            raise InvalidInput(
                f"{path} cannot be used: {reason_of(error)}", "name the other files to import the slides of those"
            ) from error
    for (name, encoder), slide in slides.items():
        tiles = sum(part.tiles for part in slide.parts)
        read = partial(_open, tuple(slide.parts))
        path, width = slide.parts[0].path, slide.width
        found.append(
            FeatureSet(id=name, path=path, encoder=encoder, tiles=tiles, width=width, read=read, **slide.stated)
        )
    return found, ignored


def _slides_of(path: Path) -> Iterator[tuple[str, _Slide]]:
    """Slides of one file, with the rows of each, by the columns other than the vectors."""
    parquet = _parquet()
    file = parquet.ParquetFile(path)
    schema = file.schema_arrow
    slide_column = find_column(schema.names, "slide_id", path=path)
    vectors = next((name for name in VECTORS if name in schema.names), None)
    corners = _corner_columns(schema.names)
    if slide_column is None or vectors is None:
        raise NoFeatures(f"it has no column slide_id, or none of {', '.join(VECTORS)}; found {', '.join(schema.names)}")
    if not corners:
        raise SlideError(f"it has vectors but no coordinates: no columns coords, or x and y, in {path.name}")
    _check_size(file, path)
    about = [name for name in schema.names if name not in (vectors, *corners)]
    table = file.read(columns=list(dict.fromkeys([*about, *corners])))
    names: dict[str, list[int]] = {}
    for row, name in enumerate(table[slide_column].to_pylist()):
        names.setdefault(bare_id(str(name)), []).append(row)
    lengths = _lengths(table, corners)
    width = _width(file, vectors, lengths)
    for name, numbers in names.items():
        rows = np.array(numbers)
        cells = {column: table[column][int(rows[0])].as_py() for column in about}
        encoder = next((str(cells[c]) for c in ENCODERS if cells.get(c)), "") or _folders(path)[0]
        part = _Rows(path, vectors, corners, rows, int(lengths[rows].sum()))
        yield name, _Slide(encoder, width, _stated(path, cells), [part])


def _stated(path: Path, cells: dict[str, Any]) -> dict[str, Any]:
    """What the cells of a row, and the folders, say of the tiles."""
    magnification = _folders(path)[1]
    stated = of_tiles({"target_magnification": magnification, **{k: v for k, v in cells.items() if v is not None}})
    return {**stated, "tool": "Parquet"}


def _folders(path: Path) -> tuple[str, float | None]:
    """Encoder and magnification by which the folders of a file are called, "" and None where they are not."""
    found = MAGNIFICATION.fullmatch(path.absolute().parent.name)
    return (path.absolute().parent.parent.name, float(found[1])) if found else ("", None)


def _corner_columns(names: Sequence[str]) -> tuple[str, ...]:
    if one := next((name for name in CORNERS if name in names), None):
        return (one,)
    return ("x", "y") if {"x", "y"} <= set(names) else ()


def _check_size(file: Any, path: Path) -> None:
    metadata = file.metadata
    if metadata.num_rows > MOST["tile"]:
        raise SlideError(f"it states {metadata.num_rows} rows; at most {MOST['tile']} are read")
    # as many values as are stated, not the bytes: a value that is repeated takes none
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
    check_stored(path.name, VALUE_BYTES * values, path.stat().st_size)


def _lengths(table: Any, corners: tuple[str, ...]) -> NDArray[np.int64]:
    """(rows,) tiles of every row: one, or as many as its list of corners has."""
    from pyarrow import compute

    column = table[corners[0]]
    kind = column.type
    if not _listed(kind):
        return np.ones(len(column), dtype=np.int64)
    counts = np.asarray(compute.list_value_length(column).fill_null(0), dtype=np.int64)
    return counts if len(corners) == 2 or _listed(kind.value_type) else counts // 2


def _listed(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _width(file: Any, vectors: str, lengths: NDArray[np.int64]) -> int:
    """Values per tile, by the first row that has a tile."""
    start = 0
    for batch in file.iter_batches(batch_size=64, columns=[vectors]):
        full = np.flatnonzero(lengths[start : start + len(batch)])
        if len(full):
            row = int(full[0])
            return _flat(batch.column(0)[row : row + 1]).size // int(lengths[start + row])
        start += len(batch)
    return 0


@contextmanager
def _open(parts: tuple[_Rows, ...]) -> Iterator[Content]:
    """The tiles of one slide, all in memory: a file of columns has no rows to go to."""
    corners, vectors = [], []
    for part in parts:
        table = _read(part)
        corners.append(_pairs(table, part.corners))
        flat = _flat(table[part.vectors])
        if len(corners[-1]) != part.tiles or flat.size % max(1, part.tiles):
            raise SlideError(
                f"{part.path.name}: {flat.size} values and {len(corners[-1])} corners for {part.tiles} tiles"
            )
        vectors.append(flat.reshape(part.tiles, -1) if part.tiles else np.empty((0, 0), dtype=np.float16))
    held = np.concatenate([one for one in vectors if len(one)] or vectors[:1])
    yield Content(coords=np.concatenate(corners), vectors=lambda a, b: held[a:b])


def _read(part: _Rows) -> Any:
    """The rows of one slide, of the row groups that hold them: a file is read once, where its groups are slides."""
    file = _parquet().ParquetFile(part.path)
    metadata = file.metadata
    starts = np.cumsum([0, *(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))])
    of_row = np.searchsorted(starts, part.rows, side="right") - 1  # row group of every row
    groups = np.unique(of_row)
    before = np.concatenate([[0], np.cumsum(np.diff(starts)[groups])[:-1]])  # rows of the groups read before
    rows = part.rows - starts[of_row] + before[np.searchsorted(groups, of_row)]
    return file.read_row_groups(groups.tolist(), columns=[part.vectors, *part.corners]).take(rows)


def _pairs(table: Any, columns: tuple[str, ...]) -> NDArray[Any]:
    """(n, 2) corners: of a column of pairs, or of one each."""
    if len(columns) == 1:
        return _flat(table[columns[0]]).reshape(-1, 2)
    return np.stack([_flat(table[name]) for name in columns], axis=1)


def _flat(column: Any) -> NDArray[Any]:
    """All numbers of a column, however deep its lists are."""
    import pyarrow as pa

    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    while _listed(values.type):
        values = values.flatten()
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise SlideError(f"a column holds {values.type}; expected lists of numbers")
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SlideError("it is Parquet, which needs pyarrow", from_clone("parquet")) from error
    return parquet
