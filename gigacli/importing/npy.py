"""The folder of ``giga export STORE features --format npy``: features/ID.npy, coords/ID.npy, and what they are of.

``coords/ID.json`` says what attributes say in HDF5: how large tiles and slide are, and whose features these are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gigacli.errors import SlideError
from gigacli.importing.arrays import npy_header, read_npy
from gigacli.importing.feature_set import Content, FeatureSet, NoFeatures, json_object, text, tile_shape
from gigacli.importing.h5 import of_tiles

FEATURES, COORDS = "features", "coords"


def coords_of(features: Path) -> Path:
    """Where the coordinates of a file of features lie."""
    return features.parent.parent / COORDS / features.name


def is_of_slide(path: Path) -> bool:
    """Whether a file is one of such a folder, features or coordinates."""
    features = path.parent.parent / FEATURES / path.name
    return path.parent.name in (FEATURES, COORDS) and features.is_file() and coords_of(features).is_file()


def look_into(path: Path) -> list[FeatureSet]:
    """The features of a slide.

    Raises:
        NoFeatures: It is a file of coordinates.
        OSError: It cannot be read.
        SlideError: It cannot be used.
    """
    if path.parent.name == COORDS:
        raise NoFeatures("it holds coordinates")
    corners, about = coords_of(path), _about(coords_of(path).with_suffix(".json"))
    shape, there = _shape(path), _shape(corners)
    n, width = tile_shape(shape)
    if there != (n, 2):
        raise SlideError(f"it has {n} feature vectors, but {corners} has the shape {there}; expected ({n}, 2)")

    @contextmanager
    def read() -> Iterator[Content]:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False).reshape(n, width)
        with corners.open("rb") as file:
            coords = read_npy(file, corners.stat().st_size)
        yield Content(coords=coords, vectors=lambda a, b: np.asarray(vectors[a:b]))

    encoder, stated = text(about, "encoder"), of_tiles(about)
    return [FeatureSet(id=path.stem, path=path, encoder=encoder, tiles=n, width=width, read=read, **stated)]


def _about(path: Path) -> dict[str, Any]:
    """What is said of a slide beside its coordinates."""
    if not path.is_file():
        raise SlideError(
            f"{path} is not there, which says how large its tiles are",
            "export the features again: giga export STORE features --format npy, or --format h5",
        )
    return json_object(path)


def _shape(path: Path) -> tuple[int, ...]:
    with path.open("rb") as file:
        try:
            return npy_header(file)[0]
        except (ValueError, EOFError) as error:
            raise SlideError(f"{path} is not a numpy file: {error}") from error
