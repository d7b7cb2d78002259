import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from gigacli.wsi.qc import (
    CAPTION_PX,
    LONG_SIDE_PX,
    SHEET_SLIDES,
    SheetItem,
    contact_sheets,
    fit_text,
    qc_picture,
    wrap_text,
)

OUTLINE, DARK_OUTLINE = (0, 132, 60), (90, 255, 130)
SHORT = ImageFont.load_default(15)


def picture(mask, coords=(), *, level=200, tile_l0_px=80.0, scale=1 / 8, origin_px=(0, 0), title="slide", mpp=8.0):
    thumbnail = np.full((*mask.shape, 3), level, np.uint8)
    coords = np.asarray(coords, np.int32).reshape(-1, 2)
    return qc_picture(
        thumbnail, mask, coords, tile_l0_px=tile_l0_px, scale=scale, origin_px=origin_px, title=title, mpp=mpp
    )


def pixels(image):
    """The picture without its caption."""
    return np.asarray(image)[:-CAPTION_PX]


def is_colour(image, colour):
    return (pixels(image) == colour).all(2)


def rectangle(shape, top, bottom, left, right):
    result = np.zeros(shape, bool)
    result[top:bottom, left:right] = True
    return result


def test_the_outline_is_one_pixel_inside_and_one_outside_the_mask():
    mask = rectangle((300, 250), 50, 100, 30, 200)
    image = picture(mask)
    assert image.size == (1000, 1200 + CAPTION_PX)  # four times; this picture is large
    image = picture(mask[:290])
    assert image.size == (1000, 1160 + CAPTION_PX)
    outside = rectangle((1160, 1000), 199, 401, 119, 801)
    for row, column in ((199, 119), (199, 800), (400, 119), (400, 800)):
        outside[row, column] = False  # a cross has no corners
    inside = rectangle((1160, 1000), 201, 399, 121, 799)
    assert np.array_equal(is_colour(image, OUTLINE), outside & ~inside)


def test_large_pictures_have_an_outline_of_three_pixels():
    image = picture(rectangle((700, 1600), 100, 300, 200, 400))
    assert image.size == (1600, 700 + CAPTION_PX)
    assert np.flatnonzero(is_colour(image, OUTLINE)[200, :300]).tolist() == [198, 199, 200]
    assert np.flatnonzero(is_colour(image, OUTLINE)[200:, 300]).tolist() == [99, 100, 101]


def test_holes_and_borders_of_the_picture_are_outlined():
    mask = np.ones((40, 300), bool)
    mask[10:20, 10:20] = False
    outline = is_colour(picture(mask), OUTLINE)
    assert outline[0].all()
    assert outline[:, 0].all()
    assert outline[60, 39]
    assert not outline[60, 50]


def test_the_grid_runs_through_the_rounded_borders_of_the_tiles():
    mask = np.zeros((250, 290), bool)
    tiles = [(1003, 2000), (1083, 2000), (1083, 2080)]  # 10 pixels of the thumbnail, 40 of the picture
    image = picture(mask, tiles, origin_px=(1000, 1960), level=255)
    lines = (pixels(image) != 255).any(2)  # nothing else is drawn, and white fades to white
    expected = np.zeros((1000, 1160), bool)
    for left, top in ((2, 20), (42, 20), (42, 60)):  # floor(4 * 3 / 8 + 0.5) = 2
        expected[top : top + 41, [left, left + 40]] = True
        expected[[top, top + 40], left : left + 41] = True
    assert np.array_equal(lines, expected)
    assert len(np.unique(pixels(image)[lines], axis=0)) == 1  # a shared line is drawn once


def test_lines_stay_in_the_picture_at_its_far_borders():
    image = picture(np.zeros((30, 300), bool), [(2320, 160)], level=255)
    lines = (pixels(image) != 255).any(2)
    rows, columns = np.nonzero(lines)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (80, 119, 1160, 1199)


