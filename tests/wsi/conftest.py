from pathlib import Path

import numpy as np
import pytest
import tifffile


@pytest.fixture
def write_tiff(tmp_path):
    """Write an uncompressed tiled TIFF that OpenSlide opens as generic-tiff; further images are coarser levels."""

    def write(*levels: np.ndarray, mpp: float = 0.25, name: str = "slide.tif") -> Path:
        path = tmp_path / name
        resolution = (10_000 / mpp, 10_000 / mpp)
        with tifffile.TiffWriter(path) as tiff:
            for i, image in enumerate(levels):
                tiff.write(
                    image,
                    tile=(64, 64),
                    photometric="rgb",
                    resolution=resolution,
                    resolutionunit="CENTIMETER",
                    subfiletype=int(i > 0),
                )
        return path

    return write
