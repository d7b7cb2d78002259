"""Features in HDF5: TRIDENT, CLAM, AtlasPatch and STAMP, told apart by what is in the file.

- TRIDENT: dataset `features` (n, c), or (c) for a slide; `coords` (n, 2) in level-0 pixels, whose attributes give the
  tiles by magnifications, which are nominal. Its older files have no attribute `encoder`: their folder is called after
  it. `giga export` writes the same, and beside it what is exact.
- CLAM: dataset `features` (n, c), in old files (n, 1, c); `coords` (n, 2) in level-0 pixels. What tiles they are is
  stated in the file of patches, and no resolution anywhere.
- AtlasPatch: a group `features` with a dataset per encoder, and `slide_features` with a vector per slide encoder;
  `coords` (n, 5): x and y in level-0 pixels, then what was read; attributes of the file as TRIDENT's. A file of
  ``patient_features/`` holds a vector `features` (c), and the slides that went into it as an attribute `num_slides`.
- STAMP, from 2.1: dataset `feats` (n, c), or (c) for a slide; `coords` (n, 2) in microns; attributes of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gigacli.errors import SlideError
from gigacli.importing.feature_set import Content, FeatureSet, NoFeatures, number, size_of, text, tile_shape
from gigacli.importing.hdf5 import attributes_of, numbers, open_h5
from gigacli.store.bounds import MOST

EXACT = {"mpp": "mpp", "slide_mpp": "level0_mpp", "edge_px": "edge_level0_px"}
"""Fields of :class:`FeatureSet` and the attributes that `giga export` adds to those of TRIDENT."""

FOLDER = re.compile(r"(?:slide_)?features_(.+)")
"""How TRIDENT calls the folder of an encoder's files."""

PATCHES = "_patches"  # what TRIDENT adds to the slide's id in the files of coordinates


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """A file of coordinates alone, for features that have none or do not say how large their tiles are."""

    path: Path
    tiles: int  # how many there are
    stated: dict[str, Any]  # what it says of the tiles: fields of `FeatureSet`

    def corners(self) -> np.ndarray:
        """(n, 2), level-0 pixels."""
        with open_h5(self.path) as file:
            return _corners(file["coords"])

    def as_set(self, slide: str) -> FeatureSet:
        """The tiles of a slide as a feature set without features."""

        @contextmanager
        def read() -> Iterator[Content]:
            yield Content(coords=self.corners(), vectors=lambda a, b: np.empty((b - a, 0), dtype=np.float16))

        return FeatureSet(id=slide, path=self.path, encoder="", tiles=self.tiles, width=0, read=read, **self.stated)


def look_into(path: Path, coordinates: Coordinates | None) -> list[FeatureSet]:
    """All feature sets of a file.

    Args:
        path: The file.
        coordinates: The tiles of the same slide from a file of their own, if there is one.

    Raises:
        NoFeatures: It holds none.
        OSError: It cannot be read.
        SlideError: It holds some that cannot be used.
    """
    import h5py

    with open_h5(path) as file:
        if "feats" in file:
            return [_stamp(path, file)]
        features = file.get("features")
        if isinstance(features, h5py.Group) or isinstance(file.get("slide_features"), h5py.Group):
            return list(_atlaspatch(path, file))
        if not isinstance(features, h5py.Dataset):
            raise NoFeatures("it has no dataset `features` or `feats`")
        return [_trident_or_clam(path, file, coordinates)]


def look_for_coordinates(path: Path) -> Coordinates | None:
    """The coordinates in a file that holds nothing else; None where it is no such file."""
    import h5py

    with open_h5(path) as file:
        coords = file.get("coords")
        if not isinstance(coords, h5py.Dataset) or "features" in file or "feats" in file:
            return None
        stated = of_tiles({**attributes_of(file), **attributes_of(coords)})
        return Coordinates(path=path, tiles=len(coords), stated=stated)


def of_tiles(attributes: dict[str, Any]) -> dict[str, Any]:
    """What attributes in the manner of TRIDENT, AtlasPatch or CLAM say of tiles and slide."""
    size = number(attributes, "patch_size")
    target = number(attributes, "target_magnification")
    if number(attributes, "patch_size_level0") is not None or target is not None:
        power = number(attributes, "level0_magnification")
        edge = number(attributes, "patch_size_level0")
        if edge is None and size and target and power:
            edge = size * power / target
        found = {
            "tool": "TRIDENT",
            "tile_px": size,
            "mpp": 10 / target if target else None,
            "nominal": target is not None,
            "edge_px": edge,
            "overlap_px": number(attributes, "overlap") or 0.0,
            "size_px": size_of(attributes, "level0_width", "level0_height"),
        }
        exact = {k: number(attributes, name) for k, name in EXACT.items()}
        return found | ({**exact, "tool": "giga", "nominal": False} if all(exact.values()) else {})
    stated: dict[str, Any] = {"tool": "CLAM"}
    if size is not None and "downsample" in attributes:
        down = np.ravel(np.asarray(attributes["downsample"], dtype=float))
        # with a custom downsample, `patch_size` pixels are read as so many times more, and shrunk
        stated |= {"tile_px": size, "edge_px": size * float(down[0]) * (number(attributes, "custom_downsample") or 1)}
        if "level_dim" in attributes:
            width, height = (
                round(float(v) * d) for v, d in zip(attributes["level_dim"], (down[0], down[-1]), strict=True)
            )
            stated["size_px"] = (width, height)
    return stated


