"""Embeddings as files: one vector per slide."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gigacli.config.tools import Format
from gigacli.errors import NotFound, from_clone
from gigacli.exporting.h5 import write_h5
from gigacli.exporting.origin import Rows, note_of, slides_for_files, slides_of
from gigacli.exporting.output import export_file, export_folder
from gigacli.progress import Progress
from gigacli.store.groups import Embedding

if TYPE_CHECKING:
    import pandas as pd


FORMULA = ("=", "+", "-", "@")  # first characters of what spreadsheet programs compute


def to_npy(group: Embedding, rows: Rows, *, to: Path, progress: Progress) -> None:
    """The layout of the authors' published embeddings: embeddings.npy (n, width) float32 and ids.npy (n,) text."""
    with export_folder(to, note_of(group)) as folder:
        shape = (len(rows), group.width)
        file = np.lib.format.open_memmap(folder / "embeddings.npy", mode="w+", dtype=np.float32, shape=shape)
        start = 0
        for vectors in group.blocks(rows):
            file[start : start + len(vectors)] = vectors
            start += len(vectors)
        file.flush()
        ids = np.array([slide.id for slide in slides_of(group, rows)], dtype=np.str_)
        np.save(folder / "ids.npy", ids, allow_pickle=False)


def to_csv(group: Embedding, rows: Rows, *, to: Path, progress: Progress) -> str:
    """One row per slide: slide_id, patient_id, v0, v1, ...; values with the fewest digits that read back as float32."""
    with export_file(to) as path, path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(csv_blocks(group, rows))
    return formulas_among(group, rows)


def csv_blocks(group: Embedding, rows: Rows) -> Iterator[str]:
    """The text of the CSV, some slides at a time."""
    start = 0
    for vectors in group.blocks(rows):
        table = _table(group, rows[start : start + len(vectors)], vectors)
        yield table.to_csv(index=False, header=not start, lineterminator="\n")
        start += len(vectors)


def formulas_among(group: Embedding, rows: Rows) -> str:
    """A warning of names that a spreadsheet would compute; "" where there are none."""
    names = [name for slide in slides_of(group, rows) for name in (slide.id, slide.patient)]
    n = sum(name.startswith(FORMULA) for name in names)
    return f"{n} ids or patients begin with one of {' '.join(FORMULA)}: a spreadsheet would compute them" if n else ""


def to_parquet(group: Embedding, rows: Rows, *, to: Path, progress: Progress) -> None:
    """The columns of the CSV; where they come from is in the metadata of the schema, under ``giga``."""
    arrow = _need("pyarrow", extra="parquet", format="parquet")
    parquet = _need("pyarrow.parquet", extra="parquet", format="parquet")
    table = arrow.Table.from_pandas(_table(group, rows, group.read()[rows]), preserve_index=False)
    metadata = {**(table.schema.metadata or {}), b"giga": _text(note_of(group)).encode()}
    with export_file(to) as path:
        parquet.write_table(table.replace_schema_metadata(metadata), path)


def to_h5ad(group: Embedding, rows: Rows, *, to: Path, progress: Progress) -> None:
    """An AnnData: X holds the vectors, obs the slide table, uns["giga"] where they come from, as JSON."""
    anndata = _need("anndata", extra="anndata", format="h5ad")
    import pandas as pd

    slides = slides_of(group, rows)
    # Text as objects: anndata does not write the strings of pandas 3.
    index = pd.Index([slide.id for slide in slides], dtype=object, name="slide_id")
    columns = {"patient_id": "patient", "path": "path", "vendor": "vendor", "mpp_source": "mpp_source"}
    obs: dict[str, Any] = {
        **{name: pd.Series([getattr(s, of) for s in slides], index, dtype=object) for name, of in columns.items()},
        "width_px": np.array([slide.size_px[0] for slide in slides], dtype=np.int64),
        "height_px": np.array([slide.size_px[1] for slide in slides], dtype=np.int64),
        "mpp": np.array([slide.mpp for slide in slides], dtype=np.float64),
    }
    if group.store.tiles.found:
        obs["tiles"] = group.store.tiles.done().values[rows].astype(np.int64)
    x = group.read()[rows]
    var = pd.DataFrame(index=pd.Index(_names(x.shape[1]), dtype=object))
    data = anndata.AnnData(x, obs=pd.DataFrame(obs, index=index), var=var, uns={"giga": _text(note_of(group))})
    with export_file(to) as path:
        data.write_h5ad(path)


def to_h5(group: Embedding, rows: Rows, *, to: Path, progress: Progress) -> None:
    """A file per slide in the layout of TRIDENT's slide features: ``features`` (width,), ``coords`` of its tiles."""
    slides, tiles = slides_for_files(group, rows), group.store.tiles
    grids = tiles.grids(rows) if tiles.found else repeat(None, len(rows))
    tiling = tiles.config if tiles.found else {}
    progress.start(f"exporting {group.path}", len(slides))
    with export_folder(to, note_of(group)) as folder:
        for vector, slide, grid in zip(group.read()[rows], slides, grids, strict=True):
            write_h5(folder / f"{slide.id}.h5", vector, slide=slide, encoder=group.name, grid=grid, tiling=tiling)
            progress.advance()


def _need(module: str, *, extra: str, format: Format) -> Any:  # noqa: A002 - the name of the option
    """Import a library that a format needs; NotFound where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise NotFound(f"`format` {format} needs {error.name}", from_clone(extra)) from None


def _table(group: Embedding, rows: Rows, vectors: NDArray[np.float32]) -> pd.DataFrame:
    import pandas as pd

    slides = slides_of(group, rows)
    table = pd.DataFrame(vectors, columns=_names(vectors.shape[1]))
    table.insert(0, "slide_id", [slide.id for slide in slides])
    table.insert(1, "patient_id", [slide.patient for slide in slides])
    return table


def _names(width: int) -> list[str]:
    return [f"v{i}" for i in range(width)]


def _text(note: dict[str, Any]) -> str:
    return json.dumps(note, sort_keys=True, ensure_ascii=False)
