"""Augmentation against the naive chain of single steps, torch's resize, kornia's filters and pixel formulas."""

from dataclasses import fields, replace

import kornia
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gigacli.nn.augment import MOCO, SHARED, _Axis, draw_augmentation, fold, output_px, unchanged
from gigacli.nn.augment import augment as augment_folded

SEEDS = st.integers(0, 2**32 - 1)
TILE_PX = 64


def tiles_of(seed, n, tile_px=TILE_PX):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, tile_px, tile_px), dtype=torch.uint8, generator=generator)


def nothing(tile_px=TILE_PX, **changes):
    """One set that changes nothing but what is given."""
    return replace(unchanged(tile_px), **{name: np.array([value]) for name, value in changes.items()})


def drawn(seed, n=1, tile_px=TILE_PX, stain=0.0):
    strengths = replace(SHARED, stain=stain)
    return draw_augmentation(np.random.default_rng(seed), n, tile_px=tile_px, strengths=strengths)


def augment(tiles, parameters, *, out_px, **options):
    folded = fold(parameters, tile_px=tiles.shape[-1], out_px=out_px, device=torch.device("cpu"))
    return augment_folded(tiles, folded, **options)


# Oracles: images are (3, h, w) float64 in [0, 1]; none of these clamps.


def luma_of(x):
    return 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]


def resized(x, crop, out_px):
    top, left, height, width = (int(v) for v in crop)
    cut = x[None, :, top : top + height, left : left + width]
    return F.interpolate(cut, size=(out_px, out_px), mode="bilinear", align_corners=False)[0]


def blurred(x, sigma):
    """A direct 5x5 convolution with mirrored borders."""
    if sigma == 0:
        return x
    weights = torch.exp(-0.5 * (torch.arange(-2, 3, dtype=x.dtype) / sigma) ** 2)
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    return F.conv2d(F.pad(x[:, None], (2, 2, 2, 2), mode="reflect"), kernel[None, None])[:, 0]


def hue_rotated(x, turns):
    """Pixel by pixel: the chroma I + iQ as a complex number, times exp(2 pi i turns)."""
    yiq = torch.tensor(
        [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]], dtype=x.dtype
    )
    y, i, q = (yiq @ x.flatten(1)).unbind()
    chroma = torch.complex(i, q) * complex(np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns))
    return torch.linalg.solve(yiq, torch.stack([y, chroma.real, chroma.imag])).view_as(x)


def hue_rotated_by_definition(x, turns):
    """The same without YIQ's published constants, from what defines them.

    I and Q are the NTSC colour differences V = 0.877283 (R-Y) and U = 0.492111 (B-Y), their axes turned by 33 degrees.
    A rotation of the plane does not see how its axes lie, so U and V serve as well.
    """
    y = luma_of(x)
    v, u = 0.877283 * (x[0] - y), 0.492111 * (x[2] - y)
    c, s = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    v, u = c * v - s * u, s * v + c * u
    red, blue = y + v / 0.877283, y + u / 0.492111
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    return torch.stack([red, green, blue])


def restained(x, stain):
    """Pixel by pixel, from the definition: densities to base 10, concentrations, jittered, and back to light."""
    factor, amount = stain
    vectors = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    vectors /= np.sqrt((vectors**2).sum(axis=1))[:, None]
    density = -np.log10(np.maximum(x.numpy(), 1 / 255)).reshape(3, -1)  # (channel, pixel)
    concentration = np.linalg.solve(vectors.T, density)  # (stain, pixel)
    concentration = factor[:, None] * concentration + amount[:, None]
    return torch.from_numpy(np.minimum(10 ** -(vectors.T @ concentration), 1)).view_as(x)


def one_by_one(tile, p, i, out_px):
    """The chain as it is written down: each step by itself."""
    x = resized(tile.double() / 255, p.crop[i], out_px)
    x = x.flip(1) if p.flip[i, 0] else x
    x = x.flip(2) if p.flip[i, 1] else x
    x = blurred(x, p.blur_px[i])
    x = torch.rot90(x, int(p.quarter_turns[i]), (1, 2))
    x = restained(x, p.stain[i]) if (p.stain[i] != [[1], [0]]).any() else x
    x = p.brightness[i] * x
    x = p.contrast[i] * x + (1 - p.contrast[i]) * luma_of(x).mean()
    x = p.saturation[i] * x + (1 - p.saturation[i]) * luma_of(x)
    x = hue_rotated(x, p.hue[i])
    x = luma_of(x).expand(3, -1, -1) if p.gray[i] else x
    return x.clamp(0, 1)


