import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gigacli.errors import InvalidInput
from gigacli.wsi.grid import grid_capacity, tile_grid, tissue_fraction

sizes = st.tuples(st.integers(1, 900), st.integers(1, 900))
resolutions = st.floats(0.1, 4.0)


@st.composite
def grids(draw):
    tile_px = draw(st.integers(1, 120))
    size = draw(sizes)
    bounds = None
    if draw(st.booleans()):
        x, y = draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))
        bounds = (x, y, draw(st.integers(1, size[0])), draw(st.integers(1, size[1])))
    options = {
        "mpp": draw(resolutions),
        "slide_mpp": draw(resolutions),
        "tile_px": tile_px,
        "overlap_px": draw(st.integers(0, tile_px - 1)),
        "bounds_px": bounds,
    }
    step = (tile_px - options["overlap_px"]) * options["mpp"] / options["slide_mpp"]
    assume(step >= 1)
    assume((size[0] / step + 1) * (size[1] / step + 1) < 5000)
    return size, options


def brute_force(size_px, *, mpp, slide_mpp, tile_px, overlap_px, bounds_px):
    """Every position, one at a time, from the definition."""
    x, y, width, height = bounds_px or (0, 0, *size_px)
    right, bottom = min(x + width, size_px[0]), min(y + height, size_px[1])
    step, side = (tile_px - overlap_px) * mpp / slide_mpp, tile_px * mpp / slide_mpp
    found = []
    j = 0
    while (top := y + int(j * step + 0.5)) < bottom:
        i = 0
        while (left := x + int(i * step + 0.5)) < right:
            if left + side <= right + 1e-6 and top + side <= bottom + 1e-6:
                found.append((left, top))
            i += 1
        j += 1
    return found


@settings(deadline=None)
@given(grids())
def test_against_brute_force(grid):
    size, options = grid
    coords = tile_grid(size, **options)
    assert coords.dtype == np.int32
    assert coords.shape == (grid_capacity(size, **options), 2)
    assert [tuple(c) for c in coords.tolist()] == brute_force(size, **options)


@settings(deadline=None)
@given(grids())
def test_inside_ordered_and_disjoint(grid):
    size, options = grid
    coords = tile_grid(size, **options).astype(float)
    side = options["tile_px"] * options["mpp"] / options["slide_mpp"]
    assert (coords >= 0).all()
    assert (coords + side <= np.array(size) + 1e-6).all()
    assert [tuple(c) for c in coords] == sorted((tuple(c) for c in coords), key=lambda c: (c[1], c[0]))
    shared = options["overlap_px"] * options["mpp"] / options["slide_mpp"]
    for axis in (0, 1):
        gaps = np.diff(np.unique(coords[:, axis]))
        assert (np.abs(gaps - (side - shared)) < 1 + 1e-6).all()  # apart by the step up to the rounding of two corners


def test_corners_do_not_drift():
    coords = tile_grid((100_000, 300), mpp=1.0, slide_mpp=0.4990, tile_px=100)
    step = 100 / 0.499
    assert np.abs(coords[:, 0] - np.arange(len(coords)) * step).max() <= 0.5


def test_a_slide_of_whole_tiles_is_covered():
    coords = tile_grid((2048, 1024), mpp=1.0, slide_mpp=0.5, tile_px=256)
    assert coords.tolist() == [[x, y] for y in (0, 512) for x in (0, 512, 1024, 1536)]
    # 30 * (0.01 / 0.03) is a little more than 10 in floats: no reason to lose the last tile.
    assert len(tile_grid((10, 10), mpp=0.01, slide_mpp=0.03, tile_px=30)) == 1


