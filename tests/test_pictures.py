"""The pictures of the README are what giga draws.

Those of the demo take minutes, so the same functions draw those of the tests' cohort, smaller, beside closed forms,
whose vectors are the same on any machine but for rounding. Where they look different on purpose::

    GIGA_DRAW=1 .venv/bin/pytest -n 0 tests/test_pictures.py && make pictures
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs import pictures

ROOT = Path(__file__).parents[1]
KEPT = Path(__file__).parent / "data" / "pictures"
TOLERANCE = 2.5
"""Mean absolute difference, of 255: two pixels to the side are 4 to 19."""


@pytest.fixture(scope="module")
def drawn(chain, cohort):
    found = pictures.draw(
        chain("embed"),
        cohort.labels_csv,
        embedding="whitened-mean-random-resnet18",
        positive="glandular",
        width_px=240,
    )
    if os.environ.get("GIGA_DRAW"):
        pictures.write(found, KEPT)
    return {name: np.asarray(picture.convert("RGB"), float) for name, picture in found.items()}


@pytest.mark.parametrize("name", ["slides", "tile-map", "vectors"])
def test_the_pictures_are_drawn_as_before(drawn, name):
    before = np.asarray(Image.open(KEPT / f"{name}.png").convert("RGB"), float)
    assert drawn[name].shape == before.shape
    assert np.abs(drawn[name] - before).mean() < TOLERANCE
    assert drawn[name].std() > 10  # something is on it


def test_those_of_the_readme_are_there_and_small(drawn):
    shown = re.findall(r'<img src="([^"]+)"', (ROOT / "README.md").read_text())
    assert [Path(file).stem for file in shown] == list(drawn)
    for file in shown:
        assert (ROOT / file).stat().st_size < 150_000
        with Image.open(ROOT / file) as picture:
            ratio = drawn[Path(file).stem].shape[1] / drawn[Path(file).stem].shape[0]
            assert picture.width == pictures.WIDTH_PX
            assert 0.6 < picture.width / picture.height / ratio < 1.7  # slides differ in shape
