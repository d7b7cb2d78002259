import json
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from gigacli.errors import SlideError
from gigacli.wsi.grid import tissue_fraction
from gigacli.wsi.masks import _average, read_mask
from gigacli.wsi.slide import Slide

SIZE = (400, 240)  # of level 0; with a step of 8 pixels, a mask of 50 x 30
WHOLE = (0, 0, *SIZE)


def read(path, size_px=SIZE, slide_mpp=1.0, bounds_px=None, mask_mpp=8.0):
    return read_mask(
        path, size_px=size_px, slide_mpp=slide_mpp, bounds_px=bounds_px or (0, 0, *size_px), mask_mpp=mask_mpp
    )


def polygon(*rings):
    return {"type": "Polygon", "coordinates": [[list(point) for point in ring] for ring in rings]}


def box(left, top, right, bottom):
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


@pytest.fixture
def geojson(tmp_path):
    def write(content, name="mask.geojson"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.fixture
def half():
    """The left half of the slide, pixel by pixel of the mask."""
    values = np.zeros((30, 50), np.uint8)
    values[:, :25] = 1
    return values


EXPECTED = np.zeros((30, 50), bool)
EXPECTED[:, :25] = True


def shoelace(ring):
    x, y = np.asarray(ring, float).T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


# Pictures


@pytest.mark.parametrize(
    "make",
    [
        lambda v: Image.fromarray(v),
        lambda v: Image.fromarray(v * 255),
        lambda v: Image.fromarray(v.astype(bool)),
        lambda v: Image.fromarray(v.astype(np.uint16)),
        lambda v: Image.fromarray(v.astype(np.uint16) * 65535),
        lambda v: Image.fromarray(v.astype(np.int32)),
        lambda v: Image.fromarray(np.stack([0 * v, 0 * v, v], 2)),
        lambda v: Image.fromarray(np.stack([v, v, v, np.full_like(v, 255)], 2)),
        lambda v: Image.fromarray(np.stack([v + 1, v + 1, v + 1, v * 9], 2)),  # glass is transparent, not black
        lambda v: Image.fromarray(np.stack([v * 200, np.full_like(v, 255)], 2), "LA"),
    ],
    ids=["0/1", "0/255", "1 bit", "16 bit 0/1", "16 bit", "32 bit", "blue", "opaque", "transparent", "grey alpha"],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_what_is_neither_black_nor_transparent_is_tissue(tmp_path, half, make, suffix):
    path = tmp_path / f"mask{suffix}"
    image = make(half)
    if image.mode == "I" and suffix == ".png":
        pytest.skip("PNG has no 32 bits")
    image.save(path)
    assert np.array_equal(read(path), EXPECTED)


def test_an_indexed_picture_counts_by_its_colours(tmp_path, half):
    image = Image.fromarray(half)
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png"), EXPECTED)
    image = Image.fromarray(1 - half)  # index 0 is tissue here
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "b.png")
    assert np.array_equal(read(tmp_path / "b.png"), EXPECTED)
    image.save(tmp_path / "c.png", transparency=0)
    assert not read(tmp_path / "c.png").any()


def test_floats_above_zero_are_tissue(tmp_path, half):
    values = np.where(half, np.float32(0.3), np.float32(-1))
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "mask.tiff")
    expected = EXPECTED.copy()
    expected[3, 3] = False
    assert np.array_equal(read(tmp_path / "mask.tiff"), expected)


def test_jpeg_is_split_in_the_middle(tmp_path, half):
    for name, image in (("l.jpg", Image.fromarray(half * 255)), ("c.jpeg", Image.fromarray(half * 255).convert("RGB"))):
        image.save(tmp_path / name, quality=60)
        assert np.array_equal(read(tmp_path / name), EXPECTED)


def test_a_jpeg_of_labels_is_refused(tmp_path, half):
    Image.fromarray(half * 100).save(tmp_path / "mask.jpg")
    with pytest.raises(
        SlideError, match=r"mask\.jpg is a JPEG whose brightest value is 1\d\d; expected tissue above 127"
    ):
        read(tmp_path / "mask.jpg")


