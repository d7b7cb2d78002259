"""Features in the stores of raw2features: ``ID.embeddings.zarr``, zarr v2 or v3, one store per slide.

Every group of ``grids`` is one way to cut the slide into tiles: `coords` (n, 2) in level-0 pixels, ``features/<model>``
(n, c), ``slide/<model>`` (1, c), and an attribute `raw2features` that says how large the tiles are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gigacli.errors import SlideError
from gigacli.importing.feature_set import (
    UNKNOWN_SIZE,
    Content,
    FeatureSet,
    NoFeatures,
    check_stored,
    number,
    text,
    tile_shape,
)
from gigacli.store.bounds import MOST_UNPACKED_BYTES, ChunkBounds, check_chunk
from gigacli.store.folder import Folder

ENDING = ".embeddings.zarr"
PACKINGS = {"Zstd": "zstd", "GZip": "gzip", "Blosc": "blosc"}
"""Compressions of numcodecs whose chunks say how large they become."""


def wrote(path: Path) -> bool:
    """Whether a zarr store is one of raw2features."""
    return path.name.endswith(ENDING)


def look_into(path: Path) -> list[FeatureSet]:
    """All features of a store, of tiles and of the slide.

    Raises:
        NoFeatures: It holds none.
        OSError: It cannot be read.
        SlideError: It does not say how large its tiles are.
    """
    import zarr

    version: Literal[2, 3] = 3 if (path / "zarr.json").exists() else 2
    try:
        root: Any = zarr.open_group(Folder(path, read_only=True), mode="r", zarr_format=version, use_consolidated=False)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise NoFeatures(f"it is no zarr group: {error}") from error
    if "grids" not in root:
        raise NoFeatures("it has no group grids")
    found = [one for name, grid in root["grids"].groups() for one in _of_grid(path, name, grid)]
    if not found:
        raise NoFeatures("none of its grids has features")
    return found


def _of_grid(path: Path, name: str, grid: Any) -> Iterator[FeatureSet]:
    about = grid.attrs.get("raw2features")
    about = about if isinstance(about, dict) else {}
    source, slide = about.get("source") or {}, path.name.removesuffix(ENDING)
    said: dict[str, Any] = {
        "id": text(source, "slide_id") or slide,
        "path": path,
        "tool": "raw2features",
        "tool_version": text(about.get("provenance") or {}, "raw2features_version"),
    }
    stated = _of_tiles(about.get("patching") or {}, source)
    coords = grid["coords"]
    for model, values in grid["features"].arrays() if "features" in grid else ():
        n, width = tile_shape(values.shape)
        if n != coords.shape[0]:
            raise SlideError(f"{model} of {name} has {n} feature vectors but {coords.shape[0]} coordinates")
        read = partial(_open, path, values, coords)
        yield FeatureSet(encoder=model, tiles=n, width=width, read=read, part=name, **said, **stated)
    for model, values in grid["slide"].arrays() if "slide" in grid else ():
        if tile_shape(values.shape)[0] != 1:
            raise SlideError(f"the slide vector {model} of {name} has the shape {values.shape}; expected one row")
        read = partial(_open, path, values, None)
        yield FeatureSet(encoder=model, tiles=0, width=values.shape[-1], read=read, vector=True, part=name, **said)


def _of_tiles(patching: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    """What the header of a grid says of its tiles and its slide: fields of :class:`FeatureSet`."""
    tile_px, step_px = number(patching, "patch_px"), number(patching, "step_out_px")
    sizes = source.get("level_dimensions")
    return {
        "tile_px": tile_px,
        "mpp": number(patching, "achieved_mpp") or number(patching, "target_mpp"),
        "edge_px": number(patching, "level0_patch"),
        "overlap_px": max(0.0, (tile_px or 0) - (step_px or tile_px or 0)),
        "slide_mpp": number(source, "mpp_level0"),
        "size_px": (int(sizes[0][0]), int(sizes[0][1])) if sizes else UNKNOWN_SIZE,
        "slide_path": text(source, "uri").removeprefix("file://"),
    }


@contextmanager
def _open(path: Path, values: Any, coords: Any) -> Iterator[Content]:
    corners = np.empty((0, 2), dtype=np.int64) if coords is None else _read(path, coords, 0, coords.shape[0])
    yield Content(coords=corners, vectors=lambda a, b: _read(path, values, a, b))


def _read(path: Path, array: Any, start: int, stop: int) -> np.ndarray:
    """Rows of an array; chunks of zarr v2, which the storage does not look at, are looked at first."""
    if array.metadata.zarr_format == 2:
        _check(path / array.path, array)
    return np.asarray(array[start:stop])


def _check(folder: Path, array: Any) -> None:
    """Refuse an array that is larger than its bytes allow, before a chunk of it is unpacked."""
    size = int(np.prod(array.chunks, dtype=np.int64)) * array.dtype.itemsize
    packings = [PACKINGS.get(type(one).__name__, "") for one in array.compressors]
    if array.dtype.kind not in "fiu" or array.filters or len(packings) > 1 or "" in packings:
        raise SlideError(f"{array.path} holds {array.dtype} in a way that is not read", "write plain numbers")
    if size > MOST_UNPACKED_BYTES:
        raise SlideError(f"a chunk of {array.path} is {array.chunks}; at most {MOST_UNPACKED_BYTES >> 20} MiB are read")
    bounds = ChunkBounds(size, 0, packings[0] if packings else "", 0, 0)
    files = [file for file in folder.iterdir() if not file.name.startswith(".")]
    check_stored(array.path, array.nbytes, sum(file.stat().st_size for file in files))
    for file in files:
        if file.stat().st_size > bounds.stored_bytes:
            raise SlideError(f"{file} has {file.stat().st_size} bytes; expected at most {bounds.stored_bytes}")
        check_chunk(file.name, memoryview(file.read_bytes()), bounds)
