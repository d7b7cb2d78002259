import shutil

import numpy as np

from gigacli.errors import SlideError
from gigacli.wsi.slide import Slide


def test_a_corrupt_region_of_a_real_slide_costs_that_region_only(slides, tmp_path):
    path = tmp_path / "corrupt.svs"
    content = bytearray((slides / "CMU-1-Small-Region.svs").read_bytes())
    start = len(content) // 3
    content[start : start + 20_000] = b"\xff" * 20_000
    path.write_bytes(content)
    good = bad = 0
    with Slide(path, mpp=0.499) as slide:
        for y in range(0, 2600, 256):
            for x in range(0, 1900, 256):
                try:
                    slide.read(x, y, tile_px=100, mpp=1.0)
                    good += 1
                except SlideError:
                    bad += 1
    assert 0 < bad < 10
    assert good > 70


def test_formats_of_the_same_slide_agree(slides, tmp_path):
    (dicom,) = sorted((slides / "dicom").iterdir())[:1]
    shutil.copy(slides / "CMU-1-Small-Region.svs", tmp_path / "copy.svs")
    with Slide(tmp_path / "copy.svs", mpp=0.499) as svs, Slide(dicom, mpp=0.499) as dcm:
        assert (svs.vendor, dcm.vendor) == ("aperio", "dicom")
        assert svs.size_px == dcm.size_px == (2220, 2967)
        a, b = (slide.read(700, 900, tile_px=256, mpp=1.0).astype(int) for slide in (svs, dcm))
        assert np.abs(a - b).mean() < 3
        with Slide(slides / "CMU-1-Small-Region.pyramid.tif", mpp=0.499) as tif:
            assert np.abs(tif.thumbnail(8.0).astype(int) - dcm.thumbnail(8.0)).mean() < 3