def assert_close(actual, expected, atol):
    torch.testing.assert_close(actual.double(), expected.double(), atol=atol, rtol=0)


# Single steps.


def test_nothing_to_do_gives_the_tile_back():
    tiles = tiles_of(0, 2)
    assert_close(augment(tiles, nothing(), out_px=TILE_PX), tiles / 255, 1e-6)


@given(SEEDS, st.integers(16, 80), st.data())
@settings(max_examples=40, deadline=None)
def test_crop_and_resize_is_torchs_bilinear_interpolation(seed, tile_px, data):
    top, left = (data.draw(st.integers(0, tile_px - 1)) for _ in range(2))
    height, width = (data.draw(st.integers(1, tile_px - start)) for start in (top, left))
    out_px = data.draw(st.integers(8, 90))
    crop = (top, left, height, width)
    tiles = tiles_of(seed, 2, tile_px)
    expected = torch.stack([resized(tile.double() / 255, crop, out_px) for tile in tiles])
    assert_close(augment(tiles, nothing(tile_px, crop=crop), out_px=out_px), expected, 1e-5)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [(False, False), (True, False), (False, True), (True, True)])
def test_flips_then_quarter_turns(flip, turns):
    tiles = tiles_of(1, 2)
    expected = tiles.flip([d for d, on in zip((2, 3), flip, strict=True) if on])
    expected = torch.rot90(expected, turns, (2, 3)) / 255
    assert_close(augment(tiles, nothing(flip=flip, quarter_turns=turns), out_px=TILE_PX), expected, 1e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.33, 0.7, 1.0])
def test_blur_is_kornias_gaussian_with_mirrored_borders(sigma):
    tiles = tiles_of(2, 2)
    expected = kornia.filters.gaussian_blur2d(tiles / 255, (5, 5), (sigma, sigma), border_type="reflect")
    assert_close(augment(tiles, nothing(blur_px=sigma), out_px=TILE_PX), expected, 1e-4)


COLOUR_STEPS = {
    "brightness": kornia.enhance.adjust_brightness_accumulative,
    "contrast": kornia.enhance.adjust_contrast_with_mean_subtraction,
    "saturation": kornia.enhance.adjust_saturation_with_gray_subtraction,
}


@pytest.mark.parametrize("factor", [0.6, 0.9, 1.0, 1.4])
@pytest.mark.parametrize("step", COLOUR_STEPS)
def test_colour_jitter_is_kornias_but_for_hue(step, factor):
    tiles = tiles_of(3, 3)
    expected = COLOUR_STEPS[step](tiles / 255, factor)
    assert_close(augment(tiles, nothing(**{step: factor}), out_px=TILE_PX), expected, 1e-5)


def test_gray_is_the_luma_in_every_channel():
    tiles = tiles_of(4, 2)
    expected = kornia.color.rgb_to_grayscale(tiles / 255).expand(-1, 3, -1, -1)
    assert_close(augment(tiles, nothing(gray=True), out_px=TILE_PX), expected, 1e-5)


@pytest.mark.parametrize("turns", [-0.2, -0.07, 0.1, 0.2, 0.5])
def test_hue_is_a_rotation_of_the_chroma_of_every_pixel(turns):
    tiles = tiles_of(5, 2)
    result = augment(tiles, nothing(hue=turns), out_px=TILE_PX)
    # the constants of YIQ are published with six digits, the angle of 33 degrees with two
    for oracle, atol in ((hue_rotated, 1e-5), (hue_rotated_by_definition, 2e-3)):
        assert_close(result, torch.stack([oracle(tile.double() / 255, turns) for tile in tiles]).clamp(0, 1), atol)


