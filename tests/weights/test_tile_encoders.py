"""Names of tile encoders in the store."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gigacli.config.base import NAME_PATTERN
from gigacli.errors import InvalidInput
from gigacli.weights.tile_encoders import store_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_dinov2.lvd142m"),
        ("hf-hub:MahmoodLab/UNI2-h", "MahmoodLab-UNI2-h"),
        ("hf-hub:org/model@rev", "org-model-rev"),
        ("local-dir:/data/models/mine/", "mine"),
    ],
)
def test_store_names(name, expected):
    assert store_name(name) == expected


@given(st.text(max_size=120))
@example("hf-hub:")
@example("a" * 200)
def test_a_store_name_is_made_of_all_that_has_a_letter_or_digit(name):
    try:
        made = store_name(name)
    except InvalidInput:
        made = ""
    assert not made or NAME_PATTERN.fullmatch(made)
    if ":" not in name:
        assert bool(made) == any(c.isascii() and c.isalnum() for c in name)