def test_what_no_tile_covers_is_faded():
    covered = rectangle((400, 1200), 40, 80, 40, 80)
    for level, faded in ((100, 170), (40, 22)):  # towards white and, of a dark slide, towards black
        shown = pixels(picture(np.zeros((100, 300), bool), [(80, 80)], level=level))[..., 0]
        assert (shown[42:79, 42:79] == level).all()
        assert (shown[~covered & ~rectangle(covered.shape, 40, 81, 40, 81)] == faded).all()


def test_dark_slides_get_bright_lines():
    mask = rectangle((100, 300), 20, 80, 20, 80)
    assert is_colour(picture(mask, level=30), DARK_OUTLINE).any()
    assert not is_colour(picture(mask, level=30), OUTLINE).any()
    # Stained tissue in a black frame is judged by the tissue.
    thumbnail = np.zeros((100, 300, 3), np.uint8)
    thumbnail[mask] = 180
    framed = qc_picture(
        thumbnail, mask, np.zeros((0, 2), np.int32), tile_l0_px=80, scale=1 / 8, origin_px=(0, 0), title="", mpp=8.0
    )
    assert is_colour(framed, OUTLINE).any()


def test_tiles_too_small_for_lines_get_one_border_around_all():
    tiles = [(x, y) for y in range(800, 1600, 8) for x in range(800, 2400, 8)]
    image = picture(np.zeros((100, 300), bool), tiles, level=255, tile_l0_px=8.0)
    lines = (pixels(image) != 255).any(2)
    assert not lines.any()  # they begin below the picture
    tiles = [(x, y - 480) for x, y in tiles]
    image = picture(np.zeros((100, 400), bool), tiles, level=255, tile_l0_px=8.0)
    lines = (pixels(image) != 255).any(2)
    expected = rectangle((400, 1600), 160, 400, 400, 1200) & ~rectangle((400, 1600), 161, 399, 401, 1199)
    assert np.array_equal(lines, expected)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2000, 3200), (1600, 1000)),
        ((3200, 100), (50, 1600)),
        ((700, 800), (1600, 1400)),
        ((701, 801), (801, 701)),
        ((5000, 1), (1, 1600)),
        ((1, 1), (4, 4)),
    ],
)
def test_pictures_are_bounded_and_enlarged_in_whole_pixels(shape, size):
    image = picture(np.ones(shape, bool))
    assert image.height == size[1] + CAPTION_PX
    assert image.width == max(640, size[0])
    assert max(size) <= LONG_SIDE_PX
    left = (image.width - size[0]) // 2
    middle = pixels(image)[:, left : left + size[0]]
    assert (middle[0] == OUTLINE).all()  # the picture is where it should be
    assert (pixels(image)[:, :left] == 250).all()


def test_long_thumbnails_keep_their_geometry():
    mask = rectangle((1000, 3200), 500, 700, 1000, 1200)
    image = picture(mask, [(8000, 4000)], tile_l0_px=800.0)
    outline = is_colour(image, OUTLINE)
    assert np.flatnonzero(outline[300]).tolist() == [498, 499, 500, 599, 600, 601]


def test_the_caption_says_what_was_found_and_how_long_a_millimetre_is():
    mask = np.zeros((300, 400), bool)
    one, other = picture(mask, mpp=8.0), picture(mask, [(0, 0)], mpp=8.0)
    captions = [np.asarray(image)[-CAPTION_PX:] for image in (one, other)]
    assert not np.array_equal(*captions)
    # At 2 microns per pixel of the picture, 200 microns are the longest of 1, 2, 5, 10 ... within 120 px.
    bar = (captions[0][40] == 250).all(1)
    assert np.flatnonzero(bar).tolist() == list(range(1600 - 16 - 100, 1600 - 16))