def test_hue_keeps_luma_where_hsv_keeps_the_brightest_channel():
    """The documented difference from kornia, whose ColorJitter turns the hue in HSV."""
    pixel = torch.tensor([150, 110, 140], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    ours = augment(pixel, nothing(16, hue=0.1), out_px=16)[0, :, 8, 8]
    theirs = kornia.enhance.adjust_hue(pixel / 255, 0.1 * 2 * np.pi)[0, :, 8, 8]
    before = pixel[0, :, 8, 8] / 255
    assert luma_of(ours) == pytest.approx(luma_of(before).item(), abs=1e-5)
    assert luma_of(theirs) != pytest.approx(luma_of(before).item(), abs=1e-2)
    assert theirs.max() == pytest.approx(before.max().item(), abs=1e-5)
    assert ours.max() != pytest.approx(before.max().item(), abs=1e-2)


def test_hue_leaves_gray_pixels_alone():
    gray = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert_close(augment(gray, nothing(16, hue=0.17), out_px=16), gray / 255, 1e-5)


STAINS = st.tuples(*[st.floats(0, 2)] * 3), st.tuples(*[st.floats(-0.5, 0.5)] * 3)


@given(SEEDS, *STAINS)
@settings(max_examples=40, deadline=None)
def test_stains_are_jittered_as_written_down(seed, factor, amount):
    tiles = tiles_of(seed, 2, 16)
    stain = np.array([factor, amount])
    assume((stain != [[1], [0]]).any())  # nothing to do: black stays black, below the least light
    expected = torch.stack([restained(tile.double() / 255, stain) for tile in tiles])
    result = augment(tiles, nothing(16, stain=stain), out_px=16)
    assert result.min() >= 0
    assert result.max() <= 1
    assert_close(result, expected, 2e-5)


def test_no_jitter_of_stains_computes_nothing():
    assert fold(drawn(0), tile_px=TILE_PX, out_px=56, device=torch.device("cpu")).stain is None
    assert fold(drawn(0, stain=0.05), tile_px=TILE_PX, out_px=56, device=torch.device("cpu")).stain is not None


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_hardly_any_jitter_of_stains_changes_hardly_anything(seed):
    tiles = tiles_of(seed, 2)
    stained, plain = (augment(tiles, drawn(seed, stain=s), out_px=56) for s in (1e-5, 0.0))
    assert_close(stained, plain, 1e-2)  # a channel that is black becomes one of the least light, times brightness


def gray_tiles():
    return torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.2, 2.0])
def test_gray_stays_gray_where_all_stains_are_scaled_alike(factor):
    """All densities times f is light to the power of f; glass, without density, stays white."""
    stain = np.array([[factor] * 3, [0.0] * 3])
    expected = (gray_tiles() / 255).clamp(min=1 / 255) ** factor
    assert_close(augment(gray_tiles(), nothing(16, stain=stain), out_px=16), expected, 1e-5)


@given(SEEDS, st.sampled_from([0.05, 0.1, 0.2]))
@settings(max_examples=40, deadline=None)
def test_glass_is_tinted_by_what_is_added_and_by_nothing_else(seed, strength):
    """Stain that is added where there is none darkens by its density, stain that is taken away leaves white."""
    stain = drawn(seed, stain=strength).stain[0]
    white = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    result = augment(white, nothing(16, stain=stain), out_px=16)
    assert (result == result[:, :, :1, :1]).all()
    assert result.min() >= 10 ** -(strength * 3) - 1e-6  # three stains of at most unit density each
    assert_close(augment(white, nothing(16, stain=stain * [[1], [0]]), out_px=16), torch.ones(1, 3, 16, 16), 1e-6)


# The chain.


@given(SEEDS, st.integers(16, 96), st.sampled_from([1, 3]), st.sampled_from([0.0, 0.05, 0.2]))
@settings(max_examples=60, deadline=None)
def test_the_folded_chain_is_the_chain_step_by_step(seed, tile_px, sets, stain):
    tiles, p, out_px = tiles_of(seed, 3, tile_px), drawn(seed, sets, tile_px, stain), output_px(tile_px)
    expected = torch.stack([one_by_one(tile, p, i % sets, out_px) for i, tile in enumerate(tiles)])
    actual = augment(tiles, p, out_px=out_px)
    assert actual.shape == (3, 3, out_px, out_px)
    assert actual.dtype == torch.float32
    assert actual.min() >= 0
    assert actual.max() <= 1
    assert_close(actual, expected, 1e-4)


def test_values_are_clamped_once_at_the_end():
    """Twice as bright and then half the contrast: a clamp in between would lose the difference of bright pixels."""
    tiles = torch.tensor([140, 200], dtype=torch.uint8).repeat(3 * 16, 8).view(1, 3, 16, 16)
    result = augment(tiles, nothing(16, brightness=2.0, contrast=0.0), out_px=16)
    assert_close(result, torch.ones(1, 3, 16, 16), 1e-6)
    result = augment(tiles, nothing(16, brightness=1.4, contrast=0.6, saturation=1.0), out_px=16)
    mean = 1.4 * 170 / 255
    expected = (0.6 * 1.4 * tiles / 255 + 0.4 * mean).clamp(0, 1)
    assert_close(result, expected, 1e-5)
    assert expected.max() > 0.6 + 0.4 * mean + 1e-3  # what a clamp after the brightness would leave


