"""Embeddings as files: one vector per slide."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from gigacli.exporting.chosen import Grid
from gigacli.exporting.extras import need
from gigacli.exporting.h5 import write_h5
from gigacli.files import new_file, new_folder
from gigacli.store.chunks import read_column

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from gigacli.exporting.chosen import Chosen
    from gigacli.progress import Progress


def vectors_of(chosen: Chosen) -> NDArray[np.float32]:
    """(n, width) float32, the vectors of the slides that have one."""
    return chosen.store.array(f"{chosen.path}/vectors")[:][chosen.rows]


def to_npy(chosen: Chosen, to: Path, progress: Progress) -> None:
    """The layout of the authors' published embeddings: embeddings.npy (n, width) float32 and ids.npy (n,) text."""
    with new_folder(to, chosen.note) as folder:
        np.save(folder / "embeddings.npy", vectors_of(chosen), allow_pickle=False)
        np.save(folder / "ids.npy", np.array([slide.id for slide in chosen.slides], dtype=np.str_), allow_pickle=False)


def to_csv(chosen: Chosen, to: Path, progress: Progress) -> None:
    """One row per slide: slide_id, patient_id, v0, v1, ...; values with the fewest digits that read back as float32."""
    with new_file(to) as path:
        _table(chosen).to_csv(path, index=False, lineterminator="\n")


def to_parquet(chosen: Chosen, to: Path, progress: Progress) -> None:
    """The columns of the CSV; where they come from is in the metadata of the schema, under ``giga``."""
    arrow = need("pyarrow", extra="parquet", what="--format parquet")
    parquet = need("pyarrow.parquet", extra="parquet", what="--format parquet")
    table = arrow.Table.from_pandas(_table(chosen), preserve_index=False)
    metadata = {**(table.schema.metadata or {}), b"giga": _text(chosen.note).encode()}
    with new_file(to) as path:
        parquet.write_table(table.replace_schema_metadata(metadata), path)


def to_h5ad(chosen: Chosen, to: Path, progress: Progress) -> None:
    """An AnnData: X holds the vectors, obs the slide table, uns["giga"] where they come from, as JSON."""
    anndata = need("anndata", extra="anndata", what="--format h5ad")
    import pandas as pd

    slides = chosen.slides
    # Text as objects: anndata does not write the strings of pandas 3.
    index = pd.Index([slide.id for slide in slides], dtype=object, name="slide_id")
    text = {
        "patient_id": [slide.patient for slide in slides],
        "path": [slide.path for slide in slides],
        "vendor": [slide.vendor for slide in slides],
        "mpp_source": [slide.mpp_source for slide in slides],
    }
    obs: dict[str, Any] = {
        **{name: pd.Series(values, index=index, dtype=object) for name, values in text.items()},
        "width_px": np.array([slide.size_px[0] for slide in slides], dtype=np.int64),
        "height_px": np.array([slide.size_px[1] for slide in slides], dtype=np.int64),
        "mpp": np.array([slide.mpp for slide in slides], dtype=np.float64),
    }
    if "tiles/count" in chosen.store.root:
        obs["tiles"] = read_column(chosen.store.array("tiles/count"))[chosen.rows].astype(np.int64)
    x = vectors_of(chosen)
    var = pd.DataFrame(index=pd.Index(_names(x.shape[1]), dtype=object))
    data = anndata.AnnData(x, obs=pd.DataFrame(obs, index=index), var=var, uns={"giga": _text(chosen.note)})
    with new_file(to) as path:
        data.write_h5ad(path)


def to_h5(chosen: Chosen, to: Path, progress: Progress) -> None:
    """A file per slide in the layout of TRIDENT's slide features: ``features`` (width,), ``coords`` of its tiles."""
    slides = list(chosen.named())
    progress.start(f"exporting {chosen.path}", len(slides))
    with new_folder(to, chosen.note) as folder:
        for vector, (row, slide) in zip(vectors_of(chosen), slides, strict=True):
            write_h5(
                folder / f"{slide.id}.h5",
                vector,
                Grid.of(chosen.store, row),
                slide=slide,
                encoder=chosen.path.partition("/")[2],
            )
            progress.advance()


def _table(chosen: Chosen) -> pd.DataFrame:
    import pandas as pd

    vectors, slides = vectors_of(chosen), chosen.slides
    table = pd.DataFrame(vectors, columns=_names(vectors.shape[1]))
    table.insert(0, "slide_id", [slide.id for slide in slides])
    table.insert(1, "patient_id", [slide.patient for slide in slides])
    return table


def _names(width: int) -> list[str]:
    return [f"v{i}" for i in range(width)]


def _text(note: dict[str, Any]) -> str:
    return json.dumps(note, sort_keys=True, ensure_ascii=False)