def test_too_small_a_slide_has_no_tiles():
    assert tile_grid((511, 4000), mpp=1.0, slide_mpp=0.5, tile_px=256).shape == (0, 2)
    assert grid_capacity((511, 4000), mpp=1.0, slide_mpp=0.5, tile_px=256) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"overlap_px": 256}, "overlap by 256 px; expected 0 to 255"),
        ({"overlap_px": -1}, "overlap by -1"),
        ({"tile_px": 0}, "tile_px is 0"),
        ({"mpp": -1.0}, "mpp is -1"),
        ({"mpp": float("nan")}, "mpp is nan"),
        ({"slide_mpp": 0.0}, "slide_mpp is 0"),
        ({"overlap_px": 255, "mpp": 0.24}, "0.96 pixels of the slide apart"),
    ],
)
def test_refusals(change, words):
    options = {"mpp": 1.0, "slide_mpp": 0.25, "tile_px": 256, **change}
    with pytest.raises(InvalidInput, match=words):
        tile_grid((5000, 5000), **options)
    with pytest.raises(InvalidInput, match=words):
        grid_capacity((5000, 5000), **options)


@st.composite
def fractions(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = rng.random(draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))) < 0.5
    coords = rng.integers(-30, 90, (4, 2)).astype(np.int32)
    options = {
        "mask_mpp": draw(st.floats(2.0, 8.0)),
        "mpp": draw(st.floats(0.5, 2.0)),
        "slide_mpp": draw(st.floats(0.5, 2.0)),
        "tile_px": draw(st.integers(1, 30)),
        "origin_px": (int(rng.integers(-20, 20)), int(rng.integers(-20, 20))),
    }
    return mask, coords, options


@settings(deadline=None)
@given(fractions())
def test_fraction_against_supersampling(case):
    mask, coords, options = case
    found = tissue_fraction(mask, coords, **options)
    assert found.dtype == np.float32
    n = 400
    grid = (np.arange(n) + 0.5) / n * options["tile_px"] * options["mpp"] / options["slide_mpp"]
    scale = options["slide_mpp"] / options["mask_mpp"]
    for (x, y), value in zip(coords, found, strict=True):
        column = np.floor((x + grid - options["origin_px"][0]) * scale).astype(int)
        row = np.floor((y + grid - options["origin_px"][1]) * scale).astype(int)
        inside = ((row >= 0) & (row < mask.shape[0]))[:, None] & ((column >= 0) & (column < mask.shape[1]))
        hit = mask[row.clip(0, mask.shape[0] - 1)[:, None], column.clip(0, mask.shape[1] - 1)] & inside
        # A border of the mask falls between two samples: at most one row and column of n per mask pixel crossed.
        crossed = 2 + 2 * grid[-1] * scale
        assert value == pytest.approx(hit.mean(), abs=crossed / n)


def test_fractions_meet_their_thresholds_exactly():
    mask = np.zeros((40, 40), bool)
    mask[:, :20] = True  # left of level-0 pixel 320
    coords = np.array([[0, 0], [160, 0], [320, 0], [80, 160]], np.int32)
    resolution = {"mask_mpp": 4.0, "slide_mpp": 0.25}
    assert tissue_fraction(mask, coords, mpp=0.5, tile_px=80, **resolution).tolist() == [1.0, 1.0, 0.0, 1.0]
    assert tissue_fraction(mask, coords[1:2] + 80, mpp=0.5, tile_px=80, **resolution).tolist() == [0.5]
    third = tissue_fraction(mask, np.array([[320 - 33, 7]], np.int32), mpp=0.25, tile_px=99, **resolution)
    assert third[0] == np.float32(1 / 3)
    assert (tissue_fraction(np.ones((40, 40), bool), coords, mpp=0.5, tile_px=77, **resolution) == 1).all()


def test_fraction_of_no_tiles_and_of_no_mask():
    nothing = np.empty((0, 2), np.int32)
    options = {"mask_mpp": 8.0, "mpp": 1.0, "slide_mpp": 0.5, "tile_px": 256}
    assert tissue_fraction(np.ones((3, 3), bool), nothing, **options).shape == (0,)
    with pytest.raises(InvalidInput, match="mask of shape"):
        tissue_fraction(np.ones((0, 3), bool), nothing, **options)
    with pytest.raises(InvalidInput, match="mask_mpp is 0"):
        tissue_fraction(np.ones((3, 3), bool), nothing, **{**options, "mask_mpp": 0.0})