def _trident_or_clam(path: Path, file: Any, coordinates: Coordinates | None) -> FeatureSet:
    features, coords = file["features"], file.get("coords")
    stated = of_tiles({**attributes_of(file), **(attributes_of(coords) if coords is not None else {})})
    if stated.get("edge_px") is None and coordinates is not None:
        stated = coordinates.stated
    encoder = text(features.attrs, "encoder") or text(file.attrs, "encoder")
    folder = FOLDER.fullmatch(path.parent.name)
    encoder = encoder or (folder[1] if folder else "")
    if features.ndim == 1 and len(features):
        if "num_slides" in file.attrs:
            of = encoder or text(file.attrs, "encoder_name")
            return _vector(path, "features", features, encoder=of, tool="AtlasPatch", patient=path.stem)
        tool = "TRIDENT" if encoder or stated["tool"] == "TRIDENT" else "HDF5"
        return _vector(path, "features", features, encoder=encoder, tool=tool)
    shape = tile_shape(features.shape)
    if coords is None and coordinates is None:
        raise SlideError("it has features but no coordinates", "name the folder with the coordinates, too")
    where = coordinates if coords is None else None
    tiles = where.tiles if where is not None else len(coords)
    _same_length(shape[0], tiles)
    read, slide = partial(_open, path, "features", where), path.stem.removesuffix(PATCHES)
    return FeatureSet(id=slide, path=path, encoder=encoder, tiles=shape[0], width=shape[1], read=read, **stated)


def _atlaspatch(path: Path, file: Any) -> Iterator[FeatureSet]:
    stated = of_tiles(attributes_of(file)) | {"tool": "AtlasPatch"}
    tiles = len(file["coords"]) if "coords" in file else 0
    for name, vector in file.get("slide_features", {}).items():
        yield _vector(path, f"slide_features/{name}", vector, encoder=name, tool="AtlasPatch")
    for name, features in file.get("features", {}).items():
        shape = tile_shape(features.shape)
        _same_length(shape[0], tiles)
        yield FeatureSet(
            id=path.stem,
            path=path,
            encoder=name,
            tiles=tiles,
            width=shape[1],
            read=partial(_open, path, f"features/{name}"),
            slide_mpp=number(file.attrs, "mpp"),
            slide_path=text(file.attrs, "wsi_path"),
            **stated,
        )


def _stamp(path: Path, file: Any) -> FeatureSet:
    attributes, feats = file.attrs, file["feats"]
    encoder, version = text(attributes, "extractor") or text(attributes, "encoder"), text(attributes, "stamp_version")
    if (feats.ndim == 1 and len(feats)) or text(attributes, "feat_type") in ("slide", "patient"):
        return _vector(path, "feats", feats, encoder=encoder, tool="STAMP", version=version)
    shape = tile_shape(feats.shape)
    if "coords" not in file:
        raise SlideError("it has features but no coordinates")
    _same_length(shape[0], len(file["coords"]))
    edge_um, tile_px = number(attributes, "tile_size_um"), number(attributes, "tile_size_px")
    if text(attributes, "unit") != "um" or edge_um is None or tile_px is None:
        raise SlideError(
            f"it was written by STAMP {version or 'of an unknown version'}, which does not state the unit and the "
            "size of tiles; expected the attributes unit, tile_size_um and tile_size_px",
            "extract the features with STAMP 2.1 or newer",
        )
    return FeatureSet(
        id=path.stem,
        path=path,
        tool="STAMP",
        tool_version=version,
        encoder=encoder,
        tiles=shape[0],
        width=shape[1],
        read=partial(_open, path, "feats"),
        tile_px=tile_px,
        mpp=edge_um / tile_px,
        microns=True,
    )


def _vector(
    path: Path, key: str, data: Any, *, encoder: str, tool: str, version: str = "", patient: str = ""
) -> FeatureSet:
    if data.ndim > 1 and int(np.prod(data.shape[:-1])) != 1:
        raise SlideError(f"a slide vector has the shape {data.shape}; expected one row")
    return FeatureSet(
        id=path.stem,
        path=path,
        tool=tool,
        tool_version=version,
        encoder=encoder,
        tiles=0,
        width=int(data.shape[-1]),
        read=partial(_open, path, key),
        vector=True,
        patient=patient,
    )


@contextmanager
def _open(path: Path, key: str, coordinates: Coordinates | None = None) -> Iterator[Content]:
    """The features under a key, and their coordinates: from the same file, or from one of their own."""
    with open_h5(path) as file:
        data = numbers(file, key)
        corners = _corners(file.get("coords")) if coordinates is None else coordinates.corners()
        yield Content(coords=corners, vectors=lambda a, b: _rows(data, a, b))


def _corners(coords: Any) -> np.ndarray:
    """(n, 2) of coordinates whose further columns say how tiles were read; a slide vector has none."""
    there = coords is not None and coords.ndim == 2
    if there and (coords.dtype.kind not in "fiu" or len(coords) > MOST["tile"]):
        raise SlideError(
            f"coords holds {len(coords)} x {coords.dtype}; expected numbers, of at most {MOST['tile']} tiles"
        )
    return np.asarray(coords[:, :2]) if there else np.empty((0, 2), dtype=np.int64)


def _rows(data: Any, start: int, stop: int) -> np.ndarray:
    """(stop - start, c): rows of features, or that of a slide. One request: chunks of one row are slow one by one."""
    if data.ndim == 1:
        return np.asarray(data[...])[None]
    if data.ndim == 3 and data.shape[0] == 1:
        return np.asarray(data[0, start:stop])
    return np.asarray(data[start:stop]).reshape(stop - start, -1)


def _same_length(features: int, coords: int) -> None:
    if features != coords:
        raise SlideError(f"it has {features} feature vectors but {coords} coordinates")
