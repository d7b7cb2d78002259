"""Exact area averages: what a picture is at a lower resolution, with fractional positions and scales."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STRIP_ROWS = 32  # averaged at a time, so that what is averaged stays in the processor's cache
_TINY_PX = 1e-6  # of a pixel: rounding, not a fraction


def area_average(
    picture: NDArray[np.uint8],
    spans: tuple[tuple[float, float], tuple[float, float]],
    *,
    step: tuple[float, float],
    shape: tuple[int, int],
) -> NDArray[np.uint8]:
    """Average a picture down to a lower resolution.

    Pixel (row r, column c) averages the rectangle of `step` whose top-left corner is ``begin + (c, r) * step``. Pixels
    of the picture are squares of one colour; nothing beyond the end of a span counts, and a pixel that lies beyond it
    has the colour of the last one before it.

    Args:
        picture: (n, m, 3), RGB.
        spans: Begin and end along x and y in pixels of the picture, fractions allowed.
        step: Width and height of a pixel of the result in pixels of the picture.
        shape: Rows and columns of the result.

    Returns:
        uint8 (rows, columns, 3), rounded to whole grey levels.
    """
    if _is_simple(spans[0], step[0]) and _is_simple(spans[1], step[1]):
        return _reduce(picture[: round(spans[1][1]), : round(spans[0][1])], (round(step[0]), round(step[1])), shape)
    columns = _pixels(spans[0], step=step[0], count=shape[1])
    rows = _pixels(spans[1], step=step[1], count=shape[0])
    result = np.empty((*shape, 3), np.uint8)
    for top in range(0, shape[0], _STRIP_ROWS):
        low = rows.of(picture, top, top + _STRIP_ROWS)  # (strip, m, 3)
        low = columns.of(np.ascontiguousarray(low.transpose(1, 0, 2)))  # (columns, strip, 3)
        result[top : top + _STRIP_ROWS] = (low + np.float32(0.5)).transpose(1, 0, 2)
    return result


def _is_simple(span: tuple[float, float], step: float) -> bool:
    """Whether every pixel of the result stands for 1, 2, 4, ... whole pixels.

    Other numbers Pillow does not divide by exactly: it rounds a half now up, now down.
    """
    numbers = (span[0], span[1] - round(span[1]), step - round(step))
    return round(step).bit_count() == 1 and all(abs(number) < _TINY_PX for number in numbers)


def _reduce(picture: NDArray[np.uint8], step: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Average by whole factors with Pillow, several times as fast."""
    low = picture if step == (1, 1) else np.asarray(Image.fromarray(picture).reduce(step))
    low = low[: shape[0], : shape[1]]
    lacking = ((0, shape[0] - low.shape[0]), (0, shape[1] - low.shape[1]), (0, 0))
    return np.pad(low, lacking, mode="edge") if low.shape[:2] != shape else low


def _pixels(span: tuple[float, float], *, step: float, count: int) -> Averages:
    """Averages of `count` pixels of `step` rows each from ``span[0]`` on; nothing beyond ``span[1]`` counts."""
    begin, end = span
    edges = np.minimum(begin + step * np.arange(count + 1), end)
    lower = np.minimum(edges[:-1], end - 1e-3)  # a last row that has lost its sliver still has a colour
    return Averages(lower, np.maximum(edges[1:], lower + 1e-3), longest=step)


class Averages:
    """Area averages along axis 0: row i of the result averages the rows from ``lower[i]`` to ``upper[i]``.

    Pixels are squares of one colour. (Pillow's BOX filter takes or leaves whole pixels, which is exact for whole
    factors only.)

    Args:
        lower: (count,) begin of each row of the result, in rows of the picture, fractions allowed.
        upper: (count,) its end.
        longest: The largest distance between them.
    """

    def __init__(self, lower: NDArray[np.float64], upper: NDArray[np.float64], *, longest: float) -> None:
        index = np.floor(lower).astype(np.int64)[:, None] + np.arange(math.ceil(longest) + 1)  # (count, taps)
        weight = np.maximum(np.minimum(upper[:, None], index + 1) - np.maximum(lower[:, None], index), 0)
        self._index = index
        self._weight = (weight / weight.sum(1, keepdims=True)).astype(np.float32)

    def of(
        self, pixels: NDArray[np.uint8 | np.float32 | np.bool_], first: int = 0, last: int | None = None
    ) -> NDArray[np.float32]:
        """Rows `first` to `last` of the averages of (n, m, ...) pixels of any number type: float32 (rows, m, ...)."""
        weight = self._weight[first:last]
        index = np.minimum(self._index[first:last], len(pixels) - 1)
        flat = pixels.reshape(len(pixels), -1)  # (n, m*3)
        result = np.zeros((len(index), flat.shape[1]), np.float32)
        for tap in np.flatnonzero(weight.any(0)):
            result += np.multiply(flat[index[:, tap]], weight[:, tap, None], dtype=np.float32)
        return result.reshape(-1, *pixels.shape[1:])
