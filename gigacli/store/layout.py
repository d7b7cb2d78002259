"""Every path, dimension, dtype and fill value of a store: the only file that spells one.

The authority is ``spec/store-0.2.md``; a test keeps its tables, its JSON Schema and this file equal.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

FORMAT = "giga-cohort"
FORMAT_VERSION = "0.2"

NOT_DONE = -1  # fill value of the arrays that say what is done
UNPACKED = "unpacked"  # group, in one that is packed, of what was written since
AS_PACKED = -2  # fill value of its array that says what is done: the slide lies in the shards
AS_PACKED_TEXT = "packed"  # the same of reasons of failure
FEATURE_TILES_PER_CHUNK = 1024  # rows of un-augmented features in one chunk: a slide with few tiles stays a small file


@dataclass(frozen=True)
class ArraySpec:
    """Specification of an array of the store."""

    path: str  # path in the store; ``*`` stands for a name the user chose
    dims: tuple[str, ...]  # names of the dimensions. ``slide`` is row i of the slide table, everywhere
    dtype: str  # zarr data type
    fill: Any  # value of what was never written
    # ``"slide"``: one slide per chunk, so that processes may write different slides without a lock; ``"all"``: one
    # chunk; ``"table"``: blocks of rows, written by one process
    chunk: str
    compressed: bool = True  # whether chunks are compressed (zstd). Uncompressed chunks can be memory-mapped
    required: bool = True  # whether the array must be there when its group is
    whole: bool = False  # whether chunks are stored that hold nothing but the fill value: one that is missing is lost

    def matches(self, path: str) -> bool:
        """Whether a concrete path is an instance of this one."""
        return re.fullmatch(re.escape(self.path).replace(r"\*", "[^/]+"), path) is not None

    def chunks(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The chunk shape for an array of this shape."""
        if self.chunk == "all":
            return tuple(max(1, n) for n in shape)
        if self.chunk == "table":
            across = [max(1, n) for n in shape[1:]]
            rows = min(TABLE_ROWS_PER_CHUNK, max(1, TABLE_VALUES_PER_CHUNK // math.prod(across)))
            return (rows, *across)
        inner = [max(1, n) for n in shape[1:]]
        if self.dims[1:2] == ("tile",) and "feature" in self.dims:
            inner[0] = min(inner[0], FEATURE_TILES_PER_CHUNK)
        return (1, *inner)

    @property
    def column(self) -> bool:
        """Whether it has few values per slide: packed, these are a table and not shards."""
        return self.chunk == "slide" and self.dims in (("slide",), ("slide", "part"))

    @property
    def beside(self) -> ArraySpec:
        """Of the array for slides that were written since the group was packed."""
        fill = self.fill
        if self.dims == ("slide",):
            fill = AS_PACKED_TEXT if self.dtype == "string" else AS_PACKED
        return replace(self, path=beside(self.path), fill=fill, required=False)


def beside(path: str) -> str:
    """The path of the array, in a packed group, for slides that were written since, by that of the packed one."""
    group, _, name = path.rpartition("/")
    return f"{group}/{UNPACKED}/{name}"


TABLE_ROWS_PER_CHUNK = 4096
TABLE_VALUES_PER_CHUNK = 2**23  # of wide vectors fewer rows: a chunk is replaced as a whole
NAN = float("nan")
DRAWS = ("slide", "augmentation", "draw")
RESIDUALS = ("calibration_tile", "augmentation", "feature")
OPERATORS: dict[str, tuple[str, ...]] = {
    "feature_mean": ("feature",),
    "feature_sd": ("feature",),
    "whitening": ("feature", "value"),
    "centre": ("value",),
    "shift": ("augmentation", "value"),
    "left": ("value", "rank"),
    "core": ("augmentation", "rank", "rank_out"),
    "right": ("rank_out", "value"),
    "r2": ("augmentation", "score"),
}
"""Arrays of learnt operators, by name, and their dimensions."""

ARRAYS: tuple[ArraySpec, ...] = (
    ArraySpec("slides/id", ("slide",), "string", "", "table", whole=True),
    ArraySpec("slides/path", ("slide",), "string", "", "table", whole=True),
    ArraySpec("slides/patient", ("slide",), "string", "", "table", whole=True),
    ArraySpec("slides/vendor", ("slide",), "string", "", "table", whole=True),
    ArraySpec("slides/size_px", ("slide", "xy"), "int64", -1, "table", whole=True),
    ArraySpec("slides/mpp", ("slide",), "float64", NAN, "table", whole=True),
    ArraySpec("slides/mpp_source", ("slide",), "string", "", "table", whole=True),
    ArraySpec("slides/file_bytes", ("slide",), "int64", -1, "table", whole=True),
    ArraySpec("slides/modified_ns", ("slide",), "int64", -1, "table", whole=True),
    ArraySpec("slides/mask", ("slide",), "string", "", "table", whole=True),
    ArraySpec("tiles/coords", ("slide", "tile", "xy"), "int32", -1, "slide"),
    ArraySpec("tiles/tissue", ("slide", "tile"), "float32", NAN, "slide"),
    ArraySpec("tiles/identity", ("slide", "part"), "int64", NOT_DONE, "slide", compressed=False),
    ArraySpec("tiles/count", ("slide",), "int32", NOT_DONE, "slide", compressed=False),
    ArraySpec("encoders/*/weights", ("byte",), "uint8", 0, "all", compressed=False, required=False),
    ArraySpec("encoders/*/trained_on", ("slide",), "int64", NOT_DONE, "table", required=False, whole=True),
    ArraySpec("encoders/*/checkpoint", ("checkpoint_byte",), "uint8", 0, "all", compressed=False, required=False),
    ArraySpec("encoders/*/history/*", ("epoch",), "float32", NAN, "all", required=False, whole=True),
    ArraySpec("encoders/*/done", (), "int32", NOT_DONE, "all", compressed=False),
    ArraySpec("features/*/vectors", ("slide", "tile", "feature"), "float16", NAN, "slide", compressed=False),
    ArraySpec("features/*/done", ("slide",), "int64", NOT_DONE, "slide", compressed=False),
    ArraySpec("banks/*/vectors", (*DRAWS, "feature"), "float16", NAN, "slide", compressed=False),
    ArraySpec("banks/*/tile", DRAWS, "int32", -1, "slide"),
    ArraySpec("banks/*/calibrates", ("slide",), "int32", NOT_DONE, "table", required=False, whole=True),
    *(
        ArraySpec(f"banks/*/operators/{name}", dims, "float32", NAN, "all", required=False)
        for name, dims in OPERATORS.items()
    ),
    ArraySpec("banks/*/operators/residuals", RESIDUALS, "float16", NAN, "all", compressed=False, required=False),
    ArraySpec("banks/*/operators/residuals_first", ("piece",), "int64", NOT_DONE, "all", required=False),
    ArraySpec("banks/*/kept", ("slide",), "int64", NOT_DONE, "table", required=False),
    ArraySpec("banks/*/done", ("slide",), "int64", NOT_DONE, "slide", compressed=False),
    ArraySpec("models/*/weights", ("byte",), "uint8", 0, "all", compressed=False, required=False),
    ArraySpec("models/*/trained_on", ("slide",), "int64", NOT_DONE, "table", required=False, whole=True),
    ArraySpec("models/*/checkpoint", ("checkpoint_byte",), "uint8", 0, "all", compressed=False, required=False),
    ArraySpec("models/*/history/*", ("epoch",), "float32", NAN, "all", required=False, whole=True),
    ArraySpec("models/*/done", (), "int32", NOT_DONE, "all", compressed=False),
    ArraySpec("embeddings/*/vectors", ("slide", "feature"), "float32", NAN, "table"),
    ArraySpec("embeddings/*/augmented", ("slide", "augmentation", "feature"), "float32", NAN, "table", required=False),
    ArraySpec("embeddings/*/state", ("byte",), "uint8", 0, "all", compressed=False, required=False),
    ArraySpec("embeddings/*/done", ("slide",), "int64", NOT_DONE, "table", whole=True),
    ArraySpec("failures/*", ("slide",), "string", "", "slide"),
)

BESIDE: tuple[ArraySpec, ...] = tuple(spec.beside for spec in ARRAYS if spec.chunk == "slide")
"""Arrays of packed groups for slides that were written since."""

NAMED_GROUPS = ("encoders", "features", "banks", "models", "embeddings")
"""Groups that hold one group per name the user chose."""

STAGES = ("tile", "pretrain-tiles", "bank", "train", "embed", "probe", "import")

WRITTEN_BY = {
    "slides": "tile",
    "tiles": "tile",
    "encoders": "pretrain-tiles",
    "features": "bank",
    "banks": "bank",
    "models": "train",
    "embeddings": "embed",
}
"""Verb that writes a group, for hints of errors."""


@lru_cache(4096)
def is_beside(path: str) -> bool:
    """Whether the array at `path` is one for slides that were written since its group was packed."""
    return any(spec.matches(path) for spec in BESIDE)


@lru_cache(4096)
def spec_of(path: str) -> ArraySpec | None:
    """The specification of the array at `path`, or ``None`` for a path the format does not know."""
    if path == f"failures/{UNPACKED}":  # a group
        return None
    return next((spec for spec in (*ARRAYS, *BESIDE) if spec.matches(path)), None)


def as_stored(array: Any) -> Any:
    """An array as it is written: with chunks that hold only fill values where the format asks for them."""
    spec = spec_of(array.path)
    return array.with_config({"write_empty_chunks": True}) if spec is not None and spec.whole else array