# Who shares what.


@pytest.mark.parametrize("stain", [0.0, 0.1])
def test_one_set_is_the_same_transform_for_all_tiles(stain):
    tile = tiles_of(6, 1)
    for seed in range(12):
        result = augment(tile.expand(20, -1, -1, -1), drawn(seed, stain=stain), out_px=56)
        assert (result == result[:1]).all()
    others = [augment(tile, drawn(seed, stain=stain), out_px=56) for seed in range(12)]
    assert all(not torch.allclose(a, b, atol=1e-3) for i, a in enumerate(others) for b in others[:i])


@pytest.mark.parametrize(("stain", "out_px"), [(0.0, 56), (0.1, 56), (0.1, 53)])
def test_a_tile_does_not_depend_on_its_companions(stain, out_px):
    tiles, p = tiles_of(7, 20), drawn(7, stain=stain)
    together = augment(tiles, p, out_px=out_px)
    for i in (0, 15, 16, 19):
        assert torch.equal(augment(tiles[i : i + 1], p, out_px=out_px)[0], together[i])


def test_tile_i_gets_set_i():
    tiles, p = tiles_of(8, 20), drawn(8, 20, stain=0.1)
    together = augment(tiles, p, out_px=56)
    for i in range(20):
        assert_close(together[i], augment(tiles[i : i + 1], p[i : i + 1], out_px=56)[0], 1e-5)


def test_sets_drawn_for_every_tile_make_copies_differ():
    tile = tiles_of(9, 1).expand(8, -1, -1, -1)
    result = augment(tile, drawn(9, 8), out_px=56)
    assert all(not torch.allclose(result[i], result[j], atol=1e-3) for i in range(8) for j in range(i))


def test_another_number_of_sets_than_tiles_is_refused():
    with pytest.raises(ValueError, match="3 parameter sets for 4 tiles"):
        augment(tiles_of(0, 4), drawn(0, 3), out_px=56)


# Draws.


def test_the_edge_is_seven_eighths():
    assert output_px(256) == 224
    assert [output_px(px) for px in (16, 64, 512, 100)] == [14, 56, 448, 87]