def test_black_means_no_tissue(tmp_path):
    for name in ("mask.png", "mask.jpg", "mask.bmp"):
        Image.new("L", (50, 30)).save(tmp_path / name)
        assert read(tmp_path / name).shape == (30, 50)
        assert not read(tmp_path / name).any()


def test_the_first_bytes_tell_the_format_of_a_picture(tmp_path, half):
    Image.fromarray(half).save(tmp_path / "mask.png", format="TIFF")
    assert np.array_equal(read(tmp_path / "mask.png"), EXPECTED)


@given(
    hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 5))),
    st.integers(1, 15),
    st.floats(0, 0.4),
    st.floats(0.01, 0.6),
)
def test_averages_are_exact_integrals(values, count, begin, share):
    n = len(values)
    edges = np.linspace(begin * n, (begin + share) * n, count + 1)
    table = np.vstack([np.zeros((1, values.shape[1])), values.cumsum(0)])
    integral = np.stack([np.interp(edges, np.arange(n + 1), column) for column in table.T], 1)
    expected = np.diff(integral, axis=0) / np.diff(edges)[:, None]
    np.testing.assert_allclose(_average(values, edges), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 3, 7])
def test_a_finer_picture_gives_the_share_of_tissue_in_each_pixel(tmp_path, factor):
    values = np.random.default_rng(0).random((30 * factor, 50 * factor)) < 0.5
    Image.fromarray(values).save(tmp_path / "mask.png")
    share = values.reshape(30, factor, 50, factor).mean((1, 3))
    assert np.array_equal(read(tmp_path / "mask.png"), share >= 0.5)


def test_a_coarser_picture_is_enlarged(tmp_path):
    values = np.random.default_rng(0).random((6, 10)) < 0.5
    Image.fromarray(values).save(tmp_path / "mask.png")
    assert np.array_equal(read(tmp_path / "mask.png"), np.kron(values, np.ones((5, 5), bool)))


def test_a_picture_shows_the_slide_and_the_mask_its_bounds(tmp_path):
    values = np.zeros((240, 400), bool)  # one pixel of the picture per pixel of level 0
    values[100:140, 203:300] = True
    Image.fromarray(values).save(tmp_path / "mask.png")
    mask = read(tmp_path / "mask.png", bounds_px=(195, 92, 101, 60))
    assert mask.shape == (8, 13)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 5, 1, 12)  # the last column is 5 px wide
    assert mask[1:6, 1:].all()


def test_a_mask_has_the_pixels_of_the_thumbnail(write_tiff, tmp_path):
    values = np.zeros((203, 331), bool)
    values[60:150, 41:290] = True
    rgb = np.where(values[..., None], np.uint8(0), np.uint8(255)).repeat(3, axis=2)
    Image.fromarray(values).save(tmp_path / "mask.png")
    ring = box(41, 60, 290, 150)
    (tmp_path / "mask.geojson").write_text(json.dumps(polygon(ring)))
    with Slide(write_tiff(rgb, mpp=0.25), mpp=0.25) as slide:
        for mpp in (1.0, 1.7, 4.0):
            thumbnail = slide.thumbnail(mpp)
            for name in ("mask.png", "mask.geojson"):
                mask = read(tmp_path / name, slide.size_px, 0.25, slide.bounds_px, mpp)
                sure = np.abs(thumbnail[..., 0].astype(int) - 127) > 32  # 5 x 5 points tell a tenth of a pixel
                assert mask.shape == thumbnail.shape[:2]
                assert np.array_equal(mask[sure], (thumbnail[..., 0] < 128)[sure])


