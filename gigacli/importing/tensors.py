"""Features in files of tensors, their tiles elsewhere: slide2vec on tiles of hs2p, and CLAM's ``pt_files``."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gigacli.errors import SlideError
from gigacli.importing.arrays import npy_header, read_npy
from gigacli.importing.feature_set import (
    UNKNOWN_SIZE,
    Content,
    FeatureSet,
    NoFeatures,
    check_stored,
    json_object,
    number,
    text,
    tile_shape,
)
from gigacli.importing.h5 import Coordinates

TILES = ".coordinates.npz"
TILES_META = ".coordinates.meta.json"
META = ".meta.json"
TILES_FOLDER, FEATURES_FOLDER = "tiles", "tile_embeddings"
"""Of hs2p and of slide2vec, each with a folder per class of annotations where tiles were drawn class by class."""

POOLED = ("", "tile_embeddings", "slide_embeddings", "patient_embeddings")
"""Kinds of slide2vec's files that hold one vector per tile, slide or patient; others hold a grid of them per region."""


def part_of(path: Path) -> str:
    """The class of annotations that a file of slide2vec or hs2p is of: its folder, "" where there are no classes."""
    return path.parent.name if path.parent.parent.name in (TILES_FOLDER, FEATURES_FOLDER) else ""


def tiles_beside(path: Path) -> Path:
    """Where hs2p keeps the tiles of a file of slide2vec."""
    part, root = part_of(path), path.parent.parent
    folder = root.parent / TILES_FOLDER / part if part else root / TILES_FOLDER
    return folder / f"{path.stem}{TILES}"


def look_into(path: Path, tiles: Path | None, coordinates: Coordinates | None) -> list[FeatureSet]:
    """The feature set of a ``.pt`` or ``.npz`` file.

    Args:
        path: The file.
        tiles: The ``.coordinates.npz`` of its slide, if there is one.
        coordinates: The slide's patches in HDF5, if there are some.

    Raises:
        NoFeatures: It holds something else.
        OSError: It cannot be read.
        SlideError: It cannot be used.
    """
    about = _json(path.with_name(path.name.removesuffix(path.suffix) + META))
    if (kind := text(about, "artifact_type")) not in POOLED:
        raise NoFeatures(f"it holds {kind}, not one vector per tile or slide")
    shape, encoder, patient = _shape(path), text(about, "encoder_name"), text(about, "patient_id")
    slide = text(about, "sample_id") or patient or path.stem
    if len(shape) == 1:
        return [_vector(path, slide, encoder, shape[0], patient=patient)]
    if tiles is None and coordinates is None:
        raise SlideError(
            "it has features but no coordinates, and there are none beside it",
            "name the folder with the coordinates, too: hs2p's tiles/, or CLAM's patches/",
        )
    n, width = tile_shape(shape)
    stated = _of_hs2p(tiles) if tiles is not None else coordinates.stated if coordinates is not None else {}
    there = stated.pop("tiles", None) if tiles is not None else coordinates.tiles if coordinates is not None else None
    if there != n:
        raise SlideError(
            f"it has {n} feature vectors, but {tiles or (coordinates and coordinates.path)} has {there} tiles"
        )

    @contextmanager
    def read() -> Iterator[Content]:
        features = _open(path)
        if tiles is not None:
            corners = _corners(tiles)
            tissue = _member(tiles, "tissue_fractions") if _has(tiles, "tissue_fractions") else None
        else:
            assert coordinates is not None
            corners, tissue = coordinates.corners(), None
        yield Content(coords=corners, vectors=lambda a, b: _rows(features, a, b), tissue=tissue)

    found = FeatureSet(id=slide, path=path, encoder=encoder, tiles=n, width=width, read=read, **stated)
    return [replace(found, part=part_of(path))]


