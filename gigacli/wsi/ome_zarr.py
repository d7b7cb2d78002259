"""OME-Zarr 0.4 and 0.5: a slide that is a folder, with an array per level (https://ngff.openmicroscopy.org).

This is the only module of pixels that knows zarr, and the store's way to look at chunks before they are unpacked: a
slide may come from strangers, too.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from gigacli.errors import Mismatch, SlideError
from gigacli.store.bounds import MOST_DOCUMENT_BYTES, MOST_UNPACKED_BYTES, ChunkBounds, check_chunk
from gigacli.store.folder import Folder
from gigacli.wsi.advice import COPY
from gigacli.wsi.ome import MICRONS, are_stains
from gigacli.wsi.pyramid import Pyramid
from gigacli.wsi.tile_level import TileLevel

METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
"""Files that say what a folder of zarr holds, of version 3 and of version 2."""

_LAYOUT = "bioformats2raw.layout"  # of a folder whose images are called 0, 1, ...
_SAMPLED = 18  # chunks of the first level that stand for all
_RGB = ("FF0000", "00FF00", "0000FF")
_PACKINGS = {"Zstd": "zstd", "GZip": "gzip", "Blosc": "blosc", "Zlib": "zlib"}
"""Compressions of zarr 2 that are read, by their classes in numcodecs."""

_RENDER = "Slides are read in red, green and blue of 8 bits, or grey: write it so."


def is_image(folder: Path) -> bool:
    """Whether a folder is an OME-Zarr image, or a series of them as bioformats2raw writes it."""
    said = _said(folder)
    return "multiscales" in said or _LAYOUT in said


def open_zarr(path: Path, *, mpp: float | None = None, upsample: bool = False) -> Pyramid:
    """Open an OME-Zarr image; arguments and errors are those of :class:`~gigacli.wsi.slide.Slide`.

    Of several images in one folder it is the first, which bioformats2raw makes the slide; others are its label and an
    overview. Chunks that are not there have the value that the array gives them, as zarr wants it.
    """
    folder = _image_of(path)
    said = _said(folder)
    try:
        about = said["multiscales"][0]
        axes = [axis["name"] for axis in about["axes"]]
        arrays = [_array(folder, one["path"]) for one in about["datasets"]]
        colours = [str(channel.get("color", "")).upper() for channel in said.get("omero", {}).get("channels", [])]
        names = [str(channel.get("label", "")) for channel in said.get("omero", {}).get("channels", [])]
        resolution = _resolution(about)
    except Exception as error:  # of JSON, of a missing array, of a codec that zarr does not know
        raise SlideError(f"{path} is no OME-Zarr image that can be read: {error!r}", COPY) from error
    if not arrays or any(array.ndim != len(axes) for array in arrays) or axes[-2:] != ["y", "x"]:
        raise SlideError(f"{path} has {len(arrays)} levels with the axes {axes}; expected axes that end in y, x", COPY)
    first = dict(zip(axes, arrays[0].shape, strict=True))
    if deep := [f"{first[axis]} along {axis}" for axis in axes[:-2] if axis != "c" and first[axis] != 1]:
        raise SlideError(f"{path} is a stack, {' and '.join(deep)}; expected one image", _RENDER)
    channels = first.get("c", 1)
    coloured = len(set(colours)) > 1 or are_stains(names)
    if channels not in (1, 3) or (channels == 3 and coloured and tuple(colours) != _RGB):
        named = f": {', '.join(names)}" if any(names) else ""
        named += f", coloured {', '.join(colours)}" if any(colours) else ""
        raise SlideError(f"{path} has {channels} channels{named}; expected red, green and blue", _RENDER)
    for array in arrays:
        if array.dtype != np.uint8:
            raise SlideError(f"{path} has values of the type {array.dtype}; expected uint8", _RENDER)
        if math.prod(array.chunks) > MOST_UNPACKED_BYTES or 0 in array.shape:
            raise SlideError(
                f"{path} has an array of {array.shape} in chunks of {array.chunks}; expected at most "
                f"{MOST_UNPACKED_BYTES} bytes a chunk",
                "Write it in smaller chunks, such as 512 x 512.",
            )
        if array.metadata.zarr_format == 2 and _packing(array) is None:
            named = ", ".join(type(one).__name__ for one in (*array.filters, *array.compressors))
            raise SlideError(f"{path} is packed with {named}; expected one of {', '.join(_PACKINGS)}", "Write it so.")
    levels: list[TileLevel] = [_ZarrLevel(folder, array, axes) for array in arrays]
    return Pyramid(path, levels, vendor="ome-zarr", properties=resolution, mpp=mpp, upsample=upsample)


def _array(folder: Path, name: str) -> Any:
    """Open an array; of zarr 3 the storage looks at what it reads."""
    version: Literal[2, 3] = 3 if (folder / name / "zarr.json").exists() else 2
    return zarr.open_array(Folder(folder, read_only=True), path=name, mode="r", zarr_format=version)


def _packing(array: Any) -> str | None:
    """How chunks of zarr 2 are compressed, "" where they are not; None where it is unknown, and may run code."""
    names = [_PACKINGS.get(type(one).__name__) for one in array.compressors] or [""]
    return names[0] if len(names) == 1 and not array.filters else None


class _ZarrLevel(TileLevel):
    """A level whose tiles are the chunks of an array."""

    def __init__(self, folder: Path, array: Any, axes: list[str]) -> None:
        height, width = array.shape[-2:]
        super().__init__((width, height), (min(width, array.chunks[-1]), min(height, array.chunks[-2])))
        self._folder, self._array = folder / array.path, array
        self._before = tuple(slice(None) if axis == "c" else 0 for axis in axes[:-2])

    def _decode(self, number: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        row, column = divmod(number, self._across)
        width, height = self.tile_px
        rows, columns = slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width)
        try:
            if self._array.metadata.zarr_format == 2:
                self._look_at(row, column)
            pixels = np.asarray(self._array[(*self._before, rows, columns)])  # (c, h, w), or (h, w)
        except OSError:
            raise
        except Exception as error:  # damage may raise anything: every codec has errors of its own
            raise ValueError(str(error)) from error
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels.transpose(1, 2, 0)
        out = np.empty(self._shape, np.uint8) if out is None else out
        out[: pixels.shape[0], : pixels.shape[1]] = pixels
        return out

    def _look_at(self, row: int, column: int) -> None:
        """Refuse chunks of zarr 2 that would become larger than they may be."""
        array, most = self._array, math.prod(self._array.chunks)
        packing = _packing(array) or ""
        before = [-(-n // step) for n, step in zip(array.shape[:-2], array.chunks[:-2], strict=True)]
        for place in np.ndindex(*before):
            file = self._folder / array.metadata.encode_chunk_key((*place, row, column))
            if not file.exists():
                continue
            bounds = ChunkBounds(most, 0, "" if packing == "zlib" else packing, 0, 0)
            if not file.is_file() or file.stat().st_size > bounds.stored_bytes + most // 128 + 1024:
                raise Mismatch(f"{file} is longer than a chunk may be")
            data = file.read_bytes()
            if packing == "zlib":
                data = zlib.decompressobj().decompress(data, most + 1)
            check_chunk(file.name, memoryview(data), bounds)


def files_that_tell(path: Path) -> list[Path]:
    """Return files that tell one OME-Zarr image from another: all that describe it, and some chunks of its first level.

    A slide may have a million chunks; that is why it is not all of them.
    """
    folder = _image_of(path)
    folders, found = dict.fromkeys((path, folder)), list[Path]()
    try:
        names = [one["path"] for one in _said(folder)["multiscales"][0]["datasets"]]
        datasets, array = [folder / name for name in names], _array(folder, names[0])
        grid = [-(-n // step) for n, step in zip(array.shape, array.shards or array.chunks, strict=True)]
        last = math.prod(grid) - 1
        for number in sorted({last * i // (_SAMPLED - 1) for i in range(_SAMPLED)}):
            place = tuple(int(i) for i in np.unravel_index(number, grid))
            found.append(datasets[0] / array.metadata.encode_chunk_key(place))
    except Exception:  # what cannot be read is said when it is opened
        datasets = []
    described = [one / name for one in (*folders, *datasets) for name in METADATA]
    return [file for file in (*described, *found) if file.is_file()]


def _image_of(path: Path) -> Path:
    return path / "0" if _LAYOUT in _said(path) and "multiscales" not in _said(path) else path


def _said(folder: Path) -> dict[str, Any]:
    """Return what a folder says of OME, in version 0.5 or before; nothing where it is no zarr."""
    for name in ("zarr.json", ".zattrs"):
        file = folder / name
        try:
            if not file.is_file() or file.stat().st_size > MOST_DOCUMENT_BYTES:
                continue
            said = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if name == "zarr.json":
            said = said.get("attributes", {}).get("ome", {}) if isinstance(said, dict) else {}
        return said if isinstance(said, dict) else {}
    return {}


def _resolution(about: dict[str, Any]) -> dict[str, str]:
    """Microns per pixel of the first level, where its axes say in what they are measured."""
    scale = np.ones(len(about["axes"]))
    for source in (about["datasets"][0], about):
        for step in source.get("coordinateTransformations", []):
            if step["type"] == "scale":
                scale = scale * np.array(step["scale"], np.float64)
    microns = {
        axis["name"]: float(size) * MICRONS[axis["unit"]]
        for axis, size in zip(about["axes"], scale, strict=True)
        if axis.get("unit") in MICRONS
    }
    return {f"ome.mpp-{axis}": repr(microns[axis]) for axis in "xy" if axis in microns}