def test_tiles_read_their_share_from_the_mask(tmp_path):
    (tmp_path / "mask.json").write_text(json.dumps(polygon(box(264, 64, 320, 160))))
    bounds = (200, 0, 200, 240)
    mask = read(tmp_path / "mask.json", bounds_px=bounds)
    share = tissue_fraction(
        mask,
        np.array([[264, 64], [232, 64], [320, 64]], np.int32),
        mask_mpp=8.0,
        mpp=1.0,
        slide_mpp=1.0,
        tile_px=56,
        origin_px=bounds[:2],
    )
    np.testing.assert_allclose(share, [1, 24 / 56, 0], atol=1e-6)


@pytest.mark.parametrize("size", [(50, 30), (49, 30), (51, 30), (400, 240), (7, 4), (1, 1), (100, 61), (100, 58)])
def test_rounded_sizes_fit(tmp_path, size):
    Image.new("1", size, 1).save(tmp_path / "mask.png")
    assert read(tmp_path / "mask.png").all()


@pytest.mark.parametrize("size", [(240, 400), (100, 64), (100, 56), (400, 400), (200, 240)])
def test_another_shape_is_refused_with_both_sizes(tmp_path, size):
    Image.new("1", size, 1).save(tmp_path / "mask.png")
    with pytest.raises(SlideError, match=rf"mask\.png is {size[0]} x {size[1]} px.*the slide is 400 x 240 px"):
        read(tmp_path / "mask.png")


# Files that cannot be used


