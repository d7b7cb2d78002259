import numpy as np
import pytest
import tifffile

from gigacli.wsi.tiff import lacking_tiles

IMAGE = np.zeros((300, 420, 3), np.uint8)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("page", [0, 1])
def test_an_image_with_fewer_tiles_than_its_size_needs(tmp_path, order, big, page):
    path = tmp_path / "lies.tif"
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as tiff:
        tiff.write(IMAGE, tile=(64, 64), photometric="rgb")
        tiff.write(IMAGE, tile=(64, 64), photometric="rgb")
        tiff.write(IMAGE, photometric="rgb")  # in strips
    assert lacking_tiles(path) == ""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[page].tags["ImageLength"].overwrite(900)
    assert lacking_tiles(path) == "an image of 420 x 900 px, which is 105 tiles, has 35"


def test_tiles_that_no_memory_holds(tmp_path):
    """OpenSlide would end the program."""
    path = tmp_path / "giant.tif"
    tifffile.imwrite(path, IMAGE, tile=(64, 64), photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["TileWidth"].overwrite(60000)
        tiff.pages[0].tags["TileLength"].overwrite(60000)
    assert lacking_tiles(path) == "an image of 420 x 300 px has tiles of 60000 x 60000 px"


def test_directories_in_a_circle_end(tmp_path):
    path = tmp_path / "loop.tif"
    tifffile.imwrite(path, IMAGE, tile=(64, 64), photometric="rgb")
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[4:8], "little")
    after = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    data[after : after + 4] = start.to_bytes(4, "little")
    path.write_bytes(data)
    assert lacking_tiles(path) == ""


@pytest.mark.parametrize(
    "content", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\x7f", b"MM\0+" + b"\0" * 12, b"DICM" * 9]
)
def test_what_is_no_tiff_lacks_nothing(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert lacking_tiles(path) == ""