@pytest.mark.parametrize("title", ["", "W" * 500, "é漢\n\tµ" * 80, "TCGA-05-4244-01Z-00-DX1 " * 20])
def test_titles_stay_left_of_the_scale_bar(title):
    strip = np.asarray(picture(np.zeros((50, 60), bool), title=title))[-CAPTION_PX:]
    text = (strip != (28, 30, 36)).any(2)
    assert not text[:, 640 - 16 - 120 - 20 : 640 - 16 - 120].any()
    assert not text[:, :15].any()
    assert not text[[0, -1]].any()


def test_pictures_do_not_change_from_one_time_to_the_next():
    mask = np.random.default_rng(0).random((120, 90)) < 0.5
    first, second = (picture(mask, [(80, 80)]) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    cells = [SheetItem("a", "1 tile", first), SheetItem("b", "no such file")]
    sheets = [next(contact_sheets(cells)).tobytes() for _ in range(2)]
    assert sheets[0] == sheets[1]


# Contact sheets


def cell_of(sheet, column, row):
    left, top = 12 + column * 252, 12 + row * 294
    return np.asarray(sheet)[top : top + 240, left : left + 240]


def label_of(sheet, column, row):
    left, top = 12 + column * 252, 12 + row * 294
    return np.asarray(sheet)[top + 240 : top + 282, left : left + 240]


def test_cells_are_filled_row_by_row(tmp_path):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]
    cells = []
    for i, colour in enumerate(colours):
        image = Image.new("RGB", (1000, 500 + CAPTION_PX), colour)
        image.paste((0, 0, 0), (0, 500, 1000, 500 + CAPTION_PX))
        image.save(tmp_path / f"{i}.png")
        cells.append(SheetItem(f"slide {i}", "3 tiles", tmp_path / f"{i}.png" if i % 2 else image))
    (sheet,) = contact_sheets(cells, columns=3)
    assert sheet.size == (12 + 3 * 252, 12 + 2 * 294)
    for i, colour in enumerate(colours):
        shown = cell_of(sheet, i % 3, i // 3)
        assert (shown[61:179, 1:-1] == colour).all()  # 240 x 120 in the middle, without the black caption
        assert (shown[2:59, 2:-2] == 255).all()
        assert (label_of(sheet, i % 3, i // 3) != 255).any()
    assert (cell_of(sheet, 1, 1) == 255).all()


def test_failed_slides_are_grey_with_a_reason(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "other.png").write_text("no picture")
    cells = [
        SheetItem("a", "the slide is truncated"),
        SheetItem("b", "the slide is truncated " * 40),
        SheetItem("c", "3 tiles", tmp_path / "empty.png"),
        SheetItem("d", "3 tiles", tmp_path / "other.png"),
        SheetItem("e", "3 tiles", tmp_path / "missing.png"),
        SheetItem("f"),
        SheetItem("g", "/data/" + "x" * 2000),
    ]
    (sheet,) = contact_sheets(cells)
    assert sheet.width == 12 + 7 * 252
    for i in range(len(cells)):
        shown = cell_of(sheet, i, 0)
        grey = (shown == (222, 223, 227)).all(2)
        assert grey[:14].all()
        assert grey[-14:].all()
        assert grey[:, :14].all()
        assert grey[:, -14:].all()
        assert 0.005 < 1 - grey.mean() < 0.5  # some text


def test_labels_stay_below_their_cell():
    cells = [SheetItem("W" * 300, "i" * 3000, Image.new("RGB", (640, 400))) for _ in range(3)]
    (sheet,) = contact_sheets(cells, columns=2)
    values = np.asarray(sheet)
    assert (values[:, 252:264] == 255).all()
    assert (values[294 : 294 + 12] == 255).all()
    assert (values[-12:] == 255).all()


def test_large_cohorts_get_several_sheets_of_equal_width():
    cells = [SheetItem(f"slide {i}", "failed") for i in range(2 * SHEET_SLIDES + 3)]
    sizes = [sheet.size for sheet in contact_sheets(cells)]
    assert sizes == [(2532, 12 + 12 * 294)] * 2 + [(2532, 12 + 294)]
    assert max(sizes[0]) < 4000


def test_no_slides_make_an_empty_sheet():
    (sheet,) = contact_sheets([])
    assert (np.asarray(sheet) == 255).all()


# Text

TEXT = st.text(st.characters(codec="utf-8"), max_size=120)


@given(TEXT, st.integers(30, 400))
def test_fitted_text_fits(text, width):
    fitted = fit_text(text, SHORT, width)
    assert SHORT.getlength(fitted) <= width
    assert fit_text(fitted.replace("…", "..."), SHORT, 10_000) == fitted.replace("…", "...")  # only letters it can draw


def test_long_text_keeps_its_beginning_and_end():
    name = "TCGA-05-4244-01Z-00-DX1.d4ff32cd-38cf-40ea-8213-45c2b100ac01"
    fitted = fit_text(name, SHORT, 240)
    begin, end = fitted.split("…")
    assert name.startswith(begin)
    assert name.endswith(end)
    assert min(len(begin), len(end)) > 8
    assert SHORT.getlength(fitted) > 220
    assert fit_text("short", SHORT, 240) == "short"
    assert fit_text("Müller\nµm 漢", SHORT, 240) == "Muller um ?"


@given(TEXT, st.integers(30, 400), st.integers(1, 6))
def test_wrapped_text_fits_and_loses_nothing_it_has_room_for(text, width, lines):
    wrapped = wrap_text(text, SHORT, width, lines=lines)
    assert len(wrapped) <= lines
    assert all(SHORT.getlength(line) <= width for line in wrapped)
    whole = wrap_text(text, SHORT, width, lines=10_000)
    assert "".join(whole).replace(" ", "") == fit_text(text, SHORT, 1e6).replace(" ", "")
    assert wrapped[: lines - 1] == whole[: lines - 1]


@pytest.mark.parametrize("mpp", [1.0, 8.0, 37.0, 400.0])
def test_the_scale_bar_and_its_label_end_before_the_picture_does(mpp):
    for shape in ((40, 60), (300, 700)):
        caption = np.asarray(picture(rectangle(shape, 5, 30, 5, 50), mpp=mpp))[-CAPTION_PX:].astype(int)
        width = caption.shape[1]
        drawn = np.flatnonzero((caption[18:44] > 150).all(2).any(0))
        scale = drawn[drawn > width - 160]
        assert 60 < np.ptp(scale) < 140
        assert width - 20 < scale.max() < width - 15
        bar = np.flatnonzero((caption[38:42] == 250).all(2).all(0))
        label = np.flatnonzero((caption[18:32, width - 160 :] > 150).all(2).any(0)) + width - 160
        assert abs((bar.min() + bar.max()) - (label.min() + label.max())) <= 6  # one above the other


def test_what_was_wrong_and_what_to_do_are_sentences_of_their_own(monkeypatch):
    written = []
    draw = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda s, at, text, **k: (written.append(text), draw(s, at, text, **k))
    )
    list(contact_sheets([SheetItem("slide", "expected 0.08 to 5\nGive the right value.")]))
    assert written[:2] == ["expected 0.08 to 5", "Give the right value."]


def test_a_narrow_slide_fills_its_place_on_a_sheet():
    narrow = picture(rectangle((60, 40), 5, 55, 5, 35), level=120)
    assert narrow.width == 640
    (sheet,) = contact_sheets([SheetItem("slide", "1 tiles", narrow)])
    inside = np.asarray(sheet)[14:250, 14:250].astype(int)
    tissue = (abs(inside - 181) < 6).all(2)  # faded: no tile covers it
    rows, columns = np.flatnonzero(tissue.any(1)), np.flatnonzero(tissue.any(0))
    assert np.ptp(rows) > 180
    assert np.ptp(columns) > 100