@given(SEEDS, st.integers(16, 600), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_draws_lie_in_their_ranges(seed, tile_px, n):
    p = drawn(seed, n, tile_px)
    assert len(p) == n
    assert all(len(getattr(p, f.name)) == n for f in fields(p))
    top, left, height, width = p.crop.T
    assert (p.crop >= 0).all()
    assert (height >= 1).all()
    assert (width >= 1).all()
    assert (top + height <= tile_px).all()
    assert (left + width <= tile_px).all()
    # sides are rounded to pixels; one that would stick out is cut, which leaves at least 3/4 of the tile
    assert ((height + 0.5) * (width + 0.5) >= 0.5 * tile_px**2).all()
    assert ((height - 0.5) / (width + 0.5) <= 4 / 3).all()
    assert ((width - 0.5) / (height + 0.5) <= 4 / 3).all()
    for name in ("brightness", "contrast", "saturation"):
        assert (np.abs(getattr(p, name) - 1) <= 0.4).all()
    assert (np.abs(p.hue) <= 0.2).all()
    assert ((p.blur_px == 0) | ((p.blur_px >= 0.1) & (p.blur_px <= 1))).all()
    assert np.isin(p.quarter_turns, range(4)).all()


def test_how_often_things_happen():
    p = drawn(0, 20_000, 256)
    jitter = p.hue != 0
    assert jitter.mean() == pytest.approx(0.8, abs=0.01)
    for name in ("brightness", "contrast", "saturation"):
        np.testing.assert_array_equal(getattr(p, name) != 1, jitter)  # all four or none
    assert p.gray.mean() == pytest.approx(0.2, abs=0.01)
    assert (p.blur_px > 0).mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(p.flip.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_allclose(np.bincount(p.quarter_turns) / 20_000, 0.25, atol=0.02)
    area = p.crop[:, 2] * p.crop[:, 3] / 256**2
    assert area.mean() == pytest.approx(0.74, abs=0.015)  # of a uniform share between .5 and 1, less what sticks out
    # a corner is uniform over the places there are
    room = 256 - p.crop[:, 2:]
    share = (p.crop[:, :2] + 0.5) / (room + 1)
    np.testing.assert_allclose(share.mean(axis=0), 0.5, atol=0.01)


def test_draws_are_a_function_of_the_generator():
    first, again, other = drawn(1, 5), drawn(1, 5), drawn(2, 5)
    for f in fields(first):
        np.testing.assert_array_equal(getattr(first, f.name), getattr(again, f.name))
    assert any((getattr(first, f.name) != getattr(other, f.name)).any() for f in fields(first))


def test_the_jitter_of_stains_changes_no_other_draw():
    """So that a bank with it and one without differ by it alone, and one without is what it has always been."""
    without, with_it, stronger = (drawn(5, 7, stain=s) for s in (0.0, 0.1, 0.2))
    for f in fields(without):
        if f.name != "stain":
            np.testing.assert_array_equal(getattr(without, f.name), getattr(with_it, f.name))
    assert (without.stain == [[1], [0]]).all()
    np.testing.assert_allclose(stronger.stain - without.stain, 2 * (with_it.stain - without.stain), atol=1e-12)


@pytest.mark.parametrize("strength", [0.05, 0.2])
def test_stains_are_scaled_and_shifted_evenly_within_their_strength(strength):
    stain = drawn(0, 20_000, stain=strength).stain - [[1], [0]]  # (n, 2, 3)
    assert np.abs(stain).max() <= strength
    np.testing.assert_allclose(stain.mean(axis=0), 0, atol=0.02 * strength)
    np.testing.assert_allclose(stain.std(axis=0), strength / np.sqrt(3), rtol=0.02)
    assert np.abs(np.corrcoef(stain.reshape(len(stain), 6).T) - np.eye(6)).max() < 0.03


@pytest.mark.parametrize("stain", [0.0, 0.1])
def test_more_sets_begin_with_the_same(stain):
    """So that a bank can be given more draws without changing those it has."""
    few, many = drawn(4, 3, stain=stain), drawn(4, 9, stain=stain)
    for f in fields(few):
        np.testing.assert_array_equal(getattr(few, f.name), getattr(many, f.name)[:3])


@pytest.mark.parametrize("sets", [1, 5])
def test_writing_into_what_an_encoder_reads(sets):
    tiles, p = tiles_of(3, 5), drawn(3, sets, stain=0.1)
    out = torch.empty((5, 3, 56, 56), dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    assert augment(tiles, p, out_px=56, out=out) is out
    assert torch.equal(out, augment(tiles, p, out_px=56).bfloat16())


def test_a_slice_of_sets_is_sets():
    p = drawn(3, 6)
    part = p[np.array([4, 1])]
    assert len(part) == 2
    for f in fields(p):
        np.testing.assert_array_equal(getattr(part, f.name), getattr(p, f.name)[[4, 1]])


# What a GPU computes, and how strongly tiles are changed.


@given(SEEDS, st.integers(16, 40), st.integers(12, 40))
@settings(max_examples=30)
def test_matrices_made_on_a_device_are_those_that_are_sent_there(seed, tile_px, out_px):
    sets = draw_augmentation(np.random.default_rng(seed), 7, tile_px=tile_px, strengths=MOCO)
    axis = _Axis.of(sets, sets.flip, np.arange(7) % 2, out_px)
    made = axis.matrices_on(torch.device("cpu"), tile_px)
    np.testing.assert_allclose(made.numpy(), axis.matrices(tile_px), rtol=0, atol=2e-5)


@pytest.mark.parametrize("strengths", [SHARED, MOCO])
def test_parameters_fill_the_ranges_of_their_strengths(strengths):
    n, tile_px = 20_000, 256
    sets = draw_augmentation(np.random.default_rng(0), n, tile_px=tile_px, strengths=strengths)
    area = sets.crop[:, 2] * sets.crop[:, 3] / tile_px**2
    low, high = strengths.crop_scale
    assert low * 0.98 < area.min() < low * 1.05
    assert area.max() <= high
    jittered = sets.brightness != 1
    assert jittered.mean() == pytest.approx(strengths.jitter_p, abs=0.02)
    for values in (sets.brightness, sets.contrast, sets.saturation):
        assert np.abs(values - 1).max() == pytest.approx(strengths.jitter, rel=0.01)
    assert np.abs(sets.hue).max() == pytest.approx(strengths.hue, rel=0.01)
    assert sets.gray.mean() == pytest.approx(strengths.gray_p, abs=0.02)
    blurred = sets.blur_px[sets.blur_px > 0]
    assert len(blurred) / n == pytest.approx(strengths.blur_p, abs=0.02)
    assert (blurred.min(), blurred.max()) == (
        pytest.approx(strengths.blur_px[0], rel=0.05),
        pytest.approx(strengths.blur_px[1], rel=0.01),
    )
