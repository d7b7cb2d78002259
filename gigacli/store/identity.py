"""Identity of a slide: hashes of what its results are made from, which everything made from it repeats.

The authority is ``spec/store-0.2.md``, section "Identity".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

PARTS = ("all", "tiles", "mask", "file")
"""What the columns of ``tiles/identity`` are hashes of; the first is of the other three."""

ALL, TILES, MASK, FILE = range(len(PARTS))
UNKNOWN = 0
"""Of a mask where none was given, of a file that was not looked at, and of a result that is not made from tiles."""


def digest(parts: Iterable[bytes]) -> int:
    """The first 63 bits of the SHA-256 of bytes, one after the other; 1 where these are all 0."""
    made = hashlib.sha256()
    for part in parts:
        made.update(part)
    return max(1, int.from_bytes(made.digest()[:8], "big") >> 1)


def identity_of(
    coords: NDArray[np.int32], tissue: NDArray[np.floating] | None, *, mask: int, file: int
) -> NDArray[np.int64]:
    """The identity of a slide, one value for each of :data:`PARTS`.

    Args:
        coords: (n, 2) corners of its tiles, level-0 px.
        tissue: (n,) share of tissue; None where it is not known.
        mask: Hash of its tissue mask, :data:`UNKNOWN` where it has none.
        file: Hash of its file, :data:`UNKNOWN` where it was not looked at.
    """
    shares = np.full(len(coords), np.nan) if tissue is None else tissue
    known = np.where(np.isnan(shares), np.nan, shares).astype("<f4")  # one NaN of the many there are
    tiles = digest([np.ascontiguousarray(coords, dtype="<i4").tobytes(), known.tobytes()])
    parts = np.array([tiles, mask, file], dtype="<i8")
    return np.array([digest([parts.tobytes()]), *parts.tolist()], dtype=np.int64)