@pytest.mark.parametrize("name", ["mask.png", "mask.tif", "mask.jpg", "mask.bmp", "mask.geojson", "mask.json"])
def test_missing_empty_and_garbled_files_are_named(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(SlideError, match=rf"{name} is not there; expected a picture or GeoJSON"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(SlideError, match=rf"{name} is empty \(0 bytes\)"):
        read(path)
    path.write_bytes(b"\x00\xff nothing of the kind")
    with pytest.raises(SlideError, match=rf"{name} is no (picture|GeoJSON) that can be read"):
        read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(SlideError, match=rf"{name} is a folder"):
        read(path)


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(SlideError, match=r"ends in \.npy; expected one of \.png"):
        read(tmp_path / "mask.npy")
    with pytest.raises(SlideError, match="ends in nothing"):
        read(tmp_path / "mask")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp"])
def test_damaged_pictures_are_slide_errors_or_masks(tmp_path, suffix):
    values = (np.random.default_rng(0).random((30, 50)) < 0.5).astype(np.uint8) * 255
    path = tmp_path / f"mask{suffix}"
    Image.fromarray(values).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SlideError, match=path.name):
        read(path)
    rng, failed = np.random.default_rng(1), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(150):
            broken = bytearray(whole)
            for position in rng.integers(0, min(len(whole), 400), 4):
                broken[position] = rng.integers(256)
            path.write_bytes(broken)
            try:
                assert read(path).shape == (30, 50)
            except SlideError:
                failed += 1
    assert failed > 0


def png_header(width, height):
    """A PNG of a few bytes that says it is large."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    end = b"IEND"
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in (body, b"IDAT" + zlib.compress(b"\x00"), end)
    )


@pytest.mark.parametrize("size", [(12_500, 7_500), (100_000, 60_000)])
def test_too_many_pixels_are_a_slide_error(tmp_path, size):
    (tmp_path / "mask.png").write_bytes(png_header(*size))
    with pytest.raises(SlideError, match="has more than 89,478,485 pixels") as caught:
        read(tmp_path / "mask.png", size_px=(100_000, 60_000))
    assert "4000 x 2400 px" in caught.value.hint


def test_threads_leave_the_filters_of_warnings_as_they_were(tmp_path, half):
    (tmp_path / "bomb.png").write_bytes(png_header(12_500, 7_500))
    Image.fromarray(half).save(tmp_path / "mask.png")
    before = list(warnings.filters)

    def attempt(i):
        try:
            return read(tmp_path / ("mask.png" if i % 2 else "bomb.png")).sum()
        except SlideError:
            return -1

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(attempt, range(60))) == [-1, 750] * 30
    assert list(warnings.filters) == before


# GeoJSON


def wrapped(geometry):
    feature = {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}}
    return {
        "geometry": geometry,
        "feature": feature,
        "collection": {"type": "FeatureCollection", "features": [feature]},
        "bare list": [feature],
        "geometry collection": {"type": "GeometryCollection", "geometries": [geometry]},
        "multi": {"type": "MultiPolygon", "coordinates": [geometry["coordinates"]]},
        "with a point": {
            "type": "FeatureCollection",
            "features": [
                {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": None},
                {"type": "Feature", "geometry": None, "properties": None},
                feature,
            ],
        },
    }


@pytest.mark.parametrize("form", list(wrapped(polygon(box(0, 0, 1, 1)))))
def test_every_form_of_geojson(geojson, form):
    path = geojson(wrapped(polygon(box(0, 0, 200, 240)))[form])
    assert np.array_equal(read(path), EXPECTED)


def test_rings_may_be_open_and_points_may_have_a_height(geojson):
    ring = [(x, y, 7.0) for x, y in box(0, 0, 200, 240)[:-1]]
    assert np.array_equal(read(geojson(polygon(ring))), EXPECTED)


def test_a_byte_order_mark_does_no_harm(geojson):
    assert np.array_equal(read(geojson("\ufeff" + json.dumps(polygon(box(0, 0, 200, 240))))), EXPECTED)


def test_holes_are_left_out_and_islands_in_them_are_not(geojson):
    lake = polygon(box(80, 40, 320, 200), box(160, 80, 240, 160)[::-1])
    island = polygon(box(184, 104, 216, 136))
    mask = read(geojson({"type": "MultiPolygon", "coordinates": [lake["coordinates"], island["coordinates"]]}))
    expected = np.zeros((30, 50), bool)
    expected[5:25, 10:40] = True
    expected[10:20, 20:30] = False
    expected[13:17, 23:27] = True
    assert np.array_equal(mask, expected)


def test_overlapping_polygons_add_up_to_their_union(geojson):
    parts = [polygon(box(0, 0, 160, 240)), polygon(box(80, 0, 200, 240)), polygon(box(80, 40, 160, 80))]
    assert np.array_equal(read(geojson({"type": "GeometryCollection", "geometries": parts})), EXPECTED)


def test_half_a_pixel_is_enough(geojson):
    assert read(geojson(polygon(box(8, 8, 16, 12.1))))[1, 1]
    halves = [polygon(box(8, 8, 10.6, 16)), polygon(box(13.4, 8, 16, 16)), polygon(box(80, 80, 88, 88))]
    mask = read(geojson({"type": "GeometryCollection", "geometries": halves}))
    assert mask[1, 1]
    assert mask.sum() == 2
    mask = read(geojson({"type": "GeometryCollection", "geometries": [halves[0], halves[2]]}))
    assert not mask[1, 1]


def test_what_is_outside_is_cut_off(geojson):
    mask = read(geojson(polygon(box(-1e6, -300, 200, 5e5))))
    assert np.array_equal(mask, EXPECTED)


@given(st.integers(0, 10_000), st.integers(5, 24))
def test_the_area_is_that_of_the_shoelace_formula(tmp_path_factory, seed, corners):
    rng = np.random.default_rng(seed)
    angle = (np.arange(corners) + rng.random(corners)) / corners * 2 * np.pi
    radius = rng.uniform(300, 900, corners)
    ring = np.array([2000, 1200]) + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    path = tmp_path_factory.getbasetemp() / "area.geojson"
    path.write_text(json.dumps(polygon(ring.tolist())))
    mask = read(path, (4000, 2400), bounds_px=(0, 0, 4000, 2400))
    # The ring goes around its centre in steps of less than half a turn, so it never crosses itself, and its area is
    # that of the formula. Pixels that it cuts are wrong by at most a half each, and mostly cancel; drawing them all, as
    # ImageDraw does, would add half of their number.
    cut = np.hypot(*np.diff(np.vstack([ring, ring[:1]]), axis=0).T).sum() / 8
    assert abs(mask.sum() - shoelace(ring) / 64) < 4 + 0.2 * cut


@given(st.integers(0, 10_000))
def test_points_are_inside_by_the_even_odd_rule(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    ring = rng.uniform(-20, 120, (7, 2))  # crosses itself
    path = tmp_path_factory.getbasetemp() / "odd.geojson"
    path.write_text(json.dumps(polygon(ring.tolist())))
    try:
        mask = read(path, (100, 100), mask_mpp=5.0)
    except SlideError:
        mask = np.zeros((20, 20), bool)
    centre = np.arange(100) + 0.5  # 5 x 5 points in every pixel of 5
    inside = np.zeros((100, 100), int)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        rows = (y0 > centre) != (y1 > centre)
        inside[rows] += (x0 + (centre[rows] - y0) / (y1 - y0) * (x1 - x0))[:, None] <= centre[None, :]
    expected = (inside % 2).reshape(20, 5, 20, 5).sum((1, 3)) >= 13
    assert np.array_equal(mask, expected)


def test_large_masks_are_drawn_in_bands_without_seams(geojson):
    ring = [(2000 + 1900 * np.cos(a), 9000 + 8900 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 400)]
    path = geojson(polygon(ring))
    mask = read(path, (4000, 18_000))  # 2250 rows
    assert (np.abs(np.diff(mask.sum(1).astype(int))) < 40).all()
    assert abs(mask.sum() * 64 / shoelace(ring) - 1) < 1e-3
    part = read(path, (4000, 18_000), bounds_px=(0, 4000, 4000, 6000))
    assert np.array_equal(part, mask[500:1250])


def test_a_collection_without_features_means_no_tissue(geojson):
    for content in ({"type": "FeatureCollection", "features": []}, []):
        mask = read(geojson(content))
        assert mask.shape == (30, 50)
        assert not mask.any()


def test_without_polygons_the_types_are_named(geojson):
    points = [{"type": "Point", "coordinates": [1, 2]}, {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}]
    with pytest.raises(SlideError, match="holds LineString, Point; expected Polygon or MultiPolygon"):
        read(geojson({"type": "GeometryCollection", "geometries": points}))
    with pytest.raises(SlideError, match="holds no geometry"):
        read(geojson({"type": "Feature", "geometry": None}))
    with pytest.raises(SlideError, match="holds None"):
        read(geojson({"slide": "a"}))


@pytest.mark.parametrize("ring", [box(500, 300, 600, 400), box(-90, -90, -10, -10), box(0, 0, 1, 1)])
def test_polygons_that_cover_nothing_are_refused_with_both_extents(geojson, ring):
    (left, top), (right, bottom) = ring[0], ring[2]
    with pytest.raises(SlideError, match="cover nothing of the scanned region") as caught:
        read(geojson(polygon(ring)), bounds_px=(40, 0, 360, 240) if left else None)
    assert f"from ({left}, {top}) to ({right}, {bottom})" in caught.value.message
    assert "to (400, 240) of 400 x 240 px" in caught.value.message
    assert "not in microns" in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "3",
        '"Polygon"',
        "[1, 2]",
        '{"type": "FeatureCollection"}',
        '{"type": "FeatureCollection", "features": null}',
        '{"type": "Feature"}',
        '{"type": "Polygon"}',
        '{"type": "Polygon", "coordinates": 3}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2]]]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, NaN]]]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 1e300]]]}',
        '{"type": "Polygon", "coordinates": [[["a", "b"], [9, 0], [9, 9]]]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 1' + "0" * 400 + "]]]}",
        "[" * 100_000,
    ],
)
def test_malformed_geojson_is_refused(geojson, content):
    with pytest.raises(SlideError, match=r"mask\.geojson is no GeoJSON that can be read: \w"):
        read(geojson(content))
