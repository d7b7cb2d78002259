"""Features in the stores of LazySlide and wsidata: SpatialData in zarr v3, one store per slide.

``tables/<model>_<tiles>`` is AnnData: X (tiles, values), obs/tile_id, and the name of its tiles in the attribute
`region`. ``shapes/<tiles>`` is GeoParquet: squares in level-0 pixels, and the column tile_id, which LazySlide leaves
out where it cut the whole slide: tiles are then numbered as they stand. The root's attributes say the rest:
``tile_spec`` per name of tiles, and ``slide_properties``. Only these are read; spatialdata is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import SlideError, from_clone
from gigacli.importing.feature_set import UNKNOWN_SIZE, Content, FeatureSet, NoFeatures, number
from gigacli.store.bounds import MOST
from gigacli.store.folder import Folder

POLYGON, POLYGON_BYTES = 3, 13
"""A polygon's kind in well-known binary, and its bytes before the points of the first ring."""


def look_into(path: Path) -> list[FeatureSet]:
    """All tables of tile features in a store.

    Raises:
        NoFeatures: It holds none.
        OSError: It cannot be read.
    """
    root, specs = _open(path)
    found = []
    for name, table in root["tables"].groups() if "tables" in root else ():
        tiles = table.attrs.get("region")
        if isinstance(tiles, str) and tiles in specs and "X" in table and f"shapes/{tiles}" in root:
            encoder = name.removesuffix(f"_{tiles}")
            found.append(_found(path, table, tiles, encoder, specs[tiles], root.attrs.get("slide_properties", {})))
    if not found:
        raise NoFeatures("none of its tables belongs to tiles")
    return found


def look_for_tiles(path: Path) -> list[FeatureSet]:
    """All tilings of a slide in a store, as feature sets without features.

    Raises:
        NoFeatures: It holds none.
        OSError: It cannot be read.
        SlideError: Tiles are no squares.
    """
    root, specs = _open(path)
    found = []
    for tiles, spec in specs.items():
        if f"shapes/{tiles}" in root:
            corners = corners_of(path / "shapes" / tiles / "shapes.parquet", None)
            said = _of_tiles(spec, root.attrs.get("slide_properties", {}))
            read = partial(_without_features, corners)
            found.append(
                FeatureSet(
                    id=path.stem, path=path, encoder="", tiles=len(corners), width=0, read=read, part=tiles, **said
                )
            )
    if not found:
        raise NoFeatures("it has no shapes of tiles")
    return found


@contextmanager
def _without_features(corners: NDArray[np.float64]) -> Iterator[Content]:
    yield Content(coords=corners, vectors=lambda a, b: np.empty((b - a, 0), dtype=np.float16))


def _open(path: Path) -> tuple[Any, dict[str, Any]]:
    """The root of a store, and how its tiles were cut, by their name."""
    import zarr

    try:
        storage = Folder(path, read_only=True)
        root: Any = zarr.open_group(storage, mode="r", zarr_format=3, use_consolidated=False)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise NoFeatures(f"it is no zarr v3 group: {error}") from error
    specs = root.attrs.get("tile_spec")
    if not isinstance(specs, dict):
        raise NoFeatures("it has no attribute tile_spec")
    return root, specs


def _found(path: Path, table: Any, tiles: str, encoder: str, spec: dict[str, Any], slide: dict[str, Any]) -> FeatureSet:
    values = table["X"]
    if not hasattr(values, "shape") or len(values.shape) != 2:
        raise SlideError(f"the features of {encoder} are not a dense matrix")
    if table["obs/tile_id"].shape != values.shape[:1]:
        raise SlideError(f"it has {values.shape[0]} feature vectors but {table['obs/tile_id'].shape} ids of tiles")

    @contextmanager
    def read() -> Iterator[Content]:
        corners = corners_of(path / "shapes" / tiles / "shapes.parquet", table["obs/tile_id"][:])
        yield Content(coords=corners, vectors=lambda a, b: np.asarray(values[a:b]))

    return FeatureSet(
        id=path.stem,
        path=path,
        encoder=encoder,
        tiles=int(values.shape[0]),
        width=int(values.shape[1]),
        read=read,
        **_of_tiles(spec, slide),
    )


def _of_tiles(spec: dict[str, Any], slide: dict[str, Any]) -> dict[str, Any]:
    """What is said of tiles and their slide: fields of :class:`FeatureSet`."""
    if spec["height"] != spec["width"]:
        raise SlideError(f"its tiles are {spec['width']} x {spec['height']} px; expected squares")
    tile_px, down = float(spec["width"]), number(spec, "base_downsample") or 1.0
    size = slide.get("shape")  # height, width
    return {
        "tool": "wsidata",
        "tile_px": tile_px,
        "mpp": number(spec, "mpp"),
        "edge_px": float(int(tile_px * down)),
        "overlap_px": max(0.0, tile_px - float(spec["stride_width"])),
        "slide_mpp": number(slide, "mpp"),
        "size_px": (int(size[1]), int(size[0])) if size else UNKNOWN_SIZE,
    }


def corners_of(file: Path, wanted: NDArray[Any] | None) -> NDArray[np.float64]:
    """(n, 2): corners of the tiles with these ids, in their order; of all tiles where none are named.

    Raises:
        SlideError: A tile is not among the shapes, or they are no polygons.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SlideError("its tiles are GeoParquet, which needs pyarrow", from_clone("parquet")) from error
    about = parquet.ParquetFile(file)
    if (rows := about.metadata.num_rows) > MOST["tile"]:
        raise SlideError(f"its shapes are {rows} tiles; at most {MOST['tile']} are read")
    columns = [name for name in ("tile_id", "geometry") if name in about.schema_arrow.names]
    held = about.read(columns=columns).to_pydict()
    corners = np.array([_corner(shape) for shape in held["geometry"]], dtype=np.float64).reshape(-1, 2)
    if wanted is None:
        return corners
    row = {tile: i for i, tile in enumerate(held.get("tile_id", range(rows)))}
    missing = [tile for tile in wanted.tolist() if tile not in row]
    if missing:
        raise SlideError(f"{len(missing)} of its tiles, such as {missing[0]}, are not among its shapes")
    return corners[[row[tile] for tile in wanted.tolist()]]


def _corner(shape: Any) -> NDArray[np.float64]:
    """Least x and y of a polygon in well-known binary: byte order, kind, number of rings, then the points of each."""
    if isinstance(shape, bytes) and len(shape) >= POLYGON_BYTES:
        order = "<" if shape[0] else ">"
        kind, rings, points = np.frombuffer(shape, f"{order}u4", count=3, offset=1)
        if (kind, rings) == (POLYGON, 1) and len(shape) == POLYGON_BYTES + 16 * int(points) and points:
            ring = np.frombuffer(shape, f"{order}f8", offset=POLYGON_BYTES).reshape(-1, 2)
            least: NDArray[np.float64] = ring.min(axis=0)
            return least
    raise SlideError("the shapes of its tiles are not polygons of one ring", "tile the slide again with LazySlide")