def tiles_of(path: Path) -> FeatureSet:
    """The tiles of a slide in a file of hs2p, as a feature set without features.

    Raises:
        SlideError: It does not say how large they are.
    """

    @contextmanager
    def read() -> Iterator[Content]:
        yield Content(coords=_corners(path), vectors=lambda a, b: np.empty((b - a, 0), dtype=np.float16))

    stated, slide = _of_hs2p(path) | {"tool": "hs2p"}, path.name.removesuffix(TILES)
    return FeatureSet(id=slide, path=path, encoder="", width=0, read=read, part=part_of(path), **stated)


def _corners(tiles: Path) -> np.ndarray:
    """(n, 2) of a file of hs2p, level-0 pixels."""
    return np.stack([_member(tiles, "x"), _member(tiles, "y")], axis=1)


def _of_hs2p(path: Path) -> dict[str, Any]:
    """What hs2p says of the tiles of a slide."""
    about = _json(path.with_name(path.name.removesuffix(TILES) + TILES_META))
    tiling, slide = about.get("tiling", {}), about.get("slide", {})
    if not tiling:
        raise SlideError(f"{path.name} has no {TILES_META} beside it, which says how large its tiles are")
    tile_px = number(tiling, "requested_tile_size_px")
    size = slide.get("dimensions")
    return {
        "tool": "slide2vec",
        "tiles": int(tiling.get("n_tiles", -1)),
        "tile_px": tile_px,
        "mpp": number(tiling, "requested_spacing_um"),
        "edge_px": number(tiling, "tile_size_lv0"),
        "overlap_px": float(tiling.get("overlap") or 0) * (tile_px or 0),
        "slide_mpp": number(slide, "base_spacing_um"),
        "size_px": (int(size[0]), int(size[1])) if size else UNKNOWN_SIZE,
        "slide_path": text(about.get("provenance", {}), "image_path"),
    }


def _vector(path: Path, slide: str, encoder: str, width: int, *, patient: str) -> FeatureSet:
    @contextmanager
    def read() -> Iterator[Content]:
        row = np.asarray(_rows(_open(path), 0, width)).reshape(1, -1)
        yield Content(coords=np.empty((0, 2), dtype=np.int64), vectors=lambda a, b: row[a:b])

    return FeatureSet(
        id=slide,
        path=path,
        tool="slide2vec",
        encoder=encoder,
        tiles=0,
        width=width,
        read=read,
        vector=True,
        patient=patient,
    )


def _json(path: Path) -> dict[str, Any]:
    return json_object(path) if path.is_file() else {}


def _shape(path: Path) -> tuple[int, ...]:
    """Of the features in a file: of an npz file without reading them."""
    if path.suffix != ".npz" or not _has(path, "features"):
        return tuple(_open(path).shape)
    with zipfile.ZipFile(path) as archive, archive.open("features.npy") as file:
        return npy_header(file)[0]


def _open(path: Path) -> Any:
    """A tensor mapped into memory, or an array."""
    if path.suffix == ".npz":
        if not _has(path, "features"):
            raise NoFeatures("it has no array `features`")
        return _member(path, "features")
    import torch

    from gigacli.weights.torch_file import is_whole, load_torch

    try:
        held = load_torch(path, mmap=True)
    except Exception as error:  # torch raises half a dozen types for files that are damaged or hold code
        raise SlideError(
            f"it cannot be read as a tensor: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(held, torch.Tensor):
        raise NoFeatures(f"it holds a {type(held).__name__}; expected a tensor")
    if held.numel() and not is_whole(held):
        raise SlideError(
            f"it states {tuple(held.shape)} values, of which it does not hold all", "save a copy of the tensor"
        )
    return held


def _has(path: Path, name: str) -> bool:
    with zipfile.ZipFile(path) as archive:
        return f"{name}.npy" in archive.namelist()


def _member(path: Path, name: str) -> np.ndarray:
    """An array of an npz file, whose sizes are looked at first."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        about = archive.getinfo(f"{name}.npy")
        check_stored(name, about.file_size, about.compress_size)
        return read_npy(file, about.file_size)


def _rows(held: Any, start: int, stop: int) -> np.ndarray:
    flat = held.reshape(-1, held.shape[-1]) if held.ndim == 3 else held
    part = flat[start:stop]
    return part if isinstance(part, np.ndarray) else part.float().numpy()
