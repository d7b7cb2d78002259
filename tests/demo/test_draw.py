"""Drawn slides: the truth is true, colour tells the lab and not the class, architecture tells the class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gigacli.demo.anatomy import BACKGROUND, CLASSES, FAT, GLANDULAR, SOLID
from gigacli.demo.draw import LABS, draw_slide
from gigacli.errors import InvalidInput

MPP = 2.0  # the default slide of 2 x 1.5 mm at a sixteenth of its pixels


def draw(*key, label=CLASSES[0], lab=LABS[0], size_px=(1024, 768), mpp=MPP):
    return draw_slide(np.random.default_rng(key), label=label, lab=lab, size_px=size_px, mpp=mpp)


def enlarge(cells, drawing):
    """A truth map at the resolution of the image."""
    return np.kron(cells, np.ones((drawing.downsample,) * 2, cells.dtype))


def colour(drawing):
    """Mean and standard deviation of red, green and blue over the tissue, without pens."""
    pixels = drawing.image[enlarge(drawing.tissue & ~drawing.pen, drawing)].astype(float)
    return np.concatenate((pixels.mean(0), pixels.std(0)))


def round_white(drawing):
    """Of the holes in the tissue as small as a lumen, the share that fill their bounding box: discs, not crescents."""
    white = (drawing.image[..., 1] > 205) & enlarge(drawing.tissue, drawing)
    parts, _ = ndimage.label(white)
    area = np.bincount(parts.ravel())[1:]
    filling = area / [parts[box].size for box in ndimage.find_objects(parts)]
    return (filling[(area > 12) & (area * MPP**2 < 4000)] > 0.6).mean()


@pytest.fixture(scope="module")
def pairs():
    """Forty slides of one lab, each drawn in both classes from the same random state."""
    return [tuple(draw(3, key, label=label) for label in CLASSES) for key in range(40)]


def test_shapes_and_values():
    drawing = draw(0, size_px=(1030, 777))
    assert drawing.image.dtype == np.uint8
    rows, columns = drawing.tissue.shape
    assert drawing.image.shape == (rows * drawing.downsample, columns * drawing.downsample, 3) == (776, 1028, 3)
    assert drawing.tile_type.shape == drawing.pen.shape == drawing.tissue.shape
    np.testing.assert_array_equal(drawing.tissue, ~np.isin(drawing.tile_type, (BACKGROUND, FAT)))


def test_same_state_same_slide():
    np.testing.assert_array_equal(draw(5).image, draw(5).image)
    assert not np.array_equal(draw(5).image, draw(6).image)


@settings(max_examples=8, deadline=None)
@given(
    width_um=st.integers(500, 1500),
    height_um=st.integers(500, 1500),
    mpp=st.sampled_from([0.7, 1.0, 1.9, 4.0]),
    key=st.integers(0, 99),
)
def test_any_size_has_tissue_and_a_free_border(width_um, height_um, mpp, key):
    size_px = (int(np.ceil(width_um / mpp)), int(np.ceil(height_um / mpp)))
    drawing = draw(key, size_px=size_px, mpp=mpp)
    assert all(
        0 <= asked - got < drawing.downsample for asked, got in zip(size_px, drawing.image.shape[1::-1], strict=True)
    )
    assert 0.1 < drawing.tissue.mean() < 0.7
    assert not drawing.tissue[[0, -1]].any()
    assert not drawing.tissue[:, [0, -1]].any()


def test_the_mask_is_where_the_stain_is(pairs):
    for drawing in (drawing for pair in pairs[:8] for drawing in pair):
        unmarked = ~enlarge(drawing.pen, drawing)
        white = np.array(LABS[0].white)
        stained = (np.abs(drawing.image - white).max(-1) > 25) & unmarked
        inside = drawing.tile_type != BACKGROUND
        outside = enlarge(~ndimage.binary_dilation(inside, iterations=2), drawing) & unmarked
        assert stained[outside].mean() < 0.001
        assert stained[enlarge(drawing.tissue, drawing) & unmarked].mean() > 0.85
        # An Otsu-like detector, closed over lumens, finds the mask again.
        cells = stained.reshape(*[n for side in inside.shape for n in (side, drawing.downsample)]).mean((1, 3))
        found = ndimage.binary_closing(cells > 0.5, iterations=3)[~drawing.pen]
        truth = drawing.tissue[~drawing.pen]
        assert (found & truth).sum() / (found | truth).sum() > 0.85


def test_classes_share_everything_but_the_patterns(pairs):
    for glandular, solid in pairs:
        np.testing.assert_array_equal(glandular.tile_type == BACKGROUND, solid.tile_type == BACKGROUND)
        np.testing.assert_array_equal(glandular.tile_type == FAT, solid.tile_type == FAT)
        np.testing.assert_array_equal(glandular.pen, solid.pen)
        np.testing.assert_array_equal(glandular.tile_type == GLANDULAR, solid.tile_type == SOLID)


def test_mixture_of_patterns(pairs):
    own = [
        (glandular.tile_type == GLANDULAR).sum() / np.isin(glandular.tile_type, (GLANDULAR, SOLID)).sum()
        for glandular, _ in pairs
    ]
    assert 0.55 < min(own) < max(own) < 0.95
    assert np.mean(own) == pytest.approx(0.75, abs=0.03)


def test_pens_on_some_slides_only(pairs):
    marked = np.array([glandular.pen.any() for glandular, _ in pairs])
    assert 0.15 < marked.mean() < 0.65


def test_colour_does_not_tell_the_class(pairs):
    """Drawn twice from one state, the classes differ in mean colour by under a fifth of the spread between slides.

    And with one slide of each pair, 20 of each class: neither the mean or deviation of a single channel nor a
    cross-validated logistic regression on all six has an AUC beyond 0.5 +- 0.2. The standard error of an AUC of 0.5 at
    this size is 0.09.
    """
    features = np.array([[colour(drawing) for drawing in pair] for pair in pairs])  # (pair, class, feature)
    difference = (features[:, 1] - features[:, 0]).mean(0)
    spread = features.std((0, 1))
    assert (np.abs(difference[:3]) < 0.2 * spread[:3]).all()
    assert (np.abs(difference[3:]) < 0.5 * spread[3:]).all()

    label = np.arange(len(pairs)) % 2
    chosen = features[np.arange(len(pairs)), label]  # (slide, feature)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0))
    score = cross_val_predict(model, chosen, label, cv=StratifiedKFold(5), method="decision_function")
    for column in (*chosen.T, score):
        assert 0.3 < roc_auc_score(label, column) < 0.7


def test_architecture_tells_the_class(pairs):
    score = [[round_white(drawing) for drawing in pair] for pair in pairs]
    assert roc_auc_score(np.tile([1, 0], len(pairs)), np.ravel(score)) > 0.95


def test_colour_tells_the_lab():
    means = np.array([[colour(draw(11, key, label=CLASSES[key % 2], lab=lab))[:3] for key in range(4)] for lab in LABS])
    for left_out in range(4):
        centres = np.delete(means, left_out, axis=1).mean(1)  # (lab, channel)
        nearest = np.linalg.norm(means[:, left_out, None] - centres, axis=-1).argmin(1)
        np.testing.assert_array_equal(nearest, np.arange(len(LABS)))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"label": "papillary"}, "label = 'papillary', expected one of glandular, solid"),
        ({"size_px": (1024, 200)}, "1024 x 200 px at 2.0 microns per pixel, expected at least 500"),
        ({"mpp": 0.0}, "mpp = 0.0"),
    ],
)
def test_refuses(options, found):
    with pytest.raises(InvalidInput, match=found):
        draw(0, **options)
