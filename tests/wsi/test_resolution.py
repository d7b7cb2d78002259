import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigacli.errors import SlideError
from gigacli.wsi.resolution import MPP_RANGE, Resolution, resolve_mpp


def openslide(x, y=None, power=None):
    properties = {"openslide.mpp-x": str(x), "openslide.mpp-y": str(x if y is None else y)}
    return properties if power is None else {**properties, "openslide.objective-power": str(power)}


def tiff(x, unit="centimeter", y=None):
    return {"tiff.XResolution": str(x), "tiff.YResolution": str(x if y is None else y), "tiff.ResolutionUnit": unit}


POWER = {"openslide.objective-power": "40"}

CASES = {
    "csv wins over everything": ({**openslide(0.5), **tiff(40_000), **POWER}, 0.3, 0.7, (0.3, "csv")),
    "csv wins over a broken header": (openslide(0.00499), 0.499, None, (0.499, "csv")),
    "csv wins over a contradiction": (openslide(0.5, 0.9, 1), 0.5, None, (0.5, "csv")),
    "csv is not checked against the objective": (POWER, 2.0, None, (2.0, "csv")),
    "openslide before tags, power and option": (
        {**openslide(0.5), **tiff(40_000), **POWER},
        None,
        0.7,
        (0.5, "openslide"),
    ),
    "x and y are averaged": (openslide(0.50, 0.52), None, None, (0.51, "openslide")),
    "one axis alone": ({"openslide.mpp-y": "0.5"}, None, None, (0.5, "openslide")),
    "tags before power": ({**tiff(40_000), **POWER}, None, 0.7, (0.25, "tiff")),
    "tags in inches": (tiff(50_800, "inch"), None, None, (0.5, "tiff")),
    "72 dpi is a screen": ({**tiff(72, "inch"), **POWER}, None, None, (0.25, "objective")),
    "96 dpi is a screen": (tiff(96, "inch"), None, 0.5, (0.5, "option")),
    "72 dpi in centimetres is a screen too": (tiff(28.35), None, 0.5, (0.5, "option")),
    "72 dpi as OpenSlide hands it on": ({**openslide(352.7777), **tiff(72, "inch")}, None, 0.5, (0.5, "option")),
    "tags without a unit": (tiff(40_000, "none"), None, 0.5, (0.5, "option")),
    "power before option": (POWER, None, 0.7, (0.25, "objective")),
    "option": ({}, None, 0.7, (0.7, "option")),
    "empty and zero properties say nothing": (
        {**openslide("", 0, power=0), **tiff("nan")},
        None,
        0.7,
        (0.7, "option"),
    ),
    "camera adaptor, factor 2": (openslide(0.2325, power=20), None, None, (0.2325, "openslide")),
}


@pytest.mark.parametrize(("properties", "csv", "option", "expected"), CASES.values(), ids=CASES)
def test_chain(properties, csv, option, expected):
    found = resolve_mpp(properties, csv_mpp=csv, slide_mpp=option)
    assert found.source == expected[1]
    assert found.mpp == pytest.approx(expected[0], rel=1e-9)


REFUSALS = {
    "a hundred times too fine": (openslide(0.00499), None, None, ["0.00499", "0.08 to 5"]),
    "a thousand times too coarse": (openslide(499), None, None, ["499", "0.08 to 5"]),
    "tags out of range": (tiff(2_004_008), None, None, ["0.00499", "tiff", "0.08 to 5"]),
    "csv out of range": (openslide(0.5), 50.0, None, ["column 'mpp'", "50", "0.08 to 5"]),
    "csv zero": (openslide(0.5), 0.0, None, ["0.08 to 5"]),
    "csv not a number": (openslide(0.5), float("nan"), None, ["nan", "0.08 to 5"]),
    "option out of range": ({}, None, 50.0, ["--slide-mpp", "50"]),
    "power out of range": ({"openslide.objective-power": "1"}, None, None, ["power of 1", "10", "0.08 to 5"]),
    "oblong pixels": (openslide(0.5, 0.53), None, None, ["0.5 ", "0.53", "5 %"]),
    "oblong tags": (tiff(20_000, y=10_000), None, None, ["0.5 ", "along y", "5 %"]),
    "contradicts the objective": (openslide(0.5, power=2), None, None, ["0.5", "power of 2", "1.67 to 15"]),
    "contradicts it tenfold": (
        openslide(2.5, power=40),
        None,
        None,
        ["2.5", "power of 40", "0.0833 to 0.75"],
    ),
    "no fall-through to the next source": ({**openslide(0.00499), **POWER}, None, 0.5, ["0.00499"]),
}


@pytest.mark.parametrize(("properties", "csv", "option", "words"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_name_what_was_found_and_the_way_out(properties, csv, option, words):
    with pytest.raises(SlideError) as caught:
        resolve_mpp(properties, csv_mpp=csv, slide_mpp=option)
    for word in words:
        assert re.search(re.escape(word), caught.value.message), caught.value.message
    given = csv is not None or option == 50  # what was given that way is not to be given that way
    assert ("giga tile STORE --csv TABLE" in caught.value.hint) is not given
    assert ("largest image of the file" in caught.value.hint) is given


def test_nothing_found():
    with pytest.raises(SlideError, match="no resolution") as caught:
        resolve_mpp({"openslide.vendor": "aperio", "tiff.ResolutionUnit": "inch"})
    assert "--slide-mpp" in caught.value.hint
    assert "--csv" in caught.value.hint


@given(st.floats(*MPP_RANGE))
def test_everything_in_range_is_taken_as_it_is(mpp):
    assert resolve_mpp({}, csv_mpp=mpp) == Resolution(mpp, "csv")
    assert resolve_mpp(openslide(mpp)) == Resolution(mpp, "openslide")
    assert resolve_mpp({}, slide_mpp=mpp) == Resolution(mpp, "option")
