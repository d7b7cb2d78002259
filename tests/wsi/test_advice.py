"""What a file that is no slide is answered with: another copy, or the commands that convert it."""

import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from gigacli.errors import SlideError
from gigacli.wsi.slide import Slide
from gigacli.wsi.tiff import description_of

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
VIPS = "vips tiffsave {0} {1}-pyramid.tif --tile --pyramid"


def refused(path):
    with pytest.raises(SlideError) as caught:
        Slide(path)
    return caught.value.hint


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.gif", "a.webp"])
def test_images_are_to_be_converted(tmp_path, name):
    Image.fromarray(PIXELS).save(tmp_path / name)
    hint = refused(tmp_path / name)
    assert VIPS.format(name, "a") in hint
    assert "image and no slide" in hint
    assert "--slide-mpp" in hint
    assert "Copy the file again" not in hint


@pytest.mark.parametrize(
    ("description", "kind"),
    [
        ('<?xml version="1.0"?><OME xmlns="x"></OME>', "an OME-TIFF"),
        ("<PerkinElmer-QPI-ImageDescription></PerkinElmer-QPI-ImageDescription>", "a QPTIFF"),
        ("made by hand", "a TIFF"),
        ("", "a TIFF"),
    ],
)
def test_tiffs_of_other_programs_are_to_be_converted(tmp_path, description, kind):
    path = tmp_path / "my slide.tif"
    Image.fromarray(PIXELS).save(path, description=description)
    assert (description_of(path) or "").rstrip("\0") == description
    hint = refused(path)
    assert hint.startswith(f"It is {kind} whose images OpenSlide does not read")
    assert VIPS.format("'my slide.tif'", "'my slide").replace("-pyramid.tif", "-pyramid.tif'") in hint


def test_an_unsupported_compression_is_to_be_converted(tmp_path):
    """A tiled TIFF whose directory names LZMA."""
    tags = [(256, 3, 16), (257, 3, 16), (258, 3, 8), (259, 3, 34925), (262, 3, 1), (277, 3, 1)]
    tags += [(322, 3, 16), (323, 3, 16), (324, 4, 8), (325, 4, 1)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", t, form, 1, v) for t, form, v in tags)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + directory + bytes(64))
    assert VIPS.format("a.tif", "a") in refused(tmp_path / "a.tif")


def test_dicom_of_another_colour_model_is_to_be_converted(tmp_path, slides):
    shutil.copytree(slides / "dicom", tmp_path / "dicom")
    for file in (tmp_path / "dicom").glob("*.dcm"):
        data = file.read_bytes()
        assert b"YBR_FULL_422" in data
        file.write_bytes(data.replace(b"YBR_FULL_422", b"MONOCHROME2 "))
    hint = refused(file)
    assert f"bfconvert -series 0 -bigtiff {file.name} {file.stem}-flat.tif && vips tiffsave {file.stem}-flat" in hint


@pytest.mark.parametrize("data", [b"", b"not a slide", b"II*\0\x08\0\0\0", b"II*\0\xff\xff\0\0", bytes(200)])
def test_what_is_cut_short_is_to_be_copied_again(tmp_path, data):
    (tmp_path / "a.svs").write_bytes(data)
    assert "copy the file again" in refused(tmp_path / "a.svs")
    assert description_of(tmp_path / "a.svs") is None
